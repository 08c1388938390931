"""The page VAE among the extra networks, in a WebUI that puts what it is given into HTML as the hosts do."""

from __future__ import annotations

import html
import json
import os
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.conftest import FLUX
from vae_manager.library.files import Folder, find_vaes
from vae_manager.library.hashing import HashCache
from vae_manager.selection.facts import FactsCache
from vae_manager.selection.prompt_tags import take_vae_tag, vae_tag
from vae_manager.webui.hosts.cards_page import register_cards
from vae_manager.webui.offers import offers_html, offers_of

MARKUP = "<img src=x onerror=alert(1)>'\"&.safetensors"


class ExtraNetworksPage:
    """What the hosts' own class does with an item, as far as it concerns us: only the name is escaped."""

    def __init__(self, title: str) -> None:
        self.title, self.name, self.items = title, title.lower(), {}

    def search_terms_from_path(self, path: str) -> str:
        return os.path.relpath(path, os.path.dirname(self.allowed_directories_for_previews()[0]))

    def find_preview(self, stem: str) -> str | None:
        return f"./thumb?filename={stem}.png" if os.path.isfile(f"{stem}.png") else None

    def find_description(self, stem: str) -> str | None:
        return Path(f"{stem}.txt").read_text() if os.path.isfile(f"{stem}.txt") else None

    def get_sort_keys(self, path: str) -> dict[str, Any]:
        return {"name": os.path.basename(path).lower(), "path": path}

    def read_user_metadata(self, item: dict[str, Any]) -> None:
        notes = os.path.splitext(item["filename"])[0] + ".json"
        item["user_metadata"] = json.loads(Path(notes).read_text()) if os.path.isfile(notes) else {}
        if description := item["user_metadata"].get("description"):
            item["description"] = description

    def create_item_html(self, tabname: str, item: dict[str, Any], template: str | None = None) -> Any:
        clicked = html.escape(f"cardClicked('{tabname}', {item['prompt']}, '', false);")
        terms = "".join(f"<span class='search_terms'>{term}</span>" for term in item["search_terms"])
        args = {
            "name": html.escape(item["name"]),
            "card_clicked": clicked,
            "copy_path_button": f'<div data-clipboard-text="{item["filename"]}"></div>',
            "search_terms": terms,
            "description": html.escape(item["description"]),
        }
        return template.format(**args) if template else args

    def create_tree_dir_item_html(self, tabname: str, dir_path: str, content: str | None = None) -> str:
        return f'<li data-path="{dir_path}">{os.path.basename(dir_path)}<ul>{content}</ul></li>'

    def create_tree_file_item_html(self, tabname: str, file_path: str, item: dict[str, Any]) -> str:
        args = self.create_item_html(tabname, item)
        return f'<div onclick="{args["card_clicked"]}" data-path="{file_path}">{item["name"]}{item["shorthash"]}</div>'


CARD = (
    '<div class="card" onclick="{card_clicked}" data-name="{name}">{copy_path_button}{search_terms}{description}</div>'
)


