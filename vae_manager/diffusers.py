"""Exact decoding and encoding in bounded memory for the autoencoders of the library diffusers.

    from vae_manager.diffusers import exact

    pipe.vae = exact(pipe.vae, memory="auto")     # or "2GiB", or a number of bytes
    pipe.vae.restore()                            # as it was

The autoencoder stays the same object, with its configuration, weights, precision, device and hooks: only functions of
the instance are wrapped. A picture that fits comfortably goes the library's own way; any other is streamed with the
whole decode's numbers. Where that is not possible the library's own way is taken, and a warning says why.

This module does not import diffusers: whatever it needs is in the autoencoder that it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from vae_manager.codec.coder import Watch
from vae_manager.codec.hook import Hook
from vae_manager.codec.memory import read_bytes
from vae_manager.codec.wrapped import Wrapped

log = logging.getLogger("vae_manager")

V = TypeVar("V", bound=nn.Module)


def exact(vae: V, memory: str | int = "auto") -> V:
    """Have an autoencoder decode and encode single pictures of any size exactly, within the memory that there is.

    Args:
        vae: diffusers' `AutoencoderKL`, `AutoencoderKLFlux2`, `AutoencoderTiny`; `AutoencoderKLQwenImage` and
            `AutoencoderKLWan` for single pictures (videos go the library's own way). Once more on the same one only
            changes `memory`.
        memory: what a run may take on its device: "auto" for what is free, or bytes as "2GiB" or a number.

    Returns:
        `vae` itself, whose `restore()` takes everything out again.

    Raises:
        VaeFileError: it is of a kind that cannot be streamed; it is untouched.
        BadInputError: `memory` is no amount.
    """
    limit = None if memory == "auto" else read_bytes(str(memory))
    restore(vae)
    vars(vae)["restore"] = _Held(vae, limit).restore
    return vae


def restore(vae: nn.Module) -> None:
    """Take out of an autoencoder what `exact` has put into it, if anything."""
    held = getattr(vars(vae).get("restore"), "__self__", None)
    if isinstance(held, _Held):
        held.restore()


class _Held(Wrapped):
    """What is wrapped in one autoencoder."""

    def __init__(self, vae: nn.Module, limit: int | None) -> None:
        super().__init__(vae, Watch(_never, _silent, log.warning, memory_limit=limit, own="diffusers' own way"))
        self._around = [Hook(vae, name, self._call) for name in ("decode", "encode")]

    def restore(self) -> None:
        """Give the autoencoder back as it was."""
        self.remove()
        for hook in self._around:
            hook.remove()
        vars(self.vae).pop("restore", None)

    def _call(self, inner: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around `decode` and `encode`: the library must not cut into tiles what is streamed."""
        if not self.takes(x):
            return inner(x, *args, **kwargs)  # a video
        vae: Any = self.vae

        def own() -> Any:
            return inner(x, *args, **kwargs)

        def in_one_piece() -> Any:
            vae.use_tiling = False
            try:
                return own()
            finally:
                vae.use_tiling = True

        return self.run(in_one_piece, own) if getattr(vae, "use_tiling", False) else self.run(own, None)


def _never() -> bool:
    return False


def _silent(line: str | None) -> None:
    pass
