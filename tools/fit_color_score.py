"""Train the network with which one picture is judged (`vae_manager/color/blind.py`), on the `tune` split only.

    python -m tools.build_color_set --photos photos --out color-set
    python -m tools.fit_color_score --set color-set --out vae_manager/data/color_score.json

The loss is what the network is for: how much of a fault's colour distance is left, four times dearer where a
picture is made worse, plus the distance by which good and legitimate pictures are moved. How sure the network has to
be is chosen by cross-validation: every picture is judged by the member that never saw its photograph, and at most
`--allowed` of them may be moved.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from tools.build_color_set import FAULTS, fault_matrix
from vae_manager.color.blind import MAX_CHROMA, MAX_SHIFT, SURE, abstains, features
from vae_manager.color.matrix import LUMA, affine
from vae_manager.color.statistics import Statistics, statistics

HIDDEN = 32
MEMBERS = 5
"""Networks trained apart, each without a fifth of the photographs, by which it is judged. Their answers are averaged:
one network with as many times the hidden units."""
NOISE = 0.08
"""Added to the standardised statistics in training, so that none is trusted to the last digit."""
PIXELS = 100
"""Pixels of each picture that the loss looks at."""
BATCH = 500
MOVED = 0.5

XYZ_OVER_WHITE = torch.tensor(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / torch.tensor([[0.95047], [1.0], [1.08883]])
"""Linear sRGB (IEC 61966-2-1) to XYZ over D65 white."""


@dataclass
class Cases:
    """What is trained on, a row a picture."""

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
    """A tuning picture, and a good one with a random fault of each kind too; `seed` makes it the same in any order."""
    file, kind, source, seed = job
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    with Image.open(file) as image:
        v = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    found = [Seen(source, False, statistics(v), _spread(v).numpy(), _spread(v).numpy())]
    for fault in FAULTS if kind == "good" else ():
        bad = affine(v, torch.tensor(fault_matrix(fault, rng)))
        if rng.random() < 0.5:  # as a decoder would, not every level exactly where it was
            bad = bad + 0.004 * torch.from_numpy(rng.standard_normal(v.shape, dtype=np.float32))
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


def corrected(cases: Cases, out: Tensor, hard: bool) -> tuple[Tensor, Tensor]:
    """The gate (P,) and the pixels after the correction, as `blind.correction` and `matrix.apply` do it."""
    g = torch.sigmoid(2 * out[:, 0])
    if hard:
        t = ((g - SURE[0]) / (SURE[1] - SURE[0])).clamp(0, 1)
        g = t * t * (3 - 2 * t)
    g = g.masked_fill(cases.abstains, 0)
    b = (g * cases.floor * torch.sigmoid(out[:, 1])).clamp(max=MAX_SHIFT)[:, None, None]
    d = (g * cases.headroom * torch.sigmoid(out[:, 2])).clamp(max=MAX_SHIFT)[:, None, None]
    s = torch.exp(g * MAX_CHROMA * torch.tanh(out[:, 3]))[:, None, None]
    weights = torch.tensor(LUMA)
    y = (cases.pixels @ weights)[..., None]
    v = (s * cases.pixels + (1 - s) * y - b) / (1 - b - d)
    y = (v @ weights)[..., None].clamp(0, 1)
    low, high = v.amin(-1, keepdim=True), v.amax(-1, keepdim=True)
    t = torch.minimum(y / (y - low).clamp(min=1e-4), (1 - y) / (high - y).clamp(min=1e-4)).clamp(0, 1)
    return g, y + t * (v - y)


def distance(pixels: Tensor, b: Tensor) -> Tensor:
    """Mean CIE94 distance of each picture's pixels, gamma RGB, from those in CIELAB: near CIEDE2000, and smooth."""
    a = _lab(pixels)
    d = a - b
    c = torch.sqrt(b[..., 1] ** 2 + b[..., 2] ** 2 + 1)
    dc = torch.sqrt(a[..., 1] ** 2 + a[..., 2] ** 2 + 1) - c
    dh2 = (d[..., 1] ** 2 + d[..., 2] ** 2 - dc**2).clamp(min=0)
    return torch.sqrt(d[..., 0] ** 2 + (dc / (1 + 0.045 * c)) ** 2 + dh2 / (1 + 0.015 * c) ** 2 + 1e-6).mean(-1)


