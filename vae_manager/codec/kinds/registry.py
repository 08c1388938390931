"""Every kind of autoencoder there is. Adding one is adding its room and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vae_manager.codec.kinds import causal3d, kl, litevae, open_litevae, taehv, tiny
from vae_manager.codec.kinds.kind import Kind, KindName
from vae_manager.errors import VaeFileError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vae_manager.codec.kinds.network import Autoencoder
    from vae_manager.codec.streaming.chain import Chain

KINDS: tuple[Kind, ...] = (
    taehv.KIND,
    tiny.KIND,
    litevae.KIND,
    open_litevae.KIND,
    causal3d.KIND,
    kl.KIND,
)
"""In the order in which they are asked: a file or a module is the first kind's that knows it."""

BY_NAME: Mapping[KindName, Kind] = {kind.name: kind for kind in KINDS}

OWN_FAMILIES = frozenset(kind.family for kind in KINDS if kind.own_space and kind.family)
"""Families of VAEs with a latent space of their own, in which no checkpoint paints."""


def chain_of(vae: nn.Module, decodes: bool) -> Chain:
    """The steps of a module's decoder or encoder, whosever module it is.

    Raises:
        VaeFileError: its structure is not understood.
    """
    for kind in KINDS:
        if (chain := kind.chain(vae, decodes)) is not None:
            return chain
    raise VaeFileError("it is no autoencoder of a kind that can be streamed")


def build(name: KindName, state: Mapping[str, Tensor], norm_groups: int) -> Autoencoder:
    """The network of that kind around a state dict under canonical names, without copying it.

    It is in evaluation mode and asks for no gradients.

    Raises:
        VaeFileError: the tensors do not make a whole autoencoder of that kind.
    """
    return BY_NAME[name].build(state, norm_groups)


def takes_scaled(family: str | None) -> bool:
    """Whether VAEs of this family take the diffusion model's latents as they are."""
    return any(kind.latents_scaled and kind.family == family for kind in KINDS)
