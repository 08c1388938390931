"""What is kept and what is computed again: a policy as passes over the steps of a stage.

A GroupNorm needs the statistics of its whole input before the first row of its output. So the picture is streamed
in passes: each ends at a map whose statistics are needed next (or that is kept), starts at the last map that was
kept, and computes what lies between again. Nothing else limits what may be kept: `Keep` says it, `passes` turns it
into the list that `run.py` interprets. A map that no norm follows is never kept: nothing would be computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vae_manager.codec.streaming.steps import Step

Mode = Literal["A", "B", "P", "C", "D"]

MODES: tuple[Mode, ...] = ("A", "B", "P", "C", "D")
"""From most memory and fewest computations to least memory; see `Keep.mode`."""


@dataclass(frozen=True)
class Keep:
    """Which full maps of a stage are held in memory between passes; the others are computed again."""

    head: bool
    """The map behind the head (in the decoder often the widest one)."""
    first_inner: bool
    """h, the map inside the first residual block."""
    inner: bool
    """h of the other residual blocks."""
    outer: bool
    """x between the residual blocks."""

    @property
    def mode(self) -> Mode:
        """The letter of the named policy; "B", between A and P, for every other mixture."""
        if not self.outer:
            return "D"
        named: list[Mode] = [mode for mode, keep in NAMED.items() if keep == self]
        return named[0] if named else "B"


NAMED: dict[Mode, Keep] = {
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
    reads: int | None
    """This step, which opens a residual block, takes its result h from the kept map instead of computing it."""
    keeps: bool
    """The result is stored, not only measured."""
    frees: bool
    """No later pass reads the starting map: each of its strips is dropped as it is read."""


def passes(steps: Sequence[Step], keep: Keep) -> tuple[Pass, ...]:
    """The passes over the steps of a stage under a policy."""
    last = len(steps) - 1
    opens = [i for i, step in enumerate(steps) if step.opens]
    ends: list[tuple[int, int, int | None, bool]] = []  # first, last, reads, keeps
    start, h_kept = 0, False
    for i, step in enumerate(steps):
        following = steps[i + 1] if i < last else None
        measured = following is not None and following.norm is not None
        if following is None or step.whole or following.whole:
            kept = True
        elif step.opens:
            kept = measured and (keep.first_inner if i == opens[0] else keep.inner)
        else:
            kept = measured and (keep.outer if step.closes else keep.head)
        if kept or measured:
            reads = max(n for n in opens if n <= i) if h_kept else None
            ends.append((start, i, reads, kept))
            h_kept = kept and step.opens
            if kept and not step.opens:
                start = i + 1
    return tuple(
        Pass(first, end, reads, keeps, frees=n + 1 == len(ends) or ends[n + 1][0] != first)
        for n, (first, end, reads, keeps) in enumerate(ends)
    )
