"""Say what a file is: layout, family, size, precision, and what is wrong with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from vae_manager.codec.kinds.kind import Facts
from vae_manager.codec.kinds.kl.config import DEFAULT_NORM_GROUPS
from vae_manager.errors import VaeFileError
from vae_manager.library.diffusers_folder import telling_parts
from vae_manager.library.dtypes import is_float
from vae_manager.library.families import FAMILIES
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
    """A key of `families.FAMILIES`, the family of a kind that has one of its own, or 'unknown'."""
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
    family, evidence = _family(facts.latent_channels, header, layout)
    known = FAMILIES.get(family)
    scale = _number(header.metadata, "scale_factor")
    shift = _number(header.metadata, "shift_factor")
    return Identity(
        format=format_,
        layout="checkpoint" if layout.checkpoint else layout.name,
        family=family,
        family_evidence=evidence,
        latent_channels=facts.latent_channels,
        scale_factor=scale if scale is not None else known and known.scale_factor,
        shift_factor=shift if shift is not None else known and known.shift_factor,
        dtype=_dtype(header),
        parameters=_parameters(header),
        norm_groups=groups,
        title=header.metadata.get("title"),
        problems=facts.problems,
        encodes=facts.encodes,
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
    scaled = layout.kind.latents_scaled
    return Identity(
        format=format_,
        layout=layout.name,
        family=family,
        family_evidence=facts.evidence,
        latent_channels=facts.latent_channels,
        scale_factor=1.0 if scaled else None,
        shift_factor=0.0 if scaled else None,
        dtype=_dtype(header),
        parameters=_parameters(header),
        norm_groups=DEFAULT_NORM_GROUPS,
        title=header.metadata.get("title"),
        problems=facts.problems,
    )


def _family(channels: int | None, header: Header, layout: Layout) -> tuple[str, str]:
    if layout.checkpoint:
        family = checkpoint_family(header)
        if family != "unknown":
            return family, "the checkpoint's own tensors"
    scale = _number(header.metadata, "scale_factor")
    for family in FAMILIES.values():
        if scale is not None and family.scale_factor == scale and family.latent_channels == channels:
            return family.id, "the scale factor in its metadata"
    if "bn.running_mean" in header.tensors or channels == 32:
        return "flux2", "32 latent channels"
    return "unknown", {
        4: "4 latent channels: SD1 or SDXL, whose VAEs have the same shapes",
        16: "16 latent channels: SD3 or Flux, whose VAEs have the same shapes",
    }.get(channels or 0, f"{channels} latent channels fit no family that is known")


def checkpoint_family(header: Header) -> str:
    """The family of a whole checkpoint, by tensors that only that family has."""
    return _checkpoint_family(header.tensors)


@lru_cache(maxsize=64)
def _checkpoint_family(names: TensorTable) -> str:
    if any(".joint_blocks." in name for name in names):
        return "sd3"
    if any(".double_blocks." in name or name.startswith("double_blocks.") for name in names):
        return "flux"
    if any(name.startswith("conditioner.embedders.") for name in names):
        return "sdxl"
    if any(name.startswith("cond_stage_model.") for name in names):
        return "sd1"
    return "unknown"


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
