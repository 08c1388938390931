"""The page VAE among the extra networks, a preset that fills the page, and the tab, in the WebUI's own page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.browser import CHROMIUM, WebPage, open_page
from tests.live.harness import WebUI
from tests.live.test_choice import RED

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
]


@pytest.fixture
def page(house: WebUI) -> Iterator[WebPage]:
    with open_page(house) as page:
        yield page


def test_a_card_goes_into_the_prompt_and_out_again(page: WebPage):
    browser = page.page
    browser.locator("#txt2img_extra_tabs > .tab-nav button", has_text="VAE").first.click()
    card = browser.locator(f'#txt2img_vae_cards .card[data-name="{RED}"]')
    card.wait_for(state="visible")
    assert "MB" in card.inner_text()
    card.click()
    prompt = browser.locator("#txt2img_prompt textarea").first
    assert prompt.input_value() == f"<vae:{RED}>"
    card.click()
    assert prompt.input_value() == ""


CHECKPOINT = ":is(#setting_sd_model_checkpoint, #quicksettings .model_selection) input"


def test_the_line_follows_the_checkpoint_that_is_chosen_on_the_page(page: WebPage):
    page.switch_on()
    for name in ("tiny-b", "tiny-a"):
        page.page.locator(CHECKPOINT).first.click()
        page.page.locator("ul.options li", has_text=name).first.click()
        page.page.locator("#vae_manager_txt2img_about", has_text=f"Automatic: {name}.safetensors").first.wait_for()


def test_a_preset_is_offered_filled_in_and_undone(page: WebPage, house: WebUI):
    house.generate()  # Forge loads a model with its first picture
    browser = page.page
    browser.reload()
    browser.wait_for_selector("#vae_manager_txt2img-visible-checkbox")
    page.switch_on()
    page.set_number("txt2img_steps", 7)
    page.unfold("save")
    browser.locator("#vae_manager_txt2img_ticks").get_by_label("Steps", exact=True).check()
    page.press("save")
    try:
        offer = browser.locator("#vae_manager_txt2img_offer", has_text="7 steps").first
        offer.wait_for()
        page.set_number("txt2img_steps", 3)
        page.press("apply")
        steps = "() => document.querySelector('#txt2img_steps input[type=number]').value === "
        browser.wait_for_function(steps + "'7'")
        page.press("undo")
        browser.wait_for_function(steps + "'3'")
    finally:
        page.press("forget")


def test_the_tab_opens_its_library(page: WebPage):
    page.tab("VAE Manager")
    row = page.page.locator("#vae_manager_page_library td", has_text=RED).first
    row.wait_for(state="visible")
    row.locator("button").click()
    page.page.locator("#vae_manager_page_details caption", has_text=RED).first.wait_for()
