"""Fit the trees with which one picture is judged (`vae_manager/color/blind.py`), on the `tune` split only.

    pip install scikit-learn==1.9.1
    python -m tools.build_color_set --photos photos --out color-set
    python -m tools.fit_color_score --set color-set --out vae_manager/data/color_trees.safetensors

Three forests say of a faded photograph by how much black was lifted and white lowered and which chroma gain is right,
learnt from the stretch that brings each of them nearest to what it was. One more tells those that this helps from good
and legitimate pictures, and from faded ones that it would make worse. How sure it has to be is chosen by
cross-validation: every picture is judged by forests that never saw its photograph, and at most `--allowed` of them may
be moved, or made worse. Regraded copies and what is made of them are learnt from only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from torch import Tensor
from tqdm import tqdm

from tools.build_color_set import FAULTS, FROM_PHOTOS, fault_matrix
from vae_manager.color.blind import CARE, LEAF, MAX_CHROMA, MAX_SHIFT, SURE, abstains, features
from vae_manager.color.correct import to_levels
from vae_manager.color.images import levels
from vae_manager.color.matrix import LUMA, adjustment, affine, compose
from vae_manager.color.statistics import Statistics, statistics

DRAWS = 5
"""Faded pictures of each kind of fault that are made of a good one, and as many of regraded copies of it."""
REGRADED = 2
"""Regraded copies of each good picture that are good pictures, too."""
LEGITIMATE = 20
"""Legitimate pictures that are made of regraded copies of each good one."""
AGAIN = (0.55, 0.9)
"""One of each kind is faded once more, to this contrast: trees know nothing beyond what they have seen, and a picture
that has lost more than any that was measured must not pass for fog."""
FOLDS = 5
TREES = 300
"""In each forest."""
SHAPE = {"learning_rate": 0.08, "max_leaf_nodes": 31, "min_samples_leaf": 40, "l2_regularization": 1.0}
SHARE = 0.3
"""Part of the statistics that a split may choose from: so no one of them is leant on alone."""
HOW = {"max_iter": TREES, "max_features": SHARE, "random_state": 0, "early_stopping": False, **SHAPE}
PIXELS = 100
"""Pixels of each picture by which it is measured."""
MOVED = 0.5

XYZ_OVER_WHITE = torch.tensor(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / torch.tensor([[0.95047], [1.0], [1.08883]])
"""Linear sRGB (IEC 61966-2-1) to XYZ over D65 white."""

Forest: TypeAlias = HistGradientBoostingClassifier | HistGradientBoostingRegressor

METADATA = {"about": "made by tools/fit_color_score.py"}


@dataclass
class Cases:
    """What is fitted, a row a picture."""

    seen: Tensor
    pixels: Tensor
    clean: Tensor
    lab: Tensor
    """`clean` in CIELAB."""
    floor: Tensor
    headroom: Tensor
    abstains: Tensor
    faulty: Tensor
    judged: Tensor

    def pick(self, rows: Tensor) -> Cases:
        return Cases(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Seen:
    """One picture of the set, or a faded one made of it."""

    source: str
    faulty: bool
    judged: bool
    """Whether it is as those that one is measured by: others are learnt from only."""
    statistics: Statistics
    pixels: np.ndarray
    clean: np.ndarray


def regrade(v: Tensor, rng: np.random.Generator) -> Tensor:
    """A picture (3, H, W) as another photographer might have finished it: brightness, a curve, white balance and
    saturation are others, black and white stay where they are. There are only some two hundred photographs."""
    v = v ** float(np.exp(rng.normal(0, 0.18)))
    v = v + np.clip(rng.normal(0, 0.25), -0.4, 0.6) * v * (1 - v) * (2 * v - 1)
    v = v ** torch.tensor(np.exp(rng.normal(0, 0.06, 3)), dtype=v.dtype)[:, None, None]
    y = (v * torch.tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
    return to_levels(y + float(np.exp(rng.normal(0, 0.15))) * (v - y)) / 255


def seen(job: tuple[Path, str, str, list[int]]) -> list[Seen]:
    """A tuning picture, and a good one with random faults of each kind too; `seed` makes it the same in any order.

    Nothing else is done to the faded ones: a little noise in half of them was what told them from the others.
    """
    file, kind, source, seed = job
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    with Image.open(file) as image:
        v = levels(image) / 255
    found = [_seen(source, v, v, judged=True)]
    if kind != "good":
        return found
    for regraded in (False, True):
        for n, fault in enumerate(FAULTS * DRAWS):
            clean, once_more = regrade(v, rng) if regraded else v, n < len(FAULTS)
            again = adjustment(rng.uniform(*AGAIN) if once_more else 1.0)
            bad = affine(clean, compose(again, torch.tensor(fault_matrix(fault, rng), dtype=torch.float64)))
            found.append(_seen(source, to_levels(bad) / 255, clean, faulty=True, judged=not (regraded or once_more)))
    others = [regrade(v, rng) for _ in range(REGRADED)] + [legitimate(v, rng) for _ in range(LEGITIMATE)]
    return found + [_seen(source, other, other) for other in others]


def legitimate(v: Tensor, rng: np.random.Generator) -> Tensor:
    """A picture of any kind that must be left alone, made of a regraded copy."""
    make = FROM_PHOTOS[rng.integers(len(FROM_PHOTOS))]
    made = make(regrade(v, rng).permute(1, 2, 0).double().numpy(), rng)
    return to_levels(torch.from_numpy(np.ascontiguousarray(made)).permute(2, 0, 1).float()) / 255


def _seen(source: str, v: Tensor, clean: Tensor, faulty: bool = False, judged: bool = False) -> Seen:
    return Seen(source, faulty, judged, statistics(v), _spread(v).numpy(), _spread(clean).numpy())


def load(folder: Path, seed: int) -> tuple[Cases, list[str]]:
    """Every tuning picture, the faded ones too, and their sources."""
    lines = (folder / "manifest.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    jobs = [
        (folder / file, kind, source, [seed, i])
        for i, (split, file, kind, source) in enumerate(rows)
        if split == "tune"
    ]
    with ProcessPoolExecutor() as pool:
        parts = [one for found in tqdm(pool.map(seen, jobs, chunksize=20), total=len(jobs)) for one in found]
    clean = torch.from_numpy(np.stack([part.clean for part in parts]))
    return Cases(
        torch.tensor([features(part.statistics) for part in parts]),
        torch.from_numpy(np.stack([part.pixels for part in parts])),
        clean,
        _lab(clean),
        torch.tensor([part.statistics.floors[0] for part in parts]),
        torch.tensor([1 - part.statistics.ceilings[0] for part in parts]),
        torch.tensor([abstains(part.statistics) is not None for part in parts]),
        torch.tensor([part.faulty for part in parts]),
        torch.tensor([part.judged for part in parts]),
    ), [part.source for part in parts]


def stretched(pixels: Tensor, shifts: Tensor) -> Tensor:
    """The pixels (P, N, 3) with black and white put back and chroma changed by `shifts` (P, 3), as `blind.correction`
    and `matrix.apply` do it."""
    b, d, chroma = (shift[:, None, None] for shift in shifts.unbind(1))
    s, weights = torch.exp(chroma), torch.tensor(LUMA)
    y = (pixels @ weights)[..., None]
    v = (s * pixels + (1 - s) * y - b) / (1 - b - d)
    y = (v @ weights)[..., None].clamp(0, 1)
    low, high = v.amin(-1, keepdim=True), v.amax(-1, keepdim=True)
    t = torch.minimum(y / (y - low).clamp(min=1e-4), (1 - y) / (high - y).clamp(min=1e-4)).clamp(0, 1)
    return y + t * (v - y)


def corrected(cases: Cases, answers: Tensor) -> Tensor:
    """The pixels after the correction that the forests' answers (P, 4) come to."""
    t = ((torch.sigmoid(answers[:, 0]) - SURE[0]) / (SURE[1] - SURE[0])).clamp(0, 1)
    g = (t * t * (3 - 2 * t)).masked_fill(cases.abstains, 0)[:, None]
    shifts = answers[:, 1:3].clamp(0, MAX_SHIFT)
    chroma = answers[:, 3:].clamp(-MAX_CHROMA, MAX_CHROMA)
    return stretched(cases.pixels, g * CARE * torch.cat([shifts, chroma], dim=1))


