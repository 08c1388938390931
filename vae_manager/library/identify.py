"""Say what a file is: layout, family, size, precision, and what is wrong with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from vae_manager.codec.kinds.kind import Facts, KindName
from vae_manager.codec.kinds.kl.config import DEFAULT_NORM_GROUPS
from vae_manager.errors import VaeFileError
from vae_manager.latents.claims import of_metadata, of_vae_scale, of_vae_shape
from vae_manager.latents.evidence import NOT_KNOWN, Claim, Evidence, Known, settle
from vae_manager.latents.reading import Found, architecture_of
from vae_manager.latents.spaces import SPACES
from vae_manager.library.diffusers_folder import telling_parts
from vae_manager.library.dtypes import is_float
from vae_manager.library.files import VaeFile
from vae_manager.library.headers import Header, TensorTable
from vae_manager.library.layouts import Layout, canonical_shapes, detect_layout
from vae_manager.library.tensors import read_header


@dataclass(frozen=True)
class Identity:
    """What is known of a file from its header alone (and from its hash, where that was asked for)."""

    format: str
    layout: str
    """'checkpoint', or as `layouts.Layout` names it: 'ldm', 'diffusers' …"""
    family: str
    """The latent space's family (`latents.spaces`), that of a kind that has one of its own, or 'unknown'."""
    family_evidence: str
    latent_channels: int | None
    scale_factor: float | None
    shift_factor: float | None
    dtype: str
    parameters: int
    norm_groups: int
    title: str | None = None
    """The file's own title from its metadata."""
    problems: tuple[str, ...] = ()
    encodes: bool = True
    """False where a KL autoencoder's decoder stands alone."""
    latents: Known = NOT_KNOWN
    """Which latent spaces it may decode, as far as its header tells."""
    kind: KindName = "kl"
    """What kind of autoencoder it is: a key of `codec.kinds.registry.BY_NAME`."""
    architecture: str | None = None
    """Of the checkpoint that it is baked into: an id of `latents.architectures`."""


def identify(file: VaeFile) -> Identity:
    """Identify a VAE file, or the VAE baked into a checkpoint, by its header.

    Raises:
        VaeFileError: it is no VAE, or cannot be read.
    """
    with telling_parts(file.path):
        return _identify(file)


def _identify(file: VaeFile) -> Identity:
    format_, header = read_header(file.path)
    layout = detect_layout(header)
    if layout.kind.family is None:
        return _told_by_numbers(format_, header, layout)
    return _of_one_family(format_, header, layout, layout.kind.family)


def norm_groups_of(metadata: Mapping[str, str]) -> int:
    """The number of norm groups that a file's metadata gives, or the field's usual 32.

    Raises:
        VaeFileError: the metadata says something that is no positive number.
    """
    text = metadata.get("norm_num_groups", str(DEFAULT_NORM_GROUPS))
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise VaeFileError(f"its metadata says norm_num_groups = {text!r:.40}, which is no number of groups")
    return int(text)


def _told_by_numbers(format_: str, header: Header, layout: Layout) -> Identity:
    groups = norm_groups_of(header.metadata)
    facts = vae_shape(header.tensors, groups)
    found = architecture_of_table(header.tensors) if layout.checkpoint else None
    known = settle(_claims(layout, facts.latent_channels, header, found))
    space = SPACES.get(known.space)
    scale = _number(header.metadata, "scale_factor")
    shift = _number(header.metadata, "shift_factor")
    return Identity(
        format=format_,
        layout="checkpoint" if layout.checkpoint else layout.name,
        family=space.family if space else "unknown",
        family_evidence=_evidence(known, facts.latent_channels),
        latent_channels=facts.latent_channels,
        scale_factor=scale if scale is not None else space and space.scale,
        shift_factor=shift if shift is not None else space and space.shift,
        dtype=_dtype(header),
        parameters=_parameters(header),
        norm_groups=groups,
        title=header.metadata.get("title"),
        problems=facts.problems,
        encodes=facts.encodes,
        latents=known,
        kind=layout.kind.name,
        architecture=found.architecture.id if found else None,
    )


