"""The bodies of the command line's commands: each takes parsed arguments and returns a `Result`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.library.files import VaeFile, vae_file


@dataclass(frozen=True)
class Result:
    """What a command found: the JSON document, and the same for people."""

    document: Any
    text: str
    refusal: str | None = None
    """A sentence, where what was found means that the answer is no: it goes to stderr, and the exit status is 2."""


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


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """Have a refusal from within name what it is about, where it does not.

    Raises:
        BadInputError: instead of a VaeFileError, too.
    """
    try:
        yield
    except VaeFileError as error:
        raise BadInputError(error.sentence(name)) from error
    except BadInputError as error:
        raise error if name in str(error) else BadInputError(f"{name}: {error}") from error


def check_seed(seed: int) -> None:
    """Raise BadInputError unless torch takes this seed."""
    if not -(2**63) <= seed < 2**64:
        raise BadInputError("--seed is too large: it must have at most 64 bits.")


def whole(least: int, most: int, step: int = 1) -> Callable[[str], int]:
    """For an option: a whole number in a range, one of `least`, `least + step`, … Anything else is refused with what
    it must be."""

    steps = f" in steps of {step}" if step > 1 else ""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):  # also of more digits than Python converts
            if least <= (number := int(text)) <= most and (number - least) % step == 0:
                return number
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from {least} to {most}{steps}")

    return read


def one_line(text: str) -> str:
    """A name within a line of several: without line breaks of its own. Other control characters go when printing."""
    return text.replace("\n", "\\n").replace("\r", "\\r")


def megabytes(count: int | None) -> str:
    """A number of bytes for people."""
    return "?" if count is None else f"{count / 1e6:,.1f} MB"
