"""The same weights under every layout become the same tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.codec.test_autoencoder import reference
from tests.conftest import FLUX, SD1, make_state
from vae_manager.codec.build import build_kl
from vae_manager.codec.kinds.kl.names import as_conv, to_diffusers, to_ldm
from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.library.files import vae_file
from vae_manager.library.identify import identify
from vae_manager.library.state import load_kl_state


def old_diffusers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers before 0.18 called attention's layers otherwise."""
    renames = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in renames.items():
        state = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in state.items()}
    return state


@pytest.mark.parametrize("config", [SD1, FLUX], ids=["sd1", "flux"])
def test_every_layout_loads_to_the_same_weights(tmp_path: Path, config):
    state = make_state(config, seed=5)
    diffusers = reference(build_kl(state, 32)).state_dict()
    trainer = {**state, "loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1)}
    files = {
        "ldm.safetensors": state,
        "diffusers.safetensors": diffusers,
        "old-diffusers.safetensors": old_diffusers(diffusers),
        "checkpoint.safetensors": {f"first_stage_model.{k}": v for k, v in state.items()}
        | {"cond_stage_model.transformer.x": torch.zeros(1), "model.diffusion_model.y": torch.zeros(1)},
        "forge.safetensors": {f"vae.{k}": v for k, v in state.items()},
        "trainer.ckpt": {"state_dict": trainer, "global_step": 7},
        "plain.pt": state,
    }
    for name, content in files.items():
        path = tmp_path / name
        if name.endswith(".safetensors"):
            save_file({k: v.contiguous() for k, v in content.items()}, str(path))
        else:
            torch.save(content, path)
        loaded, groups = load_kl_state(vae_file(path))
        assert groups == 32
        assert loaded.keys() == state.keys(), name
        assert all(torch.equal(loaded[key], state[key]) for key in state), name


def test_names_go_there_and_back():
    with torch.device("meta"):
        names = AutoencoderKL(SD1).state_dict()
    assert [to_ldm(to_diffusers(name, 4), 4) for name in names] == list(names)


def test_matrices_become_kernels():
    assert as_conv("decoder.mid.attn_1.q.weight", torch.zeros(8, 8)).shape == (8, 8, 1, 1)
    assert as_conv("decoder.conv_in.bias", torch.zeros(8)).shape == (8,)


@pytest.mark.parametrize(
    "config,metadata,family",
    [
        (SD1, {}, "unknown"),
        (SD1, {"scale_factor": "0.18215"}, "sd1"),
        (SD1, {"scale_factor": "0.13025"}, "sdxl"),
        (FLUX, {}, "unknown"),
        (FLUX, {"scale_factor": "0.3611"}, "flux"),
        (FLUX, {"scale_factor": "x"}, "unknown"),
        (FLUX, {"scale_factor": "0.13025"}, "unknown"),  # the scale of one family and the channels of another
    ],
)
def test_family_is_claimed_only_where_it_is_known(write_vae, config, metadata, family: str):
    found = identify(vae_file(write_vae("v.safetensors", config, **metadata)))
    assert found.family == family
    assert found.latent_channels == config.latent_channels
    assert found.family_evidence and found.problems == ()


@pytest.mark.parametrize(
    "key,family",
    [
        ("cond_stage_model.transformer.x", "sd1"),
        ("conditioner.embedders.0.x", "sdxl"),
        ("model.diffusion_model.joint_blocks.0.x", "sd3"),
        ("model.diffusion_model.double_blocks.0.x", "flux"),
    ],
)
def test_a_checkpoint_tells_its_family_by_its_own_tensors(tmp_path: Path, key: str, family: str):
    state = {f"first_stage_model.{name}": tensor for name, tensor in make_state().items()}
    path = tmp_path / "model.safetensors"
    save_file({**state, key: torch.zeros(1)}, str(path))
    found = identify(vae_file(path))
    assert (found.family, found.layout) == (family, "checkpoint")
