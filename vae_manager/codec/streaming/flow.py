"""What goes through the steps of a pass: strips of a map while it runs, and their sizes while it is planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vae_manager.codec.streaming.constants import Constants
from vae_manager.codec.streaming.heap import Heap
from vae_manager.codec.streaming.kernels import Scratch
from vae_manager.codec.streaming.moments import Moments, norm_affine
from vae_manager.codec.streaming.strips import Rows, Strips

Padding = Literal["zeros", "circular", "reflect"]
"""A convolution's padding, as torch calls it."""

SPARE = 2
"""Rows by which a strip may be longer than the others without being cut (`strips._pieces`)."""


class NotFinite(ArithmeticError):
    """A map overflowed the dtype: the picture must be computed in a wider one."""


@dataclass(frozen=True)
class Point:
    """What is known of a map once it has been measured, or bounded."""

    moments: Moments | None = None
    amplitude: Tensor | None = None
    """(C,), float64: how large each channel gets; None where nobody has asked."""
    exponent: int = 0
    """The map is stored and computed as x·2^−exponent."""


@dataclass(frozen=True)
class Run:
    """What every step of a run needs to know."""

    device: torch.device
    dtype: torch.dtype
    padding: Padding
    attention_bytes: int
    side: int
    """Of a Winograd tile."""
    tick: Callable[[float], None]
    """Called after every strip with the share of the pass that is done; may raise to stop."""
    heap: Heap
    constants: Constants
    scratch: Scratch = field(default_factory=Scratch)

    @property
    def wraps(self) -> bool:
        """Seamless tiling: the convolutions pad circularly, along both axes."""
        return self.padding == "circular"

    @property
    def like(self) -> Tensor:
        return torch.empty(0, device=self.device, dtype=self.dtype)

    def affine(self, before: Point, norm: Any) -> tuple[Tensor, Tensor]:
        """The norm of a measured map as scale and shift per channel, where the map is computed."""
        assert before.moments is not None, "a norm's input is always measured first"
        dtype = self.dtype if self.dtype == torch.float64 else torch.float32
        scale, shift = norm_affine(before.moments, norm, before.exponent, self.constants)
        return scale.to(self.device, dtype), shift.to(self.device, dtype)


class Size(NamedTuple):
    """The sizes of a map that streams. A tuple: a plan makes thousands of them."""

    height: int
    """Of the map, without the extra rows of a seamless stream."""
    width: int
    rows: int
    """The usual height of a strip."""
    over: int = SPARE
    """Rows by which the longest strip passes it: each convolution holds one back to the end."""
    margin: int = 0
    """Extra rows at each end, where the stream wraps."""
    waiting: int = 0
    """Numbers of a residual block's input that wait until it is closed."""
    opened_rows: int = 0
    opened_over: int = 0
    """`longest` and `over` where it was opened."""
    level: int = 0
    """Numbers of a level's input, in one strip, that wait until the level ends."""
    level_row: int = 0
    """Of them those of one row."""
    level_lag: int = 0
    """Rows of it by which the level's convolutions lag so far."""

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def longest(self) -> int:
        """Rows of the longest strip."""
        return min(self.rows + self.over, self.height + 2 * self.margin)

    @property
    def area(self) -> int:
        """Pixels of the longest strip."""
        return self.longest * self.width

    def opened(self, channels: int) -> Size:
        return self._replace(waiting=channels * self.area, opened_rows=self.longest, opened_over=self.over)

    def begun(self, channels: int) -> Size:
        """A level begins here."""
        return self._replace(level=channels * self.area, level_row=channels * self.width, level_lag=0)

    def ended(self) -> Size:
        return self._replace(level=0, level_row=0, level_lag=0)


@dataclass(frozen=True)
class Waiting:
    """The input of a residual block, or of a level, which waits in a queue until its rows are due."""

    rows: Rows
    point: Point
    margin: int


@dataclass(frozen=True)
class Flow:
    """The lazily computed strips of a map on their way through a pass."""

    strips: Strips
    size: Size
    point: Point
    x: Waiting | None = None
    """What a residual block that is open will add."""
    level: Waiting | None = None
    """What a level with a shortcut around it will add."""

    def opened(self) -> Flow:
        """The same, with every strip put into a queue as it passes."""
        queue, waiting = self._queue()
        return replace(self, strips=map(queue.put, self.strips), x=waiting)

    def begun(self) -> Flow:
        """The same for a level."""
        queue, waiting = self._queue()
        return replace(self, strips=map(queue.put, self.strips), level=waiting)

    def _queue(self) -> tuple[Rows, Waiting]:
        queue = Rows()
        return queue, Waiting(queue, self.point, self.size.margin)


@dataclass(frozen=True)
class Terms:
    """What a price depends on besides the sizes."""

    device: torch.device
    dtype: torch.dtype
    attention_bytes: int
    """What the scores of a chunk of queries may take."""
    side: int
    """Of a Winograd tile."""
    measures: bool
    """Are the statistics of every map taken?"""

    @cached_property
    def item(self) -> int:
        """Bytes of one number."""
        return self.dtype.itemsize

    @property
    def half(self) -> bool:
        return self.item == 2


class Price(NamedTuple):
    """What a step takes, in numbers (of `Terms.item` bytes), and its multiplications over the whole map."""

    carried: int = 0
    """Held from strip to strip: line buffers, rows that wait."""
    weights: int = 0
    """Made ready for a pass."""
    strip: int = 0
    """While one strip is at work."""
    scratch: int = 0
    """In the buffer that all steps share."""
    work: float = 0.0
