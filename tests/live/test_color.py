"""Colours in a running WebUI: a washed-out VAE, values by hand, a picture to match, old pictures, and no harm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.live.browser import CHROMIUM, open_page
from tests.live.conftest import HIRES, Reference, run_job
from tests.live.harness import Pictures, WebUI, encoded
from tests.live.models import write_real, write_washed_out
from tests.live.test_jobs import identical, same
from vae_manager.codec.whole import encode, latent_of
from vae_manager.color.difference import delta_e
from vae_manager.commands.demo import DATA, GOOD
from vae_manager.library.files import vae_file
from vae_manager.library.probe import PICTURES, bundled_pictures
from vae_manager.library.state import load_kl

RED, PALE = "tint-red.safetensors", "pale-red.safetensors"
CONTRAST = 0.7

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module", autouse=True)
def pale(webui: WebUI) -> Iterator[None]:
    path = webui.vaes / PALE
    write_washed_out(webui.vaes / RED, path, CONTRAST)
    webui.get("/vae-manager/v1/vaes?refresh=true")
    yield
    path.unlink()
    webui.get("/vae-manager/v1/vaes?refresh=true")


def difference(one: Pictures, other: Pictures) -> float:
    """Mean CIEDE2000."""
    return delta_e(*(torch.from_numpy(p.pixels[0]).permute(2, 0, 1).float() / 255 for p in (one, other)))


def warning(pictures: Pictures) -> str:
    return pictures.info["extra_generation_params"].get("VAE Manager warning", "")


def as_png(pictures: Pictures) -> str:
    return encoded(Image.fromarray(pictures.pixels[0].astype(np.uint8)))


@pytest.mark.browser
@needs_browser
def test_calibrated_on_the_page_and_then_right(webui: WebUI):
    """The picture of the washed-out VAE is that of the reference VAE, and says why."""
    good = webui.generate(ours=[{"vae": RED}], seed=5)
    pale = webui.generate(ours=[{"vae": PALE}], seed=5)
    with open_page(webui) as page:
        page.small()
        page.switch_on()
        page.choose(PALE)
        page.pick("color", "auto")
        page.generate()
        said = page.calibrate(RED)
    assert said.startswith("Calibrated on") and RED in said
    mended = webui.generate(ours=[{"vae": PALE, "color": "auto"}], seed=5)
    assert difference(pale, good) > 4
    assert difference(mended, good) < 0.5
    (text,) = mended.infotexts
    assert "color=auto" in text
    assert "VAE Manager color: " in text and "was calibrated against a reference VAE; corrected" in text
    half = webui.generate(ours=[{"vae": PALE, "color": "auto", "color_strength": 0.5}], seed=5)
    assert 0.35 < difference(half, good) / difference(pale, good) < 0.65
    # the reference VAE itself was not calibrated
    assert same(webui.generate(ours=[{"vae": RED, "color": "match"}], seed=5), good)


def test_by_hand(webui: WebUI):
    plain = webui.generate(ours=[{"vae": RED}])
    ours = {"vae": RED, "color": "manual", "contrast": 0.8, "brightness": 0.05, "saturation": 0.5}
    done = webui.generate(ours=[ours])
    v = plain.pixels[0] / 255
    luma = v @ [0.2126, 0.7152, 0.0722]
    expected = (0.8 * (luma[..., None] + 0.5 * (v - luma[..., None]) - 0.5) + 0.55) * 255
    assert np.abs(done.pixels[0] - expected).max() <= 1.6  # both were rounded
    assert "color=manual; contrast=0.8; brightness=0.05; saturation=0.5" in done.infotexts[0]
    positional = webui.generate(ours=[True, RED, "same", "same", "auto", "manual", 1.0, 0.8, 0.05, 0.5])
    assert same(positional, done)
    assert "contrast must be a number" in warning(webui.generate(ours=[{**ours, "contrast": "much"}]))


def test_a_picture_to_match(webui: WebUI):
    good = webui.generate(ours=[{"vae": RED}], seed=6)
    pale = webui.generate(ours=[{"vae": PALE}], seed=6)
    matched = webui.generate(ours=[{"vae": PALE, "color": "match", "reference": as_png(good)}], seed=6)
    assert difference(pale, good) > 4 and difference(matched, good) < 0.5
    assert "held against the reference picture; corrected" in matched.infotexts[0]
    other = as_png(webui.generate(ours=[{"vae": RED}], seed=7))
    refused = webui.generate(ours=[{"vae": PALE, "color": "match", "reference": other}], seed=6)
    assert same(refused, pale) and "the reference picture shows something else" in warning(refused)
    none = webui.generate(ours=[{"vae": PALE, "color": "match"}], seed=6)
    assert same(none, pale) and "there is no picture to match" in warning(none)
    broken = webui.generate(ours=[{"vae": PALE, "color": "match", "reference": "/etc/hostname"}], seed=6)
    assert same(broken, pale) and "The reference is not a picture that can be read" in warning(broken)


def test_off_is_off(webui: WebUI, reference: Reference):
    picture = as_png(reference.red["txt2img"])
    unused = {"contrast": 0.5, "saturation": 0.0, "reference": picture}
    assert identical(webui.generate(ours=[{"enabled": False, "color": "manual", **unused}]), reference.baked["txt2img"])
    assert same(webui.generate(ours=[{"vae": "Baked", "color": "off", **unused}]), reference.baked["txt2img"])
    assert identical(webui.generate(), reference.baked["txt2img"])


def test_hires_fix_with_another_vae_for_the_second_pass(webui: WebUI):
    """Random weights give no picture back, so the first pass shows something else: it is not gone by."""
    if not webui.has_upscaler("Lanczos"):
        pytest.skip("this host has no upscaler 'Lanczos'")
    job = {**HIRES, "hr_upscaler": "Lanczos", "batch_size": 2}
    plain = webui.generate(ours=[{"vae": RED, "hires_vae": "tint-blue"}], **job)
    auto = webui.generate(ours=[{"vae": RED, "hires_vae": "tint-blue", "color": "auto"}], **job)
    assert same(auto, plain) and plain.tint() == "blue"
    assert warning(auto) == "" and "first pass" not in "".join(auto.infotexts)
    assert "could not note" not in webui.log


def test_a_fault_in_the_colours_leaves_the_pictures_and_is_told_once(webui: WebUI, reference: Reference):
    plain = run_job(webui, "batches", ours=[{"vae": RED}])
    failed = run_job(webui, "batches", ours=[{"vae": RED, "color": "auto"}], fault="color")
    assert same(failed, plain)
    assert warning(failed).count("could not finish the picture") == 1
    assert identical(run_job(webui, "batches"), reference.baked["batches"])


@pytest.mark.browser
@needs_browser
def test_old_pictures_in_the_extras_tab(webui: WebUI, tmp_path: Path):
    good = Image.open(sorted(PICTURES.glob("*.*"))[0]).convert("RGB").resize((256, 256))
    pale = Image.fromarray((np.asarray(good) * 0.5 + 64).astype(np.uint8))
    pale.save(tmp_path / "pale.png")
    before = np.asarray(pale).astype(int)
    with open_page(webui) as page:
        page.tab("Extras")
        page.page.locator("#extras_image input[type=file]").first.set_input_files(tmp_path / "pale.png")
        page.page.locator("#extras_image img").first.wait_for()
        untouched = page.generate("extras")
        assert np.array_equal(untouched, before)
        page.page.locator("#vae_manager_extras .label-wrap span").first.click()
        page.page.locator("#vae_manager_extras_contrast").wait_for(state="visible")
        mended = page.generate("extras")
        assert mended.std() > 1.3 * before.std()
        info = page.page.locator("#html_info_x_extras, #html_info_extras").first
        page.page.locator("#html_info_x_extras, #html_info_extras", has_text="VAE Manager color").first.wait_for()
        assert "washed out" in info.inner_text() or "washed out" in page.page.locator("#html_info_extras").inner_text()


REAL, REAL_PALE = "real.safetensors", "real-pale.safetensors"


@pytest.fixture(scope="module")
def photographs(webui: WebUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """VAEs that give pictures back, a sound one and one with lost contrast, and the jobs' faults that make photographs
    of what was sampled: random weights paint none."""
    write_real(webui.vaes / REAL)
    write_real(webui.vaes / REAL_PALE, CONTRAST)
    webui.get("/vae-manager/v1/vaes?refresh=true")
    vae, folder = load_kl(vae_file(DATA / GOOD)), tmp_path_factory.mktemp("latents")
    faults = []
    for index, picture in enumerate(bundled_pictures(128)):
        with torch.no_grad():
            np.save(folder / f"{index}.npy", latent_of(encode(vae, picture[None]))[0].numpy() * 0.18215)
        faults.append(f"latent:{folder / f'{index}.npy'}")
    yield faults
    for name in (REAL, REAL_PALE):
        (webui.vaes / name).unlink()
    webui.get("/vae-manager/v1/vaes?refresh=true")


def photograph(webui: WebUI, vae: str, color: str, fault: str) -> Pictures:
    return webui.generate(ours=[{"vae": vae, "color": color}], fault=fault, width=128, height=128, steps=1)


def examined(webui: WebUI) -> None:
    """Wait until the background has nothing more to look at."""
    until = time.monotonic() + 900
    while webui.get("/vae-manager/v1/status")["examining"]["current"] is not None:
        assert time.monotonic() < until, "the background does not come to an end"
        time.sleep(1)


def test_a_vae_that_lost_contrast_is_found_by_its_round_trip(webui: WebUI, photographs: list[str]):
    """The first picture makes the background ask the VAE; from then on its pictures are the sound one's."""
    first, *others = photographs
    photograph(webui, REAL_PALE, "auto", first)
    examined(webui)
    for fault in others[:3]:
        good = photograph(webui, REAL, "off", fault)
        pale = photograph(webui, REAL_PALE, "off", fault)
        mended = photograph(webui, REAL_PALE, "auto", fault)
        assert "its VAE gives pictures back paler than they were" in mended.infotexts[0]
        assert difference(pale, good) > 4
        assert difference(mended, good) < 1
    sound = [photograph(webui, REAL, "auto", fault) for fault in others[:3]]
    assert all(same(picture, photograph(webui, REAL, "off", fault)) for picture, fault in zip(sound, others))
