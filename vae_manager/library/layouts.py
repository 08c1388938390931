"""Bring every key layout of a KL autoencoder into ldm's, and back.

The same weights circulate under four layouts: ldm's own (`decoder.up.3.block.0.conv1.weight`), diffusers'
(`decoder.up_blocks.0.resnets.0.conv1.weight`), either of them inside a whole checkpoint behind a prefix, and
trainers' files with the discriminator (`loss.*`) and EMA copies (`model_ema.*`) beside the VAE. The names were
read off the two libraries' modules; the mapping is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from vae_manager.codec.config import KL_ROOTS
from vae_manager.codec.kind_names import is_tiny, litevae_names, taesd_names
from vae_manager.errors import VaeFileError
from vae_manager.library.headers import Header, TensorInfo, TensorTable

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT_PREFIXES = ("first_stage_model.", "vae.")
"""Where a whole checkpoint keeps its VAE: ldm and all WebUIs; Forge's and some trainers' saved models."""

_WRAPPERS = ("module", "_orig_mod", "model", "autoencoder", "state_dict", "model_state_dict", "ema")
"""What wrappers of a module put before its names: DataParallel, `torch.compile`, trainers' classes."""

_PREFIX = re.compile(
    rf"((?:(?:{'|'.join((*_WRAPPERS, *(prefix[:-1] for prefix in CHECKPOINT_PREFIXES)))})\.){{1,4}})"
    r"decoder\.(?:conv_in|conv1|layers)\."
)

_MARKS = {
    "lora": re.compile(r"(lora_(up|down|A|B)\b|lora_unet_|lora_te|\.alpha$|hada_w|lokr_)"),
    "embedding": re.compile(r"^(emb_params|string_to_param|clip_[lg])$"),
    "controlnet": re.compile(r"^(control_model\.|controlnet_|input_hint_block)"),
    "text encoder": re.compile(r"^(text_model\.|transformer\.resblocks|encoder\.block\.0\.layer|shared\.weight)"),
    "upscaler": re.compile(r"^(model\.0\.weight|conv_first\.weight|params_ema)"),
}


@dataclass(frozen=True)
class Layout:
    """How a file names its tensors."""

    name: str
    """'ldm', 'diffusers', 'taesd', 'litevae', 'wan' …"""
    checkpoint: bool
    """True when the VAE is baked into a whole checkpoint."""
    keys: Mapping[str, str]
    """Canonical name (ldm's; TAESD's and LiteVAE's own) → the file's own name, for the VAE's tensors only."""


def detect_layout(header: Header) -> Layout:
    """Find the VAE among a file's tensors and how it is named.

    Raises:
        VaeFileError: there is no VAE in the file; the sentence says what it seems to be instead.
    """
    layout = _layout_of(header.tensors)
    if isinstance(layout, str):
        raise VaeFileError(layout)
    return layout


@lru_cache(maxsize=64)
def _layout_of(tensors: TensorTable) -> Layout | str:
    """The layout, or what the file seems to be instead."""
    names = list(tensors)
    prefix = _prefix(tensors)
    checkpoint = prefix.startswith(CHECKPOINT_PREFIXES)
    if (other := _other_autoencoder(names)) is not None:
        return Layout(other[0], checkpoint, other[1])
    inner = {name[len(prefix) :]: name for name in names if name.startswith(prefix)}
    if (first := _first_kernel(inner)) is not None and len(tensors[inner[first]].shape) == 5:
        return _video(inner, checkpoint)
    keys = {name: own for name, own in inner.items() if name.startswith(KL_ROOTS)}
    diffusers = any(name.startswith(("decoder.up_blocks.", "decoder.mid_block.")) for name in keys)
    if not diffusers and "decoder.conv_in.weight" not in keys:
        return _what_it_is(names)
    if diffusers:
        levels = 1 + max((int(m.group(1)) for name in keys if (m := _UP_BLOCK.match(name))), default=0)
        keys = {to_ldm(name, levels): own for name, own in keys.items()}
    else:
        # converters that knew only diffusers' older names have left its newer ones among ldm's
        keys = {_attention_to_ldm(name): own for name, own in keys.items()}
    return Layout("diffusers" if diffusers else "ldm", checkpoint, keys)


