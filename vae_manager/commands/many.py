"""Many files in one run, for `encode`, `decode` and `color`: which, where to, what is done already, what was left out.

A file that is named is taken, and of a folder everything below it whose name ends so; hidden files and folders are left
out. What is made of them lies below the output's folder as they lie below theirs. An output is never an input: the
output's folder is not searched, nor may it be one that is.

What is done stands in a record in the output's folder, a line for each file. A rerun does again what has no line, what
was made by another job (other options, another VAE, another version of this program), and what was changed since,
whether the source or the output. Outputs are written whole or not at all, so one that is there is whole.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vae_manager import __version__
from vae_manager.commands import Result
from vae_manager.commands.terminal import unforeseen
from vae_manager.commands.workers import Each, WorkerLost
from vae_manager.errors import BadInputError, VaeFileError, VaeManagerError
from vae_manager.library.files import model_files

log = logging.getLogger("vae_manager")

RECORD = ".vae-manager-done.jsonl"
"""Name of the record of what is done in a folder."""

SHOWN = 3
"""Files that were left out which are named in the sentence."""

Document = dict[str, Any]
"""What is said of one file: `path`, `output`, and `problem` where it was left out."""

Stamp = list[int]
"""Size and modification time of a file: another one after every change."""


@dataclass(frozen=True)
class Item:
    """One file of many."""

    source: Path
    target: Path | None
    """What is made of it; None where nothing is written."""
    name: str
    """Of the source, below the folder that was given, with forward slashes: the same on every computer."""


@dataclass(frozen=True)
class Files:
    """What a command takes and makes."""

    what: str
    """What it takes, as 'picture'."""
    endings: tuple[str, ...]
    """How its names end, in lower case, where a folder is searched."""
    makes: str | None = None
    """How the names of what is made end; None: as the source's."""


def is_many(names: Sequence[str]) -> bool:
    """Whether these are several files, or a folder of them."""
    return len(names) > 1 or os.path.isdir(names[0])


def checked_place(args: argparse.Namespace, *names: str) -> argparse.Namespace:
    """The options; where the work is done on a cluster, with these paths (or lists of them) made absolute, for its
    workers run in other folders.

    Raises:
        BadInputError: both a cluster and a number of processes are asked for.
    """
    if not args.scheduler:
        return args
    if args.jobs is not None:
        raise BadInputError("--jobs is for this computer; a cluster has as many workers as were started.")
    found = argparse.Namespace(**vars(args))
    for name in names:
        value = getattr(args, name)
        if value:
            setattr(found, name, [*map(os.path.abspath, value)] if isinstance(value, list) else os.path.abspath(value))
    return found


# --- which files


def items_of(names: Sequence[str], folder: Path | None, files: Files, others: Iterable[str | None] = ()) -> list[Item]:
    """The files named, and those in the folders named, with where each one's output goes.

    Args:
        folder: of the outputs; it is made. None: nothing is written.
        others: files that are read besides.

    Raises:
        BadInputError: there are none, or an output would be one of the inputs, or another one's.
    """
    if folder is not None and folder.exists() and not folder.is_dir():
        raise BadInputError(f"{str(folder)!r} is a file; {files.what}s need a folder.")
    if folder is not None and files.makes and folder.suffix.lower() == files.makes and not folder.exists():
        raise BadInputError(f"Several {files.what}s do not go into one file {str(folder)!r}; name a folder.")
    found: dict[Path, str] = {}
    for path in map(Path, names):
        for source, name in _sources(path, folder, files):
            found.setdefault(source, name)
    items = [Item(source, folder and _target(folder, name, files), name) for source, name in found.items()]
    if folder is not None:
        _check_targets(items, [Path(other) for other in others if other])
        for parent in {item.target.parent for item in items if item.target}:
            parent.mkdir(parents=True, exist_ok=True)
    return items


