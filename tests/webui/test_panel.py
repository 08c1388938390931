"""The panel in the hosts' own two versions of Gradio, driven by a real browser."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import FLUX, SD1, make_state
from tests.servers import wait_for

ROOT = Path(__file__).parents[2]
VERSIONS = {"3.41.2": ROOT / ".venv-gradio3", "4.40.0": ROOT / ".venv-gradio4"}
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
]


PRESETS = [
    {"checkpoint": {"name": "<img src=x onerror=alert(1)>.ckpt"}, "vae": "<b>bold</b>"},
    {"checkpoint": {"name": "sub/two.safetensors"}, "vae": "soft", "encode_vae": "Baked", "hires_vae": "sharp",
     "tiling": "exact", "color": "auto", "color_strength": 0.5, "page": {"steps": 28, "cfg": 5}, "remembered": True},
]  # fmt: skip


def write(path: Path, config=SD1, **metadata: str) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(make_state(config), str(path), metadata or None)


@pytest.fixture(scope="module", params=VERSIONS)
def page_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    python = VERSIONS[request.param] / "bin" / "python"
    if not python.exists():
        pytest.skip(f"Gradio {request.param} is not set up; `make test` does it")
    folder = tmp_path_factory.mktemp("vaes")
    write(folder / "one.safetensors", scale_factor="0.18215", title="A VAE of mine")
    write(folder / "sub" / "flux.safetensors", FLUX)
    write(folder / "odd (1)+[x].safetensors")
    (folder / "broken.safetensors").write_bytes(b"\x10")
    (folder / "presets.json").write_text(json.dumps({"version": 1, "presets": PRESETS}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    log = tmp_path_factory.mktemp("log") / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [python, ROOT / "tests" / "webui" / "panel_app.py", folder, str(port)],
            env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/", server, log)
        assert f"gradio {request.param}" in log.read_text()
        yield f"http://127.0.0.1:{port}/", folder
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def page(page_url: tuple[str, Path]) -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)  # a busy machine is no fault of the page
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        enter(page, page_url[0])
        yield page
        browser.close()
        assert errors == []


def enter(page, url: str) -> None:
    """Open the page as every host does, with our style and scripts."""
    page.goto(url)
    page.wait_for_selector("#vae_manager_txt2img_vae input")
    page.add_style_tag(path=ROOT / "style.css")
    for script in sorted((ROOT / "javascript").iterdir()):
        page.add_script_tag(path=script)
    settle(page)


QUIET = 2000
"""Milliseconds without a request in which a page has come to rest."""


def settle(page) -> None:
    """Wait until the page has all it asks for by itself: our lists among it. One that asks for ever fails."""
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    page.on("websocket", lambda socket: seen.append(socket.url))  # Gradio 3.41 opens one for each of its requests
    page.locator("#vae_manager_txt2img_names [data-vaes]").wait_for(state="attached")
    for _ in range(60):
        before = len(seen)
        page.wait_for_timeout(QUIET)
        if len(seen) == before:
            return
    raise AssertionError(f"the page does not come to rest: {seen[-3:]}")


def choose(page, name: str) -> None:
    box = page.locator("#vae_manager_txt2img_vae input").first
    box.click()
    box.fill(name)
    box.press("Enter")


def unfold(page, name: str, title: str) -> None:
    page.locator(f"#vae_manager_txt2img_{name}").get_by_text(title, exact=True).first.click()


def option(page, name: str):
    return page.locator("ul.options li", has_text=name).first


def about(page, text: str) -> None:
    page.locator("#vae_manager_txt2img_about", has_text=text).first.wait_for()


def values(page) -> str:
    page.click("#read")
    box = page.locator("#seen textarea")
    for _ in range(600):
        if box.input_value():
            return box.input_value()
        page.wait_for_timeout(100)
    return ""


def test_starts_off_on_automatic_with_every_file_in_the_list(page):
    assert values(page) == "(False, 'Automatic', 'same', 'same', 'auto', 'off', 1, 1, 0, 1, None, 'auto')"
    page.locator("#vae_manager_txt2img_vae input").first.click()
    for name in ("Automatic", "Baked", "one.safetensors", "sub/flux.safetensors", "broken.safetensors"):
        option(page, name).wait_for()


def test_a_choice_is_described_and_reaches_the_job(page):
    choose(page, "one.safetensors")
    about(page, "A VAE of mine · for Stable Diffusion 1.x and 2.x · fp32")
    page.locator("#vae_manager_txt2img-checkbox input").check()
    assert values(page) == "(True, 'one.safetensors', 'same', 'same', 'auto', 'off', 1, 1, 0, 1, None, 'auto')"


def test_files_that_cannot_be_used_say_so_at_once(page):
    choose(page, "broken.safetensors")
    about(page, "broken.safetensors cannot be used")
    choose(page, "sub/flux.safetensors")
    about(page, "16 latent channels")


def test_a_name_from_elsewhere_is_text_never_markup(page):
    choose(page, "<img src=x onerror=alert(1)>.safetensors")
    about(page, "There is no VAE '<img")
    assert page.locator("#vae_manager_txt2img_about img").count() == 0


def test_refresh_finds_a_new_file(page, page_url):
    write(page_url[1] / "new.safetensors")
    page.click("#vae_manager_txt2img_refresh")
    for _ in range(300):  # the list that is open does not change: it is opened anew until the answer is there
        page.locator("#vae_manager_txt2img_vae input").first.click()
        if option(page, "new.safetensors").count():
            break
        page.keyboard.press("Escape")
        page.locator("#read").focus()
        page.wait_for_timeout(200)
    option(page, "new.safetensors").wait_for()


def test_the_buttons_say_what_they_did(page):
    choose(page, "one.safetensors")
    about(page, "A VAE of mine")
    page.click("#vae_manager_txt2img_decode label:has-text('exact')")
    unfold(page, "preset", "Presets")
    page.click("#vae_manager_txt2img_save")
    about(page, "saved one.safetensors exact")
    unfold(page, "more", "More")
    page.click("#vae_manager_txt2img_calibrate")
    about(page, "calibrated one.safetensors with Baked")
    page.click("#vae_manager_txt2img_forget")
    about(page, "forgotten")


def trace(page) -> list[list[str]]:
    rows = page.locator("#vae_manager_txt2img_about .vae-manager-trace tbody tr").all()
    return [row.locator("td").all_text_contents() for row in rows]


def test_the_trace_stands_below_the_line_and_changes_with_it(page):
    before = trace(page)
    assert [row[0] for row in before][:3] == ["prompt", "panel", "job"] and before[1][1] == "not asked"
    choose(page, "one.safetensors")
    about(page, "A VAE of mine")
    assert trace(page)[1][:2] == ["panel", "chosen"] and trace(page)[2][1] == "not reached"
    choose(page, "<img src=x onerror=alert(1)>.safetensors")
    about(page, "There is no VAE '<img")
    assert trace(page)[1][1] == "refused" and "<img" in trace(page)[1][2]
    assert page.locator("#vae_manager_txt2img_about img").count() == 0
    detail = page.locator("#vae_manager_txt2img_about .vae-manager-trace td").first
    assert not detail.is_visible()
    page.locator("#vae_manager_txt2img_about summary").click()
    detail.wait_for(state="visible")


def presets(page, has: int) -> list[list[str]]:
    """The rows of the list of presets, once there are so many."""
    rows = page.locator("#vae_manager_txt2img_presets_kept tbody tr")
    for _ in range(600):
        if rows.count() == has:
            break
        page.wait_for_timeout(100)
    return [row.locator("td").all_text_contents() for row in rows.all()]


def said(page, text: str) -> None:
    page.locator("#vae_manager_txt2img_presets_said", has_text=text).first.wait_for()


def test_the_list_of_presets_follows_saving_forgetting_removing_and_importing(page, page_url, tmp_path: Path):
    kept = page_url[1] / "presets.json"
    switch(page, "first.safetensors")
    unfold(page, "preset", "Presets")
    page.locator("#vae_manager_txt2img_presets_group").get_by_text("Saved presets").click()
    two = ["sub/two.safetensors", "soft", "Baked", "sharp", "exact", "auto 0.5", "28 steps, CFG 5", "remembered"]
    assert presets(page, 2) == [["<img src=x onerror=alert(1)>.ckpt", "<b>bold</b>", *[""] * 6], two]
    assert page.locator("#vae_manager_txt2img_presets_kept :is(img, b)").count() == 0
    choose(page, "one.safetensors")
    about(page, "A VAE of mine")
    page.click("#vae_manager_txt2img_save")
    assert presets(page, 3)[2][:2] == ["first.safetensors", "one.safetensors"]
    page.click("#vae_manager_txt2img_forget")
    presets(page, 2)
    page.click("#vae_manager_txt2img_presets_export")
    said(page, "Wrote 2 presets to vae-manager-presets.json")
    with page.expect_download() as download:
        page.locator("#vae_manager_txt2img_presets_file a").first.click()
    exported = tmp_path / "exported.json"
    download.value.save_as(exported)
    assert json.loads(exported.read_text()) == {"version": 1, "presets": PRESETS}
    page.click("#vae_manager_txt2img_presets_remove")
    said(page, "Choose first")
    box = page.locator("#vae_manager_txt2img_presets_chosen input").first
    box.click()
    option(page, "sub/two.safetensors").click()
    page.click("#vae_manager_txt2img_presets_remove")
    said(page, "Removed the preset of sub/two.safetensors.")
    assert len(presets(page, 1)) == 1 and len(json.loads(kept.read_text())["presets"]) == 1
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    before = kept.read_bytes()
    upload(page, broken)
    said(page, "is no file of presets")
    assert kept.read_bytes() == before
    upload(page, exported)
    said(page, "Took over 1 preset.")  # the other is there and stays
    assert presets(page, 2)[1] == two


def test_what_the_webui_keeps_of_its_own_is_shown_before_it_is_taken_over(page, page_url):
    kept = page_url[1] / "presets.json"
    before = kept.read_bytes()
    unfold(page, "preset", "Presets")
    page.locator("#vae_manager_txt2img_presets_group").get_by_text("Saved presets").click()
    page.click("#vae_manager_txt2img_presets_look")
    others = page.locator("#vae_manager_txt2img_presets_others").first
    others.locator("tbody tr").nth(1).wait_for()
    names = [row.locator("td").all_text_contents() for row in others.locator("tbody tr").all()]
    assert names == [[f"{name}.safetensors", "<b>one</b>", "", "its card"] for name in ("first", "second")]
    assert others.locator("b").count() == 0 and kept.read_bytes() == before
    page.click("#vae_manager_txt2img_presets_take")
    said(page, "Took over 2 presets.")
    page.locator("#vae_manager_txt2img_presets_take").wait_for(state="hidden")
    page.click("#vae_manager_txt2img_presets_look")
    others.get_by_text("keeps nothing of its own").wait_for()
    kept.write_bytes(before)


def upload(page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.click("#vae_manager_txt2img_presets_import")
    chooser.value.set_files(path)


def color(page, mode: str) -> None:
    page.click(f"#vae_manager_txt2img_color label:has-text('{mode}')")


def test_values_by_hand_are_there_where_they_are_asked_for(page):
    contrast = page.locator("#vae_manager_txt2img_contrast input[type=number]")
    assert contrast.is_hidden()
    color(page, "manual")
    contrast.wait_for(state="visible")
    contrast.fill("1.2")
    contrast.press("Tab")
    assert values(page).endswith("'manual', 1, 1.2, 0, 1, None, 'auto')")
    color(page, "auto")
    contrast.wait_for(state="hidden")


def test_a_picture_to_match_reaches_the_job_as_a_picture(page, tmp_path):
    Image.new("RGB", (40, 24), (200, 30, 60)).save(tmp_path / "red.png")
    box = page.locator("#vae_manager_txt2img_match")
    assert box.is_hidden()
    color(page, "match")
    box.wait_for(state="visible")
    box.locator("input[type=file]").first.set_input_files(tmp_path / "red.png")
    box.locator("img").first.wait_for()
    assert "'match', 1, 1, 0, 1, <PIL.Image.Image image mode=RGB size=40x24" in values(page)


# --- what the page does by our script, and what it shows


def star(page, text: str) -> None:
    page.locator("#vae_manager_txt2img_star", has_text=text).first.wait_for()


def test_the_star_saves_and_forgets_with_one_click(page):
    star(page, "\u2606")
    choose(page, "one.safetensors")
    about(page, "A VAE of mine")
    button = page.locator("#vae_manager_txt2img_star")
    button.click()
    about(page, "saved one.safetensors auto")
    star(page, "\u2605")
    button.click()
    about(page, "forgotten")
    star(page, "\u2606")


def test_what_does_nothing_just_now_is_not_shown(page):
    strength = page.locator("#vae_manager_txt2img_color_strength")
    encode = page.locator("#vae_manager_txt2img_encode_vae")
    assert strength.is_hidden() and encode.is_hidden()
    color(page, "auto")
    strength.wait_for(state="visible")
    color(page, "off")
    strength.wait_for(state="hidden")
    unfold(page, "more", "More")
    encode.wait_for(state="visible")


def test_the_line_follows_the_checkpoint_without_a_click_of_ours(page):
    about(page, "first.safetensors: Automatic")
    box = page.locator("#setting_sd_model_checkpoint input").first
    box.click()
    option(page, "second.safetensors").click()
    about(page, "second.safetensors: Automatic")
    assert page.locator("#vae_manager_txt2img_refresh").get_attribute("title")


def test_the_line_follows_a_checkpoint_list_that_has_a_class_alone(page):
    """As Forge's has it, where settings stand above the tabs."""
    switch(page, "first.safetensors")
    page.evaluate(
        """() => {
            const list = document.querySelector("#setting_sd_model_checkpoint");
            list.removeAttribute("id");
            list.classList.add("model_selection");
            list.parentElement.id = "quicksettings";
        }"""
    )
    page.locator(".model_selection input").first.click()
    option(page, "second.safetensors").click()
    about(page, "second.safetensors: Automatic")


