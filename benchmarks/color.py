"""Measure the colour room on pictures that its tuning never saw, beside its peers.

    python -m tools.build_color_set --photos photos --out color-set
    python -m benchmarks.color --set color-set [--count 60] [--only speed,blind] [--json]

Peers are measured where they can be imported or run: ImageMagick (`convert`), kornia, color-matcher.

ΔE is CIEDE2000 (scikit-image), the mean over evenly spread pixels. *Recovery* is 1 − ΔE after / ΔE before. A picture
is *moved* when its mean ΔE is above 0.5. Faults are applied in float and rounded to 8 bits; peers get those 8 bits.
"""

# pyright: basic
from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from skimage import color, exposure
from torch import Tensor
from torch.nn import functional as F

from tools.build_color_set import FAULTS, fault_matrix
from tools.fit_color_pools import LIKELY, pool
from tools.real_faults import FAULTS as REAL_FAULTS
from tools.real_faults import OVERSHOOTS, Case, case, draw, rounded
from vae_manager.codec.build import build_kl
from vae_manager.codec.kinds.tiny.network import build_taesd
from vae_manager.codec.whole import decode, encode, latent_of
from vae_manager.color.bake import fold_decoder
from vae_manager.color.correct import correct, to_levels, treat
from vae_manager.color.diagnose import diagnose
from vae_manager.color.drift import hold
from vae_manager.color.evidence import Evidence, Finding
from vae_manager.color.faults import TOO_STRONG, scale_fault
from vae_manager.color.fit import box_down, fit_map
from vae_manager.color.images import levels
from vae_manager.color.matrix import adjustment, affine, apply, is_identity, stretch
from vae_manager.color.pool import different, pooled_map
from vae_manager.color.reference import fit_reference
from vae_manager.color.statistics import statistics
from vae_manager.color.trip import undoing
from vae_manager.commands import open_file
from vae_manager.commands.bench import color_arguments
from vae_manager.errors import BadInputError
from vae_manager.library.health import round_trip, suspicions, trip_problems, weight_problems
from vae_manager.library.state import load_kl_state

try:
    kornia: Any = importlib.import_module("kornia")
except ImportError:
    kornia = None
try:
    ColorMatcher: Any = importlib.import_module("color_matcher").ColorMatcher
except ImportError:
    ColorMatcher = None

DEMO = Path(__file__).parents[1] / "vae_manager" / "data" / "demo" / "demo-kl-f8.safetensors"
MOVED = 0.5
SAMPLE = 2500

Row = dict[str, Any]


class ColorSet:
    """One split of the set: (kind, source, file) of its pictures, read when they are asked for."""

    def __init__(self, folder: Path, split: str) -> None:
        lines = (folder / "manifest.tsv").read_text(encoding="utf-8").splitlines()[1:]
        entries = [line.split("\t") for line in lines]
        self.folder = folder
        self.all = [(kind, source, file) for part, file, kind, source in entries if part == split]
        self.good = [entry for entry in self.all if entry[0] == "good"]

    def load(self, entry: tuple[str, str, str]) -> Tensor:
        with Image.open(self.folder / entry[2]) as image:
            return levels(image.convert("RGB")) / 255


