"""How one picture goes through the host's decoder or encoder: in one piece, or streamed with the same pixels.

`run` stands around the `forward` of either. It never makes things worse: what goes wrong in here ends in the host's
own result, and is told once.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_manager.codec.kinds.network import Network
from vae_manager.codec.memory import free_bytes, is_out_of_memory, release_cached
from vae_manager.codec.streaming.api import plan_decode, plan_encode, stream_decode, stream_encode
from vae_manager.codec.streaming.plan import Plan
from vae_manager.errors import Interrupted, MemoryLimitError, VaeManagerError

log = logging.getLogger("vae_manager")

WHOLE_OVER_A = 2.7
"""Memory of a whole decode over that of mode A: ldm's `x * sigmoid(x)` holds 65,568 elements for each latent pixel
at 128 channels, where mode A holds 24,576 (docs/tiling.md)."""

COMFORT = 0.5
"""Share of the free memory that a whole decode may take before `auto` streams: it must never be a close call."""

APPROXIMATE = {True: 64, False: 512}
"""Longest side of the latent (decoding) or picture (encoding) that an interrupted run still computes."""


@dataclass
class Watch:
    """What a run asks the host, and what it has to tell. One per job."""

    interrupted: Callable[[], bool]
    say: Callable[[str | None], None]
    """Shows a line in the page's progress bar; None takes it away."""
    warn: Callable[[str], None]
    free_memory: Callable[[torch.device], int | None] = lambda device: None
    """Bytes that the host's memory manager gives; None leaves it to the driver."""
    memory_limit: int | None = None
    """The user's own limit in bytes."""
    tiler: str | None = None
    """Another tiler that is at work in this job."""
    wide: set[Any] = field(default_factory=set)
    """The VAEs whose activations have overflowed half precision."""
    streamed: list[str] = field(default_factory=list)
    """One line for every picture that was streamed."""


class _Only(nn.Module):
    """A decoder or an encoder alone, without the 1×1 convolutions that the host itself goes through."""

    def __init__(self, decodes: bool, coder: nn.Module) -> None:
        super().__init__()
        self.add_module("decoder" if decodes else "encoder", coder)


def _vae_of(decodes: bool, coder: nn.Module) -> nn.Module:
    return coder if isinstance(coder, Network) else _Only(decodes, coder)


def run(
    inner: Callable[[Tensor], Tensor], coder: nn.Module, x: Tensor, decodes: bool, mode: str, vae: Any, watch: Watch
) -> Tensor:
    """Take a latent through the decoder, or a picture through the encoder.

    Args:
        inner: the host's own way.
        coder: the module whose `forward` this is; or a whole network of ours.
        x: (N, C, h, w) behind `post_quant_conv`, or pictures (N, 3, H, W) in [-1, 1]; for a whole network, latents.
        mode: 'auto', 'exact' or 'whole'.
        vae: which weights are in it, to remember what overflowed.

    Returns:
        what `inner` returns: (N, 3, H, W) in about [-1, 1], or moments before `quant_conv`.
    """
    if not _finite(x):
        return inner(x)  # no precision helps what comes in broken, and no VAE is to blame for it
    try:
        plan = _plan(coder, x, decodes, mode, vae, watch)
    except VaeManagerError as error:  # not a KL autoencoder's coder, or too large for any mode
        if mode == "exact" or isinstance(error, MemoryLimitError):
            watch.warn(f"The exact {_noun(decodes)} is not possible here: {error}. The WebUI's own was used.")
        plan = None
    if plan is not None:
        streamed = _streamed(inner, coder, x, plan, vae, watch)
        return inner(x) if streamed is None else streamed
    try:
        result = inner(x)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.warning("The %s ran out of memory; it is streamed instead.", _noun(decodes))
        result = None  # and not in here: the failed attempt's frames hold its tensors
    if result is None or (_is_half(coder) and not _finite(result)):
        if result is not None:
            watch.wide.add(vae)
        del result
        rescued = _rescue(inner, coder, x, decodes, vae, watch)
        return inner(x) if rescued is None else rescued
    return result


