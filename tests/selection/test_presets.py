"""Presets stay with their checkpoint, and none is ever lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.selection.conftest import World
from vae_manager.errors import BadInputError
from vae_manager.selection.checkpoint import open_checkpoint
from vae_manager.selection.preset_file import entry_of
from vae_manager.selection.presets import Owner, Preset, Presets, VaeWish

SOFT = Preset(
    VaeWish("soft.vae.pt", "a" * 64), VaeWish("Baked"), said={"decode": "exact", "color": "auto", "color_strength": 0.5}
)
BY_HAND = Preset(said={"color": "manual", "contrast": 1.2, "brightness": 0.0, "saturation": 0.0})


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    return Presets(tmp_path / "presets.json")


def test_a_preset_comes_back_as_it_was_saved(world: World, presets: Presets):
    checkpoint = world.open(world.checkpoint("a.safetensors"))
    assert presets.find(checkpoint) is None
    for preset in (BY_HAND, SOFT):
        presets.save(checkpoint, preset)
        found = Presets(presets.path).find(checkpoint)
        assert found and found.preset == preset
    other = world.open(world.checkpoint("b.safetensors", seed=1))
    assert presets.find(other) is None
    presets.save(checkpoint, Preset(said={"decode": "host"}))
    found = presets.find(checkpoint)
    assert found and found.preset == Preset(said={"decode": "host"}) and len(presets.all()) == 1
    presets.remove(checkpoint)
    assert presets.find(checkpoint) is None


@pytest.mark.parametrize("hashed", [True, False])
def test_a_renamed_file_keeps_its_preset(world: World, presets: Presets, hashed: bool):
    path = world.checkpoint("a.safetensors")
    presets.save(world.open(path, thorough=hashed), SOFT)
    moved = path.with_name("moved") / "b.safetensors"
    moved.parent.mkdir()
    path.rename(moved)
    found = presets.find(world.open(moved))
    assert found and found.preset == SOFT and found.how == "a quick look at its content"
    checkpoint = world.open(moved, thorough=True)
    checkpoint.sha256()
    found = presets.find(checkpoint)
    assert found and found.how == ("its sha256" if hashed else "a quick look at its content")


def test_a_file_replaced_under_its_name_keeps_the_preset_of_the_name(world: World, presets: Presets):
    presets.save(world.open(world.checkpoint("a.safetensors")), SOFT)
    found = presets.find(world.open(world.checkpoint("a.safetensors", seed=5)))
    assert found and found.preset == SOFT and "another now" in found.how


def test_the_same_file_name_in_two_folders_is_two_models(world: World, presets: Presets):
    presets.save(world.open(world.checkpoint("x/model.safetensors")), SOFT)
    assert presets.find(world.open(world.checkpoint("y/model.safetensors", seed=1))) is None
    assert presets.find(world.open(world.checkpoint("z/model.safetensors"))) is not None  # a copy


def test_another_hash_says_no_where_the_quick_look_says_yes(world: World, presets: Presets):
    path = world.checkpoint("a.safetensors")
    presets.save(world.open(path, thorough=True), SOFT)
    document = json.loads(presets.path.read_text())
    document["presets"][0]["checkpoint"]["sha256"] = "f" * 64
    presets.path.write_text(json.dumps(document))
    moved = path.rename(path.with_name("b.safetensors"))
    checkpoint = world.open(moved, thorough=True)
    checkpoint.sha256()
    assert presets.find(checkpoint) is None


def test_remembering_never_replaces_what_was_saved(world: World, presets: Presets):
    checkpoint = world.open(world.checkpoint("a.safetensors"))
    assert presets.remember(checkpoint, Preset(VaeWish("x")))
    assert not presets.remember(checkpoint, Preset(VaeWish("x")))
    assert presets.remember(checkpoint, Preset(VaeWish("y")))
    presets.save(checkpoint, SOFT)
    assert not presets.remember(checkpoint, Preset(VaeWish("z")))
    found = presets.find(checkpoint)
    assert found and found.preset == SOFT


@pytest.mark.parametrize(
    ("card", "vae"),
    [
        ('{"vae": "soft.vae.pt"}', "soft.vae.pt"),
        ('{"vae": "None"}', "None"),
        ('{"vae": "Automatic"}', None),
        ('{"vae": 5}', None),
        ('{"description": "x"}', None),
        ("[]", None),
        ("{", None),
        ("[" * 100_000, None),
    ],
)
def test_a1111s_card_becomes_a_preset(world: World, presets: Presets, card: str, vae: str | None):
    path = world.checkpoint("a.safetensors")
    path.with_suffix(".json").write_text(card)
    assert presets.import_card(world.open(path)) is (vae is not None)
    found = presets.find(world.open(path))
    assert (found.preset.vae.name if found else None) == vae
    assert presets.import_card(world.open(path)) is False


def test_export_and_import_as_one_file(world: World, presets: Presets, tmp_path: Path):
    first, second = (world.open(world.checkpoint(f"{name}.safetensors", seed=i)) for i, name in enumerate("ab"))
    presets.save(first, SOFT)
    presets.save(second, Preset(said={"decode": "host"}))
    assert presets.export_to(tmp_path / "all.json") == 2
    theirs = Presets(tmp_path / "theirs.json")
    theirs.save(first, Preset(said={"color": "off"}))
    assert theirs.import_from(tmp_path / "all.json") == 1
    found = theirs.find(first)
    assert found and found.preset == Preset(said={"color": "off"}) and theirs.find(second)
    assert theirs.import_from(tmp_path / "all.json", replace_own=True) == 2
    found = theirs.find(first)
    assert found and found.preset == SOFT and len(theirs.all()) == 2
    for bad in ("{", "[]", "{}", '{"presets": 1}'):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(BadInputError, match="no file of presets"):
            theirs.import_from(tmp_path / "bad.json")
    assert len(theirs.all()) == 2


def test_entries_of_a_later_version_survive_a_save(world: World, presets: Presets):
    later = {"checkpoint": {"fingerprint": 1}, "mood": "blue"}
    presets.path.write_text(json.dumps({"version": 1, "presets": [later, 5], "extra": True}))
    presets.save(world.open(world.checkpoint("a.safetensors")), SOFT)
    document = json.loads(presets.path.read_text())
    assert document["presets"][:2] == [later, 5] and document["extra"] and len(document["presets"]) == 3


# --- nothing is lost


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["presets", "checkpoint", "name", "vae", "sha256", "tiling", "version"]), inner),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_in_the_file_is_kept_somewhere(tmp_path: Path, content: bytes):
    folder = tmp_path / str(time.monotonic_ns())
    folder.mkdir()
    model = folder / "m.ckpt"
    model.write_bytes(b"x")
    presets = Presets(folder / "presets.json")
    presets.path.write_bytes(content)
    checkpoint = open_checkpoint(model)
    presets.find(checkpoint)
    presets.save(checkpoint, SOFT)
    found = presets.find(checkpoint)
    assert found and found.preset == SOFT
    aside = [path.read_bytes() for path in folder.glob("presets.json.unreadable-*")]
    if content not in aside:
        old = json.loads(content)  # it was a document of ours, so every entry is still in it
        new = json.loads(presets.path.read_text())
        assert old is None or all(repr(entry) in map(repr, new["presets"]) for entry in old.get("presets", []))


def _save_many(folder: str, first: int, count: int) -> None:
    for number in range(first, first + count):
        model = Path(folder, f"model-{number}.ckpt")
        model.write_bytes(str(number).encode())
        Presets(Path(folder, "presets.json")).save(open_checkpoint(model), Preset(VaeWish(f"vae-{number}")))


def test_two_processes_at_once_lose_nothing(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_save_many, args=(str(tmp_path), 100 * i, 12)) for i in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    found = Presets(tmp_path / "presets.json").all()
    assert len(found) == 24 and {preset.vae.name for _, preset in found} == {
        f"vae-{number}" for first in (100, 200) for number in range(first, first + 12)
    }


SAVER = """
import sys
from pathlib import Path
from vae_manager.selection.checkpoint import open_checkpoint
from vae_manager.selection.presets import Owner, Preset, Presets, VaeWish
presets, checkpoint = Presets(Path(sys.argv[1])), open_checkpoint(Path(sys.argv[2]))
print("ready", flush=True)
number = 0
while True:
    number += 1
    presets.save(checkpoint, Preset(VaeWish("x" * 400 + str(number))))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_kill_in_mid_save_leaves_the_old_or_the_new_file(tmp_path: Path):
    model, path = tmp_path / "m.ckpt", tmp_path / "presets.json"
    model.write_bytes(b"x")
    other = tmp_path / "other.ckpt"
    other.write_bytes(b"y")
    presets = Presets(path)
    presets.save(open_checkpoint(other), SOFT)
    for delay in (0.0, 0.003, 0.011, 0.02, 0.05):
        command = [sys.executable, "-c", SAVER, str(path), str(model)]
        saver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert saver.stdout and saver.stdout.readline() == "ready\n"
            time.sleep(delay)
        finally:
            os.kill(saver.pid, signal.SIGKILL)
            saver.wait()
        found = Presets(path).find(open_checkpoint(other))
        assert found and found.preset == SOFT
        json.loads(path.read_text())
        presets.save(open_checkpoint(model), SOFT)  # the dead process's lock is gone
    assert not list(tmp_path.glob("*.unreadable-*"))