def canonical_shapes(header: Header, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Shapes under the canonical names; attention weights stored as matrices count as 1×1 convolutions."""
    return {name: _conv_shape(name, header.tensors[own]) for name, own in layout.keys.items()}


def as_conv(name: str, tensor: Tensor) -> Tensor:
    """A canonical tensor in ldm's shape: attention matrices (out, in) become 1×1 kernels (out, in, 1, 1)."""
    return tensor[:, :, None, None] if _is_attention_weight(name) and tensor.ndim == 2 else tensor


def to_ldm(name: str, levels: int) -> str:
    """One diffusers name → its ldm name. `levels` is the number of resolution levels."""
    for pattern, replacement in _DIFFUSERS_TO_LDM:
        name = re.sub(pattern, replacement, name)
    # diffusers counts the decoder's levels from the lowest resolution, ldm from the highest
    return _UP.sub(lambda m: f"decoder.up.{levels - 1 - int(m.group(1))}", _attention_to_ldm(name))


def to_diffusers(name: str, levels: int) -> str:
    """One ldm name → its diffusers name (current diffusers: `to_q`, linear attention)."""
    name = _UP.sub(lambda m: f"decoder.up.{levels - 1 - int(m.group(1))}", name)
    for pattern, replacement in _LDM_TO_DIFFUSERS:
        name = re.sub(pattern, replacement, name)
    return name


def as_matrix(name: str, tensor: Tensor) -> Tensor:
    """A canonical (ldm) tensor in diffusers' shape: attention's 1×1 kernels become matrices."""
    return tensor[:, :, 0, 0] if _is_attention_weight(name) and tensor.ndim == 4 else tensor


_UP_BLOCK = re.compile(r"decoder\.up_blocks\.(\d{1,3})\.")
_UP = re.compile(r"^decoder\.up\.(\d{1,3})(?=\.)")

_ATTENTION = r"(\.attn_1|\.attn\.\d+)"
"""ldm's: in the middle, and in levels behind each block, as kl-f16 has it."""

_DIFFUSERS_TO_LDM = (
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.(down|up)_blocks\.(\d+)\.attentions\.", r".\1.\2.attn."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
)

_ATTENTION_TO_LDM = tuple(
    (re.compile(_ATTENTION + pattern), rf"\1.{name}.")
    for pattern, name in (
        (r"\.group_norm\.", "norm"),
        (r"\.(?:to_q|query)\.", "q"),
        (r"\.(?:to_k|key)\.", "k"),
        (r"\.(?:to_v|value)\.", "v"),
        (r"\.(?:to_out\.0|proj_attn)\.", "proj_out"),
    )
)

_LDM_TO_DIFFUSERS = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (_ATTENTION + r"\.norm\.", r"\1.group_norm."),
    (_ATTENTION + r"\.([qkv])\.", r"\1.to_\2."),
    (_ATTENTION + r"\.proj_out\.", r"\1.to_out.0."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.(down|up)\.(\d+)\.attn\.", r".\1_blocks.\2.attentions."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
)


def _is_attention_weight(name: str) -> bool:
    return _ATTENTION_WEIGHT.search(name) is not None


_ATTENTION_WEIGHT = re.compile(_ATTENTION + r"\.(q|k|v|proj_out)\.weight$")


def _attention_to_ldm(name: str) -> str:
    if ".attn" in name:
        for pattern, replacement in _ATTENTION_TO_LDM:
            name = pattern.sub(replacement, name)
    return name


def _conv_shape(name: str, info: TensorInfo) -> tuple[int, ...]:
    return (*info.shape, 1, 1) if _is_attention_weight(name) and len(info.shape) == 2 else info.shape


def _prefix(names: Iterable[str]) -> str:
    """What stands before the VAE's names. Of several VAEs the one that the hosts take: ldm's place comes first."""
    found = {match.group(1) for name in names if (match := _PREFIX.match(name))}
    if "decoder.conv_in.weight" in names and not any(prefix.startswith(CHECKPOINT_PREFIXES) for prefix in found):
        return ""
    places = (*CHECKPOINT_PREFIXES, *(f"{wrapper}." for wrapper in _WRAPPERS))
    ranks = {place: rank for rank, place in enumerate(places)}
    return min(found, key=lambda prefix: (ranks.get(prefix, len(places)), len(prefix), prefix), default="")


def _other_autoencoder(names: Sequence[str]) -> tuple[str, Mapping[str, str]] | None:
    """Autoencoders that are not of the KL kind, told by names that only they have, and their canonical keys."""
    if is_tiny(names):
        return "taesd", taesd_names(names)
    lite = litevae_names(names)
    if any(name.startswith(("encoder.extractors.", "encoder.feature_extractor")) for name in lite):
        return "litevae", lite
    return None


def _first_kernel(names: Iterable[str]) -> str | None:
    """The decoder's first convolution."""
    firsts = ("decoder.conv1.weight", "decoder.conv_in.conv.weight", "decoder.conv_in.weight")
    return next((name for name in firsts if name in names), None)


def _video(inner: Mapping[str, str], checkpoint: bool) -> Layout | str:
    """Of the video autoencoders, Wan's is known by its norms, which have gains called gamma and nothing else."""
    if any(name.startswith(("decoder.middle.", "decoder.mid_block.")) and name.endswith(".gamma") for name in inner):
        return Layout("wan", checkpoint, dict(inner))
    return "it is a video autoencoder of a kind that is not known here, which only its own WebUI can run"


def _what_it_is(names: Iterable[str]) -> str:
    names = list(names)
    for kind, pattern in _MARKS.items():
        if any(pattern.search(name) for name in names):
            return f"it is no VAE but looks like a {kind} file; put it in that kind's folder"
    if any(name.startswith(("model.diffusion_model.", "double_blocks.", "joint_blocks.")) for name in names):
        return "it is a checkpoint without a VAE in it; choose a VAE file for it"
    return "it has no VAE in it (no tensor 'decoder.conv_in.weight')"
