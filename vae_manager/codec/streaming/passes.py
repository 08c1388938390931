"""What is kept and what is computed again: a stage as steps, and a policy as passes over them.

The steps of one stage (one resolution), each ending in a map that the next one reads:

    in | up     the 3×3 convolution that brings the map to this resolution            → x
    open        norm1 → SiLU → conv1 of a residual block                              → h (beside x)
    close       norm2 → SiLU → conv2, plus x or its 1×1 shortcut                      → the next x
    attend      self-attention over the whole map                                     → the next x
    down | out  the strided convolution, or norm_out → SiLU → conv_out                → the stage's result

A GroupNorm needs the statistics of its whole input before the first row of its output. So the picture is streamed
in passes: each ends at a map whose statistics are needed next (or that is kept), starts at the last map that was
kept, and computes what lies between again. Nothing else limits what may be kept: `Keep` says it, `passes` turns it
into the list that `run.py` interprets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vae_manager.codec.streaming.structure import Attention, Block, Stage


@dataclass(frozen=True, eq=False)
class Step:
    """One step: its kind (above), its layer, and the channels of the map it reads and of the one it makes."""

    kind: str
    layer: Any
    c_in: int
    c_out: int


@dataclass(frozen=True)
class Keep:
    """Which full maps of a stage are held in memory between passes; the others are computed again."""

    head: bool
    """The map behind the head (in the decoder often the widest one)."""
    first_inner: bool
    """h of the first residual block."""
    inner: bool
    """h of the other residual blocks."""
    outer: bool
    """x between the residual blocks."""

    @property
    def mode(self) -> str:
        """The letter of the named policy; "B", between A and P, for every other mixture."""
        if not self.outer:
            return "D"
        return next((letter for letter, keep in NAMED.items() if keep == self), "B")


NAMED = {
    "A": Keep(head=True, first_inner=True, inner=True, outer=True),
    "B": Keep(head=True, first_inner=False, inner=True, outer=True),
    "P": Keep(head=False, first_inner=True, inner=False, outer=True),
    "C": Keep(head=False, first_inner=False, inner=False, outer=True),
    "D": Keep(head=False, first_inner=False, inner=False, outer=False),
}
"""The policies that people meet as modes, from most memory to least."""

POLICIES = (
    *(Keep(head, first, inner, True) for head in (True, False) for first in (True, False) for inner in (True, False)),
    NAMED["D"],
)


@dataclass(frozen=True)
class Pass:
    """Stream from the kept map that step `first` reads through step `last`."""

    first: int
    last: int
    reads_h: bool
    """The last open step of the pass takes h from the kept map instead of computing it."""
    keeps: bool
    """The result is stored, not only measured."""
    frees: bool
    """No later pass reads the starting map: each of its strips is dropped as it is read."""


def steps_of(stage: Stage, c_in: int) -> tuple[Step, ...]:
    """The steps of a stage that is entered by a map of `c_in` channels."""
    steps: list[Step] = []

    def add(kind: str, layer: Any, c_out: int) -> None:
        steps.append(Step(kind, layer, steps[-1].c_out if steps else c_in, c_out))

    if stage.head is not None:
        add("up" if stage.upsamples else "in", stage.head, _width(stage.head))
    for item in stage.items:
        if isinstance(item, Block):
            add("open", item, _width(item.conv1))
            add("close", item, _width(item.conv2))
        else:
            assert isinstance(item, Attention)
            add("attend", item, _width(item.out))
    if stage.tail is not None:
        add("out" if stage.norm_out is not None else "down", stage.tail, _width(stage.tail))
    return tuple(steps)


def _width(conv: Any) -> int:
    return int(conv.weight.shape[0])


def passes(kinds: tuple[str, ...], keep: Keep) -> tuple[Pass, ...]:
    """The passes over steps of these kinds under a policy."""
    last = len(kinds) - 1
    first_open = kinds.index("open") if "open" in kinds else -1
    ends: list[tuple[int, int, bool, bool]] = []  # first, last, reads_h, keeps
    start, h_kept = 0, False
    for i, kind in enumerate(kinds):
        following = kinds[i + 1] if i < last else "end"
        if kind == "open":
            kept = keep.first_inner if i == first_open else keep.inner
        elif i == last or kind == "attend" or following == "attend":
            kept = True
        elif kind in ("in", "up"):
            kept = keep.head
        else:
            kept = keep.outer and following != "down"
        if kept or following in ("open", "close", "out"):
            ends.append((start, i, h_kept, kept))
            h_kept = kept and kind == "open"
            if kept and kind != "open":
                start = i + 1
    return tuple(
        Pass(first, end, reads_h, keeps, frees=n + 1 == len(ends) or ends[n + 1][0] != first)
        for n, (first, end, reads_h, keeps) in enumerate(ends)
    )
