"""From what a user typed to one VAE file."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from vae_manager.errors import BadInputError
from vae_manager.library.files import VaeFile
from vae_manager.library.hashing import HashCache
from vae_manager.library.known import KnownVae, by_name, by_sha256, known_vaes
from vae_manager.library.tensors import is_safetensors_name

SHOWN = 80
"""Characters of a user's own text that an error repeats: a name may be a whole pasted paragraph."""

KNOWN_PREFIX = "known:"
"""`known:kl-f8-anime2` is the VAE of that id and nothing else that happens to be called so."""
HASH_PREFIX = "sha256:"

_HASH = re.compile(r"[0-9a-f]{10,64}")


@dataclass(frozen=True)
class VaeIndex:
    """The VAE files that there are, ready to be looked up by whatever names them. One per list of files."""

    files: tuple[VaeFile, ...]
    hashes: HashCache = field(default_factory=lambda: HashCache(None))
    """Hashes that are known already; no file is read."""

    @staticmethod
    def of(files: Sequence[VaeFile] | VaeIndex, hashes: HashCache | None = None) -> VaeIndex:
        """The index of these files; an index is returned as it is."""
        if isinstance(files, VaeIndex):
            return files
        return VaeIndex(tuple(files), hashes or HashCache(None))

    def find(self, name: str) -> VaeFile:
        """The one file that NAME means.

        In this order: the name as listed, the path, the file name, the stem, the end of the path; the same with
        letters' case ignored; a known VAE's id or other name; the first ten or more digits of the sha256.

        Raises:
            BadInputError: nothing matches, or several files do; the sentence lists what to choose from.
        """
        wanted = name.strip()
        if wanted.casefold().startswith(KNOWN_PREFIX):
            return self._known_by_id(wanted[len(KNOWN_PREFIX) :])
        if wanted.casefold().startswith(HASH_PREFIX):
            return self._one(wanted, self.with_hash(wanted[len(HASH_PREFIX) :].strip()))
        return self._by_path(wanted) or self._by_known_name(wanted) or self._one(wanted, self.with_hash(wanted))

    def with_hash(self, sha256: str) -> list[VaeFile]:
        """The files whose known sha256 begins so (at least ten digits); copies of one file count once."""
        prefix = sha256.casefold()
        if not _HASH.fullmatch(prefix):
            return []
        found = {known: file for file in reversed(self.files) if (known := self.hashes.peek(file))}
        return [file for known, file in found.items() if known.startswith(prefix)]

    def with_stem(self, stem: str) -> list[VaeFile]:
        """The files whose name without folder and suffixes is exactly this."""
        return self._exact[-1].get(stem, [])

    def holding(self, vae: KnownVae) -> VaeFile | None:
        """The file that holds a known VAE: by its hash; or by its name, as long as no hash speaks against it."""
        return next(iter(self._by_known_id.get(vae.id, ())), None)

    def called_like(self, vae: KnownVae) -> VaeFile | None:
        """A file that only has a known VAE's name: its hash is none of those that are known of that VAE."""
        return next(iter(self._by_mere_name.get(vae.id, ())), None)

    # --- inside

    def _by_path(self, wanted: str) -> VaeFile | None:
        wanted = wanted.replace("\\", "/")
        for table, form in ((self._exact, wanted), (self._folded, wanted.casefold())):
            for key in table:
                if matches := key.get(form):
                    return self._one(wanted, matches)
        ending = "/" + wanted.strip("/").casefold()
        ends = [file for file in self.files if "/" in wanted and file.path.as_posix().casefold().endswith(ending)]
        return self._one(wanted, ends) if ends else None

    def _by_known_name(self, wanted: str) -> VaeFile | None:
        meant = by_name(wanted)
        held = [file for vae in meant if (file := self.holding(vae))]
        # the user's words are a name too: what is called so is what is meant, where nothing better is here
        held = held or [file for vae in meant if (file := self.called_like(vae))]
        return self._one(wanted, list(dict.fromkeys(held))) if held else None

    def _known_by_id(self, id_: str) -> VaeFile:
        vae = next((vae for vae in known_vaes() if vae.id == id_.strip().casefold()), None)
        if vae is None:
            raise BadInputError(f"There is no known VAE {shown(id_)}; 'vae-manager list' shows which it knows.")
        if (file := self.holding(vae)) is None:
            other = self.called_like(vae)
            but = f" ({other.name!r} is called so, but its sha256 is another one)" if other else ""
            raise BadInputError(f"The VAE {vae.name} is not among the {len(self.files)} found{but}; {how_to_get(vae)}.")
        return file

    def _one(self, wanted: str, matches: Sequence[VaeFile]) -> VaeFile:
        if len(matches) == 1:
            return matches[0]
        if matches:
            choices = ", ".join(repr(file.name) for file in matches[:8])
            raise BadInputError(f"The VAE name {shown(wanted)} fits {len(matches)} files; write one of {choices}.")
        near = self._nearest(wanted)
        meant = f" (did you mean {near.name!r}?)" if near else ""
        raise BadInputError(
            f"There is no VAE {shown(wanted)} among the {len(self.files)} found{meant}; put the file into the VAE "
            "folder and refresh the list, or choose another."
        )

    def _nearest(self, wanted: str) -> VaeFile | None:
        """The file whose name is likest. Rules ask for the same missing VAEs once for every checkpoint."""
        form = wanted.casefold()
        if form not in self._likest:
            near = difflib.get_close_matches(form, [file.stem.casefold() for file in self.files], 1, 0.7)
            self._likest[form] = next((file for file in self.files if file.stem.casefold() in near), None)
        return self._likest[form]

    @cached_property
    def _likest(self) -> dict[str, VaeFile | None]:
        """What `_nearest` has found, by what was wanted."""
        return {}

    @cached_property
    def _exact(self) -> tuple[dict[str, list[VaeFile]], ...]:
        return tuple(_table(self.files, key) for key in _KEYS)

    @cached_property
    def _folded(self) -> tuple[dict[str, list[VaeFile]], ...]:
        return tuple(_table(self.files, lambda file, key=key: key(file).casefold()) for key in _KEYS)

    @cached_property
    def _by_known_id(self) -> dict[str, list[VaeFile]]:
        """Known id → the files that hold it, best evidence first."""
        return self._ranked(self._held_by)

    @cached_property
    def _by_mere_name(self) -> dict[str, list[VaeFile]]:
        """Known id → the files that are called so and whose hash is no known one."""
        return self._ranked(lambda file: _named(file) if self._is_unlisted(file) else [])

    def _ranked(self, known_of: Callable[[VaeFile], list[tuple[int, KnownVae]]]) -> dict[str, list[VaeFile]]:
        ranked: dict[str, list[tuple[tuple[int, bool, str], VaeFile]]] = {}
        for file in self.files:
            for rank, vae in known_of(file):
                order = (rank, not is_safetensors_name(file.path), file.name)
                ranked.setdefault(vae.id, []).append((order, file))
        return {id_: [file for _, file in sorted(found, key=lambda row: row[0])] for id_, found in ranked.items()}

    def _held_by(self, file: VaeFile) -> list[tuple[int, KnownVae]]:
        sha256 = self.hashes.peek(file)
        if sha256 and (vae := by_sha256(sha256)):
            return [(0, vae)]
        # a hash that is on no list says nothing of a VAE of which no hash was ever published
        return [(rank, vae) for rank, vae in _named(file) if not (sha256 and vae.files)]

    def _is_unlisted(self, file: VaeFile) -> bool:
        sha256 = self.hashes.peek(file)
        return sha256 is not None and by_sha256(sha256) is None


