"""The statistics of the last pictures of each (checkpoint, VAE), kept from one start to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from vae_manager.color.statistics import Statistics
from vae_manager.storage import read_json, update_json

KEPT = 24
"""Pictures remembered for one pair of files."""

PAIRS = 64
"""Pairs of files remembered; the longest unused is dropped first."""

Version = Sequence[object]
"""`library.files.VaeFile.version`: path, size and modification time. Its first item names the file."""


class ColorSession:
    """One JSON file of statistics. Pictures of a file that has changed since are forgotten."""

    def __init__(self, path: Path | None) -> None:
        """`path`: where to keep them; None keeps them for this process only."""
        self._path = path
        self._memory: dict[str, Any] = {}

    def pictures(self, checkpoint: Version, vae: Version) -> tuple[Statistics, ...]:
        """What is remembered of this pair, oldest first."""
        document = _checked(read_json(self._path)) if self._path else self._memory
        return _pictures(document.get(_key(checkpoint, vae)), checkpoint, vae)

    def add(self, checkpoint: Version, vae: Version, seen: Statistics) -> tuple[Statistics, ...]:
        """Remember one more picture, as the VAE made it (before any correction); returns all of the pair.

        Raises:
            OSError: the file cannot be written.
        """
        kept: tuple[Statistics, ...] = ()

        def change(document: Any) -> dict[str, Any]:
            nonlocal kept
            document, key = _checked(document), _key(checkpoint, vae)
            before = _pictures(document.pop(key, None), checkpoint, vae)
            kept = (*before, seen)[-KEPT:] if seen.finite else before
            rows = [asdict(picture) for picture in kept]
            document[key] = {"versions": [list(checkpoint), list(vae)], "pictures": rows}
            return dict(list(document.items())[-PAIRS:])

        if self._path:
            update_json(self._path, change)
        else:
            self._memory = change(self._memory)
        return kept


def _key(checkpoint: Version, vae: Version) -> str:
    return f"{checkpoint[0]}|{vae[0]}"


def _checked(document: Any) -> dict[str, Any]:
    return dict(document) if isinstance(document, dict) else {}


def _pictures(entry: Any, checkpoint: Version, vae: Version) -> tuple[Statistics, ...]:
    if not isinstance(entry, dict) or entry.get("versions") != [list(checkpoint), list(vae)]:
        return ()
    rows = entry.get("pictures")
    names = {f.name for f in fields(Statistics)}
    return tuple(_statistics(row) for row in rows or () if isinstance(row, dict) and set(row) == names)


def _statistics(row: dict[str, Any]) -> Statistics:
    values: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Statistics(**values)
