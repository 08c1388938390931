"""Interpolation between latents: exact ends, even steps, and one sentence where nothing lies between."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from vae_manager.cli import main
from vae_manager.codec.latents import Latent, load_latent, save_latent
from vae_manager.commands.interpolate import lerp, slerp


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path in paths:
        save_latent(path, Latent(torch.randn(1, 4, 6, 5), "sd1", 0.18215, (40, 47)))
    return paths


def run(capsys, *arguments: object) -> dict:
    assert main(["interpolate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("method", ["linear", "spherical"])
def test_a_folder_of_numbered_latents_with_exact_ends(pair, tmp_path: Path, capsys, method: str):
    done = run(capsys, *pair, "-o", tmp_path / "way", "--steps", 11, "--method", method)
    assert [Path(path).name for path in done["outputs"]] == [f"{number:02d}.safetensors" for number in range(11)]
    latents = [load_latent(Path(path)) for path in done["outputs"]]
    first, last = (load_latent(path) for path in pair)
    assert torch.equal(latents[0].z, first.z) and torch.equal(latents[-1].z, last.z)
    assert {(found.family, found.scale_factor, found.size) for found in latents} == {("sd1", 0.18215, (40, 47))}
    steps = torch.stack([(b.z - a.z).norm() for a, b in itertools.pairwise(latents)])
    assert steps.max() / steps.min() < 1.15  # even, where the two are about as long


def test_one_batch(pair, tmp_path: Path, capsys):
    done = run(capsys, *pair, "-o", tmp_path / "all.safetensors", "--steps", 3)
    assert done["outputs"] == [str(tmp_path / "all.safetensors")]
    first, last = (load_latent(path).z for path in pair)
    found = load_latent(tmp_path / "all.safetensors").z
    torch.testing.assert_close(found, torch.cat([first, (first + last) / 2, last]))


def test_the_arc_keeps_the_length_and_the_line_does_not():
    a, b = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    a[..., 0], b[..., 1] = 2.0, 2.0
    assert slerp(a, b, 0.5).norm() == pytest.approx(2.0) and lerp(a, b, 0.5).norm() == pytest.approx(math.sqrt(2))
    third = slerp(a, b, 1 / 3).flatten().tolist()
    assert third == pytest.approx([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)])


def test_where_there_is_no_arc_the_line_is_taken():
    a = torch.ones(2, 1, 2, 2)
    for b in (a.clone(), 3 * a, -a, torch.zeros_like(a)):
        torch.testing.assert_close(slerp(a, b, 0.25), torch.lerp(a, b, 0.25))
    b = a.clone()
    b[1, 0, 0, 0] = -5.0  # each picture of a batch goes its own way
    torch.testing.assert_close(slerp(a, b, 0.5)[0], a[0])
    assert not torch.allclose(slerp(a, b, 0.5)[1], torch.lerp(a, b, 0.5)[1])


def test_what_has_nothing_between_is_refused(pair, tmp_path: Path, capsys):
    a, _ = pair
    save_latent(tmp_path / "other.safetensors", Latent(torch.zeros(1, 16, 6, 5), "flux"))
    save_latent(tmp_path / "xl.safetensors", Latent(torch.zeros(1, 4, 6, 5), "sdxl"))
    save_latent(tmp_path / "scale.safetensors", Latent(torch.zeros(1, 4, 6, 5), "unknown", 0.5))
    (tmp_path / "file").touch()
    for said, *arguments in (
        ("the shapes [1, 4, 6, 5] and [1, 16, 6, 5]", a, tmp_path / "other.safetensors", "-o", tmp_path / "o"),
        ("are of Stable Diffusion 1.x and 2.x and of SDXL", a, tmp_path / "xl.safetensors", "-o", tmp_path / "o"),
        ("different scale factors", a, tmp_path / "scale.safetensors", "-o", tmp_path / "o"),
        ("There is no latent file", a, tmp_path / "no", "-o", tmp_path / "o"),
        ("--steps must be 2 to", a, a, "-o", tmp_path / "o", "--steps", "1"),
        ("is a file; give a folder", a, a, "-o", tmp_path / "file"),
    ):
        assert main(["interpolate", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert said in err and err.count("\n") == 1 and not out
    assert not (tmp_path / "o").exists()