def train(cases: Cases, steps: int, care: float) -> nn.Sequential:
    """Fit on standardised statistics; `care` weighs pictures that must stay against faults undone."""
    last = nn.Linear(HIDDEN, 4)
    nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([0.0, 1.0, 1.0, 0.0])
    net = nn.Sequential(nn.Linear(cases.seen.shape[1], HIDDEN), nn.Tanh(), last)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    before = distance(cases.pixels, cases.lab).clamp(min=1)
    for step in range(steps):
        rows = torch.randperm(len(before))[:BATCH]
        batch = cases.pick(rows)
        out = net(batch.seen + NOISE * torch.randn(batch.seen.shape))
        g, v = corrected(batch, out, hard=step > steps // 2)
        after = distance(v, batch.lab)
        left = (after / before[rows])[batch.faulty]
        undone = left.clamp(max=1) + 4 * (left - 1).clamp(min=0) + 0.15 * (left.clamp(max=1) - 1) ** 2
        moved = 0.5 * after.clamp(max=4) + g
        (undone.mean() + care * moved[~batch.faulty].mean()).backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    return net.eval()


def together(members: list[nn.Sequential]) -> nn.Sequential:
    """One network that answers with the mean of its members' answers."""
    inner, outer = zip(*[(member[0], member[2]) for member in members], strict=True)
    hidden, out = nn.Linear(inner[0].in_features, HIDDEN * len(members)), nn.Linear(HIDDEN * len(members), 4)
    hidden.weight.data = torch.cat([layer.weight.data for layer in inner])
    hidden.bias.data = torch.cat([layer.bias.data for layer in inner])
    out.weight.data = torch.cat([layer.weight.data for layer in outer], dim=1) / len(members)
    out.bias.data = torch.stack([layer.bias.data for layer in outer]).mean(0)
    return nn.Sequential(hidden, nn.Tanh(), out)


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
        _, v = corrected(cases, answers - torch.tensor([offset, 0.0, 0.0, 0.0]), hard=True)
        after = distance(v, cases.lab)
        recovery = (1 - after / distance(cases.pixels, cases.lab))[cases.faulty]
    moved = (after > MOVED)[~cases.faulty].float().mean()
    return Outcome(float(moved), float((recovery < -0.01).float().mean()), float(recovery.median()))


def surety(cases: Cases, answers: Tensor, allowed: float) -> float:
    """What to take off the score's logit so that at most this share of good and legitimate pictures is moved, and of
    the faulty ones made worse."""
    for offset in np.arange(0, 3, 0.1):
        found = outcome(cases, answers, float(offset))
        if max(found.moved, found.worse) <= allowed:
            return float(offset)
    return 3.0


def _spread(v: Tensor) -> Tensor:
    flat = v.reshape(3, -1)
    return flat[:, torch.linspace(0, flat.shape[1] - 1, PIXELS).long()].T


def _lab(v: Tensor) -> Tensor:
    v = v.clamp(1e-4, 1)
    linear = torch.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    x = linear @ XYZ_OVER_WHITE.T
    f = torch.where(x > 0.008856, x.clamp(min=1e-6) ** (1 / 3), 7.787 * x + 16 / 116)
    return torch.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--set", type=Path, default=Path("color-set"))
    parser.add_argument("--out", type=Path, default=Path("vae_manager/data/color_score.json"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--cases", type=Path, help="keep the pictures' statistics there, or take them from there")
    parser.add_argument("--care", type=float, default=1.2)
    parser.add_argument("--allowed", type=float, default=0.01)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the sums come out the same on every machine
    torch.manual_seed(0)
    if arguments.cases and arguments.cases.is_file():
        cases, sources = torch.load(arguments.cases, weights_only=False)
    else:
        cases, sources = load(arguments.set, seed=5)
        if arguments.cases:
            torch.save((cases, sources), arguments.cases)
    rng = np.random.default_rng(1)
    fold_of = {name: i % MEMBERS for i, name in enumerate(rng.permutation(sorted(set(sources) - {"none"})))}
    fold = torch.tensor([fold_of.get(source, i % MEMBERS) for i, source in enumerate(sources)])
    deviation, mean = torch.std_mean(cases.seen, dim=0)
    cases.seen = (cases.seen - mean) / deviation
    members, answers = [], torch.zeros(len(sources), 4)
    for index in range(MEMBERS):
        members.append(train(cases.pick(fold != index), arguments.steps, arguments.care))
        with torch.no_grad():
            answers[fold == index] = members[-1](cases.seen[fold == index])
    offset = surety(cases, answers, arguments.allowed)
    net = together(members)
    write(arguments.out, net, mean, deviation, offset)
    print(f"{len(sources)} pictures; the score's logit is lowered by {offset:.1f}")
    for other in (0.0, offset / 2, offset):
        print(f"cross-validated, lowered by {other:.2f}: {outcome(cases, answers, other)}")


def write(path: Path, net: nn.Sequential, mean: Tensor, deviation: Tensor, offset: float) -> None:
    """The network as JSON, as `blind.py` reads it."""
    state = net.state_dict()
    bias = state["2.bias"] - torch.tensor([offset, 0.0, 0.0, 0.0])
    tensors = {"mean": mean, "deviation": deviation, "out_bias": bias, "out_weight": state["2.weight"]}
    tensors |= {"hidden_weight": state["0.weight"], "hidden_bias": state["0.bias"]}
    rounded = {name: np.round(value.detach().double().numpy(), 5).tolist() for name, value in tensors.items()}
    path.write_text(json.dumps({"about": "made by tools/fit_color_score.py", **rounded}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
