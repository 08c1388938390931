"""What is known of one picture, and what was found in it: `diagnose` takes the one and gives the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vae_manager.color.faults import Fault
from vae_manager.color.matrix import STRAIGHT, Curve, identity, is_identity
from vae_manager.color.statistics import Statistics

if TYPE_CHECKING:
    from vae_manager.color.trip import Undoing


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture of the same thing with the right colours."""

    pixels: Tensor
    """(3, H′, W′) float in [0, 1], of any size."""
    changed: Tensor | None = None
    """(H, W), 1 where the picture was meant to differ from it."""
    called: str = "the reference"
    """What it is, for the user."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """One picture, and everything that is known of how it was made."""

    pixels: Tensor
    """(3, H, W) float, gamma RGB in [0, 1]."""
    fault: Fault | None = None
    """What is known to be wrong with the decoding."""
    calibration: Tensor | None = None
    """The map (3, 4) that was measured for this checkpoint and VAE."""
    reference: Reference | None = None
    trip: Undoing | None = None
    """What undoes that which a round trip through this VAE does to pictures, perhaps nothing (`trip.undoing`); None:
    not known."""
    pool: Sequence[Statistics] = ()
    """Of pictures of the same checkpoint and VAE, oldest first; this one may be among them."""
    seen: Statistics | None = None
    """The picture's own statistics, where they are known already."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What was found, in words, and the map that undoes it (the identity: leave the picture alone)."""

    cause: str
    """'none', 'nan', 'black', a `Fault`'s cause, 'calibration', 'reference', 'round trip', 'session' or
    'picture'."""
    confidence: float
    """0 to 1."""
    reason: str
    """For the user, without a full stop."""
    matrix: Tensor = field(default_factory=identity)
    """(3, 4) float64 on gamma RGB in [0, 1]."""
    curve: Curve = STRAIGHT
    """What every channel goes through before the map."""
    clips: bool = False
    """Whether each channel is clipped by itself where the map takes it out of [0, 1], instead of the colour being
    pulled toward its luma: where it is the VAE's fault, that is what a sound one's picture would have met."""
    washed_out: bool = False
    score: float = 0.0
    """How washed out the picture looks by itself, 0 to 1, whatever else is known."""
    remedy: str | None = None
    """What to do instead of touching pixels, where there is something."""

    @property
    def corrects(self) -> bool:
        """Whether there is anything to apply."""
        return self.curve != STRAIGHT or not is_identity(self.matrix)

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
