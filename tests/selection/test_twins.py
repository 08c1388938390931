"""The baked VAE named by the user's own file that holds the same weights."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import make_state
from tests.selection.conftest import TINY, World
from vae_manager.cli import main
from vae_manager.library import digest
from vae_manager.library.files import vae_file
from vae_manager.selection.choose import Wishes, choose
from vae_manager.selection.examiner import Examiner
from vae_manager.selection.twins import baked_twin


@pytest.fixture
def model(world: World) -> Path:
    """Seed 2 is baked in; beside it lie another VAE, one that differs in a single other tensor, and the same in
    half precision under a name that tells nothing."""
    world.vae("a-other.safetensors", seed=1)
    state = make_state(TINY, 2)
    almost = state | {"encoder.conv_in.bias": state["encoder.conv_in.bias"] + 0.5}
    save_file(almost, str(world.folder / "VAE" / "b-almost.safetensors"))
    torch.save({"state_dict": {k: t.half() for k, t in state.items()}}, world.folder / "VAE" / "c-renamed.vae.pt")
    return world.checkpoint("model.safetensors", seed=2)


def test_a_thorough_look_finds_the_same_weights_in_another_file(world: World, model: Path):
    thorough = world.open(model, thorough=True)
    twin = baked_twin(thorough, world.files().files)
    assert twin is not None and twin.name == "c-renamed.vae.pt"
    decision = choose(Wishes(checkpoint=thorough), world.files())
    assert decision.reason == "the VAE baked into the checkpoint, which has the same weights as c-renamed.vae.pt"
    asked = choose(Wishes("Baked", checkpoint=thorough), world.files())
    assert asked.reason.endswith("has the same weights as c-renamed.vae.pt")


def test_a_quick_look_reads_nothing_and_says_what_the_examiner_found(world: World, model: Path, monkeypatch):
    quick, files = world.open(model), world.files()
    with monkeypatch.context() as forbidden:
        forbidden.setattr(digest, "weights_digest", lambda *_, **__: pytest.fail("a job must not wait for this"))
        forbidden.setattr("vae_manager.selection.twins.open_tensors", lambda *_: pytest.fail("nor for this"))
        assert choose(Wishes(checkpoint=quick), files).reason == "the VAE baked into the checkpoint"
    examiner = Examiner(world.hashes, quick.cache)
    examiner.add(files.files, [quick.file])
    assert examiner.wait(60) and examiner.problems == {}
    with monkeypatch.context() as forbidden:
        forbidden.setattr(digest, "weights_digest", lambda *_, **__: pytest.fail("it is known now"))
        twin = baked_twin(quick, files.files)
        assert twin is not None and twin.name == "c-renamed.vae.pt"
        assert "same weights as c-renamed.vae.pt" in choose(Wishes(checkpoint=quick), files).reason


def test_files_that_were_replaced_deleted_or_spoilt_are_not_named(world: World, model: Path):
    thorough, listed = world.open(model, thorough=True), world.files().files
    path = world.folder / "VAE" / "c-renamed.vae.pt"
    assert baked_twin(thorough, listed) is not None
    torch.save({"state_dict": make_state(TINY, 9)}, path)
    os.utime(path, ns=(1, 1))
    assert baked_twin(thorough, listed) is None  # the old list, a new file
    assert baked_twin(thorough, world.files().files) is None
    path.unlink()
    assert baked_twin(thorough, listed) is None
    (world.folder / "VAE" / "a-broken.safetensors").write_bytes(b"\x10")
    save_file(load_file(model), str(world.folder / "VAE" / "d-whole.safetensors"))  # a checkpoint among the VAEs
    found = baked_twin(thorough, world.files().files)
    assert found is not None and found.name == "d-whole.safetensors"


def test_nothing_baked_has_no_twin(world: World):
    bare = world.checkpoint("bare.safetensors", baked=False, seed=2)
    world.vae("same.safetensors", seed=2)
    assert baked_twin(world.open(bare, thorough=True), world.files().files) is None
    with_vae = world.open(world.checkpoint("full.safetensors", seed=2), thorough=True)
    assert baked_twin(with_vae, ()) is None
    assert baked_twin(with_vae, [replace(vae_file(world.folder / "VAE" / "same.safetensors"), size=1)]) is None


def test_match_names_it(world: World, model: Path, capsys):
    vaes = world.folder / "VAE"
    assert main(["match", str(model), "--vae-dir", str(vaes), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["baked_same_as"] == str(vaes / "c-renamed.vae.pt")
    assert main(["match", "--all", str(model.parent), "--vae-dir", str(vaes)]) == 0  # remembered from the look before
    assert "same weights as c-renamed.vae.pt" in capsys.readouterr().out
