"""Merging two VAEs: the ends are the VAEs themselves, and what has no sense is refused in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.conftest import FLUX, SD1, make_state
from vae_manager.cli import main
from vae_manager.codec.kinds.kl.names import as_matrix, to_diffusers
from vae_manager.library.files import vae_file
from vae_manager.library.hashing import sha256_of
from vae_manager.library.state import load_kl_state

SD1_SCALE, SDXL_SCALE = {"scale_factor": "0.18215"}, {"scale_factor": "0.13025"}


def merge(capsys, *arguments: object) -> dict:
    assert main(["merge", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *arguments: object) -> str:
    assert main(["merge", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_every_weight_is_between_and_the_ends_are_exact(write_vae, tmp_path: Path, capsys, alpha: float):
    a, b = write_vae("a.safetensors", seed=1, **SD1_SCALE), write_vae("b.pt", seed=2, **SD1_SCALE)
    done = merge(capsys, a, b, "--alpha", alpha, "-o", tmp_path / "out.safetensors")
    assert (done["family"], done["alpha"]) == ("sd1", alpha)
    first, second, merged = make_state(seed=1), make_state(seed=2), load_file(str(tmp_path / "out.safetensors"))
    assert merged.keys() == first.keys()
    for name, tensor in merged.items():
        if alpha in (0.0, 1.0):
            assert torch.equal(tensor, second[name] if alpha else first[name]), name
        else:
            torch.testing.assert_close(tensor, 0.75 * first[name] + 0.25 * second[name])


def test_any_layout_and_precision(tmp_path: Path, capsys):
    half = {name: tensor.half() for name, tensor in make_state(seed=1).items()}
    diffusers = {to_diffusers(name, 4): as_matrix(name, t).contiguous() for name, t in half.items()}
    save_file(diffusers, str(tmp_path / "a.safetensors"), SD1_SCALE)
    second = {f"first_stage_model.{name}": tensor for name, tensor in make_state(seed=2).items()}
    save_file({**second, "cond_stage_model.x": torch.zeros(1)}, str(tmp_path / "model.safetensors"))
    out = tmp_path / "out.safetensors"
    merge(capsys, tmp_path / "a.safetensors", tmp_path / "model.safetensors", "--alpha", 1, "-o", out)
    state, _ = load_kl_state(vae_file(out))
    assert all(torch.equal(tensor, state[name]) for name, tensor in make_state(seed=2).items())
    merge(capsys, tmp_path / "a.safetensors", tmp_path / "a.safetensors", "--alpha", 0.3, "-o", out)
    state, _ = load_kl_state(vae_file(out))
    assert all(torch.equal(tensor, state[name]) for name, tensor in half.items())


def test_where_it_comes_from_stands_in_the_file(write_vae, tmp_path: Path, capsys):
    a, b = write_vae("a.safetensors", seed=1, **SDXL_SCALE), write_vae("b.safetensors", seed=2, **SDXL_SCALE)
    merge(capsys, a, b, "--alpha", 0.25, "-o", tmp_path / "out.safetensors")
    with safe_open(str(tmp_path / "out.safetensors"), framework="pt") as file:
        metadata = file.metadata()
    assert float(metadata["scale_factor"]) == 0.13025 and metadata["norm_num_groups"] == "32"
    assert json.loads(metadata["vae_manager.merged_from"]) == [
        {"name": "a.safetensors", "sha256": sha256_of(a), "weight": 0.75},
        {"name": "b.safetensors", "sha256": sha256_of(b), "weight": 0.25},
    ]


def test_what_cannot_be_merged_is_refused(write_vae, tmp_path: Path, capsys):
    a, flux = write_vae("a.safetensors", **SD1_SCALE), write_vae("flux.safetensors", FLUX)
    xl, out = write_vae("xl.safetensors", **SDXL_SCALE), tmp_path / "out.safetensors"
    narrow = write_vae("narrow.safetensors", replace(SD1, encoder_channels=(32, 96, 128, 128)))
    (tmp_path / "bad.safetensors").write_bytes(b"x")
    for said, *arguments in (
        ("a.safetensors (Stable Diffusion 1.x and 2.x) and xl.safetensors (SDXL) have different", a, xl, "-o", out),
        ("only the first has a tensor 'post_quant_conv.bias'", a, flux, "-o", out),
        ("in the first and", a, narrow, "-o", out),
        ("--alpha must be 0 (the first VAE) to 1", a, a, "--alpha", "1.5", "-o", out),
        ("--alpha must be 0", a, a, "--alpha", "nan", "-o", out),
        ("bad.safetensors cannot be used: the file is 1 bytes", a, tmp_path / "bad.safetensors", "-o", out),
        ("There is no file", a, tmp_path / "no", "-o", out),
        ("must end in .safetensors", a, a, "-o", tmp_path / "out.pt"),
        ("would overwrite", a, xl, "-o", xl),
        ("There is no folder", a, a, "-o", tmp_path / "no" / "x.safetensors"),
    ):
        assert said in refusal(capsys, *arguments)
    assert not out.exists()


def test_scales_that_only_the_latents_show_are_told_apart(tmp_path: Path, capsys):
    """Two files that say nothing of their family, one of SD1's scale, one of SDXL's."""
    from vae_manager.library.probe import PICTURES

    state, groups = load_kl_state(vae_file(PICTURES.parent / "demo" / "demo-kl-f8.safetensors"), torch.float32)
    larger = {
        name: tensor * (0.18215 / 0.13025 if name.startswith("quant_conv") else 1) for name, tensor in state.items()
    }
    for name, tensors in (("a", state), ("b", larger)):
        save_file(tensors, str(tmp_path / f"{name}.safetensors"), {"norm_num_groups": str(groups)})
    said = refusal(capsys, tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-o", tmp_path / "o.safetensors")
    assert "a.safetensors (Stable Diffusion 1.x and 2.x) and b.safetensors (SDXL) have different latent spaces" in said
