"""`color`: find out whether pictures are washed out, and correct those that are."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections import Counter
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

from vae_manager.codec.picture_files import (
    add_color_chunks,
    encoded,
    is_lossless,
    loses_bits,
    open_picture,
    to_srgb,
)
from vae_manager.color.evidence import Finding
from vae_manager.color.images import corrected, look, visible
from vae_manager.color.matrix import blend, is_identity
from vae_manager.color.statistics import Statistics, statistics
from vae_manager.commands import Result, check_seed, one_line
from vae_manager.errors import BadInputError
from vae_manager.writing import write_whole

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1")
"""Pictures of 8 bits a channel or less, in RGB or grey. Others (CMYK, 16 bits) are refused."""

MAX_JOBS = 8

MOST_JOBS = 61
"""Windows cannot wait for more processes."""

WORTH_A_PROCESS = 12
"""Pictures for which starting another process (2 s) is worth it."""

SHOWN = 3
"""Odd pictures that are named in the sentence."""

T = TypeVar("T")
R = TypeVar("R")


def color_pictures(args: argparse.Namespace) -> Result:
    """Diagnose every picture, and write the corrected ones; what is left alone is copied as it is."""
    if not 0 <= args.strength <= 1:
        raise BadInputError(f"The strength must lie between 0 and 1, not {args.strength:g}.")
    if not (args.output or args.diagnose):
        raise BadInputError("Say where the pictures go with -o DIR, or ask for --diagnose alone.")
    paths = _paths(args.images)
    check_seed(args.seed)
    jobs = _jobs(args.jobs, len(paths))
    if args.reference:
        _open(Path(args.reference))  # so that a bad one is refused before any work is done
    targets = [None] * len(paths) if args.diagnose else _targets(paths, Path(args.output), args.reference)
    with _workers(jobs) as each:
        pool = [found for found in each(_look, paths, "session") if found] if args.session else []
        one = partial(_one, reference=args.reference, pool=pool, strength=args.strength, seed=args.seed)
        documents = each(one, list(zip(paths, targets, strict=True)), "color")
    refusal = _left_out(documents)
    return Result(documents, "\n".join(_line(document) for document in documents), refusal)


def _left_out(documents: Sequence[dict[str, Any]]) -> str | None:
    """One odd picture does not stop the others: it is told at the end. A picture that is alone is refused.

    Raises:
        BadInputError: there is one picture, and it cannot be used.
    """
    problems = [document["problem"] for document in documents if "problem" in document]
    if len(documents) == 1 and problems:
        raise BadInputError(problems[0])
    if not problems:
        return None
    count = f"{len(problems)} of {len(documents)} pictures {'was' if len(problems) == 1 else 'were'} left out"
    shown = " ".join(problems[:SHOWN])
    return f"{count}: {shown}" + (" The others are named in the list above." if len(problems) > SHOWN else "")


def _open(path: Path) -> Image.Image:
    """A picture with its pixels loaded, as it lies in the file (an EXIF rotation is kept, not applied).

    Raises:
        BadInputError: no such file, no picture, a broken one, or one of a kind that cannot be corrected.
    """
    image = open_picture(path)
    if image.mode not in MODES:
        raise BadInputError(f"{str(path)!r} is a picture of the kind {image.mode}; convert it to 8-bit RGB first.")
    if loses_bits(path):  # Pillow drops the lower half without a word
        raise BadInputError(f"{str(path)!r} has 16 bits a channel; convert it to 8-bit RGB first.")
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


def _targets(paths: Sequence[Path], folder: Path, reference: str | None) -> list[Path]:
    """Where each picture goes; nothing that was given may be written over."""
    if folder.exists() and not folder.is_dir():
        raise BadInputError(f"{str(folder)!r} is a file; the pictures need a folder.")
    targets = [folder / path.name for path in paths]
    given, names = {_key(path) for path in [*paths, *([Path(reference)] if reference else [])]}, Counter(targets)
    for target, path in zip(targets, paths, strict=True):
        if names[target] > 1:
            raise BadInputError(f"Two of the pictures are called {path.name!r}; give each its own folder.")
        if target.exists() and _key(target) in given:
            raise BadInputError(f"{str(target)!r} would be written over itself; choose another folder.")
        if target.exists() and not target.is_file():
            raise BadInputError(f"{str(target)!r} is there already and is no file; choose another folder.")
        if path.suffix.lower() not in SUFFIXES:
            raise BadInputError(f"{path.name!r} is of no kind that is written; use {', '.join(SUFFIXES)}.")
    folder.mkdir(parents=True, exist_ok=True)
    return targets


def _key(path: Path) -> tuple[int, int]:
    """What is the same for all names of one file."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


# --- one picture


def _look(path: Path) -> Statistics | None:
    """What a session learns of a picture; None of one that cannot be used."""
    try:
        return statistics(visible(_open(path)))
    except BadInputError:
        return None


def _one(
    task: tuple[Path, Path | None], reference: str | None, pool: Sequence[Statistics], strength: float, seed: int
) -> dict[str, Any]:
    path, target = task
    shown = _reference(reference) if reference else None
    try:
        image = _open(path)
    except BadInputError as error:
        return {"path": str(path), "output": None, "applied": False, "problem": str(error)}
    found = look(image, shown, pool)
    applied = target is not None and not is_identity(blend(found.matrix, strength))
    if target is not None:
        write_whole(
            target, lambda part: _save(image, found, strength, seed, part) if applied else shutil.copy2(path, part)
        )
    return {"path": str(path), "output": str(target) if target else None, "applied": applied, **found.document()}


@cache
def _reference(path: str) -> Tensor:
    return visible(_open(Path(path)))


def _save(image: Image.Image, found: Finding, strength: float, seed: int, target: Path) -> None:
    """Write the corrected picture with the alpha, text, EXIF, XMP and colour profile of the original."""
    out = corrected(image, found.matrix, strength, seed)
    own = to_srgb(image) is image  # else what is written is in sRGB, and the profile is not its profile any more
    options: dict[str, Any] = {"icc_profile": image.info.get("icc_profile") if own else None}
    options["exif"] = image.info.get("exif")
    options["dpi"] = image.info.get("dpi")
    kind = image.format or "PNG"
    if kind == "PNG":
        options["pnginfo"] = _png_info(image, own)
    elif kind in ("JPEG", "MPO"):
        kind = "JPEG"
        options |= {"qtables": getattr(image, "quantization", None), "comment": image.info.get("comment")}
        options["subsampling"] = "4:2:0" if (getattr(image, "layer", None) or [(0, 1)])[0][1] == 2 else "4:4:4"
    elif kind == "WEBP":
        options |= {"quality": 95, "xmp": image.info.get("xmp"), "exact": True}
        options["lossless"] = is_lossless(image)
    target.write_bytes(encoded(out, kind, **{name: value for name, value in options.items() if value is not None}))


def _png_info(image: Image.Image, own_colors: bool) -> PngInfo:
    """The text chunks, such as a generation's parameters, and XMP, which PNG keeps among them; and what the colours
    mean (W3C PNG specification, §11.3.2), where they still mean that."""
    info = PngInfo()
    if own_colors:
        add_color_chunks(info, image.info)
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
    return min(wanted or min(os.cpu_count() or 1, MAX_JOBS, pictures // WORTH_A_PROCESS), pictures, MOST_JOBS) or 1


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
    said = document["reason"] if "reason" in document else f"left out: {document['problem']}"
    return f"{one_line(document['path'])}: {said}{done}"
