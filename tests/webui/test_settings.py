"""The table of settings: each of its lines goes every way that a setting goes, by the line alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vae_manager.selection.checkpoint import open_checkpoint
from vae_manager.selection.presets import Preset, Presets
from vae_manager.selection.rules import parse_rules
from vae_manager.selection.settings import KEPT, RULED, TABLE, PanelSettings, Setting, said_by, with_said
from vae_manager.webui.arguments import from_arguments
from vae_manager.webui.infotext import Recorded, read, write

SAYABLE = [setting for setting in TABLE.values() if setting.kind not in ("switch", "picture")]


def other(setting: Setting) -> Any:
    """A value that is not the default."""
    if setting.kind == "number":
        return round((setting.least + setting.default) / 2, 3)
    return next((choice for choice in setting.choices if choice != setting.default), "a.safetensors")


def asking(setting: Setting) -> PanelSettings:
    """Settings with that value, in a mode in which it means something."""
    leads = {}
    if setting.of:
        leads = {setting.of: setting.mode or other(TABLE[setting.of])}
    return replace(PanelSettings(), **leads, **{setting.name: other(setting)})


def test_the_positions_of_the_api_are_never_moved():
    first = ["enabled", "vae", "encode_vae", "hires_vae", "decode", "color", "color_strength", "contrast", "brightness"]
    assert list(TABLE)[: len(first) + 3] == [*first, "saturation", "reference", "padding"]


@pytest.mark.parametrize("setting", SAYABLE, ids=lambda setting: setting.name)
def test_a_setting_comes_through_the_api_and_the_infotext(setting: Setting):
    asked = asking(setting)
    values = {name: getattr(asked, name) for name in TABLE if getattr(asked, name) is not None}
    assert from_arguments([values]) == asked
    assert from_arguments([getattr(asked, name) for name in TABLE]) == asked
    line = write(Recorded(asked))
    assert line and f"{setting.name}=" in line and read(line).settings == asked
    wrong = from_arguments([{setting.name: object()}])
    assert len(wrong.warnings) == 1 and setting.name in wrong.warnings[0] and wrong.vae == PanelSettings.vae


@pytest.mark.parametrize("setting", KEPT, ids=lambda setting: setting.name)
def test_a_preset_keeps_it_and_gives_it_back_where_the_panel_says_nothing(setting: Setting, tmp_path: Path):
    model = tmp_path / "m.ckpt"
    model.write_bytes(b"x")
    said = said_by(asking(setting))
    assert said[setting.name] == other(setting) and not said_by(PanelSettings())
    assert {TABLE[name].of or name for name in said} == {setting.of or setting.name}  # nothing that means nothing
    assert all(TABLE[name].mode in (None, said.get("color")) for name in said)
    Presets(tmp_path / "presets.json").save(open_checkpoint(model), Preset(said=said))
    found = Presets(tmp_path / "presets.json").find(open_checkpoint(model))
    assert found and found.preset.said == said
    assert with_said(PanelSettings(), said) == asking(setting)
    leads = TABLE[setting.of] if setting.of else setting
    last = leads.choices[-1]
    if said[leads.name] != last:
        assert getattr(with_said(replace(PanelSettings(), **{leads.name: last}), said), leads.name) == last


@pytest.mark.parametrize("setting", RULED, ids=lambda setting: setting.name)
def test_a_rule_says_what_rules_may_say_of_it(setting: Setting):
    def rules(value: object):
        return parse_rules({"version": 1, "rules": [{"when": {}, "vae": "x", setting.key: value}]})

    assert rules(other(setting)).rules[0].said == {setting.name: other(setting)}
    for wrong in (*setting.unruled, "nonsense", [], True, 1e9):
        assert not rules(wrong).rules and setting.key in rules(wrong).problems[0]


def test_what_a_preset_leaves_open_is_the_panels_where_the_panel_shows_it():
    assert with_said(PanelSettings(color_strength=0.3), {"color": "auto"}).color_strength == 0.3
    assert with_said(PanelSettings(color_strength=0.3), {"color": "auto", "color_strength": 0.6}).color_strength == 0.6
    assert with_said(PanelSettings(contrast=1.5), {"color": "manual", "saturation": 0.5}) == PanelSettings(
        color="manual", saturation=0.5
    )
