"""LiteVAE, the paper's: a wavelet encoder before Stable Diffusion's decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vae_manager.codec.kinds.kind import Facts, Kind, Names, Naming
from vae_manager.codec.kinds.litevae.names import litevae_names
from vae_manager.codec.kinds.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vae_manager.codec.kinds.network import Autoencoder
    from vae_manager.codec.streaming.chain import Chain

LAYOUT = "litevae"
"""Also open-litevae's: for people the two are one."""


def find(names: Names) -> Naming | None:
    keys = litevae_names(names.tensors)
    return Naming(LAYOUT, keys) if any(name.startswith("encoder.feature_extractor") for name in keys) else None


def describe(shapes: Mapping[str, Shape], norm_groups: int) -> Facts:
    from vae_manager.codec.kinds.litevae.config import read_config

    return Facts(read_config(shapes, norm_groups).latent_channels)


def build(state: Mapping[str, Tensor], norm_groups: int) -> Autoencoder:
    from vae_manager.codec.kinds.litevae.network import build_litevae

    return build_litevae(state, norm_groups)


def chain(vae: nn.Module, decodes: bool) -> Chain | None:
    """Its decoder is Stable Diffusion's, perhaps behind a convolution of its own name."""
    from vae_manager.codec.kinds.kl.chain import decoder_chain

    if not decodes or not hasattr(getattr(vae, "encoder", None), "feature_aggregator"):
        return None
    return decoder_chain(vae, before="post_conv")


KIND = Kind(
    name="litevae",
    label="LITEVAE",
    begins=("decoder.conv_in.",),
    find=find,
    describe=describe,
    build=build,
    chain=chain,
    family=LAYOUT,
    own_space=True,
    writes=("ldm",),
)
