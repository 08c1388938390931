"""Load a VAE's tensors under their canonical names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vae_manager.codec.kinds.kind import Kind
from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.codec.kinds.network import Autoencoder
from vae_manager.codec.kinds.shapes import Padding
from vae_manager.codec.padding import set_padding
from vae_manager.errors import VaeFileError
from vae_manager.library.diffusers_folder import telling_parts
from vae_manager.library.files import VaeFile
from vae_manager.library.identify import norm_groups_of, vae_shape
from vae_manager.library.layouts import detect_layout
from vae_manager.library.numbers import all_finite, impossible
from vae_manager.library.padding import padding_of
from vae_manager.library.tensors import open_tensors


@dataclass(frozen=True)
class LoadedState:
    """A VAE's tensors, in ordinary CPU memory: a file that is replaced later cannot change them."""

    kind: Kind
    tensors: dict[str, Tensor]
    """Under the kind's canonical names."""
    norm_groups: int
    padding: Padding | None = None
    """How its convolutions pad, where the file tells; zeros otherwise."""

    def network(self, tensors: Mapping[str, Tensor] | None = None) -> Autoencoder:
        """The autoencoder around these tensors, which it shares; around `tensors` where they were moved.

        Raises:
            VaeFileError: they do not make a whole one.
        """
        vae = self.kind.build(self.tensors if tensors is None else tensors, self.norm_groups)
        if self.padding:
            set_padding(vae, self.padding)
        return vae


def load_state(file: VaeFile, dtype: torch.dtype | None = None) -> LoadedState:
    """The tensors of a VAE file, or of the VAE baked into a checkpoint. `dtype` None keeps the file's own.

    Raises:
        VaeFileError: not a whole VAE of a kind that can be run.
    """
    with telling_parts(file.path):
        return _load_state(file, dtype)


def _load_state(file: VaeFile, dtype: torch.dtype | None) -> LoadedState:
    opened = open_tensors(file.path)
    layout = detect_layout(opened.header)
    kind, groups = layout.kind, norm_groups_of(opened.header.metadata)
    if problems := vae_shape(opened.header.tensors, groups).problems:
        raise VaeFileError(problems[0])
    tensors = {}
    for name, own in layout.keys.items():
        tensor = kind.canonical_tensor(name, opened.fetch(own))
        if not tensor.is_floating_point():
            raise VaeFileError(f"its tensor {name!r} holds whole numbers: quantised VAEs are not supported")
        tensors[name] = tensor.to(dtype=dtype or tensor.dtype, copy=True).contiguous()
        if problem := impossible(name, tensor):
            raise VaeFileError(f"its tensor {name!r} {problem}: the file is damaged; fetch it again")
        if not all_finite(tensors[name]):
            raise VaeFileError(f"its tensor {name!r} is too large for {dtype}; use bf16 or fp32")
    return LoadedState(kind, tensors, groups, padding_of(file.path.stem, opened.header.metadata))


def load_statistics(file: VaeFile, names: Iterable[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Those of these tensors that a VAE file has beside its network's, such as FLUX.2's `bn.running_mean`.

    Raises:
        VaeFileError: it cannot be read, or is no VAE.
    """
    opened = open_tensors(file.path)
    first = "decoder.conv_in.weight"
    before = detect_layout(opened.header).keys.get(first, first).removesuffix(first)
    found = {name: before + name for name in names if before + name in opened.header.tensors}
    return {name: opened.fetch(own).to(dtype, copy=True) for name, own in found.items()}


def load_kl_state(file: VaeFile, dtype: torch.dtype | None = None) -> tuple[dict[str, Tensor], int]:
    """The tensors of a KL autoencoder under ldm's names, and its number of norm groups.

    Raises:
        VaeFileError: not a whole KL autoencoder.
    """
    state = load_state(file, dtype)
    if not state.kind.stands_in:
        raise VaeFileError(f"it is {state.kind.an}, which cannot stand in for a KL VAE")
    return state.tensors, state.norm_groups


def load_kl(file: VaeFile, padding: Padding | None = None) -> AutoencoderKL:
    """The KL autoencoder of a file in float32, padded as its file tells; `padding`, the user's word, goes before.

    Raises:
        VaeFileError: not a whole KL autoencoder.
    """
    state = load_state(file, torch.float32)
    vae = replace(state, padding=padding or state.padding).network()
    if not isinstance(vae, AutoencoderKL):
        raise VaeFileError(f"it is {state.kind.an}, which cannot stand in for a KL VAE")
    return vae
