"""The page by itself in a real browser, in the newest Gradio. In the hosts' own it is tried live (`tests/live`)."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import make_state
from tests.servers import wait_for
from tests.webui.test_panel import CHROMIUM, ROOT, write

VERSIONS = {"newest": ROOT / ".venv-ui"}
MARKUP = "<img src=x onerror=alert(1)>.safetensors"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
]


@pytest.fixture(scope="module", params=VERSIONS)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python = VERSIONS[request.param] / "bin" / "python"
    if not python.exists():
        pytest.skip(f"Gradio {request.param} is not set up; `make test` does it")
    folder = tmp_path_factory.mktemp("house")
    write(folder / "vaes" / "one.safetensors", scale_factor="0.18215", title="A VAE of mine")
    write(folder / "vaes" / "two.safetensors", scale_factor="0.18215")
    write(folder / "vaes" / MARKUP)
    (folder / "vaes" / "broken.safetensors").write_bytes(b"\x10")
    models = folder / "models"
    models.mkdir()
    _checkpoint(models / "dream.safetensors")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [python, "-m", "vae_manager", "ui", "--vae-dir", folder / "vaes", "--checkpoint-dir", models,
             "--port", str(port), "--no-browser"],
            cwd=ROOT, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1",
                 "VAE_MANAGER_HOME": str(folder / "home")},
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_for(url, server, log)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def _checkpoint(path: Path) -> None:
    from safetensors.torch import save_file

    part = {"model.diffusion_model.x": make_state()["decoder.conv_in.weight"]}
    save_file(part, str(path), {"modelspec.architecture": "stable-diffusion-v1"})


@pytest.fixture
def page(address: str) -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(300_000)  # a busy machine is no fault of the page
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#vae_manager_page_root")
        if page.evaluate(
            "() => !document.querySelector('script:not([src])')?.textContent.includes('vae_manager_page')"
        ):
            page.add_script_tag(path=ROOT / "javascript" / "vae_manager_page.js")
        page.wait_for_selector("#vae_manager_page_library table")
        yield page
        browser.close()
        assert errors == []


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).first.click()


def pick(page, box: str, name: str) -> None:
    field = page.locator(f"#vae_manager_page_{box} input").first
    field.click()
    page.locator("ul.options li, [role=option]", has_text=name).first.click()


def names(page) -> list[str]:
    return page.locator("#vae_manager_page_library tbody tr:visible td:first-child").all_text_contents()


def test_the_library_is_searched_sorted_and_shows_everything_of_one(page):
    page.locator("#vae_manager_page_library td", has_text="A VAE of mine").wait_for()
    assert len(names(page)) == 4 and page.locator("#vae_manager_page_library td img").count() == 0
    box = page.locator("#vae_manager_page_search input")
    box.fill("mine")
    page.locator("#vae_manager_page_library .vae-manager-count", has_text="1 of 4").wait_for()
    assert names(page) == ["one.safetensors"]
    box.fill("")
    page.locator("#vae_manager_page_library .vae-manager-count", has_text="4 VAEs").wait_for()
    heading = page.locator("#vae_manager_page_library th button", has_text="Size")
    heading.click()
    assert names(page)[0] == "broken.safetensors"
    heading.click()
    assert names(page)[-1] == "broken.safetensors"
    page.locator("#vae_manager_page_library td button", has_text="<img").click()
    details = page.locator("#vae_manager_page_details caption", has_text="<img").first
    details.wait_for()
    assert page.locator("#vae_manager_page_details img").count() == 0


def test_two_vaes_are_compared_on_a_picture(page, tmp_path: Path):
    y, x = np.mgrid[0:64, 0:64] * 4
    Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8)).save(tmp_path / "in.png")
    tab(page, "Compare")
    for name in ("one.safetensors", "two.safetensors"):
        pick(page, "compared", name)
        page.mouse.click(640, 5)
    picture = page.locator("#vae_manager_page_compare_picture")
    picture.locator("input[type=file]").first.set_input_files(tmp_path / "in.png")
    picture.locator("img").first.wait_for()
    page.get_by_role("button", name="Compare", exact=True).last.click()
    page.locator("#vae_manager_page_comparison figure").nth(1).wait_for()
    words = page.locator("#vae_manager_page_comparison figcaption").all_text_contents()
    assert [word.partition(":")[0] for word in words] == ["one.safetensors", "two.safetensors"] and "dB" in words[0]
    slider = page.locator("#vae_manager_page_comparison .vae-manager-slider").first
    slider.locator("input").fill("20")
    assert "20%" in slider.get_attribute("style")
