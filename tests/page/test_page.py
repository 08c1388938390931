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
    _checkpoint(models / f"xl-{MARKUP}", "stable-diffusion-xl-v1-base")
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


def _checkpoint(path: Path, architecture: str = "stable-diffusion-v1") -> None:
    from safetensors.torch import save_file

    part = {"model.diffusion_model.x": make_state()["decoder.conv_in.weight"]}
    save_file(part, str(path), {"modelspec.architecture": architecture})


@pytest.fixture
def language() -> str:
    return "en-GB"


@pytest.fixture
def page(address: str, language: str) -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, locale=language)
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


def press(page, name: str) -> None:
    page.locator(f"#vae_manager_page_{name}").locator("visible=true").first.click()


def shown(page, place: str, text: str):
    """The line or cell of a view with this text, once it is there."""
    found = page.locator(f"#vae_manager_page_{place}", has_text=text)
    found.first.wait_for()
    return found.first


def test_each_checkpoint_stands_with_what_it_gets_and_the_filters_choose_among_them(page):
    tab(page, "Models")
    press(page, "models_look")
    table = shown(page, "models", "2 of 2 checkpoints")
    cells = {row.locator("td").first.text_content(): row for row in table.locator("tbody tr").all()}
    assert set(cells) == {"dream.safetensors", f"xl-{MARKUP}"} and table.locator("td img").count() == 0
    assert "one.safetensors" in cells["dream.safetensors"].text_content()
    page.locator("#vae_manager_page_filter").get_by_text("nothing found", exact=True).click()
    table = shown(page, "models", "1 of 2 checkpoints")
    assert "xl-<img" in table.text_content() and table.locator("td img").count() == 0
    page.locator("#vae_manager_page_filter").get_by_text("damaged", exact=True).click()
    shown(page, "models", "None of 2 checkpoints is so.")


RULES = '{"version": 1, "rules": [{"when": {"name": "dream*"}, "vae": "two.safetensors"}]}'


def test_rules_are_checked_tried_and_saved(page):
    tab(page, "Rules")
    box = page.locator("#vae_manager_page_rules textarea")
    page.wait_for_function("() => document.querySelector('#vae_manager_page_rules textarea').value.includes('rules')")
    box.fill('{"version": 1, "rules": [{"when": {"<img src=x onerror=alert(1)>": 1}, "vae": "x"}]}')
    press(page, "rules_check")
    said = shown(page, "rules_said", "is not known in 'when'")
    assert said.locator("[role=alert]").count() == 1 and said.locator("img").count() == 0
    press(page, "rules_save")
    shown(page, "rules_said", "Not saved")
    box.fill(RULES)
    press(page, "rules_check")
    shown(page, "rules_said", "1 rules, nothing wrong with them.")
    pick(page, "rules_on", "dream")
    press(page, "rules_try")
    trace = shown(page, "rules_trace", "dream.safetensors: two.safetensors")
    assert "rule 1" in trace.text_content() and trace.locator("tbody tr").count() >= 9
    press(page, "rules_save")
    shown(page, "rules_said", "Saved 1 rules.")


def test_a_washed_out_picture_is_mended_with_its_histograms(page, tmp_path: Path):
    photo = Image.open(ROOT / "vae_manager" / "data" / "demo" / "photo.jpg").convert("RGB").resize((300, 200))
    Image.fromarray((np.asarray(photo) * 0.55 + 70).astype(np.uint8)).save(tmp_path / "pale.png")
    tab(page, "Colour")
    press(page, "colour")
    shown(page, "colour_said", "Drop a picture here first.")
    box = page.locator("#vae_manager_page_colour_picture")
    box.locator("input[type=file]").first.set_input_files(tmp_path / "pale.png")
    box.locator("img").first.wait_for()
    press(page, "colour")
    said = shown(page, "colour_said", "ashed out")
    assert said.locator("svg.vae-manager-histogram").count() == 2 and said.locator(".vae-manager-slider").count() == 1
    page.locator("#vae_manager_page_colour_out img").first.wait_for()


def sized(page, side: int) -> None:
    for name in ("width", "height"):
        number = page.locator(f"#vae_manager_page_decode_{name} input[type=number]")
        number.fill(str(side))
        number.press("Tab")


def test_what_a_size_takes_is_drawn_and_tried(page):
    tab(page, "Decode")
    press(page, "plan")
    shown(page, "plans", "Choose a VAE first.")
    pick(page, "decode_vae", "one.safetensors")
    sized(page, 256)
    press(page, "plan")
    plans = shown(page, "plans", "A picture of 256 × 256 takes")
    assert plans.locator(".vae-manager-bar").count() >= 5 and plans.locator(".vae-manager-chosen").count() == 1
    press(page, "try")
    shown(page, "plans", "Tried: ")


