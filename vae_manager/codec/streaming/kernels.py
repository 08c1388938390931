"""3×3 convolutions on a strip that already has its border: (R + 2, W + 2, C) → (R, W, C').

Strips are channels-last, (rows, columns, channels), so rows are contiguous and a transform of rows or columns is
a plain addition of long vectors. On a CPU in float32 or float64 the products are done by

- Winograd's F(2×2, 3×3) (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2015): 16 products
  for 4 outputs instead of 36. Its error is below that of the direct sum, because each sum is 9 times shorter;
- for nearest upsampling followed by a convolution, the same idea for repeated pixels: 9 products for 4 outputs
  (`_Upsampled`).

Everything else calls torch's convolution. A kernel holds its weights ready for one pass: the module's own
tensor where that is possible, a cast, transformed or scaled one otherwise; it is dropped with the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Kernel = Callable[[Tensor], Tensor]

TILE_NUMBERS, MOST_TILES = 2**17, 1024
"""Numbers in one plane of the tiles that are transformed at a time: small enough for the cache, and large enough
for the matrix products."""

WINOGRAD_CHANNELS, UPSAMPLED_CHANNELS = 96, 32
"""Below this many channels, transforming costs more than it saves."""


class Scratch:
    """One flat buffer that every kernel of a run reuses: fresh pages cost more than what is computed on them."""

    def __init__(self) -> None:
        self._flat: Tensor | None = None

    def take(self, like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
        """Uninitialised tensors of these shapes, valid until the next call."""
        sizes = [_prod(shape) for shape in shapes]
        if self._flat is None or self._flat.numel() < sum(sizes) or self._flat.dtype != like.dtype:
            self._flat = None
            self._flat = like.new_empty(sum(sizes))
        pieces = self._flat[: sum(sizes)].split(sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, shapes)]


def _prod(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def live_weight(conv: Any, like: Tensor, factor: float = 1.0, bias_factor: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """The module's weight and bias on the device and in the dtype of `like`, times powers of two."""

    def ready(tensor: Tensor | None, times: float) -> Tensor | None:
        if tensor is None:
            return None
        tensor = tensor.detach()
        if times != 1.0:
            # Scaled in float32: a float16 file's weight must not lose bits before it is rounded once.
            tensor = tensor.float() * times if tensor.dtype != torch.float64 else tensor * times
        return tensor.to(device=like.device, dtype=like.dtype)

    weight = ready(conv.weight, factor)
    assert weight is not None
    return weight, ready(conv.bias, bias_factor)


def transformed(device: torch.device, dtype: torch.dtype, c_in: int, c_out: int, upsampled: bool) -> bool:
    """Whether a kernel works in the transformed domain (and needs its workspace)."""
    least = UPSAMPLED_CHANNELS if upsampled else WINOGRAD_CHANNELS
    return device.type == "cpu" and dtype in (torch.float32, torch.float64) and min(c_in, c_out) >= least


