"""Hosts make many jobs of one: what the first of them was given must not stick to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.live.harness import Pictures, WebUI
from tests.live.test_choice import GREEN, RED, xyz


def is_plain(pictures: Pictures, picture: int, plain: Pictures) -> bool:
    """Whether one of several pictures is what a job without anything of ours makes, in pixels and in infotext."""
    same = np.array_equal(pictures.pixels[picture], plain.pixels[0])
    return same and pictures.infotexts[picture] == plain.infotexts[0]


def prompts_from_file(*lines: str) -> dict[str, Any]:
    return {"script_name": "prompts from file or textbox", "script_args": [False, False, "start", "\n".join(lines)]}


def test_prompts_from_a_file(house: WebUI):
    plain = house.generate(prompt="a cat")
    lines = ("a cat <vae:tint-red>", "a cat", "a cat <vae:tint-green>", "a cat")
    pictures = house.generate(prompt="", **prompts_from_file(*lines))
    first = len(pictures.pixels) - len(lines)  # Forge puts a grid before them
    assert [pictures.tint(first + line) for line in (0, 2)] == ["red", "green"]
    assert f"vae={RED}" in pictures.infotexts[first] and f"vae={GREEN}" in pictures.infotexts[first + 2]
    assert is_plain(pictures, first + 1, plain) and is_plain(pictures, first + 3, plain)


def cells(house: WebUI, axis: str, values: Any, **more: Any) -> Pictures:
    return house.generate(script_name="x/y/z plot", script_args=grid(house, axis, values), **more)


def grid(house: WebUI, axis: str, values: Any) -> list[object]:
    arguments = xyz(house, axis, values)
    if isinstance(values, str):
        arguments[1:3] = [values, []]
    return arguments


def test_xyz_with_prompt_s_r(house: WebUI):
    plain = house.generate(prompt="a cat in a hat")
    pictures = cells(house, "Prompt S/R", "<vae:tint-red>,in a hat", prompt="a cat <vae:tint-red>")
    assert pictures.tint(1) == "red" and f"vae={RED}" in pictures.infotexts[1]
    assert np.array_equal(pictures.pixels[2], plain.pixels[0])
    assert "VAE Manager" not in pictures.infotexts[2] and "tint-red" not in pictures.infotexts[2]


@pytest.mark.parametrize("order", [[RED, "Automatic"], ["Automatic", RED], [RED, "Baked", GREEN]])
def test_xyz_with_our_own_axis(house: WebUI, order: list[str]):
    plain = house.generate()
    pictures = cells(house, "[VAE Manager] VAE", order)
    for place, name in enumerate(order, start=1):
        text = pictures.infotexts[place]
        if name in (RED, GREEN):
            assert pictures.tint(place) in name and f"vae={name}" in text
            continue
        assert np.array_equal(pictures.pixels[place], plain.pixels[0]) and "tint-" not in text
        assert ("VAE Manager: vae=Baked" in text) == (name == "Baked")
    after = house.generate()
    assert is_plain(after, 0, plain)


def test_the_hosts_own_axis_under_the_panel_is_told(house: WebUI):
    """The panel's file goes before the grid's labels: that is said, not left to be found out."""
    if house.kind in ("forge", "neo"):
        pytest.skip("this host's VAE axis does nothing")
    pictures = cells(house, "VAE", [RED, GREEN], ours=[True, "tint-blue"])
    assert [pictures.tint(index) for index in (1, 2)] == ["blue", "blue"]
    warning = pictures.info["extra_generation_params"].get("VAE Manager warning", "")
    assert RED in warning and "does not decide" in warning
    free = cells(house, "VAE", [RED, GREEN], ours=[True, "Automatic"])
    assert [free.tint(index) for index in (1, 2)] == ["red", "green"]
    assert "VAE Manager warning" not in free.info["extra_generation_params"]
