"""Maps as lists of strips, and the line buffers through which strips stream.

A strip is a channels-last tensor (rows, W, C) over the full width; strips come from top to bottom. Functions here
take an iterator of strips and return one, so that layers compose as `convolve(convolve(strips, …), …)` and a strip
is pulled through all of them before the next one is made. None of them holds on to a strip that it has passed on.

Seamless tiling (`wraps`): columns take their border from the other end of the same row, and a map is read with
`margin` extra rows at both ends, taken from the other end, of which each convolution uses up one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from vae_manager.codec.streaming.kernels import Kernel

Strips = Iterator[Tensor]

Edge = Literal["zeros", "wrap", "reflect", "repeat"]
"""What stands beyond the edge of a map: zeros, its other end, the pixel before the last one, or the last one again."""

_BORDERS: dict[Edge, tuple[int, int]] = {"wrap": (-2, 1), "reflect": (2, -3), "repeat": (1, -2)}
"""Which columns (and rows) of a buffer that has a border on both sides its first and its last one equal."""

Write = Callable[[Tensor, Tensor], None]
"""Write (a function of) a strip into the inside of a line buffer of the same shape."""


class Map:
    """A map (height, W, C) as a list of strips. It may live on another device than the one that computes: nothing is
    then computed where it lives, for the copies that a GPU makes of it may be under way."""

    def __init__(self, height: int, compute: torch.device, storage: torch.device | None = None) -> None:
        self.height = height
        self._compute = compute
        self._storage = storage or compute
        self._pins = pins(compute, self._storage)
        self._strips: deque[Tensor] = deque()

    def append(self, strip: Tensor) -> None:
        self._strips.append(page_locked(strip) if self._pins else strip.to(self._storage))

    def read(self, rows: int, margin: int = 0, free: bool = False) -> Strips:
        """Strips of about `rows` rows; with `free`, each is dropped from the map before it is handed out."""
        before = self._rows(range(-margin, 0)) if margin else None
        after = self._rows(range(self.height, self.height + margin)) if margin else None
        if before is not None:
            yield from _pieces(before, rows)
            before = None
        strips = self._strips if free else self._strips.copy()
        while strips:
            pieces = deque(_pieces(self._join(strips, rows), rows))
            while pieces:
                yield self._brought(pieces.popleft())
        if after is not None:
            yield from _pieces(after, rows)

    def shared(self) -> Map:
        """Another map of the same strips, which it holds until they are read."""
        found = Map(self.height, self._compute, self._storage)
        found._strips.extend(self._strips)
        return found

    def whole(self) -> Tensor:
        """The map as one tensor, taken out of the list."""
        strips = [self._brought(strip) for strip in self._strips]
        self._strips.clear()
        return strips[0] if len(strips) == 1 else torch.cat(strips)

    def _rows(self, indices: range) -> Tensor:
        """Copies of single rows; indices beyond an end wrap around."""
        starts, y = {}, 0
        for strip in self._strips:
            starts.update({y + i: strip[i : i + 1] for i in range(strip.shape[0])})
            y += strip.shape[0]
        return torch.cat([self._brought(starts[i % self.height]) for i in indices])

    def _join(self, strips: deque[Tensor], rows: int) -> Tensor:
        """Take strips off the front: one, as it lies there, or several short ones (such as a downsampling leaves) up to
        `rows` together, brought."""
        joined = [strips.popleft()]
        count = joined[0].shape[0]
        while strips and count + strips[0].shape[0] <= rows:
            count += strips[0].shape[0]
            joined.append(strips.popleft())
        return joined[0] if len(joined) == 1 else torch.cat([self._brought(strip) for strip in joined])

    def _brought(self, strip: Tensor) -> Tensor:
        return strip.to(self._compute, non_blocking=self._pins)


def pins(compute: torch.device, storage: torch.device) -> bool:
    """Whether strips wait in memory that the system must not move, so that a GPU copies them by itself while it and
    we go on: pageable memory goes through a buffer of the driver's, and every copy is waited for."""
    return compute.type == "cuda" and storage.type == "cpu"


def page_locked(strip: Tensor) -> Tensor:
    """A copy in such memory. It is begun, not done: only what the GPU does later may read it."""
    try:
        there = torch.empty(strip.shape, dtype=strip.dtype, pin_memory=True)
    except RuntimeError:  # the system locks no more
        return strip.to("cpu")
    return there.copy_(strip, non_blocking=True)


