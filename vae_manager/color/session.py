"""The statistics of the last pictures of each (checkpoint, VAE), kept from one start to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from vae_manager.color.statistics import Statistics
from vae_manager.store import Store, file_key

KEPT = 24
"""Pictures remembered for one pair of files."""

KIND = "colours"
"""Of the store's rows."""

Version = Sequence[object]
"""`library.files.VaeFile.version`: path, size and modification time. Its first item names the file."""


class ColorSession:
    """Statistics in the store. Pictures of a file that has changed since are forgotten."""

    def __init__(self, store: Store | None = None) -> None:
        """`store`: where to keep them; None keeps them for this process only."""
        self._store = store or Store(None)

    def pictures(self, checkpoint: Version, vae: Version) -> tuple[Statistics, ...]:
        """What is remembered of this pair, oldest first."""
        return _pictures(self._store.get(KIND, *_row(checkpoint, vae)))

    def add(self, checkpoint: Version, vae: Version, seen: Statistics) -> tuple[Statistics, ...]:
        """Remember one more picture, as the VAE made it (before any correction); returns all of the pair."""
        kept: tuple[Statistics, ...] = ()

        def change(rows: Any) -> list[Any]:
            nonlocal kept
            before = _pictures(rows)
            kept = (*before, seen)[-KEPT:] if seen.finite else before
            return [asdict(picture) for picture in kept]

        self._store.change(KIND, *_row(checkpoint, vae), change)
        return kept


def _row(checkpoint: Version, vae: Version) -> tuple[str, str]:
    """The key and the stamp of a pair of files."""
    key = "|".join(file_key(str(version[0])) for version in (checkpoint, vae))
    return key, " ".join(str(part) for part in (*checkpoint[1:], *vae[1:]))


def _pictures(rows: Any) -> tuple[Statistics, ...]:
    names = {f.name for f in fields(Statistics)}
    found = rows if isinstance(rows, list) else ()
    return tuple(_statistics(row) for row in found if isinstance(row, dict) and set(row) == names)


def _statistics(row: dict[str, Any]) -> Statistics:
    values: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Statistics(**values)
