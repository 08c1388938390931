"""`match` on the command line: JSON as published, one sentence for bad input, hundreds of files at once."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.selection.conftest import SD1, World
from vae_manager.cli import main
from vae_manager.codec.kinds.kl.config import KLConfig, expected_shapes
from vae_manager.selection.checkpoint import open_checkpoint
from vae_manager.selection.presets import Preset, Presets, VaeWish


@pytest.fixture
def run(capsys):
    def run_(*arguments: object, code: int = 0):
        assert main(["match", *map(str, arguments)]) == code
        out, err = capsys.readouterr()
        return err if code else json.loads(out) if "--json" in arguments else out

    return run_


@pytest.fixture
def disk(world: World) -> World:
    world.vae("soft.safetensors", metadata=SD1)
    world.checkpoint("realistic.safetensors")
    return world


def test_one_checkpoint(disk: World, run):
    path = disk.folder / "checkpoints" / "realistic.safetensors"
    found = run(path, "--vae-dir", disk.folder / "VAE", "--prompt", "a cat <vae:soft>", "--json")
    assert found["vae"] == str(disk.folder / "VAE" / "soft.safetensors")
    assert (found["source"], found["reason"]) == ("prompt", "the prompt asks for soft.safetensors")
    assert found["trace"][0] == {"step": "prompt", "outcome": "chosen", "detail": found["reason"]}
    assert {"tiling", "color", "warnings", "advice"} <= set(found) and len(found["trace"]) == 9
    assert run(path, "--json")["vae"] == "baked"
    assert "realistic.safetensors (Stable Diffusion 1.x and 2.x): baked — the VAE baked" in run(path)


def test_rules_and_presets_from_files(disk: World, run, tmp_path: Path):
    path, vaes = disk.folder / "checkpoints" / "realistic.safetensors", disk.folder / "VAE"
    rules = tmp_path / "my-rules.json"
    rules.write_text(
        '{"version": 1, "rules": [{"name": "r", "when": {"name": "real*"}, "vae": "soft", "color": "off"}]}'
    )
    found = run(path, "--vae-dir", vaes, "--rules", rules, "--json")
    assert found["reason"] == "rule 1 'r' matched (name 'real*')" and found["color"] == "off"
    presets = Presets(tmp_path / "my-presets.json")
    presets.save(open_checkpoint(path), Preset(VaeWish("soft"), said={"decode": "exact"}))
    found = run(path, "--vae-dir", vaes, "--rules", rules, "--presets", presets.path, "--json")
    assert (found["source"], found["tiling"], found["color"]) == ("preset", "exact", "off")


@pytest.mark.parametrize("others", [[], [{"name": "good", "when": {}, "vae": "soft", "tiling": "exact"}]])
def test_a_bad_rule_is_left_out_and_said_and_everything_else_works(disk: World, run, tmp_path: Path, others: list):
    """Also where no other rule is in the file: 'this rule is left out' is what is meant."""
    rules = tmp_path / "my-rules.json"
    rules.write_text(json.dumps({"version": 1, "rules": [{"name": "bad", "when": {}}, *others]}))
    path = disk.folder / "checkpoints" / "realistic.safetensors"
    arguments = [path, "--vae-dir", disk.folder / "VAE", "--rules", rules]
    found = run(*arguments, "--json")
    said = "In my-rules.json, rule 1 'bad', field 'vae' must be text of 1 to 500 characters. This rule is left out."
    assert found["warnings"] == [said] and f"! {said}" in run(*arguments)
    assert found["source"] == ("rules" if others else "baked") and found["tiling"] == ("exact" if others else None)
    assert f"! {said}" in run("--all", path.parent, *arguments[1:])


def test_the_rules_of_the_users_folder_count(disk: World, run, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("VAE_MANAGER_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "rules.json").write_text('{"version": 1, "rules": [{"when": {}, "vae": "soft"}, 5]}')
    path = disk.folder / "checkpoints" / "realistic.safetensors"
    found = run(path, "--vae-dir", disk.folder / "VAE", "--json")
    assert found["source"] == "rules" and found["warnings"] == [
        "In rules.json, rule 2, it must be an object. This rule is left out."
    ]


def test_a_damaged_baked_vae_is_found_once_and_remembered(disk: World, run):
    path = disk.checkpoint("bad.safetensors")
    _spoil(path)
    disk.vae("vae-ft-mse-840000.safetensors", metadata=SD1)
    found = run(path, "--vae-dir", disk.folder / "VAE", "--json")
    assert found["source"] == "default" and "holds NaN or infinite values" in found["warnings"][0]
    every = run("--all", path.parent, "--vae-dir", disk.folder / "VAE", "--json")
    assert {Path(row["checkpoint"]).stem: row["source"] for row in every} == {"bad": "default", "realistic": "baked"}


def _spoil(path: Path) -> None:
    """Put a NaN into the file's last tensor."""
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(struct.pack("<f", float("nan")))


