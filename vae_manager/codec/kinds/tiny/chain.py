"""Read the layers of the tiny autoencoders of the TAESD family, ours (`kinds.tiny`) and diffusers' `AutoencoderTiny`.

They have no attention, and no norm but FLUX.2's in the lowest resolution, so that one pass of line buffers goes from
the latent to the pixels, or back, with no map in between: the mode that is D of the big autoencoders. Where a
GroupNorm needs the statistics of its whole input, the map before it is kept: 64 numbers per latent pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vae_manager.codec.kinds.tiny.network import LATENT_MAGNITUDE, NO_NOISE
from vae_manager.codec.streaming.chain import Chain, Stage, check_complete, check_conv
from vae_manager.codec.streaming.steps import Convolve
from vae_manager.errors import VaeFileError


def is_tiny(vae: nn.Module, decodes: bool) -> bool:
    """Whether that half of `vae` is a plain list of layers, as only tiny autoencoders are."""
    return _sequential(vae, decodes) is not None


def _sequential(vae: nn.Module, decodes: bool) -> Any:
    half = getattr(vae, "decoder" if decodes else "encoder", None)
    found = getattr(half, "layers", half)
    return found if isinstance(found, nn.Sequential) else None


def tiny_chain(vae: nn.Module, decodes: bool) -> Chain:
    """Describe that half of `vae`.

    Raises:
        VaeFileError: its structure is not understood.
    """
    modules = _sequential(vae, decodes)
    steps = _read(modules, decodes)
    return Chain(
        decodes,
        tuple(_stages(steps)),
        check_complete(modules, steps),
        enter=squashed if decodes else inside,
        leave=outside if decodes else without_noise,
        leaves_channels=None if decodes else 2 * steps[-1].c_out,
        modes=("D",),
        rescales=False,
    )


def squashed(z: Tensor) -> Tensor:
    return torch.tanh(z / LATENT_MAGNITUDE) * LATENT_MAGNITUDE


def inside(x: Tensor) -> Tensor:
    """Pixels in [0, 1] for those in [-1, 1]."""
    return (x + 1) / 2


def outside(x: Tensor) -> Tensor:
    return x * 2 - 1


def without_noise(z: Tensor) -> Tensor:
    """A latent with the log-variance that makes no noise."""
    return torch.cat([z, torch.full_like(z, NO_NOISE)], dim=-1)


def _stages(steps: list[Convolve]) -> list[Stage]:
    """The steps, cut before every pool: what enters it is kept, for it is read twice."""
    cuts = [i for i, step in enumerate(steps) if i and step.opens and i + 1 < len(steps) and steps[i + 1].norm]
    return [Stage(tuple(steps[a:b])) for a, b in zip([0, *cuts], [*cuts, len(steps)])]


def _read(modules: Any, decodes: bool) -> list[Convolve]:
    steps: list[Convolve] = []
    rest: Iterator[Any] = iter(modules)
    for module in rest:
        if isinstance(module, nn.Conv2d):
            steps.append(_conv(module))
        elif isinstance(module, nn.ReLU) and steps and not steps[-1].closes:
            steps[-1] = replace(steps[-1], relu=True)
        elif isinstance(module, nn.Upsample) and (module.scale_factor, module.mode) == (2.0, "nearest"):
            if steps:
                steps[-1] = replace(steps[-1], recuts=True)
            steps.append(Convolve(_checked(next(rest, None)), resample="up"))
        elif hasattr(module, "conv") and hasattr(module, "fuse"):
            steps += _block(module)
        elif not (decodes and not steps and type(module).__name__ == "Clamp"):  # of the latent: always there
            raise VaeFileError(
                f"its layer {type(module).__name__!r} is none of a tiny VAE's: not supported by streaming"
            )
    if not steps or steps[-1].closes:
        raise VaeFileError("it has no last convolution: not a tiny VAE")
    return steps


def _conv(module: Any) -> Convolve:
    return Convolve(_checked(module), resample="down" if module.stride == (2, 2) else "none")


def _block(module: Any) -> list[Convolve]:
    """relu(x + conv(relu(conv(relu(conv(x)))))), the pool before it where there is one."""
    convs = [_checked(conv) for conv in module.conv[::2]]
    if not all(isinstance(layer, nn.ReLU) for layer in (*module.conv[1::2], module.fuse)):
        raise VaeFileError("its blocks have another activation than ReLU: not supported by streaming")
    if not isinstance(getattr(module, "skip", nn.Identity()), nn.Identity):
        raise VaeFileError("its blocks change their width: not supported by streaming")
    if len(convs) < 2 or any(conv.stride != (1, 1) for conv in convs):
        raise VaeFileError("its blocks are not made of two or more plain convolutions: not supported by streaming")
    inner = [Convolve(conv, activation="relu") for conv in convs[1:-1]]
    closing = Convolve(convs[-1], activation="relu", closes=True, relu=True)
    return [*_pool(module), Convolve(convs[0], opens=True), *inner, closing]


def _pool(module: Any) -> list[Convolve]:
    """x + out(relu(norm(widen(x)))), both 1×1 convolutions; the norm is over the whole picture."""
    if not hasattr(module, "pool"):
        return []
    widen, norm, relu, out = module.pool
    if not (isinstance(norm, nn.GroupNorm) and isinstance(relu, nn.ReLU)):
        raise VaeFileError("its blocks have a pool that is not GroupNorm and ReLU: not supported by streaming")
    return [Convolve(_checked(widen, 1), opens=True), Convolve(_checked(out, 1), norm, "relu", closes=True)]


def _checked(conv: Any, kernel: int = 3) -> Any:
    if not isinstance(conv, nn.Conv2d):
        raise VaeFileError("it has an upsampling without a convolution: not supported by streaming")
    return check_conv(conv, kernel, 2 if conv.stride == (2, 2) and kernel == 3 else 1)
