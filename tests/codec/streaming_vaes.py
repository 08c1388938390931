"""Small random autoencoders and a meter of torch's allocations, for the streaming tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from vae_manager.codec.autoencoder import AutoencoderKL
from vae_manager.codec.config import KLConfig


def scaled_weights(module: nn.Module, seed: int) -> None:
    """Random weights under which activations keep their scale, and norms that shift as well as scale."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.dim() == 1:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise * 1.3 / parameter[0].numel() ** 0.5)
        for child in module.modules():
            if isinstance(child, nn.GroupNorm):
                child.weight.add_(1.0)


def small_vae(
    channels: tuple[int, ...] = (8, 16, 16),
    *,
    latent: int = 4,
    quant: bool = True,
    blocks: int = 1,
    dtype: torch.dtype = torch.float64,
    wraps: bool = False,
    attention: bool = True,
    seed: int = 0,
) -> AutoencoderKL:
    """Our own autoencoder, small."""
    config = KLConfig(
        latent_channels=latent,
        hidden_latent_channels=latent,
        encoder_stem=channels[0],
        encoder_channels=channels,
        decoder_channels=channels,
        encoder_blocks=blocks,
        decoder_blocks=blocks + 1,
        quant_conv=quant,
        post_quant_conv=quant,
        mid_attention=attention,
        norm_groups=4,
    )
    vae = AutoencoderKL(config).eval()
    scaled_weights(vae, seed)
    if wraps:
        pad_circularly(vae)
    return vae.to(dtype)


def pad_circularly(module: nn.Module) -> None:
    """What the hosts do for seamless tiling: every convolution's padding mode."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            child.padding_mode = "circular"


def peak_bytes(work: Callable[[], object]) -> int:
    """Peak of what torch's CPU allocator hands out during `work`, in bytes above the start. Deterministic."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = work()
    now = peak = 0
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    del kept
    return peak