def _named(file: VaeFile) -> list[tuple[int, KnownVae]]:
    """What a file's name and size say that it is, each with its rank: the smaller, the likelier."""
    named = by_name(file.path.name)
    sized = [vae for vae in named if any(known.bytes == file.size for known in vae.files)]
    # a name that stands for several VAEs ('sdxl_vae') is weak evidence for each, unless the size decides
    return [(1 if len(named) == 1 or sized else 2, vae) for vae in sized or named]


def how_to_get(vae: KnownVae) -> str:
    """Which file to get, for the end of a sentence."""
    file = next((file for file in vae.files if file.format == "safetensors"), next(iter(vae.files), None))
    if file is None:
        return f"get a file of {vae.name} and put it into the VAE folder"
    name = next(iter(file.names), f"{vae.name}.{'safetensors' if file.format == 'safetensors' else 'pt'}")
    return f"get {name} (its sha256 begins with {file.sha256[:10]}) and put it into the VAE folder"


def called(name: str) -> str:
    """What a sentence calls a file: of an absolute path, such as the hosts name files by, the last part alone. Where a
    server keeps its files is nobody's business who reads its answers."""
    return os.path.basename(name) if os.path.isabs(name) else name


def shown(text: str) -> str:
    """A user's own text, quoted and short enough for a sentence."""
    text = called(text)
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")


def _table(files: Iterable[VaeFile], key: Callable[[VaeFile], str]) -> dict[str, list[VaeFile]]:
    table: dict[str, list[VaeFile]] = {}
    for file in files:
        table.setdefault(key(file), []).append(file)
    return table


def _without_suffix(name: str) -> str:
    """Forge's infotext names a module so: 'model.vae' for model.vae.pt."""
    return name.rpartition(".")[0] or name


_KEYS: tuple[Callable[[VaeFile], str], ...] = (
    lambda file: file.name,
    lambda file: file.path.as_posix(),
    lambda file: file.path.name,
    lambda file: _without_suffix(file.name),
    lambda file: _without_suffix(file.path.name),
    lambda file: file.stem,
)
