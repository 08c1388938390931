"""What is known of a latent space, how firmly, and what follows when several things are known.

Each thing known is a `Claim`: the spaces that it leaves possible. The strongest claims are asked first; a weaker one
may choose among what they leave, never add to it or contradict it. So 16 channels in a header and "flux" in the file's
name make Flux.1, though as a guess only; and a name that says SDXL changes nothing about a UNet that is SD 1's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Evidence(IntEnum):
    """How a thing is known, weakest first."""

    NONE = 0
    FILE_NAME = 1
    METADATA = 2
    NAMES = 3
    """Of the tensors."""
    SHAPES = 4
    """Of the tensors."""
    HOST = 5
    """The loaded model's own latent format; for a VAE file, its hash."""
    LATENT = 6
    """The latent that arrives."""


FIRM = Evidence.METADATA
"""From here on a thing is known; what is weaker is a guess, on which nothing is refused and no number is changed."""


@dataclass(frozen=True)
class Claim:
    """One thing known."""

    spaces: frozenset[str]
    """Ids of the spaces that are possible by it; empty says nothing."""
    evidence: Evidence
    detail: str = ""
    """For people, such as "the shapes of its tensors"."""


@dataclass(frozen=True)
class Known:
    """What several claims leave."""

    spaces: frozenset[str] = frozenset()
    """Possible spaces; empty where nothing is known."""
    evidence: Evidence = Evidence.NONE
    """How the last step of it is known."""
    detail: str = ""
    firm: frozenset[str] = frozenset()
    """What is left possible without the guesses; empty where nothing is known so."""

    @property
    def space(self) -> str:
        """The one space, or 'unknown'."""
        return next(iter(self.spaces)) if len(self.spaces) == 1 else "unknown"

    @property
    def certain(self) -> bool:
        """Whether one space is left, and not by a guess."""
        return len(self.firm) == 1


NOT_KNOWN = Known()


def settle(claims: Iterable[Claim]) -> Known:
    """What the claims leave, the strongest first. Of equally strong ones the first has the word."""
    known = NOT_KNOWN
    for claim in sorted(claims, key=lambda claim: -claim.evidence):
        left = claim.spaces & known.spaces if known.spaces else claim.spaces
        if left and left != known.spaces:
            firm = left if claim.evidence >= FIRM else known.firm
            known = Known(left, claim.evidence, claim.detail, firm)
    return known


def conflict(model: Known, vae: Known) -> bool:
    """Whether a VAE is known not to decode a model's latents: both are known firmly, and have no space in common."""
    return bool(model.firm and vae.firm) and not model.firm & vae.firm
