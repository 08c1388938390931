"""Build the pictures that the colour room is tuned and measured on.

    python -m tools.collect_photos --out photos
    python -m tools.build_color_set --photos photos --out color-set

`OUT/tune` is made from `photos/train` and `photos/color-tune`, `OUT/test` from `photos/color-test`, with other random
numbers: nothing is tuned on `test`, and no photographer is in both. `OUT/watched`, from `photos/heldout`, is no tuning
material either, but what earlier versions were measured on: it has been looked at. Each split holds good pictures
(whole photographs and crops) and *legitimate* ones: fog, night, pastel, line art and so on, which look washed out or
odd and must be left alone.
`OUT/manifest.tsv` lists them. The faults (`fault_matrix`) are 3×4 maps on gamma RGB, as real ones are (see
docs/color.md), and are applied by whoever measures, in float.
"""

# pyright: basic
from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 320
LUMA = np.array([0.2126, 0.7152, 0.0722])

Picture = np.ndarray
"""(H, W, 3), float, gamma RGB in [0, 1]."""
Rng = np.random.Generator

FAULTS = ("contrast", "chroma", "full")


def fault_matrix(kind: str, rng: Rng) -> np.ndarray:
    """A 3×4 fault: contrast k around a pivot, chroma gain s on top, and for `full` a little of everything.

    `contrast` is what a VAE without its contrast fix does (pivot 0.5); a wrong latent scale is k ≈ .7 around .41.
    """
    k = rng.uniform(0.65, 0.88)
    pivot = 0.5 if kind == "contrast" else rng.uniform(0.4, 0.5)
    s = 1.0 if kind == "contrast" else rng.uniform(0.75, 0.95)
    a = k * (s * np.eye(3) + (1 - s) * LUMA[None])
    offset = np.full((3, 1), pivot * (1 - k))
    if kind == "full":
        a = a + k * rng.normal(0, 0.015, (3, 3))
        offset = offset + rng.normal(0, 0.01, (3, 1))
    return np.hstack([a, offset])


# --- legitimate pictures made from photographs


def _saturate(v: Picture, s: float) -> Picture:
    y = (v @ LUMA)[..., None]
    return y + s * (v - y)


def _smooth(rng: Rng, shape: tuple[int, ...], cells: int) -> np.ndarray:
    """Smooth noise in [0, 1], (H, W)."""
    coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)).clip(0, 1)


def fog(v: Picture, rng: Rng) -> Picture:
    """Thicker toward the top, toward an almost neutral grey."""
    depth = np.linspace(rng.uniform(0.7, 0.95), rng.uniform(0.15, 0.5), v.shape[0])[:, None, None]
    thick = (depth + 0.3 * (_smooth(rng, v.shape, 4)[..., None] - 0.5)).clip(0.1, 0.97)
    return v * (1 - thick) + thick * (rng.uniform(0.6, 0.88) + rng.normal(0, 0.015, 3))


def haze(v: Picture, rng: Rng) -> Picture:
    """Only the far part of the picture."""
    thick = np.linspace(rng.uniform(0.35, 0.6), 0, v.shape[0])[:, None, None] ** rng.uniform(0.8, 1.5)
    return v * (1 - thick) + thick * np.array([0.75, 0.8, 0.86])


def night(v: Picture, rng: Rng) -> Picture:
    return v ** rng.uniform(1.6, 2.6) * rng.uniform(0.25, 0.6) * np.array([0.75, 0.85, 1.0])


def low_key(v: Picture, rng: Rng) -> Picture:
    return v ** rng.uniform(1.3, 1.9) * rng.uniform(0.45, 0.75)


def high_key(v: Picture, rng: Rng) -> Picture:
    floor = rng.uniform(0.15, 0.45)
    return floor + (1 - floor) * v ** rng.uniform(0.45, 0.8)


def pastel(v: Picture, rng: Rng) -> Picture:
    floor = rng.uniform(0.3, 0.55)
    return floor + (1 - floor) * _saturate(v, rng.uniform(0.5, 0.9)).clip(0, 1) ** 0.7


def matte(v: Picture, rng: Rng) -> Picture:
    """The film look: blacks lifted on purpose, whites left."""
    floor = rng.uniform(0.05, 0.16)
    return floor + (1 - floor) * v


def sepia(v: Picture, rng: Rng) -> Picture:
    return (v @ LUMA)[..., None] ** np.array([0.8, 1.0, 1.35]) * rng.uniform(0.85, 1) + rng.uniform(0, 0.1)


