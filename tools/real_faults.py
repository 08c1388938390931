"""Faults as a decoder makes them: on what it puts out before anything is clipped.

A decoder overshoots. At 512 pixels TAEF2 goes up to 1.02 in one photograph of four and to 1.05 in one of twenty (the
99.95 % quantile of the largest channel), and down to −.02 and −.04; a small KL autoencoder up to 1.04 and 1.12, and
down to −.03 and −.05. A flat VAE squeezes all of that, so its highlights may still reach white while its blacks are
lifted. Faults that are put on pictures which were clipped before (`build_color_set.fault_matrix`) miss that.

`unclipped` gives a photograph such an overshoot, `draw` a fault to be put on it. What is then clipped and rounded is
the faulty picture, and what it should have been is the unclipped one, clipped and rounded without the fault.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_manager.color.correct import to_levels
from vae_manager.color.images import levels
from vae_manager.color.matrix import adjustment, affine, stretch

BEND = 0.2
"""From so far below white, and above black, a decoder's overshoot begins."""

OVERSHOOTS = (0.1, 0.25, 0.4)
"""How far above 1 what was white goes."""

UNDER = 0.05
"""What was black goes below 0 by up to this."""

Fault = Callable[[Tensor], Tensor]
"""Takes a picture (3, H, W), unclipped, to the faulty one, unclipped."""
Rng = np.random.Generator


@dataclass(frozen=True, eq=False)
class Case:
    """A faulty picture and what it should have been."""

    raw: Tensor
    """(3, H, W) float: the faulty decoder's own values, before the clamp."""
    bad: Tensor
    """In 8 bits, in [0, 1]."""
    truth: Tensor
    """In 8 bits, in [0, 1]."""


def unclipped(v: Tensor, over: float, under: float) -> Tensor:
    """A picture in [0, 1] as a decoder would put it out: white becomes 1 + over and black −under, smoothly."""
    high, low = ((v - 1 + BEND) / BEND).clamp(min=0), ((BEND - v) / BEND).clamp(min=0)
    return v + over * high**2 - under * low**2


def contrast(rng: Rng) -> Fault:
    """The anime VAE's: .78 to .88 around mid-grey, or a wrong scale's: .65 to .8 around .41 to .5."""
    if rng.random() < 0.5:
        return _affine(adjustment(rng.uniform(0.78, 0.88)))
    k, pivot = rng.uniform(0.65, 0.8), rng.uniform(0.41, 0.5)
    return _affine(stretch(-pivot * (1 - k) / k, 1 + (1 - pivot) * (1 - k) / k, rng.uniform(0.85, 1)))


def half(rng: Rng) -> Fault:
    """A merge of a flat VAE and a sound one."""
    return _affine(adjustment(rng.uniform(0.88, 0.94)))


def lifted_blacks(rng: Rng) -> Fault:
    """Black alone."""
    black = rng.uniform(0.06, 0.16)
    return _affine(stretch(-black / (1 - black), 1))


def lowered_whites(rng: Rng) -> Fault:
    """White alone."""
    white = rng.uniform(0.06, 0.16)
    return _affine(stretch(0, 1 / (1 - white)))


def gamma(rng: Rng) -> Fault:
    """Black is lifted by a bend: what lies deep in the shadows is most of what is lost."""
    lift, power = rng.uniform(0.05, 0.12), rng.uniform(0.75, 0.92)
    return lambda v: lift + (1 - lift) * torch.where(v > 0, v.clamp(min=1e-6) ** power, v)


def soft_ends(rng: Rng) -> Fault:
    """A contrast loss by a curve that flattens toward both ends."""
    k = rng.uniform(1.2, 1.8)
    reach = float(np.tanh(k / 2))
    keep = rng.uniform(0.8, 0.92)
    return lambda v: 0.5 + 0.5 * keep * torch.tanh(k * (v - 0.5)) / reach


def chroma(rng: Rng) -> Fault:
    """Colour alone is lost."""
    return _affine(adjustment(saturation=rng.uniform(0.7, 0.88)))


FAULTS = (contrast, half, lifted_blacks, lowered_whites, gamma, soft_ends, chroma)


def draw(name: str, rng: Rng) -> Fault:
    """A random fault of the kind of that name.

    Raises:
        ValueError: there is no such kind.
    """
    found = [fault for fault in FAULTS if fault.__name__ == name]
    if not found:
        raise ValueError(f"there is no fault {name!r}; there are {', '.join(fault.__name__ for fault in FAULTS)}")
    return found[0](rng)


def case(v: Tensor, fault: Fault, over: float, rng: Rng, quality: int | None = None) -> Case:
    """The picture `v` (3, H, W) in [0, 1], decoded with that overshoot by a VAE with that fault.

    Args:
        quality: of the JPEG file that it was kept as; None: it was kept without loss.
    """
    sound = unclipped(v, over, UNDER * float(rng.random()))
    raw = fault(sound)
    bad = rounded(raw)
    return Case(raw, bad if quality is None else jpeg(bad, quality), rounded(sound))


def rounded(v: Tensor) -> Tensor:
    """Clipped to [0, 1] and rounded to 8 bits, as a file has it."""
    return to_levels(v) / 255


def jpeg(v: Tensor, quality: int) -> Tensor:
    """What is left of a picture in [0, 1] in a JPEG file of that quality."""
    file = io.BytesIO()
    Image.fromarray(to_levels(v).permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return levels(image.convert("RGB")) / 255


def _affine(matrix: Tensor) -> Fault:
    return lambda v: affine(v, matrix)