def completions(page) -> list[str]:
    return page.locator("ul.vae-manager-names li").all_text_contents()


def test_a_tag_is_completed_in_the_prompt(page):
    box = page.locator("#txt2img_prompt textarea")
    box.click()
    page.keyboard.type("a fox <vae:SAF")
    page.locator("ul.vae-manager-names").wait_for()
    assert {"one.safetensors", "sub/flux.safetensors"} <= set(completions(page))
    for _ in "SAF":
        page.keyboard.press("Backspace")
    page.keyboard.type("one")
    assert completions(page) == ["one.safetensors"]
    page.keyboard.press("Tab")
    assert box.input_value() == "a fox <vae:one.safetensors>" and completions(page) == []
    page.click("#read_prompt")
    seen = page.locator("#prompt_seen textarea")
    for _ in range(300):
        if seen.input_value():
            break
        page.wait_for_timeout(100)
    assert seen.input_value() == "a fox <vae:one.safetensors>"
    box.press("End")
    page.keyboard.type(", <vae:")
    page.locator("ul.vae-manager-names").wait_for()
    page.keyboard.press("Escape")
    assert completions(page) == [] and box.input_value().endswith("<vae:")


def listed(page) -> list[str]:
    page.locator("#vae_manager_txt2img_vae input").first.click()
    page.locator("ul.options li").first.wait_for()
    return [text.replace("\u2713", "").strip() for text in page.locator("ul.options li").all_text_contents()]