def test_remove_one_of_two_with_one_name(world: World, tmp_path: Path):
    """Two checkpoints of one name in two folders of one name: each is removed by itself, what is strange stays."""
    path = tmp_path / "presets.json"
    strange = {"from": "a later version"}
    entries = [{"checkpoint": {"name": "a.ckpt", "print": digit * 32}, "vae": digit} for digit in "ab"]
    path.write_text(json.dumps({"version": 1, "presets": [*entries, {"checkpoint": {"name": "a.ckpt"}}, strange]}))
    presets = Presets(path)
    assert [owner.print for owner, _ in presets.all()] == ["a" * 32, "b" * 32, None]
    assert presets.remove_owner(Owner("a.ckpt")) and not presets.remove_owner(Owner("a.ckpt"))
    assert presets.remove_owner(presets.all()[0][0])
    assert json.loads(path.read_text())["presets"] == [entries[1], strange]


def test_an_entry_without_a_name_is_kept_when_the_file_is_written_again(tmp_path: Path):
    path = tmp_path / "presets.json"
    entry = {"checkpoint": {"name": "", "print": "a" * 32}, "vae": "a"}
    path.write_text(json.dumps({"version": 1, "presets": [entry]}))
    exported = [entry_of(*found) for found in Presets(path).all()]
    assert exported == [entry]
