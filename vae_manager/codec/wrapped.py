"""An autoencoder of another program, whose decoder and encoder are streamed where that is needed.

The module stays as it is: only the `forward` of its two halves are wrapped, on the instance, and only between
`streaming(True)` and `streaming(False)` they do anything. Causal 3-D autoencoders (Wan, Qwen-Image) are run as the 2-D
networks that they are on single pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vae_manager.codec import coder
from vae_manager.codec.hook import Hook
from vae_manager.codec.kinds.causal3d import picture_tensor
from vae_manager.codec.kinds.causal3d.names import canonical, is_causal
from vae_manager.codec.kinds.causal3d.network import build_causal
from vae_manager.codec.kinds.registry import chain_of

R = TypeVar("R")


class _Declined(Exception):
    """The program's own tiles have to do it."""


def is_video(x: Tensor) -> bool:
    """Whether a tensor of pictures, or of their latents, has several frames."""
    return x.ndim == 5 and x.shape[2] > 1


def one_picture(x: Tensor) -> Tensor:
    """(N, C, 1, H, W) without its frame; (N, C, H, W) as it is."""
    return x[:, :, 0] if x.ndim == 5 else x


def framed(picture: Tensor, like: Tensor) -> Tensor:
    """A picture with a frame where another tensor has one: the way back from `one_picture`."""
    return picture[:, :, None] if like.ndim == 5 else picture


class Wrapped:
    """The two halves of one autoencoder. Bound methods all of it, so that a deep copy of the module works too."""

    def __init__(self, vae: nn.Module, watch: coder.Watch, mode: str = "auto") -> None:
        """`mode`: 'auto', 'exact' or 'whole'.

        Raises:
            VaeFileError: it is of a kind that cannot be streamed; it is untouched.
        """
        self.vae, self.watch, self.mode = vae, watch, mode
        self.is_causal = is_causal({name: name for name, _ in vae.named_parameters()})
        self.streams = False
        """Whether runs are looked at; else all go the module's own way."""
        self._tell, self._warned, self._tiles = watch.warn, False, False
        watch.warn = self._warn
        chain_of(self._network(), True)  # what is not understood is refused here, not in the middle of a picture
        self._with_variance = chain_of(self._network(), False).leaves_channels
        """Channels of a tiny encoder's result, as streaming gives it: the latent and a log-variance, of which other
        programs know nothing."""
        self._hooks = [
            Hook(vae.get_submodule("decoder"), "forward", self._decoder),
            Hook(vae.get_submodule("encoder"), "forward", self._encoder),
        ]

    def remove(self) -> None:
        """Give both halves back as they were."""
        for hook in self._hooks:
            hook.remove()

    def takes(self, x: Tensor) -> bool:
        """Whether this is a batch of single pictures, or of their latents."""
        return (x.ndim == 4 or (x.ndim == 5 and self.is_causal)) and not is_video(x)

    def foreseen(self, shape: tuple[int, ...], device: torch.device, decodes: bool) -> int | None:
        """What a run will add to the device's memory; see `coder.foreseen`. `shape` is the halves' input's."""
        if len(shape) == 5 and shape[2] != 1:
            return None
        flat = (*shape[:2], *shape[3:]) if len(shape) == 5 else shape
        return coder.foreseen(self._half(decodes), flat, device, decodes, self.mode, self.watch)

    def run(self, call: Callable[[], R], tiles: Callable[[], R] | None) -> R:
        """Do what the program was asked for, streamed where that is needed.

        Args:
            call: the program's function, which ends in one of the halves.
            tiles: where the program was asked for tiles, its function that cuts into them: for what cannot be streamed.
        """
        self.streams, self._warned, self._tiles = True, False, tiles is not None
        try:
            return call()
        except _Declined:
            assert tiles is not None
        finally:
            self.streams = False
        return tiles()

    def _own(self, inner: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The module's own way, where a run is not streamed."""
        if self._warned and self._tiles:
            raise _Declined
        return inner(x, *args, **kwargs)

    def _warn(self, text: str) -> None:
        self._warned = True
        self._tell(text)

    def _decoder(self, inner: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._forward(True, inner, x, args, kwargs)

    def _encoder(self, inner: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._forward(False, inner, x, args, kwargs)

    def _forward(
        self, decodes: bool, inner: Callable[..., Tensor], x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """Around the `forward` of a half."""
        if (
            not self.streams
            or not self.takes(x)
            or (torch.is_grad_enabled() and (x.requires_grad or self.vae.training))
        ):
            return inner(x, *args, **kwargs)  # whoever trains it needs what only its own way remembers
        if any(parameter.is_meta for parameter in self.vae.get_submodule(_name(decodes)).parameters()):
            self.watch.warn("The weights of this VAE come layer by layer, so that it cannot be streamed.")
            return self._own(inner, x, *args, **kwargs)

        def own(picture: Tensor) -> Tensor:
            return one_picture(self._own(inner, framed(picture, x), *args, **kwargs))

        half, picture = self._half(decodes), one_picture(x)
        found = coder.run(own, half, picture, decodes, self.mode, self.vae, self.watch).to(x.dtype)
        if not decodes and found.shape[1] == self._with_variance:
            found = found[:, : found.shape[1] // 2]
        return framed(found, x)

    def _half(self, decodes: bool) -> nn.Module:
        return self._network().get_submodule(_name(decodes))

    def _network(self) -> nn.Module:
        """What is streamed. A causal 3-D autoencoder as a 2-D one shares the weights, wherever they are now, so that it
        is made anew for each picture."""
        if not self.is_causal:
            return self.vae
        found = dict(self.vae.named_parameters())
        names = canonical(found)
        return build_causal({name: picture_tensor(name, found[own].detach()) for name, own in names.items()})


def _name(decodes: bool) -> str:
    return "decoder" if decodes else "encoder"
