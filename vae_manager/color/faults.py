"""Faults that are known before the picture is looked at. Their remedy is another VAE or another scale, and exact:
a wrong latent scale cannot be repaired in pixels (no 3×4 recovers more than half of it, docs/color.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SCALE_TOLERANCE = 0.01
"""Scale factors that differ by less are the same one, rounded."""

WASHED_OUT, TOO_STRONG = "washed out", "too strong in colour and contrast"


@dataclass(frozen=True)
class Fault:
    """What is wrong with the decoding, and what makes it right."""

    cause: str
    """'wrong latent scale', 'missing VAE', 'damaged VAE' or 'flat VAE'."""
    sentence: str
    remedy: str
    """What to do instead of touching pixels."""


def scale_fault(used: float, right: float, family: str) -> Fault | None:
    """Latents divided by `used` where the family's models were trained with `right`."""
    if abs(used / right - 1) <= SCALE_TOLERANCE:
        return None
    looks = WASHED_OUT if used > right else TOO_STRONG
    sentence = f"{looks}: the latent was decoded at the scale {used:g}, but {family} latents have {right:g}"
    return Fault("wrong latent scale", sentence, f"decode at the scale {right:g}")


def examined_fault(problems: Sequence[str]) -> Fault | None:
    """What `library.health.examine` said against a VAE, if anything: the first of its clauses."""
    return _damaged(problems[0]) if problems else None


def known_fault(name: str, quirks: Iterable[str]) -> Fault | None:
    """A VAE that is known to be flat (`library.known`: the quirk 'low-contrast')."""
    if "low-contrast" not in quirks:
        return None
    return Fault("flat VAE", f"washed out: {name} is known to make pale pictures", "choose another VAE of its family")


def _damaged(what: str) -> Fault:
    return Fault("damaged VAE", f"washed out: the VAE is damaged ({what})", "decode with another VAE of its family")
