"""What a checkpoint's name says of the VAE in it: "…_noBakedVae", "…_vaeIncluded".

Names are read as words, which capitals, digits and signs begin: `animeKinoVAE` is "anime", "Kino", "VAE" and says no
more than that it is a VAE.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Said = Literal["none", "baked"]
SAYS: tuple[Said, ...] = ("none", "baked")
"""What a name may say: that there is no VAE in the checkpoint, or that one is."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_NO = frozenset({"no", "without", "wo", "lacks", "minus"})
_WITH = frozenset({"baked", "with", "incl", "includes", "including", "included", "prebaked"})
_BEHIND = frozenset({"baked", "included", "fix", "fixed", "incl", "inside"})
_WITHOUT_IT = frozenset({"less", "free"})
_BETWEEN = frozenset({"a", "any", "the", "clip", "and", "baked", "in"})
"""What may stand between "no" or "with" and "VAE"."""

_NONE_IN_ONE = frozenset({"novae", "nobakedvae", "unbakedvae", "withoutvae", "vaeless"})
_BAKED_IN_ONE = frozenset({"bakedvae", "withvae", "vaebaked", "vaeincluded", "vaefix"})


def says_of_vae(stem: str) -> Said | None:
    """What a file's name says of the VAE in it; None where it says nothing."""
    words = [word.casefold() for word in _WORD.findall(stem)]
    said = {_said(words, at) for at in range(len(words))}
    return "none" if "none" in said else "baked" if "baked" in said else None


def _said(words: Sequence[str], at: int) -> Said | None:
    """What the word at one place says, with what stands around it."""
    word = words[at]
    if word in _NONE_IN_ONE:
        return "none"
    if word in _BAKED_IN_ONE:
        return "baked"
    if word != "vae":
        return None
    before, after = words[:at], words[at + 1 : at + 2]
    if _denied(before) or set(after) & _WITHOUT_IT:
        return "none"
    while before and before[-1] in _BETWEEN - _WITH:
        before = before[:-1]
    return "baked" if set(before[-1:]) & _WITH or set(after) & _BEHIND else None


def _denied(before: Sequence[str]) -> bool:
    """Whether the words in front of "VAE" end with "no", "without a", "w/o baked in", "unbaked" …"""
    before = list(before)
    while before and before[-1] in _BETWEEN:
        if before.pop() == "baked" and before[-1:] in (["un"], ["not"]):
            return True
    return before[-1:] == ["unbaked"] or bool(set(before[-1:]) & _NO) or before[-2:] == ["w", "o"]
