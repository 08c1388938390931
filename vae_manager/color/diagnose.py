"""Say why a picture is washed out, and which map undoes it: the most trustworthy evidence wins.

NaN or black → a known fault of the VAE → the calibrated map of this checkpoint and VAE → an aligned reference →
the session's pool → the picture alone. Nothing here changes a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vae_manager.color.blind import SURE, abstains, judge, looks_right
from vae_manager.color.faults import TOO_STRONG, WASHED_OUT, Fault
from vae_manager.color.matrix import identity, is_identity
from vae_manager.color.pool import MIN_PICTURES, MIN_VETO, different, pooled_map, too_strong
from vae_manager.color.reference import MAX_RESIDUAL, fit_reference
from vae_manager.color.statistics import Statistics, statistics

BLACK = 4 / 255

REFERENCE = "the reference"

DECODE_AGAIN = "decode again in bf16 or fp32"


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was found, in words, and the map that undoes it (the identity: leave the picture alone)."""

    cause: str
    """'none', 'nan', 'black', a `Fault`'s cause, 'calibration', 'reference', 'session' or 'picture'."""
    confidence: float
    """0 to 1."""
    reason: str
    """For the user, without a full stop."""
    matrix: Tensor = field(default_factory=identity)
    """(3, 4) float64 on gamma RGB in [0, 1]."""
    washed_out: bool = False
    score: float = 0.0
    """How washed out the picture looks by itself, 0 to 1, whatever else is known."""
    remedy: str | None = None
    """What to do instead of touching pixels, where there is something."""

    @property
    def corrects(self) -> bool:
        """Whether there is anything to apply."""
        return not is_identity(self.matrix)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "washed_out": self.washed_out,
            "score": round(self.score, 4),
            "cause": self.cause,
            "confidence": round(self.confidence, 4),
            "reason": self.reason,
            "remedy": self.remedy,
            "matrix": [[round(value, 6) for value in row] for row in self.matrix.tolist()],
        }


NAN = Diagnosis("nan", 1.0, "the picture holds NaN: the VAE cannot work in this precision", remedy=DECODE_AGAIN)


def diagnose(
    pixels: Tensor,
    fault: Fault | None = None,
    calibration: Tensor | None = None,
    reference: Tensor | None = None,
    changed: Tensor | None = None,
    pool: Sequence[Statistics] = (),
    called: str = REFERENCE,
    seen: Statistics | None = None,
) -> Diagnosis:
    """Diagnose one picture (3, H, W), gamma RGB in [0, 1].

    Args:
        fault: what is known to be wrong with the decoding (`color.faults`).
        calibration: the map measured for this checkpoint and VAE.
        reference: a picture of the same thing with the right colours, of any size.
        changed: (H, W), 1 where the picture was meant to differ from the reference.
        pool: statistics of pictures of the same checkpoint and VAE, oldest first; this one may be among them.
        called: what the reference is, for the user.
        seen: the picture's statistics, where they are known.
    """
    seen = seen or statistics(pixels)
    if broken := _broken(seen):
        return broken
    score, blind_map = judge(seen)
    if fault is not None:
        pale = fault.sentence.startswith(WASHED_OUT)
        return Diagnosis(fault.cause, 1.0, fault.sentence, washed_out=pale, score=score, remedy=fault.remedy)
    if calibration is not None:
        looks = f"{WASHED_OUT}: " if _pale(calibration) else f"{TOO_STRONG}: " if _strong(calibration) else ""
        reason = f"{looks}this checkpoint's VAE was calibrated against a reference VAE"
        return Diagnosis("calibration", 0.98, reason, calibration, _pale(calibration), score)
    note = ""
    if reference is not None:
        found = fit_reference(pixels, reference, changed)
        if found.matrix is not None:
            return _by_reference(found.matrix, found.residual, score, called)
        note = f"; {called} shows something else and was not used"
    own = different(pool)
    if len(own) >= MIN_VETO and (by_pool := _by_pool(own, score, note)) is not None:
        return by_pool
    return _by_picture(seen, score, blind_map, note)


def match(
    pixels: Tensor, reference: Tensor, changed: Tensor | None = None, called: str = REFERENCE
) -> Diagnosis | None:
    """The map to the colours of a reference, whatever else is known; None where it shows something else."""
    seen = statistics(pixels)
    if broken := _broken(seen):
        return broken
    found = fit_reference(pixels, reference, changed)
    return None if found.matrix is None else _by_reference(found.matrix, found.residual, judge(seen)[0], called)


def looks_fine(pixels: Tensor) -> bool:
    """Whether a picture says by itself that nothing is wrong: not one of which nothing can be said."""
    seen = statistics(pixels)
    return not _broken(seen) and abstains(seen) is None and looks_right(judge(seen)[0])


def _broken(seen: Statistics) -> Diagnosis | None:
    if not seen.finite:
        return NAN
    if seen.ceilings[0] < BLACK:
        reason = "the picture is black: most likely the VAE failed in half precision"
        return Diagnosis("black", 1.0, reason, remedy=DECODE_AGAIN)
    return None


def _by_reference(matrix: Tensor, residual: float, score: float, called: str) -> Diagnosis:
    confidence = 1 - 0.5 * residual / MAX_RESIDUAL
    if is_identity(matrix):
        return Diagnosis("none", confidence, f"its colours agree with {called}", score=score)
    pale = _pale(matrix)
    looks = WASHED_OUT if pale else TOO_STRONG if _strong(matrix) else "colours shifted"
    return Diagnosis("reference", confidence, f"{looks}, held against {called}", matrix, pale, score)


def _by_pool(own: list[Statistics], score: float, note: str) -> Diagnosis | None:
    """The pool's word; None where it finds a fault, but is too small to be trusted with its measure."""
    matrix, count = pooled_map(own), len(own)
    if too_strong(own):
        reason = f"{TOO_STRONG}: most of {count} pictures of this session are driven beyond black and white{note}"
        remedy = "look at the scale that latents are divided by; what was clipped cannot be brought back"
        return Diagnosis("session", 1 - 1 / count, reason, score=score, remedy=remedy)
    if is_identity(matrix):
        reason = f"{count} pictures of this session reach black or white, so the VAE does what it should{note}"
        return Diagnosis("none", 1 - 1 / count, reason, score=score)
    if count < MIN_PICTURES:
        return None
    reason = f"{WASHED_OUT}: none of {count} pictures of this session reaches black or white{note}"
    return Diagnosis("session", 1 - 1 / count, reason, matrix, True, score)


def _by_picture(seen: Statistics, score: float, matrix: Tensor, note: str) -> Diagnosis:
    if why := abstains(seen):
        return Diagnosis("none", 0.5, f"left alone: {why}, so nothing can be said{note}", score=score)
    if is_identity(matrix):
        return Diagnosis("none", 1 - score, f"not washed out, as far as one picture tells{note}", score=score)
    sure = "washed out" if score > SURE[1] else "probably washed out"
    reason = f"{sure}: nothing in it is near black or near white, and its colours are pale{note}"
    return Diagnosis("picture", score, reason, matrix, True, score)


def _pale(matrix: Tensor) -> bool:
    """Whether a map adds contrast: what it undoes was pale."""
    return bool(torch.linalg.svdvals(matrix[:, :3]).mean() > 1)


def _strong(matrix: Tensor) -> bool:
    """Whether a map takes contrast or chroma away throughout."""
    return bool(torch.linalg.svdvals(matrix[:, :3]).max() < 1)
