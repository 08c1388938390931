"""From a file's tensors to an autoencoder that is ready to run: what the rooms of `codec.kinds` offer."""

from __future__ import annotations

from vae_manager.codec.kinds.kl.network import build_kl
from vae_manager.codec.kinds.network import Autoencoder
from vae_manager.codec.kinds.registry import build

__all__ = ["Autoencoder", "build", "build_kl"]
