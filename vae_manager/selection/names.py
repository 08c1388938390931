"""From what a user typed to one VAE file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vae_manager.errors import BadInputError
from vae_manager.library.files import VaeFile

SHOWN = 80
"""Characters of a user's own text that an error repeats: a name may be a whole pasted paragraph."""


def find_by_name(name: str, files: Sequence[VaeFile]) -> VaeFile:
    """The one file that NAME means: its listed name, its path, its file name, or its stem, in that order.

    Letters' case is ignored only when nothing matches exactly.

    Raises:
        BadInputError: nothing matches, or several files do; the sentence lists what to choose from.
    """
    wanted = name.strip()
    for fold in (str, str.casefold):
        for key in _KEYS:
            matches = [file for file in files if fold(key(file)) == fold(wanted.replace("\\", "/"))]
            if len(matches) == 1:
                return matches[0]
            if matches:
                choices = ", ".join(repr(file.name) for file in matches[:8])
                raise BadInputError(f"The VAE name {shown(wanted)} fits {len(matches)} files; write one of {choices}.")
    raise BadInputError(
        f"There is no VAE {shown(wanted)} among the {len(files)} found; put the file into the VAE folder and refresh "
        "the list, or choose another."
    )


def shown(text: str) -> str:
    """A user's own text, quoted and short enough for a sentence."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")


_KEYS: tuple[Callable[[VaeFile], str], ...] = (
    lambda file: file.name,
    lambda file: file.path.as_posix(),
    lambda file: file.path.name,
    lambda file: file.stem,
)
