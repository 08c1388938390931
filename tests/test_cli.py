"""The command line as a user meets it: exit status, one JSON document on stdout, one sentence on stderr."""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.conftest import FLUX, make_state, make_vae
from vae_manager.cli import EXAMPLES, _parser, main
from vae_manager.codec.latents import Latent, save_latent
from vae_manager.codec.pictures import save_picture
from vae_manager.codec.whole import decode, encode, latent_of
from vae_manager.library.hashing import sha256_of
from vae_manager.library.probe import PICTURES


def run(capsys: pytest.CaptureFixture[str], *arguments: object):
    """The JSON answer of a command that succeeds."""
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The sentence of a command that refuses: nothing on stdout, one line on stderr, status 2."""
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    ramp = np.linspace(0, 255, 50 * 37 * 3).reshape(37, 50, 3).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_list_names_every_file_and_what_is_wrong(write_vae, tmp_path: Path, capsys):
    write_vae("a.safetensors", scale_factor="0.13025")
    write_vae("sub/b.pt", FLUX)
    (tmp_path / "bad.safetensors").touch()
    found = {entry["name"]: entry for entry in run(capsys, "list", tmp_path)}
    assert found["a.safetensors"]["family"] == "sdxl"
    assert found["sub/b.pt"]["latent_channels"] == 16
    assert "0 bytes" in found["bad.safetensors"]["problems"][0]
    assert run(capsys, "list", tmp_path / "sub")[0]["name"] == "b.pt"


def test_inspect_has_every_field_of_the_design(write_vae, capsys):
    path = write_vae("v.safetensors", scale_factor="0.18215")
    found = run(capsys, "inspect", path)
    fields = "path format layout family family_evidence latent_channels scale_factor shift_factor dtype parameters"
    assert set(fields.split()) | {"sha256", "weights_digest", "known", "problems"} <= set(found)
    assert found["sha256"] == sha256_of(path)
    assert found["parameters"] == sum(tensor.numel() for tensor in make_state().values())
    assert (found["format"], found["layout"], found["dtype"], found["known"]) == ("safetensors", "ldm", "fp32", None)


def test_inspect_looks_for_damage_where_it_is_asked_to(capsys):
    demo = PICTURES.parent / "demo"
    assert run(capsys, "inspect", demo / "demo-kl-f8-washed-out.safetensors")["problems"] == []
    (problem,) = run(capsys, "inspect", demo / "demo-kl-f8-washed-out.safetensors", "--health")["problems"]
    assert problem.startswith("it washes pictures out")
    assert run(capsys, "inspect", demo / "demo-kl-f8.safetensors", "--health")["problems"] == []


def test_inspect_finds_the_vae_baked_into_a_checkpoint(write_vae, tmp_path: Path, capsys):
    vae = run(capsys, "inspect", write_vae("v.safetensors"))
    state = {f"first_stage_model.{name}": tensor for name, tensor in make_state().items()}
    save_file({**state, "conditioner.embedders.0.x": torch.zeros(1)}, str(tmp_path / "model.safetensors"))
    found = run(capsys, "inspect", tmp_path / "model.safetensors")
    assert (found["layout"], found["family"]) == ("checkpoint", "sdxl")
    assert found["weights_digest"] == vae["weights_digest"] and found["sha256"] != vae["sha256"]


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16", None])
def test_convert_keeps_the_weights(write_vae, tmp_path: Path, capsys, layout: str, dtype: str | None):
    source, output = write_vae("v.pt"), tmp_path / "out.safetensors"
    options = ["--layout", layout, *(["--dtype", dtype] if dtype else [])]
    assert run(capsys, "convert", source, "-o", output, *options)["bytes"] == output.stat().st_size
    found = run(capsys, "inspect", output)
    assert (found["layout"], found["dtype"]) == (layout, dtype or "fp32")
    if dtype != "bf16":  # fp16 and fp32 copies are the same weights
        assert found["weights_digest"] == run(capsys, "inspect", source)["weights_digest"]


def test_convert_never_overwrites_its_source_and_notices_overflow(write_vae, tmp_path: Path, capsys):
    source = write_vae("v.safetensors")
    before = source.read_bytes()
    assert "overwrite" in refusal(capsys, "convert", source, "-o", source)
    assert source.read_bytes() == before
    assert ".safetensors" in refusal(capsys, "convert", source, "-o", tmp_path / "out.pt")
    state = make_state()
    state["decoder.conv_in.bias"][0] = 1e6
    save_file(state, str(source))
    assert "bf16" in refusal(capsys, "convert", source, "-o", tmp_path / "out.safetensors", "--dtype", "fp16")


@pytest.mark.parametrize("mode", ["whole", "exact", "auto"])
def test_encode_and_decode_are_the_codecs(write_vae, photo: Path, tmp_path: Path, capsys, mode: str):
    vae = write_vae("v.safetensors", seed=3, scale_factor="0.18215")
    latent, picture = tmp_path / "latent.safetensors", tmp_path / "out.npy"
    answer = run(capsys, "encode", photo, "-o", latent, "--vae", vae, "--mode", "whole")
    assert (answer["width"], answer["height"], answer["latent_shape"]) == (50, 37, [1, 4, 5, 7])
    assert answer["mode"] == "whole" and answer["seconds"] > 0
    with safe_open(str(latent), "pt") as file:
        assert file.metadata() == {"family": "sd1", "scale_factor": "0.18215", "width": "50", "height": "37"}
        assert file.get_tensor("latent").dtype == torch.float32
    answer = run(capsys, "decode", latent, "-o", picture, "--vae", vae, "--mode", mode)
    assert (answer["width"], answer["height"]) == (50, 37)
    assert answer["mode"] == ("exact" if mode == "auto" else mode)
    pixels = torch.from_numpy(np.asarray(Image.open(photo)).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    padded = torch.nn.functional.pad(pixels, (0, 6, 0, 3), mode="replicate")
    expected = decode(make_vae(seed=3), latent_of(encode(make_vae(seed=3), padded)))
    tolerance = 1e-5 if mode == "whole" else 0.005 / 127.5  # of an 8-bit level, for exact decodes
    assert np.abs(np.load(picture) - expected[:, :, :37, :50].numpy()).max() < tolerance


def test_sampling_is_seeded(write_vae, photo: Path, tmp_path: Path, capsys):
    vae = write_vae("v.safetensors")

    def sample(seed: int) -> torch.Tensor:
        run(capsys, "encode", photo, "-o", tmp_path / "l.safetensors", "--vae", vae, "--sample", "--seed", seed)
        return load_file(str(tmp_path / "l.safetensors"))["latent"]

    assert torch.equal(sample(1), sample(1)) and not torch.equal(sample(1), sample(2))


@pytest.mark.parametrize("bits", [8, 16])
def test_pictures_hold_the_pixels_rounded(write_vae, tmp_path: Path, capsys, bits: int):
    save_latent(tmp_path / "l.safetensors", Latent(torch.randn(1, 4, 3, 5)))
    vae, png, raw = write_vae("v.safetensors"), tmp_path / "p.png", tmp_path / "p.safetensors"
    run(capsys, "decode", tmp_path / "l.safetensors", "-o", png, "--vae", vae, "--bits", bits)
    run(capsys, "decode", tmp_path / "l.safetensors", "-o", raw, "--vae", vae)
    pixels = load_file(str(raw))["pixels"][0].permute(1, 2, 0).clamp(-1, 1).double().numpy()
    levels = png_levels(png)
    assert levels.shape == (24, 40, 3)
    assert np.abs(levels - (pixels + 1) * (2**bits - 1) / 2).max() <= 0.5 + 1e-3


def png_levels(path: Path) -> np.ndarray:
    """Pillow reads 16-bit RGB as 8 bits: such files are read here chunk by chunk (filter 0 in every row)."""
    data = path.read_bytes()
    if data[24] == 8:
        return np.asarray(Image.open(path)).astype(float)
    assert Image.open(path).size == struct.unpack(">II", data[16:24])
    length = struct.unpack(">I", data[33:37])[0]
    rows = np.frombuffer(zlib.decompress(data[41 : 41 + length]), np.uint8).reshape(24, -1)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:].copy().view(">u2").reshape(24, 40, 3).astype(float)


def test_bad_input_gets_one_sentence(write_vae, photo: Path, tmp_path: Path, capsys):
    vae, flux = write_vae("v.safetensors"), write_vae("flux.safetensors", FLUX)
    latent, text, out = tmp_path / "l.safetensors", tmp_path / "t.png", tmp_path / "o.png"
    save_latent(latent, Latent(torch.randn(1, 4, 2, 2)))
    text.write_text("no picture")
    cut = tmp_path / "cut.png"
    cut.write_bytes(photo.read_bytes()[:60])
    nan = tmp_path / "nan.safetensors"
    save_latent(nan, Latent(torch.full((1, 4, 2, 2), torch.nan)))
    for sentence, *arguments in (
        ("There is no file", "inspect", tmp_path / "missing"),
        ("There is no file", "inspect", "x" * 5000),
        ("There is no file", "inspect", "a\0b"),
        ("There is no folder", "list", tmp_path / "missing"),
        ("is a file, not a folder; 'vae-manager inspect'", "list", vae),
        ("cannot be used", "inspect", text),
        ("not a picture", "encode", text, "-o", latent, "--vae", vae),
        ("not a picture", "encode", cut, "-o", latent, "--vae", vae),
        ("There is no picture", "encode", tmp_path / "no.png", "-o", latent, "--vae", vae),
        ("There is no latent file", "decode", tmp_path / "no", "-o", out, "--vae", vae),
        ("no latent file", "decode", vae, "-o", out, "--vae", vae),
        ("another family", "decode", latent, "-o", out, "--vae", flux),
        ("model failed before", "decode", nan, "-o", out, "--vae", vae),
        ("cannot be written", "decode", latent, "-o", tmp_path / "o.xyz", "--vae", vae),
        ("is no amount of memory", "decode", latent, "-o", out, "--vae", vae, "--memory-limit", "much"),
        ("needs --mode exact", "decode", latent, "-o", out, "--vae", vae, "--mode", "whole", "--memory-limit", "1GB"),
        ("memory", "decode", latent, "-o", out, "--vae", vae, "--memory-limit", "1kB"),
        ("There is no device", "decode", latent, "-o", out, "--vae", vae, "--device", "cuda:99"),
        ("There is no folder", "decode", latent, "-o", tmp_path / "no" / "o.png", "--vae", vae),
    ):
        assert sentence in refusal(capsys, *arguments)
    assert not out.exists()


def test_as_a_module_with_a_real_exit_status(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "vae_manager", "list", tmp_path, "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


def test_encode_says_what_it_reads_of_sixteen_bit_colours(write_vae, tmp_path: Path, capsys):
    vae, latent = write_vae("v.safetensors"), tmp_path / "z.safetensors"
    pixels = torch.rand(1, 3, 16, 24) * 2 - 1
    save_picture(tmp_path / "deep.png", pixels, bits=16)
    save_picture(tmp_path / "plain.png", pixels)
    Image.fromarray(np.full((16, 16), 40000, np.uint16)).save(tmp_path / "grey.png")
    found = run(capsys, "encode", tmp_path / "deep.png", "-o", latent, "--vae", vae)
    assert found["note"].startswith("Of the 16 bits that each colour has in") and "deep.png" in found["note"]
    for name in ("plain.png", "grey.png"):
        assert "note" not in run(capsys, "encode", tmp_path / name, "-o", latent, "--vae", vae)
    assert main(["encode", str(tmp_path / "deep.png"), "-o", str(latent), "--vae", str(vae)]) == 0
    assert "the upper 8 were read" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_of_a_command_ends_with_an_example_that_can_be_read(name: str, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([name, "-h"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    words = last.partition("Example: vae-manager ")[2].split()
    assert words[0] == name and _parser().parse_args(words).command == name


def test_every_command_has_an_example():
    groups = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert set(groups[0].choices) == set(EXAMPLES)