@pytest.mark.parametrize("language", ["zh-CN"])
def test_the_page_speaks_the_browsers_language_and_leaves_names_alone(page):
    page.get_by_role("tab", name="VAE 库", exact=True).first.wait_for()
    count = page.locator("#vae_manager_page_library .vae-manager-count")
    page.locator("#vae_manager_page_library .vae-manager-count", has_text="4 个 VAE").wait_for()
    page.locator("#vae_manager_page_search input").fill("mine")
    page.locator("#vae_manager_page_library .vae-manager-count", has_text="4 个 VAE 中的 1 个").wait_for()
    assert names(page) == ["one.safetensors"] and count.count() == 1
    assert page.locator("#vae_manager_page_search input").get_attribute("placeholder").startswith("名称")
    page.locator("#vae_manager_page_library th", has_text="健康状况").wait_for()
    page.get_by_role("tab", name="颜色", exact=True).first.click()
    press(page, "colour")
    shown(page, "colour_said", "请先放入一张图片。")


@pytest.mark.parametrize("language", ["zh-CN"])
def test_errors_from_every_room_are_in_the_browsers_language(page, tmp_path: Path):
    (tmp_path / "no-latent.safetensors").write_bytes(b"\0" * 64)
    page.get_by_role("tab", name="比较", exact=True).first.click()
    pick(page, "compared", "one.safetensors")
    page.mouse.click(640, 5)
    page.locator("#vae_manager_page_latent input[type=file]").first.set_input_files(tmp_path / "no-latent.safetensors")
    page.locator("#vae_manager_page_latent").get_by_text("no-latent").first.wait_for()
    press(page, "compare")
    said = shown(page, "comparison", "'no-latent.safetensors' 不是潜空间文件")
    assert "里面全是零" in said.text_content() and "gradio" not in said.text_content()
    page.get_by_role("tab", name="规则", exact=True).first.click()
    page.locator("#vae_manager_page_rules textarea").fill("{")
    press(page, "rules_check")
    shown(page, "rules_said", "此处应有用双引号括起的键")


def test_a_long_thing_shows_how_far_it_is(page):
    """On the way to what it says in the end: the page's own bar, with a name or a share in it."""
    tab(page, "Decode")
    pick(page, "decode_vae", "one.safetensors")
    sized(page, 1536)
    page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => {
                const bar = document.querySelector(".progress-bar, .progress-level, .progress-level-inner");
                if (bar) { window.seen.push(bar.textContent); }
            }).observe(document.body, {childList: true, subtree: true, characterData: true});
        }"""
    )
    press(page, "try")
    shown(page, "plans", "Tried: ")
    assert any("%" in text for text in page.evaluate("() => window.seen"))


def test_stop_ends_what_runs(page):
    """Not the page's waiting alone: the same work begun anew would wait for what still runs, which takes minutes."""
    tab(page, "Decode")
    pick(page, "decode_vae", "one.safetensors")
    stop = page.locator("#vae_manager_page_try_stop")
    assert stop.is_disabled()
    sized(page, 2048)
    press(page, "try")
    page.wait_for_function("() => !document.querySelector('#vae_manager_page_try_stop').disabled")
    stop.click()
    shown(page, "plans", "Stopped.")
    page.wait_for_function("() => document.querySelector('#vae_manager_page_try_stop').disabled")
    sized(page, 64)
    press(page, "try")
    shown(page, "plans", "Tried: ")


STICKS_OUT = """() => {
    const free = "input[type=file], .sr-only, .vae-manager-table *, svg *, option, [role=tablist] *, .tab-container *";
    return [...document.querySelectorAll("#vae_manager_page_root *")].filter((each) => {
        const place = each.getBoundingClientRect();
        return place.width && !each.matches(free) && (place.right > innerWidth + 1 || place.left < -1);
    }).map((each) => each.id || `${each.tagName}.${each.className}`);
}"""


def test_no_view_is_wider_than_the_window(page):
    page.locator("#vae_manager_page_library td button").first.click()
    page.locator("#vae_manager_page_details table").first.wait_for()
    for name in ("Library", "Compare", "Models", "Rules", "Colour", "Decode"):
        page.set_viewport_size({"width": 1280, "height": 900})
        tab(page, name)
        for width in (360, 768, 2560):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(300)
            assert page.evaluate(STICKS_OUT) == [], (name, width)
