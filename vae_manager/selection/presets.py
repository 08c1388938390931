"""What a user wants for one checkpoint, remembered with that checkpoint.

A preset belongs to a checkpoint by its sha256, so that a renamed or moved file keeps it, and by its name where the
hash is not known or the file was replaced under its old name. Hashing a checkpoint takes seconds, and a job must not
wait for it, so beside the sha256 stands a print: the hash of the file's size and of small pieces of it. A file of
the same print counts as the same, unless both hashes are known and say otherwise.

All presets are one JSON file, kept by `storage`: atomic, under a lock, set aside when damaged. Entries of it that
this program does not understand are kept as they are.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vae_manager.library.files import VaeFile, file_stem
from vae_manager.selection.card import card_vae
from vae_manager.selection.checkpoint import Checkpoint
from vae_manager.selection.preset_file import (
    VERSION,
    Owner,
    Preset,
    VaeWish,
    entry_of,
    is_document,
    read_exported,
    read_owner,
    understood,
)
from vae_manager.storage import read_json, set_aside, update_json

log = logging.getLogger("vae_manager")

__all__ = ["Found", "Owner", "Preset", "Presets", "VaeWish", "owner_of", "print_of"]

_PIECES, _PIECE = 16, 1 << 14
"""How many pieces go into a print, and their bytes."""


@dataclass(frozen=True)
class Found:
    """A checkpoint's preset, and how it was recognised."""

    preset: Preset
    how: str


class Presets:
    """All presets, in one file. Reads follow the file: another process's save is seen at the next call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version: tuple[int, ...] | None = None
        self._entries: tuple[tuple[Owner, Preset], ...] = ()

    def all(self) -> tuple[tuple[Owner, Preset], ...]:
        """Every preset that can be understood, in the order of the file."""
        try:
            stat = self.path.stat()
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            return ()
        if version != self._version:
            self._entries = understood(read_json(self.path))
            self._version = version
        return self._entries

    def find(self, checkpoint: Checkpoint) -> Found | None:
        """The checkpoint's preset: by sha256, or else by name."""
        entries = self.all()
        return _by_content(checkpoint, entries) or _by_name(checkpoint, entries) if entries else None

    def save(self, checkpoint: Checkpoint, preset: Preset) -> None:
        """Save a checkpoint's preset in place of its old one.

        Hash the checkpoint before (`checkpoint.sha256(compute=True)`, in the background) to have its sha256 kept;
        without it the checkpoint is still recognised by its print.

        Raises:
            OSError: the file cannot be written; the old one is untouched.
        """
        owner = owner_of(checkpoint)
        self._update(lambda entries: [*(e for e in entries if not _is_of(e, owner)), entry_of(owner, preset)])

    def remember(self, checkpoint: Checkpoint, preset: Preset) -> bool:
        """Keep what was used with a checkpoint, unless its preset was saved by the user. False: nothing to write.

        Raises:
            OSError: the file cannot be written; the old one is untouched.
        """
        preset = replace(preset, remembered=True)
        found = self.find(checkpoint)
        if found is not None and (not found.preset.remembered or found.preset == preset):
            return False
        self.save(checkpoint, preset)
        return True

    def remove(self, checkpoint: Checkpoint) -> None:
        """Forget a checkpoint's preset.

        Raises:
            OSError: the file cannot be written; the old one is untouched.
        """
        owner = owner_of(checkpoint)
        self._update(lambda entries: [e for e in entries if not _is_of(e, owner)])

    def remove_owner(self, owner: Owner) -> bool:
        """Forget the preset of exactly this owner, as `all` returned it. False: it is not there any more.

        Raises:
            OSError: the file cannot be written; the old one is untouched.
        """
        removed = False

        def without(entries: list[Any]) -> list[Any]:
            nonlocal removed
            kept = [e for e in entries if not isinstance(e, Mapping) or read_owner(e.get("checkpoint")) != owner]
            removed = len(kept) < len(entries)
            return kept

        self._update(without)
        return removed

    def export_to(self, path: Path) -> int:
        """Write all presets into a file of their own; how many there are.

        Raises:
            OSError: the file cannot be written.
        """
        entries = [entry_of(owner, preset) for owner, preset in self.all()]
        update_json(path, lambda _: {"version": VERSION, "presets": entries})
        return len(entries)

    def import_from(self, path: Path, replace_own: bool = False) -> int:
        """Take over the presets of an exported file; how many were taken. A checkpoint's own preset stays, unless
        `replace_own`.

        Raises:
            BadInputError: there is no such file, or it is no file of presets. Nothing was changed then.
            OSError: our own file cannot be written.
        """
        document = read_exported(path)
        new = understood(document)
        if len(new) < len(document["presets"]):
            log.warning("%d of the presets in %s were not understood", len(document["presets"]) - len(new), path.name)
        taken = 0

        def merge(entries: list[Any]) -> list[Any]:
            nonlocal taken
            for owner, preset in new:
                others = [entry for entry in entries if not _is_of(entry, owner)]
                if len(others) == len(entries) or replace_own:
                    entries = [*others, entry_of(owner, preset)]
                    taken += 1
            return entries

        self._update(merge)
        return taken

    def import_card(self, checkpoint: Checkpoint) -> bool:
        """Make a preset of the VAE on A1111's card of a checkpoint, unless it has a preset already.

        Raises:
            OSError: the file cannot be written.
        """
        vae = card_vae(checkpoint.file.path)
        if vae is None or self.find(checkpoint) is not None:
            return False
        self.save(checkpoint, Preset(VaeWish(vae)))
        return True

    def _update(self, change: Callable[[list[Any]], list[Any]]) -> None:
        def whole(document: Any) -> dict[str, Any]:
            if document is not None and not is_document(document):
                set_aside(self.path, "held something else than presets")
                document = None
            return {**(document or {}), "version": VERSION, "presets": change((document or {}).get("presets", []))}

        update_json(self.path, whole)
        self._version = None  # two saves within one tick of the file system's clock look the same


