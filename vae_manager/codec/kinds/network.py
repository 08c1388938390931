"""What the networks of all kinds have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from vae_manager.errors import BadInputError


class Config(Protocol):
    """What is asked of the shape of an autoencoder, whatever its kind."""

    @property
    def latent_channels(self) -> int: ...

    @property
    def image_channels(self) -> int: ...

    @property
    def ratio(self) -> int:
        """Pixels per latent pixel along one side."""
        ...


C = TypeVar("C", bound=Config)


class Network(nn.Module, Generic[C]):
    """An autoencoder of pictures (N, 3, H, W) in [-1, 1]."""

    config: C

    def encode_moments(self, x: Tensor) -> Tensor:
        """Pictures → (N, 2·C, h, w): mean, then log-variance, unscaled.

        Raises:
            BadInputError: it has a decoder only.
        """
        if not hasattr(self, "encoder"):
            raise BadInputError("This VAE has a decoder only, so it cannot encode pictures; choose a whole one.")
        h: Tensor = self.get_submodule("encoder")(x)
        return self.get_submodule("quant_conv")(h) if hasattr(self, "quant_conv") else h

    def encode(self, x: Tensor) -> Tensor:
        """Pictures → the mean latent (N, C, h, w), unscaled."""
        return self.encode_moments(x).chunk(2, dim=1)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, C, h, w) → pictures, about [-1, 1], not clamped."""
        raise NotImplementedError


Autoencoder = Network[Any]


M = TypeVar("M", bound=nn.Module)


def built_around(state: Mapping[str, Tensor], make: Callable[[], M]) -> M:
    """The module that `make` makes, around these tensors and without copying them: in evaluation mode, asking for no
    gradients.

    Raises:
        RuntimeError: the tensors are not all that it has.
    """
    with torch.device("meta"):
        module = make()
    module.load_state_dict(dict(state), strict=True, assign=True)
    return module.eval().requires_grad_(False)
