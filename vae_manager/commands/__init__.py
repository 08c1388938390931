"""The bodies of the command line's commands: each takes parsed arguments and returns a `Result`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_manager.errors import BadInputError
from vae_manager.library.files import VaeFile, vae_file


@dataclass(frozen=True)
class Result:
    """What a command found: the JSON document, and the same for people."""

    document: Any
    text: str


def open_file(path: str) -> VaeFile:
    """Describe a file named on the command line.

    Raises:
        BadInputError: there is no such file.
    """
    try:
        if Path(path).is_file():
            return vae_file(Path(path))
    except (OSError, ValueError):  # too long a name, a null byte, no permission
        pass
    raise BadInputError(f"There is no file {path[:200]!r}.")


def megabytes(count: int | None) -> str:
    """A number of bytes for people."""
    return "?" if count is None else f"{count / 1e6:,.1f} MB"
