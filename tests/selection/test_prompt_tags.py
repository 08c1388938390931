"""`<vae:NAME>` is taken out of prompts, and nothing else is touched."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_manager.selection.prompt_tags import refuse_vae_tag, take_vae_tag


@pytest.mark.parametrize(
    ("prompt", "rest", "vae"),
    [
        ("a cat", "a cat", None),
        ("a cat <vae:soft>", "a cat", "soft"),
        ("a cat, <vae:soft>", "a cat", "soft"),
        ("a cat, <vae:soft>, blue", "a cat, blue", "soft"),
        ("<vae:soft>, a cat", "a cat", "soft"),
        ("<vae:soft> a cat", "a cat", "soft"),
        ("a <vae:soft> cat", "a cat", "soft"),
        ("a cat<VAE: sub/soft v2.vae.pt >", "a cat", "sub/soft v2.vae.pt"),
        ("<vae:sub\\soft>", "", "sub\\soft"),
        ("x <vae:soft:1.0>", "x", "soft"),
        ("x <vae:known:kl-f8-anime2>", "x", "known:kl-f8-anime2"),
        ("<vae:a\\>b> x", "x", "a>b"),
        ("line\n<vae:soft>\nline", "line\n\nline", "soft"),
        ("<vae:soft> x <vae:SOFT>", "x", "soft"),
        ("<lora:x:1> <vae:soft> <lora:y:1>", "<lora:x:1> <lora:y:1>", "soft"),
        ("literally \\<vae:soft>", "literally <vae:soft>", None),
        ("open <vae:soft", "open <vae:soft", None),
        ("open <vae:soft <lora:x:1>", "open <vae:soft <lora:x:1>", None),
        ("<vaesoft:x>", "<vaesoft:x>", None),
        ("猫 <vae:柔らかい>、青", "猫 、青", "柔らかい"),
    ],
)
def test_a_tag(prompt: str, rest: str, vae: str | None):
    found = take_vae_tag(prompt)
    assert (found.prompt, found.vae, found.warnings) == (rest, vae, ())


def test_the_first_of_several_wins_with_a_warning():
    found = take_vae_tag("<vae:a> x <vae:b> y <vae:c>")
    assert (found.prompt, found.vae) == ("x y", "a")
    assert found.warnings == ("The prompt asks for 3 VAEs, and a picture has one: the first, 'a', was taken.",)


def test_a_tag_without_a_name():
    found = take_vae_tag("x <vae: >")
    assert (found.prompt, found.vae) == ("x", None) and "without a name" in found.warnings[0]


def test_in_the_negative_prompt_it_is_a_mistake():
    found = refuse_vae_tag("ugly, <vae:soft>")
    assert (found.prompt, found.vae) == ("ugly", None)
    assert found.warnings == (
        "<vae:…> 'soft' stands in the negative prompt, where it has no effect; write it into the prompt.",
    )
    assert refuse_vae_tag("ugly \\<vae:x>").warnings == () and refuse_vae_tag("ugly").prompt == "ugly"


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["<vae:", "a", ">", "\\", ",", " ", "\n", "<", ":1", "<vae:b>"])).map("".join))
def test_no_prompt_breaks_it(prompt: str):
    found = take_vae_tag(prompt)
    assert len(found.prompt) <= len(prompt)
    if "<vae:" not in prompt:
        assert found.prompt == prompt and found.vae is None


@pytest.mark.parametrize("text", ["<vae:", "\\", "<vae:x>, ", "a <vae:x> ", "<vae:1", ">", "<lora:"])
def test_a_prompt_ten_times_as_long_takes_ten_times_as_long(text: str):
    """Not a hundred times: a prompt comes from anybody, and the WebUI waits for it."""
    short, long = ("<vae:" + text * count for count in (5_000, 50_000))

    def within() -> bool:
        begun = time.process_time()
        take_vae_tag(short)
        between = time.process_time()
        take_vae_tag(long)
        return time.process_time() - between < 40 * (between - begun) + 0.05

    assert any(within() for _ in range(10))  # once is enough: a busy machine slows either, a fault the long one always


@pytest.mark.timeout(120)
def test_a_long_row_of_digits_is_gone_through_once():
    # were it squared, a million digits would take hours: the watchdog ends that, and no clock is read
    for text in ("1" * 1_000_000 + "x", ("1" * 1000 + ".") * 1000, ":1" * 500_000 + "x"):
        assert take_vae_tag(f"a fox <vae::{text}>").prompt == "a fox"
