"""Small random autoencoders and a meter of torch's allocations, for the streaming tests."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vae_manager.codec.kinds.kl.config import KLConfig
from vae_manager.codec.kinds.kl.network import AutoencoderKL


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


class _Meter(TorchDispatchMode):
    """Counts the bytes of all storages that torch's functions make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        taken = {tensor.untyped_storage()._cdata for tensor in _tensors((args, tuple((kwargs or {}).values())))}
        for storage in [tensor.untyped_storage() for tensor in _tensors(made)]:
            key = storage._cdata
            if key not in taken and key not in self._alive:
                self._alive[key] = storage.nbytes()
                self._now += storage.nbytes()
                weakref.finalize(storage, self._free, key)
        # a convolution may copy what it reads and writes into another order
        copies = _tensors((args[:2], made)) if func.overloadpacket is torch.ops.aten.convolution else []
        self.peak = max(self.peak, self._now + sum(tensor.nbytes for tensor in copies))
        return made

    def _free(self, key: int) -> None:
        self._now -= self._alive.pop(key)


@cache
def _tells_of_freed_memory() -> bool:
    told: list[bool] = []
    storage = torch.empty(1).untyped_storage()
    weakref.finalize(storage, told.append, True)
    del storage
    return bool(told)


def _tensors(tree: Any) -> list[torch.Tensor]:
    """The tensors among a function's arguments or results (torch's own pytree takes most of a test's time)."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [tensor for part in tree for tensor in _tensors(part)] if isinstance(tree, (tuple, list)) else []


def peak_bytes(work: Callable[[], object]) -> int:
    """Peak of what torch's functions allocate during `work`, in bytes above the start. Deterministic.

    Within 15 % of the allocator's own figure for maps of more than a few kilobytes. (torch.profiler knows that figure
    and crashes the process now and then.)
    """
    if not _tells_of_freed_memory():
        pytest.skip("this torch (2.1) does not tell when memory is freed, so that its peak cannot be counted")
    with _Meter() as meter:
        kept = work()
    del kept
    return meter.peak
