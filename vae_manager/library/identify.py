"""Say what a file is: layout, family, size, precision, and what is wrong with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from vae_manager.codec.config import DEFAULT_NORM_GROUPS, KLConfig, check_shapes
from vae_manager.codec.kind_names import is_open_litevae
from vae_manager.errors import VaeFileError
from vae_manager.library.diffusers_folder import telling_parts
from vae_manager.library.dtypes import is_float
from vae_manager.library.families import FAMILIES
from vae_manager.library.files import VaeFile
from vae_manager.library.headers import Header, TensorTable
from vae_manager.library.layouts import Layout, canonical_shapes, detect_layout
from vae_manager.library.tensors import read_header

VIDEO = "it is a video autoencoder (Wan or Qwen), which only its own WebUI can run"


@dataclass(frozen=True)
class Identity:
    """What is known of a file from its header alone (and from its hash, where that was asked for)."""

    format: str
    layout: str
    """'ldm', 'diffusers', 'checkpoint', 'taesd', 'litevae' or 'wan'."""
    family: str
    """A key of `families.FAMILIES`, 'taesd', 'litevae', or 'unknown'."""
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
    if layout.name in ("taesd", "litevae", "wan"):
        return _other(format_, header, layout)
    return _kl(format_, header, layout)


def norm_groups_of(metadata: Mapping[str, str]) -> int:
    """The number of norm groups that a file's metadata gives, or the field's usual 32.

    Raises:
        VaeFileError: the metadata says something that is no positive number.
    """
    text = metadata.get("norm_num_groups", str(DEFAULT_NORM_GROUPS))
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise VaeFileError(f"its metadata says norm_num_groups = {text!r:.40}, which is no number of groups")
    return int(text)


def _kl(format_: str, header: Header, layout: Layout) -> Identity:
    groups = norm_groups_of(header.metadata)
    config, problems = kl_shape(header.tensors, groups)
    family, evidence = _family(config, header, layout)
    known = FAMILIES.get(family)
    scale = _number(header.metadata, "scale_factor")
    shift = _number(header.metadata, "shift_factor")
    return Identity(
        format=format_,
        layout="checkpoint" if layout.checkpoint else layout.name,
        family=family,
        family_evidence=evidence,
        latent_channels=config.latent_channels,
        scale_factor=scale if scale is not None else known and known.scale_factor,
        shift_factor=shift if shift is not None else known and known.shift_factor,
        dtype=_dtype(header),
        parameters=_parameters(header),
        norm_groups=groups,
        title=header.metadata.get("title"),
        problems=problems,
        encodes=config.encodes,
    )


@lru_cache(maxsize=64)
def kl_shape(tensors: TensorTable, groups: int) -> tuple[KLConfig, tuple[str, ...]]:
    """The shape of the KL autoencoder among a file's tensors, and what is wrong with it.

    Raises:
        VaeFileError: there is none, or its shape cannot be read.
    """
    header = Header(tensors)
    layout = detect_layout(header)
    shapes = canonical_shapes(header, layout)
    config = KLConfig.from_shapes(shapes, groups)
    problem = _shape_problem(config, frozenset(shapes.items())) or _type_problem(header, layout)
    return config, (problem,) if problem else ()


def _type_problem(header: Header, layout: Layout) -> str | None:
    whole = next((name for name, own in layout.keys.items() if not is_float(header.tensors[own].dtype)), None)
    return f"its tensor {whole!r} holds whole numbers: quantised VAEs are not supported" if whole else None


@lru_cache(maxsize=64)
def _shape_problem(config: KLConfig, shapes: frozenset[tuple[str, tuple[int, ...]]]) -> str | None:
    try:
        check_shapes(config, dict(shapes))
    except VaeFileError as error:
        return str(error)
    return None


def _other(format_: str, header: Header, layout: Layout) -> Identity:
    """TAESD works on latents that are scaled already; LiteVAE has a latent space of its own."""
    from vae_manager.codec import litevae, open_litevae, taesd  # with torch, which the KL kind's header does without

    problems: tuple[str, ...] = ()
    channels = None
    evidence = "its tensors' names"
    try:
        shapes = canonical_shapes(header, layout)
        if layout.name == "taesd":
            config = next(half for half in taesd.read_configs(shapes) if half)
            channels = config.latent_channels
            evidence = f"its tensors are those of {' or '.join(taesd.variants(config)) or 'a tiny autoencoder'}"
        elif layout.name == "litevae":
            if is_open_litevae(shapes):
                channels = open_litevae.read_open_config(shapes).latent_channels
                evidence = "its tensors are those of open-litevae, another network than the paper's"
            else:
                channels = litevae.read_config(shapes, norm_groups_of(header.metadata)).latent_channels
        else:
            problems = (VIDEO,)
    except VaeFileError as error:
        problems = (str(error),)
    return Identity(
        format=format_,
        layout=layout.name,
        family=layout.name,
        family_evidence=evidence,
        latent_channels=channels,
        scale_factor=1.0 if layout.name == "taesd" else None,
        shift_factor=0.0 if layout.name == "taesd" else None,
        dtype=_dtype(header),
        parameters=_parameters(header),
        norm_groups=DEFAULT_NORM_GROUPS,
        title=header.metadata.get("title"),
        problems=problems,
    )


def _family(config: KLConfig, header: Header, layout: Layout) -> tuple[str, str]:
    if layout.checkpoint:
        family = checkpoint_family(header)
        if family != "unknown":
            return family, "the checkpoint's own tensors"
    scale = _number(header.metadata, "scale_factor")
    for family in FAMILIES.values():
        if scale is not None and family.scale_factor == scale and family.latent_channels == config.latent_channels:
            return family.id, "the scale factor in its metadata"
    if "bn.running_mean" in header.tensors or config.latent_channels == 32:
        return "flux2", "32 latent channels"
    return "unknown", {
        4: "4 latent channels: SD1 or SDXL, whose VAEs have the same shapes",
        16: "16 latent channels: SD3 or Flux, whose VAEs have the same shapes",
    }.get(config.latent_channels, f"{config.latent_channels} latent channels fit no family that is known")


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
