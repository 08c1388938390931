"""TAEHV: the tiny autoencoders of video models (taew2_1, lighttaew2_1, taew2_2 …), on single pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vae_manager.codec.kinds.kind import Facts, Kind, Names, Naming
from vae_manager.codec.kinds.shapes import Shape
from vae_manager.codec.kinds.taehv.config import is_super, is_taehv, read_config

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vae_manager.codec.kinds.network import Autoencoder
    from vae_manager.codec.streaming.chain import Chain

LAYOUT = "taehv"


def find(names: Names) -> Naming | str | None:
    if is_super(names.inner):
        return "it is a tiny video VAE of the Super variant, whose decoder is not supported; use the plain one"
    if not is_taehv(names.inner):
        return None
    return Naming(LAYOUT, {name: own for name, own in names.inner.items() if name.startswith(("encoder.", "decoder."))})


def describe(shapes: Mapping[str, Shape], norm_groups: int) -> Facts:
    config = read_config(shapes)
    return Facts(config.latent_channels, "its blocks are those of TAEHV, which remember the frame before")


def build(state: Mapping[str, Tensor], norm_groups: int) -> Autoencoder:
    from vae_manager.codec.kinds.taehv.network import build_taehv

    return build_taehv(state)


def chain(vae: nn.Module, decodes: bool) -> Chain | None:
    from vae_manager.codec.kinds.taehv.chain import is_taehv, taehv_chain

    return taehv_chain(vae, decodes) if is_taehv(vae, decodes) else None


KIND = Kind(
    name="taehv",
    label="TAEHV",
    begins=("decoder.1.weight",),
    find=find,
    describe=describe,
    build=build,
    chain=chain,
    family="taesd",
    latents_scaled=True,
    stands_for="causal3d",
)
