"""The model changes: refiner, hires checkpoint, cached models, switches. Each gets the VAE that is right for it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.live.conftest import HIRES, Reference
from tests.live.harness import CONFIG, WebUI
from tests.live.test_choice import xyz
from tests.live.test_jobs import identical, same

A, B = "tiny-a.safetensors", "tiny-b.safetensors"
RULES = [
    {"name": "rule of a", "when": {"name": "tiny-a*"}, "vae": "tint-red"},
    {"name": "rule of b", "when": {"name": "tiny-b*"}, "vae": "tint-blue"},
]
REFINER = {"refiner_checkpoint": B, "refiner_switch_at": 0.4, "steps": 4}
OTHER = {"override_settings": {"sd_model_checkpoint": B}}
AUTOMATIC = [{"vae": "Automatic"}]


@pytest.fixture
def rules(webui: WebUI) -> Iterator[None]:
    file = webui.data / "vae-manager" / "rules.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"version": 1, "rules": RULES}))
    yield
    file.unlink()


def set_options(webui: WebUI, **options: object) -> None:
    webui.post("/sdapi/v1/options", options)


def needs_refiner(webui: WebUI) -> None:
    if webui.kind not in ("a1111", "forge", "reforge"):
        pytest.skip("this host's refiner is another, which was not tried")


def decided(webui: WebUI) -> tuple[str, str]:
    """Who decided on the last picture's VAE, and why."""
    decision = webui.get("/vae-manager/v1/decision")
    assert decision["warnings"] == []
    return decision["source"], decision["reason"]


def test_the_refiners_rule_decides_what_decodes(webui: WebUI, reference: Reference, rules: None):
    needs_refiner(webui)
    webui.generate(**REFINER)  # from here on the host knows the refiner's hash and writes it
    plain = webui.generate(**REFINER)
    assert "Refiner: tiny-b" in plain.infotexts[0] and not same(plain, webui.generate(steps=4), levels=20)
    refined = webui.generate(ours=AUTOMATIC, **REFINER)
    assert refined.tint() == "blue" and "vae=tint-blue.safetensors" in refined.infotexts[0]
    assert "tint-red" not in refined.infotexts[0]
    source, reason = decided(webui)
    assert source == "rules" and "rule of b" in reason
    # every batch begins with the first model again
    twice = webui.generate(ours=AUTOMATIC, n_iter=2, **REFINER)
    assert [twice.tint(index) for index in range(len(twice.pixels))][-2:] == ["blue", "blue"]
    assert all("vae=tint-blue.safetensors" in text for text in twice.infotexts)
    alone = webui.generate(ours=AUTOMATIC)
    assert alone.tint() == "red" and "vae=tint-red.safetensors" in alone.infotexts[0]
    assert identical(webui.generate(**REFINER), plain)
    assert identical(webui.generate(), reference.baked["txt2img"])


def test_without_a_rule_each_model_of_a_refined_picture_keeps_its_baked_vae(webui: WebUI, reference: Reference):
    needs_refiner(webui)
    plain = webui.generate(**REFINER)
    assert identical(webui.generate(ours=AUTOMATIC, **REFINER), plain)
    assert same(webui.generate(ours=[{"vae": "Baked"}], **REFINER), plain)
    assert identical(webui.generate(), reference.baked["txt2img"])


def test_the_panel_and_the_prompt_go_before_the_refiners_rule(webui: WebUI, reference: Reference, rules: None):
    needs_refiner(webui)
    chosen = webui.generate(ours=[{"vae": "tint-green"}], **REFINER)
    assert chosen.tint() == "green" and "vae=tint-green.safetensors" in chosen.infotexts[0]
    assert webui.generate(prompt="a cat <vae:tint-green>", **REFINER).tint() == "green"
    assert identical(webui.generate(), reference.baked["txt2img"])


