"""Say why a picture is washed out, and which map undoes it: the most trustworthy evidence wins.

NaN or black → a known fault of the VAE → the calibrated map of this checkpoint and VAE → an aligned reference →
the VAE's own round trip → the session's pool → the picture alone. Nothing here changes a pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vae_manager.color.blind import SURE, abstains, judge, looks_right
from vae_manager.color.evidence import Evidence, Finding, Reference
from vae_manager.color.faults import TOO_STRONG, WASHED_OUT
from vae_manager.color.matrix import is_identity
from vae_manager.color.pool import MIN_PICTURES, MIN_VETO, Ends, Verdict, different, too_strong, verdict
from vae_manager.color.reference import MAX_RESIDUAL, fit_reference
from vae_manager.color.statistics import Statistics, statistics

if TYPE_CHECKING:
    from vae_manager.color.trip import Undoing

BLACK = 4 / 255

DECODE_AGAIN = "decode again in bf16 or fp32"


NAN = Finding("nan", 1.0, "the picture holds NaN: the VAE cannot work in this precision", remedy=DECODE_AGAIN)


def diagnose(known: Evidence) -> Finding:
    """What is wrong with one picture, by the best of what is known."""
    seen = known.seen or statistics(known.pixels)
    if broken := _broken(seen):
        return broken
    score, blind_map = judge(seen)
    if (fault := known.fault) is not None:
        pale = fault.sentence.startswith(WASHED_OUT)
        return Finding(fault.cause, 1.0, fault.sentence, washed_out=pale, score=score, remedy=fault.remedy)
    if (calibration := known.calibration) is not None:
        looks = f"{WASHED_OUT}: " if _pale(calibration) else f"{TOO_STRONG}: " if _strong(calibration) else ""
        reason = f"{looks}this checkpoint's VAE was calibrated against a reference VAE"
        return Finding("calibration", 0.98, reason, calibration, clips=True, washed_out=_pale(calibration), score=score)
    note = ""
    if (reference := known.reference) is not None:
        found = fit_reference(known.pixels, reference.pixels, reference.changed)
        if found.matrix is not None:
            return _by_reference(found.matrix, found.residual, score, reference.called)
        note = f"; {reference.called} shows something else and was not used"
    own = different(known.pool)
    if known.trip is not None and not too_strong(own):
        return _by_trip(known.trip, score, note)
    if len(own) >= MIN_VETO and (by_pool := _by_pool(own, score, note)) is not None:
        return by_pool
    return _by_picture(seen, score, blind_map, note)


def match(pixels: Tensor, reference: Reference) -> Finding | None:
    """The map to the colours of a reference, whatever else is known; None where it shows something else."""
    seen = statistics(pixels)
    if broken := _broken(seen):
        return broken
    found = fit_reference(pixels, reference.pixels, reference.changed)
    if found.matrix is None:
        return None
    return _by_reference(found.matrix, found.residual, judge(seen)[0], reference.called)


def looks_fine(pixels: Tensor) -> bool:
    """Whether a picture says by itself that nothing is wrong: not one of which nothing can be said."""
    seen = statistics(pixels)
    return not _broken(seen) and abstains(seen) is None and looks_right(judge(seen)[0])


def _broken(seen: Statistics) -> Finding | None:
    if not seen.finite:
        return NAN
    if seen.ceilings[0] < BLACK:
        reason = "the picture is black: most likely the VAE failed in half precision"
        return Finding("black", 1.0, reason, remedy=DECODE_AGAIN)
    return None


def _by_reference(matrix: Tensor, residual: float, score: float, called: str) -> Finding:
    confidence = 1 - 0.5 * residual / MAX_RESIDUAL
    if is_identity(matrix):
        return Finding("none", confidence, f"its colours agree with {called}", score=score)
    pale = _pale(matrix)
    looks = WASHED_OUT if pale else TOO_STRONG if _strong(matrix) else "colours shifted"
    reason = f"{looks}, held against {called}"
    return Finding("reference", confidence, reason, matrix, washed_out=pale, score=score)


def _by_trip(undone: Undoing, score: float, note: str) -> Finding:
    """The VAE's own round trip: what it gives back paler is its fault, and what it gives back is its pictures' look."""
    if undone.nothing:
        reason = f"left alone: in a round trip its VAE gave black and white back{note}"
        return Finding("none", 0.95, reason, score=score)
    reason = f"{WASHED_OUT}: its VAE gives pictures back paler than they were{note}"
    return Finding("round trip", 0.95, reason, undone.matrix, undone.curve, clips=True, washed_out=True, score=score)


def _by_pool(own: list[Statistics], score: float, note: str) -> Finding | None:
    """The pool's word; None where it finds a fault, but is too small to be trusted with its measure."""
    count = len(own)
    if too_strong(own):
        reason = f"{TOO_STRONG}: most of {count} pictures of this session are driven beyond black and white{note}"
        remedy = "look at the scale that latents are divided by; what was clipped cannot be brought back"
        return Finding("session", 1 - 1 / count, reason, score=score, remedy=remedy)
    found = verdict(own)
    if is_identity(found.matrix):
        return Finding("none", 1 - 1 / count, f"{_nothing_seen(found.ends, count)}{note}", score=score)
    if count < MIN_PICTURES:
        return None
    reason = f"{WASHED_OUT}: {_lacking(found, count)}{note}"
    return Finding("session", 1 - 1 / count, reason, found.matrix, clips=True, washed_out=True, score=score)


def _lacking(found: Verdict, count: int) -> str:
    """What the pictures of a faulty VAE have in common."""
    reached = found.ends.reached or ""
    missing = " or ".join(name for name in ("black", "white") if getattr(found, name) and name not in reached)
    who = f"none of {count} pictures" if missing else f"hardly any of {count} pictures"
    overshot = ", and white by overshoot alone" if missing and found.white and "white" in reached else ""
    return f"{who} of this session reaches {missing or 'black'}{overshot}"


def _nothing_seen(found: Ends, count: int) -> str:
    """That nothing is done, and why; never that the VAE is sound: what overshoots reaches black and white through a
    flat one as well."""
    if found.reached == "black and white":
        return f"left alone: {count} pictures of this session reach black and white, as a mildly flat VAE's may, too"
    reached = f"only {found.reached}" if found.reached else "neither black nor white"
    return f"left alone: {count} pictures of this session reach {reached}, which may be their look"


def _by_picture(seen: Statistics, score: float, matrix: Tensor, note: str) -> Finding:
    if why := abstains(seen):
        return Finding("none", 0.5, f"left alone: {why}, so nothing can be said{note}", score=score)
    if is_identity(matrix):
        return Finding("none", 1 - score, f"not washed out, as far as one picture tells{note}", score=score)
    sure = "washed out" if score > SURE[1] else "probably washed out"
    reason = f"{sure}: nothing in it is near black or near white, and its colours are pale{note}"
    return Finding("picture", score, reason, matrix, washed_out=True, score=score)


def _pale(matrix: Tensor) -> bool:
    """Whether a map adds contrast: what it undoes was pale."""
    return bool(torch.linalg.svdvals(matrix[:, :3]).mean() > 1)


def _strong(matrix: Tensor) -> bool:
    """Whether a map takes contrast or chroma away throughout."""
    return bool(torch.linalg.svdvals(matrix[:, :3]).max() < 1)
