"""Exact GroupNorm statistics of a map that is never whole in memory.

Every strip of a map gives its pixel count and each channel's mean and variance. They are merged by the pairwise
formula of Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance" (1983), in float64, so the
result does not depend on how the map was cut. E[x²] − E[x]² is not used anywhere: at |mean|/std = 1000 it is
wrong by 14 % in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vae_manager.codec.streaming.constants import Constants

CPU = torch.device("cpu")

SHORT = 64
"""Pixels that are summed in float32 before float64 takes over. Some decoders have pixels a thousand times larger than
the others (a few dark or bright dots in the picture): in one long float32 sum of squares, the others would be lost."""


@dataclass(frozen=True)
class Moments:
    """Mean and variance (biased, as normalisation layers use it) of each channel; float64, where `home` says."""

    count: int
    mean: Tensor
    var: Tensor

    @property
    def finite(self) -> bool:
        return bool(torch.isfinite(self.mean).all() and torch.isfinite(self.var).all())


def home(device: torch.device, dtype: torch.dtype) -> torch.device:
    """Where the moments of maps on `device` are put together.

    Every copy to the CPU waits for all that a GPU has to do. CUDA has float64, so they can stay there; of float16 the
    CPU has to know how large a map gets before the next one is computed (`precision`). Others have no float64.
    """
    return device if device.type == "cuda" and dtype != torch.float16 else torch.device("cpu")


def strip_moments(x: Tensor) -> tuple[int, Tensor, Tensor]:
    """Pixel count, mean and variance per channel of one strip (rows, W, C); float32 or float64, on its device."""
    flat = x.reshape(-1, x.shape[-1])
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        var, mean = torch.var_mean(flat.float(), dim=0, correction=0)
        return flat.shape[0], mean, var
    # On a CPU the batch norm's kernel is 30 times faster than var_mean, in plain float32 sums, two passes. Laid in rows
    # of `slots` pixels, each of its "channels" is a sum over SHORT pixels only, and float64 merges those.
    count, channels = flat.shape
    slots = count // SHORT
    rest = flat[slots * SHORT :].double()
    if not slots:
        var, mean = torch.var_mean(rest, dim=0, correction=0)
        return count, mean, var
    unused = flat.new_zeros(slots * channels)
    found = torch.batch_norm_update_stats(flat[: slots * SHORT].view(SHORT, -1), unused, unused.clone(), 0.0)
    means, variances = (values.view(slots, channels).double() for values in found)
    mean = (means.sum(0) * SHORT + rest.sum(0)) / count
    m2 = means.sub_(mean).square_().add_(variances).sum(0) * SHORT + (rest - mean).square().sum(0)
    return count, mean, m2 / count


def merge(parts: list[tuple[int, Tensor, Tensor]], where: torch.device = CPU) -> Moments:
    """Moments of a map from those of its strips: M2 = Σ n·var + Σ n·(mean − m)² with m = Σ n·mean / Σ n."""
    total = sum(n for n, _, _ in parts)
    # one copy: each waits for all that the device has to do
    found = torch.stack([*(mean for _, mean, _ in parts), *(var for _, _, var in parts)]).to(where).double()
    means, variances = found.chunk(2)
    counts = torch.cat([means.new_full((1, 1), n) for n, _, _ in parts])
    mean = (counts * means).sum(0) / total
    m2 = (counts * variances).sum(0) + (counts * (means - mean).square()).sum(0)
    return Moments(total, mean, m2 / total)


def norm_affine(
    moments: Moments, norm: Any, exponent: int = 0, constants: Constants | None = None
) -> tuple[Tensor, Tensor]:
    """GroupNorm of the map as scale and shift per channel: norm(x) = x·scale + shift (Wu & He 2018, eq. 1-6).

    Every channel of a group has the same pixel count, so the group's variance is the mean of its channels'
    variances plus the variance of their means. A map that is stored as x·2^−exponent takes eps·4^−exponent: the
    result is the same function of x. Returns two float64 tensors (C,) where the moments are.
    """
    groups = norm.num_groups
    means, variances = moments.mean.view(groups, -1), moments.var.view(groups, -1)
    mean = means.mean(1, keepdim=True)
    var = variances.mean(1, keepdim=True) + (means - mean).square().mean(1, keepdim=True)
    rstd = torch.rsqrt(var + norm.eps * 4.0**-exponent).expand_as(means).reshape(-1)
    weight, bias = (constants or Constants([norm], means.device)).of_norm(norm)
    scale = rstd if weight is None else rstd * weight
    shift = -mean.expand_as(means).reshape(-1) * scale
    return scale, shift if bias is None else shift + bias