def owner_of(checkpoint: Checkpoint) -> Owner:
    """How a checkpoint will be recognised again."""
    return Owner(checkpoint.name, checkpoint.sha256(), print_of(checkpoint.file), checkpoint.file.size)


def print_of(file: VaeFile) -> str | None:
    """A quick print: the hash of the file's size, its header and small pieces at sixteen places; None if unreadable.

    Training or merging changes a model everywhere, so two models of one size differ in it. Where only a small part
    was exchanged (the same model with another VAE baked in) two files may share it.
    """
    return _print(file.version)


@lru_cache(maxsize=4096)
def _print(version: tuple[str, int, int]) -> str | None:
    path, size, _ = version
    digest = hashlib.sha256(str(size).encode())
    try:
        with open(path, "rb") as opened:
            for place in range(_PIECES):
                opened.seek(max(0, size - _PIECE) * place // (_PIECES - 1))
                digest.update(opened.read(_PIECE))
    except OSError:
        return None
    return digest.hexdigest()[:32]


# --- recognising a checkpoint


def _by_content(checkpoint: Checkpoint, entries: Sequence[tuple[Owner, Preset]]) -> Found | None:
    sha256 = checkpoint.sha256(compute=False)
    hashed = [preset for owner, preset in entries if sha256 and owner.sha256 == sha256]
    if hashed:
        return Found(hashed[-1], "its sha256")
    alike = [preset for owner, preset in entries if _same_print(owner, checkpoint) and not _other(owner, sha256)]
    return Found(alike[-1], "a quick look at its content") if alike else None


def _by_name(checkpoint: Checkpoint, entries: Sequence[tuple[Owner, Preset]]) -> Found | None:
    """By the same path, whatever is in the file now; or by the same file name, if the content may be the same."""
    for owner, preset in reversed(entries):
        if owner.name.casefold() == checkpoint.name.casefold():
            return Found(preset, "its name" + (", though the file is another now" if owner.print else ""))
    stem, sha256 = checkpoint.stem.casefold(), checkpoint.sha256(compute=False)
    for owner, preset in reversed(entries):
        # two files called model.safetensors in two folders are two models
        if file_stem(owner.name).casefold() == stem and not owner.print and not _other(owner, sha256):
            return Found(preset, "its file name")
    return None


def _same_print(owner: Owner, checkpoint: Checkpoint) -> bool:
    """Compares sizes first: files are looked into only where that can tell something."""
    return bool(owner.print) and owner.size == checkpoint.file.size and owner.print == print_of(checkpoint.file)


def _other(owner: Owner, sha256: str | None) -> bool:
    return bool(owner.sha256 and sha256 and owner.sha256 != sha256)


def _is_of(entry: Any, owner: Owner) -> bool:
    """Whether an entry of the file is this checkpoint's own preset, to be replaced by a new one."""
    other = read_owner(entry.get("checkpoint")) if isinstance(entry, Mapping) else None
    if other is None:
        return False
    if other.sha256 and owner.sha256:
        return other.sha256 == owner.sha256
    if other.print and owner.print:
        return other.print == owner.print
    return other.name.casefold() == owner.name.casefold()
