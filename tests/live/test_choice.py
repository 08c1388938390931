"""Per-prompt tags, rules, presets, X/Y/Z and the parts of a job, in a running WebUI."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator

import numpy as np
import pytest

from tests.live.conftest import HIRES, IMG2IMG, Reference, run_job
from tests.live.harness import Pictures, WebUI
from tests.live.test_jobs import identical, same, short_hash

RED, GREEN, BLUE = (f"tint-{tint}.safetensors" for tint in ("red", "green", "blue"))


def tints(pictures: Pictures) -> list[str]:
    """The tints of the single pictures, without a grid before them."""
    seen = [pictures.tint(index) for index in range(len(pictures.pixels))]
    return seen[len(seen) - len(pictures.info["all_prompts"]) :]


def test_four_pictures_of_one_batch_each_with_its_own_vae(webui: WebUI, reference: Reference):
    prompts = ["a cat <vae:tint-red>", "a cat <vae:tint-green>", "<vae:tint-blue:1> a cat", "a cat <vae:Baked>"]
    pictures = webui.generate(batch_size=4, fault="prompts:" + "|".join(prompts))
    assert tints(pictures)[:3] == ["red", "green", "blue"]
    texts = pictures.infotexts[-4:]
    for text, prompt, name in zip(texts, prompts, (RED, GREEN, BLUE, None), strict=True):
        assert prompt in text  # the tag stays in the infotext
        if name:
            assert f"VAE Manager: vae={name}; hash={short_hash(webui, name)}" in text
            assert f"VAE: {name}" in text
        else:
            assert "vae=tint" not in text
    # the model never saw a tag: the same picture as with a plain prompt and the panel's choice
    plain = webui.generate(batch_size=4, ours=[True, "tint-red"])
    assert same(Pictures(pictures.pixels[-4:-3], [], {}, 0), Pictures(plain.pixels[-4:-3], [], {}, 0), levels=1)
    assert identical(webui.generate(), reference.baked["txt2img"])


def test_tags_over_several_iterations_and_in_img2img(webui: WebUI):
    assert tints(webui.generate(prompt="a cat <vae:tint-green>", n_iter=2)) == ["green", "green"]
    assert webui.generate("img2img", prompt="a cat <vae:tint-red>", **IMG2IMG).tint() == "red"


def test_a_tag_goes_before_the_panel(webui: WebUI):
    assert webui.generate(prompt="a cat <vae:tint-green>", ours=[True, "tint-red"]).tint() == "green"


def test_a_tag_in_the_negative_prompt_is_an_error_message(webui: WebUI, reference: Reference):
    pictures = webui.generate(negative_prompt="<vae:tint-red>", ours=[True, "Automatic"])
    assert "stands in the negative prompt" in pictures.info["extra_generation_params"]["VAE Manager warning"]
    assert same(pictures, reference.baked["txt2img"])


def test_the_hires_pass_with_another_vae(webui: WebUI):
    if not webui.has_upscaler("Lanczos"):
        pytest.skip("this host has no upscaler 'Lanczos'")
    more = {**HIRES, "hr_upscaler": "Lanczos"}
    both = webui.generate(ours=[{"vae": "tint-red", "hires_vae": "tint-green"}], **more)
    assert both.tint() == "green"
    assert f"vae={RED}" in both.infotexts[0] and f"hires_vae={GREEN}" in both.infotexts[0]
    # the first pass was red: its pixels went through the green encoder, not the green pass's own
    assert not same(both, webui.generate(ours=[True, "tint-green"], **more), levels=1)


def test_encoding_with_another_vae(webui: WebUI):
    one = webui.generate("img2img", ours=[{"vae": "tint-red", "encode_vae": "tint-green"}], **IMG2IMG)
    other = webui.generate("img2img", ours=[{"vae": "tint-red"}], **IMG2IMG)
    assert one.tint() == other.tint() == "red" and not same(one, other, levels=1)
    assert f"encode_vae={GREEN}" in one.infotexts[0]


def test_sd_vae_for_one_job(webui: WebUI, reference: Reference):
    """On Forge it does nothing by itself; on every host the next picture has the old VAE again."""
    if webui.kind in ("reforge", "neo"):
        pytest.skip("this host loses its baked VAE after its own override, or takes paths only")
    assert webui.generate(override_settings={"sd_vae": RED}).tint() == "red"
    assert identical(webui.generate(), reference.baked["txt2img"])


@pytest.fixture
def automatic(webui: WebUI) -> Iterator[None]:
    yield
    for name in ("rules.json", "presets.json"):
        (webui.data / "vae-manager" / name).unlink(missing_ok=True)


def test_a_rule_chooses_and_says_so(webui: WebUI, reference: Reference, automatic: None):
    rules = {"version": 1, "rules": [{"name": "greens", "when": {"name": "tiny-a*"}, "vae": "tint-green"}]}
    folder = webui.data / "vae-manager"
    folder.mkdir(exist_ok=True)
    (folder / "rules.json").write_text(json.dumps(rules))
    pictures = webui.generate(ours=[True, "Automatic"])
    assert pictures.tint() == "green" and f"VAE Manager: vae={GREEN}" in pictures.infotexts[0]
    decision = webui.get("/vae-manager/v1/decision")
    assert decision["source"] == "rules" and "greens" in decision["reason"]
    assert webui.generate(ours=[True, "tint-red"]).tint() == "red"
    assert identical(webui.generate(), reference.baked["txt2img"])  # off is off, whatever the rules say


def test_xyz_over_vaes_reloads_nothing(webui: WebUI):
    webui.generate()  # some hosts load their model with the first picture
    before = webui.log
    pictures = webui.generate(script_name="x/y/z plot", script_args=xyz(webui, "[VAE Manager] VAE", [RED, GREEN, BLUE]))
    assert [pictures.tint(index) for index in range(1, 4)] == ["red", "green", "blue"]
    added = webui.log[len(before) :]
    assert not any(word in added for word in ("Loading Model", "Loading VAE weights", "Loading weights", "Traceback"))


def test_xyz_names_what_is_wrong(webui: WebUI):
    before = len(webui.log)
    with pytest.raises(urllib.error.HTTPError) as error:
        webui.generate(script_name="x/y/z plot", script_args=xyz(webui, "[VAE Manager] VAE", ["nope", RED]))
    # the API of A1111 hides every script's message behind "unhandled errors in a TaskGroup" when anyio is 4 or newer
    assert "There is no VAE 'nope'" in error.value.read().decode() + webui.log[before:]


def xyz(webui: WebUI, axis: str, values: list[str]) -> list[object]:
    """The stock script's arguments: its own defaults, one axis, and the single pictures beside the grid."""
    script = next(s for s in webui.get("/sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"])
    arguments: list[object] = [argument["value"] for argument in script["args"]]
    # an axis is its type (its place in the page's list), its values as text, and as a choice from a list
    arguments[:9] = [webui.dropdown_choices("script_txt2img_xyz_plot_x_type").index(axis), "", values, *[0, "", []] * 2]
    labels = [str(argument["label"]).casefold() for argument in script["args"]]
    arguments[labels.index("include sub images")] = True
    return arguments


