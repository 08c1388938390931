"""Colour folded into weights, against the map done afterwards; the commands around it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from tests.conftest import FLUX, SD1, make_state
from vae_manager.cli import main
from vae_manager.codec.build import build_kl
from vae_manager.codec.latents import Latent, save_latent
from vae_manager.codec.whole import decode
from vae_manager.color.bake import fold_decoder, fold_encoder
from vae_manager.color.matrix import adjustment, affine, compose, invert
from vae_manager.errors import VaeFileError

MAP = adjustment(1.35, -0.04, 1.1)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [SD1, FLUX])
def test_decoder_fold_is_the_map_afterwards(config):
    state = make_state(config)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    z = noise(2, config.latent_channels, 6, 7)
    after = decode(build_kl(fold_decoder(state, MAP), 32), z)
    wanted = affine(decode(build_kl(state, 32), z) / 2 + 0.5, MAP)
    assert (after / 2 + 0.5 - wanted).abs().max() < 2e-6
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_encoder_fold_is_exact_inside():
    state = make_state()
    folded = fold_encoder(state, MAP)
    pixels = noise(1, 3, 16, 20).double()
    mapped = affine(pixels / 2 + 0.5, MAP) * 2 - 1
    (w, b), (w2, b2) = ([s[f"encoder.conv_in.{part}"].double() for part in ("weight", "bias")] for s in (state, folded))
    wanted = F.conv2d(pixels, w, b, padding=1)
    plain = F.conv2d(mapped, w2, b2, padding=1)
    assert (plain - wanted)[:, :, 1:-1, 1:-1].abs().max() < 2e-6
    assert (plain - wanted).abs().max() > 1e-3  # the ring, as the docstring says
    # what is exact everywhere: undo the map on the picture
    undone = affine(mapped / 2 + 0.5, invert(MAP)) * 2 - 1
    assert (F.conv2d(undone, w, b, padding=1) - wanted).abs().max() < 1e-12


def test_folds_compose():
    state = make_state()
    twice = fold_decoder(fold_decoder(state, MAP), adjustment(0.8))
    once = fold_decoder(state, compose(adjustment(0.8), MAP))
    assert torch.allclose(twice["decoder.conv_out.weight"], once["decoder.conv_out.weight"], atol=1e-6)
    assert torch.allclose(twice["decoder.conv_out.bias"], once["decoder.conv_out.bias"], atol=1e-6)


def test_a_state_without_the_convolution_is_refused():
    state = make_state()
    del state["decoder.conv_out.bias"]
    with pytest.raises(VaeFileError, match=r"conv_out"):
        fold_decoder(state, MAP)


def run(capsys, *arguments) -> dict:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments) -> str:
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err


def test_bake_command(write_vae, tmp_path, capsys):
    source, output = (
        write_vae("own.safetensors", norm_num_groups="32", scale_factor="0.18215"),
        tmp_path / "out.safetensors",
    )
    before = source.read_bytes()
    document = run(capsys, "bake", source, "-o", output, "--contrast", 1.2, "--brightness", 0.05, "--encoder")
    assert document["max_error"] <= 2e-6 and document["encoder_max_error"] <= 2e-6
    assert document["encoder_border_error"] > 1e-3
    assert source.read_bytes() == before
    state = load_file(output)
    assert torch.equal(state["decoder.mid.block_1.conv1.weight"], load_file(source)["decoder.mid.block_1.conv1.weight"])
    with safe_open(output, "pt") as file:
        metadata = file.metadata()
    assert metadata["vae_manager.baked_from"] == "own.safetensors" and metadata["scale_factor"] == "0.18215"
    assert len(metadata["vae_manager.baked_from_sha256"]) == 64
    assert json.loads(metadata["vae_manager.color_matrix"]) == document["matrix"]
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_calibrate_finds_what_was_baked_and_bake_undoes_it(write_vae, tmp_path, capsys):
    good = write_vae("good.safetensors")
    state = load_file(good)
    # random weights make flat grey pictures: give the last layer some contrast
    state["decoder.conv_out.weight"] *= 8
    save_file(state, good)
    flat, latents = tmp_path / "flat.safetensors", []
    run(capsys, "bake", good, "-o", flat, "--contrast", 0.7, "--brightness", 0.02)
    for seed in range(2):
        latents.append(tmp_path / f"{seed}.safetensors")
        save_latent(latents[-1], Latent(noise(1, 4, 12, 12, seed=seed) * 3))
    calibration = tmp_path / "map.json"
    arguments = ("--vae", flat, "--reference-vae", good, "-o", calibration)
    document = run(capsys, "calibrate", latents[0], *arguments)
    assert document["residual"] < 1e-3
    assert json.loads(calibration.read_text()) == document
    mended = tmp_path / "mended.safetensors"
    run(capsys, "bake", flat, "-o", mended, "--calibration", calibration)
    z = noise(1, 4, 12, 12, seed=5) * 3  # which calibration never saw
    a, b, c = (decode(build_kl(load_file(path), 32), z) for path in (good, flat, mended))
    assert (c - a).abs().mean() < 0.05 * (b - a).abs().mean()


def test_refusals_are_one_sentence(write_vae, tmp_path, capsys):
    vae, flux = write_vae("own.safetensors"), write_vae("flux.safetensors", FLUX)
    out = tmp_path / "out.safetensors"
    latent = tmp_path / "z.safetensors"
    save_latent(latent, Latent(noise(1, 4, 8, 8)))
    bad = tmp_path / "bad.json"
    bad.write_text('{"matrix": [1, 2]}')
    assert "nothing to bake" in refused(capsys, "bake", vae, "-o", out)
    assert "overwrite" in refused(capsys, "bake", vae, "-o", vae, "--contrast", 1.2)
    assert "no calibration" in refused(capsys, "bake", vae, "-o", out, "--calibration", bad)
    assert "no calibration file" in refused(capsys, "bake", vae, "-o", out, "--calibration", tmp_path / "none.json")
    assert "no folder" in refused(capsys, "bake", vae, "-o", tmp_path / "no/out.safetensors", "--contrast", 1.2)
    assert "undone" in refused(capsys, "bake", vae, "-o", out, "--saturation", 0, "--encoder")
    assert "finite" in refused(capsys, "bake", vae, "-o", out, "--contrast", "nan")
    assert refused(capsys, "calibrate", latent, "--vae", vae, "--reference-vae", flux)
    assert "no file" in refused(capsys, "calibrate", latent, "--vae", vae, "--reference-vae", tmp_path / "none.pt")
    assert not out.exists()
