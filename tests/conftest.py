"""Small real models: the topology of the published VAEs at a fraction of their width."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file
from torch import Tensor

from vae_manager.codec.kinds.kl.config import KLConfig
from vae_manager.codec.kinds.kl.network import AutoencoderKL

os.environ["TRITON_INTERPRET"] = "1"
"""Triton reads this when it is imported, in whichever test comes first: its kernels run on a CPU then."""

SD1 = KLConfig(encoder_stem=32, encoder_channels=(32, 64, 128, 128), decoder_channels=(32, 64, 128, 128))
"""SD1's and SDXL's topology at a quarter of the width."""

FLUX = KLConfig(
    latent_channels=16,
    hidden_latent_channels=16,
    quant_conv=False,
    post_quant_conv=False,
    encoder_stem=32,
    encoder_channels=(32, 64, 128, 128),
    decoder_channels=(32, 64, 128, 128),
)
"""SD3's and Flux's: 16 latent channels, no convolutions around the latent."""


def make_vae(config: KLConfig = SD1, seed: int = 0) -> AutoencoderKL:
    """A VAE with random weights of the usual initial size."""
    torch.manual_seed(seed)
    return AutoencoderKL(config).eval().requires_grad_(False)


def make_state(config: KLConfig = SD1, seed: int = 0) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in make_vae(config, seed).state_dict().items()}


@pytest.fixture
def write_vae(tmp_path: Path) -> Callable[..., Path]:
    """Write a VAE file below tmp_path and return its path."""

    def write(name: str, config: KLConfig = SD1, seed: int = 0, prefix: str = "", **metadata: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {prefix + key: tensor for key, tensor in make_state(config, seed).items()}
        if path.suffix == ".safetensors":
            save_file(state, str(path), metadata or None)
        else:
            torch.save({"state_dict": state}, path)
        return path

    return write


@pytest.fixture(autouse=True)
def own_user_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the data of whoever runs it."""
    monkeypatch.setenv("VAE_MANAGER_HOME", str(tmp_path_factory.mktemp("home")))


# no example has to be done in a given time: what else the machine does must not fail a test
settings.register_profile("vae-manager", deadline=None)
settings.load_profile("vae-manager")

# several test processes share few cores, and small models gain nothing from more threads
torch.set_num_threads(1)
