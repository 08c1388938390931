"""How one picture goes through a host's decoder or encoder: in one piece, or streamed with the same pixels.

`run` stands around the `forward` of either, whosever it is: a WebUI's, ComfyUI's, diffusers'. It never makes things
worse: what goes wrong in here ends in the host's own result, and is told once.
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
from vae_manager.codec.kinds.registry import chain_of
from vae_manager.codec.memory import free_bytes, is_out_of_memory, release_cached
from vae_manager.codec.streaming.api import Report, plan_decode, plan_encode, stream_decode, stream_encode
from vae_manager.codec.streaming.plan import Plan
from vae_manager.errors import Interrupted, MemoryLimitError, VaeManagerError

log = logging.getLogger("vae_manager")

WHOLE_OVER_A = 2.7
"""Memory of a whole decode over that of mode A: ldm's `x * sigmoid(x)` holds 65,568 elements for each latent pixel
at 128 channels, where mode A holds 24,576 (docs/tiling.md)."""

WHOLE_MAPS = 8
"""Maps of the widest layer that a whole run of a kind without mode A is taken to hold; too many only streams early."""

COMFORT = 0.5
"""Share of the free memory that a whole decode may take before `auto` streams: it must never be a close call."""

Shape4 = tuple[int, ...]
"""(N, C, height, width)."""

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
    reports: list[Report] = field(default_factory=list)
    """The same as figures."""
    own: str = "the WebUI's own"
    """What the host's own way is called in sentences."""
    promised: Callable[[Plan], None] = lambda plan: None
    """Told the plan of every run before it begins."""
    progress: Callable[[int, int], None] = lambda done, total: None
    """Told after every strip how much is done."""
    approximates: bool = True
    """An interrupted run ends in a quick approximation; False: in `Interrupted`."""


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
        plan = _plan(coder, tuple(x.shape), x.device, decodes, mode, vae, watch)
    except VaeManagerError as error:  # not a KL autoencoder's coder, or too large for any mode
        if mode == "exact" or isinstance(error, MemoryLimitError):
            own = watch.own[:1].upper() + watch.own[1:]
            watch.warn(f"The exact {_noun(decodes)} is not possible here: {error}. {own} was used.")
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


def foreseen(
    coder: nn.Module, shape: Shape4, device: torch.device, decodes: bool, mode: str, watch: Watch
) -> int | None:
    """Bytes that a run of this shape will add to the memory of the device, for a host that makes room beforehand; None
    where the host's own way will be taken, or nothing is known. Where nothing fits into what is free now, the least."""
    try:
        plan = _plan(coder, shape, device, decodes, mode, None, watch)
    except MemoryLimitError:
        make = plan_decode if decodes else plan_encode
        least = make(_vae_of(decodes, coder), shape, device=device, memory_limit=1 << 62, mode="D").peak_bytes
        return None if watch.memory_limit and least > watch.memory_limit else least
    except VaeManagerError:
        return None
    return None if plan is None else plan.peak_bytes


def _plan(
    coder: nn.Module, shape: Shape4, device: torch.device, decodes: bool, mode: str, vae: Any, watch: Watch
) -> Plan | None:
    """How to stream; None: in one piece, by the host."""
    if mode == "whole" or (mode == "auto" and watch.tiler):
        return None
    only, make, limit = _vae_of(decodes, coder), plan_decode if decodes else plan_encode, _limit(device, watch)
    dtype = torch.float32 if vae in watch.wide else None
    if mode == "auto" and dtype is None and _whole_bytes(only, shape, device, decodes) <= COMFORT * limit:
        return None
    try:
        return make(only, shape, dtype=dtype, device=device, memory_limit=limit)
    except MemoryLimitError:
        if device.type == "cpu":
            raise
        return make(only, shape, dtype=dtype, device=device, memory_limit=limit, storage="cpu")


def _whole_bytes(only: nn.Module, shape: Shape4, device: torch.device, decodes: bool) -> float:
    """What the host's own way may take, in one piece."""
    chain, make = chain_of(only, decodes), plan_decode if decodes else plan_encode
    if "A" in chain.modes:
        return WHOLE_OVER_A * make(only, shape, device=device, memory_limit=1 << 62, mode="A").peak_bytes
    channels = max(max(step.c_in, step.c_out) for step in chain.steps)
    height, width = chain.result_shape(*shape[2:])[1:] if decodes else shape[2:]
    return WHOLE_MAPS * channels * height * width * shape[0] * chain.weight.dtype.itemsize


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
        watch.progress(done, total)

    try:
        watch.promised(plan)
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
        if not watch.approximates:
            raise
        watch.warn(f"The {noun} was interrupted; what you see is a quick approximation.")
        return _approximate(inner, x, plan.decodes)
    except Exception as error:
        if isinstance(error, VaeManagerError):
            log.warning("The exact %s failed: %s", noun, error)
        else:
            log.exception("The exact %s failed", noun)
        watch.warn(f"The exact {noun} failed ({error}); {watch.own} was used.")
        return None
    finally:
        watch.say(None)
    if found.report.dtype != plan.dtype:
        watch.wide.add(vae)
    line = f"{noun}: {found.report.describe()}"
    log.info(line)
    watch.streamed.append(line)
    watch.reports.append(found.report)
    return found.tensor


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    try:
        return torch.autocast(device.type, enabled=False)
    except (RuntimeError, AssertionError):  # DirectML, MPS before torch 2.5, and backends that torch only knows by name
        return contextlib.nullcontext()


def _rescue(
    inner: Callable[[Tensor], Tensor], coder: nn.Module, x: Tensor, decodes: bool, vae: Any, watch: Watch
) -> Tensor | None:
    """The result that the host's own way did not give: it ran out of memory, or overflowed half precision."""
    release_cached(x.device)
    try:
        plan = _plan(coder, tuple(x.shape), x.device, decodes, "exact", vae, watch)
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
