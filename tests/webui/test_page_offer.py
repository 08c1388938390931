"""What the page is offered for a checkpoint, without a page: `test_panel.py` presses the buttons."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.conftest import make_state
from tests.webui.test_session import OneModel
from vae_manager.selection.settings import PanelSettings
from vae_manager.webui import page_offer
from vae_manager.webui.hosts.page_components import PageComponents
from vae_manager.webui.page_offer import PageWish, fill
from vae_manager.webui.paste import on_pasted
from vae_manager.webui.presets import forget_preset, save_preset
from vae_manager.webui.session import Session

NOW = {"sampler": "Euler", "steps": 20, "cfg": 7, "width": 512, "height": 512}
PAGE = {
    "sampler": SimpleNamespace(choices=[("Euler", "Euler"), ("Euler a", "Euler a")]),
    "steps": SimpleNamespace(minimum=1, maximum=150),
    "cfg": SimpleNamespace(minimum=1, maximum=30),
}


def offer(session: Session) -> page_offer.PageOffer:
    return page_offer.page_offer(session.shelf)


def test_filling_changes_what_it_must_and_says_what_it_cannot():
    done = fill({"sampler": "DDIM", "steps": 28, "cfg": 7, "hires_steps": 9}, PAGE, NOW)
    assert done.now == {"steps": 28} and done.before == {"steps": 20}
    assert done.sentence == "Filled in: 28 steps. Not on this page: Sampler DDIM."
    assert fill({"steps": 151}, {"steps": SimpleNamespace(minimum=1, maximum=99)}, NOW).now == {}
    assert fill({"cfg": 7}, PAGE, NOW).sentence == "It stands there already."


def test_a_preset_keeps_the_ticked_fields_and_those_of_the_other_tab(session: Session):
    wish = PageWish(("steps", "hires_steps", "nonsense"), NOW, by_itself=True)
    assert wish.values({"hires_steps": 12, "cfg": 3}) == {"hires_steps": 12, "steps": 20}
    assert "Saved" in save_preset(session.shelf, PanelSettings(True), wish)
    found = offer(session)
    assert (dict(found.values), found.of, found.by_itself) == ({"steps": 20}, "preset", True)
    assert "20 steps" in found.sentence
    forget_preset(session.shelf)
    assert not offer(session).values


def test_by_itself_means_nothing_without_a_field(session: Session):
    save_preset(session.shelf, PanelSettings(True, "b.safetensors"), PageWish((), NOW, by_itself=True))
    found = offer(session)
    assert not found.by_itself and not found.ticked and found.sentence == ""


def test_a_paste_and_a_job_win(session: Session, host: OneModel, monkeypatch: pytest.MonkeyPatch):
    save_preset(session.shelf, PanelSettings(True), PageWish(("steps",), NOW, by_itself=True))
    assert offer(session).by_itself
    on_pasted({"Steps": 30}, session.shelf)
    assert not offer(session).by_itself and offer(session).ticked and offer(session).values
    session.shelf.pasted -= page_offer.PASTE_WINS
    assert offer(session).by_itself
    monkeypatch.setattr(host, "busy", lambda: True)
    assert not offer(session).by_itself


def test_what_a_checkpoint_says_of_itself_is_offered_until_there_is_a_preset(
    session: Session, host: OneModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "said.safetensors"
    save_file(make_state(), str(path), {"modelspec.resolution": "1024x768"})
    monkeypatch.setattr(host, "next_checkpoint", lambda: (path, path.name))
    found = offer(session)
    assert (dict(found.values), found.of, found.by_itself) == ({"width": 1024, "height": 768}, "metadata", False)
    monkeypatch.setattr(host, "next_checkpoint", lambda: None)
    assert offer(session) == page_offer.PageOffer()
    monkeypatch.setattr(host, "next_checkpoint", lambda: 1 / 0)
    assert offer(session) == page_offer.PageOffer()  # one strange file never takes the panel down


# --- finding the page's components


def component(elem_id: object) -> Any:
    return SimpleNamespace(elem_id=elem_id)


def test_a_tab_is_connected_once_when_its_inputs_are_there():
    components, got = PageComponents(), []
    steps, width = component("txt2img_steps"), component("img2img_width")
    for one in (component(None), component(3), component("txt2img_generate"), steps):
        components.see(one)
    components.when_complete("txt2img", got.append)
    components.see(component("txt2img_gallery"))
    assert got == [{"steps": steps}]
    components.see(width)
    components.when_complete("img2img", got.append)
    components.see(component("img2img_gallery"))
    assert got[1:] == [{"width": width}]
    components.when_complete("txt2img", got.append)  # for the API's defaults, beside the page
    assert len(got) == 2


def test_a_panel_below_the_gallery_is_connected_too_and_a_new_page_begins_anew():
    components, got = PageComponents(), []
    components.see(component("txt2img_gallery"))
    components.when_complete("txt2img", got.append)
    assert got == [{}]
    components.begin()
    components.see(component("txt2img_hires_steps"))
    components.when_complete("txt2img", got.append)
    components.see(component("txt2img_gallery"))
    assert list(got[1]) == ["hires_steps"]


def test_what_fails_while_connecting_does_not_take_the_page_down():
    components = PageComponents()
    components.when_complete("txt2img", lambda page: 1 / 0)
    components.see(component("txt2img_gallery"))