class Seen(HTMLParser):
    """The elements of a piece of HTML with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str] = {}
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {key: value or "" for key, value in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    networks: Any = ModuleType("modules.ui_extra_networks")
    networks.ExtraNetworksPage, networks.register_page = ExtraNetworksPage, found.append
    networks.quote_js = lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    modules: Any = ModuleType("modules")
    modules.ui_extra_networks = networks
    modules.shared = SimpleNamespace(opts=SimpleNamespace(samples_format="png"))
    for name, module in (("modules", modules), ("modules.ui_extra_networks", networks)):
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.fixture
def page(pages: list[Any], tmp_path: Path, write_vae: Any) -> Any:
    write_vae("VAE/a.safetensors", scale_factor="0.18215")
    write_vae(f"VAE/<b>/{MARKUP}", FLUX)
    (tmp_path / "VAE" / "broken.safetensors").write_bytes(b"\x10")
    folders = [Folder(tmp_path / "VAE"), Folder(tmp_path / "models", marked_only=True)]
    asked: list[bool] = []

    def offers(again: bool):
        asked.append(again)
        return offers_of(find_vaes(folders), FactsCache(), HashCache(None), None)

    register_cards(offers, lambda: folders)
    (page,) = pages
    page.asked = asked
    return page


def test_a_card_says_what_its_vae_is_and_asks_for_it_by_a_tag(page: Any):
    items = {item["name"]: item for item in page.list_items()}
    card = items["a.safetensors"]
    assert page.title == "VAE" and "Stable Diffusion 1.x and 2.x" in card["description"]
    assert json.loads(card["prompt"]) == "<vae:a.safetensors>"
    assert (
        "cannot be used" not in card["description"] and "cannot be used" in items["broken.safetensors"]["description"]
    )
    assert list(items)[-1] == "broken.safetensors"
    assert page.create_item("a.safetensors", enable_filter=False)["prompt"] == card["prompt"]
    page.refresh()
    assert page.asked[-1] is True


def test_the_users_own_notes_and_preview_are_used_as_for_loras(page: Any, tmp_path: Path):
    (tmp_path / "VAE" / "a.png").write_bytes(b"")
    (tmp_path / "VAE" / "a.txt").write_text("mine")
    assert page.create_item("a.safetensors")["description"] == "mine"
    (tmp_path / "VAE" / "a.json").write_text('{"description": "from the editor"}')
    card = page.create_item("a.safetensors")
    assert card["description"] == "from the editor" and card["preview"].endswith("a.png")
    assert card["local_preview"] == str(tmp_path / "VAE" / "a.png")
    assert page.allowed_directories_for_previews() == [str(tmp_path / "VAE")]


def test_a_name_is_never_markup(page: Any, tmp_path: Path):
    item = page.create_item(f"<b>/{MARKUP}")
    assert item is None  # no tag can hold '<'
    write = tmp_path / "VAE" / 'it\'s "x" & y>z.safetensors'
    write.write_bytes((tmp_path / "VAE" / "a.safetensors").read_bytes())
    item = page.create_item(write.name)
    card = Seen(page.create_item_html("txt2img", item, CARD))
    assert card.tags == ["div", "div", *["span"] * card.tags.count("span")]
    assert card.attributes["data-name"] == write.name and card.attributes["data-clipboard-text"] == str(write)
    path = str(tmp_path / "<b>&\"'" / "VAE" / "a.safetensors")
    leaf = Seen(page.create_tree_file_item_html("txt2img", path, item))
    assert leaf.tags == ["div"] and leaf.attributes["data-path"] == path and leaf.text == write.name
    folder = Seen(page.create_tree_dir_item_html("txt2img", "x/<i onclick='y'>\"", "z"))
    assert folder.tags == ["li", "ul"] and "<i" in folder.text


def test_one_strange_file_does_not_take_the_page_down(page: Any, tmp_path: Path):
    (tmp_path / "VAE" / "a.json").write_text("{")
    assert [item["name"] for item in page.list_items()] == ["broken.safetensors"]


@pytest.mark.parametrize("name", ["a.pt", "sub/a b.vae.pt", "a>b.pt", "odd (1)+[x].pt", "v:1", "v:1.5", "a\\b.pt"])
def test_a_tag_asks_for_just_this_name(name: str):
    assert take_vae_tag(f"x {vae_tag(name)}").vae == name


@pytest.mark.parametrize("name", ["a<b.pt", "a\nb.pt", " a.pt", ""])
def test_what_no_tag_can_hold_has_none(name: str):
    assert vae_tag(name) is None


def test_what_the_scripts_read_is_data(tmp_path: Path, write_vae: Any):
    write_vae(MARKUP)
    offers = offers_of(find_vaes([Folder(tmp_path)]), FactsCache(), HashCache(None), None)
    seen = Seen(offers_html(offers))
    assert seen.tags == ["div"] and json.loads(seen.attributes["data-vaes"])[0][0] == MARKUP