def _pieces(strip: Tensor, rows: int) -> tuple[Tensor, ...]:
    """Views of `rows` rows or fewer, all about alike; two rows too many are no reason to cut."""
    count = max(1, -(-(strip.shape[0] - 2) // rows))
    return strip.split(-(-strip.shape[0] // count))


class Rows:
    """A queue of rows between a producer and a consumer that lags behind it (the input of a residual block)."""

    def __init__(self) -> None:
        self._pieces: deque[Tensor] = deque()
        self.count = 0

    def put(self, strip: Tensor) -> Tensor:
        self._pieces.append(strip)
        self.count += strip.shape[0]
        return strip

    def take(self, rows: int) -> Strips:
        """The next `rows` rows, as views. What is left of a strip is copied, so that the strip itself can go."""
        while rows:
            piece = self._pieces.popleft()
            if piece.shape[0] > rows:
                self._pieces.appendleft(piece[rows:].clone())
                piece = piece[:rows]
            rows -= piece.shape[0]
            self.count -= piece.shape[0]
            yield piece


class Stored(Rows):
    """Rows of a map that was kept, which come when they are asked for."""

    def __init__(self, strips: Strips) -> None:
        super().__init__()
        self._strips = strips

    def take(self, rows: int) -> Strips:
        while self.count < rows:
            self.put(next(self._strips))
        return super().take(rows)


def adder(waiting: Rows, lag: int, shortcut: Tensor | None = None, factor: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Add to each strip the rows of x that belong to it, through the 1×1 shortcut where there is one."""
    unused = [lag]

    def add(out: Tensor) -> Tensor:
        # In a wrapped stream, x has rows above the first one that the convolutions leave.
        for _ in waiting.take(unused.pop() if unused else 0):
            pass
        rows = list(waiting.take(out.shape[0]))
        for piece, x in zip(out.split([x.shape[0] for x in rows]), rows):
            if shortcut is None:
                piece.add_(x, alpha=factor)
            else:
                piece.view(-1, piece.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), shortcut)
        return out

    return add


def line_buffers(strips: Strips, height: int, write: Write, edge: Edge, stride: int = 1, border: bool = True) -> Strips:
    """Cut a stream of `height` rows into overlapping pieces on which a 3×3 convolution needs no padding.

    With a `border`, that is one pixel on every side; without, one at the right and bottom only, and always of zeros
    (ldm pads its downsampling so, whatever the padding of the others). The last input rows of a piece that the next
    one needs again are carried over: nothing upstream is computed twice.
    """
    edge = edge if border else "zeros"
    wraps, left, carry, seen = edge == "wrap", int(border), None, 0
    for x in _begun(strips, 2) if edge == "reflect" else strips:
        rows, width, channels = x.shape
        seen += rows
        above = 1 if carry is None and border and not wraps else 0
        below = 1 if seen == height and not wraps else 0
        top = above if carry is None else carry.shape[0]
        buffer = x.new_empty((top + rows + below, width + left + 1, channels))
        if carry is not None:
            buffer[:top] = carry
        inside = buffer[top : top + rows]
        write(x, inside[:, left:-1])
        del x
        if edge == "zeros":
            inside[:, :left], inside[:, -1] = 0, 0
        else:
            first, last = _BORDERS[edge]
            inside[:, 0], inside[:, -1] = inside[:, first], inside[:, last]
        if above:
            buffer[0] = 0 if edge == "zeros" else buffer[_BORDERS[edge][0]]
        if below:
            buffer[-1] = 0 if edge == "zeros" else buffer[_BORDERS[edge][1]]
        out_rows = (buffer.shape[0] - 3) // stride + 1
        if out_rows < 1:
            carry = buffer
            continue
        carry = buffer[stride * out_rows :].clone()
        ready = [buffer[: stride * (out_rows - 1) + 3]]
        del buffer, inside
        yield ready.pop()


def _begun(strips: Strips, rows: int) -> Strips:
    """The same stream, whose first strip has that many rows at least."""
    held: list[Tensor] = []
    for x in strips:
        held.append(x)
        del x
        if sum(strip.shape[0] for strip in held) >= rows:
            break
    if held:
        first = [held.pop() if len(held) == 1 else torch.cat(held)]
        held.clear()
        yield first.pop()
    yield from strips


def convolve(
    strips: Strips, kernel: Kernel, write: Write, height: int, edge: Edge, stride: int = 1, border: bool = True
) -> Strips:
    """A 3×3 convolution of a stream. Its first strip comes out a row shorter and its last one a row longer."""
    return map(kernel, line_buffers(strips, height, write, edge, stride, border))


def copy(x: Tensor, out: Tensor) -> None:
    out.copy_(x)


def relu(x: Tensor, out: Tensor) -> None:
    torch.clamp_min(x, 0, out=out)


def normed(scale: Tensor, shift: Tensor, activate: Callable[[Tensor], Tensor]) -> Write:
    """activate(x·scale + shift), the normalised and activated input of a convolution, written where it is needed.

    Args:
        activate: in place.
    """

    def write(x: Tensor, out: Tensor) -> None:
        if x.dtype == scale.dtype:
            torch.addcmul(shift, x, scale, out=out)
            activate(out)
        else:  # half precision: rounded once, after the activation
            out.copy_(activate(torch.addcmul(shift, x, scale)))

    return write


def crop(strips: Strips, margin: int, height: int) -> Strips:
    """Drop the extra rows of a wrapped stream: `margin` at the top and whatever follows `height` rows."""
    y = -margin
    for x in strips:
        rows = x.shape[0]
        first, last = max(0, -y), min(rows, height - y)
        y += rows
        if first < last:
            kept = [x[first:last].clone() if last - first < rows else x]
            del x
            yield kept.pop()


def split(strips: Strips, rows: int) -> Strips:
    """Hand long strips on in pieces: the last strip of a stream has what every layer before has held back."""
    for x in strips:
        pieces = deque(_pieces(x, rows))
        del x
        while pieces:
            yield pieces.popleft()
