"""Interpret a plan: stream a picture or a latent through the stages of a chain, pass by pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain as concat
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_manager.codec.streaming import fused, precision
from vae_manager.codec.streaming.chain import Chain, Stage
from vae_manager.codec.streaming.constants import Constants
from vae_manager.codec.streaming.flow import SPARE, Flow, NotFinite, Point, Run, Size, Waiting
from vae_manager.codec.streaming.heap import Heap
from vae_manager.codec.streaming.kernels import live_weight
from vae_manager.codec.streaming.moments import Moments, home, merge, strip_moments
from vae_manager.codec.streaming.passes import Keep, Pass, passes
from vae_manager.codec.streaming.plan import Plan, entering, pass_margin
from vae_manager.codec.streaming.squares import as_pixels, as_squares
from vae_manager.codec.streaming.steps import Attend, Convolve, Step
from vae_manager.codec.streaming.strips import Map, Rows, Stored, Strips, crop

HALF = (torch.float16, torch.bfloat16)


class Progress(Protocol):
    """Who is told how far a run is; either may raise to stop it."""

    def begin(self) -> None:
        """A pass begins."""
        ...

    def tick(self, share: float) -> None:
        """A strip is done, which was this share of its pass."""
        ...


def stream(chain: Chain, picture: Tensor, plan: Plan, emit: Callable[[Tensor], None], progress: Progress) -> None:
    """Stream one input (C, H, W): strips (rows, W, C) of the result go to `emit` from top to bottom.

    Raises:
        NotFinite: a map overflowed.
    """
    x = picture.to(plan.device, plan.dtype)
    x = x if chain.decodes else as_squares(x, chain.square, chain.columns_first)
    x = x.permute(1, 2, 0).contiguous()
    x = x if chain.enter is None else chain.enter(x)
    x = x if chain.pre is None else _pointwise(x, chain.pre)
    bounded = chain.rescales and plan.dtype == torch.float16
    amplitude = x.abs().amax(dim=(0, 1)).to("cpu").double() if bounded else None
    source, point = Map(x.shape[0], plan.device), Point(None, amplitude)
    source.append(x)
    del x

    def finish(strip: Tensor) -> None:
        strip = strip if chain.post is None else _pointwise(strip, chain.post)
        if chain.decodes and chain.square > 1:
            strip = as_pixels(strip.permute(2, 0, 1), chain.square, chain.columns_first).permute(1, 2, 0)
        emit(strip if chain.leave is None else chain.leave(strip))

    heap = Heap(plan.peak_bytes, plan.device)
    norms = (step.norm for step in chain.steps if step.norm is not None)
    constants = Constants(norms, home(plan.device, plan.dtype))
    run = Run(
        plan.device, plan.dtype, chain.padding, plan.attention_bytes, plan.sides[0], progress.tick, heap, constants
    )
    grids, level = chain.grids(*plan.shape[2:]), None
    for n, stage in enumerate(chain.stages):
        last = n + 1 == len(chain.stages)
        if chain.beside[n] in (None, n):
            level = source.shared() if chain.beside[n] == n else None
        staged = _Stage(
            stage,
            entering(stage, grids[n], plan.rows[n]),
            replace(run, side=plan.sides[n]),
            plan.storage,
            None if last else chain.stages[n + 1].steps[0],
            chain.rescales,
            finish if last else None,
            level if chain.beside[n] != n else None,
            {-1: point},
        )
        source, point = staged.stream(source, plan.keeps[n], progress.begin)


def _pointwise(x: Tensor, conv: object) -> Tensor:
    """A 1×1 convolution of a channels-last strip."""
    weight, bias = live_weight(conv, x)
    return F.linear(x, weight.flatten(1), bias)


@dataclass(frozen=True)
class _Stage:
    """A stage at work."""

    stage: Stage
    size: Size
    """Of the map that enters."""
    run: Run
    storage: torch.device
    """Where maps live between passes."""
    following: Step | None
    """The first step behind this stage."""
    rescales: bool
    """As in the chain."""
    emit: Callable[[Tensor], None] | None
    """Takes the strips of the last stage's result."""
    level: Map | None
    """The input of a level that has begun in an earlier stage."""
    points: dict[int, Point] = field(default_factory=dict)
    """What is known of the map behind each step; of the one that enters at −1."""

    def stream(self, x: Map, keep: Keep, begin: Callable[[], None]) -> tuple[Map, Point]:
        """Take a map through the stage.

        Returns:
            the map that leaves (empty behind the last stage), and what is known of it.
        """
        h, end = Map(0, self.run.device), len(self.stage.steps) - 1
        for todo in passes(self.stage.steps, keep):
            begin()
            last = self.stage.steps[todo.last]
            if isinstance(last, Attend):
                x = self._attend(last, x, todo.last)
                continue
            # a flow holds the weights that its pass has made ready: nothing in here may outlive the pass
            if self.emit is not None and todo.last == end:
                self._finish(self._flow(todo, x, h), self.emit)
                return Map(0, self.run.device), Point()
            result = self._measure(self._flow(todo, x, h), todo)
            if todo.keeps and last.opens:
                h = result
            elif todo.keeps:
                x = result
        return x, self.points[end]

    def _finish(self, flow: Flow, emit: Callable[[Tensor], None]) -> None:
        for strip in flow.strips:
            emit(strip)
            self.run.tick(strip.shape[0] / flow.size.height)
            del strip

    def _measure(self, flow: Flow, todo: Pass) -> Map:
        """Run a pass: what is known of its map is noted, and the map is kept where it has to be."""
        result, parts = Map(flow.size.height, self.run.device, self.storage), []
        measures = self._is_measured(todo.last)
        for strip in flow.strips:
            if measures:
                parts.append(self._moments(strip))
            if todo.keeps:
                result.append(strip)
            self.run.tick(strip.shape[0] / flow.size.height)
            del strip
        if measures:
            self.points[todo.last] = self._measured(parts, flow.point.exponent)
        return result

    def _is_measured(self, i: int) -> bool:
        """Do a norm, or the powers of two of half precision, need the statistics of the map behind step `i`?"""
        steps = self.stage.steps
        following = steps[i + 1] if i + 1 < len(steps) else self.following
        return (self.rescales and self.run.dtype in HALF) or (following is not None and following.norm is not None)

    def _moments(self, strip: Tensor) -> tuple[int, Tensor, Tensor]:
        return fused.moments(strip) if fused.fuses(self.run.device, self.run.dtype) else strip_moments(strip)

    def _measured(self, parts: list[tuple[int, Tensor, Tensor]], exponent: int) -> Point:
        where = home(self.run.device, self.run.dtype)
        moments = merge(parts, where)
        if where.type == "cpu" and self.run.dtype in HALF and not moments.finite:
            raise NotFinite  # elsewhere the result tells, which NaN of any map have reached by then
        if self.run.dtype != torch.float16:
            return Point(moments, None, exponent)
        true = Moments(moments.count, moments.mean * 2.0**exponent, moments.var * 4.0**exponent)
        return Point(moments, precision.amplitude(true), exponent)

    def _attend(self, step: Attend, x: Map, i: int) -> Map:
        before = self.points[i - 1]
        whole = step.attended(x, before, self.run)
        result = Map(whole.shape[0], self.run.device, self.storage)
        self.points[i] = Point()
        if self.rescales or self._is_measured(i):
            self.points[i] = self._measured([self._moments(whole)], before.exponent)
        result.append(whole)
        return result

    def _flow(self, todo: Pass, x: Map, h: Map) -> Flow:
        """The strips of a pass, on their way through its steps."""
        steps, wraps = self.stage.steps, self.run.wraps
        margin = pass_margin(steps, todo) if wraps else 0
        size = self.stage.sizes(self.size)[todo.first]._replace(over=SPARE, margin=margin)
        flow = Flow(x.read(size.rows, margin, todo.frees), size, self.points[todo.first - 1])
        for i in range(todo.first, todo.last + 1):
            step = steps[i]
            assert isinstance(step, Convolve), "attention is a pass of its own"
            if i not in self.points:
                self.points[i] = self._bounded(step, flow, i)
            if step.begins:
                flow = flow.begun()
            elif step.ends is not None and flow.level is None:
                assert self.level is not None, "a level has begun before it ends"
                stored = Stored(self.level.read(size.rows, free=True))
                flow = replace(flow, level=Waiting(stored, Point(), 0))
            if step.opens and i < todo.last:
                flow = flow.opened()
            if i == todo.reads:
                stored = h.read(flow.size.rows, flow.size.margin, free=True)
                flow = replace(flow, strips=_in_step(flow, stored), point=self.points[i])
            else:
                flow = step.run(flow, self.points[i], self.run)
        return replace(flow, strips=crop(flow.strips, flow.size.margin, flow.size.height)) if wraps else flow

    def _bounded(self, step: Convolve, flow: Flow, i: int) -> Point:
        """What is known of the map behind step `i` before it is measured. The result itself is never rescaled."""
        if self.emit is not None and i + 1 == len(self.stage.steps):
            return Point(None, flow.point.amplitude)
        return step.bound(flow.point, flow.x.point if flow.x is not None else None, self.run)


def _in_step(flow: Flow, stored: Strips) -> Strips:
    """Rows of a stored h, as many as there are rows of the x that waits."""
    available = Rows()

    def rows_beside(x: Tensor) -> Strips:
        need = x.shape[0] - available.count
        while need > 0:
            need -= available.put(next(stored)).shape[0]
        return available.take(x.shape[0])

    return concat.from_iterable(map(rows_beside, flow.strips))
