"""Interpret a plan: stream a picture or a latent through the stages of a chain, pass by pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain as concat

import torch
from torch import Tensor

from vae_manager.codec.streaming import precision
from vae_manager.codec.streaming.attention import attend
from vae_manager.codec.streaming.heap import Heap
from vae_manager.codec.streaming.kernels import Kernel, Scratch, conv3x3, live_weight, upsampled_conv3x3
from vae_manager.codec.streaming.moments import Moments, merge, norm_affine, strip_moments
from vae_manager.codec.streaming.passes import Pass, Step
from vae_manager.codec.streaming.strips import Map, Rows, Strips, Write, adder, convolve, copy, crop, norm_silu, split
from vae_manager.codec.streaming.structure import Stage


class NotFinite(ArithmeticError):
    """A map overflowed the dtype: the picture must be computed in a wider one."""


@dataclass(frozen=True)
class Point:
    """What is known of a map once it has been measured, or bounded."""

    moments: Moments | None
    amplitude: Tensor
    """(C,), float64: how large each channel gets."""
    exponent: int = 0
    """The map is stored and computed as x·2^−exponent."""


@dataclass(frozen=True)
class Run:
    """What every pass of a run needs to know."""

    device: torch.device
    dtype: torch.dtype
    storage: torch.device
    """Where maps live between passes."""
    wraps: bool
    attention_bytes: int
    side: int
    """Of a Winograd tile."""
    tick: Callable[[float], None]
    """Called after every strip with the share of the pass that is done; may raise to stop."""
    heap: Heap
    scratch: Scratch = field(default_factory=Scratch)

    @property
    def like(self) -> Tensor:
        return torch.empty(0, device=self.device, dtype=self.dtype)


def run_stage(
    stage: Stage,
    steps: tuple[Step, ...],
    passes: tuple[Pass, ...],
    rows: int,
    source: Map,
    point: Point,
    run: Run,
    emit: Callable[[Tensor], None],
    begin: Callable[[], None],
) -> tuple[Map, Point]:
    """Take a map through one stage.

    Args:
        rows: strip height at this stage's resolution.
        source, point: the map that enters, and what is known of it.
        emit: takes the strips of the last convolution, from top to bottom.
        begin: called before each pass.

    Returns:
        the map that leaves (empty behind the last convolution) and what is known of it.

    Raises:
        NotFinite: a map overflowed.
    """
    points: dict[int, Point] = {-1: point}
    x, h = source, Map(0, run.device)
    for todo in passes:
        begin()
        last = steps[todo.last]
        if last.kind == "attend":
            x, points[todo.last] = _attend_pass(last, x, points[todo.last - 1], run)
            continue
        strips, height = _pipeline(stage, steps, todo, rows, x, h, points, run)
        if last.kind == "out":
            for strip in strips:
                emit(strip)
                run.tick(strip.shape[0] / height)
                del strip
            return Map(0, run.device), point
        result = Map(height, run.device, run.storage)
        measured = []
        for strip in strips:
            measured.append(strip_moments(strip))
            if todo.keeps:
                result.append(strip)
            run.tick(strip.shape[0] / height)
            del strip
        del strips  # and with it the weights that this pass made ready
        points[todo.last] = _measured(merge(measured), points[todo.last].exponent, run)
        if todo.keeps and last.kind == "open":
            h = result
        elif todo.keeps:
            x = result
    return x, points[len(steps) - 1]


def _measured(moments: Moments, exponent: int, run: Run) -> Point:
    if run.dtype in (torch.float16, torch.bfloat16) and not moments.finite:
        raise NotFinite
    true = Moments(moments.count, moments.mean * 2.0**exponent, moments.var * 4.0**exponent)
    return Point(moments, precision.amplitude(true), exponent)


def _attend_pass(step: Step, x: Map, before: Point, run: Run) -> tuple[Map, Point]:
    scale, shift = _affine(before, step.layer.norm, run)
    # Values are averages of v; out() of them is bounded like a convolution of the normalised map.
    exponent = before.exponent
    whole = attend(x.whole(), step.layer, scale, shift, run.attention_bytes, (exponent, exponent), run.tick)
    result = Map(whole.shape[0], run.device, run.storage)
    moments = merge([strip_moments(whole)])
    result.append(whole)
    return result, _measured(moments, exponent, run)


def _pipeline(
    stage: Stage,
    steps: tuple[Step, ...],
    todo: Pass,
    rows: int,
    x: Map,
    h: Map,
    points: dict[int, Point],
    run: Run,
) -> tuple[Strips, int]:
    """The lazily computed strips of a pass, and the height of the map that they make up."""
    doing = steps[todo.first : todo.last + 1]
    kinds = [step.kind for step in doing]
    margin = _margin(kinds, todo.reads_h) if run.wraps else 0
    height = x.height
    strips = x.read(max(1, rows // 2) if doing[0].kind == "up" else rows, margin, todo.frees)
    i = todo.first
    while i <= todo.last:
        step, before = steps[i], points[i - 1]
        if i not in points:
            points[i] = _bounded(stage, step, points, i, run)
        after = points[i]
        if step.kind in ("in", "up"):
            strips = convolve(strips, _kernel(step, before, after, run), copy, height, run.wraps)
            height, margin = (2 * height, 2 * (margin - 1)) if step.kind == "up" else (height, margin - 1)
        elif step.kind == "open" and i == todo.last:
            strips = convolve(strips, _kernel(step, None, after, run), _open(step, before, run), height, run.wraps)
            margin -= 1
        elif step.kind == "open":
            i += 1
            if i not in points:
                points[i] = _bounded(stage, steps[i], points, i, run)
            reads_h = todo.reads_h and "open" not in kinds[i - todo.first :]
            stored = h.read(rows, margin if run.wraps else 0, free=True) if reads_h else None
            strips = split(_residual(strips, stored, step, before, after, points[i], height, run), rows)
            margin -= 1 if stored is not None else 2
        elif step.kind == "down":
            strips = crop(strips, margin, height) if run.wraps else strips
            strips = convolve(strips, _kernel(step, before, after, run, stride=2), copy, height, False, 2, border=False)
            height, margin = height // 2, 0
        else:
            strips = convolve(
                strips,
                _kernel(step, None, after, run),
                _activate(before, stage.norm_out, run),
                height,
                run.wraps,
            )
            margin -= 1
        i += 1
    return (crop(strips, margin, height) if run.wraps else strips), height


def _residual(
    strips: Strips,
    stored: Strips | None,
    step: Step,
    before: Point,
    inner: Point,
    after: Point,
    height: int,
    run: Run,
) -> Strips:
    """A whole residual block: h is made from x, or read (`stored`); x waits in a queue until its rows are due."""
    block, waiting = step.layer, Rows()
    if stored is None:
        h = convolve(
            map(waiting.put, strips),
            _kernel(step, None, inner, run),
            _open(step, before, run),
            height,
            run.wraps,
        )
        lag = 2
    else:
        h, lag = _in_step(strips, stored, waiting), 1
    factor = 2.0**-after.exponent
    weight, bias = live_weight(block.conv2, run.like, factor, factor)
    shortcut = None
    if block.skip is not None:
        shortcut, skip_bias = live_weight(block.skip, run.like, 2.0 ** (before.exponent - after.exponent), factor)
        shortcut = shortcut.flatten(1).t().contiguous()
        bias = skip_bias if bias is None else bias if skip_bias is None else bias + skip_bias
    activate = _activate(inner, block.norm2, run)
    add = adder(waiting, lag if run.wraps else 0, shortcut, 2.0 ** (before.exponent - after.exponent))
    kernel = run.heap.watched(conv3x3, weight, bias, run.scratch, 1, run.side)
    return map(add, convolve(h, kernel, activate, height, run.wraps))


def _in_step(strips: Strips, stored: Strips, waiting: Rows) -> Strips:
    """Rows of a stored h, as many as there are rows of x."""
    available = Rows()

    def rows_beside(x: Tensor) -> Strips:
        need = waiting.put(x).shape[0] - available.count
        while need > 0:
            need -= available.put(next(stored)).shape[0]
        return available.take(x.shape[0])

    return concat.from_iterable(map(rows_beside, strips))


def _kernel(step: Step, before: Point | None, after: Point, run: Run, stride: int = 1) -> Kernel:
    """The convolution of a step; `before` is None where a norm comes before it, which undoes any exponent."""
    conv = step.layer.conv1 if step.kind == "open" else step.layer
    incoming = 0 if before is None else before.exponent
    weight, bias = live_weight(conv, run.like, 2.0 ** (incoming - after.exponent), 2.0**-after.exponent)
    if step.kind == "up":
        return run.heap.watched(upsampled_conv3x3, weight, bias, run.scratch)
    return run.heap.watched(conv3x3, weight, bias, run.scratch, stride, run.side)


def _open(step: Step, before: Point, run: Run) -> Write:
    return _activate(before, step.layer.norm1, run)


def _activate(before: Point, norm: object, run: Run) -> Write:
    return norm_silu(*_affine(before, norm, run))


def _affine(before: Point, norm: object, run: Run) -> tuple[Tensor, Tensor]:
    assert before.moments is not None, "a norm's input is always measured first"
    dtype = run.dtype if run.dtype == torch.float64 else torch.float32
    scale, shift = norm_affine(before.moments, norm, before.exponent)
    return scale.to(run.device, dtype), shift.to(run.device, dtype)


def _bounded(stage: Stage, step: Step, points: dict[int, Point], i: int, run: Run) -> Point:
    """A point that has not been measured yet: a bound of its amplitude, and the exponent that follows."""
    before = points[i - 1]
    if run.dtype != torch.float16:
        return Point(None, before.amplitude)
    if step.kind in ("in", "up", "down"):
        bound = precision.convolved_amplitude(step.layer, before.amplitude)
    elif step.kind == "out":
        return Point(None, before.amplitude)
    else:
        block = step.layer
        norm, conv = (block.norm1, block.conv1) if step.kind == "open" else (block.norm2, block.conv2)
        assert before.moments is not None
        scale, shift = norm_affine(before.moments, norm, before.exponent)
        bound = precision.convolved_amplitude(conv, precision.activated_amplitude(before.moments, scale, shift))
        if step.kind == "close":
            x = points[i - 2].amplitude
            bound = bound + (x if block.skip is None else precision.convolved_amplitude(block.skip, x))
    return Point(None, bound, precision.exponent_for(bound, run.dtype))


def _margin(kinds: list[str], reads_h: bool) -> int:
    """How many extra rows a wrapped stream needs at each end of its source so that none is missing at the end."""
    needed = 0
    for n, kind in reversed(list(enumerate(kinds))):
        if kind == "down":
            needed = 0  # pads with zeros below: the stream is cropped before it
        elif kind == "up":
            needed = (needed + 1) // 2 + 1
        elif not (kind == "open" and reads_h and "open" not in kinds[n + 1 :]):
            needed += 1
    return needed
