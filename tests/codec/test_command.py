"""`encode`, `decode` and `bench` on the command line: what is streamed, and what is said where it cannot be."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.codec.streaming_vaes import scaled_weights
from vae_manager.cli import main
from vae_manager.codec.kinds.tiny.network import TinyAutoencoder, TinyConfig, build_taesd
from vae_manager.codec.latents import Latent, save_latent
from vae_manager.commands import bench
from vae_manager.latents.spaces import title_of

SMALL = TinyConfig(4, (8, 8, 8, 8), (1, 1, 1, 1))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    vae = TinyAutoencoder(SMALL, SMALL)
    scaled_weights(vae, 1)
    save_file(vae.state_dict(), str(tmp_path / "taesd.safetensors"))
    return tmp_path / "taesd.safetensors"


@pytest.mark.parametrize("mode", ["auto", "exact", "whole"])
def test_a_tiny_vae_is_streamed_to_the_same_pixels(tiny: Path, tmp_path: Path, capsys, mode: str) -> None:
    z = torch.randn(1, 4, 7, 5, generator=torch.Generator().manual_seed(1))
    save_latent(tmp_path / "z.safetensors", Latent(z, "taesd"))
    out = tmp_path / "out.safetensors"
    arguments = ["decode", str(tmp_path / "z.safetensors"), "-o", str(out), "--vae", str(tiny), "--mode", mode]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mode"] == ("whole" if mode == "whole" else "exact")
    expected = build_taesd(load_file(str(tiny))).decode(z)
    assert (next(iter(load_file(str(out)).values())) - expected).abs().max() < 0.005 * 2 / 255  # of an 8-bit level


@pytest.mark.parametrize(("theirs", "code"), [("sdxl", 2), ("sd3", 2), ("sd1", 0), ("unknown", 0), ("wan", 2)])
def test_a_latent_that_names_another_family_is_refused(
    tmp_path: Path, write_vae, capsys, theirs: str, code: int
) -> None:
    """SD1's and SDXL's latents have the same shape: only the label tells them apart."""
    vae, z = write_vae("sd1.safetensors", scale_factor="0.18215"), tmp_path / "z.safetensors"
    save_latent(z, Latent(torch.randn(1, 4, 2, 2), theirs))
    assert main(["decode", str(z), "-o", str(tmp_path / "o.png"), "--vae", str(vae)]) == code
    assert (tmp_path / "o.png").exists() == (code == 0)
    error = capsys.readouterr().err
    if code:
        assert f"says that it is {title_of(theirs)}'s, and the VAE is Stable Diffusion 1.x" in error
        assert z.name in error and error.count("\n") == 1 and "use a VAE of the latent's family" in error


def test_a_limit_that_is_too_small_is_one_sentence(tiny: Path, tmp_path: Path, capsys) -> None:
    save_latent(tmp_path / "z.safetensors", Latent(torch.randn(1, 4, 64, 64), "taesd"))
    arguments = ["decode", str(tmp_path / "z.safetensors"), "-o", str(tmp_path / "o.npy"), "--vae", str(tiny)]
    assert main([*arguments, "--memory-limit", "1MB"]) == 2
    error = capsys.readouterr().err
    assert "at least" in error and error.count("\n") == 1


def test_an_installed_package_has_no_benchmarks_and_says_so(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "site-packages" / "vae_manager" / "commands" / "bench.py"))
    assert main(["bench", "tiling"]) == 2
    assert "a checkout of the source" in capsys.readouterr().err


@pytest.mark.parametrize("subject", bench.SUBJECTS)
def test_every_benchmark_takes_the_options_that_it_is_registered_with(subject: str, capsys) -> None:
    """The command and the script know the same options, and bad input is one sentence."""
    module = importlib.import_module(f"benchmarks.{subject}")
    parser = argparse.ArgumentParser()
    bench.SUBJECTS[subject][1](parser)
    assert callable(module.measure) and set(vars(parser.parse_args([])))
    assert main(["bench", subject, "-h"]) == 0 and main(["bench", subject, "--no-such-option"]) == 2
    assert bench.SUBJECTS[subject][0] in capsys.readouterr().out


def test_benchmarks_refuse_bad_input_in_one_sentence(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("WEBUI_DIR", raising=False)
    for said, *arguments in (
        ("--webui or WEBUI_DIR", "swap"),
        ("--webui or WEBUI_DIR", "swap", "--webui", str(tmp_path)),
        ("There is no colour set", "color", "--set", str(tmp_path)),
    ):
        assert main(["bench", *arguments, "--json"]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1


def test_bench_library_measures_a_few_files(capsys) -> None:
    assert main(["bench", "--json", "library", "--files", "8", "--megabytes", "1", "--rounds", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["list"]["rows"] == 8 and found["match --all"]["rows"] == 8 and found["hashing"]["ours"] > 0
