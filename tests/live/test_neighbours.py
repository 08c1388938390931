"""Beside Dynamic Prompts and ADetailer: what a picture's prompt says when all are done with it decides its VAE."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.live.conftest import IMG2IMG
from tests.live.harness import Pictures, WebUI
from tests.live.test_jobs import short_hash

WILD = "a {cat|dog} <vae:tint-{red|green|blue}>"
DETAIL = {"ADetailer": [True, False, {"ad_model": "face.pt", "ad_denoising_strength": 0.4}]}


def asked(pictures: Pictures) -> list[str]:
    """The tint that each picture's prompt asks for, as Dynamic Prompts has written it."""
    found = [re.search(r"<vae:tint-(\w+)>", prompt) for prompt in pictures.info["all_prompts"]]
    assert all(found), pictures.info["all_prompts"]
    return [match[1] for match in found if match]


def given(webui: WebUI, pictures: Pictures) -> list[str]:
    """The tint that each picture has, once its infotext was seen to say so."""
    count = len(pictures.info["all_prompts"])
    first = len(pictures.pixels) - count  # a grid comes before the pictures
    tints = [pictures.tint(first + index) for index in range(count)]
    for tint, text in zip(tints, pictures.infotexts[len(pictures.infotexts) - count :], strict=True):
        vae = f"tint-{tint}.safetensors"
        assert f"VAE Manager: vae={vae}; hash={short_hash(webui, vae)}" in text
    return tints


@pytest.mark.parametrize("others", [None, DETAIL], ids=["alone", "with ADetailer"])
@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
def test_a_tag_that_dynamic_prompts_wrote(neighbours: WebUI, kind: str, others: dict | None):
    more = IMG2IMG if kind == "img2img" else {}
    seen = set()
    for seed in (1, 5, 9):
        pictures = neighbours.generate(kind, prompt=WILD, batch_size=2, n_iter=2, seed=seed, others=others, **more)
        assert given(neighbours, pictures) == asked(pictures)
        seen.update(asked(pictures))
        if others is not None:
            assert all("ADetailer model: face.pt" in text for text in pictures.infotexts[-4:])
    assert len(seen) > 1  # or one VAE for all would have passed


def test_the_part_that_adetailer_paints_has_the_pictures_vae(neighbours: WebUI):
    plain = neighbours.generate(ours=[True, "tint-red"])
    done = neighbours.generate(ours=[True, "tint-red"], others=DETAIL)
    assert np.abs(done.pixels[0] - plain.pixels[0])[:, :24].max() > 20  # the left half was painted again
    for half in (np.s_[:, :24], np.s_[:, 40:]):
        red, green, blue = done.pixels[0][half].mean(axis=(0, 1))
        assert red > green + 60 and red > blue + 60
    assert neighbours.get("/vae-manager/v1/status")["swapped"] is False


def test_the_job_after_it_has_nothing_of_it(neighbours: WebUI):
    plain = neighbours.generate(others=DETAIL)
    neighbours.generate(prompt=WILD, ours=[True, "tint-red"], others=DETAIL)
    again = neighbours.generate(others=DETAIL)
    assert np.array_equal(again.pixels[0], plain.pixels[0]) and again.infotexts == plain.infotexts
