"""Pictures of a model whose VAE is a causal 3-D one, as Forge Neo runs Wan, Qwen-Image and Anima.

The host's module stays as it is. A latent of one frame is computed beside it by the 2-D network that a causal 3-D one
is on a first frame (`codec.kinds.causal3d`), with the weights of the file that was chosen; latents of several frames
are a video, and go through the host's own module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vae_manager.codec import coder
from vae_manager.codec.cache import StateCache
from vae_manager.codec.coder import Watch
from vae_manager.codec.kinds.causal3d import KIND, picture_shape, picture_tensor
from vae_manager.codec.kinds.causal3d.config import CausalConfig, read_config
from vae_manager.codec.kinds.causal3d.names import canonical, is_causal
from vae_manager.codec.kinds.network import Autoencoder
from vae_manager.codec.wrapped import framed, is_video, one_picture
from vae_manager.errors import VaeFileError
from vae_manager.library.files import VaeFile
from vae_manager.library.layouts import detect_layout
from vae_manager.library.state import load_state
from vae_manager.library.tensors import open_tensors

Way = Callable[[Tensor], Tensor]

NO_EDGES = "Reflected edges were not used: video VAEs and tiny ones have none of their own that were trained so."

_CONFIGS: WeakKeyDictionary[nn.Module, CausalConfig | None] = WeakKeyDictionary()


def causal_config(module: nn.Module) -> CausalConfig | None:
    """The shape of a host's first stage that is a causal 3-D autoencoder, or the 2-D network of one; None: it is none
    of those whose single pictures are computed here."""
    if module not in _CONFIGS:
        names = {name: name for name, _ in module.named_parameters()}
        _CONFIGS[module] = _read(module) if is_causal(names) else None
    return _CONFIGS[module]


def _read(module: nn.Module) -> CausalConfig | None:
    own = dict(module.named_parameters())
    try:
        return read_config({to: picture_shape(to, tuple(own[name].shape)) for to, name in canonical(own).items()})
    except VaeFileError:
        return None


class Frames:
    """Networks for single pictures. The one that was used last is kept ready."""

    def __init__(self, cache: StateCache) -> None:
        self._cache = cache
        self._held: tuple[Any, Autoencoder] | None = None

    def check(self, file: VaeFile, module: nn.Module) -> None:
        """Load a file's tensors for this module.

        Raises:
            VaeFileError: it cannot be loaded, or computes something else than the module does.
        """
        self._state(file, module)

    def of(self, file: VaeFile | None, module: nn.Module) -> Autoencoder:
        """The network with the weights of a file, where the module is and in its precision; None: with its own.

        Raises:
            VaeFileError: as `check`.
        """
        weight = next(module.parameters())
        if file is None:
            return KIND.build(_own_state(module), 0)
        key = (file.version, weight.dtype, weight.device)
        if self._held is None or self._held[0] != key:
            self._held = None  # before the next one is built
            network = KIND.build(self._state(file, module), 0)
            self._held = key, network if weight.device.type == "cpu" else network.to(weight.device)
        return self._held[1]

    def rest(self) -> None:
        """No job needs the network any more."""
        self._held = None

    def _state(self, file: VaeFile, module: nn.Module) -> Mapping[str, Tensor]:
        dtype = next(module.parameters()).dtype

        def load() -> Mapping[str, Tensor]:
            kind = detect_layout(open_tensors(file.path).header).kind
            if kind is not KIND:
                raise VaeFileError(f"it is {kind.an}, and the model that is loaded has {KIND.an}")
            with torch.inference_mode(False):
                return load_state(file, dtype).tensors

        state = self._cache.get(("frame", file.version, dtype), load)
        _check_fits(read_config({name: tuple(tensor.shape) for name, tensor in state.items()}), module)
        return state


def _check_fits(config: CausalConfig, module: nn.Module) -> None:
    own = causal_config(module)
    assert own is not None
    for what, theirs, ours in (
        ("latent channels", config.latent_channels, own.latent_channels),
        ("picture channels", config.image_channels, own.image_channels),
        ("pixels for each latent pixel", config.ratio * config.enlarges, own.ratio * own.enlarges),
    ):
        if theirs != ours:
            raise VaeFileError(f"it has {theirs} {what}, where the model that is loaded needs {ours}")


def _own_state(module: nn.Module) -> dict[str, Tensor]:
    own = {name: tensor.detach() for name, tensor in module.named_parameters()}
    with torch.inference_mode(False), torch.no_grad():
        # copies: a kernel's last tap is no whole tensor of its own
        return {to: picture_tensor(to, own[name]).clone() for to, name in canonical(own).items()}


def beside(
    network: Autoencoder, decodes: bool, inner: Way, mode: str, weights: Any, watch: Watch
) -> Callable[[Tensor], Tensor]:
    """A way for pictures through a network of ours, where the host's own has frames.

    Args:
        inner: the host's own way, which videos take.
        mode: how to decode: 'host' and 'whole' in one piece.
        weights: which weights are in it, to remember what overflowed.
    """
    whole = network.decode if decodes else network.encode_moments

    def run(x: Tensor) -> Tensor:
        if is_video(x):
            watch.warn("A video of several frames is made with the WebUI's own VAE.")
            return inner(x)
        with torch.no_grad():
            picture = one_picture(x)
            plain = mode in ("host", "whole")
            found = whole(picture) if plain else coder.run(whole, network, picture, decodes, mode, weights, watch)
        found = found if decodes else found.chunk(2, dim=1)[0]  # the host takes the mean
        return framed(found, x)

    return run
