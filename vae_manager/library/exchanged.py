"""Find layers that were exchanged, by what training leaves in weights and an exchange takes away.

A block of a KL autoencoder that was replaced hardly shows in its pictures where most of them goes past it. It shows in
the weights:

- The nine taps of a trained kernel go together (pictures are smooth), so their second moments differ from those of
  noise, which are σ² on the diagonal and 0 beside it.
- Layers that follow one another are trained together. Two channels that one convolution of a block makes alike are
  used alike by the next; where a channel's gain in a norm is large, so are the weights that take it up. Two layers that
  changed places fit their neighbours worse than the other way round, and a layer from elsewhere fits not at all.

The first is a matter of chance alone, and safe. The second is what was found in the demo VAE; nothing is said of a
network in which it does not hold nearly everywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

TAPS = 9
MOMENTS = TAPS * (TAPS + 1) // 2

MIN_KERNELS = 256
"""Kernels that a layer must have for its taps' moments to be told from chance."""

WHITE = 2.5
"""Largest whiteness of noise: it is distributed as χ²/45 with 45 degrees of freedom, above 2.5 once in 10⁷. The demo
VAE's layers with `MIN_KERNELS` have 17 to 475."""

BETTER = 5.0
"""How much better two layers must fit in each other's places, in standard deviations. No two layers of the demo VAE fit
better at all in each other's: the closest lose 3.1."""

BETTER_SHARE = 0.5
"""And how much, of how well they fit now: with many channels every difference is many standard deviations."""

TOGETHER, STRANGERS = 0.3, 0.1
"""Correlations of what a block's first convolution makes alike with what its second uses alike: at least in a block
that was trained as it is (the demo VAE's: .34 to .90), at most where one of the two is from elsewhere."""

MOST = 0.75
"""Share of the network's layers that must be as training leaves them."""


@dataclass(frozen=True, eq=False)
class Profile:
    """What is kept of a tensor."""

    inputs: Tensor
    """(C,) norm of the weights for each input channel; of a norm layer: its gains' magnitudes."""
    outputs: Tensor
    """(O,) norm of the weights for each output channel; of a norm layer: the same as `inputs`."""
    shape: tuple[int, ...]
    whiteness: float | None = None
    """Mean square of the taps' moments beyond those of noise, in their own deviations: 1 for noise. None: unknown."""
    used_alike: Tensor | None = None
    """(C (C - 1) / 2,) cosines between the weights for each two input channels."""
    made_alike: Tensor | None = None
    """(O (O - 1) / 2,) cosines between the weights of each two output channels."""


def profile(name: str, tensor: Tensor) -> Profile | None:
    """What to keep of a tensor; None where that is nothing."""
    if not name.endswith(".weight"):
        return None
    shape = tuple(tensor.shape)
    if tensor.ndim == 1:
        gains = tensor.float().abs()
        return Profile(gains, gains, shape)
    if tensor.ndim != 4 or shape[2:] != (3, 3):
        return None
    weight = tensor.float()
    squares = weight.square()
    sums = squares.sum((0, 2, 3)).sqrt(), squares.sum((1, 2, 3)).sqrt()
    if not name.endswith(("conv1.weight", "conv2.weight")):
        return Profile(*sums, shape, _whiteness(weight))
    return Profile(*sums, shape, _whiteness(weight), _cosines(weight.transpose(0, 1)), _cosines(weight))


def noise_layers(profiles: Mapping[str, Profile]) -> tuple[str, ...]:
    """Layers of noise, as a clause that begins with "its", see `library.health`. `profiles`: by canonical names."""
    white = {name: p.whiteness < WHITE for name, p in profiles.items() if p.whiteness is not None}
    noise = [name for name, is_white in white.items() if is_white]
    if noise and len(noise) <= (1 - MOST) * len(white):
        more = f" (and {len(noise) - 1} more)" if len(noise) > 1 else ""
        return (f"its tensor {noise[0]!r}{more} holds noise where the others hold what was learnt",)
    return ()