def delta_e(a: Tensor, b: Tensor) -> float:
    """Mean CIEDE2000 of two pictures (3, H, W), by scikit-image, not by what is measured here."""
    step = max(1, a.shape[1] * a.shape[2] // SAMPLE)
    x, y = (v.reshape(3, -1)[:, ::step].T.double().clamp(0, 1).numpy() for v in (a, b))
    return float(color.deltaE_ciede2000(color.rgb2lab(x), color.rgb2lab(y)).mean())


def faulty(v: Tensor, kind: str, rng: np.random.Generator) -> Tensor:
    """The picture with a random fault of that kind, in 8 bits."""
    return to_levels(affine(v, torch.tensor(fault_matrix(kind, rng)))) / 255


# --- the subjects: picture in, picture out


def ours(v: Tensor) -> Tensor:
    return apply(v, diagnose(Evidence(v)).matrix)


def pil_autocontrast(cutoff: float) -> Callable[[Tensor], Tensor]:
    return lambda v: _from_image(ImageOps.autocontrast(_to_image(v), cutoff=cutoff))


def skimage_rescale(v: Tensor) -> Tensor:
    """`rescale_intensity` between the 0.5 and 99.5 percentiles, as its gallery shows."""
    x = v.numpy()
    low, high = np.percentile(x, (0.5, 99.5))
    ranges: dict[str, Any] = {"in_range": (low, max(high, low + 1e-3)), "out_range": (0, 1)}
    return torch.from_numpy(exposure.rescale_intensity(x, **ranges))


def skimage_clahe(v: Tensor) -> Tensor:
    return torch.from_numpy(exposure.equalize_adapthist(v.permute(1, 2, 0).numpy(), clip_limit=0.01)).permute(2, 0, 1)


SUBJECTS: dict[str, Callable[[Tensor], Tensor]] = {
    "VAE Manager, one picture": ours,
    "PIL autocontrast": pil_autocontrast(0),
    "PIL autocontrast, cutoff 0.5": pil_autocontrast(0.5),
    "scikit-image rescale_intensity": skimage_rescale,
    "scikit-image equalize_adapthist": skimage_clahe,
}


def kornia_min_max(v: Tensor) -> Tensor:
    return kornia.enhance.normalize_min_max(v[None])[0]


def kornia_clahe(v: Tensor) -> Tensor:
    return kornia.enhance.equalize_clahe(v[None])[0]


def imagemagick(option: str) -> Callable[[Tensor], Tensor]:
    def subject(v: Tensor) -> Tensor:
        given = io.BytesIO()
        _to_image(v).save(given, format="PPM")
        command = ["convert", "ppm:-", option, "-depth", "8", "ppm:-"]
        done = subprocess.run(command, input=given.getvalue(), capture_output=True, check=True)
        with Image.open(io.BytesIO(done.stdout)) as image:
            return _from_image(image.convert("RGB"))

    return subject


if kornia is not None:
    SUBJECTS |= {"kornia normalize_min_max": kornia_min_max, "kornia equalize_clahe": kornia_clahe}
if Path("/usr/bin/convert").exists():
    SUBJECTS |= {f"ImageMagick {option}": imagemagick(option) for option in ("-auto-level", "-normalize")}


def _to_image(v: Tensor) -> Image.Image:
    return Image.fromarray((v * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _from_image(image: Image.Image) -> Tensor:
    return levels(image) / 255


# --- what is measured


def leaving_alone(pictures: ColorSet, limit: int) -> Iterator[Row]:
    """Good and legitimate pictures that each subject moves."""
    for name, subject in SUBJECTS.items():
        entries = pictures.all if subject is ours else pictures.all[:: max(1, len(pictures.all) // (2 * limit))]
        moves = [(kind, delta_e(subject(v), v)) for kind, v in ((e[0], pictures.load(e)) for e in entries)]
        far = [kind for kind, move in moves if move > MOVED]
        yield {
            "subject": name,
            "pictures": len(moves),
            "moved": len(far),
            "moved_percent": round(100 * len(far) / len(moves), 2),
            "good_moved": far.count("good"),
            "kinds": {kind: far.count(kind) for kind in sorted(set(far))} if subject is ours else {},
            "mean_delta_e": round(float(np.mean([move for _, move in moves])), 3),
        }


def blind(pictures: ColorSet, limit: int) -> Iterator[Row]:
    """Recovery of each kind of fault from one picture."""
    rng = np.random.default_rng(11)
    entries = pictures.good[:: max(1, len(pictures.good) // limit)]
    cases = [(kind, v, faulty(v, kind, rng)) for v in map(pictures.load, entries) for kind in FAULTS]
    before = [delta_e(bad, v) for _, v, bad in cases]
    for name, subject in SUBJECTS.items():
        after = [delta_e(subject(bad), v) for _, v, bad in cases]
        recovery = np.array([1 - a / b for a, b in zip(after, before, strict=True)])
        row: Row = {"subject": name, "pictures": len(cases), "recovery": _median(recovery)}
        for kind in FAULTS:
            row[kind] = _median(recovery[[case[0] == kind for case in cases]])
        row |= {"worse_percent": round(100 * float((recovery < -0.01).mean()), 1)}
        yield row | {"delta_e_before": _median(np.array(before)), "delta_e_after": _median(np.array(after))}


def pooled(pictures: ColorSet, limit: int) -> Iterator[Row]:
    """Recovery and damage where K pictures of one session are known."""
    sources = sorted({source for _, source, _ in pictures.good})
    for count in (4, 8, 16):
        rng, recovery, damage, found = np.random.default_rng(count), [], [], 0
        for trial in range(limit // 2):
            chosen = [[e for e in pictures.good if e[1] == s] for s in rng.choice(sources, count, replace=False)]
            session = [pictures.load(entries[rng.integers(len(entries))]) for entries in chosen]
            matrix = torch.tensor(fault_matrix(FAULTS[trial % 3], rng))
            bad = [to_levels(affine(v, matrix)) / 255 for v in session]
            fixed = pooled_map(different([statistics(v) for v in bad]))
            clean = pooled_map(different([statistics(v) for v in session]))
            found += not is_identity(fixed)
            recovery += [
                1 - delta_e(correct(b, fixed, clip=True), v) / delta_e(b, v) for b, v in list(zip(bad, session))[:3]
            ]
            damage += [delta_e(correct(v, clean, clip=True), v) for v in session[:3]]
        yield {
            "pictures": count,
            "sessions": limit // 2,
            "found_percent": round(100 * found / (limit // 2), 1),
            "recovery": _median(np.array(recovery)),
            "damage_p99": round(float(np.percentile(damage, 99)), 3),
        }


QUALITY = 90
"""Of the JPEG files that a third of the really faulty pictures is kept as."""


def vouches(found: Finding) -> bool:
    """Whether it says that all is well, and not only that nothing is done."""
    return found.cause == "none" and not found.reason.startswith("left alone: ")


def real_alone(pictures: ColorSet, limit: int) -> Iterator[Row]:
    """Faults as decoders make them (`tools.real_faults`), one picture alone: by overshoot, and by kind."""
    rng = np.random.default_rng(31)
    entries = pictures.good[:: max(1, len(pictures.good) // limit)]
    cases: list[tuple[float, str, Case]] = []
    for over in OVERSHOOTS:
        for index, entry in enumerate(entries):
            name = REAL_FAULTS[index % len(REAL_FAULTS)].__name__
            quality = None if index % 3 else QUALITY
            cases.append((over, name, case(pictures.load(entry), draw(name, rng), over, rng, quality)))
    results = [(over, name, *_judged(one, ours(one.bad))) for over, name, one in cases]
    for over in OVERSHOOTS:
        yield {"of": f"overshoot +{over:g}"} | _found_and_undone([r[2:] for r in results if r[0] == over])
    for fault in REAL_FAULTS:
        yield {"of": fault.__name__} | _found_and_undone([r[2:] for r in results if r[1] == fault.__name__])


def real_pooled(pictures: ColorSet, limit: int) -> Iterator[Row]:
    """The same fault in eight pictures of one VAE, and pools of sound pictures with the same overshoot."""
    rng, sources = np.random.default_rng(32), sorted({source for _, source, _ in pictures.good})
    results: list[tuple[float, str, list[tuple[bool, float, float]], bool]] = []
    damage: list[float] = []
    for trial in range(limit):
        over, name = OVERSHOOTS[trial % len(OVERSHOOTS)], REAL_FAULTS[trial % len(REAL_FAULTS)].__name__
        fault = draw(name, rng)
        chosen = [[e for e in pictures.good if e[1] == s] for s in rng.choice(sources, 8, replace=False)]
        photos = [pictures.load(entries[rng.integers(len(entries))]) for entries in chosen]
        session = [case(v, fault, over, rng) for v in photos]
        pool = [statistics(one.bad) for one in session]
        found = [diagnose(Evidence(one.bad, pool=pool)) for one in session[:3]]
        judged = [_judged(one, treat(one.bad, d)[0]) for one, d in zip(session, found, strict=False)]
        results.append((over, name, judged, any(map(vouches, found))))
        sound = [case(v, lambda v: v, over, rng).bad for v in photos]
        clean = [statistics(v) for v in sound]
        damage += [delta_e(treat(v, diagnose(Evidence(v, pool=clean)))[0], v) for v in sound[:2]]
    groups = {f"overshoot +{over:g}": [r for r in results if r[0] == over] for over in OVERSHOOTS}
    groups |= {fault.__name__: [r for r in results if r[1] == fault.__name__] for fault in REAL_FAULTS}
    for name, group in groups.items():
        row = {"of": name} | _found_and_undone([one for r in group for one in r[2]])
        yield row | {"vouched": sum(r[3] for r in group), "of_pools": len(group)}
    moved = 100 * float(np.mean(np.array(damage) > MOVED))
    yield {"of": "sound ones", "pictures": len(damage), "found_percent": round(moved, 1)}


def pools(pictures: ColorSet, limit: int) -> Iterator[Row]:
    """Pools as `tools.fit_color_pools` makes them, by what is wrong with their VAE: from files, and with the decoder's
    own values, as in the WebUI."""
    rng = np.random.default_rng(41)
    sources = sorted({source for _, source, _ in pictures.good})
    photos = [[pictures.load(e).permute(1, 2, 0).double().numpy() for e in pictures.good if e[1] == s] for s in sources]
    made = [pool(photos, number, rng) for number in range(limit)]
    for own in (False, True):
        for what in sorted({one.what for one in made}):
            judged: list[tuple[bool, float, float]] = []
            vouched, group = 0, [one for one in made if one.what == what]
            for one in group:
                found = [diagnose(Evidence(c.bad, pool=one.of(own))) for c in one.cases]
                vouched += any(map(vouches, found))
                judged += [_judged(c, treat(c.bad, d)[0]) for c, d in zip(one.cases, found, strict=True)]
            touched = sum(any(j[0] for j in judged[i : i + 3]) for i in range(0, len(judged), 3))
            row: Row = {"own values": own, "of": what, "pools": len(group), "touched": touched, "vouched": vouched}
            faulty = what in LIKELY
            yield row | (_found_and_undone(judged) if faulty else {"moved": sum(j[2] > j[1] + MOVED for j in judged)})


def _judged(one: Case, out: Tensor) -> tuple[bool, float, float]:
    """Whether anything was done, and the distance from the truth before and after."""
    return out is not one.bad, delta_e(one.bad, one.truth), delta_e(out, one.truth)


def _found_and_undone(results: Sequence[tuple[bool, float, float]]) -> Row:
    undone = np.array([1 - after / before for _, before, after in results])
    row: Row = {"pictures": len(results), "found_percent": round(100 * float(np.mean([r[0] for r in results])), 1)}
    row |= {"undone": _median(undone), "worse_percent": round(100 * float((undone < -0.01).mean()), 1)}
    return row | {"delta_e_before": _median(np.array([r[1] for r in results]))}


def calibrated(pictures: ColorSet, limit: int) -> Row:
    """A map fitted on four pictures, applied in float to pictures that the fit never saw."""
    rng, recovery = np.random.default_rng(5), []
    for trial in range(limit // 2):
        matrix = torch.tensor(fault_matrix(FAULTS[trial % 3], rng))
        seen = [pictures.load(pictures.good[i]) for i in rng.choice(len(pictures.good), 4, replace=False)]
        noisy = [affine(v, matrix) + 0.004 * torch.randn(v.shape) for v in seen]
        source, target = (
            torch.cat([box_down(v, v.shape[1] // 8, v.shape[2] // 8) for v in part]) for part in (noisy, seen)
        )
        fitted, _ = fit_map(source, target)
        fresh = pictures.load(pictures.good[rng.integers(len(pictures.good))])
        bad = affine(fresh, matrix)
        recovery.append(1 - delta_e(correct(bad, fitted, clip=True), fresh) / delta_e(bad, fresh))
    return {"maps": len(recovery), "recovery": _median(np.array(recovery)), "p10": _percentile(recovery, 10)}


def a1111_lab(v: Tensor, reference: Tensor) -> Tensor:
    """What A1111 does: match the histograms of the three LAB channels in 8 bits (written from its description)."""
    a, b = (color.rgb2lab(x.permute(1, 2, 0).double().numpy()) for x in (v, reference))
    a, b = (np.round((x + np.array([0, 128, 128])) * [2.55, 1, 1]) for x in (a, b))
    matched = np.round(exposure.match_histograms(a, b, channel_axis=2)) / [2.55, 1, 1] - [0, 128, 128]
    return torch.from_numpy(color.lab2rgb(matched)).permute(2, 0, 1).float()


def color_matcher(method: str) -> Callable[[Tensor, Tensor], Tensor]:
    def subject(v: Tensor, reference: Tensor) -> Tensor:
        a, b = (x.permute(1, 2, 0).double().numpy() for x in (v, reference))
        return (
            torch.from_numpy(ColorMatcher().transfer(src=a, ref=b, method=method)).permute(2, 0, 1).float().clamp(0, 1)
        )

    return subject


def referenced(pictures: ColorSet, limit: int) -> Iterator[Row]:
    """An aligned reference, a quarter of the picture repainted and the rest a little redrawn."""
    rng = np.random.default_rng(3)
    subjects = {"VAE Manager": _by_reference, "A1111's LAB histograms": a1111_lab}
    if ColorMatcher is not None:
        subjects |= {f"color-matcher {method}": color_matcher(method) for method in ("mkl", "reinhard", "hm-mvgd-hm")}
    rows: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in subjects}
    for trial in range(limit):
        v, other = (pictures.load(pictures.good[rng.integers(len(pictures.good))]) for _ in range(2))
        new = _repainted(v, other, rng)
        bad = faulty(new, FAULTS[trial % 3], rng)
        for name, (after, damage) in rows.items():
            after.append(delta_e(subjects[name](bad, v), new))
            damage.append(delta_e(subjects[name](new, v), new))
    for name, (after, damage) in rows.items():
        yield {
            "subject": name,
            "pictures": limit,
            "delta_e_after": _median(np.array(after)),
            "p90": _percentile(after, 90),
            "damage": _median(np.array(damage)),
            "damage_p99": _percentile(damage, 99),
        }


def unrelated(pictures: ColorSet, trials: int = 500) -> Row:
    """References that show something else, half of the time with a fault to correct."""
    rng, applied, highest = np.random.default_rng(9), 0, 0.0
    loaded = [(entry[1], pictures.load(entry)) for entry in pictures.all[::4]]
    for trial in range(trials):
        (source, v), (other_source, other) = (loaded[i] for i in rng.choice(len(loaded), 2, replace=False))
        if source == other_source and source != "none":
            other = other.flip(0).roll(160, 1)  # another picture after all
        v = faulty(v, FAULTS[trial % 3], rng) if trial % 2 else v
        found = fit_reference(v, F.interpolate(other[None], v.shape[1:], mode="bilinear", antialias=True)[0])
        applied += found.matrix is not None
        highest = max(highest, found.agreement)
    return {"trials": trials, "applied": applied, "highest_agreement": round(highest, 3)}


SCALES = MappingProxyType({"sd1": 0.18215, "sdxl": 0.13025, "sd3": 1.5305, "flux": 0.3611})
DAMAGES = ("zero layer", "NaN", "noise layer", "pale output", "swapped layers", "half another VAE")


def named_from_facts() -> Iterator[Row]:
    """Faults named from the configuration and the file, and the false alarms among what is right."""
    pairs = [(used, right) for used in SCALES.values() for right in SCALES.values()]
    wrong = [scale_fault(u, r, "") for u, r in pairs if u != r] + [
        scale_fault(r * f, r, "") for r in SCALES.values() for f in (0.715, 1.4)
    ]
    fine = [scale_fault(r * f, r, "") for r in SCALES.values() for f in (1, 1 + 1e-4, 1 - 1e-4, 1.002)]
    yield _named("wrong latent scale", wrong, fine)
    state, groups = load_kl_state(open_file(str(DEMO)), torch.float32)
    rng = np.random.default_rng(13)
    damaged = [_problems(_damaged(state, kind, rng), groups) for kind in DAMAGES for _ in range(4)]
    healthy = [
        _problems({n: t.to(dtype).float() for n, t in state.items()}, groups)
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ]
    yield _named("damaged VAE", damaged, healthy) | {
        "missed": [DAMAGES[i // 4] for i, found in enumerate(damaged) if not found]
    }


def _named(cause: str, wrong: Sequence[object], fine: Sequence[object]) -> Row:
    found, alarms = sum(map(bool, wrong)), sum(map(bool, fine))
    row = {"cause": cause, "cases": len(wrong), "named_percent": round(100 * found / len(wrong), 1)}
    return row | {"right_ones": len(fine), "false_alarms": alarms, "missed": []}


def _problems(state: dict[str, Tensor], groups: int) -> tuple[str, ...]:
    """What `inspect --health` says of these weights, suspicions included."""
    trip = trip_problems(round_trip(build_kl(state, groups)), "sd1")
    return weight_problems(state.items()) or trip or suspicions(state.items())


def _damaged(state: dict[str, Tensor], kind: str, rng: np.random.Generator) -> dict[str, Tensor]:
    layers = [n for n, t in state.items() if n.startswith("decoder.") and t.ndim == 4 and "conv" in n]
    name = str(rng.choice(layers))
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 30)))
    made, weight = dict(state), state[name]
    noise = weight.std() * torch.randn(weight.shape, generator=generator)
    if kind == "zero layer":
        made[name] = torch.zeros_like(weight)
    elif kind == "NaN":
        made[name] = weight.masked_fill(torch.rand(weight.shape, generator=generator) < 0.01, float("nan"))
    elif kind == "noise layer":
        made[name] = noise
    elif kind == "pale output":
        made = fold_decoder(state, adjustment(float(rng.uniform(0.65, 0.8))))
    elif kind == "swapped layers":
        same = [n for n in layers if n != name and state[n].shape == weight.shape]
        other = str(rng.choice(same)) if same else "decoder.mid.block_1.conv1.weight"
        made[name], made[other] = (state[other], weight) if same else (weight, state[other].flip(0))
    else:
        made = {
            n: t + 0.5 * t.std() * torch.randn(t.shape, generator=generator) if t.ndim == 4 else t
            for n, t in state.items()
        }
    return made


def named_from_pixels(pictures: ColorSet, limit: int) -> Iterator[Row]:
    """The demo VAE's own decodes at the right scale and at wrong ones, judged alone and in sessions of eight."""
    vae = build_kl(*load_kl_state(open_file(str(DEMO)), torch.float32))
    first = {source: entry for entry in reversed(pictures.good) for source in [entry[1]]}
    latents = [
        latent_of(encode(vae, _whole_blocks(pictures.load(e))[None] * 2 - 1)) for e in list(first.values())[:limit]
    ]
    rng = np.random.default_rng(21)
    for factor in (1.0, 0.715, 1.4):
        seen = [(decode(vae, factor * z)[0] / 2 + 0.5).clamp(0, 1) for z in latents]
        kept = [statistics(v) for v in seen]
        alone = [diagnose(Evidence(v)) for v in seen]
        pools = [rng.choice(len(seen), 8, replace=False) for _ in range(100)]
        together = [diagnose(Evidence(seen[p[0]], pool=[kept[i] for i in p])) for p in pools]
        yield {
            "latent_times": factor,
            "pictures": len(seen),
            "washed_out_alone_percent": round(100 * float(np.mean([d.washed_out for d in alone])), 1),
            "session_washed_out_percent": round(100 * float(np.mean([d.washed_out for d in together])), 1),
            "session_too_strong_percent": round(
                100 * float(np.mean([d.reason.startswith(TOO_STRONG) for d in together])), 1
            ),
        }


ROUNDS = 10
IN_LATENTS = "the mean of all latents before, in latents"
LOW = 4
"""Latent pixels of the blocks whose means are a latent's low frequencies."""
HELD: dict[str, Callable[[Tensor, list[Tensor]], Tensor]] = {
    "nothing": lambda new, before: new,
    "the picture before": lambda new, before: hold(new, before[-1]),
    "the first picture": lambda new, before: hold(new, before[0]),
    "the mean of all before": lambda new, before: hold(new, torch.stack(before).mean(0)),
    IN_LATENTS: lambda new, before: new,
}


def edit_rounds(pictures: ColorSet, limit: int) -> Iterator[Row]:
    """Ten round trips through the demo VAE, each held in one way or another: how far block means drift where the
    picture still shows the same. With edits, a patch of another picture is painted in before every trip."""
    vae = build_kl(*load_kl_state(open_file(str(DEMO)), torch.float32))
    first = {source: entry for entry in reversed(pictures.good) for source in [entry[1]]}
    photos = [
        _whole_blocks(pictures.load(entry)[:, :192, :256]) for entry in list(first.values())[: max(4, limit // 8)]
    ]
    for edits in (False, True):
        for name, way in HELD.items():
            rng, drift, contrast = np.random.default_rng(17), [], []
            for index, photo in enumerate(photos):
                kept, last, painted = [photo], photo, torch.zeros(photo.shape[1:], dtype=torch.bool)
                latents: list[Tensor] = []
                for _ in range(ROUNDS):
                    given = _patched(last, photos[index - 1], painted, rng) if edits else last
                    latents.append(latent_of(encode(vae, given[None] * 2 - 1)))
                    latent = _aligned(latents) if name == IN_LATENTS else latents[-1]
                    new = (decode(vae, latent)[0] / 2 + 0.5).clamp(0, 1)
                    last = to_levels(way(new, [*kept[:-1], given])).float() / 255
                    kept.append(last)
                drift.append(_block_drift(last, photo, painted))
                contrast.append(float((last.std((1, 2)) / photo.std((1, 2)) - 1).abs().max()))
            yield {
                "edits": edits,
                "held to": name,
                "pictures": len(photos),
                "block_delta_e": _median(np.array(drift)),
                "worst": round(max(drift), 2),
                "contrast_change_percent": round(100 * float(np.median(contrast)), 2),
            }


def _aligned(latents: list[Tensor]) -> Tensor:
    """The last latent with the low frequencies that the rounds before have had on average (VAE-LFA's idea,
    arXiv 2605.08250, made anew)."""
    last = latents[-1]
    if len(latents) == 1:
        return last
    off = torch.stack(latents[:-1]).mean(0) - last
    return last + F.interpolate(F.avg_pool2d(off, LOW, ceil_mode=True), last.shape[2:], mode="bilinear")


def _patched(v: Tensor, other: Tensor, painted: Tensor, rng: np.random.Generator) -> Tensor:
    """The picture with a patch of another one, a hundredth of its area; `painted` is told where."""
    side = min(v.shape[1:]) // 10 + 4
    top, left = (int(rng.integers(0, length - side)) for length in v.shape[1:])
    place = np.s_[top : top + side, left : left + side]
    out = v.clone()
    out[:, place[0], place[1]] = other[:, :side, :side]
    painted[place] = True
    return out


def _block_drift(v: Tensor, start: Tensor, painted: Tensor) -> float:
    """Mean CIEDE2000 of the means of blocks of 16 pixels that hold nothing that was painted in."""
    kept = (F.avg_pool2d(painted[None].float(), 16) == 0).flatten().numpy()
    a, b = (color.rgb2lab(F.avg_pool2d(x, 16).flatten(1).T.double().numpy()[kept]) for x in (v, start))
    return float(color.deltaE_ciede2000(a, b).mean())


TRIPS = 5
"""Faulty VAEs of each kind whose round trip is looked at."""


def trip_vae() -> Any:
    """The demo VAE, or the tiny one whose halves `TINY_VAE` names, "ENCODER,DECODER"."""
    if not (halves := os.environ.get("TINY_VAE")):
        return build_kl(*load_kl_state(open_file(str(DEMO)), torch.float32))
    return build_taesd(*(torch.load(half, weights_only=True) for half in halves.split(",")))


def by_round_trip(pictures: ColorSet, limit: int) -> Iterator[Row]:
    """One picture, where the VAE's own round trip is known: a VAE with each fault behind its decoder. Its pictures
    come as in a WebUI, clipped to [0, 1] but not rounded yet, and are rounded once they are corrected."""
    vae = trip_vae()
    rng, entries = np.random.default_rng(33), pictures.good[:: max(1, len(pictures.good) // limit)]
    found = undoing(round_trip(vae))
    yield {"of": "the VAE as it is", "moved": found is None or not found.nothing}
    for kind in REAL_FAULTS:
        results = []
        for part in range(TRIPS):
            fault, faulty_vae = draw(kind.__name__, rng), copy(vae)
            faulty_vae.decode = lambda z, fault=fault: fault(vae.decode(z)[0] / 2 + 0.5)[None] * 2 - 1
            undone = undoing(round_trip(faulty_vae))
            for index, entry in enumerate(entries[part::TRIPS]):
                one = case(pictures.load(entry), fault, OVERSHOOTS[index % len(OVERSHOOTS)], rng)
                shown = one.raw.clamp(0, 1)
                done, told = treat(shown, diagnose(Evidence(shown, trip=undone)))
                results.append(_judged(one, rounded(done) if told.corrects else one.bad))
        yield {"of": kind.__name__} | _found_and_undone(results)


def before_and_after(path: Path) -> Row:
    """Write the README's picture: the washed-out demo VAE's wash-out undone, and a good picture that is left alone."""
    bad, good = DEMO.with_name("demo-kl-f8-washed-out.safetensors"), DEMO
    with Image.open(DEMO.with_name("photo.jpg")) as image:
        photo = _from_image(image.resize((1152, 768), Image.Resampling.LANCZOS))
    vaes = [build_kl(*load_kl_state(open_file(str(file)), torch.float32)) for file in (good, bad)]
    latent = latent_of(encode(vaes[0], photo[None] * 2 - 1))
    right, pale = ((decode(vae, latent)[0] / 2 + 0.5).clamp(0, 1) for vae in vaes)
    calibration, _ = fit_map(box_down(pale, 48, 72), box_down(right, 48, 72))
    found = diagnose(Evidence(pale, calibration=calibration))
    fixed, untouched = correct(pale, found.matrix), correct(photo, diagnose(Evidence(photo)).matrix)
    tiles = {
        f"decoded by the washed-out VAE: CIEDE2000 {delta_e(pale, right):.1f}": pale,
        f"the same, calibrated: CIEDE2000 {delta_e(fixed, right):.2f}": fixed,
        "a good photograph": photo,
        "judged by itself: left alone, bit for bit" if untouched is photo else "judged by itself: moved": untouched,
    }
    sheet = Image.new("RGB", (2 * 576 + 8, 2 * (384 + 26)), "white")
    for index, (label, v) in enumerate(tiles.items()):
        corner = (index % 2 * 584, index // 2 * 410)
        inner = _to_image(v).crop((36, 24, 1116, 744))  # the demo VAE leaves dark marks at the edges
        small = inner.resize((576, 384), Image.Resampling.LANCZOS)
        sheet.paste(small, (corner[0], corner[1] + 26))
        ImageDraw.Draw(sheet).text((corner[0] + 4, corner[1] + 3), label, "black", ImageFont.load_default(16))
    sheet.save(path, quality=84)
    return {"before": round(delta_e(pale, right), 2), "after": round(delta_e(fixed, right), 3), "reason": found.reason}


def _whole_blocks(v: Tensor) -> Tensor:
    return v[:, : v.shape[1] // 8 * 8, : v.shape[2] // 8 * 8]


def _by_reference(v: Tensor, reference: Tensor) -> Tensor:
    matrix = fit_reference(v, reference).matrix
    return v if matrix is None else apply(v, matrix)


def _repainted(v: Tensor, other: Tensor, rng: np.random.Generator) -> Tensor:
    height, width = v.shape[1:]
    field = F.interpolate(torch.from_numpy(rng.random((1, 1, 5, 5))).float(), (height, width), mode="bicubic")[0, 0]
    mask = (field > field.quantile(0.75)).float()
    fitted = F.interpolate(other[None], (height, width), mode="bilinear", antialias=True)[0]
    noise = 0.01 * torch.from_numpy(rng.standard_normal(v.shape)).float()
    return (v * (1 - mask) + fitted * mask + noise).clamp(0, 1)


def speed(side: int = 1024) -> list[Row]:
    """Milliseconds of processor time per megapixel: the best of forty, the subjects in turn, so that all meet the same
    machine. On a busy one the clock on the wall also counts the others' turns, for whatever takes longer than one."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    v = 0.15 + 0.6 * torch.stack([x, y, (x + y) / 2]) + 0.05 * torch.rand(3, side, side)
    image, mild, strong = _to_image(v), stretch(0.16, 0.78), stretch(0.25, 0.7, 1.2)
    mapped = Finding("picture", 1.0, "for the benchmark", mild)
    subjects: dict[str, Callable[[], object]] = {
        "PIL autocontrast (8-bit in and out)": lambda: ImageOps.autocontrast(image),
        "float 3×4": lambda: affine(v, mild),
        "float 3×4, few pixels out of gamut": lambda: apply(v, mild),
        "float 3×4, a third out of gamut": lambda: apply(v, strong),
        "statistics": lambda: statistics(v),
        "diagnosis of one picture": lambda: diagnose(Evidence(v)),
        "statistics of a sample, float 3×4, gamut and NaN": lambda: (statistics(v, whole=False), treat(v, mapped)),
        "diagnosis, float 3×4, gamut and NaN": lambda: (
            diagnose(Evidence(v, seen=statistics(v, whole=False))),
            treat(v, mapped),
        ),
    }
    best = dict.fromkeys(subjects, float("inf"))
    for _ in range(40):
        for name, call in subjects.items():
            start = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - start)
    scale = 1e3 / (side * side / 1e6)
    peer = best["PIL autocontrast (8-bit in and out)"]
    return [
        {"subject": n, "ms_per_megapixel": round(t * scale, 2), "ratio": round(t / peer, 2)} for n, t in best.items()
    ]


def banding() -> Row:
    """Empty 8-bit codes between the ends of a smooth ramp whose contrast was lost by .65 and given back."""
    ramp = torch.linspace(0.1, 0.9, 1 << 14).expand(3, 1, 1 << 14)
    pale, back = affine(ramp, adjustment(0.65)), adjustment(1 / 0.65)

    def empty(v: Tensor) -> int:
        codes = (v * 255).round().int().unique()
        return int(codes.max() - codes.min() + 1 - codes.numel())

    return {"float": empty(apply(pale, back)), "eight_bit": empty(apply(to_levels(pale) / 255, back))}


def _median(values: np.ndarray) -> float:
    return round(float(np.median(values)), 3)


def _percentile(values: list[float], at: float) -> float:
    return round(float(np.percentile(values, at)), 3)


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, ["---"] * len(keys), *[[str(row.get(key, "")) for key in keys] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measure(options: argparse.Namespace) -> tuple[Any, str]:
    """What the options ask for: the JSON document, and tables for people. Each section is shown as it is done.

    Raises:
        BadInputError: there is no set to measure on, or no such section.
    """
    if options.ours:
        SUBJECTS.clear()
        SUBJECTS["VAE Manager, one picture"] = ours
    if options.picture:
        row = before_and_after(Path(options.picture))
        return row, str(row)
    folder = Path(options.set)
    if not (folder / "manifest.tsv").is_file():
        raise BadInputError(f"There is no colour set in {str(folder)!r}; build one with tools/build_color_set.py.")
    pictures, count = ColorSet(folder, options.split), options.count
    sections: dict[str, Callable[[], list[Row]]] = {
        "speed": speed,
        "banding": lambda: [banding()],
        "leaving alone": lambda: list(leaving_alone(pictures, count)),
        "blind": lambda: list(blind(pictures, count)),
        "pooled": lambda: list(pooled(pictures, count)),
        "real faults alone": lambda: list(real_alone(pictures, count)),
        "real faults pooled": lambda: list(real_pooled(pictures, count)),
        "pools": lambda: list(pools(pictures, count)),
        "calibrated": lambda: [calibrated(pictures, count)],
        "aligned reference": lambda: list(referenced(pictures, count)),
        "unrelated reference": lambda: [unrelated(pictures)],
        "round trip": lambda: list(by_round_trip(pictures, count)),
        "edit rounds": lambda: list(edit_rounds(pictures, count)),
        "named from facts": lambda: list(named_from_facts()),
        "named from pixels": lambda: list(named_from_pixels(pictures, count)),
    }
    wanted = [name.strip() for name in options.only.split(",") if name.strip()] or list(sections)
    if unknown := [name for name in wanted if name not in sections]:
        raise BadInputError(f"There is no section {unknown[0]!r}; there are {', '.join(sections)}.")
    document: dict[str, list[Row]] = {}
    torch.set_num_threads(1)
    for name in wanted:
        document[name] = sections[name]()
        print(f"\n## {name}\n{table(document[name])}", file=sys.stderr, flush=True)
    return document, "\n\n".join(f"## {name}\n{table(rows)}" for name, rows in document.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; 2 with one sentence where there is no set to measure on."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true")
    color_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        document, text = measure(arguments)
    except BadInputError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(document, ensure_ascii=False) if arguments.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
