"""From a file's tensors to an autoencoder that is ready to run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vae_manager.codec.autoencoder import AutoencoderKL
from vae_manager.codec.config import KLConfig, check_shapes
from vae_manager.codec.kind_names import is_open_litevae
from vae_manager.codec.litevae import LiteVAE, build_litevae
from vae_manager.codec.open_litevae import OpenLiteVAE, build_open_litevae
from vae_manager.codec.taesd import TinyAutoencoder, build_taesd

Autoencoder = AutoencoderKL | TinyAutoencoder | LiteVAE | OpenLiteVAE
"""What `build` returns: all have `config`, `encode_moments` and `decode`, on pictures in [-1, 1]."""


def build(kind: str, state: Mapping[str, Tensor], norm_groups: int) -> Autoencoder:
    """The autoencoder of a state dict under canonical names; `kind` is 'kl', 'taesd' or 'litevae'.

    Raises:
        VaeFileError: the tensors do not make a whole autoencoder of that kind.
    """
    if kind == "taesd":
        return build_taesd(state)
    if kind == "litevae":
        return build_open_litevae(state) if is_open_litevae(state) else build_litevae(state, norm_groups)
    return build_kl(state, norm_groups)


def build_kl(state: Mapping[str, Tensor], norm_groups: int) -> AutoencoderKL:
    """Build the autoencoder around the tensors of a canonical ldm state dict, without copying them.

    The module is in evaluation mode, asks for no gradients, and shares memory with `state`.

    Raises:
        VaeFileError: the tensors do not make a whole KL autoencoder.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    config = KLConfig.from_shapes(shapes, norm_groups)
    check_shapes(config, shapes)
    with torch.device("meta"):
        vae = AutoencoderKL(config)
    vae.load_state_dict(dict(state), strict=True, assign=True)
    return vae.eval().requires_grad_(False)
