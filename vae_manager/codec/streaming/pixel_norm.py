"""Norms of each pixel's own channels, x / ‖x‖ · gain: they need no statistics of the picture.

Computed in float32 at least: in half precision the length of a pixel of large numbers would overflow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vae_manager.codec.streaming.strips import Write

LEAST = 1e-12
"""Least length by which a pixel is divided (`torch.nn.functional.normalize`)."""


def live_gain(norm: Any, like: Tensor) -> Tensor:
    """The norm's gain (C,) on the device of `like`, in float32 or float64."""
    gain = norm.gain.detach()
    return gain.to(like.device, torch.float64 if like.dtype == torch.float64 else torch.float32)


def pixel_normalised(gain: Tensor, x: Tensor) -> Tensor:
    """The normalised pixels (…, C), in the dtype of `x`."""
    out = x.to(gain.dtype, copy=True)
    _normalise(x, out, gain)
    return out.to(x.dtype)


def pixel_normed(gain: Tensor, activate: Callable[[Tensor], Tensor]) -> Write:
    """activate(x / ‖x‖ · gain), the input of a convolution, written where it is needed.

    Args:
        activate: in place.
    """

    def write(x: Tensor, out: Tensor) -> None:
        if x.dtype == gain.dtype:
            out.copy_(x)
            _normalise(x, out, gain)
            activate(out)
        else:  # half precision: rounded once, after the activation
            wide = x.to(gain.dtype)
            _normalise(x, wide, gain)
            out.copy_(activate(wide))

    return write


def _normalise(x: Tensor, out: Tensor, gain: Tensor) -> None:
    """`out` holds x; divide and multiply it in place."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=gain.dtype)
    out.div_(length.clamp_min_(LEAST)).mul_(gain)