def switch(page, checkpoint: str) -> None:
    """Choose a checkpoint, also where the page shows it already while the server was told another before."""
    box = page.locator("#setting_sd_model_checkpoint input").first
    for name in ({"first.safetensors", "second.safetensors"} - {checkpoint}).pop(), checkpoint:
        if box.input_value() != name:
            box.click()
            option(page, name).click()
            page.wait_for_timeout(2000)  # the line may name it already, before our script has seen the choice
            about(page, f"{name}: ")


def test_what_fits_the_checkpoint_stands_first_and_the_rest_is_marked_with_its_reason(page):
    switch(page, "first.safetensors")
    page.wait_for_timeout(2500)  # the second look at the checkpoint is over
    names = listed(page)
    assert names[:2] == ["Automatic", "Baked"]
    assert names.index("one.safetensors") < names.index("sub/flux.safetensors")
    other = option(page, "sub/flux.safetensors")
    page.wait_for_function("() => document.querySelectorAll('ul.options li.vae-manager-unfit').length")
    assert "is made for" in other.get_attribute("title")
    assert "unfit" not in option(page, "one.safetensors").get_attribute("class")
    assert "Stable Diffusion 1.x" in option(page, "one.safetensors").get_attribute("title")
    page.keyboard.press("Escape")
    page.locator("#read").focus()
    switch(page, "second.safetensors")
    page.wait_for_timeout(2500)
    names = listed(page)
    assert names.index("sub/flux.safetensors") < names.index("one.safetensors")


