"""The steps that a chain is made of. Each knows its work (`run`), its price (`cost`), what it does to a map's size
(`behind`, `reach`), and how large its result can get (`bound`): what belongs together stands together.

Whatever the kind of autoencoder, a layer is a `Convolve`: a norm and an activation, perhaps; a convolution that may
double or halve the resolution; and a residual block is a first one that `opens` it and a last one that `closes` it
by adding what has waited. Only self-attention, `Attend`, needs its whole input at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_manager.codec.streaming import fused, precision
from vae_manager.codec.streaming.attention import affine, attend, attention_bytes
from vae_manager.codec.streaming.flow import SPARE, Flow, Point, Price, Run, Size, Terms
from vae_manager.codec.streaming.kernels import (
    FOLDED_TAPS,
    SIDES,
    beside_direct,
    conv3x3,
    folds,
    live_weight,
    transformed,
    upsampled_conv3x3,
    workspace,
)
from vae_manager.codec.streaming.moments import norm_affine
from vae_manager.codec.streaming.pixel_norm import LEAST, live_gain, pixel_normalised, pixel_normed
from vae_manager.codec.streaming.strips import (
    Edge,
    Map,
    Rows,
    Strips,
    Write,
    adder,
    convolve,
    copy,
    crop,
    normed,
    relu,
    split,
)


class Shortcut(Protocol):
    """What a level adds of its input to its result, without any weights."""

    @property
    def channels(self) -> int:
        """Of the input."""
        ...

    def source_rows(self, rows: int) -> int:
        """Rows of the input that belong to so many of the result."""
        ...

    def add(self, x: Tensor, to: Tensor) -> None:
        """Add what becomes of rows (r, W, C) of the input to (r', W', C') of the result, in place."""
        ...


@dataclass(frozen=True, eq=False)
class Convolve:
    """norm → activation → convolution, and what is added to it."""

    conv: Any
    """3×3, or 1×1."""
    norm: Any = None
    """A GroupNorm before the activation: the step's input must have been measured."""
    activation: Literal["none", "silu", "relu"] = "none"
    resample: Literal["none", "up", "down"] = "none"
    """"up": nearest ×2 before the convolution; "down": its stride is 2."""
    border: bool = True
    """Padded on all sides; False, of a strided one: with zeros on the right and below, as ldm does it."""
    opens: bool = False
    """A residual block begins: the input waits beside what is computed."""
    closes: bool = False
    """The residual block ends: what has waited is added."""
    skip: Any = None
    """The 1×1 convolution through which it is added."""
    relu: bool = False
    """The result goes through a ReLU."""
    recuts: bool = False
    """Long strips are cut to the usual height behind the step."""
    pixel_norm: Any = None
    """In the place of `norm`, a norm of each pixel's own channels, x / ‖x‖ · `gain`, for which nothing is measured."""
    begins: bool = False
    """A level with a shortcut around all of it begins: its input waits, beside that of a block."""
    ends: Shortcut | None = None
    """The level ends: this is added of what has waited."""

    whole: ClassVar[bool] = False
    """Does the step need its whole input at once?"""

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """Channels out, channels in, taps; a weight may be put together only when it is asked for."""
        out, into, *taps = self.conv.weight.shape
        return int(out), int(into), prod(taps)

    @cached_property
    def _skipped(self) -> int:
        """Numbers in the weight of the skip."""
        return 0 if self.skip is None else int(self.skip.weight.numel())

    @property
    def c_in(self) -> int:
        return self._shape[1]

    @property
    def c_out(self) -> int:
        return self._shape[0]

    def modules(self) -> Iterator[nn.Module]:
        """Every module that holds parameters."""
        yield from (module for module in (self.norm, self.pixel_norm, self.conv, self.skip) if module is not None)

    @property
    def normalises(self) -> bool:
        return self.norm is not None or self.pixel_norm is not None

    @cached_property
    def _lag(self) -> int:
        """Rows that a stream is held back by, and that a seamless one loses at each end."""
        return int(self._shape[2] == 9)

    @cached_property
    def _ups(self) -> bool:
        return self.resample == "up"

    @cached_property
    def _stride(self) -> int:
        return 2 if self.resample == "down" else 1

    # --- sizes

    def behind(self, size: Size) -> Size:
        """The sizes of what leaves."""
        height, width, rows, over, margin, waiting, *opened = size
        over, margin = over + self._lag, max(0, margin - self._lag)
        if self._ups:
            height, width, rows, over, margin = 2 * height, 2 * width, 2 * rows, 2 * over, 2 * margin
        elif self._stride == 2:
            odd = int(self.border)  # the border makes an output of the last row or column, where they are odd
            height, width, rows, over = (height + odd) // 2, (width + odd) // 2, -(-rows // 2), -(-over // 2)
            margin = margin // 2 if self.border else 0
        over = min(over, SPARE) if self.recuts else over
        found = Size(height, width, rows, over, margin, 0 if self.closes else waiting, *opened)
        if not size.level:
            return found
        return found.ended() if self.ends else found._replace(level_lag=size.level_lag + self._lag)

    def reach(self, needed: int) -> int:
        """Extra rows that a seamless stream needs at each end before the step, for `needed` rows behind it."""
        if self._ups:
            return (needed + 1) // 2 + 1
        if self._stride == 2:
            return 2 * needed + 1 if self.border else 0  # without a border the stream is cropped before it
        return needed + self._lag

    # --- work

    def run(self, flow: Flow, after: Point, run: Run) -> Flow:
        """Take the flow through the step, computing what `after` says."""
        strips, size = flow.strips, flow.size
        if run.wraps and not self.border:
            strips, size = crop(strips, size.margin, size.height), size._replace(margin=0)
        found = self.behind(size)
        incoming = 0 if self.normalises else flow.point.exponent  # a norm undoes any exponent
        weight, bias = live_weight(self.conv, run.like, 2.0 ** (incoming - after.exponent), 2.0**-after.exponent)
        if self.closes:
            assert flow.x is not None, "a block was opened before it is closed"
            by = 2.0 ** (flow.x.point.exponent - after.exponent)
            shortcut, bias = self._shortcut(bias, by, 2.0**-after.exponent, run)
            add = adder(flow.x.rows, flow.x.margin - found.margin if run.wraps else 0, shortcut, by)
            strips = map(add, self._convolved(strips, size, weight, bias, flow.point, run))
        else:
            strips = self._convolved(strips, size, weight, bias, flow.point, run)
        if self.relu:
            strips = map(torch.relu_, strips)
        if self.ends is not None:
            assert flow.level is not None, "a level has begun before it ends"
            strips = map(_adder(self.ends, flow.level.rows), strips)
        if self.recuts:
            strips = split(strips, found.rows)
        return Flow(strips, found, after, None if self.closes else flow.x, None if self.ends else flow.level)

    def _convolved(
        self, strips: Strips, size: Size, weight: Tensor, bias: Tensor | None, before: Point, run: Run
    ) -> Strips:
        write = self._write(before, run)
        if not self._lag:
            return map(_pointwise(weight.flatten(1), bias, write), strips)
        if self._ups:
            kernel = run.heap.watched(upsampled_conv3x3, weight, bias, run.scratch)
        else:
            kernel = run.heap.watched(conv3x3, weight, bias, run.scratch, self._stride, _side(size, run.side))
        return convolve(strips, kernel, write, size.height, self._edge(run), self._stride, self.border)

    def _edge(self, run: Run) -> Edge:
        if run.padding == "circular":
            return "wrap"
        if run.padding == "reflect":  # mirrored behind the doubling, an edge pixel stands beside itself
            return "repeat" if self._ups else "reflect"
        return "zeros"

    def _write(self, before: Point, run: Run) -> Write:
        if not self.normalises:
            return {"none": copy, "relu": relu}[self.activation]
        activate, fuses = {"silu": _silu, "relu": torch.relu_}[self.activation], fused.fuses(run.device, run.dtype)
        if self.norm is None:
            gain = live_gain(self.pixel_norm, run.like)
            return fused.pixel_normed(gain, self.activation, LEAST) if fuses else pixel_normed(gain, activate)
        affine = run.affine(before, self.norm)
        return fused.normed(*affine, self.activation) if fuses else normed(*affine, activate)

    def _shortcut(
        self, bias: Tensor | None, weight_factor: float, bias_factor: float, run: Run
    ) -> tuple[Tensor | None, Tensor | None]:
        """The skip's weight (C, C') and the sum of both biases."""
        if self.skip is None:
            return None, bias
        weight, skip_bias = live_weight(self.skip, run.like, weight_factor, bias_factor)
        both = skip_bias if bias is None else bias if skip_bias is None else bias + skip_bias
        return weight.flatten(1).t().contiguous(), both

    # --- price

    def cost(self, size: Size, terms: Terms) -> Price:
        """What the step takes of a pass, for an input of these sizes."""
        found = self.behind(size)
        made, line = self.c_out * found.area, self.c_in * (size.width + 2)
        buffer = self.c_in * (size.longest + 2) * (size.width + 2) if self._lag else self.c_in * size.area
        weights, scratch, products, extra = self._kernel_cost(size, found, terms)
        work = self.c_in * self.c_out * products * found.pixels
        carried = 2 * line * self._lag
        if self.closes:
            waits = size.waiting // max(1, size.opened_rows)
            carried += 2 * waits * (size.over + self._lag - size.opened_over)
        weights += 2 * self._skipped
        work += self._skipped * found.pixels
        if self.ends is not None:
            # a doubled lag of a strided convolution, what is taken out of the queue together, and what is made of it
            carried += 2 * size.level_row * (size.level_lag + 2 * self._stride)
            extra += 3 * size.level
        extra += size.level
        if terms.half and not fused.fuses(terms.device, terms.dtype):
            # its moments are taken in float32, and so is what is normalised
            extra += 2 * made * terms.measures + (6 * self.c_in * size.area if self.normalises else 0)
        return Price(carried, weights, size.waiting + self.c_in * size.area + buffer + extra + made, scratch, work)

    def _kernel_cost(self, size: Size, found: Size, terms: Terms) -> tuple[int, int, float, int]:
        """Numbers in the weights made ready and in the scratch buffer, products per pixel, numbers beside the strip."""
        fast = self._lag and self._stride == 1
        if fast and transformed(terms.device, terms.dtype, self.c_in, self.c_out, self._ups):
            rows = size.longest + 1
            side = _side(size, terms.side)
            return *workspace(self.c_in, self.c_out, self._ups, side, rows, size.width), 0
        numbers, taps = prod(self._shape), float(self._shape[2])
        if not self._lag:
            return numbers, 0, taps, 0
        doubled, read = 0, self.c_in * size.area
        if self._ups and folds(terms.device):
            # its taps are put together in float32
            numbers, taps = self.c_in * self.c_out * 3 * FOLDED_TAPS, FOLDED_TAPS / 4
        elif self._ups:
            doubled, read = 6 * self.c_in * size.area, self.c_in * found.area
        made = self.c_out * found.area
        # a convolution may return another memory format
        return numbers, 0, taps, doubled + made + beside_direct(terms.device, read + made)

    # --- range

    def bound(self, before: Point, x: Point | None, run: Run) -> Point:
        """What is known of the result before it is measured; `x` is what waits, where the step closes a block."""
        amplitude, magnitudes = before.amplitude, run.constants.magnitudes
        if run.dtype != torch.float16 or amplitude is None or self.pixel_norm is not None:
            return Point()
        if self.norm is not None:
            assert before.moments is not None, "a norm's input is always measured first"
            scale, shift = norm_affine(before.moments, self.norm, before.exponent, run.constants)
            amplitude = precision.activated_amplitude(before.moments, scale, shift)
        bound = precision.convolved_amplitude(magnitudes(self.conv), amplitude)
        if self.closes:
            waits = x.amplitude if x is not None else None
            if waits is None:
                return Point()
            skipped = waits if self.skip is None else precision.convolved_amplitude(magnitudes(self.skip), waits)
            bound = bound + skipped
        return Point(None, bound, precision.exponent_for(bound, run.dtype))


@dataclass(frozen=True, eq=False)
class Attend:
    """x + out(softmax(q·k / √C) v) over all positions, one head; q, k, v, out are 1×1 convolutions or linear."""

    norm: Any
    """A GroupNorm, or None."""
    q: Any
    k: Any
    v: Any
    out: Any
    pixel_norm: Any = None
    """The norm where there is no GroupNorm, as in `Convolve`."""

    whole: ClassVar[bool] = True
    begins: ClassVar[bool] = False
    opens: ClassVar[bool] = False
    closes: ClassVar[bool] = False
    resample: ClassVar[str] = "none"

    @cached_property
    def c_in(self) -> int:
        return int(self.q.weight.shape[1])

    @cached_property
    def c_out(self) -> int:
        return int(self.out.weight.shape[0])

    def modules(self) -> Iterator[nn.Module]:
        """Every module that holds parameters."""
        norm = self.pixel_norm if self.norm is None else self.norm
        yield from (norm, self.q, self.k, self.v, self.out)

    def behind(self, size: Size) -> Size:
        return size

    def attended(self, x: Map, before: Point, run: Run) -> Tensor:
        """The whole result, (H, W, C); the map is taken apart."""
        # Values are averages of v; out() of them is bounded like a convolution of the normalised map.
        exponents = (before.exponent, before.exponent)
        weights = (self.q, self.k, self.v, self.out)
        if self.norm is not None:
            normalise = affine(*run.affine(before, self.norm))
        else:
            normalise = partial(pixel_normalised, live_gain(self.pixel_norm, run.like))
        return attend(x.whole(), weights, normalise, run.attention_bytes, exponents, run.tick)

    def cost(self, size: Size, terms: Terms) -> Price:
        """Besides x: the normalised map, keys, values, the weights, and one chunk of queries with its scores."""
        numbers = attention_bytes(size.pixels, self.c_out, terms) // terms.item
        return Price(strip=numbers, work=4.0 * self.c_out**2 * size.pixels + 2.0 * size.pixels**2 * self.c_out)


Step = Convolve | Attend


def _side(size: Size, side: int) -> int:
    """Of a Winograd tile: strips lower than one would fill it up with zeros."""
    return side if size.rows >= side else min(SIDES)


def _adder(shortcut: Shortcut, waiting: Rows) -> Callable[[Tensor], Tensor]:
    """Add to each strip of a level's result what belongs to it."""

    def add(out: Tensor) -> Tensor:
        rows = list(waiting.take(shortcut.source_rows(out.shape[0])))
        shortcut.add(rows[0] if len(rows) == 1 else torch.cat(rows), out)
        return out

    return add


def _silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=True)


def _pointwise(weight: Tensor, bias: Tensor | None, write: Write) -> Callable[[Tensor], Tensor]:
    """A 1×1 convolution of a strip."""

    def run(x: Tensor) -> Tensor:
        if write is not copy:
            activated = torch.empty_like(x)
            write(x, activated)
            x = activated
        return F.linear(x, weight, bias)

    return run
