"""How different two pictures look: CIEDE2000.

Sources: Sharma, Wu, Dalal, "The CIEDE2000 color-difference formula: implementation notes, supplementary test data, and
mathematical observations" (2005), whose symbols are kept; sRGB IEC 61966-2-1, D65 white.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SAMPLE = 20_000

XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)


def delta_e(a: Tensor, b: Tensor) -> float:
    """Mean CIEDE2000 distance of two pictures (3, H, W) of one size, gamma RGB in [0, 1], over `SAMPLE` even pixels.

    About 1 is the least that is seen side by side.
    """
    step = max(1, a.shape[1] * a.shape[2] // SAMPLE)
    return float(ciede2000(*(lab(v.reshape(3, -1)[:, ::step].double()) for v in (a, b))).mean())


def lab(rgb: Tensor) -> Tensor:
    """Gamma RGB (3, P), clamped to [0, 1] → CIELAB (3, P), float64."""
    v = rgb.double().clamp(0, 1)
    linear = torch.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    t = (linear.new_tensor(XYZ) @ linear) / linear.new_tensor(WHITE)[:, None]
    x, y, z = torch.where(t > 0.008856, t.clamp(min=1e-9) ** (1 / 3), 7.787 * t + 16 / 116)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(one: Tensor, two: Tensor) -> Tensor:
    """CIELAB (3, P) twice → distances (P,), with k_L = k_C = k_H = 1."""
    (l1, a1, b1), (l2, a2, b2) = one, two
    mean_c = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    g = 0.5 * (1 - _chroma_weight(mean_c))
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % (2 * math.pi), torch.atan2(b2, a2) % (2 * math.pi)
    dh = h2 - h1
    apart = dh.abs() > math.pi
    grey = c1 * c2 == 0
    dh = torch.where(grey, torch.zeros_like(dh), dh - torch.where(apart, 2 * math.pi * dh.sign(), torch.zeros_like(dh)))
    half = torch.where(apart, (h1 + h2) / 2 + math.pi, (h1 + h2) / 2)
    h = torch.where(grey, h1 + h2, half)
    dl, dc, d_hue = l2 - l1, c2 - c1, 2 * torch.sqrt(c1 * c2) * torch.sin(dh / 2)
    l, c = (l1 + l2) / 2, (c1 + c2) / 2  # noqa: E741
    t = 1 - 0.17 * _cos(h, 1, 30) + 0.24 * _cos(h, 2, 0) + 0.32 * _cos(h, 3, -6) - 0.20 * _cos(h, 4, 63)
    s_l = 1 + 0.015 * (l - 50) ** 2 / torch.sqrt(20 + (l - 50) ** 2)
    s_c, s_h = 1 + 0.045 * c, 1 + 0.015 * c * t
    turn = math.radians(60) * torch.exp(-(((torch.rad2deg(h) - 275) / 25) ** 2))
    r_t = -torch.sin(turn) * 2 * _chroma_weight(c)
    square = (dl / s_l) ** 2 + (dc / s_c) ** 2 + (d_hue / s_h) ** 2 + r_t * (dc / s_c) * (d_hue / s_h)
    return torch.sqrt(square.clamp(min=0))


def _chroma_weight(c: Tensor) -> Tensor:
    return torch.sqrt(c**7 / (c**7 + 25.0**7))


def _cos(h: Tensor, times: int, less: float) -> Tensor:
    return torch.cos(times * h - math.radians(less))
