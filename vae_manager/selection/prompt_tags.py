"""`<vae:NAME>` in a prompt: take it out, and say which VAE it asks for.

    a red fox <vae:kl-f8-anime2>        the VAE for this picture
    <vae:anime/soft.vae.pt:1>           a weight, as users know it from <lora:…>, is allowed and means nothing
    \\<vae:NAME>                         is no tag: it stays in the prompt, without the backslash
    <vae:a\\>b>                          a NAME with '>' in it

A prompt without a tag comes back unchanged, byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Neither '<' nor a line break can be in NAME, so an unclosed tag ends at the next one: one pass over the prompt.
_TAG = re.compile(r"(?P<escape>\\?)<vae:(?P<name>(?:[^<>\n\\]|\\>|\\(?!>))*)>", re.IGNORECASE)
# No two neighbouring repeats can take the same digit, so that a long row of them is gone through once, not squared.
_WEIGHT = re.compile(r":[+-]?(?:\d+(?:\.\d+)?|\.\d+)$")

_ESCAPED = "\\>"


@dataclass(frozen=True)
class Tagged:
    """A prompt without its tags."""

    prompt: str
    """What the model is to see."""
    vae: str | None = None
    """The NAME that the first tag asks for."""
    warnings: tuple[str, ...] = ()


def take_vae_tag(prompt: str) -> Tagged:
    """Take the tags out of one picture's prompt; the first one counts."""
    tags = [match for match in _TAG.finditer(prompt) if not match["escape"]]
    names = [_name(match) for match in tags]
    asked = [name for name in names if name]
    warnings = []
    if len(asked) < len(names):
        warnings.append("The prompt has a <vae:> without a name; write for example <vae:vae-ft-mse-840000>.")
    others = [name for name in asked if name.casefold() != asked[0].casefold()]
    if others:
        warnings.append(
            f"The prompt asks for {1 + len(set(others))} VAEs, and a picture has one: the first, {asked[0]!r:.82}, "
            "was taken."
        )
    return Tagged(_without(prompt), asked[0] if asked else None, tuple(warnings))


def vae_tag(name: str) -> str | None:
    """The tag that asks for a VAE by this name; None where no tag can hold it."""
    weight = ":1" if _WEIGHT.search(name) else ""  # else the name's own end would be taken for one
    tag = f"<vae:{name.replace('>', _ESCAPED)}{weight}>"
    return tag if take_vae_tag(tag).vae == name else None


def refuse_vae_tag(negative: str) -> Tagged:
    """Take the tags out of a negative prompt, where they are a mistake: `vae` is None, `warnings` says so."""
    found = take_vae_tag(negative)
    if found.prompt == negative:
        return found
    wanted = f" {found.vae!r:.82}" if found.vae else ""
    sentence = f"<vae:…>{wanted} stands in the negative prompt, where it has no effect; write it into the prompt."
    return Tagged(found.prompt, None, (sentence,) if _has_tag(negative) else ())


def _has_tag(prompt: str) -> bool:
    return any(not match["escape"] for match in _TAG.finditer(prompt))


def _name(match: re.Match[str]) -> str:
    return _WEIGHT.sub("", match["name"].replace("\\>", ">").strip()).strip()


def _without(prompt: str) -> str:
    """The prompt as it would be had the tags never been written. Its time grows with the prompt's length only."""
    kept: list[str] = []
    end = 0
    for match in _TAG.finditer(prompt):
        _keep(kept, prompt[end : match.start()])
        end = match.end()
        if match["escape"]:
            _keep(kept, match[0][1:])
        else:
            end = _joined(kept, prompt, end)
    return "".join(kept) + prompt[end:]


def _keep(kept: list[str], text: str) -> None:
    """Add a text, the blanks at its end as a part of their own. No part is empty."""
    bare = text.rstrip(" \t")
    for part in (bare, text[len(bare) :]):
        if part:
            kept.append(part)  # `extend` by a generator copies the list each time


def _joined(kept: list[str], prompt: str, end: int) -> int:
    """Drop the one space or comma too many that a tag leaves behind; where the prompt goes on after it."""
    after = _past_blanks(prompt, end)
    follows = prompt[after : after + 1]
    count = len(kept) - bool(kept and not kept[-1].strip(" \t"))  # without the blanks at the end
    if follows in ("", ",", "\n") and count and kept[count - 1].endswith(","):
        last = kept[count - 1][:-1]
        del kept[count - 1 :]
        _keep(kept, last)
        return after
    if follows == "," and not count:
        return _past_blanks(prompt, after + 1)
    if follows in ("", "\n"):
        del kept[count:]
        return after
    return after if not kept or kept[-1][-1] in " \t\n" else end


def _past_blanks(prompt: str, at: int) -> int:
    while prompt[at : at + 1] in (" ", "\t"):
        at += 1
    return at
