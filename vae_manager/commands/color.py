"""`color`: find out whether pictures are washed out, and correct those that are."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm import tqdm

from vae_manager.codec.pictures import picture_errors
from vae_manager.color.diagnose import Diagnosis, diagnose
from vae_manager.color.images import corrected, visible
from vae_manager.color.matrix import blend, is_identity
from vae_manager.color.statistics import Statistics, statistics
from vae_manager.commands import Result
from vae_manager.commands.outputs import write_whole
from vae_manager.errors import BadInputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1")
"""Pictures of 8 bits a channel or less, in RGB or grey. Others (CMYK, 16 bits) are refused."""

MAX_JOBS = 8

WORTH_A_PROCESS = 12
"""Pictures for which starting another process (2 s) is worth it."""

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
    jobs = _jobs(args.jobs, len(paths))
    if args.reference:
        open_picture(Path(args.reference))  # so that a bad one is refused before any work is done
    with _workers(jobs) as each:
        pool = each(_look, paths, "session") if args.session else []
        one = partial(_one, reference=args.reference, pool=pool, strength=args.strength, seed=args.seed)
        documents = each(one, list(zip(paths, targets, strict=True)), "color")
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
        if any(";16" in str(part) for part in image.tile):  # Pillow would drop the lower half without a word
            raise BadInputError(f"{str(path)!r} has 16 bits a channel; convert it to 8-bit RGB first.")
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


def _look(path: Path) -> Statistics:
    return statistics(visible(open_picture(path)))


def _one(
    task: tuple[Path, Path | None], reference: str | None, pool: Sequence[Statistics], strength: float, seed: int
) -> dict[str, Any]:
    path, target = task
    image = open_picture(path)
    shown = _reference(reference) if reference else None
    found = diagnose(visible(image), reference=shown, pool=pool)
    applied = target is not None and not is_identity(blend(found.matrix, strength))
    if target is not None:
        write_whole(
            target, lambda part: _save(image, found, strength, seed, part) if applied else shutil.copy2(path, part)
        )
    return {"path": str(path), "output": str(target) if target else None, "applied": applied, **found.document()}


@cache
def _reference(path: str) -> Tensor:
    return visible(open_picture(Path(path)))


def _save(image: Image.Image, found: Diagnosis, strength: float, seed: int, target: Path) -> None:
    """Write the corrected picture with the alpha, text, EXIF, XMP and colour profile of the original."""
    out = corrected(image, found.matrix, strength, seed)
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


# --- many pictures


def _jobs(wanted: int | None, pictures: int) -> int:
    """How many processes: as asked for, else as many as there are cores, none of them for a handful of pictures."""
    if wanted is not None and wanted < 1:
        raise BadInputError(f"The number of jobs must be 1 or more, not {wanted}.")
    return min(wanted or min(os.cpu_count() or 1, MAX_JOBS, pictures // WORTH_A_PROCESS), pictures) or 1


@contextmanager
def _workers(jobs: int) -> Iterator[Callable[[Callable[[T], R], Sequence[T], str], list[R]]]:
    """What does a function on every item, in order, with a progress bar: in this process, or in several others.

    They are started afresh (spawned): a fork of a process in which torch has threads can hang.
    """

    def shown(results: Iterable[R], total: int, what: str) -> list[R]:
        return list(tqdm(results, total=total, desc=what, leave=False, file=sys.stderr, disable=total < 2))

    if jobs == 1:
        yield lambda work, items, what: shown(map(work, items), len(items), what)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as executor:
        try:
            yield lambda work, items, what: shown(executor.map(work, items, chunksize=4), len(items), what)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _line(document: dict[str, Any]) -> str:
    done = f" → {document['output']}" if document["applied"] else ""
    return f"{document['path']}: {document['reason']}{done}"
