"""Beside Tiled VAE and Ultimate SD Upscale: their pictures stay theirs, with our VAE, and nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.harness import PROJECT, Pictures, WebUI, picture
from tests.live.test_jobs import identical, same

TILED_VAE, UPSCALE = "multidiffusion-upscaler-for-automatic1111", "ultimate-upscale-for-automatic1111"
SIZE = {"width": 224, "height": 64, "steps": 1}  # no larger: two tiles
IMG2IMG = {"init_images": [picture(size=224)], "denoising_strength": 0.6, **SIZE}
TILES = {"Tiled VAE": [True, 64, 4, True, True, True, False]}
"""On; the encoder's and the decoder's tile; VAE on the GPU; the quick ways; no colour fix."""

Job = tuple[str, dict[str, Any]]
JOBS: dict[str, Job] = {
    "txt2img": ("txt2img", SIZE),
    "img2img": ("img2img", IMG2IMG),
    "tiled txt2img": ("txt2img", {**SIZE, "others": TILES}),
    "tiled img2img": ("img2img", {**IMG2IMG, "others": TILES}),
    "upscale": ("img2img", {}),  # filled in when the host has said which upscalers it has
}


def upscale(webui: WebUI) -> Job:
    """A picture of 64 x 64 enlarged to 128 x 128 in four tiles, by Lanczos."""
    names = [entry["name"] for entry in webui.get("/sdapi/v1/upscalers")]
    tile, blur, padding, seams = [64, 64], 4, 16, [64, 0.35, 16]
    output = [names.index("Lanczos"), True, 0, False, 4, 0, 2, 128, 128, 2]  # scaled from the picture's size
    script = {"script_name": "Ultimate SD upscale", "script_args": ["", *tile, blur, padding, *seams, *output]}
    return "img2img", {"init_images": [picture()], "denoising_strength": 0.6, "steps": 2, **script}


def run(webui: WebUI, name: str, **more: Any) -> Pictures:
    kind, parameters = upscale(webui) if name == "upscale" else JOBS[name]
    return webui.generate(kind, **{**parameters, **more})


@pytest.fixture(scope="session")
def tilers(webui_dir: Path) -> list[Path]:
    folder = Path(os.environ.get("WEBUI_EXTENSIONS", "")).resolve()
    found = [folder / name for name in (TILED_VAE, UPSCALE)]
    if not all(extension.is_dir() for extension in found):
        pytest.skip(f"WEBUI_EXTENSIONS has to name a folder with {TILED_VAE} and {UPSCALE} (docs/live-tests.md)")
    return found


@pytest.fixture(scope="session")
def theirs(
    webui_dir: Path, models: Path, tilers: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Pictures, Pictures]]:
    """What they make without us: each job with the baked VAE, and with the red one set the host's own way."""
    webui = WebUI(webui_dir, tmp_path_factory.mktemp("theirs"), models / "Stable-diffusion", models / "VAE")
    try:
        webui.start(*tilers)
        if webui.kind != "a1111":
            pytest.skip("only tried on A1111: the others have their own tiling")
        baked = {name: run(webui, name) for name in JOBS}
        return {name: (baked[name], run(webui, name, **webui.native("tint-red.safetensors"))) for name in JOBS}
    finally:
        webui.stop()


@pytest.fixture(scope="session")
def beside(
    webui_dir: Path,
    models: Path,
    tilers: list[Path],
    theirs: dict[str, tuple[Pictures, Pictures]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WebUI]:
    webui = WebUI(webui_dir, tmp_path_factory.mktemp("beside"), models / "Stable-diffusion", models / "VAE")
    try:
        yield webui.start(PROJECT, *tilers)
    finally:
        webui.stop()


def nothing_is_left(webui: WebUI, theirs: dict[str, tuple[Pictures, Pictures]]) -> bool:
    """Neither tab has anything of an earlier job, ours or theirs."""
    return all(identical(run(webui, name), theirs[name][0]) for name in ("img2img", "txt2img"))


def test_their_tiles_are_other_pixels(theirs: dict[str, tuple[Pictures, Pictures]]):
    """Or the rest would show nothing."""
    assert not same(theirs["tiled txt2img"][0], theirs["txt2img"][0])
    assert not same(theirs["tiled img2img"][0], theirs["img2img"][0])
    assert theirs["upscale"][0].pixels[0].shape == (128, 128, 3)


@pytest.mark.parametrize("job", JOBS)
def test_off_is_what_they_make_without_us(beside: WebUI, theirs: dict[str, tuple[Pictures, Pictures]], job: str):
    assert identical(run(beside, job), theirs[job][0])


@pytest.mark.parametrize("job", JOBS)
def test_our_vae_in_their_tiles(beside: WebUI, theirs: dict[str, tuple[Pictures, Pictures]], job: str):
    made = run(beside, job, ours=[True, "tint-red"])
    assert same(made, theirs[job][1], levels=1) and made.tint() == "red"
    assert "VAE Manager: vae=tint-red.safetensors" in made.infotexts[0]
    warnings = beside.get("/vae-manager/v1/decision")["warnings"]
    assert any("Tiled VAE is switched on" in warning for warning in warnings) == ("tiled" in job)
    assert nothing_is_left(beside, theirs)


@pytest.mark.parametrize("job", ["txt2img", "img2img"])
def test_exact_goes_before_their_tiles(beside: WebUI, theirs: dict[str, tuple[Pictures, Pictures]], job: str):
    exact = run(beside, f"tiled {job}", ours=[{"vae": "tint-red", "decode": "exact"}])
    assert same(exact, theirs[job][1], levels=1)
    assert any("exact" in line for line in exact.infotexts)
    assert nothing_is_left(beside, theirs)


def test_a_tiled_picture_after_a_failed_one(beside: WebUI, theirs: dict[str, tuple[Pictures, Pictures]]):
    run(beside, "tiled txt2img", ours=[True, "nope"])
    assert same(run(beside, "tiled txt2img", ours=[True, "tint-red"]), theirs["tiled txt2img"][1], levels=1)
    assert nothing_is_left(beside, theirs)
