"""What the panel's line says before a picture is made is what happens then."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.live.browser import CHROMIUM, WebPage, open_page
from tests.live.harness import WebUI
from tests.live.test_choice import RED

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
]

XL = "xl.safetensors"


@pytest.fixture
def page(house: WebUI) -> Iterator[WebPage]:
    """A page that knows a VAE of another family, with a model loaded."""
    path = house.vaes / XL
    save_file(load_file(str(house.vaes / RED)), str(path), {"scale_factor": "0.13025"})
    house.get("/vae-manager/v1/vaes?refresh=true")
    house.generate()
    try:
        with open_page(house) as page:
            page.switch_on()
            yield page
    finally:
        path.unlink()
        house.get("/vae-manager/v1/vaes?refresh=true")


def says(page: WebPage, text: str) -> str:
    """The panel's line, once this stands in it."""
    page.page.locator("#vae_manager_txt2img_about", has_text=text).first.wait_for(timeout=20_000)
    return page.about()


def test_a_refusal_is_told_beforehand_and_is_not_saved(page: WebPage, house: WebUI):
    page.choose(XL)
    said = says(page, "made for SDXL")
    warning = house.generate(ours=[True, XL]).info["extra_generation_params"]["VAE Manager warning"]
    assert warning.partition(" The picture was made")[0] in said  # the same sentence, not another one
    page.press("save")
    assert "Not saved" in says(page, "ot saved")
    presets = house.data / "vae-manager" / "presets.json"
    assert not presets.exists() or XL not in presets.read_text(encoding="utf-8")


def test_what_can_be_used_is_saved_and_forgotten(page: WebPage, house: WebUI):
    presets = house.data / "vae-manager" / "presets.json"
    page.choose(RED)
    says(page, "fp16")
    page.press("save")
    says(page, "aved")
    assert RED in json.dumps(json.loads(presets.read_text(encoding="utf-8")))
    page.press("forget")
    says(page, "orgotten")
    assert RED not in presets.read_text(encoding="utf-8")


def test_a_job_that_runs_with_an_override_is_not_taken_for_the_settings(house: WebUI):
    if house.kind in ("forge", "neo", "reforge"):
        pytest.skip("this host has no such override, or loses its baked VAE after it")
    override: dict[str, Any] = {"override_settings": {"sd_vae": "tint-green.safetensors"}}
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(house.generate, steps=150, n_iter=100, **override)  # until it is interrupted
        try:
            time.sleep(3)
            with open_page(house) as page:
                page.switch_on()
                during = says(page, "Automatic:")
                assert not job.done()
                assert "tint-green" not in during
        finally:
            house.post("/sdapi/v1/interrupt", {})
            job.result()
    assert "tint-green" not in house.get("/vae-manager/v1/match")["reason"]
