"""How the kinds that are not KL name their tensors: which kind a file holds is told by names alone, without torch."""

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


def litevae_names(names: Iterable[str]) -> dict[str, str]:
    """Canonical name → the file's own, for the autoencoder's tensors only: no prefix, no discriminator, no EMA copy.

    Names of open-litevae's layout (`open_litevae`) are canonical as they are. Accepts the pseudocode's slip
    `feature_extractors_L2` for the second extractor.
    """
    found = {}
    for own in names:
        if match := _LITEVAE_NAME.fullmatch(own):
            name = match.group("name").replace("encoder.feature_extractors_L", "encoder.feature_extractor_L")
            found[name] = own
    return found


_LITEVAE_NAME = re.compile(
    r"(?:first_stage_model\.|vae\.)?(?P<name>(?:encoder|decoder|pre_conv|post_conv|quantizer)\..+)"
)


def is_open_litevae(names: Iterable[str]) -> bool:
    """Is this the key layout of open-litevae?"""
    return any(name.startswith("encoder.extractors.") for name in litevae_names(names))