def mono(v: Picture, rng: Rng) -> Picture:
    y = (v @ LUMA)[..., None] * np.ones(3)
    return rng.uniform(0, 0.15) + rng.uniform(0.6, 0.85) * y


def muted(v: Picture, rng: Rng) -> Picture:
    return _saturate(v, rng.uniform(0.25, 0.6))


def underwater(v: Picture, rng: Rng) -> Picture:
    water = np.array([0.05, rng.uniform(0.35, 0.5), rng.uniform(0.5, 0.65)])
    thick = rng.uniform(0.3, 0.6) * (0.6 + 0.4 * _smooth(rng, v.shape, 3)[..., None])
    return v * np.array([0.5, 0.9, 1.0]) * (1 - thick) + thick * water


def dusk(v: Picture, rng: Rng) -> Picture:
    sky = np.linspace(1, 0.35, v.shape[0])[:, None, None]
    return v**1.3 * (0.35 + 0.6 * sky) * np.array([1.0, 0.72, 0.55])


def snow(v: Picture, rng: Rng) -> Picture:
    y = (v @ LUMA)[..., None]
    white = 1 / (1 + np.exp(-(y - rng.uniform(0.3, 0.5)) * 10))
    return v * (1 - 0.8 * white) + 0.8 * white * np.array([0.93, 0.95, 0.98])


def studio(v: Picture, rng: Rng) -> Picture:
    """A small subject on a plain backdrop."""
    height, width = v.shape[:2]
    out = np.ones_like(v) * rng.uniform(0.35, 0.8) + 0.08 * (_smooth(rng, v.shape, 2)[..., None] - 0.5)
    small = v[:: 2 if height < 200 else 3, :: 2 if height < 200 else 3]
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    out[top : top + small.shape[0], left : left + small.shape[1]] = small
    return out


def pencil(v: Picture, rng: Rng) -> Picture:
    """Grey strokes where the photograph has edges, on paper."""
    y = Image.fromarray(((v @ LUMA) * 255).clip(0, 255).astype(np.uint8))
    blurred = np.asarray(y.filter(ImageFilter.GaussianBlur(2)), float)
    edges = np.abs(np.asarray(y, float) - blurred) / 40
    paper = rng.uniform(0.86, 0.97)
    strokes = paper - edges.clip(0, 1) * rng.uniform(0.3, 0.75) + rng.normal(0, 0.01, v.shape[:2])
    return strokes[..., None] * np.array([1, 0.99, 0.96])


def pixel_art(v: Picture, rng: Rng) -> Picture:
    image = Image.fromarray((v.clip(0, 1) * 255).astype(np.uint8)).resize((40, 40), Image.Resampling.BOX)
    small = image.quantize(int(rng.integers(6, 20))).convert("RGB")
    pixels = np.asarray(small.resize((240, 240), Image.Resampling.NEAREST)) / 255
    return rng.uniform(0, 0.2) + pixels * rng.uniform(0.6, 0.8)


def soft_anime(v: Picture, rng: Rng) -> Picture:
    """Flat areas of soft colours, without black."""
    image = Image.fromarray((v.clip(0, 1) * 255).astype(np.uint8)).filter(ImageFilter.ModeFilter(9))
    flat = np.asarray(image.quantize(12).convert("RGB")) / 255
    floor = rng.uniform(0.1, 0.3)
    return floor + (0.98 - floor) * _saturate(flat, 1.1).clip(0, 1)


def bokeh(v: Picture, rng: Rng) -> Picture:
    """Everything out of focus: no true black or white is left."""
    image = Image.fromarray((v.clip(0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(8, 16)))) / 255


# --- legitimate pictures made from nothing


def line_art(_: Picture, rng: Rng) -> Picture:
    paper = int(rng.uniform(225, 256))
    image = Image.new("RGB", (SIDE, SIDE), (paper, paper, int(paper * rng.uniform(0.93, 1))))
    draw, ink = ImageDraw.Draw(image), int(rng.uniform(0, 90))
    for _i in range(int(rng.integers(10, 60))):
        x, y, r = rng.integers(0, SIDE), rng.integers(0, SIDE), rng.integers(5, 120)
        draw.arc((x - r, y - r, x + r, y + r), *sorted(rng.uniform(0, 360, 2)), fill=(ink,) * 3, width=2)
    return np.asarray(image) / 255


