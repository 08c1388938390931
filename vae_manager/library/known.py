"""The VAEs that are known by name, read from `data/known_vaes.json`.

An entry stands for one set of weights, whatever its files are called: most of the VAEs that circulate are renamed
copies of a handful. Its sha256 hashes come from listings of several independent places (`confirmed`) or of one
(not `confirmed`). Hashes that are known only from generation parameters are left out: A1111 writes the hash of the
*previously* used VAE there, so many pairs of name and hash found in pictures are wrong.

The list is read on first use, once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vae_manager.codec.kinds.registry import KINDS
from vae_manager.latents.spaces import SPACES, space_of

DATA = Path(__file__).resolve().parent.parent / "data" / "known_vaes.json"

FAMILIES = frozenset(space.family for space in SPACES.values() if space.decoded_here) | {
    kind.family for kind in KINDS if kind.family
}

QUIRKS = MappingProxyType(
    {
        "nan-in-fp16": "may give black pictures in half precision: run it in bfloat16 or full precision",
        "too-vibrant": "colours and contrast can come out too strong, above all with models that are vivid already",
        "too-bright": "makes pictures brighter than the model meant them",
        "low-contrast": "makes softer, paler pictures than most VAEs",
        "approximate": "made for speed: fine detail is made up, so pictures differ from the full VAE's",
        "own-latent-space": "has a latent space of its own: it cannot replace the VAE of any checkpoint",
        "own-models": "only for models that were trained with it: others' pictures come out blurred or too sharp",
        "unproven-identity": "circulates under this name, but nobody has shown which weights are in it",
    }
)
"""Every quirk that an entry may have, and what it means for the user."""

_PURPOSES = MappingProxyType(
    {
        word: said
        for words, said in (
            ("dark darker darkness", "darker"),
            ("sharp sharper", "sharper"),
            ("vibrant vivid", "more vivid"),
            ("contrast contrasty", "stronger in contrast"),
        )
        for word in words.split()
    }
)
"""A word in a VAE's name → what its pictures are on purpose."""

_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pth", ".bin", ".pt", ".gguf")


@dataclass(frozen=True)
class KnownFile:
    """One file in which the weights circulate."""

    sha256: str
    """Of the whole file, 64 lower-case hexadecimal digits."""
    format: str | None
    """'safetensors' or 'pickle'; None where no source says."""
    bytes: int | None
    dtype: str | None
    """As safetensors names it: 'F32', 'F16', 'BF16'. What most tensors have."""
    layout: str | None
    """As `library.layouts` names it: 'ldm', 'diffusers', 'taesd', 'wan'; None where no source says."""
    confirmed: bool
    """True when two or more independent sources give this hash, False when only one does."""
    names: tuple[str, ...]
    """File names under which exactly these bytes are met."""
    note: str = ""


@dataclass(frozen=True)
class KnownVae:
    """One set of weights that has a name."""

    id: str
    """Stable, short; what presets, rules and `<vae:…>` may say."""
    name: str
    """For people to read."""
    family: str
    """One of `FAMILIES`."""
    latents_of: str | None
    """The family of models whose latents it decodes: `family` itself for full VAEs, 'sd1', 'flux' … for tiny ones
    ('sana' too, which has no family of its own here), None for a latent space that no model uses."""
    purpose: str
    """One sentence for somebody who does not know what a VAE is."""
    quirks: tuple[str, ...]
    """Keys of `QUIRKS`."""
    licence: str | None
    """SPDX identifier of the weights' licence; None where it is not known."""
    aliases: tuple[str, ...]
    """Names and file stems that people meet, besides the id."""
    files: tuple[KnownFile, ...]
    """May be empty: known by name, no hash published."""
    note: str = ""

    intended: str | None = None
    """What its pictures are, in words, because its author wants them so: "darker". None: what others' are."""
    own_space: str | None = None
    """Id of the latent space, where the family has several; as in the file's "space"."""

    @property
    def space(self) -> str | None:
        """Id of the latent space that it decodes; None for one that no model here uses."""
        found = space_of(self.own_space or self.latents_of or "")
        return found.id if found else None