# --- filling the page


def stands(page, element: str) -> str:
    box = page.locator(f"#txt2img_{element} input")
    return (
        box.first if element == "sampling" else page.locator(f"#txt2img_{element} input[type=number]")
    ).input_value()


def wait_until(page, element: str, value: str) -> None:
    for _ in range(600):
        if stands(page, element) == value:
            return
        page.wait_for_timeout(100)
    assert stands(page, element) == value


def put(page, element: str, value: str) -> None:
    box = page.locator(f"#txt2img_{element} input[type=number]")
    box.fill(value)
    box.press("Tab")


def offered(page, text: str) -> None:
    page.locator("#vae_manager_txt2img_offer", has_text=text).first.wait_for()


def test_a_preset_fills_the_page_when_asked_and_by_itself_and_gives_it_back(page):
    switch(page, "first.safetensors")
    offered(page, "The metadata of first.safetensors has: 1024 × 768.")
    put(page, "steps", "28")
    put(page, "cfg_scale", "5.5")
    unfold(page, "preset", "Presets")
    for label in ("Steps", "CFG"):
        page.locator("#vae_manager_txt2img_ticks").get_by_label(label, exact=True).check()
    page.click("#vae_manager_txt2img_save")
    offered(page, "The preset of first.safetensors has: 28 steps, CFG 5.5.")
    switch(page, "second.safetensors")
    offered(page, "The metadata of second")
    put(page, "steps", "20")
    put(page, "cfg_scale", "7")
    switch(page, "first.safetensors")
    offered(page, "The preset of first.safetensors has")
    page.wait_for_timeout(2500)
    assert stands(page, "steps") == "20"  # offered, not done
    undo = page.locator("#vae_manager_txt2img_undo")
    assert undo.is_hidden()
    page.click("#vae_manager_txt2img_apply")
    offered(page, "Filled in: 28 steps, CFG 5.5.")
    wait_until(page, "steps", "28")
    assert (stands(page, "cfg_scale"), stands(page, "width"), stands(page, "sampling")) == ("5.5", "512", "Euler")
    undo.click()
    wait_until(page, "steps", "20")
    wait_until(page, "cfg_scale", "7")
    undo.wait_for(state="hidden")
    put(page, "steps", "33")
    page.locator("#vae_manager_txt2img_by_itself input").check()
    page.click("#vae_manager_txt2img_save")
    offered(page, "33 steps, CFG 7.")
    switch(page, "second.safetensors")
    put(page, "steps", "20")
    switch(page, "first.safetensors")
    wait_until(page, "steps", "33")
    put(page, "steps", "34")  # the second look at the checkpoint leaves it
    page.wait_for_timeout(2500)
    assert stands(page, "steps") == "34"
    enter(page, page.url)  # the checkpoint is the same, so nothing is filled in
    offered(page, "33 steps, CFG 7.")
    assert stands(page, "steps") == "20"
    unfold(page, "preset", "Presets")
    page.click("#vae_manager_txt2img_forget")
    about(page, "forgotten")
    offered(page, "The metadata of first")


