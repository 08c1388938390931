"""How a VAE's convolutions pad, as its file tells: EQ-VAEs were trained with reflected edges, all others with zeros.

Known by metadata (`vae_manager.padding`, which `convert` writes, or `padding_mode` in a diffusers folder's
config.json), or by the name: "EQ" as a word of its own, as in EQ-SDXL-VAE, MS-LC-EQ-D-VR and EQB7. The tensors tell
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import get_args

from vae_manager.codec.kinds.shapes import Padding
from vae_manager.errors import VaeFileError
from vae_manager.library.files import VaeFile
from vae_manager.library.tensors import read_header

KEY = "vae_manager.padding"
"""In a safetensors file's metadata."""

_EQ = re.compile(r"(?<![a-z])eq(?:b\d+)?(?![a-z0-9])|(?<![a-z0-9])eq(?=vae)", re.IGNORECASE)


def padding_of(name: str, metadata: Mapping[str, str]) -> Padding | None:
    """The padding of a VAE file by its metadata, or else by its name; None where neither tells."""
    for key in (KEY, "padding_mode"):
        if metadata.get(key) in get_args(Padding):
            return metadata[key]  # type: ignore[return-value]
    return "reflect" if _EQ.search(name) else None


@lru_cache(maxsize=256)
def padding_of_file(file: VaeFile) -> Padding | None:
    """The padding of a VAE file; None where nothing tells, or it cannot be read."""
    try:
        return padding_of(file.path.stem, read_header(file.path)[1].metadata)
    except VaeFileError:
        return None
