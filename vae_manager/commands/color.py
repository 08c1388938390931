"""`color`: find out whether pictures are washed out, and correct those that are."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm import tqdm

from vae_manager.codec.pictures import picture_errors
from vae_manager.color.correct import correct_levels
from vae_manager.color.diagnose import Diagnosis, diagnose
from vae_manager.color.matrix import blend, is_identity
from vae_manager.color.statistics import Statistics, statistics
from vae_manager.commands import Result
from vae_manager.errors import BadInputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1")
"""Pictures of 8 bits a channel or less, in RGB or grey. Others (CMYK, 16 bits) are refused."""

MAX_JOBS = 8

T = TypeVar("T")
R = TypeVar("R")


def color_pictures(args: argparse.Namespace) -> Result:
    """Diagnose every picture, and write the corrected ones; what is left alone is copied as it is."""
    if not 0 <= args.strength <= 1:
        raise BadInputError(f"The strength must lie between 0 and 1, not {args.strength:g}.")
    if not (args.output or args.diagnose):
        raise BadInputError("Say where the pictures go with -o DIR, or ask for --diagnose alone.")
    paths = _paths(args.images)
    targets = [None] * len(paths) if args.diagnose else _targets(paths, Path(args.output))
    reference = _pixels(open_picture(Path(args.reference))) if args.reference else None
    pool: Sequence[Statistics] = ()
    if args.session:
        pool = _each(paths, lambda path: statistics(_pixels(open_picture(path))), "session")

    def one(task: tuple[Path, Path | None]) -> dict[str, Any]:
        return _one(task[0], task[1], reference, pool, args.strength, args.seed)

    documents = _each(list(zip(paths, targets, strict=True)), one, "color")
    return Result(documents, "\n".join(_line(document) for document in documents))


def open_picture(path: Path) -> Image.Image:
    """A picture with its pixels loaded, as it lies in the file (an EXIF rotation is kept, not applied).

    Raises:
        BadInputError: no such file, no picture, a broken one, or one of a kind that cannot be corrected.
    """
    with picture_errors(path):
        image = Image.open(path)
        if image.mode not in MODES:
            raise BadInputError(f"{str(path)!r} is a picture of the kind {image.mode}; convert it to 8-bit RGB first.")
        if getattr(image, "n_frames", 1) > 1:
            raise BadInputError(f"{str(path)!r} holds several pictures (an animation?); take one of them out first.")
        image.load()
        return image


# --- which files


def _paths(names: Sequence[str]) -> list[Path]:
    """The files named, and the pictures in the folders named."""
    found: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise BadInputError(f"There is no picture in the folder {str(path)!r}.")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise BadInputError(f"There is no picture {str(path)[:200]!r}.")
    return list(dict.fromkeys(found))


def _targets(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Where each picture goes; nothing that was given may be written over."""
    if folder.exists() and not folder.is_dir():
        raise BadInputError(f"{str(folder)!r} is a file; the pictures need a folder.")
    targets = [folder / path.name for path in paths]
    for target, path in zip(targets, paths, strict=True):
        if targets.count(target) > 1:
            raise BadInputError(f"Two of the pictures are called {path.name!r}; give each its own folder.")
        if target.exists() and any(target.samefile(other) for other in paths):
            raise BadInputError(f"{str(target)!r} would be written over itself; choose another folder.")
        if path.suffix.lower() not in SUFFIXES:
            raise BadInputError(f"{path.name!r} is of no kind that is written; use {', '.join(SUFFIXES)}.")
    folder.mkdir(parents=True, exist_ok=True)
    return targets


# --- one picture


def _one(
    path: Path, target: Path | None, reference: Tensor | None, pool: Sequence[Statistics], strength: float, seed: int
) -> dict[str, Any]:
    image = open_picture(path)
    found = diagnose(_pixels(image), reference=reference, pool=pool)
    applied = target is not None and not is_identity(blend(found.matrix, strength))
    if target is not None:
        _write(target, lambda part: _save(image, found, strength, seed, part) if applied else shutil.copy2(path, part))
    return {"path": str(path), "output": str(target) if target else None, "applied": applied, **found.document()}


def _pixels(image: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1] of what can be seen: transparent pixels have no say, so they are laid on mid-grey."""
    rgb = image.convert("RGB")
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, (128, 128, 128, 255)), rgba).convert("RGB")
    return _levels(rgb).float() / 255


def _levels(rgb: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _save(image: Image.Image, found: Diagnosis, strength: float, seed: int, target: Path) -> None:
    """Write the corrected picture with the alpha, text, EXIF, XMP and colour profile of the original."""
    levels = correct_levels(_levels(image.convert("RGB")), found.matrix, strength, seed)
    out = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    if _has_alpha(image):
        out.putalpha(image.convert("RGBA").getchannel("A"))
    options: dict[str, Any] = {"icc_profile": image.info.get("icc_profile"), "exif": image.info.get("exif")}
    options["dpi"] = image.info.get("dpi")
    kind = image.format or "PNG"
    if kind == "PNG":
        options["pnginfo"] = _png_text(image)
    elif kind in ("JPEG", "MPO"):
        kind = "JPEG"
        options |= {"qtables": getattr(image, "quantization", None), "comment": image.info.get("comment")}
        options["subsampling"] = "4:2:0" if (getattr(image, "layer", None) or [(0, 1)])[0][1] == 2 else "4:4:4"
    elif kind == "WEBP":
        options |= {"quality": 95, "xmp": image.info.get("xmp"), "exact": True}
    out.save(target, format=kind, **{name: value for name, value in options.items() if value is not None})


def _png_text(image: Image.Image) -> PngInfo:
    """The text chunks, such as a generation's parameters, and XMP, which PNG keeps among them."""
    info = PngInfo()
    for key, value in getattr(image, "text", {}).items():
        if value.isascii():
            info.add_text(key, value)
        else:
            info.add_itxt(key, value)
    return info


def _write(target: Path, save: Callable[[Path], object]) -> None:
    """Write beside the target, then rename: a kill leaves no half picture."""
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        save(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


# --- many pictures


def _each(items: Sequence[T], work: Callable[[T], R], what: str) -> list[R]:
    """`work` on every item, on several cores (Pillow and torch let go of Python's lock), in order."""
    jobs = min(os.cpu_count() or 1, MAX_JOBS, len(items))
    with ThreadPoolExecutor(jobs) as executor:
        results = executor.map(work, items)
        return list(tqdm(results, total=len(items), desc=what, leave=False, file=sys.stderr, disable=len(items) < 2))


def _line(document: dict[str, Any]) -> str:
    done = f" → {document['output']}" if document["applied"] else ""
    return f"{document['path']}: {document['reason']}{done}"
