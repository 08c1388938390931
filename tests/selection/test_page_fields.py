"""What presets hold of the WebUI's page: its table, the presets' file, and what metadata recommends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vae_manager.selection.checkpoint import open_checkpoint
from vae_manager.selection.page_fields import PAGE_FIELDS, page_values, page_values_of, page_words
from vae_manager.selection.preset_text import told
from vae_manager.selection.presets import Preset, Presets

ALL = {
    "sampler": "DPM++ 2M", "scheduler": "Karras", "steps": 28, "cfg": 5.5, "distilled_cfg": 3.5, "width": 832,
    "height": 1216, "hires_upscaler": "Latent", "hires_scale": 1.5, "hires_steps": 0, "hires_denoise": 0.35,
}  # fmt: skip


def test_every_field_comes_back_from_the_file(tmp_path: Path):
    assert list(ALL) == list(PAGE_FIELDS)
    model = tmp_path / "m.ckpt"
    model.write_bytes(b"x")
    Presets(tmp_path / "presets.json").save(open_checkpoint(model), Preset(page=ALL, by_itself=True))
    found = Presets(tmp_path / "presets.json").find(open_checkpoint(model))
    assert found and found.preset.page == ALL and found.preset.by_itself
    assert "28 steps" in told(found.preset) and "832 × 1216" in told(found.preset)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"steps": 2.5}, {"steps": "28"}, {"steps": True}, {"cfg": float("nan")}, {"cfg": 1e9},
        {"sampler": 3}, {"sampler": ""}, {"sampler": "x" * 100_000}, {"sampler": "a\nb"},
        {"seed": 7}, {"prompt": "x"}, [], None, "steps",
    ],
)  # fmt: skip
def test_what_makes_no_sense_counts_as_left_open(wrong: object):
    assert page_values(wrong) == {}


def test_a_file_that_says_nonsense_of_the_page_still_has_its_vae(tmp_path: Path):
    model = tmp_path / "m.ckpt"
    model.write_bytes(b"x")
    entry = {"checkpoint": {"name": "m.ckpt"}, "vae": "soft", "page": {"steps": -1, "cfg": 5}, "by_itself": "yes"}
    (tmp_path / "presets.json").write_text(json.dumps({"version": 1, "presets": [entry]}))
    found = Presets(tmp_path / "presets.json").find(open_checkpoint(model))
    assert found and found.preset.vae.name == "soft"
    assert dict(found.preset.page) == {"cfg": 5} and not found.preset.by_itself


def test_in_words():
    assert page_words({"steps": 28, "cfg": 5.0, "width": 832, "height": 1216}) == ["28 steps", "CFG 5", "832 × 1216"]
    assert page_words({"width": 832}) == ["Width 832"]


@pytest.mark.parametrize(
    ("metadata", "values"),
    [
        ({"modelspec.resolution": "1024x1536"}, {"width": 1024, "height": 1536}),
        ({"modelspec.resolution": "1024"}, {}),
        ({"modelspec.resolution": "99999x99999"}, {}),
        ({"modelspec.usage_hint": "Use 28 steps, CFG 5.5"}, {"steps": 28, "cfg": 5.5}),
        ({"modelspec.usage_hint": "steps: 20-30, CFG scale: 4"}, {}),
        ({"modelspec.usage_hint": "8 steps, or 4 steps for a draft"}, {}),
        ({"modelspec.usage_hint": "<b>CFG</b>"}, {}),
        ({}, {}),
    ],
)
def test_what_metadata_recommends(metadata: dict[str, str], values: dict[str, object]):
    assert page_values_of(metadata) == values