def test_the_dry_run_is_a_table_and_passes_other_files_over(disk: World, run):
    disk.checkpoint("sub/other.safetensors", "sdxl", baked=False)
    (disk.folder / "checkpoints" / "broken.safetensors").write_bytes(b"x")
    (disk.folder / "checkpoints" / "soft.vae.safetensors").write_bytes(b"x")
    text = run("--all", disk.folder)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines] == [
        "checkpoints/broken.safetensors", "checkpoints/realistic.safetensors", "checkpoints/sub/other.safetensors",
    ]  # fmt: skip
    assert "none found" in lines[0] and "cannot be read: the file is 1 bytes long" in str(
        run("--all", disk.folder, "--json")
    )
    assert "none found" in lines[2] and "no VAE for SDXL" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.safetensors"], "There is no file 'nowhere.safetensors'"),
        ([], "a checkpoint file, or --all"),
        (["--all", "nowhere"], "There is no folder 'nowhere'"),
        (["CHECKPOINT", "--vae-dir", "nowhere"], "There is no folder 'nowhere'"),
        (["CHECKPOINT", "--rules", "nowhere"], "There is no rules file 'nowhere'"),
        (["CHECKPOINT", "--presets", "nowhere"], "There is no file of presets 'nowhere'"),
        (["CHECKPOINT", "--rules", "VAE"], "The rules file soft.safetensors is not valid JSON"),
        (["VAE"], "is a VAE, not a checkpoint"),
        (["BAD"], "cannot be used"),
    ],
)
def test_bad_input_is_one_sentence(disk: World, run, tmp_path: Path, arguments: list[str], said: str):
    bad = tmp_path / "bad.safetensors"
    bad.write_text('{"version": 1, "rules": [{"when": {}}]}')
    paths = {
        "CHECKPOINT": disk.folder / "checkpoints" / "realistic.safetensors",
        "VAE": disk.folder / "VAE" / "soft.safetensors",
        "BAD": bad,
    }
    err = run(*(paths.get(argument, argument) for argument in arguments), code=2)
    assert said in err and err.count("\n") == 1


def test_hundreds_of_files_cost_little_more_than_reading_their_headers(tmp_path: Path, run, capsys):
    """Sparse files of real size with true headers; held against what Python's own JSON takes for them, just now."""
    vae = expected_shapes(KLConfig())
    unet = {f"model.diffusion_model.block.{number}.weight": (1280, 1280) for number in range(800)}
    for number in range(300):
        inner = {f"first_stage_model.{name}": shape for name, shape in vae.items()} if number % 2 else {}
        shapes = {**unet, "cond_stage_model.x": (768,), **inner}
        _sparse(tmp_path / "models" / f"model-{number}.safetensors", shapes, "F16")
        _sparse(tmp_path / "VAE" / f"vae-{number}.safetensors", vae, "F32")
    _sparse(tmp_path / "VAE" / "vae-ft-mse-840000-ema-pruned.safetensors", vae, "F32")
    arguments = ("--all", tmp_path / "models", "--vae-dir", tmp_path / "VAE", "--json")
    kept = {name: [_header(path) for path in (tmp_path / name).iterdir()] for name in ("VAE", "models")}

    def measured(work: Callable[[], object]) -> float:
        begun = time.process_time()  # not the clock's: other work shares the computer
        work()
        return time.process_time() - begun

    plain = {name: measured(lambda: [json.loads(header) for header in kept[name]]) for name in kept}  # noqa: B023
    assert measured(lambda: main(["list", str(tmp_path / "VAE")])) < plain["VAE"], "with nothing known before"
    assert capsys.readouterr().out.count("fp32") == 301
    rows = run(*arguments)
    assert len(rows) == 300 and sum(row["source"] == "default" for row in rows) == 150
    taken = measured(lambda: rows.append(run(*arguments) == rows))
    assert rows.pop() is True and taken < plain["VAE"] + plain["models"], "once the headers are known"


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def _sparse(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    path.parent.mkdir(exist_ok=True)
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + {"F16": 2, "F32": 4}[dtype] * _product(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
