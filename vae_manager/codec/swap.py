"""Put another VAE's weights into a module that stays where it is, and take them out again.

A WebUI builds its first stage once, hooks it, patches its padding, tracks its memory. Replacing the module
would have to repeat all of that on every host; reloading its weights copies hundreds of megabytes. Instead the
module keeps its identity and only its `Parameter` objects change places: the host's own are set aside
untouched, so putting them back restores the host's VAE bit for bit, in about a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vae_manager.codec.kinds.kl.config import KL_ROOTS
from vae_manager.codec.kinds.shapes import Padding
from vae_manager.codec.padding import Padded, restore_padding, set_padding
from vae_manager.errors import VaeFileError

STATISTICS = ("bn.running_mean", "bn.running_var")
"""Buffers that belong to a VAE like its weights: what FLUX.2's latents are normalised by. Most kinds have none."""


@dataclass(frozen=True)
class Installed:
    """A module with foreign weights in it, and the module's own."""

    module: nn.Module
    own: Mapping[str, nn.Parameter]
    foreign: Mapping[str, nn.Parameter]
    state: Mapping[str, Tensor]
    """What `foreign` was made of, to tell whether somebody has written into it since."""
    versions: Mapping[str, int]
    padding: Padding | None = None
    """Of the foreign VAE, where it is known."""
    padded: Padded = ()
    """The module's convolutions that pad otherwise by themselves."""
    statistics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """The module's own buffers, and what stands in their places."""


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a first stage that make up its VAE, by ldm name (a trainer's loss is left out)."""
    return {name: parameter for name, parameter in module.named_parameters() if name.startswith(KL_ROOTS)}


def check_fits(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise VaeFileError, with the reason, unless these tensors can take the places of the module's own."""
    own = {name: tuple(parameter.shape) for name, parameter in own_parameters(module).items()}
    if not own:
        raise VaeFileError("the model that is loaded has a VAE of another build, into which no file can be put")
    channels = _latent_channels(shapes)
    if channels != _latent_channels(own):
        raise VaeFileError(
            f"its latents have {channels} channels, those of the model that is loaded have {_latent_channels(own)}"
        )
    for name, shape in own.items():
        if name not in shapes:
            raise VaeFileError(f"the model that is loaded needs the tensor {name!r}, which the file does not have")
        if tuple(shapes[name]) != shape:
            theirs = list(shapes[name])
            raise VaeFileError(f"its tensor {name!r} is {theirs}, where the model that is loaded needs {list(shape)}")
    extra = sorted(set(shapes) - set(own) - set(STATISTICS))
    if extra:
        raise VaeFileError(f"it has the tensor {extra[0]!r}, for which the model that is loaded has no place")


def install(module: nn.Module, state: Mapping[str, Tensor], padding: Padding | None = None) -> Installed:
    """Put the tensors in place of the module's own, on their device and in their precision.

    Tensors that already have that precision and device are used as they are, without a copy. Where `padding` is known,
    the module pads so until `remove`; a module that pads circularly goes on to.

    Raises:
        VaeFileError: they do not fit; the module is untouched.
    """
    check_fits(module, {name: tuple(tensor.shape) for name, tensor in state.items()})
    own = own_parameters(module)
    foreign = {name: _like(state[name], parameter) for name, parameter in own.items()}
    _assign(module, foreign)
    versions = {name: parameter._version for name, parameter in foreign.items()}
    padded = set_padding(module, padding) if padding else ()
    return Installed(module, own, foreign, state, versions, padding, padded, _exchange_statistics(module, state))


def remove(installed: Installed) -> None:
    """Put the module's own parameters back: the very same objects, unless the module has moved meanwhile.

    Where the host has moved the module to another device or precision since, its own weights follow.
    """
    current = own_parameters(installed.module)
    back = {}
    for name, own in installed.own.items():
        there = current.get(name)
        if there is None:
            continue  # the host has taken the module apart: it belongs to a model that is being unloaded
        if there is not installed.foreign[name] and there is not own:
            continue  # the host has put something new here itself: that is what it wants
        moved = there.device != own.device or there.dtype != own.dtype
        back[name] = _like(own, there) if moved and there.device.type != "meta" else own
    _assign(installed.module, back)
    for name, (own, foreign) in installed.statistics.items():
        buffers, leaf = _buffers(installed.module, name)
        if buffers.get(leaf) is foreign:
            buffers[leaf] = own
        elif (there := buffers.get(leaf)) is not None and there is not own:
            buffers[leaf] = own.to(there.device, there.dtype)  # the host has moved the module since
    if installed.padding:
        restore_padding(installed.padded, installed.padding)


def in_place(installed: Installed, module: nn.Module) -> bool:
    """Whether the foreign weights are still what this module computes with."""
    if installed.module is not module:
        return False
    current = own_parameters(module)
    return all(current.get(name) is parameter for name, parameter in installed.foreign.items())


def was_written(installed: Installed) -> bool:
    """Whether somebody has changed the foreign weights in place, so that their source must be read anew."""
    return any(parameter._version != installed.versions[name] for name, parameter in installed.foreign.items())


def same_weights(module: nn.Module, fetch: Callable[[str], Tensor | None]) -> bool:
    """Whether the module holds the weights that `fetch` gives by ldm name (None: there is no such tensor).

    Compared are the tensors at both ends of encoder and decoder, in the module's precision: any training or
    merging changes those. Reading all of them would take as long as loading the file.
    """
    own = own_parameters(module)
    ends = ("encoder.conv_in.weight", "encoder.conv_out.weight", "decoder.conv_in.weight", "decoder.conv_out.weight",
            "decoder.conv_out.bias")  # fmt: skip
    return all(
        name in own and (theirs := fetch(name)) is not None and _equal(own[name].detach().cpu(), theirs)
        for name in ends
    )


def _equal(own: Tensor, theirs: Tensor) -> bool:
    return own.shape == theirs.shape and torch.equal(own, theirs.to(own.dtype))


def _like(tensor: Tensor, other: Tensor) -> nn.Parameter:
    # outside inference mode: inference tensors could not be moved or loaded into by the host later
    with torch.inference_mode(False), torch.no_grad():
        if tensor.is_inference():
            tensor = tensor.clone()
        return nn.Parameter(tensor.detach().to(device=other.device, dtype=other.dtype), requires_grad=False)


def _assign(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        parent, _, leaf = name.rpartition(".")
        # not setattr: it would look the class up for each of some 250 tensors, and hosts hook it
        module.get_submodule(parent)._parameters[leaf] = parameter  # pyright: ignore[reportPrivateUsage]


def _exchange_statistics(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    exchanged = {}
    for name in STATISTICS:
        buffers, leaf = _buffers(module, name)
        own = buffers.get(leaf)
        if own is not None and name in state and state[name].shape == own.shape:
            buffers[leaf] = state[name].to(own.device, own.dtype, copy=True)
            exchanged[name] = own, buffers[leaf]
    return exchanged


def _buffers(module: nn.Module, name: str) -> tuple[dict[str, Tensor | None], str]:
    """Where a buffer stands, by its path; an empty place where the module has none such."""
    parent, _, leaf = name.rpartition(".")
    found = getattr(module, parent, None)
    return (found._buffers, leaf) if isinstance(found, nn.Module) else ({}, leaf)  # pyright: ignore[reportPrivateUsage]


def _latent_channels(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    for name, axis in (("post_quant_conv.weight", 1), ("decoder.conv_in.weight", 1)):
        if name in shapes:
            return shapes[name][axis]
    return None
