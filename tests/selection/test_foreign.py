"""What a WebUI keeps of its own for a checkpoint becomes a preset, and never takes the place of one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vae_manager.cli import main
from vae_manager.library.files import Folder, find_vaes
from vae_manager.selection.checkpoint import open_checkpoint
from vae_manager.selection.foreign import foreign_presets, take_over
from vae_manager.selection.matcher import checkpoint_files
from vae_manager.selection.names import VaeIndex
from vae_manager.selection.presets import Preset, Presets, VaeWish

NEO = {
    "forge_preset": "xl",
    "forge_checkpoint_sd": "b.safetensors [0123456789]",
    "forge_additional_modules_sd": ["/elsewhere/soft.safetensors"],
    "sd_t2i_step": 99,
    "forge_checkpoint_xl": "sub\\b.safetensors [0123456789]",
    "forge_additional_modules_xl": ["/x/models/text_encoder/clip.safetensors", "/x/models/VAE/soft.safetensors"],
    "xl_t2i_sampler": "Euler a",
    "xl_t2i_scheduler": "Beta",
    "xl_t2i_step": 24,
    "xl_t2i_cfg": 4.5,
    "xl_t2i_width": 0,
    "xl_t2i_dcfg": 0,
    "xl_t2i_height": 1024,
    "xl_t2i_hr_step": True,
    "forge_checkpoint_flux": None,
    "forge_checkpoint_wan": "gone.safetensors",
}


@pytest.fixture
def kept(tmp_path: Path) -> Presets:
    return Presets(tmp_path / "presets.json")


@pytest.fixture
def webui(tmp_path: Path, write_vae) -> Path:
    """A WebUI's folder with two VAEs, and a text encoder among them."""
    write_vae("webui/models/VAE/soft.safetensors", seed=2)
    write_vae("webui/models/VAE/other.safetensors", seed=3)
    (tmp_path / "webui" / "models" / "VAE" / "clip.safetensors").write_bytes(b"\x10")
    return tmp_path / "webui"


def checkpoint(webui: Path, name: str, card: object = None) -> Path:
    path = webui / "models" / "Stable-diffusion" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": np.frombuffer(name.encode(), np.uint8)}, str(path))
    if card is not None:
        path.with_suffix(".json").write_text(json.dumps(card))
    return path


def look(webui: Path, kept: Presets, settings: dict | None = None) -> dict[str, tuple[str, dict, str]]:
    folder = webui / "models" / "Stable-diffusion"
    places = {path.relative_to(folder).as_posix(): path for path in checkpoint_files(folder)}
    index = VaeIndex(find_vaes([Folder(webui / "models" / "VAE")]))
    found = foreign_presets(places, open_checkpoint, index, settings or {}, kept)
    return {one.checkpoint.name: (one.preset.vae.name, dict(one.preset.page), one.source) for one in found}


@pytest.mark.parametrize(
    ("card", "vae"),
    [
        ({"vae": "soft.safetensors"}, "soft.safetensors"),
        ({"vae": "not here.pt"}, "not here.pt"),
        ({"vae": "None"}, "Baked"),
        ({"vae": "Automatic"}, None),
        ({"vae_te": ["clip.safetensors", "soft.safetensors"]}, "soft.safetensors"),
        ({"vae_te": ["Built in"], "vae": "soft.safetensors"}, "Baked"),
        ({"vae_te": ["clip.safetensors"]}, None),
        ({"vae_te": [], "vae": "soft"}, "soft.safetensors"),
        ({"vae_te": [3, None]}, None),
        ({"description": "x"}, None),
        ([], None),
    ],
)
def test_a_card(webui: Path, kept: Presets, card: object, vae: str | None):
    checkpoint(webui, "a.safetensors", card)
    assert look(webui, kept) == ({} if vae is None else {"a.safetensors": (vae, {}, "its card")})


def test_neos_presets_the_one_in_use_first(webui: Path, kept: Presets):
    checkpoint(webui, "sub/b.safetensors")
    page = {"sampler": "Euler a", "scheduler": "Beta", "steps": 24, "cfg": 4.5, "height": 1024}
    assert look(webui, kept, NEO) == {"sub/b.safetensors": ("soft.safetensors", page, "the WebUI's preset xl")}
    other = {**NEO, "forge_preset": "sd"}
    assert look(webui, kept, other)["sub/b.safetensors"] == ("soft.safetensors", {"steps": 99}, "the WebUI's preset sd")
    assert look(webui, kept, {"forge_checkpoint_sd": "b", "forge_additional_modules_sd": "soft"}) == {}


def test_a_name_that_fits_two_checkpoints_means_neither(webui: Path, kept: Presets):
    checkpoint(webui, "sub/b.safetensors")
    checkpoint(webui, "other/b.safetensors")
    settings = {"forge_checkpoint_sd": "b.safetensors", "forge_additional_modules_sd": ["soft.safetensors"]}
    assert look(webui, kept, settings) == {}


def test_a_preset_of_the_users_own_stays(webui: Path, kept: Presets):
    path = checkpoint(webui, "a.safetensors", {"vae": "soft.safetensors"})
    checkpoint(webui, "c.safetensors", {"vae": "other.safetensors"})
    folder = webui / "models" / "Stable-diffusion"
    index = VaeIndex(find_vaes([Folder(webui / "models" / "VAE")]))
    places = {name: folder / name for name in ("a.safetensors", "c.safetensors")}
    found = foreign_presets(places, open_checkpoint, index, {}, kept)
    assert len(found) == 2 and kept.all() == ()
    mine = Preset(VaeWish("mine"))
    kept.save(open_checkpoint(path, "a.safetensors"), mine)  # while they are looked at
    assert take_over(found, kept) == 1
    assert {owner.name: preset.vae.name for owner, preset in kept.all()} == {
        "a.safetensors": "mine",
        "c.safetensors": "other.safetensors",
    }
    assert look(webui, kept) == {}


def test_the_command_shows_first_and_changes_nothing_then(webui: Path, tmp_path: Path, capsys):
    checkpoint(webui, "a.safetensors", {"vae": "soft.safetensors"})
    checkpoint(webui, "sub/b.safetensors")
    (webui / "config.json").write_text(json.dumps(NEO))
    ours = tmp_path / "ours.json"
    call = ["presets", "--presets", str(ours), "--import-webui", str(webui)]
    assert main([*call, "--preview"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "a.safetensors: soft.safetensors (its card)" and "24 steps" in shown[1] and not ours.exists()
    assert main(call) == 0 and capsys.readouterr().out.endswith("Took over 2 presets.\n")
    assert main(call) == 0 and "is left to take over" in capsys.readouterr().out
    (webui / "config.json").write_text("{")
    assert main([*call, "--preview"]) == 0
    for said, *wrong in (
        ("no WebUI's folder", "--import-webui", tmp_path),
        ("--preview goes with", "--preview"),
        ("one thing at a time", "--import-webui", webui, "--import", ours),
    ):
        assert main(["presets", "--presets", str(ours), *map(str, wrong)]) == 2
        assert said in capsys.readouterr().err


def test_a_checkpoint_that_is_gone_is_passed_over(webui: Path, kept: Presets):
    path = checkpoint(webui, "a.safetensors", {"vae": "soft.safetensors"})
    assert foreign_presets({"a.safetensors": path}, lambda path, name: None, VaeIndex(()), {}, kept) == []
