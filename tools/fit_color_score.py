"""Fit the trees with which one picture is judged (`vae_manager/color/blind.py`), on the `tune` split only.

    pip install scikit-learn==1.9.1
    python -m tools.build_color_set --photos photos --out color-set
    python -m tools.fit_color_score --set color-set --out vae_manager/data/color_trees.safetensors

One forest tells faded photographs from good and legitimate pictures; three more say, of the faded ones, by how much
black was lifted and white lowered and which chroma gain is right, learnt from the stretch that brings each of them
nearest to what it was. How sure the first has to be is chosen by cross-validation: every picture is judged by forests
that never saw its photograph, and at most `--allowed` of them may be moved.
"""

from __future__ import annotations

import argparse
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

from tools.build_color_set import FAULTS, fault_matrix
from vae_manager.color.blind import MAX_CHROMA, MAX_SHIFT, SURE, abstains, features
from vae_manager.color.matrix import LUMA, adjustment, affine, compose
from vae_manager.color.statistics import Statistics, statistics

DRAWS = 5
"""Faded pictures of each kind of fault that are made of a good one."""
AGAIN = (0.55, 0.9)
"""One of each kind is faded once more, to this contrast: trees know nothing beyond what they have seen, and a picture
that has lost more than any that was measured must not pass for fog."""
FOLDS = 5
TREES = 300
"""In each forest."""
SHAPE = {"learning_rate": 0.06, "max_leaf_nodes": 15, "min_samples_leaf": 40, "l2_regularization": 1.0}
SHARE = 0.3
"""Part of the statistics that a split may choose from: so no one of them is leant on alone."""
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

    def pick(self, rows: Tensor) -> Cases:
        return Cases(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Seen:
    """One picture of the set, or a faded one made of it."""

    source: str
    faulty: bool
    statistics: Statistics
    pixels: np.ndarray
    clean: np.ndarray


def seen(job: tuple[Path, str, str, list[int]]) -> list[Seen]:
    """A tuning picture, and a good one with random faults of each kind too; `seed` makes it the same in any order.

    Nothing else is done to the faded ones: a little noise in half of them was what told them from the others.
    """
    file, kind, source, seed = job
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    with Image.open(file) as image:
        v = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    found = [Seen(source, False, statistics(v), _spread(v).numpy(), _spread(v).numpy())]
    for n, fault in enumerate(FAULTS * DRAWS if kind == "good" else ()):
        again = adjustment(rng.uniform(*AGAIN) if n < len(FAULTS) else 1.0)
        bad = affine(v, compose(again, torch.tensor(fault_matrix(fault, rng), dtype=torch.float64)))
        bad = (bad.clamp(0, 1) * 255).round() / 255
        found.append(Seen(source, True, statistics(bad), _spread(bad).numpy(), _spread(v).numpy()))
    return found


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
    return stretched(cases.pixels, g * torch.cat([shifts, answers[:, 3:].clamp(-MAX_CHROMA, MAX_CHROMA)], dim=1))


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


def grow(cases: Cases, best: np.ndarray) -> list[Forest]:
    """The four forests. `best`: the stretches of the faulty cases, in their order."""
    x, faulty = cases.seen.numpy(), cases.faulty.numpy()
    asked = ~cases.abstains.numpy()
    weight = np.where(faulty, (~faulty).sum() / faulty.sum(), 1.0)  # either half has as much say
    how = {"max_iter": TREES, "max_features": SHARE, "random_state": 0, "early_stopping": False, **SHAPE}
    gate = HistGradientBoostingClassifier(**how).fit(x[asked], faulty[asked], weight[asked])
    rest = [HistGradientBoostingRegressor(loss="absolute_error", **how).fit(x[faulty], b) for b in best.T]
    return [gate, *rest]


def ask(forests: list[Forest], seen: Tensor) -> Tensor:
    """Their answers (P, 4)."""
    gate, *rest = forests
    x = seen.numpy()
    answers = [gate.decision_function(x), *(forest.predict(x) for forest in rest)]  # type: ignore[union-attr]
    return torch.from_numpy(np.stack(answers, axis=1).astype(np.float32))


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
    for offset in np.arange(0, 5, 0.1):
        found = outcome(cases, answers, float(offset))
        if max(found.moved, found.worse) <= allowed:
            return float(offset)
    return 5.0


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
    """The forests as `blind.py` reads them: the nodes of all trees in a row, leaves pointing at themselves."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("feature", "threshold", "below", "above", "value")}
    roots, firsts, count = [], [], 0
    for forest in forests:
        firsts.append(len(roots))
        for (tree,) in forest._predictors:
            nodes, own = tree.nodes, np.arange(len(tree.nodes))
            leaf = nodes["is_leaf"].astype(bool)
            columns["feature"].append(np.where(leaf, 0, nodes["feature_idx"]))
            columns["threshold"].append(np.where(leaf, 0, nodes["num_threshold"]))
            columns["below"].append(np.where(leaf, own, nodes["left"]) + count)
            columns["above"].append(np.where(leaf, own, nodes["right"]) + count)
            columns["value"].append(np.where(leaf, nodes["value"], 0))
            roots.append(count)
            count += len(nodes)
    kinds = {"feature": np.int16, "threshold": np.float32, "below": np.int32, "above": np.int32, "value": np.float32}
    tensors = {name: np.concatenate(parts).astype(kinds[name]) for name, parts in columns.items()}
    depth = max(int(tree.nodes["depth"].max()) for forest in forests for (tree,) in forest._predictors)
    tensors |= {"roots": np.array(roots, np.int32), "forests": np.array(firsts, np.int32)}
    baseline = [float(np.ravel(forest._baseline_prediction)[0]) for forest in forests]
    baseline[0] -= offset
    save_file(tensors | {"depth": np.array([depth], np.int32), "baseline": np.array(baseline)}, str(path), METADATA)


def main() -> None:
    """Parse the command line and fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--set", type=Path, default=Path("color-set"))
    parser.add_argument("--out", type=Path, default=Path("vae_manager/data/color_trees.safetensors"))
    parser.add_argument("--allowed", type=float, default=0.01)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the sums come out the same on every machine
    cases, sources = load(arguments.set, seed=5)
    best = np.zeros((len(sources), 3), np.float32)
    best[cases.faulty.numpy()] = best_stretches(cases.pick(cases.faulty))
    rng = np.random.default_rng(1)
    fold_of = {name: i % FOLDS for i, name in enumerate(rng.permutation(sorted(set(sources) - {"none"})))}
    fold = torch.tensor([fold_of.get(source, i % FOLDS) for i, source in enumerate(sources)])
    answers = torch.zeros(len(sources), 4)
    for index in range(FOLDS):
        own = fold != index
        forests = grow(cases.pick(own), best[(own & cases.faulty).numpy()])
        answers[~own] = ask(forests, cases.seen[~own])
    offset = surety(cases, answers, arguments.allowed)
    print(f"{len(sources)} pictures; the score's logit is lowered by {offset:.1f}")
    for other in np.arange(0, offset + 1, 0.4):
        print(f"cross-validated, lowered by {other:.2f}: {outcome(cases, answers, float(other))}")
    write(arguments.out, grow(cases, best[cases.faulty.numpy()]), offset)


if __name__ == "__main__":
    main()
