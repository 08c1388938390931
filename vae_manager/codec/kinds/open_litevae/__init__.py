"""open-litevae: LiteVAE's idea as another network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vae_manager.codec.kinds.kind import Facts, Kind, Names, Naming
from vae_manager.codec.kinds.litevae import LAYOUT
from vae_manager.codec.kinds.litevae.names import is_open_litevae, litevae_names
from vae_manager.codec.kinds.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vae_manager.codec.kinds.network import Autoencoder
    from vae_manager.codec.streaming.chain import Chain


def find(names: Names) -> Naming | None:
    return Naming(LAYOUT, litevae_names(names.tensors)) if is_open_litevae(names.tensors) else None


def describe(shapes: Mapping[str, Shape], norm_groups: int) -> Facts:
    from vae_manager.codec.kinds.open_litevae.network import read_open_config

    channels = read_open_config(shapes).latent_channels
    return Facts(channels, "its tensors are those of open-litevae, another network than the paper's")


def build(state: Mapping[str, Tensor], norm_groups: int) -> Autoencoder:
    from vae_manager.codec.kinds.open_litevae.network import build_open_litevae

    return build_open_litevae(state)


def chain(vae: nn.Module, decodes: bool) -> Chain | None:
    return None  # its self-modulated convolutions are no plain ones: streaming refuses it with KL's sentence


KIND = Kind(
    name="open-litevae",
    label="LITEVAE",
    begins=(),
    find=find,
    describe=describe,
    build=build,
    chain=chain,
    family=LAYOUT,
    own_space=True,
    writes=("ldm",),
)