def tiles_at_a_time(c_in: int, c_out: int) -> int:
    """How many tiles are transformed at a time."""
    return min(MOST_TILES, max(1, TILE_NUMBERS // max(c_in, c_out)))


def _blocks(rows: int, columns: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Cut a grid of tiles into blocks of about `most`: whole rows, or parts of one row where that is longer."""
    across = -(-columns // max(1, -(-columns // most)))
    down = max(1, most // columns)
    for i in range(0, rows, down):
        for j in range(0, columns, across):
            yield slice(i, min(rows, i + down)), slice(j, min(columns, j + across))


def conv3x3(weight: Tensor, bias: Tensor | None, scratch: Scratch, stride: int = 1) -> Kernel:
    """(R + 2, W + 2, C) → (R, W, C'); with stride 2, (2R + 1, 2W + 1, C) → (R, W, C')."""
    c_out, c_in = weight.shape[:2]
    if stride == 1 and transformed(weight.device, weight.dtype, c_in, c_out, upsampled=False):
        return _winograd(weight, bias, scratch)
    return _direct(weight, bias, stride)


def upsampled_conv3x3(weight: Tensor, bias: Tensor | None, scratch: Scratch) -> Kernel:
    """Nearest ×2, then 3×3: (R + 2, W + 2, C), its border of input pixels, → (2R, 2W, C')."""
    c_out, c_in = weight.shape[:2]
    if transformed(weight.device, weight.dtype, c_in, c_out, upsampled=True):
        return _upsampled(weight, bias, scratch)
    convolve = _direct(weight, bias, 1)

    def run(buffer: Tensor) -> Tensor:
        doubled = buffer.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
        # The doubled border is two pixels wide and the convolution takes one.
        return convolve(doubled[1:-1, 1:-1])

    return run


def _direct(weight: Tensor, bias: Tensor | None, stride: int) -> Kernel:
    weight = weight.contiguous(memory_format=torch.channels_last)

    def run(buffer: Tensor) -> Tensor:
        y = F.conv2d(buffer.permute(2, 0, 1)[None], weight, bias, stride=stride)
        return y[0].permute(1, 2, 0).contiguous()

    return run


def _transformed(weight: Tensor, g: list[list[float]]) -> Tensor:
    """G w Gᵀ of every pair of channels: (C', C, 3, 3) → (planes, C, C'), as one matrix product with G ⊗ G."""
    c_out, c_in = weight.shape[:2]
    one_axis = weight.new_tensor(g)
    planes = torch.kron(one_axis, one_axis) @ weight.reshape(-1, 9).t()
    return planes.view(-1, c_out, c_in).transpose(1, 2)


def _winograd(weight: Tensor, bias: Tensor | None, scratch: Scratch) -> Kernel:
    """Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A on 4×4 input tiles d that overlap by two (Lavin & Gray, section 4.1)."""
    c_out = weight.shape[0]
    u = _transformed(weight, [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])

    def run(buffer: Tensor) -> Tensor:
        odd_rows, odd_columns = buffer.shape[0] % 2, buffer.shape[1] % 2
        if odd_rows or odd_columns:
            # Tiles are two pixels wide: an odd strip gets one more row or column, and loses it again.
            buffer = F.pad(buffer, (0, 0, 0, odd_columns, 0, odd_rows))
        rows, columns = buffer.shape[0] - 2, buffer.shape[1] - 2
        out = buffer.new_empty((rows, columns, c_out))
        for i, j in _blocks(rows // 2, columns // 2, tiles_at_a_time(u.shape[1], c_out)):
            within = buffer[2 * i.start : 2 * i.stop + 2, 2 * j.start : 2 * j.stop + 2]
            _winograd_tiles(within, u, bias, out[2 * i.start : 2 * i.stop, 2 * j.start : 2 * j.stop], scratch)
        return out[: rows - odd_rows, : columns - odd_columns].contiguous()

    return run


def _winograd_tiles(d: Tensor, u: Tensor, bias: Tensor | None, out: Tensor, scratch: Scratch) -> None:
    n, m, c_in, c_out = out.shape[0] // 2, out.shape[1] // 2, d.shape[2], out.shape[2]
    t, v, y = scratch.take(d, (4, n, 2 * m + 2, c_in), (4, 4, n, m, c_in), (4, 4, n, m, c_out))
    # Bᵀ d B: first along rows, then along columns
    d0, d1, d2, d3 = d[0:-2:2], d[1:-1:2], d[2::2], d[3::2]
    torch.sub(d0, d2, out=t[0])
    torch.add(d1, d2, out=t[1])
    torch.sub(d2, d1, out=t[2])
    torch.sub(d1, d3, out=t[3])
    t0, t1, t2, t3 = t[:, :, 0:-2:2], t[:, :, 1:-1:2], t[:, :, 2::2], t[:, :, 3::2]
    torch.sub(t0, t2, out=v[:, 0])
    torch.add(t1, t2, out=v[:, 1])
    torch.sub(t2, t1, out=v[:, 2])
    torch.sub(t1, t3, out=v[:, 3])
    torch.bmm(v.view(16, n * m, c_in), u, out=y.view(16, n * m, c_out))
    if bias is not None:
        y[1, 1] += bias  # the one plane that enters all four outputs with +1
    # Aᵀ M A, in place: plane 0 of each axis becomes the even output, plane 1 the odd one
    y[0].add_(y[1]).add_(y[2])
    y[1].sub_(y[2]).sub_(y[3])
    pixels = out.unflatten(0, (n, 2)).unflatten(2, (m, 2))
    for p in (0, 1):
        even, odd = pixels[:, p, :, 0], pixels[:, p, :, 1]
        torch.add(y[p, 0], y[p, 1], out=even).add_(y[p, 2])
        torch.sub(y[p, 1], y[p, 2], out=odd).sub_(y[p, 3])


def _upsampled(weight: Tensor, bias: Tensor | None, scratch: Scratch) -> Kernel:
    """Nearest ×2 and 3×3 in 9 products per input pixel x₀ and its neighbours, where four 2×2 phases need 16.

    Along one axis, with taps w₀ w₁ w₂ and s = w₀ + w₁ + w₂, the even and the odd output are
        w₀·x₋₁ + (w₁ + w₂)·x₀ = w₀·(x₋₁ − x₀) + s·x₀
        (w₀ + w₁)·x₀ + w₂·x₁  = s·x₀ + w₂·(x₁ − x₀)
    so three products give both; along two axes, 3 × 3 give all four.
    """
    c_out = weight.shape[0]
    u = _transformed(weight, [[1, 0, 0], [1, 1, 1], [0, 0, 1]])

    def run(buffer: Tensor) -> Tensor:
        rows, columns = buffer.shape[0] - 2, buffer.shape[1] - 2
        out = buffer.new_empty((2 * rows, 2 * columns, c_out))
        for i, j in _blocks(rows, columns, tiles_at_a_time(u.shape[1], c_out)):
            within = buffer[i.start : i.stop + 2, j.start : j.stop + 2]
            _upsampled_tiles(within, u, bias, out[2 * i.start : 2 * i.stop, 2 * j.start : 2 * j.stop], scratch)
        return out

    return run


def _upsampled_tiles(x: Tensor, u: Tensor, bias: Tensor | None, out: Tensor, scratch: Scratch) -> None:
    n, m, c_in, c_out = x.shape[0] - 2, x.shape[1] - 2, x.shape[2], out.shape[2]
    t, v, y = scratch.take(x, (3, n, m + 2, c_in), (3, 3, n, m, c_in), (3, 3, n, m, c_out))
    torch.sub(x[:-2], x[1:-1], out=t[0])
    t[1] = x[1:-1]
    torch.sub(x[2:], x[1:-1], out=t[2])
    torch.sub(t[:, :, :-2], t[:, :, 1:-1], out=v[:, 0])
    v[:, 1] = t[:, :, 1:-1]
    torch.sub(t[:, :, 2:], t[:, :, 1:-1], out=v[:, 2])
    torch.bmm(v.view(9, n * m, c_in), u, out=y.view(9, n * m, c_out))
    if bias is not None:
        y[1, 1] += bias
    y[0].add_(y[1])
    y[2].add_(y[1])
    pixels = out.unflatten(0, (n, 2)).unflatten(2, (m, 2))
    for p, row in ((0, y[0]), (1, y[2])):
        torch.add(row[0], row[1], out=pixels[:, p, :, 0])
        torch.add(row[2], row[1], out=pixels[:, p, :, 1])
