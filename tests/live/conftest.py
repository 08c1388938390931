"""One WebUI without the extension for the reference pictures, then one with it for all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.harness import FAULTS, PROJECT, Pictures, WebUI, half_mask, picture
from tests.live.models import write_models

IMG2IMG = {"init_images": [picture()], "denoising_strength": 0.6}
HIRES = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.6, "hr_second_pass_steps": 1}
JOBS = {
    "txt2img": ("txt2img", {}),
    "img2img": ("img2img", IMG2IMG),
    "inpaint": ("img2img", {**IMG2IMG, "mask": half_mask(), "inpainting_fill": 1, "mask_blur": 0}),
    "hires-latent": ("txt2img", {**HIRES, "hr_upscaler": "Latent"}),
    "hires-pixel": ("txt2img", {**HIRES, "hr_upscaler": "Lanczos"}),
    "batches": ("txt2img", {"batch_size": 2, "n_iter": 2}),
}
"""Every way to a picture: the API's endpoint and its parameters."""


def run_job(webui: WebUI, name: str, **more: Any) -> Pictures:
    """Make one of the jobs' pictures."""
    endpoint, parameters = JOBS[name]
    if not webui.has_upscaler(parameters.get("hr_upscaler")):
        pytest.skip(f"this host has no upscaler {parameters['hr_upscaler']!r}")
    pictures = webui.generate(endpoint, **{**parameters, **more})
    if name == "inpaint":
        # Forge draws from a random state that the job before has left: after a job of the same kind it is the same
        pictures = webui.generate(endpoint, **{**parameters, **more})
    return pictures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def webui_dir() -> Path:
    folder = os.environ.get("WEBUI_DIR")
    if not folder:
        pytest.skip("live tests need a WebUI: set WEBUI_DIR to the folder of an installed one (docs/live-tests.md)")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def models(webui_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_models(root / "Stable-diffusion", root / "VAE")
    return root


class Reference:
    """What the WebUI makes without us: by job, with its baked VAE and with the red one set in its own way."""

    def __init__(self, webui: WebUI) -> None:
        self.startup_seconds = webui.startup_seconds
        self.baked: dict[str, Pictures] = {}
        self.red: dict[str, Pictures] = {}
        able = [name for name, (_, more) in JOBS.items() if webui.has_upscaler(more.get("hr_upscaler"))]
        for name in able:
            self.baked[name] = run_job(webui, name)
        for name in able:
            self.red[name] = run_job(webui, name, **webui.native("tint-red.safetensors"))


@pytest.fixture(scope="session")
def reference(webui_dir: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    webui = WebUI(webui_dir, tmp_path_factory.mktemp("without"), models / "Stable-diffusion", models / "VAE")
    try:
        return Reference(webui.start())
    finally:
        webui.stop()


@pytest.fixture(scope="session")
def webui(
    webui_dir: Path, models: Path, reference: Reference, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebUI]:
    webui = WebUI(webui_dir, tmp_path_factory.mktemp("with"), models / "Stable-diffusion", models / "VAE")
    try:
        yield webui.start(PROJECT, FAULTS)
    finally:
        webui.stop()


NEIGHBOURS = ("sd-dynamic-prompts", "adetailer")
DYNAMIC_PROMPTS = {
    # its own defaults: some hosts build their settings before it has registered them, and it then fails in every job
    "dp_ignore_whitespace": False, "dp_write_raw_template": False, "dp_write_prompts_to_file": False,
    "dp_parser_variant_start": "{", "dp_parser_variant_end": "}", "dp_parser_wildcard_wrap": "__",
    "dp_limit_jinja_prompts": False, "dp_auto_purge_cache": False, "dp_wildcard_manager_no_dedupe": False,
    "dp_wildcard_manager_no_sort": False, "dp_wildcard_manager_shuffle": False, "dp_magicprompt_batch_size": 1,
    "dp_magicprompt_default_model": "",
}  # fmt: skip


@pytest.fixture(scope="session")
def house(webui_dir: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A WebUI with a VAE folder of its own, whose files the tests change, and without the reference pictures.

    The extensions that people have beside ours are there when WEBUI_EXTENSIONS names a folder that holds them.
    """
    folder = os.environ.get("WEBUI_EXTENSIONS")
    others = [Path(folder).resolve() / name for name in NEIGHBOURS] if folder else []
    root = tmp_path_factory.mktemp("house")
    shutil.copytree(models / "VAE", root / "VAE")
    webui = WebUI(webui_dir, root / "data", models / "Stable-diffusion", root / "VAE")
    webui.config.update(DYNAMIC_PROMPTS)
    detectors = webui.data / "models" / "adetailer"
    detectors.mkdir(parents=True)
    (detectors / "face.pt").touch()  # the detector of tests/live/detector needs no weights
    try:
        yield webui.start(PROJECT, FAULTS, *(other for other in others if other.is_dir()))
    finally:
        webui.stop()


@pytest.fixture
def neighbours(house: WebUI) -> WebUI:
    """The same, only where the other extensions are there."""
    missing = [name for name in NEIGHBOURS if not (house.data / "extensions" / name).is_dir()]
    if missing:
        pytest.skip(f"WEBUI_EXTENSIONS has to name a folder with {' and '.join(missing)} (docs/live-tests.md)")
    return house
