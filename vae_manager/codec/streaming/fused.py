"""What a strip goes through on a GPU in one pass over memory where plain torch makes four: a norm with its activation,
and a map's moments.

The kernels are Triton's (`fused_kernels`), which comes with torch's builds for NVIDIA's and AMD's cards on Linux. Where
it is missing (Windows, a torch for the CPU), or does not come to torch's own numbers in a first trial, `fuses` says no
and every strip goes the plain way (`strips.normed`, `moments.strip_moments`, `pixel_norm.pixel_normed`).

**No GPU has run them.** Their numbers are those of Triton's interpreter (`tests/codec/test_fused.py`).
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from vae_manager.codec.streaming.strips import Write

log = logging.getLogger("vae_manager")

Activation = Literal["none", "silu", "relu"]

ACTIVATIONS: tuple[Activation, ...] = ("none", "silu", "relu")
"""In the order of the kernels' numbers."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What the kernels read and write; they compute in float32."""

NUMBERS = 4096
"""In the tile of one program of a kernel."""

PIECES = 256
"""Most pieces that a strip's moments are taken in, before they are merged."""

TRIAL = (5, 33, 48)
"""Rows, columns and channels of the strip that is tried first: no powers of two, so that every mask is at work."""


@cache
def fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """Do the kernels run there, and do they give what torch gives?"""
    if device.type != "cuda" or dtype not in DTYPES or not torch.cuda.is_available():
        return False
    try:
        right = tried(device, dtype)
    except Exception as error:  # no Triton, no compiler for it, a card that it does not know: the plain way works
        log.info("Triton does not run here (%s: %s): strips take the plain way.", type(error).__name__, error)
        return False
    if not right:
        log.warning("Triton gives other numbers than torch on this device: strips take the plain way.")
    return right


def tried(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels come to torch's numbers for a small strip, within the rounding of `dtype`.

    Raises:
        ImportError, RuntimeError and whatever else a compiler raises: they do not run.
    """
    rows, columns, channels = TRIAL
    x = torch.sin(torch.arange(rows * columns * channels, device=device) * 0.7).view(TRIAL).to(dtype)
    scale, shift = (torch.linspace(low, 2.0, channels, device=device) for low in (0.5, -2.0))
    out = x.new_zeros(rows, columns + 2, channels)
    normed(scale, shift, "silu")(x, out[:, 1:-1])
    wanted = F.silu(x.float() * scale + shift).to(dtype).float()
    _, mean, var = moments(x)
    found_var, found_mean = torch.var_mean(x.float().flatten(0, 1), dim=0, correction=0)
    near = partial(torch.allclose, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)
    borders = not bool(out[:, 0].any() | out[:, -1].any())
    return borders and near(out[:, 1:-1].float(), wanted) and near(mean, found_mean) and near(var, found_var)


def normed(scale: Tensor, shift: Tensor, activation: Activation) -> Write:
    """activation(x·scale + shift) of a strip (rows, W, C), rounded once; scale and shift are float32, (C,)."""
    kernels = _kernels()

    def write(x: Tensor, out: Tensor) -> None:
        pixels, channels, x = x.shape[0] * x.shape[1], x.shape[2], x.contiguous()
        tile = _tile(channels)
        with _on(x):
            kernels.normed_strip[_grid(pixels, channels, tile)](
                x, scale, shift, out, pixels, channels, *_lines(x, out), ACTIVATIONS.index(activation), *tile
            )

    return write


def pixel_normed(gain: Tensor, activation: Activation, least: float) -> Write:
    """activation(x / max(‖x‖, least) · gain) of a strip, the length that of each pixel's channels; gain as above."""
    kernels = _kernels()

    def write(x: Tensor, out: Tensor) -> None:
        pixels, channels, x = x.shape[0] * x.shape[1], x.shape[2], x.contiguous()
        whole = _power(channels)  # a program has all channels of its pixels
        tile = max(1, NUMBERS // whole), whole
        with _on(x):
            kernels.pixel_normed_strip[_grid(pixels, channels, tile)](
                x, gain, out, pixels, channels, *_lines(x, out), least, ACTIVATIONS.index(activation), *tile
            )

    return write


def moments(x: Tensor) -> tuple[int, Tensor, Tensor]:
    """As `moments.strip_moments`: pixel count, mean and variance (C,), float32, of a strip, on its device.

    Each program takes its pixels tile by tile and merges them by the formula of Chan, Golub and LeVeque, as the pieces
    of all programs are merged behind it.
    """
    kernels = _kernels()
    pixels, channels, x = x.shape[0] * x.shape[1], x.shape[2], x.contiguous()
    tile = _tile(channels)
    tiles = _power(-(-pixels // (tile[0] * PIECES)))  # compiled anew for each, so let there be few
    pieces = -(-pixels // (tile[0] * tiles))
    parts = x.new_empty((2, pieces, channels), dtype=torch.float32)
    found = x.new_empty((2, channels), dtype=torch.float32)
    with _on(x):
        kernels.piece_moments[pieces, -(-channels // tile[1])](x, parts, pixels, channels, tiles, *tile)
        narrow = max(1, NUMBERS // _power(pieces))
        kernels.merged_moments[-(-channels // narrow),](
            parts, found, pixels, channels, pieces, tile[0] * tiles, _power(pieces), narrow
        )
    return pixels, found[0], found[1]


def _kernels() -> Any:  # Triton's functions take plain numbers for what it calls constexpr
    from vae_manager.codec.streaming import fused_kernels

    return fused_kernels


# --- how it is cut


def _power(number: int) -> int:
    """The power of two that is no smaller: all sides of Triton's tiles are."""
    return 1 << (number - 1).bit_length()


def _tile(channels: int) -> tuple[int, int]:
    """Pixels and channels of a program's tile."""
    across = min(128, _power(channels))
    return NUMBERS // across, across


def _grid(pixels: int, channels: int, tile: tuple[int, int]) -> tuple[int, int]:
    return -(-pixels // tile[0]), -(-channels // tile[1])


def _lines(x: Tensor, out: Tensor) -> tuple[int, int]:
    """Columns of a strip, and numbers from a row of the result to the next: it may be the inside of a line buffer."""
    assert out.stride()[1:] == x.stride()[1:]  # only its rows may lie apart
    return x.shape[1], out.stride(0)


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which may be another card."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
