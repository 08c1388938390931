"""The VAE files for one decision: the list as it was last read, what the host itself names, and a second look.

Files come in while a WebUI runs, and its own refresh button does not tell us. So nobody is told that there is no such
file before the disk has been looked at again; and a file that the host has loaded is there, whatever our list says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vae_manager.errors import BadInputError
from vae_manager.library.files import VaeFile, vae_file
from vae_manager.selection.names import KNOWN_PREFIX, VaeIndex


@dataclass(frozen=True)
class Looking(VaeIndex):
    """An index that looks at the disk again, once, before it says that there is no such file."""

    named: Mapping[str, VaeFile] = field(default_factory=dict)
    """Path, as the host spells it → the file."""
    again: Callable[[], VaeIndex] | None = None
    """Reads the list anew."""
    seen: list[VaeIndex] = field(default_factory=list)
    """What that gave."""

    @staticmethod
    def over(index: VaeIndex, named: Iterable[str | Path | None], again: Callable[[], VaeIndex]) -> Looking:
        """Look things up in `index` first.

        Args:
            named: what the host names, among it perhaps paths of files.
        """
        paths = [str(path) for path in named if path and os.path.isabs(path)]
        return Looking(index.files, index.hashes, _files_at(paths, index.files), again)

    def find(self, name: str) -> VaeFile:
        if (file := self.named.get(name.strip())) is not None:
            return file
        try:
            return super().find(name)
        except BadInputError:
            if self.again is None or name.strip().casefold().startswith(KNOWN_PREFIX):
                raise  # nobody asked for it by name: built-in rules go through these
            if not self.seen:
                self.seen.append(self.again())
            return self.seen[0].find(name)


def same_file(one: Path | None, other: Path | None) -> bool:
    """Whether two paths lead to one file, as far as they can be told."""
    return one is not None and other is not None and (one == other or os.path.realpath(one) == os.path.realpath(other))


def _files_at(paths: Sequence[str], listed: Sequence[VaeFile]) -> dict[str, VaeFile]:
    """The files at these paths: the listed one where it is listed, under whichever spelling."""
    known = {str(file.path): file for file in listed}
    found = {path: known[path] for path in paths if path in known}
    missing = [path for path in paths if path not in known and os.path.isfile(path)]
    if missing:
        known = {os.path.realpath(file.path): file for file in listed}
    for path in missing:
        found[path] = known.get(os.path.realpath(path)) or vae_file(Path(path))
    return found
