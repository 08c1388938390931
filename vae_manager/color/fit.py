"""Fit a 3×4 map between two pictures of the same thing, robustly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_manager.color.matrix import identity

BOX = 8
"""Pictures are compared after an 8× box filter: what is left is colour, not texture and noise."""

ITERATIONS = 20

NOISE_FLOOR = 0.5 / 255
"""Residuals below half an 8-bit level count as none."""

SLOPES = 0.25
"""How far a fault's gains lie from 1: what a few colours that are nearly the same say beyond that is noise."""

ALIKE, NOISIEST = 64, 0.015
"""So many neighbours may have the same error: they count as one. What is left over beyond this is no noise, but a part
that was repainted."""


def box_down(pixels: Tensor, height: int, width: int) -> Tensor:
    """(3, H, W) → colours (height · width, 3) in float64, each the mean of its part of the picture."""
    return F.adaptive_avg_pool2d(pixels.double(), (height, width)).flatten(1).T


def fit_map(source: Tensor, target: Tensor, ridge: float = 1e-5, wary: bool = False) -> tuple[Tensor, Tensor]:
    """The map (3, 4) that takes the colours `source` (P, 3) to `target` (P, 3), and the residuals (P,) it leaves.

    Iteratively reweighted least squares with the weights (s²/(s² + r²))² of Geman and McClure (1987): colours
    that do not follow the map (a part of the picture that was repainted) lose their say. The scale s begins wide,
    so that the start does not decide, and closes in on the median residual (Black and Rangarajan, "On the
    unification of line processes", 1996). `ridge` pulls toward the identity where the colours do not say. With
    `wary` so does what is left over: a map to few colours, or to many that are nearly the same, must not follow their
    noise into the rest of the picture.
    """
    x = torch.cat([source, torch.ones_like(source[:, :1])], dim=1)
    prior = identity().to(x)

    def solved(weights: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
        wx = x * weights[:, None]
        regular = pull * torch.eye(4).to(x)
        matrix = torch.linalg.solve(wx.T @ x + regular, wx.T @ target + regular @ prior.T).T
        return matrix, (source @ matrix[:, :3].T + matrix[:, 3] - target).norm(dim=1)

    weights, residuals = torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])
    for step in range(ITERATIONS):
        _, residuals = solved(weights, ridge * weights.sum())
        widened = max(1.0, 3.0 * 0.7**step)
        scale = max(float(1.5 * residuals.median()) * widened, NOISE_FLOOR)
        weights = (scale**2 / (scale**2 + residuals**2)) ** 2
    noise = residuals.median().clamp(max=NOISIEST) / SLOPES if wary else 0.0
    return solved(weights, ridge * weights.sum() + ALIKE * noise**2)