def distance(pixels: Tensor, b: Tensor) -> Tensor:
    """Mean CIE94 distance of each picture's pixels, gamma RGB, from those in CIELAB: near CIEDE2000, and smooth."""
    a = _lab(pixels)
    d = a - b
    c = torch.sqrt(b[..., 1] ** 2 + b[..., 2] ** 2 + 1)
    dc = torch.sqrt(a[..., 1] ** 2 + a[..., 2] ** 2 + 1) - c
    dh2 = (d[..., 1] ** 2 + d[..., 2] ** 2 - dc**2).clamp(min=0)
    return torch.sqrt(d[..., 0] ** 2 + (dc / (1 + 0.045 * c)) ** 2 + dh2 / (1 + 0.015 * c) ** 2 + 1e-6).mean(-1)


def best_stretches(cases: Cases, steps: int = 100) -> np.ndarray:
    """For every case the black, white and chroma (P, 3) whose stretch brings it nearest to what it was."""
    start = torch.stack([0.7 * cases.floor, 0.7 * cases.headroom, torch.zeros_like(cases.floor)], dim=1)
    shifts = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([shifts], lr=0.01)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [2 * steps // 3], 0.3)
    for _ in tqdm(range(steps)):
        optimiser.zero_grad()
        distance(stretched(cases.pixels, shifts), cases.lab).sum().backward()
        optimiser.step()
        schedule.step()
    return shifts.detach().numpy()


def grow_estimates(cases: Cases, best: np.ndarray) -> list[Forest]:
    """The three forests that say what is lost. `best`: each case's stretch (P, 3)."""
    faulty = cases.faulty.numpy()
    x, best = cases.seen.numpy()[faulty], best[faulty]
    return [HistGradientBoostingRegressor(loss="absolute_error", **HOW).fit(x, b) for b in best.T]


def grow_gate(cases: Cases, wanted: Tensor) -> list[Forest]:
    """The forest that says whether a picture is to be corrected, alone in a list. `wanted`: for each case (P,)."""
    asked = ~cases.abstains.numpy()
    x, y = cases.seen.numpy()[asked], wanted.numpy()[asked]
    weight = np.where(y, (~y).sum() / y.sum(), 1.0)  # either half has as much say
    return [HistGradientBoostingClassifier(**HOW).fit(x, y, weight)]


def ask(forests: list[Forest], seen: Tensor) -> Tensor:
    """Their answers, a column a forest."""
    x = seen.numpy()
    answers = [getattr(forest, "decision_function", forest.predict)(x) for forest in forests]
    return torch.from_numpy(np.stack(answers, axis=1).astype(np.float32))


def crossed(cases: Cases, fold: Tensor, grow: Callable[[Tensor], list[Forest]]) -> Tensor:
    """What forests say of each case that were grown on other photographs. `grow` gets the rows (P,) to grow on."""
    parts = [ask(grow(fold != index), cases.seen[fold == index]) for index in range(FOLDS)]
    answers = torch.empty(len(fold), parts[0].shape[1])
    for index, part in enumerate(parts):
        answers[fold == index] = part
    return answers


def helped(cases: Cases, shifts: Tensor) -> Tensor:
    """Which cases (P,) are faulty, and come nearer to what they were by these shifts (P, 3)."""
    faded = cases.pick(cases.faulty)
    sure = torch.full((len(faded.faulty), 1), 9.0)
    with torch.no_grad():
        after = distance(corrected(faded, torch.cat([sure, shifts[cases.faulty]], dim=1)), faded.lab)
        nearer = after <= distance(faded.pixels, faded.lab)
    return cases.faulty.index_put((cases.faulty,), nearer)


@dataclass(frozen=True)
class Outcome:
    """What the answers come to, in CIE94: shares of pictures, and the median of what is recovered."""

    moved: float
    """Good and legitimate pictures moved by more than `MOVED`."""
    worse: float
    """Faulty ones that are made worse."""
    recovered: float

    def __str__(self) -> str:
        return f"{self.moved:.2%} moved, {self.worse:.2%} made worse, {self.recovered:.1%} recovered"


def outcome(cases: Cases, answers: Tensor, offset: float) -> Outcome:
    """What comes of it once `offset` is taken off the score's logit."""
    with torch.no_grad():
        after = distance(corrected(cases, answers - torch.tensor([offset, 0.0, 0.0, 0.0])), cases.lab)
        recovery = (1 - after / distance(cases.pixels, cases.lab))[cases.faulty]
    moved = (after > MOVED)[~cases.faulty].float().mean()
    return Outcome(float(moved), float((recovery < -0.01).float().mean()), float(recovery.median()))


def surety(cases: Cases, answers: Tensor, allowed: float) -> float:
    """What to take off the score's logit so that at most this share of good and legitimate pictures is moved, and of
    the faulty ones made worse."""
    for offset in np.arange(0, 6, 0.1):
        found = outcome(cases, answers, float(offset))
        if max(found.moved, found.worse) <= allowed:
            return float(offset)
    return 6.0


def _spread(v: Tensor) -> Tensor:
    flat = v.reshape(3, -1)
    return flat[:, torch.linspace(0, flat.shape[1] - 1, PIXELS).long()].T


def _lab(v: Tensor) -> Tensor:
    v = v.clamp(1e-4, 1)
    linear = torch.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    x = linear @ XYZ_OVER_WHITE.T
    f = torch.where(x > 0.008856, x.clamp(min=1e-6) ** (1 / 3), 7.787 * x + 16 / 116)
    return torch.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def write(path: Path, forests: list[Forest], offset: float) -> None:
    """The forests as `blind._trees` reads them: the nodes of all trees in a row."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("feature", "number", "below", "above")}
    roots, firsts, count = [], [], 0
    for forest in forests:
        firsts.append(len(roots))
        for (tree,) in forest._predictors:
            nodes = tree.nodes
            leaf = nodes["is_leaf"].astype(bool)
            columns["feature"].append(np.where(leaf, LEAF, nodes["feature_idx"]))
            columns["number"].append(np.where(leaf, nodes["value"], nodes["num_threshold"]))
            columns["below"].append(np.where(leaf, 0, nodes["left"]))
            columns["above"].append(np.where(leaf, 0, nodes["right"]))
            roots.append(count)
            count += len(nodes)
    kinds = {"feature": np.uint8, "number": np.float32, "below": np.uint8, "above": np.uint8}
    tensors = {name: np.concatenate(parts).astype(kinds[name]) for name, parts in columns.items()}
    depth = max(int(tree.nodes["depth"].max()) for forest in forests for (tree,) in forest._predictors)
    tensors |= {"roots": np.array(roots, np.int32), "forests": np.array(firsts, np.int32)}
    baseline = [float(np.ravel(forest._baseline_prediction)[0]) for forest in forests]
    baseline[0] -= offset
    tensors |= {"depth": np.array([depth], np.int32), "baseline": np.array(baseline), "lowered": np.array([offset])}
    save_file(tensors, str(path), METADATA)


def main() -> None:
    """Parse the command line and fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--set", type=Path, default=Path("color-set"))
    parser.add_argument("--out", type=Path, default=Path("vae_manager/data/color_trees.safetensors"))
    parser.add_argument("--allowed", type=float, default=0.0085)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the sums come out the same on every machine
    cases, sources = load(arguments.set, seed=5)
    best = np.zeros((len(sources), 3), np.float32)
    best[cases.faulty.numpy()] = best_stretches(cases.pick(cases.faulty))
    rng = np.random.default_rng(1)
    fold_of = {name: i % FOLDS for i, name in enumerate(rng.permutation(sorted(set(sources) - {"none"})))}
    fold = torch.tensor([fold_of.get(source, i % FOLDS) for i, source in enumerate(sources)])
    shifts = crossed(cases, fold, lambda own: grow_estimates(cases.pick(own), best[own.numpy()]))
    wanted = helped(cases, shifts)
    print(f"{len(sources)} pictures; of {cases.faulty.sum()} faulty ones {wanted.sum()} would be helped")
    sure = crossed(cases, fold, lambda own: grow_gate(cases.pick(own), wanted[own]))
    judged, answers = cases.pick(cases.judged), torch.cat([sure, shifts], dim=1)[cases.judged]
    offset = surety(judged, answers, arguments.allowed)
    print(f"the score's logit is lowered by {offset:.1f}: {outcome(judged, answers, offset)}")
    for other in np.arange(0, offset + 1, 0.4):
        print(f"cross-validated, lowered by {other:.2f}: {outcome(judged, answers, float(other))}")
    write(arguments.out, grow_gate(cases, wanted) + grow_estimates(cases, best), offset)


if __name__ == "__main__":
    main()
