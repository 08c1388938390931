"""A WebUI's own page, driven by Chromium."""

from __future__ import annotations

import contextlib
import io
import shutil
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.live.harness import TIMEOUT, WebUI

CHROMIUM = shutil.which("chromium")


@contextlib.contextmanager
def open_page(webui: WebUI, theme: str = "dark") -> Iterator[WebPage]:
    """The WebUI's page, ready to be used."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1400})
        page.set_default_timeout(TIMEOUT * 1000)
        page.goto(f"http://127.0.0.1:{webui.port}/?__theme={theme}")
        page.wait_for_selector("#txt2img_generate")
        page.wait_for_selector("#vae_manager_txt2img-visible-checkbox")
        try:
            yield WebPage(page)
        finally:
            browser.close()


FOLDS = {
    "save": ("preset", "Presets"),
    "forget": ("preset", "Presets"),
    "reference": ("more", "More"),
    "calibrate": ("more", "More"),
}
"""Which part of the panel holds an element, and that part's title."""


class WebPage:
    """What a person does on the page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def tab(self, name: str) -> None:
        self.page.locator("#tabs > .tab-nav button", has_text=name).first.click()

    def set_number(self, element: str, value: int) -> None:
        box = self.page.locator(f"#{element} input[type=number]").first
        box.fill(str(value))
        box.press("Tab")

    def small(self, tab: str = "txt2img") -> None:
        for element, value in ((f"{tab}_width", 64), (f"{tab}_height", 64), (f"{tab}_steps", 2)):
            self.set_number(element, value)

    def is_on(self, tab: str = "txt2img") -> bool:
        return self.page.locator(f"#vae_manager_{tab}-visible-checkbox").is_checked()

    def switch_on(self, tab: str = "txt2img") -> None:
        if not self.is_on(tab):
            self.page.locator(f"#vae_manager_{tab} .label-wrap span").first.click()  # the header is the switch
        self.box(tab).wait_for(state="visible")

    def box(self, tab: str = "txt2img") -> Any:
        return self.page.locator(f"#vae_manager_{tab}_vae input").first

    def choose(self, name: str, tab: str = "txt2img") -> None:
        self.box(tab).click()
        self.box(tab).fill(name)
        self.box(tab).press("Enter")

    def pick(self, name: str, value: str, tab: str = "txt2img") -> None:
        """One of the panel's radio buttons."""
        self.page.click(f"#vae_manager_{tab}_{name} label:has-text('{value}')")

    def unfold(self, name: str, tab: str = "txt2img") -> None:
        """Open the part of the panel that holds an element, unless it is open."""
        if not self.page.locator(f"#vae_manager_{tab}_{name}").first.is_visible():
            part, title = FOLDS[name]
            self.page.locator(f"#vae_manager_{tab}_{part}").get_by_text(title, exact=True).first.click()

    def press(self, name: str, tab: str = "txt2img") -> None:
        """One of the panel's buttons."""
        self.unfold(name, tab)
        self.page.click(f"#vae_manager_{tab}_{name}")

    def calibrate(self, reference: str, tab: str = "txt2img") -> str:
        """Press Calibrate with a reference VAE, and return what it says."""
        self.unfold("reference", tab)
        box = self.page.locator(f"#vae_manager_{tab}_reference input").first
        box.click()
        box.fill(reference)
        box.press("Enter")
        self.press("calibrate", tab)
        self.page.locator(f"#vae_manager_{tab}_about", has_text="alibrat").first.wait_for()
        return self.about(tab)

    def about(self, tab: str = "txt2img") -> str:
        return self.page.locator(f"#vae_manager_{tab}_about").first.inner_text()

    def generate(self, tab: str = "txt2img") -> np.ndarray:
        """Press Generate and return the new picture."""
        pictures = self.page.locator(f"#{tab}_gallery img")
        old = pictures.first.get_attribute("src") if pictures.count() else None
        self.page.click(f"#{tab}_generate")
        self.page.wait_for_function(
            "([tab, old]) => { const i = document.querySelector(`#${tab}_gallery img`); return i && i.src !== old; }",
            arg=[tab, old and self.page.evaluate("s => new URL(s, document.baseURI).href", old)],
        )
        source = self.page.evaluate("tab => document.querySelector(`#${tab}_gallery img`).src", tab)
        with urllib.request.urlopen(source, timeout=60) as answer:
            return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB")).astype(int)

    def infotext(self, tab: str = "txt2img") -> str:
        return self.page.locator(f"#html_info_{tab}").first.inner_text()

    def comments(self, tab: str = "txt2img") -> str:
        return self.page.locator(f"#html_log_{tab} .comments").first.inner_text()

    def paste(self, infotext: str, tab: str = "txt2img") -> None:
        self.page.locator(f"#{tab}_prompt textarea").first.fill(infotext)
        self.page.locator(f"#{tab}_tools #paste").first.click()