def test_the_hires_checkpoints_rule_decides_what_decodes(webui: WebUI, reference: Reference, rules: None):
    if webui.kind == "neo":
        pytest.skip("Neo has no hires checkpoint of another file in this setup")
    for upscaler in ("Latent", "Lanczos"):
        pictures = webui.generate(ours=AUTOMATIC, hr_checkpoint_name=B, hr_upscaler=upscaler, **HIRES)
        assert pictures.tint() == "blue" and "vae=tint-blue.safetensors" in pictures.infotexts[0]
        assert "rule of b" in decided(webui)[1]
    assert identical(webui.generate(), reference.baked["txt2img"])


def test_the_checkpoint_of_one_job_gets_its_own_rule(webui: WebUI, reference: Reference, rules: None):
    for more, tint in ((OTHER, "blue"), ({}, "red"), (OTHER, "blue"), ({}, "red")):
        pictures = webui.generate(ours=AUTOMATIC, **more)
        assert pictures.tint() == tint and f"vae=tint-{tint}.safetensors" in pictures.infotexts[0]
    assert identical(webui.generate(), reference.baked["txt2img"])


def test_models_that_the_host_keeps_loaded(webui: WebUI, reference: Reference, rules: None):
    """Two models in memory at once: each gets its own VAE back, whichever was used in between."""
    if webui.kind == "neo":
        pytest.skip("Neo has one model at a time, and no setting for it")
    plain = webui.generate(**OTHER)
    set_options(webui, sd_checkpoints_limit=2)
    try:
        webui.generate(**OTHER), webui.generate()  # from here on both are loaded
        before = len(webui.log)
        for _ in range(2):
            assert webui.generate(ours=AUTOMATIC, **OTHER).tint() == "blue"
            assert webui.generate(ours=AUTOMATIC).tint() == "red"
            assert identical(webui.generate(**OTHER), plain)
            assert identical(webui.generate(), reference.baked["txt2img"])
        if webui.kind in ("a1111", "reforge"):  # Forge and Classic have one model at a time, whatever is set
            assert "Loading weights" not in webui.log[before:]
        if webui.kind == "a1111":  # reForge says so to debuggers only
            assert "Using already loaded model" in webui.log[before:]
        if webui.kind in ("a1111", "forge", "reforge"):
            assert webui.generate(ours=AUTOMATIC, **REFINER).tint() == "blue"
            assert webui.generate(ours=[{"vae": "tint-green"}], **REFINER).tint() == "green"
            assert webui.generate(ours=AUTOMATIC).tint() == "red"
        assert identical(webui.generate(**OTHER), plain)
        assert identical(webui.generate(), reference.baked["txt2img"])
    finally:
        set_options(webui, sd_checkpoints_limit=CONFIG["sd_checkpoints_limit"])
    assert identical(webui.generate(**OTHER), plain)
    assert identical(webui.generate(), reference.baked["txt2img"])


def test_a_switch_of_the_standing_checkpoint(webui: WebUI, reference: Reference, rules: None):
    """What the page's dropdown does: the setting changes, and the model with it."""
    set_options(webui, sd_model_checkpoint=B)
    try:
        assert webui.generate(ours=AUTOMATIC).tint() == "blue"
        match = webui.get("/vae-manager/v1/match")
        assert match["checkpoint"] == B and "rule of b" in match["reason"]
    finally:
        set_options(webui, sd_model_checkpoint=A)
    assert webui.generate(ours=AUTOMATIC).tint() == "red"
    assert webui.get("/vae-manager/v1/match")["checkpoint"] == A
    assert identical(webui.generate(), reference.baked["txt2img"])


def test_xyz_over_checkpoints(webui: WebUI, reference: Reference, rules: None):
    cells = xyz(webui, "Checkpoint name", [A, B])
    pictures = webui.generate(script_name="x/y/z plot", script_args=cells, ours=AUTOMATIC)
    assert [pictures.tint(index) for index in (1, 2)] == ["red", "blue"]
    assert [f"vae=tint-{tint}" in pictures.infotexts[i] for i, tint in ((1, "red"), (2, "blue"))] == [True, True]
    assert identical(webui.generate(), reference.baked["txt2img"])
