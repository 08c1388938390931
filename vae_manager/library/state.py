"""Load a VAE's tensors under their canonical (ldm) names."""

from __future__ import annotations

import torch
from torch import Tensor

from vae_manager.codec.build import check_shapes
from vae_manager.codec.config import KLConfig
from vae_manager.errors import VaeFileError
from vae_manager.library.files import VaeFile
from vae_manager.library.identify import norm_groups_of
from vae_manager.library.layouts import as_conv, canonical_shapes, detect_layout
from vae_manager.library.tensors import open_tensors


def load_kl_state(file: VaeFile, dtype: torch.dtype | None = None) -> tuple[dict[str, Tensor], int]:
    """The tensors of a KL autoencoder (a VAE file, or baked into a checkpoint), and its number of norm groups.

    The tensors are copies in ordinary CPU memory: a file that is replaced later cannot change them. `dtype`
    None keeps the file's own precision.

    Raises:
        VaeFileError: not a whole KL autoencoder; nothing else has been touched by then.
    """
    opened = open_tensors(file.path)
    layout = detect_layout(opened.header)
    if layout.name not in ("ldm", "diffusers"):
        raise VaeFileError(f"it is a {layout.name.upper()} autoencoder, which cannot stand in for a KL VAE")
    groups = norm_groups_of(opened.header.metadata)
    shapes = canonical_shapes(opened.header, layout)
    check_shapes(KLConfig.from_shapes(shapes, groups), shapes)
    state = {}
    for name, own in layout.keys.items():
        tensor = as_conv(name, opened.fetch(own))
        if not tensor.is_floating_point():
            raise VaeFileError(f"its tensor {name!r} holds whole numbers: quantised VAEs are not supported")
        state[name] = tensor.to(dtype=dtype or tensor.dtype, copy=True).contiguous()
    return state, groups
