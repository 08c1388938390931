"""How files name the tensors of tiny autoencoders."""

from __future__ import annotations

import re
from collections.abc import Iterable


def taesd_names(names: Iterable[str]) -> dict[str, str]:
    """Canonical name (`encoder.0.weight`, `decoder.1.weight`) → the file's own name.

    Known layouts: the published files, one half each, with bare numbers (`1.weight`); diffusers' `AutoencoderTiny`
    (`decoder.layers.0.weight`), which has no number for the clamp that the decoder begins with; the whole module's
    state dict (`decoder.1.weight`, `taesd_decoder.1.weight`); and any of them in a checkpoint, behind a prefix.
    """
    names = list(names)
    # only an encoder begins with a convolution: number 0 of a decoder is the clamp, which has no weights
    bare_half = "encoder" if "0.weight" in names else "decoder"
    found = {}
    for own in names:
        if match := _TAESD_NAME.fullmatch(own):
            half = match["half"] or bare_half
            shift = 1 if match["layers"] and half == "decoder" else 0
            found[f"{half}.{int(match['number']) + shift}.{match['rest']}"] = own
    return found


def is_tiny(names: Iterable[str]) -> bool:
    """Are these the tensors of a tiny autoencoder (or of one half), in any of the known layouts?"""
    return any(_BLOCK.fullmatch(name) for name in taesd_names(names))


_TAESD_NAME = re.compile(
    r"(?:(?:first_stage_model\.|vae\.)?(?:taesd_)?(?P<half>encoder|decoder)\.(?P<layers>layers\.)?)?"
    r"(?P<number>\d{1,3})\.(?P<rest>.+)"
)
_BLOCK = re.compile(r"(encoder|decoder)\.\d+\.conv\.0\.weight")