def test_the_line_about_the_last_picture_comes_when_it_is_made(page):
    line = page.locator("#vae_manager_txt2img_last").first
    assert line.is_hidden()
    for number in (1, 2):
        page.click("#txt2img_generate")
        line.get_by_text(f"Last picture: <b>one</b> · number {number}").wait_for()
    assert line.locator("b").count() == 0
    settle(page)


def test_sentences_stand_in_the_pages_language_and_names_stay_as_they_are(page):
    words = json.loads((ROOT / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))
    page.evaluate("words => { window.localization = words; }", words)  # as the hosts do, before our scripts
    page.add_script_tag(path=ROOT / "javascript" / "vae_manager_words.js")
    choose(page, "sub/flux.safetensors")
    about(page, "个潜空间通道")
    choose(page, "<img src=x onerror=alert(1)>.safetensors")
    about(page, "个文件里没有 VAE '<img src=x onerror=alert(1)>.safetensors'")
    assert page.locator("#vae_manager_txt2img_about img").count() == 0
    page.locator("#vae_manager_txt2img_about th", has_text="原因").wait_for(state="attached")
    assert trace(page)[1][0] == "面板" and trace(page)[1][1] == "被拒绝"
    page.locator('#vae_manager_txt2img_refresh[title^="重新查看文件夹"]').wait_for()


