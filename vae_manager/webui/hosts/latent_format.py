"""What a loaded model says of its own latents, as a host's objects hold it, in plain values."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vae_manager.latents.claims import LoadedFormat

MOST_CHANNELS = 1024
"""More no latent has."""


def format_of(held: Any) -> LoadedFormat | None:
    """What a `latent_format` object of Forge's and ComfyUI's kind says; None: nothing that is understood."""
    channels = getattr(held, "latent_channels", None)
    scale, shift = getattr(held, "scale_factor", None), getattr(held, "shift_factor", None)
    found = LoadedFormat(
        channels if isinstance(channels, int) and 0 < channels <= MOST_CHANNELS else None,
        float(scale) if isinstance(scale, (int, float)) else None,
        float(shift) if isinstance(shift, (int, float)) else None,
        _numbers(getattr(held, "latents_mean", None)),
    )
    return None if found == LoadedFormat() else found


def format_of_stage(stage: nn.Module | None) -> LoadedFormat | None:
    """What the first stage's own tensors say: the channels that its decoder takes. None: it is no KL autoencoder."""
    if stage is None:
        return None
    for name in ("post_quant_conv", "decoder.conv_in"):
        try:
            weight = stage.get_submodule(name).weight
        except AttributeError:
            continue
        if isinstance(weight, Tensor) and weight.ndim == 4:
            return LoadedFormat(weight.shape[1])
    return None


def _numbers(held: object) -> tuple[float, ...]:
    """One number a channel."""
    if isinstance(held, Tensor) and 0 < held.numel() <= MOST_CHANNELS:
        return tuple(held.detach().float().flatten().tolist())
    return ()
