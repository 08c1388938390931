"""How files name the tensors of LiteVAEs, the paper's and open-litevae's."""

from __future__ import annotations

import re
from collections.abc import Iterable


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
