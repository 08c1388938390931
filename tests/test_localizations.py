"""The languages: every label, button, title and sentence of ours, in each of them, and nothing else."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.sentences import sentences
from vae_manager.selection.page_fields import PAGE_FIELDS
from vae_manager.selection.settings import TABLE
from vae_manager.webui import options

ROOT = Path(__file__).parents[1]
LANGUAGES = ("zh_CN", "zh_TW", "ja_JP", "ko_KR")
FILES = (
    *(ROOT / "vae_manager" / "webui" / name for name in ("panel.py", "fill_row.py", "preset_list.py")),
    ROOT / "vae_manager" / "page" / "views.py",
    ROOT / "scripts" / "vae_manager_extras.py",
)

SPEAKING = ("gr.Button", "gr.UploadButton", "gr.Accordion", "gr.Tab", "gr.HTML")
"""Components whose first argument is a text that people read."""

PLACE = re.compile(r"\{\d\}")

NAMED = {"VAE Manager"}
"""Names that are the same in every language."""


def shown(path: Path) -> Iterator[str]:
    """The constant texts that a file gives to components of Gradio's: their labels, and what stands on them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        yield from (key.value.value for key in node.keywords if key.arg in ("label", "info") and _is_text(key.value))
        called = ast.unparse(node.func)
        at = {"vae_list": 1, "slider": 1}.get(called, 0 if called in SPEAKING else len(node.args))
        if at < len(node.args) and _is_text(node.args[at]):
            yield node.args[at].value


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(node.value)


def settings_labels() -> Iterator[str]:
    labels: list[str] = []
    opts = SimpleNamespace(add_option=lambda key, info: labels.append(info))
    options.add_options(SimpleNamespace(opts=opts, OptionInfo=lambda default, label, *_, **__: label), None, forge=True)
    return iter(labels)


def catalogue() -> set[str]:
    """Every one of them."""
    texts = {text for path in FILES for text in shown(path)}
    texts |= {setting.label for setting in TABLE.values()} | {field.label for field in PAGE_FIELDS.values()}
    return ((texts | set(settings_labels())) - NAMED) | sentences()


def words(language: str) -> dict[str, str]:
    return json.loads((ROOT / "localizations" / f"{language}.json").read_text(encoding="utf-8"))


def test_the_catalogue_has_what_people_see():
    found = catalogue()
    assert {"VAE", "Decode", "Colour", "Fill in", "Undo", "Presets", "Library", "Sampler", "Strength"} <= found
    assert any("Memory for VAEs" in text for text in found)
    assert {"{0} cannot be used: {1}.", "the prompt asks for {0}", "VAE Manager: refused"} <= found  # sentences
    assert {"{0} of {1} VAEs", "it is not there any more; refresh the list", "Last picture: {0}"} <= found


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_left_in_english_and_nothing_is_translated_that_is_not_there(language: str):
    given = words(language)
    assert sorted(catalogue() - given.keys()) == []
    assert sorted(given.keys() - catalogue()) == []
    assert all(isinstance(text, str) and text.strip() for text in given.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_places_of_the_sentence(language: str):
    for key, text in words(language).items():
        assert set(PLACE.findall(text)) == set(PLACE.findall(key)), (key, text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_holds_no_markup(language: str):
    texts = (re.sub(r"<vae:[-\w]*>", "", text) for text in words(language).values())
    assert not [text for text in texts if set("<>&") & set(text)]


def parts_of(name: str) -> list[str]:
    """A README without its words: headings by their level, pictures, tables by their columns, items, commands."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    patterns = (r"#+ ", r"\s*!\[[^]]*\]\(.*\)", r"- ", r"\d\. ", r"    \S+ \S+")
    found = []
    for line in lines:
        if line.startswith("|"):
            found.append(f"{line.count('|')} columns")
        elif match := next(filter(None, (re.match(pattern, line) for pattern in patterns)), None):
            found.append(re.sub(r"\[[^]]*\]", "[]", match[0].strip()))
    return found


def test_the_chinese_readme_has_every_part_of_the_english_one():
    assert parts_of("README.zh-CN.md") == parts_of("README.md")
    assert len(parts_of("README.md")) > 80
