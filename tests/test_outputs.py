"""An output is never an input, and is written whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from vae_manager.cli import main
from vae_manager.codec.latents import Latent, save_latent
from vae_manager.codec.pictures import save_picture
from vae_manager.writing import save_tensors, write_whole


@pytest.fixture
def given(write_vae, tmp_path: Path) -> dict[str, Path]:
    """One input of each kind."""
    Image.new("RGB", (16, 16), "red").save(tmp_path / "p.png")
    save_latent(tmp_path / "z.safetensors", Latent(torch.randn(1, 4, 2, 2)))
    save_latent(tmp_path / "y.safetensors", Latent(torch.randn(1, 4, 2, 2)))
    (tmp_path / "map.json").write_text(json.dumps({"matrix": [[0.9, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0.9, 0]]}))
    names = {"p": "p.png", "z": "z.safetensors", "y": "y.safetensors", "map": "map.json"}
    vaes = {name: write_vae(f"{name}.safetensors", seed=seed) for seed, name in enumerate(("v", "w"))}
    return {**{key: tmp_path / name for key, name in names.items()}, **vaes}


COMMANDS = (
    ("encode p --vae v", "v"),
    ("decode z --vae v", "z v"),
    ("interpolate z y", "z y"),
    ("merge v w", "v w"),
    ("convert v", "v"),
    ("bake v --contrast 1.1", "v"),
    ("bake v --calibration map", "v"),
)


@pytest.mark.parametrize(("command", "targets"), COMMANDS)
def test_no_command_writes_over_what_it_reads(given, tmp_path: Path, capsys, command: str, targets: str):
    before = {name: path.read_bytes() for name, path in given.items()}
    call = [str(given.get(word, word)) for word in command.split()]
    for target in targets.split():
        (tmp_path / "sub").mkdir(exist_ok=True)
        for number, link in enumerate((os.symlink, os.link)):
            link(given[target], tmp_path / f"{target}-{number}.safetensors")
        for name in (
            given[target],
            tmp_path / "sub" / ".." / given[target].name,
            tmp_path / f"{target}-0.safetensors",
            tmp_path / f"{target}-1.safetensors",
        ):
            assert main([*call, "-o", str(name)]) == 2
            assert "overwrite" in capsys.readouterr().err
    assert {name: path.read_bytes() for name, path in given.items()} == before


def test_numbered_files_are_looked_at_too(given, tmp_path: Path, capsys):
    folder = tmp_path / "way"
    folder.mkdir()
    given["z"].rename(folder / "1.safetensors")
    before = (folder / "1.safetensors").read_bytes()
    assert main(["interpolate", str(folder / "1.safetensors"), str(given["y"]), "-o", str(folder)]) == 2
    assert "overwrite" in capsys.readouterr().err and [path.name for path in folder.iterdir()] == ["1.safetensors"]
    assert (folder / "1.safetensors").read_bytes() == before


def test_formats_are_refused_before_the_work(given, tmp_path: Path, capsys, monkeypatch):
    from vae_manager.commands import codec

    monkeypatch.setattr(codec, "load_vae", lambda args: pytest.fail("the VAE was read"))
    vae, out = ["--vae", str(given["v"])], tmp_path / "o"
    for call in (
        ["encode", given["p"], "-o", out.with_suffix(".png")],
        ["encode", given["p"], "-o", given["p"]],
        ["decode", given["z"], "-o", out.with_suffix(".xyz")],
        ["decode", given["z"], "-o", out.with_suffix(".jpg"), "--bits", "16"],
        ["decode", given["z"], "-o", tmp_path],
        ["decode", given["z"], "-o", out.with_suffix(".png"), "--memory-limit", "1e400"],
        ["decode", given["z"], "-o", out.with_suffix(".png"), "--device", "meta"],
        ["encode", given["p"], "-o", out.with_suffix(".safetensors"), "--seed", "9" * 23],
    ):
        assert main([*map(str, call), *vae]) == 2
        out_, err = capsys.readouterr()
        assert not out_ and err.count("\n") == 1
    os.mkfifo(tmp_path / "fifo.json")
    call = ["calibrate", given["z"], *vae, "--reference-vae", given["w"], "-o", tmp_path / "fifo.json"]
    assert main([*map(str, call)]) == 2 and "ordinary" in capsys.readouterr().err


def test_a_file_that_was_named_is_never_set_aside(given, tmp_path: Path, capsys):
    before = sorted(path.name for path in tmp_path.iterdir())
    for call in (
        ["presets", "--presets", given["v"]],
        ["presets", "--presets", given["map"]],
        ["presets", "--export", given["v"]],
        ["presets", "--export", given["map"]],
        ["presets", "--presets", given["map"], "--import", given["map"]],
        ["match", given["v"], "--presets", given["v"]],
        ["match", given["v"], "--rules", given["v"]],
    ):
        assert main([*map(str, call)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


FULL = """
import resource, sys
from pathlib import Path
import torch
from vae_manager.codec.latents import Latent, save_latent
from vae_manager.codec.pictures import save_picture
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
folder, failed = Path(sys.argv[1]), 0
pixels = torch.rand(1, 3, 64, 64)
for name, bits in (("a.npy", 8), ("a.png", 8), ("b.png", 16), ("a.safetensors", 8), ("a.jpg", 8), ("a.webp", 8)):
    try:
        save_picture(folder / name, pixels * 2 - 1, bits)
    except OSError as error:
        failed += error.filename == str(folder / name)
try:
    save_latent(folder / "z.safetensors", Latent(torch.rand(1, 4, 32, 32)))
except OSError as error:
    failed += 1
sys.exit(failed)
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path):
    """A limit of the file's size stands for the disk: the write fails in its midst just so."""
    (tmp_path / "a.png").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]


def test_links_and_permissions_stay(tmp_path: Path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_whole(link, lambda part: part.write_text("new"))
    assert link.is_symlink() and real.read_text() == "new" and real.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_names_that_are_not_utf_8(tmp_path: Path, given, capsys):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    save_tensors(folder / "t\udcfe.safetensors", {"a": torch.zeros(1)})
    save_picture(folder / "\udcfe.png", torch.zeros(1, 3, 8, 8))
    latent = folder / "z\udcfe.safetensors"
    assert main(["encode", str(folder / "\udcfe.png"), "-o", str(latent), "--vae", str(given["v"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(latent)
    assert main(["decode", str(latent), "-o", str(folder / "o.npy"), "--vae", str(given["v"])]) == 0
    assert len(list(folder.iterdir())) == 4