@pytest.mark.parametrize("job", ["txt2img", "img2img", "hires-pixel", "batches"])
def test_exact_decoding_is_the_hosts_picture(webui: WebUI, reference: Reference, job: str):
    exact = run_job(webui, job, ours=[{"vae": "Baked", "decode": "exact"}])
    # rounding instead of the host's truncation: never more than one level
    assert same(exact, reference.baked[job], levels=1)
    assert "decode=exact" in exact.infotexts[0]
    decision = webui.get("/vae-manager/v1/decision")
    assert decision["warnings"] == []
    assert any(line.startswith("decode: exact, mode") for line in decision["streamed"])
    if job != "txt2img" and job != "batches":
        assert any(line.startswith("encode: exact, mode") for line in decision["streamed"])


def test_exact_with_seamless_tiling(webui: WebUI):
    host = webui.generate(tiling=True, ours=[{"vae": "tint-red", "decode": "host"}])
    assert same(webui.generate(tiling=True, ours=[{"vae": "tint-red", "decode": "exact"}]), host, levels=1)


def test_a_limit_that_nothing_fits_leaves_the_hosts_picture(webui: WebUI, reference: Reference):
    limit = {"override_settings": {"vae_manager_memory_limit_mib": 1}}
    pictures = webui.generate(ours=[{"vae": "Baked", "decode": "exact"}], **limit)
    assert same(pictures, reference.baked["txt2img"])
    assert "takes" in pictures.info["extra_generation_params"]["VAE Manager warning"]


def test_the_panels_picture_in_a_job_without_anything_of_ours_is_the_hosts(webui: WebUI, reference: Reference):
    pictures = webui.generate(ours=[True, "Automatic"])
    assert np.array_equal(pictures.pixels[0], reference.baked["txt2img"].pixels[0])


def test_colour_goes_through_the_host(webui: WebUI, reference: Reference):
    """Noise is neither pale nor black: it is left alone, and the infotext says only what was asked for."""
    pictures = webui.generate(ours=[{"vae": "Baked", "color": "auto"}])
    assert "color=auto" in pictures.infotexts[0]
    decision = webui.get("/vae-manager/v1/decision")
    assert decision["warnings"] == []
    assert same(pictures, reference.baked["txt2img"]) or decision["colors"]
    matched = webui.generate("img2img", ours=[{"vae": "Baked", "color": "match"}], **IMG2IMG)
    assert "color=match" in matched.infotexts[0]
    # random weights paint something else than what img2img began with, and that is said
    (warning,) = webui.get("/vae-manager/v1/decision")["warnings"]
    assert "shows something else" in warning and "nothing was changed" in warning


def test_tiny_autoencoder(webui: WebUI, reference: Reference):
    from tests.live.models import write_taesd

    write_taesd(webui.vaes / "taesd_decoder.safetensors")
    try:
        webui.get("/vae-manager/v1/vaes?refresh=true")
        pictures = webui.generate(ours=[True, "taesd_decoder"])
        assert pictures.info["extra_generation_params"].get("VAE Manager warning") is None
        assert "vae=taesd_decoder.safetensors" in pictures.infotexts[0]
        assert not same(pictures, reference.baked["txt2img"], levels=20)
        assert webui.generate("img2img", ours=[True, "taesd_decoder"], **IMG2IMG).pixels[0].shape == (64, 64, 3)
    finally:
        (webui.vaes / "taesd_decoder.safetensors").unlink()
        webui.get("/vae-manager/v1/vaes?refresh=true")
    assert identical(webui.generate(), reference.baked["txt2img"])
