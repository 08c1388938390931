"""3×3 convolutions on a strip that already has its border: (R + 2, W + 2, C) → (R, W, C').

Strips are channels-last, (rows, columns, channels), so rows are contiguous and a transform of rows or columns is
a plain addition of long vectors. On a CPU in float32 or float64 the products are done by

- Winograd's F(4×4, 3×3) and F(2×2, 3×3) (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2015):
  36 products for 16 outputs, or 16 for 4, instead of 144 or 36. Their errors are of the direct sum's size or below
  (docs/tiling.md): each sum is 9 times shorter, and F(4×4) takes the points 0, ±1/√2, ±√2, ∞, a pair c and its
  inverse (Alam, Anderson, Barabasz, Gregg, "Winograd Convolution for Deep Neural Networks: Efficient Point
  Selection", 2022); with Lavin's ±1, ±2 the error is twice that, and at its worst five times;
- for nearest upsampling followed by a convolution, the same idea for repeated pixels: 9 products for 4 outputs
  (`_upsampled`).

Everything else calls torch's convolution. A kernel holds its weights ready for one pass: the module's own
tensor where that is possible, a cast, transformed or scaled one otherwise; it is dropped with the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Kernel = Callable[[Tensor], Tensor]

BLOCK_NUMBERS, MOST_TILES = 36 * 2**16, 1024
"""Numbers in all planes of the tiles that are transformed at a time: small enough for the cache, and large enough
for the matrix products."""

WINOGRAD_CHANNELS, UPSAMPLED_CHANNELS = 64, 32
"""Below this many channels, transforming costs more than it saves."""

SIDES = (4, 2)
"""Outputs along one side of a Winograd tile, the fastest first: with 2, the weights made ready take less than half."""


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


def folds(device: torch.device) -> bool:
    """Whether nearest ×2 is folded into the convolution behind it. Of NVIDIA's library it was published that this is
    fast (docs/tiling.md); of no other device is anything known."""
    return device.type == "cuda" and not torch.version.hip


FOLDED_TAPS = 16
"""Of a 3×3 kernel behind a folded doubling: 4 products for each output."""


def beside_direct(device: torch.device, numbers: int) -> int:
    """What a GPU's library takes for a 3×3 convolution, besides an input and a result of so many numbers.

    Guesses from above: of cuDNN's, which may turn an input around before it begins; of AMD's MIOpen, that ComfyUI asks
    for 2.73 times as much memory on such cards. Neither was measured here.
    """
    if device.type == "cpu":
        return 0
    return int(numbers * (1.73 if torch.version.hip else 0.5))


UPSAMPLED_PLANES = 9


def planes_of(side: int) -> int:
    """Planes in the transformed domain (and products per tile) of a Winograd tile of side × side outputs."""
    return (side + 2) ** 2


def tiles_at_a_time(planes: int, c_in: int, c_out: int) -> int:
    """How many tiles are transformed at a time."""
    return min(MOST_TILES, max(1, BLOCK_NUMBERS // (planes * max(c_in, c_out))))


def workspace(c_in: int, c_out: int, upsampled: bool, side: int, rows: int, columns: int) -> tuple[int, int, float]:
    """What a transformed convolution of a strip takes.

    Returns:
        numbers in the weights made ready, numbers in the scratch buffer and in bands, products per output pixel.
    """
    planes, side, outputs = (UPSAMPLED_PLANES, 1, 4) if upsampled else (planes_of(side), side, side * side)
    tiles = min(tiles_at_a_time(planes, c_in, c_out), -(-rows // side) * -(-columns // side))
    widest = max(c_in, c_out)
    band = 0 if upsampled else 3 * side * (max(rows, columns) + side) * widest
    return planes * c_in * c_out, 2 * planes * tiles * widest + band, planes / outputs


def _blocks(rows: int, columns: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Cut a grid of tiles into blocks of about `most`: whole rows, or parts of one row where that is longer."""
    across = max(1, -(-columns // max(1, -(-columns // most))))
    down = max(1, most // max(1, columns))
    for i in range(0, rows, down):
        for j in range(0, columns, across):
            yield slice(i, min(rows, i + down)), slice(j, min(columns, j + across))


def conv3x3(weight: Tensor, bias: Tensor | None, scratch: Scratch, stride: int = 1, side: int = 4) -> Kernel:
    """(R + 2, W + 2, C) → (R, W, C'); with stride 2, (2R + 1, 2W + 1, C) → (R, W, C').

    Args:
        side: one of `SIDES`, where the convolution is transformed.
    """
    c_out, c_in = weight.shape[:2]
    if stride == 1 and transformed(weight.device, weight.dtype, c_in, c_out, upsampled=False):
        return _winograd(weight, bias, scratch, side)
    return _direct(weight, bias, stride)


def upsampled_conv3x3(weight: Tensor, bias: Tensor | None, scratch: Scratch) -> Kernel:
    """Nearest ×2, then 3×3: (R + 2, W + 2, C), its border of input pixels, → (2R, 2W, C')."""
    c_out, c_in = weight.shape[:2]
    if transformed(weight.device, weight.dtype, c_in, c_out, upsampled=True):
        return _upsampled(weight, bias, scratch)
    if folds(weight.device):
        return _folded(weight, bias)
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


_FOLD = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
"""Taps of a kernel along one axis → those of a transposed convolution of stride 2 that does the same to pixels which
were to be doubled: an output sees two of them, and where two taps meet the same pixel they are added."""


def _folded(weight: Tensor, bias: Tensor | None) -> Kernel:
    """Nearest ×2 and 3×3 as one transposed convolution of 4×4: nothing is doubled, and of 9 products 4 are left.

    Sums of taps are made in float32 and rounded once.
    """
    fold = _FOLD.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
    taps = torch.einsum("ya,oiab,xb->ioyx", fold, weight.to(fold.dtype), fold)
    taps = taps.to(weight.dtype).contiguous(memory_format=torch.channels_last)

    def run(buffer: Tensor) -> Tensor:
        # 1 for the kernel's own reach, and 2 for the border of input pixels, which makes no output
        y = F.conv_transpose2d(buffer.permute(2, 0, 1)[None], taps, bias, stride=2, padding=3)
        return y[0].permute(1, 2, 0).contiguous()

    return run


def _transformed(weight: Tensor, g: Sequence[Sequence[float]]) -> Tensor:
    """G w Gᵀ of every pair of channels: (C', C, 3, 3) → (planes, C, C'), as one matrix product with G ⊗ G."""
    c_out, c_in = weight.shape[:2]
    one_axis = torch.tensor(g, dtype=torch.float64)
    planes = torch.kron(one_axis, one_axis).to(weight) @ weight.reshape(-1, 9).t()
    return planes.view(-1, c_out, c_in).transpose(1, 2)


_P, _Q = 0.5**0.5, 2.0**0.5
"""The points of F(4×4): 0, ±P, ±Q, ∞; their squares are 1/2 and 2, and their product is 1."""


def _lagrange(points: list[float]) -> list[list[float]]:
    """G for these points and ∞: row i holds 1, x, x² over Π (x − other points)."""
    rows = []
    for n, x in enumerate(points):
        divisor = 1.0
        for other in points[:n] + points[n + 1 :]:
            divisor *= x - other
        rows.append([1 / divisor, x / divisor, x * x / divisor])
    return [*rows, [0.0, 0.0, 1.0]]


_G = {
    2: [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
    4: _lagrange([0.0, _P, -_P, _Q, -_Q]),
}
_A = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [
        [1, 1, 1, 1, 1, 0],
        [0, _P, -_P, _Q, -_Q, 0],
        [0, _P**2, _P**2, _Q**2, _Q**2, 0],
        [0, _P**3, -(_P**3), _Q**3, -(_Q**3), 1],
    ],
}
"""Weights of a tile's input, G, and of its products, Aᵀ, by the tile's side."""


def _winograd(weight: Tensor, bias: Tensor | None, scratch: Scratch, side: int) -> Kernel:
    """Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A on input tiles d that overlap by two pixels (Lavin & Gray, section 4.1)."""
    u = _transformed(weight, _G[side])
    a = torch.tensor(_A[side], dtype=torch.float64).to(weight)
    shift = weight.new_zeros(weight.shape[0]) if bias is None else bias
    return lambda buffer: _winograd_strip(buffer, u, a, shift, scratch)


def _winograd_strip(buffer: Tensor, u: Tensor, a: Tensor, shift: Tensor, scratch: Scratch) -> Tensor:
    rows, columns, side = buffer.shape[0] - 2, buffer.shape[1] - 2, a.shape[0]
    out = buffer.new_empty((rows, columns, len(shift)))
    down, across = rows // side, columns // side
    for i, j in _blocks(down, across, tiles_at_a_time(u.shape[0], u.shape[1], u.shape[2])):
        within = buffer[side * i.start : side * i.stop + 2, side * j.start : side * j.stop + 2]
        here = out[side * i.start : side * i.stop, side * j.start : side * j.stop]
        _winograd_tiles(within, u, a, shift, here, scratch)
    # Rows and columns that are too few for a tile get zeros behind them, which are dropped again.
    bands = (slice(down * side, rows), slice(0, columns)), (slice(0, down * side), slice(across * side, columns))
    for y, x in bands:
        if y.start < y.stop and x.start < x.stop:
            within = buffer[y.start : y.stop + 2, x.start : x.stop + 2]
            padded = F.pad(within, (0, 0, 0, (x.start - x.stop) % side, 0, (y.start - y.stop) % side))
            out[y, x] = _winograd_strip(padded, u, a, shift, scratch)[: y.stop - y.start, : x.stop - x.start]
    return out


def _winograd_tiles(d: Tensor, u: Tensor, a: Tensor, shift: Tensor, out: Tensor, scratch: Scratch) -> None:
    """One block: d (side·n + 2, side·m + 2, C), u (planes, C, C'), a (side, k), out (side·n, side·m, C')."""
    side, k = a.shape
    n, m, c_in, c_out = out.shape[0] // side, out.shape[1] // side, d.shape[2], out.shape[2]
    # What was transformed along one axis is not needed any more when the products are written, and so on.
    one, two = scratch.take(
        d, (max(k * n * (side * m + 2) * c_in, k * k * n * m * c_out),), (k * k * n * m * max(c_in, c_out),)
    )
    t = one[: k * n * (side * m + 2) * c_in].view(k, n, side * m + 2, c_in)
    v = two[: k * k * n * m * c_in].view(k, k, n, m, c_in)
    into = _INTO[side]
    into([d[i : i + side * n - side + 1 : side] for i in range(k)], list(t))
    into([t[:, :, i : i + side * m - side + 1 : side] for i in range(k)], [v[:, i] for i in range(k)])
    y = one[: k * k * n * m * c_out]
    torch.bmm(v.view(k * k, n * m, c_in), u, out=y.view(k * k, n * m, c_out))
    # Aᵀ y A as two matrix products, one axis each
    rows = two[: side * k * n * m * c_out]
    torch.mm(a, y.view(k, -1), out=rows.view(side, -1))
    pixels = one[: side * side * n * m * c_out]
    torch.bmm(a.expand(side, side, k), rows.view(side, k, -1), out=pixels.view(side, side, -1))
    tiles = pixels.view(side, side, n, m, c_out).permute(2, 0, 3, 1, 4)
    torch.add(tiles, shift, out=out.unflatten(0, (n, side)).unflatten(2, (m, side)))


def _into_four(d: list[Tensor], t: list[Tensor]) -> None:
    """t = Bᵀ d along one axis, for F(2, 3)."""
    torch.sub(d[0], d[2], out=t[0])
    torch.add(d[1], d[2], out=t[1])
    torch.sub(d[2], d[1], out=t[2])
    torch.sub(d[1], d[3], out=t[3])


def _into_six(d: list[Tensor], t: list[Tensor]) -> None:
    """t = Bᵀ d along one axis, for F(4, 3) at 0, ±P, ±Q, ∞ with P² = p, Q² = q, pq = 1:

    d₄ − (p + q)d₂ + d₀;  (d₄ − q·d₂) ± P(d₃ − q·d₁);  (d₄ − p·d₂) ± Q(d₃ − p·d₁);  d₅ − (p + q)d₃ + d₁
    """
    p, q = _P**2, _Q**2
    torch.sub(d[4], d[2], alpha=q, out=t[1])
    torch.sub(d[3], d[1], alpha=q, out=t[2])
    torch.sub(d[4], d[2], alpha=p, out=t[3])
    torch.sub(d[3], d[1], alpha=p, out=t[4])
    torch.sub(t[1], d[2], alpha=p, out=t[0]).add_(d[0])
    torch.sub(d[5], d[3], alpha=p + q, out=t[5]).add_(d[1])
    for even, odd, point in ((t[1], t[2], _P), (t[3], t[4], _Q)):
        even.add_(odd, alpha=point)
        torch.sub(even, odd, alpha=2 * point, out=odd)


_INTO = {2: _into_four, 4: _into_six}


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
        for i, j in _blocks(rows, columns, tiles_at_a_time(UPSAMPLED_PLANES, u.shape[1], c_out)):
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