@cache
def known_vaes() -> tuple[KnownVae, ...]:
    """Every known VAE, in the order of the data file (the usual choice of a family first)."""
    document = json.loads(DATA.read_text(encoding="utf-8"))
    if document["version"] != 1:
        raise ValueError(f"{DATA.name} has version {document['version']}, this program reads version 1")
    return tuple(_vae(entry) for entry in document["vaes"])


def by_sha256(sha256: str) -> KnownVae | None:
    """The VAE that a file with this sha256 (64 hexadecimal digits, any case) holds, or None."""
    return _hash_index().get(sha256.lower())


def by_name(name: str) -> tuple[KnownVae, ...]:
    """Every VAE that is known under a name: its id, an alias, a file name or stem; upper and lower case are equal.

    A folder before the name is ignored. The answer has several entries where people use one name for several
    VAEs ('sdxl_vae'). Entries of unproven identity are found by their id only: a name alone is no reason to say
    that a file is one of them.
    """
    return _name_index().get(_stem(name), ())


def on_purpose(name: str, sha256: str | None) -> str | None:
    """What a VAE's pictures are because its author wants them so, "… is made darker on purpose"; None: nothing known.

    Known by its hash; or, where that is on no list, by its name: a known one's of which no hash was ever published, or
    one that says itself what it is ("… Dark VAE").
    """
    if sha256 and (vae := by_sha256(sha256)) is not None:
        return f"{vae.name} is made {vae.intended} on purpose" if vae.intended else None
    told = next((vae.intended for vae in by_name(name) if vae.intended and not vae.files), None)
    told = told or _told_by_name(_stem(name))
    return f"{name.rpartition('/')[2]} is made {told} on purpose" if told else None


def _told_by_name(stem: str) -> str | None:
    """What the words of a VAE's name say of it."""
    words = set(re.split(r"[^a-z]+", stem.replace("vae", " vae ")))
    return next((said for word, said in _PURPOSES.items() if word in words), None) if "vae" in words else None


@cache
def _hash_index() -> dict[str, KnownVae]:
    return {file.sha256: vae for vae in known_vaes() for file in vae.files}


@cache
def _name_index() -> dict[str, tuple[KnownVae, ...]]:
    index: dict[str, tuple[KnownVae, ...]] = {}
    for vae in known_vaes():
        for stem in dict.fromkeys(_stem(name) for name in _names(vae)):
            index[stem] = (*index.get(stem, ()), vae)
    return index


def _names(vae: KnownVae) -> Iterator[str]:
    yield vae.id
    if "unproven-identity" not in vae.quirks:
        yield vae.name
        yield from vae.aliases
        for file in vae.files:
            yield from file.names


def _stem(name: str) -> str:
    """Lower-case file name without folder, container suffix and the `.vae` that WebUIs put before it."""
    stem = name.replace("\\", "/").rpartition("/")[2].strip().casefold()
    for suffix in _SUFFIXES:  # not Path.stem, which would cut 'anything-v4.0' at its dot
        stem = stem.removesuffix(suffix)
    return stem.removesuffix(".vae")


def _file(entry: dict[str, Any]) -> KnownFile:
    fields: dict[str, Any] = {**entry, "names": tuple(entry["names"])}
    return KnownFile(**fields)


def _vae(entry: dict[str, Any]) -> KnownVae:
    return KnownVae(
        id=entry["id"],
        name=entry["name"],
        family=entry["family"],
        latents_of=entry.get("latents_of", entry["family"]),
        purpose=entry["purpose"],
        quirks=tuple(entry["quirks"]),
        licence=entry["licence"],
        aliases=tuple(entry["aliases"]),
        files=tuple(_file(file) for file in entry["files"]),
        note=entry.get("note", ""),
        intended=entry.get("intended"),
        own_space=entry.get("space"),
    )