def _sources(path: Path, folder: Path | None, files: Files) -> Iterator[tuple[Path, str]]:
    """The file of this name, or those below the folder of this name, each with its name below it."""
    if os.path.isfile(path):
        yield path, path.name
        return
    if not os.path.isdir(path):
        raise BadInputError(f"There is no {files.what} {str(path)[:200]!r}.")
    inside, out = model_files(path, files.endings), None
    if folder is not None:
        at, out = os.path.realpath(path), os.path.realpath(folder)
        if _is_below(at, out) and (files.makes is None or files.makes in files.endings):
            raise BadInputError(
                f"What is made would lie in {str(path)!r}, among what it is made from, and be taken for it the next "
                "time; choose another folder."
            )
        out = out if _is_below(out, at) and out != at else None
    count = 0
    for source in inside:
        if out is None or not _is_below(os.path.realpath(source), out):
            count += 1
            yield source, source.relative_to(path).as_posix()
    if not count:
        raise BadInputError(f"There is no {files.what} in the folder {str(path)!r}.")


def _is_below(path: str, folder: str) -> bool:
    """Whether a resolved path is this folder, or lies in it."""
    return path == folder or path.startswith(os.path.join(folder, ""))


def _target(folder: Path, name: str, files: Files) -> Path:
    target = folder / name
    return target.with_suffix(files.makes) if files.makes else target


def _check_targets(items: Sequence[Item], others: Sequence[Path]) -> None:
    """Raise BadInputError unless every output is a file of its own, and none of what is read."""
    given = {_identity(path) for path in [*(item.source for item in items), *others] if path.exists()}
    seen: dict[str, Item] = {}
    for item in items:
        assert item.target is not None
        before = seen.setdefault(os.path.normcase(item.target), item)
        if before is not item:
            raise BadInputError(
                f"{str(before.source)!r} and {str(item.source)!r} would both be called {item.target.name!r}; give "
                "each its own folder."
            )
        if not item.target.exists():
            continue
        if _identity(item.target) in given:
            raise BadInputError(
                f"{str(item.target)!r} would be written over itself, or over what is read; choose another folder."
            )
        if not item.target.is_file():
            raise BadInputError(f"{str(item.target)!r} is there already and is no file; choose another folder.")


def _identity(path: Path) -> tuple[int, int]:
    """What is the same for all names of one file."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


# --- what is done


class Batch:
    """A run over many files: what is done, and what waits."""

    def __init__(self, items: Sequence[Item], folder: Path | None, job: Document) -> None:
        """`folder`: of the outputs, where a record is kept; None: none is. `job`: on what outputs depend besides."""
        self.items, self._folder = items, folder
        self._job = {"version": __version__, **job}
        self._keys = [self._key(item) for item in items]  # before the work: a source may be changed meanwhile
        done = {} if folder is None else _read(folder / RECORD)
        self.documents = [self._done(item, key, done) for item, key in zip(items, self._keys)]
        self.waiting = [number for number, document in enumerate(self.documents) if document is None]

    @property
    def before(self) -> int:
        """How many were done before."""
        return len(self.items) - len(self.waiting)

    def do(self, each: Each[Item, Document], work: Callable[[Item], Document], what: str) -> list[Document]:
        """Do what waits, write down each as it is done, and return what is said of all, in order."""
        with progress(what, len(self.items), self.before) as bar:
            for at, give in each(work, [self.items[number] for number in self.waiting]):
                number = self.waiting[at]
                try:
                    document = give()
                except WorkerLost as error:
                    item = self.items[number]
                    document = _left_out(item, f"{str(item.source)!r} was given up: {error}.")
                self.documents[number] = document
                if "problem" not in document:
                    self._write_down(number, document)
                bar.update()
        return [document for document in self.documents if document is not None]

    def _done(self, item: Item, key: str, record: dict[str, Document]) -> Document | None:
        """What was said of an item that is done."""
        line = None if item.target is None else record.get(self._below(item.target))
        if item.target is None or line is None or (line.get("job"), line.get("stamp")) != (key, _stamp(item.target)):
            return None
        return {**line["said"], "path": str(item.source), "output": str(item.target)}

    def _key(self, item: Item) -> str:
        """Of the job and the source: another one where the output would be another."""
        text = json.dumps([self._job, item.name, _stamp(item.source)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _write_down(self, number: int, document: Document) -> None:
        target = self.items[number].target
        if self._folder is not None and target is not None:
            line = {"output": self._below(target), "job": self._keys[number], "stamp": _stamp(target), "said": document}
            try:
                _append(self._folder / RECORD, json.dumps(line))
            except OSError as error:
                log.warning(
                    "what is done cannot be written to %s (%s): the next run begins anew", RECORD, error.strerror
                )
                self._folder = None

    def _below(self, target: Path) -> str:
        return target.relative_to(self._folder or target.parent).as_posix()


def stamps(items: Iterable[Item]) -> str:
    """A digest of what all the sources are now, for a job in which each depends on all."""
    return hashlib.sha256(json.dumps([[item.name, _stamp(item.source)] for item in items]).encode()).hexdigest()


def stamp_of(path: str | None) -> Stamp | None:
    """Of a file that a job reads besides; None where there is none."""
    return _stamp(Path(path)) if path else None


def _stamp(path: Path) -> Stamp | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _read(path: Path) -> dict[str, Document]:
    """The record's lines by the names of their outputs. What a killed run left of a line is passed over."""
    found: dict[str, Document] = {}
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return found
    for row in text.splitlines():
        try:
            line = json.loads(row)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("output"), str) and isinstance(line.get("said"), dict):
            found[line["output"]] = line
    return found