COMMENTS = (
    "one.safetensors cannot be used: its decoder is set to stop before its last layers ('give_pre_end').",
    "Another extension: all",
)


def test_what_is_said_below_a_picture_is_in_the_pages_language_and_others_words_are_theirs(page):
    words = json.loads((ROOT / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))
    page.evaluate("words => { window.localization = words; }", words)
    page.add_script_tag(path=ROOT / "javascript" / "vae_manager_words.js")
    page.evaluate(
        """lines => {
            const log = document.createElement("div");
            log.id = "html_log_img2img";
            const comments = Object.assign(document.createElement("p"), {className: "comments"});
            lines.forEach((line) => comments.append(line, document.createElement("br")));
            log.append(comments);
            document.body.append(log);
        }""",
        COMMENTS,
    )
    said = page.locator(
        "#html_log_img2img .comments", has_text="one.safetensors 不能使用：它的解码器设为在最后几层之前停止"
    )
    said.wait_for()
    assert said.text_content().endswith(COMMENTS[1])


STICKS_OUT = """() => {
    const panel = document.querySelector("#vae_manager_txt2img");
    const edge = panel.getBoundingClientRect();
    const free = "input[type=file], .sr-only, .vae-manager-table *, svg *, option";
    return [...panel.querySelectorAll("*")].filter((each) => {
        const place = each.getBoundingClientRect();
        return place.width && !each.matches(free) && (place.right > edge.right + 1 || place.left < edge.left - 1);
    }).map((each) => each.id || `${each.tagName}.${each.className}`);
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_sticks_out_of_the_panel_at_any_width(page, page_url, theme: str):
    page.goto(f"{page_url[0]}?__theme={theme}")
    page.wait_for_selector("#vae_manager_txt2img_vae input")
    page.add_style_tag(path=ROOT / "style.css")
    unfold(page, "more", "More")
    unfold(page, "preset", "Presets")
    page.locator("#vae_manager_txt2img_presets_group").get_by_text("Saved presets").click()
    page.locator("#vae_manager_txt2img_presets_export").wait_for()
    color(page, "manual")
    page.locator("#vae_manager_txt2img_contrast").wait_for(state="visible")
    for width in (360, 768, 1280, 2560):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)
        assert page.evaluate(STICKS_OUT) == [], width


# --- cards


def click_card(page, name: str) -> str:
    page.locator(f'#txt2img_vae_cards .card[data-name="{name}"]').click()
    return page.locator("#txt2img_prompt textarea").input_value()


def test_a_card_goes_into_the_prompt_and_out_again(page):
    box = page.locator("#txt2img_prompt textarea")
    box.fill("a fox, snow")
    assert click_card(page, "one.safetensors") == "a fox, snow <vae:one.safetensors>"
    assert click_card(page, "sub/flux.safetensors") == "a fox, snow <vae:sub/flux.safetensors>"  # in its place
    assert click_card(page, "sub/flux.safetensors") == "a fox, snow"
    box.fill("a fox <vae:ONE.safetensors:1>, snow \\<vae:kept>")  # as a hand may have written it
    assert click_card(page, "one.safetensors") == "a fox, snow \\<vae:kept>"
    box.fill("")
    assert click_card(page, "odd (1)+[x].safetensors") == "<vae:odd (1)+[x].safetensors>"
    assert click_card(page, "odd (1)+[x].safetensors") == ""


def test_a_card_of_another_family_says_so_when_the_checkpoint_changes(page):
    card = page.locator('#txt2img_vae_cards .card[data-name="sub/flux.safetensors"]')
    marked = page.locator(".card[data-name^=sub].vae-manager-unfit")
    switch(page, "first.safetensors")
    marked.wait_for()
    assert "is made for Flux" in card.get_attribute("title") or "16" in card.get_attribute("title")
    switch(page, "second.safetensors")
    marked.wait_for(state="detached")
