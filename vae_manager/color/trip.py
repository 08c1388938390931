"""What the VAE's own round trip says of it: the one evidence that no look of a picture imitates.

A matte film look and a VAE that lifts black make the same pictures. But the VAE gives back paler what it is given, too
(`library.health.round_trip`), and the film does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from vae_manager.color.matrix import STRAIGHT, Curve, identity, is_identity, stretch
from vae_manager.library.health import DEGREE, RoundTrip

SEEN = 0.03
"""The least level by which black is lifted, or white lowered, that counts as a fault; the other end counts from half of
it on: half of a stretch shifts the middle tones."""

PALE, PALE_TOO = 0.06, 0.02
"""The least logarithm of the chroma gain that counts: alone, and beside levels that are at fault."""

MOST, MOST_CHROMA = 0.35, 0.35
"""No fault that was met goes further."""

FAITHFUL = 20.0
"""Decibels from which on a round trip says something about colours; a VAE that gives back less is broken."""

SOUND = (0.0046, 0.9218, 0.2289, -0.1643)
"""What a sound VAE's curve looks like: the ends lose a hundredth. The mean of two, the demo VAE's and TAEF2's, whose
own stay within .004 of it."""

SOUND_CHROMA = 0.009
"""The logarithm of the chroma that those two give back beyond what they are given (.015 and .004)."""

BENT = 0.013
"""How far the curve leaves a straight line, beside what `SOUND` does, before it counts as one: a VAE that gives all
levels back exactly comes to .011, faults of contrast and chroma to .006, and the mildest bends to .015."""

GREY = np.linspace(0, 1, 101)
"""Levels at which a curve is turned around."""


@dataclass(frozen=True, eq=False)
class Undoing:
    """What undoes a VAE's fault: every channel goes through the curve, then colours through the matrix."""

    matrix: Tensor = field(default_factory=identity)
    """(3, 4)."""
    curve: Curve = STRAIGHT

    @property
    def nothing(self) -> bool:
        """Whether there is no fault."""
        return self.curve == STRAIGHT and is_identity(self.matrix)


def undoing(trip: RoundTrip) -> Undoing | None:
    """What undoes that which a round trip shows; nothing where black, white and colours come back, None where the trip
    says nothing."""
    said = (trip.contrast, trip.brightness, trip.chroma, *trip.curve)
    if not all(map(math.isfinite, said)) or trip.psnr < FAITHFUL:
        return None
    chroma = SOUND_CHROMA - math.log(max(trip.chroma, 0.05))
    if bent(trip):
        curve = _turned_around(trip.curve)
        return None if curve is None else Undoing(stretch(0, 1, _gain(chroma, PALE_TOO)), curve)
    black, white = levels(trip)
    least = SEEN if max(black, 1 - white) < SEEN else SEEN / 2
    lifted, lowered = (min(shift, MOST) if shift >= least else 0.0 for shift in (black, 1 - white))
    gain = _gain(chroma, PALE_TOO if lifted or lowered else PALE)
    return Undoing(stretch(lifted, 1 - lowered, gain) if lifted or lowered or gain != 1 else identity())


def levels(trip: RoundTrip) -> tuple[float, float]:
    """To which levels, from 0 to 1, black and white come, by the straight line."""
    black, white = ((1 + sign * trip.contrast + trip.brightness) / 2 for sign in (-1, 1))
    return black, white


def bent(trip: RoundTrip) -> bool:
    """Whether levels at one end or both are lost by a curve, which no straight line undoes."""
    came, sound = (np.polynomial.Polynomial(c)(GREY) for c in (trip.curve, SOUND))
    beside = came - sound
    line = np.polynomial.Polynomial.fit(GREY, beside, 1)(GREY)
    return abs(beside - line).max() >= BENT and max(beside[0], -beside[-1]) >= SEEN


def _gain(chroma: float, least: float) -> float:
    return math.exp(min(chroma, MOST_CHROMA)) if chroma >= least else 1.0


def _turned_around(curve: tuple[float, ...]) -> Curve | None:
    """The polynomial that takes what a curve makes of levels back to what a sound VAE makes of them; None where no
    level is to be darker than a lower one, or moved as far as no fault moves it."""
    came, sound = (np.polynomial.Polynomial(c)(GREY) for c in (curve, SOUND))
    back = np.polynomial.Polynomial.fit(came, sound, DEGREE).convert()
    undone = back(GREY)
    if (np.diff(came) <= 0).any() or (np.diff(undone) < 0).any() or abs(undone - GREY).max() > MOST:
        return None
    constant, first, second, third = back.coef.tolist()
    return constant, first, second, third