def _append(path: Path, line: str) -> None:
    with path.open("ab+") as file:  # whatever is read in it, it is written to at its end
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line  # a killed run wrote the beginning of a line
        file.write(line.encode("ascii") + b"\n")


def progress(what: str, total: int, before: int = 0) -> tqdm[Any]:
    """One bar for all of them; none for one."""
    return tqdm(total=total, initial=before, desc=what, leave=False, file=sys.stderr, disable=total < 2)


# --- what was left out


def attempt(item: Item, call: Callable[[], Document]) -> Document:
    """What `call` says of the item; or why it is left out, which does not stop the others.

    Raises:
        OSError: an output cannot be written: none of the others could be either.
    """
    try:
        return call()
    except VaeFileError as error:
        return _left_out(item, error.sentence(repr(str(item.source))))
    except VaeManagerError as error:
        named = item.source.name in str(error)
        return _left_out(item, str(error) if named else f"{str(item.source)!r}: {error}")
    except OSError:
        raise
    except Exception as error:
        return _left_out(item, f"{str(item.source)!r}: {unforeseen(error)}")


def _left_out(item: Item, problem: str) -> Document:
    return {"path": str(item.source), "output": None, "problem": problem}


def result(
    documents: Sequence[Document], before: int, files: Files, lines: Iterable[str], summary: str | None = None
) -> Result:
    """The answer of a run: a line each, then what was done in all.

    Args:
        lines: what is printed of the files.
        summary: what was written where; None: nothing was.

    Raises:
        BadInputError: there is one file, and it cannot be used.
    """
    problems = [document["problem"] for document in documents if "problem" in document]
    if len(documents) == 1 and problems:
        raise BadInputError(problems[0])
    said = [summary] if summary else []
    if before:
        said.append(f"{before} of {len(documents)} had been done before.")
    return Result(list(documents), "\n".join([*lines, *said]), _refusal(problems, len(documents), files))


def _refusal(problems: Sequence[str], count: int, files: Files) -> str | None:
    """One odd file does not stop the others: it is told at the end."""
    if not problems:
        return None
    told = f"{len(problems)} of {count} {files.what}s {'was' if len(problems) == 1 else 'were'} left out"
    others = " The others are named in the list above." if len(problems) > SHOWN else ""
    return f"{told}: {' '.join(problems[:SHOWN])}{others}"
