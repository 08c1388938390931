"""The tiny autoencoders of the TAESD family: fast, approximate stand-ins for the VAEs of diffusion models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vae_manager.codec.kinds.kind import Facts, Kind, Names, Naming
from vae_manager.codec.kinds.shapes import Shape
from vae_manager.codec.kinds.tiny.names import is_tiny, taesd_names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vae_manager.codec.kinds.network import Autoencoder
    from vae_manager.codec.streaming.chain import Chain

LAYOUT = "taesd"


def find(names: Names) -> Naming | None:
    return Naming(LAYOUT, taesd_names(names.tensors)) if is_tiny(names.tensors) else None


def describe(shapes: Mapping[str, Shape], norm_groups: int) -> Facts:
    from vae_manager.codec.kinds.tiny.network import read_configs, variants

    config = next(half for half in read_configs(shapes) if half is not None)
    published = variants(config)
    return Facts(
        config.latent_channels,
        f"its tensors are those of {' or '.join(published) or 'a tiny autoencoder'}",
        variants=published,
    )


def build(state: Mapping[str, Tensor], norm_groups: int) -> Autoencoder:
    from vae_manager.codec.kinds.tiny.network import build_taesd

    return build_taesd(state)


def chain(vae: nn.Module, decodes: bool) -> Chain | None:
    from vae_manager.codec.kinds.tiny.chain import is_tiny, tiny_chain

    return tiny_chain(vae, decodes) if is_tiny(vae, decodes) else None


KIND = Kind(
    name="taesd",
    label="TAESD",
    begins=("decoder.layers.",),
    find=find,
    describe=describe,
    build=build,
    chain=chain,
    family=LAYOUT,
    latents_scaled=True,
    stands_for="kl",
)
