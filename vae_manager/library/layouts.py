"""Find the autoencoder among the tensors of a file, whatever its kind, and what its tensors are called there.

The same weights circulate under the names of several libraries, inside a whole checkpoint behind a prefix, and in
trainers' files with the discriminator (`loss.*`) and EMA copies (`model_ema.*`) beside the VAE. A kind's own names are
its room's (`codec.kinds`); what may stand before them, and beside them, is here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from vae_manager.codec.kinds.kind import Kind, Names, Naming
from vae_manager.codec.kinds.registry import KINDS
from vae_manager.errors import VaeFileError
from vae_manager.library.headers import Header, TensorTable

CHECKPOINT_PREFIXES = ("first_stage_model.", "vae.")
"""Where a whole checkpoint keeps its VAE: ldm and all WebUIs; Forge's and some trainers' saved models."""

_WRAPPERS = ("module", "_orig_mod", "model", "autoencoder", "state_dict", "model_state_dict", "ema")
"""What wrappers of a module put before its names: DataParallel, `torch.compile`, trainers' classes."""

_PREFIX = re.compile(
    rf"((?:(?:{'|'.join((*_WRAPPERS, *(prefix[:-1] for prefix in CHECKPOINT_PREFIXES)))})\.){{1,4}})"
    rf"(?:{'|'.join(re.escape(begin) for begin in sorted({begin for kind in KINDS for begin in kind.begins}))})"
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
    """The autoencoder in a file, and how the file names its tensors."""

    name: str
    """'ldm', 'diffusers', or the name of a kind's only layout."""
    checkpoint: bool
    """True when the VAE is baked into a whole checkpoint."""
    keys: Mapping[str, str]
    """Canonical name, as the kind's network has it → the file's own name, for the VAE's tensors only."""
    kind: Kind


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
    prefix = _prefix(tensors)
    names = Names(tensors, {name[len(prefix) :]: name for name in tensors if name.startswith(prefix)})
    for kind in KINDS:
        found = kind.find(names)
        if isinstance(found, Naming):
            return Layout(found.layout, prefix.startswith(CHECKPOINT_PREFIXES), found.keys, kind)
        if found is not None:
            return found
    return _what_it_is(tensors)


def canonical_shapes(header: Header, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Shapes under the canonical names, as the kind's network has them."""
    return {name: layout.kind.canonical_shape(name, header.tensors[own].shape) for name, own in layout.keys.items()}


def _prefix(names: Iterable[str]) -> str:
    """What stands before the VAE's names. Of several VAEs the one that the hosts take: ldm's place comes first."""
    found = {match.group(1) for name in names if (match := _PREFIX.match(name))}
    if "decoder.conv_in.weight" in names and not any(prefix.startswith(CHECKPOINT_PREFIXES) for prefix in found):
        return ""
    places = (*CHECKPOINT_PREFIXES, *(f"{wrapper}." for wrapper in _WRAPPERS))
    ranks = {place: rank for rank, place in enumerate(places)}
    return min(found, key=lambda prefix: (ranks.get(prefix, len(places)), len(prefix), prefix), default="")


def _what_it_is(names: Iterable[str]) -> str:
    names = list(names)
    for kind, pattern in _MARKS.items():
        if any(pattern.search(name) for name in names):
            return f"it is no VAE but looks like a {kind} file; put it in that kind's folder"
    if any(name.startswith(("model.diffusion_model.", "double_blocks.", "joint_blocks.")) for name in names):
        return "it is a checkpoint without a VAE in it; choose a VAE file for it"
    return "it has no VAE in it (no tensor 'decoder.conv_in.weight')"
