"""`color`: find out whether pictures are washed out, and correct those that are."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

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
from vae_manager.color.statistics import Statistics, statistics
from vae_manager.commands import Result, check_seed, one_line
from vae_manager.commands.many import (
    Batch,
    Document,
    Files,
    Item,
    attempt,
    checked_place,
    is_many,
    items_of,
    progress,
    result,
    stamp_of,
    stamps,
)
from vae_manager.commands.workers import Each, WorkerLost, count_jobs, workers
from vae_manager.errors import BadInputError
from vae_manager.writing import write_whole

if TYPE_CHECKING:
    from vae_manager.codec.kinds.shapes import Padding
    from vae_manager.color.trip import Undoing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

PICTURES = Files("picture", SUFFIXES)

MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1")
"""Pictures of 8 bits a channel or less, in RGB or grey. Others (CMYK, 16 bits) are refused."""

WORTH_A_PROCESS = 12
"""Pictures for which starting another process (2 s) is worth it."""


def color_pictures(args: argparse.Namespace) -> Result:
    """Diagnose every picture, and write the corrected ones; what is left alone is copied as it is."""
    if not 0 <= args.strength <= 1:
        raise BadInputError(f"The strength must lie between 0 and 1, not {args.strength:g}.")
    if not (args.output or args.diagnose):
        raise BadInputError("Say where the pictures go with -o DIR, or ask for --diagnose alone.")
    check_seed(args.seed)
    args = checked_place(args, "images", "output", "reference", "vae")
    if args.reference:
        _open(Path(args.reference))  # so that a bad one is refused before any work is done
    trip = _trip(Path(args.vae), args.padding) if args.vae else None
    folder = None if args.diagnose else Path(args.output)
    items = items_of(args.images, folder, PICTURES, [args.reference])
    _check_kinds(items)
    batch = Batch(items, folder if is_many(args.images) else None, _job(args, items))
    with workers(count_jobs(args.jobs, len(batch.waiting), WORTH_A_PROCESS), args.scheduler) as each:
        pool = _session(items, each) if args.session and batch.waiting else []
        one = partial(_one, reference=args.reference, pool=pool, trip=trip, strength=args.strength, seed=args.seed)
        documents = batch.do(each, one, "color")
    return result(documents, batch.before, PICTURES, map(_line, documents))


def _check_kinds(items: Sequence[Item]) -> None:
    """Raise BadInputError where a picture would be written in a way that is not known."""
    for item in items:
        if item.target is not None and item.target.suffix.lower() not in SUFFIXES:
            raise BadInputError(f"{item.source.name!r} is of no kind that is written; use {', '.join(SUFFIXES)}.")


def _job(args: argparse.Namespace, items: Sequence[Item]) -> Document:
    """What a corrected picture depends on besides its own; with --session, on all of them."""
    beside = {"reference": stamp_of(args.reference), "session": stamps(items) if args.session else None}
    beside |= {"vae": [stamp_of(args.vae), args.padding]} if args.vae else {}
    return {"command": "color", "strength": args.strength, "seed": args.seed, **beside}


def _trip(path: Path, padding: Padding | None) -> Undoing:
    """What undoes that which the VAE in a file does to pictures, found out by a round trip.

    Raises:
        VaeFileError: there is no VAE in it, or it cannot be read.
        BadInputError: its round trip says nothing.
    """
    from vae_manager.color.trip import undoing
    from vae_manager.library.files import vae_file
    from vae_manager.library.health import trip_of
    from vae_manager.library.probe import bundled_pictures

    with progress("round trip", len(bundled_pictures())) as bar:

        def told(done: int, total: int) -> None:
            bar.update()

        found = trip_of(vae_file(path), padding, told)
    undone = None if found is None else undoing(found)
    if undone is None:
        raise BadInputError(
            f"A round trip through {path.name!r} says nothing of its colours: it has no encoder, is no whole VAE, or "
            "gives too little of a picture back. Leave --vae out."
        )
    return undone


def _session(items: Sequence[Item], each: Each[Path, Statistics | None]) -> list[Statistics]:
    """What all the pictures have in common is told by all of them, also by those that are done."""
    found: list[Statistics | None] = [None] * len(items)
    with progress("session", len(items)) as bar:
        for number, give in each(_look, [item.source for item in items]):
            with contextlib.suppress(WorkerLost):
                found[number] = give()
            bar.update()
    return [one for one in found if one is not None]


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


# --- one picture


def _look(path: Path) -> Statistics | None:
    """What a session learns of a picture; None of one that cannot be used."""
    try:
        return statistics(visible(_open(path)))
    except BadInputError:
        return None


def _one(
    item: Item,
    reference: str | None,
    pool: Sequence[Statistics],
    trip: Undoing | None,
    strength: float,
    seed: int,
) -> Document:
    def find(image: Image.Image) -> Finding:
        return look(image, _reference(reference) if reference else None, pool, trip)

    return attempt(item, lambda: _corrected(item, find, strength, seed))


def _corrected(item: Item, find: Callable[[Image.Image], Finding], strength: float, seed: int) -> Document:
    image, target = _open(item.source), item.target
    found = find(image)
    applied = target is not None and found.corrects and strength > 0
    if target is not None:
        write_whole(
            target,
            lambda part: _save(image, found, strength, seed, part) if applied else shutil.copy2(item.source, part),
        )
    output = str(target) if target else None
    return {"path": str(item.source), "output": output, "applied": applied, **found.document()}


@cache
def _reference(path: str) -> Tensor:
    return visible(_open(Path(path)))


def _save(image: Image.Image, found: Finding, strength: float, seed: int, target: Path) -> None:
    """Write the corrected picture with the alpha, text, EXIF, XMP and colour profile of the original."""
    out = corrected(image, found.matrix, strength, seed, curve=found.curve, clip=found.clips)
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


def _line(document: dict[str, Any]) -> str:
    if "problem" in document:
        return f"{one_line(document['path'])}: left out: {document['problem']}"
    done = f" → {document['output']}" if document["applied"] else ""
    return f"{one_line(document['path'])}: {document['reason']}{done}"