@lru_cache(maxsize=64)
def vae_shape(tensors: TensorTable, groups: int) -> Facts:
    """What the shapes of the autoencoder among a file's tensors tell, and what is wrong with it.

    Raises:
        VaeFileError: there is none, or its shape cannot be read.
    """
    header = Header(tensors)
    layout = detect_layout(header)
    facts = layout.kind.describe(canonical_shapes(header, layout), groups)
    problem = None if facts.problems else _type_problem(header, layout)
    return replace(facts, problems=(problem,)) if problem else facts


def _type_problem(header: Header, layout: Layout) -> str | None:
    whole = next((name for name, own in layout.keys.items() if not is_float(header.tensors[own].dtype)), None)
    return f"its tensor {whole!r} holds whole numbers: quantised VAEs are not supported" if whole else None


def _of_one_family(format_: str, header: Header, layout: Layout, family: str) -> Identity:
    """A kind whose latents are one family's only; what it says against the file is a problem, not an error."""
    try:
        facts = vae_shape(header.tensors, norm_groups_of(header.metadata))
    except VaeFileError as error:
        facts = Facts(None, problems=(str(error),))
    scaled, own = layout.kind.latents_scaled, layout.kind.own_space
    found = architecture_of_table(header.tensors) if layout.checkpoint else None
    known = NOT_KNOWN if scaled or own else settle(_claims(layout, facts.latent_channels, header, found))
    space = SPACES.get(known.space)
    return Identity(
        format=format_,
        layout=layout.name,
        family=space.family if space else family,
        family_evidence=facts.evidence,
        latent_channels=facts.latent_channels,
        scale_factor=1.0 if scaled else None,
        shift_factor=0.0 if scaled else None,
        dtype=_dtype(header),
        parameters=_parameters(header),
        norm_groups=DEFAULT_NORM_GROUPS,
        title=header.metadata.get("title"),
        problems=facts.problems,
        latents=known,
        kind=layout.kind.name,
        architecture=found.architecture.id if found else None,
    )


def _claims(layout: Layout, channels: int | None, header: Header, found: Found | None) -> list[Claim]:
    """What a header says of the latent space of its VAE; the checkpoint around it has the first word."""
    claims = [replace(found.claim, evidence=Evidence.SHAPES)] if found else []
    if channels is None:
        return claims
    claims.append(of_vae_shape(layout.kind.name, channels))
    if (scale := _number(header.metadata, "scale_factor")) is not None:
        claims.append(of_vae_scale(scale, channels))
    return claims


def _evidence(known: Known, channels: int | None) -> str:
    if len(known.spaces) == 1:
        return known.detail
    titles = " or ".join(SPACES[space].title for space in sorted(known.spaces, key=list(SPACES).index))
    if titles:
        return f"{channels} latent channels: {titles}, whose VAEs have the same shapes"
    return f"{channels} latent channels fit no family that is known"


@lru_cache(maxsize=64)
def architecture_of_table(tensors: TensorTable) -> Found | None:
    """The architecture of the model among a file's tensors; remembered, for many files have the very same table."""
    return architecture_of(tensors)


def checkpoint_claims(header: Header) -> list[Claim]:
    """What a checkpoint's header says of the latent space that it paints in."""
    found = architecture_of_table(header.tensors)
    claims = [found.claim] if found else []
    return [claim for claim in (*claims, of_metadata(header.metadata)) if claim.spaces]


def _number(metadata: Mapping[str, str], key: str) -> float | None:
    try:
        return float(metadata[key]) if key in metadata else None
    except ValueError:
        return None


def _dtype(header: Header) -> str:
    """The precision that holds most of the VAE's parameters: 'fp32', 'fp16', 'bf16' …"""
    counts = _counts(header.tensors)
    name = counts.most_common(1)[0][0] if counts else "F32"
    return _PRECISIONS.get(name, name.lower())


_PRECISIONS = {
    "F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8_e4m3fn", "F8_E5M2": "fp8_e5m2",
}  # fmt: skip


def _parameters(header: Header) -> int:
    return sum(_counts(header.tensors).values())


@lru_cache(maxsize=64)
def _counts(tensors: TensorTable) -> Counter[str]:
    """Numbers of the VAE by their type."""
    counts: Counter[str] = Counter()
    for own in detect_layout(Header(tensors)).keys.values():
        counts[tensors[own].dtype] += tensors[own].count
    return counts