def gradient(_: Picture, rng: Rng) -> Picture:
    a, b = rng.uniform(0.1, 0.9, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:1:240j, 0:1:240j]
    t = np.cos(angle) * x + np.sin(angle) * y
    t = ((t - t.min()) / np.ptp(t))[..., None]
    return a * (1 - t) + b * t + rng.normal(0, rng.choice([0, 0.004, 0.01]), (240, 240, 3))


def flat(_: Picture, rng: Rng) -> Picture:
    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(60, 230, 3)))
    draw = ImageDraw.Draw(image)
    for _i in range(int(rng.integers(0, 8))):
        draw.ellipse(np.sort(rng.integers(0, SIDE, (2, 2)), axis=0).ravel().tolist(), tuple(rng.integers(50, 235, 3)))
    return np.asarray(image) / 255


def watercolour(_: Picture, rng: Rng) -> Picture:
    """Pale washes on paper with a grain."""
    out = np.ones((240, 240, 3)) * rng.uniform(0.88, 0.98)
    for _i in range(6):
        wash = (_smooth(rng, out.shape, int(rng.integers(3, 8)))[..., None] - 0.5).clip(0, 1) * rng.uniform(0.5, 1.2)
        out = out * (1 - wash * (1 - rng.uniform(0.3, 0.95, 3)))
    return out + rng.normal(0, 0.012, out.shape[:2])[..., None]


FROM_PHOTOS: tuple[Callable[[Picture, Rng], Picture], ...] = (
    fog, haze, night, low_key, high_key, pastel, matte, sepia, mono, muted, underwater, dusk, snow, studio, pencil,
    pixel_art, soft_anime, bokeh,
)  # fmt: skip
FROM_NOTHING: tuple[Callable[[Picture, Rng], Picture], ...] = (line_art, gradient, flat, watercolour)


# --- the set


@lru_cache(maxsize=300)
def _opened(path: Path) -> Image.Image:
    """Each photograph is cropped some forty times: read it once."""
    with Image.open(path) as file:
        file.draft("RGB", (4 * SIDE, 4 * SIDE))
        return file.convert("RGB")


def crops(path: Path, count: int, rng: Rng) -> Iterator[Picture]:
    """The whole photograph, then random parts of it, each at most `SIDE` pixels wide and high."""
    image = _opened(path)
    for index in range(count):
        part = image
        if index:
            side = int(min(image.size) * rng.uniform(0.35, 0.8))
            left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
            part = image.crop((left, top, left + side, top + side))
        part = part.copy()
        part.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        yield np.asarray(part) / 255


def pictures(photos: list[Path], per_photo: int, per_kind: int, seed: int) -> Iterator[tuple[str, str, Picture]]:
    """(kind, source, picture) of one split."""
    rng = np.random.default_rng(seed)
    for path in photos:
        for picture in crops(path, per_photo, rng):
            yield "good", path.name, picture
    for make in (*FROM_PHOTOS, *FROM_NOTHING):
        for index in range(per_kind):
            path = photos[(index * 7919 + len(make.__name__)) % len(photos)]
            # fog over half a photograph, or night over a crop: the second picture that `crops` gives
            part = list(crops(path, 2, rng))[index % 2]
            yield make.__name__, "none" if make in FROM_NOTHING else path.name, make(part, rng)


SPLITS = (
    # split, folders of photographs, crops of each, pictures of each legitimate kind, seed
    ("tune", ("train", "color-tune"), 8, 227, 1),
    ("test", ("color-test",), 5, 50, 2002),
    ("watched", ("heldout",), 6, 20, 1001),
)


def build(photos: Path, out: Path) -> None:
    """Write the splits and the manifest."""
    rows = ["split\tfile\tkind\tsource"]
    for split, folders, per_photo, per_kind, seed in SPLITS:
        sources = [path for folder in folders for path in sorted((photos / folder).iterdir())]
        (out / split).mkdir(parents=True, exist_ok=True)
        for index, (kind, source, picture) in enumerate(pictures(sources, per_photo, per_kind, seed)):
            name = f"{split}/{index:04d}-{kind}.png"
            Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8)).save(out / name)
            rows.append(f"{split}\t{name}\t{kind}\t{source}")
        print(f"{split}: {index + 1} pictures")
    (out / "manifest.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--photos", type=Path, default=Path("photos"), help="what collect_photos wrote")
    parser.add_argument("--out", type=Path, default=Path("color-set"))
    arguments = parser.parse_args()
    build(arguments.photos, arguments.out)


if __name__ == "__main__":
    main()
