"""Find the VAE files below some folders.

Nothing is opened here: a file is a path, a size and a modification time. Two files of one name in two folders
are two entries, told apart by the path relative to the folder they were found under.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vae_manager.library.tensors import SUFFIXES

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

    @property
    def stem(self) -> str:
        """File name without folder and without `.safetensors`, `.vae.pt` and the like."""
        return file_stem(self.path.name)

    @property
    def version(self) -> tuple[str, int, int]:
        """Changes whenever the file is replaced or rewritten: the key of every cache."""
        return (str(self.path), self.size, self.mtime_ns)


def file_stem(name: str) -> str:
    """`sub/model.vae.safetensors` → `model`."""
    name = name.rsplit("/", 1)[-1]
    for suffix in (*MARKED_SUFFIXES, *SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def vae_file(path: Path, name: str | None = None) -> VaeFile:
    """Describe one file by its path.

    Raises:
        OSError: there is no such file, or it cannot be looked at.
    """
    stat = path.stat()
    return VaeFile(path, name or path.name, stat.st_size, stat.st_mtime_ns)


def find_vaes(folders: Iterable[Folder]) -> tuple[VaeFile, ...]:
    """Every VAE file below the folders, sub-folders included, sorted by name.

    Folders that do not exist or cannot be read are passed over; the same file reached twice is listed once.
    """
    found: dict[str, tuple[VaeFile, Path]] = {}
    for folder in folders:
        for path in _walk(folder):
            key = os.path.realpath(path)
            if key in found:
                continue
            try:
                found[key] = (vae_file(path, path.relative_to(folder.path).as_posix()), folder.path)
            except OSError:  # deleted or a dangling link between listing and looking
                continue
    return tuple(sorted(_with_unique_names(found.values()), key=lambda file: file.name.casefold()))


def _walk(folder: Folder) -> Iterator[Path]:
    wanted = MARKED_SUFFIXES if folder.marked_only else SUFFIXES
    for root, directories, names in os.walk(folder.path, followlinks=True):
        directories[:] = [d for d in directories if not d.startswith(".") and not _is_loop(root, d)]
        for name in names:
            if name.lower().endswith(wanted) and not name.startswith("."):
                yield Path(root, name)


def _is_loop(root: str, directory: str) -> bool:
    """A link to a folder that contains it would be walked for ever."""
    target = os.path.join(root, directory)
    return os.path.islink(target) and os.path.realpath(root).startswith(os.path.realpath(target))


def _with_unique_names(found: Iterable[tuple[VaeFile, Path]]) -> list[VaeFile]:
    found = list(found)
    counts = Counter(file.name for file, _ in found)
    named = [
        replace(file, name=f"{folder.name}/{file.name}") if counts[file.name] > 1 else file for file, folder in found
    ]
    counts = Counter(file.name for file in named)
    return [replace(file, name=file.path.as_posix()) if counts[file.name] > 1 else file for file in named]
