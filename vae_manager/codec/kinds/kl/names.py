"""The names of a KL autoencoder's tensors: every layout brought into ldm's, and back.

The same weights circulate under ldm's own names (`decoder.up.3.block.0.conv1.weight`) and diffusers'
(`decoder.up_blocks.0.resnets.0.conv1.weight`). The names were read off the two libraries' modules; the mapping is ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vae_manager.codec.kinds.kind import Names, Naming
from vae_manager.codec.kinds.kl.config import KL_ROOTS
from vae_manager.codec.kinds.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor


def find(names: Names) -> Naming | None:
    """A KL autoencoder's tensors among a file's."""
    keys = {name: own for name, own in names.inner.items() if name.startswith(KL_ROOTS)}
    diffusers = any(name.startswith(("decoder.up_blocks.", "decoder.mid_block.")) for name in keys)
    if not diffusers and "decoder.conv_in.weight" not in keys:
        return None
    if diffusers:
        levels = 1 + max((int(m.group(1)) for name in keys if (m := _UP_BLOCK.match(name))), default=0)
        return Naming("diffusers", {to_ldm(name, levels): own for name, own in keys.items()})
    # converters that knew only diffusers' older names have left its newer ones among ldm's
    return Naming("ldm", {_attention_to_ldm(name): own for name, own in keys.items()})


def conv_shape(name: str, shape: Shape) -> Shape:
    """The shape of a canonical tensor; attention weights stored as matrices count as 1×1 convolutions."""
    return (*shape, 1, 1) if _is_attention_weight(name) and len(shape) == 2 else shape


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
