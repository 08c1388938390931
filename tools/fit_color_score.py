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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tools.build_color_set import FAULTS, fault_matrix
from vae_manager.color.blind import MAX_CHROMA, MAX_SHIFT, MIN_CHROMA, MIN_TEXTURE, SURE, features
from vae_manager.color.matrix import LUMA, affine
from vae_manager.color.statistics import statistics

HIDDEN = 24
MEMBERS = 5
"""Networks trained apart, each without a part of the photographs of its own, by which it is judged. Their answers are
averaged: one network with as many times the hidden units."""
NOISE = 0.08
"""Added to the standardised statistics in training, so that none is trusted to the last digit."""
PIXELS = 150
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
    floor: Tensor
    headroom: Tensor
    abstains: Tensor
    faulty: Tensor

    def pick(self, rows: Tensor) -> Cases:
        return Cases(**{name: value[rows] for name, value in vars(self).items()})


def load(folder: Path, repeats: int, seed: int) -> tuple[Cases, list[str]]:
    """Every tuning picture, the good ones with `repeats` random faults of each kind too, and their sources."""
    rng = np.random.default_rng(seed)
    parts: list[tuple[Tensor, Tensor, bool]] = []
    sources: list[str] = []
    for line in (folder / "manifest.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        split, file, kind, source = line.split("\t")
        if split != "tune":
            continue
        v = torch.from_numpy(np.array(Image.open(folder / file))).permute(2, 0, 1).float() / 255
        made = [(v, v, False)]
        for fault in FAULTS * (repeats if kind == "good" else 0):
            bad = affine(v, torch.tensor(fault_matrix(fault, rng)))
            if rng.random() < 0.5:  # as a decoder would, not every level exactly where it was
                bad = bad + 0.004 * torch.randn(v.shape)
            made.append(((bad.clamp(0, 1) * 255).round() / 255, v, True))
        parts += made
        sources += [source] * len(made)
    stats = [statistics(v) for v, _, _ in parts]
    return Cases(
        torch.tensor([features(s) for s in stats]),
        torch.stack([_spread(v) for v, _, _ in parts]),
        torch.stack([_spread(clean) for _, clean, _ in parts]),
        torch.tensor([s.floors[0] for s in stats]),
        torch.tensor([1 - s.ceilings[0] for s in stats]),
        torch.tensor([s.texture < MIN_TEXTURE or s.chromas[2] < MIN_CHROMA for s in stats]),
        torch.tensor([faulty for _, _, faulty in parts]),
    ), sources


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


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean CIE94 distance of each picture's pixels: near CIEDE2000, and smooth."""
    a, b = _lab(a), _lab(b)
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
    before = distance(cases.pixels, cases.clean).clamp(min=1)
    for step in range(steps):
        rows = torch.randperm(len(before))[:BATCH]
        batch = cases.pick(rows)
        out = net(batch.seen + NOISE * torch.randn(batch.seen.shape))
        g, v = corrected(batch, out, hard=step > steps // 2)
        after = distance(v, batch.clean)
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


def surety(cases: Cases, answers: Tensor, allowed: float) -> float:
    """What to take off the score's logit so that at most this share of good and legitimate pictures is moved."""
    for offset in np.arange(0, 3, 0.1):
        with torch.no_grad():
            _, v = corrected(cases, answers - torch.tensor([float(offset), 0.0, 0.0, 0.0]), hard=True)
        moved = (distance(v, cases.clean) > MOVED)[~cases.faulty].float().mean()
        if moved <= allowed:
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
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--repeats", type=int, default=3, help="random faults of each kind for each good picture")
    parser.add_argument("--care", type=float, default=1.2)
    parser.add_argument("--allowed", type=float, default=0.01)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    cases, sources = load(arguments.set, arguments.repeats, seed=5)
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