def misplaced_layers(profiles: Mapping[str, Profile]) -> tuple[str, ...]:
    """Layers that do not belong where they are, as such a clause."""
    roots = [name.removesuffix("conv1.weight") for name in profiles if name.endswith(".conv1.weight")]
    roots = [root for root in roots if all(f"{root}{part}.weight" in profiles for part in ("norm1", "norm2", "conv2"))]
    together = {root: _together(*(profiles[name] for name in _convs(root))) for root in roots}
    if not roots or sum(r > TOGETHER for r in together.values()) < MOST * len(roots):
        return ()
    pair = _changed_places(profiles, roots)
    if pair and _root(pair[0]) != _root(pair[1]):
        return (f"its tensors {pair[0]!r} and {pair[1]!r} seem to have changed places",)
    least = _root(pair[0]) if pair else min(roots, key=lambda root: together[root])
    if pair or together[least] < STRANGERS:
        one, other = _convs(least)
        return (f"its tensors {one!r} and {other!r} do not belong together: one of them is not as it was trained",)
    return ()


def _whiteness(weight: Tensor) -> float | None:
    kernels = weight.flatten(2).flatten(0, 1)
    if len(kernels) < MIN_KERNELS or not kernels.any():
        return None
    moments = (kernels.T @ kernels).double() / kernels.double().square().sum() * TAPS
    beyond = (moments - torch.eye(TAPS, dtype=torch.float64)).square() * len(kernels)
    return (beyond.diagonal().sum() / 2 + beyond.triu(1).sum()).item() / MOMENTS


def _cosines(weight: Tensor) -> Tensor:
    """Between each two of the first axis."""
    rows = torch.nn.functional.normalize(weight.flatten(1))
    return (rows @ rows.T)[tuple(torch.triu_indices(len(rows), len(rows), 1))]


def _changed_places(profiles: Mapping[str, Profile], roots: Sequence[str]) -> tuple[str, str] | None:
    """The two layers that fit best in each other's places, if they fit much better there than in their own."""

    @cache
    def fit(root: str, first: str, second: str) -> float:
        return _fit(profiles[f"{root}norm1.weight"], profiles[f"{root}norm2.weight"], profiles[first], profiles[second])

    def total(names: Mapping[str, str], *changed: str) -> float:
        return sum(fit(root, *(names.get(n, n) for n in _convs(root))) for root in dict.fromkeys(map(_root, changed)))

    best, pair = 0.0, None
    for one, other in itertools.combinations([name for root in roots for name in _convs(root)], 2):
        if profiles[one].shape != profiles[other].shape:
            continue
        now = total({}, one, other)
        better = total({one: other, other: one}, one, other) - now
        if better > max(best, BETTER, BETTER_SHARE * now):
            best, pair = better, (one, other)
    return pair


def _convs(root: str) -> tuple[str, str]:
    return f"{root}conv1.weight", f"{root}conv2.weight"


def _root(conv: str) -> str:
    return conv[: -len("conv1.weight")]


def _fit(norm1: Profile, norm2: Profile, first: Profile, second: Profile) -> float:
    """How well norm1 → first → norm2 → second go together, in standard deviations of layers that do not."""
    return (
        _alike(norm1.inputs, first.inputs)
        + _alike(first.outputs, norm2.inputs)
        + _alike(norm2.inputs, second.inputs)
        + _alike(first.outputs, second.inputs)
        + _normal(_together(first, second), len(first.outputs) * (len(first.outputs) - 1) // 2)
    )


def _together(first: Profile, second: Profile) -> float:
    """Whether two channels that the first makes alike are used alike by the second, as a correlation."""
    if first.made_alike is None or second.used_alike is None:
        return 0.0
    return _correlation(first.made_alike, second.used_alike)


def _alike(one: Tensor, other: Tensor) -> float:
    """How well two profiles go together: 0 ± 1 for those that have nothing to do with each other."""
    return _normal(_correlation(*(x.clamp(min=1e-6).log() for x in (one, other))), len(one))


def _correlation(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape or len(one) < 8:
        return 0.0
    a, b = one.double() - one.double().mean(), other.double() - other.double().mean()
    scale = (a.norm() * b.norm()).item()
    return (a @ b).item() / scale if scale > 1e-9 else 0.0


def _normal(correlation: float, count: int) -> float:
    """A correlation of `count` pairs in standard deviations of chance (R. A. Fisher's z)."""
    return math.sqrt(max(0, count - 3)) * math.atanh(max(-0.99, min(0.99, correlation)))
