"""`presets` on the command line: what is kept, as one file, and from A1111's cards."""

from __future__ import annotations

import json
from pathlib import Path

from tests.selection.conftest import World
from vae_manager.cli import main
from vae_manager.selection.presets import Preset, Presets, VaeWish


def run(capsys, *arguments: object, code: int = 0):
    assert main(["presets", *map(str, arguments), *(["--json"] if not code else [])]) == code
    out, err = capsys.readouterr()
    return err if code else json.loads(out)


def test_list_export_import_and_cards(world: World, tmp_path: Path, capsys):
    first, second = world.checkpoint("a.safetensors"), world.checkpoint("sub/b.safetensors", seed=2)
    ours, theirs, out = tmp_path / "ours.json", tmp_path / "theirs.json", tmp_path / "all.json"
    Presets(ours).save(world.open(first), Preset(VaeWish("soft"), said={"decode": "exact"}))
    second.with_suffix(".json").write_text('{"vae": "soft.vae.pt"}')
    assert run(capsys, "--presets", ours, "--import-cards", world.folder / "checkpoints") == {"imported": 1}
    assert run(capsys, "--presets", ours, "--import-cards", world.folder / "checkpoints") == {"imported": 0}
    assert run(capsys, "--presets", ours, "--export", out) == {"output": str(out), "presets": 2}
    assert run(capsys, "--presets", theirs, "--import", out) == {"imported": 2}
    listed = run(capsys, "--presets", theirs)
    assert [(entry["checkpoint"]["name"], entry["vae"]) for entry in listed] == [
        ("a.safetensors", "soft"),
        ("sub/b.safetensors", "soft.vae.pt"),
    ]
    assert listed[0]["tiling"] == "exact" and run(capsys, "--presets", theirs, "--import", out) == {"imported": 0}
    assert run(capsys, "--presets", theirs, "--import", out, "--replace") == {"imported": 2}
    assert main(["presets", "--presets", str(ours)]) == 0
    assert capsys.readouterr().out == "a.safetensors: soft, tiling exact\nsub/b.safetensors: soft.vae.pt\n"


def test_bad_input_is_one_sentence(world: World, tmp_path: Path, capsys):
    ours, bad = tmp_path / "ours.json", tmp_path / "bad.json"
    Presets(ours).save(world.open(world.checkpoint("a.safetensors")), Preset(VaeWish("soft")))
    before = ours.read_bytes()
    bad.write_text("{")
    for said, *arguments in (
        ("There is no file of presets", "--import", tmp_path / "no.json"),
        ("is no file of presets; name one that", "--import", bad),
        ("cannot be read: it is no ordinary file", "--import", tmp_path),
        ("There is no folder", "--import-cards", tmp_path / "no"),
        ("one thing at a time", "--import", bad, "--export", bad),
        ("the presets' own file", "--export", ours),
        ("the presets' own file", "--import", ours),
    ):
        err = run(capsys, "--presets", ours, *arguments, code=2)
        assert said in err and err.count("\n") == 1
    assert ours.read_bytes() == before
