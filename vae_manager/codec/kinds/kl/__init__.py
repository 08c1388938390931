"""The KL autoencoder of latent diffusion: SD 1 to 3, SDXL, Flux."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from vae_manager.codec.kinds.kind import Facts, Kind
from vae_manager.codec.kinds.kl import names
from vae_manager.codec.kinds.kl.config import KLConfig, check_shapes
from vae_manager.codec.kinds.shapes import Shape
from vae_manager.errors import VaeFileError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vae_manager.codec.kinds.network import Autoencoder
    from vae_manager.codec.streaming.chain import Chain


def describe(shapes: Mapping[str, Shape], norm_groups: int) -> Facts:
    config = KLConfig.from_shapes(shapes, norm_groups)
    problem = _problem(config, frozenset(shapes.items()))
    return Facts(config.latent_channels, "", config.encodes, (problem,) if problem else ())


@lru_cache(maxsize=64)
def _problem(config: KLConfig, shapes: frozenset[tuple[str, Shape]]) -> str | None:
    try:
        check_shapes(config, dict(shapes))
    except VaeFileError as error:
        return str(error)
    return None


def build(state: Mapping[str, Tensor], norm_groups: int) -> Autoencoder:
    from vae_manager.codec.kinds.kl.network import build_kl

    return build_kl(state, norm_groups)


def chain(vae: nn.Module, decodes: bool) -> Chain | None:
    from vae_manager.codec.kinds.kl.chain import decoder_chain, encoder_chain

    return decoder_chain(vae) if decodes else encoder_chain(vae)


KIND = Kind(
    name="kl",
    label="KL",
    begins=("decoder.conv_in.",),
    find=names.find,
    describe=describe,
    build=build,
    chain=chain,
    canonical_shape=names.conv_shape,
    canonical_tensor=names.as_conv,
    stands_in=True,
    writes=("ldm", "diffusers"),
)
