"""What the VAE's own round trip says of it: the one evidence that no look of a picture imitates.

A matte film look and a VAE that lifts black make the same pictures. But the VAE gives back paler what it is given, too
(`library.health.round_trip`), and the film does not.
"""

from __future__ import annotations

import math

from torch import Tensor

from vae_manager.color.matrix import identity, stretch
from vae_manager.library.health import RoundTrip

SEEN = 0.03
"""The least level by which black is lifted, or white lowered, that counts as a fault; the other end counts from half of
it on: half of a stretch shifts the middle tones."""

PALE = 0.06
"""The least logarithm of the chroma gain that counts, beside the contrast's."""

MOST, MOST_CHROMA = 0.35, 0.35
"""No fault that was met goes further."""

FAITHFUL = 20.0
"""Decibels from which on a round trip says something about colours; a VAE that gives back less is broken."""


def levels(trip: RoundTrip) -> tuple[float, float, float]:
    """To which levels, from 0 to 1, black and white come, and the logarithm of the chroma gain that is lost beyond the
    contrast. A curve that flattens the ends counts by its middle tones: what undid its ends would spoil those."""
    contrast = max(trip.contrast, trip.middle)
    black, white = ((1 + sign * contrast + trip.brightness) / 2 for sign in (-1, 1))
    return black, white, math.log(max(trip.contrast, 0.05) / max(trip.chroma, 0.05))


def undoing(trip: RoundTrip) -> Tensor | None:
    """The map (3, 4) that undoes what a round trip shows; the identity where black, white and colours come back, None
    where it says nothing."""
    if not all(map(math.isfinite, (trip.contrast, trip.brightness, trip.chroma, trip.middle))) or trip.psnr < FAITHFUL:
        return None
    black, white, chroma = levels(trip)
    least = SEEN if max(black, 1 - white) < SEEN else SEEN / 2
    lifted, lowered = (min(shift, MOST) if shift >= least else 0.0 for shift in (black, 1 - white))
    gain = min(chroma, MOST_CHROMA) if chroma >= PALE else 0.0
    return stretch(lifted, 1 - lowered, math.exp(gain)) if lifted or lowered or gain else identity()
