"""The list of presets without a page: `test_panel.py` presses its buttons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vae_manager.selection.decision import Step
from vae_manager.selection.presets import Presets
from vae_manager.webui.kept_presets import export_file, import_file, presets_html, remove_one
from vae_manager.webui.trace import trace_html


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    path = tmp_path / "presets.json"
    same = [{"checkpoint": {"name": "a.ckpt", "print": digit * 32}, "vae": digit} for digit in "ab"]
    path.write_text(json.dumps({"version": 1, "presets": [*same, {"checkpoint": {"name": "c.ckpt"}, "vae": "<c>"}]}))
    return Presets(path)


def test_two_of_one_name_are_told_apart(presets: Presets):
    assert remove_one(presets, "a.ckpt") == "There is no preset of a.ckpt any more."
    assert remove_one(presets, "a.ckpt [bbbbbbbb]") == "Removed the preset of a.ckpt [bbbbbbbb]."
    assert [preset.vae.name for _, preset in presets.all()] == ["a", "<c>"]


def test_what_another_process_has_removed_is_noticed(presets: Presets):
    presets.path.write_text(json.dumps({"version": 1, "presets": []}))
    assert remove_one(presets, "c.ckpt") == "There is no preset of c.ckpt any more."
    assert presets_html(presets) == "<p>No preset is kept yet.</p>"
    assert export_file(presets) == ("No preset is kept yet.", None)


def test_every_text_is_escaped(presets: Presets):
    assert "<c>" not in presets_html(presets) and "&lt;c&gt;" in presets_html(presets)
    assert trace_html([Step("panel", "refused", "<b>")]).count("&lt;b&gt;") == 1
    assert trace_html([]) == ""


def test_export_and_import(presets: Presets, tmp_path: Path):
    sentence, path = export_file(presets)
    assert sentence == "Wrote 3 presets to vae-manager-presets.json; download it below." and path is not None
    other = Presets(tmp_path / "other.json")
    assert import_file(other, path, False) == "Took over 3 presets."
    assert other.all() == presets.all() and import_file(other, path, False) == "Took over 0 presets."
    assert import_file(other, path, True) == "Took over 3 presets."


def test_a_bad_file_is_one_sentence_without_the_servers_folders(presets: Presets, tmp_path: Path):
    bad = tmp_path / "bad.json"
    bad.write_text("[")
    before = presets.path.read_bytes()
    said = import_file(presets, bad, True)
    assert "bad.json" in said and str(tmp_path) not in said and said.count(".") <= 3
    assert presets.path.read_bytes() == before
