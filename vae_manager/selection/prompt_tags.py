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
    """The prompt as it would be had the tags never been written."""
    result, end = "", 0
    for match in _TAG.finditer(prompt):
        result += prompt[end : match.start()]
        end = match.end()
        if match["escape"]:
            result += match[0][1:]
            continue
        result, end = _joined(result, prompt, end)
    return result + prompt[end:]


def _joined(before: str, prompt: str, end: int) -> tuple[str, int]:
    """Drop the one space or comma too many that a tag leaves behind."""
    rest = prompt[end:].lstrip(" \t")
    if before.rstrip(" \t").endswith(",") and (not rest or rest[0] in ",\n"):
        return before.rstrip(" \t")[:-1], len(prompt) - len(rest)
    if not before.strip(" \t") and rest.startswith(","):
        return before, len(prompt) - len(rest[1:].lstrip(" \t"))
    if not rest or rest[0] == "\n":
        return before.rstrip(" \t"), len(prompt) - len(rest)
    return before, len(prompt) - len(rest) if not before or before[-1] in " \t\n" else end
