"""`list` and `inspect`: what files there are, and what they are."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from vae_manager.commands import Result, megabytes, one_line, open_file
from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.library.files import Folder, find_vaes
from vae_manager.library.hashing import HashCache
from vae_manager.library.report import Report, quick_report, report
from vae_manager.store import open_store
from vae_manager.user_data import user_folder


def list_files(args: argparse.Namespace) -> Result:
    """Every VAE below the folders, by header alone; unusable files are listed with the reason."""
    folders = [Path(folder) for folder in args.folders or ["."]]
    for folder in folders:
        if not folder.is_dir():
            raise BadInputError(_no_folder(folder))
    hashes = HashCache(open_store(user_folder()))
    documents, lines = [], []
    for file in find_vaes(Folder(folder) for folder in folders):
        found = quick_report(file, hashes)
        if isinstance(found, VaeFileError):
            documents.append({"path": str(file.path), "name": file.name, "bytes": file.size, "problems": [str(found)]})
            lines.append(f"✗ {found.sentence(one_line(file.name))}")
            continue
        documents.append({"name": file.name, **found.document()})
        known = f" = {found.known.name}" if found.known else ""
        kind = f"{found.title}, {found.identity.dtype}, {megabytes(file.size)}"
        if found.identity.problems:
            lines.append(f"✗ {VaeFileError(found.identity.problems[0]).sentence(one_line(file.name))}")
            continue
        lines.append(f"  {one_line(file.name)}{known}: {kind}")
    return Result(documents, "\n".join(lines) or "No VAE file was found there.")


def _no_folder(path: Path) -> str:
    if os.path.isfile(path):
        return f"{str(path)!r} is a file, not a folder; 'vae-manager inspect' says what it is."
    return f"There is no folder {str(path)[:200]!r}."


def inspect(args: argparse.Namespace) -> Result:
    """Everything about one file."""
    from tqdm import tqdm  # here: `list` starts without it

    file = open_file(args.file)
    with tqdm(
        total=file.size, unit="B", unit_scale=True, desc="sha256", leave=False, file=sys.stderr, disable=None
    ) as bar:

        def progress(done: int, _: int) -> None:
            bar.update(done - bar.n)

        found = report(file, HashCache(open_store(user_folder())), progress=progress)
    document = found.document()
    if args.health and not document["problems"]:
        from vae_manager.library.health import examine, suspect  # with torch

        document["problems"] = list(examine(file, found.family, padding=args.padding))
        document["suspicions"] = list(suspect(file))
    rows = [f"{key:>15}: {_plain(value)}" for key, value in document.items()]
    return Result(document, "\n".join([_verdict(document, found), *rows]))


def _verdict(document: dict[str, Any], found: Report) -> str:
    """What the file is and whether it can be used, in words."""
    if document["problems"]:
        return VaeFileError(document["problems"][0]).sentence(one_line(found.file.name))
    known = f", {found.known.name}," if found.known else ""
    what = f"for {found.title}" if found.space != "unknown" else f"({found.title})" if known else "of a family unknown"
    doubts = document.get("suspicions") or []
    use = f"it can be used, though {doubts[0]}" if doubts else "it can be used"
    return f"{one_line(found.file.name)}{known} is a VAE {what}, in {found.identity.dtype}: {use}."


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return "–" if value is None else str(value)
