"""Find the VAE files below some folders.

Nothing is opened here: a file is a path, a size and a modification time. Two files of one name in two folders
are two entries, told apart by the path relative to the folder they were found under.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from vae_manager.library.tensors import SUFFIXES
from vae_manager.store import file_key

MARKED_SUFFIXES = tuple(f".vae{suffix}" for suffix in SUFFIXES)
"""How a VAE is named where checkpoints lie (`model.vae.pt` beside `model.safetensors`)."""


@dataclass(frozen=True)
class Folder:
    """A folder to search. `marked_only` where checkpoints lie: only `*.vae.*` files count as VAEs there."""

    path: Path
    marked_only: bool = False


@dataclass(frozen=True)
class VaeFile:
    """A file that may be a VAE, as found on disk."""

    path: Path
    name: str
    """What the user sees and types: the path relative to its folder, with forward slashes; unique in a list."""
    size: int
    mtime_ns: int
    real: str = field(default="", compare=False)
    """Its resolved path, where that was found out already."""

    @property
    def key(self) -> str:
        """What the store calls its rows: its resolved path."""
        return self.real or file_key(self.path)

    @property
    def stem(self) -> str:
        """File name without folder and without `.safetensors`, `.vae.pt` and the like."""
        return file_stem(self.path.name)

    @property
    def version(self) -> tuple[str, int, int]:
        """Changes whenever the file is replaced or rewritten: the key of every cache."""
        return (str(self.path), self.size, self.mtime_ns)


@lru_cache(maxsize=8192)
def file_stem(name: str) -> str:
    """`sub/model.vae.safetensors` → `model`."""
    name = name.rsplit("/", 1)[-1]
    for suffix in (*MARKED_SUFFIXES, *SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def vae_file(path: Path, name: str | None = None, real: str = "") -> VaeFile:
    """Describe one file by its path.

    Raises:
        OSError: there is no such file, or it cannot be looked at.
    """
    stat = path.stat()
    return VaeFile(path, name or path.name, stat.st_size, stat.st_mtime_ns, real)


def find_vaes(folders: Iterable[Folder]) -> tuple[VaeFile, ...]:
    """Every VAE file below the folders, sub-folders included, sorted by name.

    Folders that do not exist or cannot be read are passed over, and so are pipes and devices; the same file reached
    twice is listed once.
    """
    found: dict[str, tuple[VaeFile, Path]] = {}
    real_folders: dict[str, str] = {}
    for folder in folders:
        for path in model_files(folder.path, MARKED_SUFFIXES if folder.marked_only else SUFFIXES):
            key = _resolved(path, real_folders)
            if key in found:
                continue
            try:
                found[key] = (vae_file(path, path.relative_to(folder.path).as_posix(), key), folder.path)
            except OSError:  # deleted between listing and looking
                continue
    return tuple(sorted(_with_unique_names(found.values()), key=lambda file: file.name.casefold()))


def _resolved(path: Path, folders: dict[str, str]) -> str:
    """The resolved path. Looking at every part of every path takes longer than all else, so each folder is looked at
    once and kept in `folders`."""
    if path.is_symlink():
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return os.path.join(folders[folder], name)


def model_files(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Path]:
    """Ordinary files below a folder whose names end so, sub-folders and links included, each folder sorted.

    A folder is entered once, however many links lead to it, by its own place where that lies below `folder`. What
    cannot be read is passed over; hidden files and folders are left out.
    """
    entered: set[str] = set()
    waiting, links = deque([str(folder)]), deque[str]()
    while waiting or links:
        at = waiting.popleft() if waiting else links.popleft()
        real = os.path.realpath(at)
        if real in entered:
            continue
        entered.add(real)
        inner: list[str] = []
        for entry in _entries(at):
            if _is_folder(entry):
                (links if entry.is_symlink() else inner).append(entry.path)
            elif entry.name.lower().endswith(suffixes) and _is_ordinary(entry):
                yield Path(entry.path)
        waiting.extendleft(reversed(inner))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted((e for e in found if not e.name.startswith(".")), key=lambda e: (e.name.casefold(), e.name))
    except (OSError, ValueError):
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead to one another
        return False


def _is_ordinary(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file that can be read to its end: a pipe would wait for ever."""
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # a link that leads nowhere
        return False


def _with_unique_names(found: Iterable[tuple[VaeFile, Path]]) -> list[VaeFile]:
    found = list(found)
    counts = Counter(file.name for file, _ in found)
    named = [
        replace(file, name=f"{folder.name}/{file.name}") if counts[file.name] > 1 else file for file, folder in found
    ]
    counts = Counter(file.name for file in named)
    return [replace(file, name=file.path.as_posix()) if counts[file.name] > 1 else file for file in named]