def _plan(coder: nn.Module, x: Tensor, decodes: bool, mode: str, vae: Any, watch: Watch) -> Plan | None:
    """How to stream; None: in one piece, by the host."""
    if mode == "whole" or (mode == "auto" and watch.tiler):
        return None
    only, make, limit = _vae_of(decodes, coder), plan_decode if decodes else plan_encode, _limit(x.device, watch)
    dtype = torch.float32 if vae in watch.wide else None
    if mode == "auto" and dtype is None:
        whole = WHOLE_OVER_A * make(only, tuple(x.shape), device=x.device, memory_limit=1 << 62, mode="A").peak_bytes
        if whole <= COMFORT * limit:
            return None
    try:
        return make(only, tuple(x.shape), dtype=dtype, device=x.device, memory_limit=limit)
    except MemoryLimitError:
        if x.device.type == "cpu":
            raise
        return make(only, tuple(x.shape), dtype=dtype, device=x.device, memory_limit=limit, storage="cpu")


def _limit(device: torch.device, watch: Watch) -> int:
    free = watch.free_memory(device) or free_bytes(device)
    return min(free, watch.memory_limit) if watch.memory_limit else free


def _streamed(
    inner: Callable[[Tensor], Tensor], coder: nn.Module, x: Tensor, plan: Plan, vae: Any, watch: Watch
) -> Tensor | None:
    """The streamed result; None where it failed, which was told."""
    noun, stream = _noun(plan.decodes), stream_decode if plan.decodes else stream_encode
    before = watch.interrupted()  # a job that was stopped while sampling still wants its picture

    def progress(done: int, total: int) -> None:
        watch.say(f"VAE {noun}: {100 * done // total} %")

    try:
        # a host's autocast would round inside what is exact
        with _no_autocast(x.device):
            found = stream(
                _vae_of(plan.decodes, coder),
                x,
                plan=plan,
                on_progress=progress,
                should_stop=None if before else watch.interrupted,
            )
    except Interrupted:
        watch.warn(f"The {noun} was interrupted; what you see is a quick approximation.")
        return _approximate(inner, x, plan.decodes)
    except Exception as error:
        if isinstance(error, VaeManagerError):
            log.warning("The exact %s failed: %s", noun, error)
        else:
            log.exception("The exact %s failed", noun)
        watch.warn(f"The exact {noun} failed ({error}); the WebUI's own was used.")
        return None
    finally:
        watch.say(None)
    if found.report.dtype != plan.dtype:
        watch.wide.add(vae)
    line = f"{noun}: {found.report.describe()}"
    log.info(line)
    watch.streamed.append(line)
    return found.tensor


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    try:
        return torch.autocast(device.type, enabled=False)
    except RuntimeError:  # DirectML, and MPS before torch 2.5, have none
        return contextlib.nullcontext()


def _rescue(
    inner: Callable[[Tensor], Tensor], coder: nn.Module, x: Tensor, decodes: bool, vae: Any, watch: Watch
) -> Tensor | None:
    """The result that the host's own way did not give: it ran out of memory, or overflowed half precision."""
    release_cached(x.device)
    try:
        plan = _plan(coder, x, decodes, "exact", vae, watch)
    except VaeManagerError:
        return None
    return _streamed(inner, coder, x, plan, vae, watch) if plan else None


def _approximate(inner: Callable[[Tensor], Tensor], x: Tensor, decodes: bool) -> Tensor:
    """A small version through the host's own way, enlarged: a result of the right size at once."""
    unit = 1 if decodes else 8  # a picture's sides are multiples of 8 all the way
    shrink = min(1.0, APPROXIMATE[decodes] / max(x.shape[2:]))
    small = F.interpolate(x, size=[max(unit, int(side * shrink) // unit * unit) for side in x.shape[2:]], mode="area")
    result = inner(small)
    size = [round(side * of / by) for side, of, by in zip(x.shape[2:], result.shape[2:], small.shape[2:])]
    return F.interpolate(result.float(), size=size, mode="bicubic", align_corners=False).to(result.dtype)


def _noun(decodes: bool) -> str:
    return "decode" if decodes else "encode"


def _is_half(coder: nn.Module) -> bool:
    return next(coder.parameters()).dtype in (torch.float16, torch.bfloat16)


def _finite(result: Tensor) -> bool:
    return bool(torch.isfinite(result).all())
