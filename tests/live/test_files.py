"""The files change while the WebUI runs: they come, they go, they are overwritten, and they are not what they are
called."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.live.harness import WebUI
from tests.live.test_choice import BLUE, GREEN, RED

OVERWRITTEN_FOR = 10.0
"""Seconds for which files are overwritten: the examiner works for a fifth of its time."""


@pytest.fixture
def newcomer(house: WebUI) -> Iterator[Path]:
    """A file that nobody has heard of yet: the red VAE under a name of its own."""
    path = house.vaes / "newcomer.safetensors"
    yield path
    path.unlink(missing_ok=True)
    house.get("/vae-manager/v1/vaes?refresh=true")


def refresh(house: WebUI) -> None:
    """What the WebUI's own refresh button does. Ours is not pressed."""
    house.post("/sdapi/v1/refresh-vae", {})


def test_a_file_that_came_after_the_start(house: WebUI, newcomer: Path):
    house.generate(ours=[True, "tint-green"])  # the list of files is known by now
    shutil.copy(house.vaes / RED, newcomer)
    refresh(house)
    tagged = house.generate(prompt="a cat <vae:newcomer>")
    assert tagged.tint() == "red" and "vae=newcomer.safetensors" in tagged.infotexts[0]
    assert "VAE Manager warning" not in tagged.info["extra_generation_params"]
    assert house.generate(ours=[True, "newcomer"]).tint() == "red"


def test_automatic_leaves_the_file_that_the_host_has_loaded(house: WebUI, newcomer: Path):
    """Whatever our list of files says: it is older than that file."""
    if house.kind in ("forge", "neo", "reforge"):
        pytest.skip("this host looks for new files from its page only, or loses its baked VAE after its own setting")
    house.generate(ours=[True, "tint-green"])
    shutil.copy(house.vaes / RED, newcomer)
    refresh(house)
    forge = house.kind == "forge"
    house.post(
        "/sdapi/v1/options", {"forge_additional_modules": [str(newcomer)]} if forge else {"sd_vae": newcomer.name}
    )
    try:
        plain = house.generate()
        assert plain.tint() == "red"
        automatic = house.generate(ours=[True, "Automatic"])
        assert np.array_equal(automatic.pixels[0], plain.pixels[0])
        assert automatic.tint() == "red" and "Baked" not in automatic.infotexts[0]
    finally:
        house.post("/sdapi/v1/options", {"sd_vae": "Automatic"})
    assert house.generate().tint() == "none"


def of_another_family(house: WebUI, path: Path) -> None:
    """A file like any SD1 VAE by its shapes, which its hash tells to be SDXL's; nobody has hashed it yet."""
    state = load_file(str(house.vaes / BLUE))
    state["decoder.conv_in.bias"] += 0.001 * len(path.stem)
    save_file(state, str(path), {"format": "pt"})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    house.get(f"/vae-manager-faults/known?sha256={sha256}&name=sdxl_vae")
    house.get("/vae-manager/v1/vaes?refresh=true")


@pytest.mark.parametrize("way", ["panel", "tag"])
def test_a_known_hash_is_asked_before_the_first_use(house: WebUI, way: str):
    plain = house.generate()
    path = house.vaes / f"stranger-{way}.safetensors"
    of_another_family(house, path)
    try:
        job: dict[str, Any] = {"ours": [True, path.stem]} if way == "panel" else {"prompt": f"a cat <vae:{path.stem}>"}
        first, second = house.generate(**job), house.generate(**job)
        for pictures in (first, second):
            assert "SDXL" in pictures.info["extra_generation_params"].get("VAE Manager warning", "")
            assert np.array_equal(pictures.pixels[0], plain.pixels[0])
            assert f"vae={path.name}" not in pictures.infotexts[0]
    finally:
        path.unlink()
        house.get("/vae-manager/v1/vaes?refresh=true")


def test_a_known_name_is_no_evidence_against_a_scale(house: WebUI):
    """A file named like SD1's best known VAE that says it is SDXL's: it is refused like any other."""
    plain = house.generate()
    path = house.vaes / "vae-ft-mse-840000-ema-pruned.safetensors"
    save_file(load_file(str(house.vaes / RED)), str(path), {"scale_factor": "0.13025"})
    try:
        house.get("/vae-manager/v1/vaes?refresh=true")
        pictures = house.generate(ours=[True, path.stem])
        assert "SDXL" in pictures.info["extra_generation_params"].get("VAE Manager warning", "")
        assert np.array_equal(pictures.pixels[0], plain.pixels[0])
    finally:
        path.unlink()
        house.get("/vae-manager/v1/vaes?refresh=true")


def test_z_overwriting_files_in_place_kills_nothing(house: WebUI):
    """`cp new.safetensors old.safetensors` truncates the file that the background examiner is reading. Runs last."""
    paths = [house.vaes / f"copy-{index}.safetensors" for index in range(3)]
    sources = [(house.vaes / name).read_bytes() for name in (RED, GREEN)]
    for path in paths:
        path.write_bytes(sources[0])
    try:
        house.get("/vae-manager/v1/vaes?refresh=true")
        house.generate(ours=[True, "copy-0"])  # from here on all files are looked at
        end, turn, examined = time.monotonic() + 60, 0, 0.0
        while examined < OVERWRITTEN_FOR and time.monotonic() < end and house.alive:
            for path in paths:
                path.write_bytes(sources[turn % 2])  # truncated first, as cp does
            turn += 1
            if house.alive and house.get("/vae-manager/v1/status")["examining"]["current"]:
                examined += 0.2
            else:
                house.generate(ours=[True, "copy-0"])
            time.sleep(0.2)
        assert house.alive, house.log[-2000:]
        assert turn > 5
        assert house.generate(ours=[True, "tint-green"]).tint() == "green"
    finally:
        for path in paths:
            path.unlink()
