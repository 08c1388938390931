"""The padding of a VAE's convolutions: zeros in nearly all, reflected in those that were trained so (EQ-VAEs)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from vae_manager.codec.kinds.shapes import Padding

Padded = Sequence[tuple[Any, str]]
"""Convolutions whose padding was changed, and what it was."""


def set_padding(module: nn.Module, padding: Padding) -> Padded:
    """Have a VAE's convolutions pad so, and say which were changed.

    Those that pad circularly stay as they are: that is a wish for pictures that tile seamlessly.
    """
    found = [
        (conv, conv.padding_mode)
        for conv in module.modules()
        if isinstance(conv, nn.Conv2d) and conv.padding != (0, 0) and conv.padding_mode not in (padding, "circular")
    ]
    for conv, _ in found:
        conv.padding_mode = padding
    return tuple(found)


def restore_padding(padded: Padded, padding: Padding) -> None:
    """Give the convolutions their own padding back, unless somebody has changed it since."""
    for conv, before in padded:
        if conv.padding_mode == padding:
            conv.padding_mode = before
