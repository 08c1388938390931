"""Decode and encode huge latents and pictures in bounded memory, with the pixels of the whole decode.

    result = stream_decode(vae, z)              # z unscaled, (N, C, h, w)
    result.tensor, result.report.describe()     # (N, 3, 8h, 8w) in about [-1, 1]; what was done

`vae` is our `AutoencoderKL`, a host's (ldm, Forge, ldm_patched) or diffusers': its modules are found by their
structure and used as they are. Every picture of a batch is streamed by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_manager.codec.streaming.kernels import live_weight
from vae_manager.codec.streaming.passes import passes
from vae_manager.codec.streaming.plan import (
    Plan,
    best_plan,
    channels_out,
    kinds,
    pass_work,
    smaller_plan,
    stage_grids,
    stage_steps,
)
from vae_manager.codec.streaming.run import NotFinite, Point, Run, run_stage
from vae_manager.codec.streaming.strips import Map
from vae_manager.codec.streaming.structure import Chain, decoder_chain, encoder_chain
from vae_manager.errors import BadInputError, Interrupted, MemoryLimitError

OnProgress = Callable[[int, int], None]
OnRows = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class Report:
    """What was done."""

    mode: str
    strips: int
    """Strips that were computed, over all passes and pictures."""
    peak_bytes: int
    """The plan's promise of what the run adds to memory, the result included."""
    limit_bytes: int
    seconds: float
    retries: tuple[str, ...]
    """One sentence for each time that a smaller mode or a wider dtype had to take over."""
    dtype: torch.dtype
    """The dtype that gave the result."""
    plan: Plan

    def describe(self) -> str:
        """One line for the log."""
        return "; ".join((self.plan.describe(), f"{self.seconds:.1f} s", *self.retries))


@dataclass(frozen=True)
class StreamResult:
    """The result of a run."""

    tensor: Tensor | None
    """(N, 3, H, W) pixels or (N, 2·C, h, w) moments; None where the rows went to `on_rows`."""
    report: Report


def plan_decode(
    vae: nn.Module,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory_limit: int | None = None,
    mode: str | None = None,
    strip_pixels: int | None = None,
    storage: torch.device | str | None = None,
    rows_only: bool = False,
) -> Plan:
    """The fastest way to decode latents of this shape that fits.

    Args:
        shape: of the latents, (N, C, h, w).
        dtype, device: to compute in and on; None takes the decoder's own.
        memory_limit: bytes that may be taken; None asks the device what is free.
        mode: one of "A", "B", "P", "C", "D", from most memory to least; None lets the limit decide.
        strip_pixels: pixels of a strip, at every resolution; None chooses.
        storage: where maps wait between passes, such as "cpu" while computing on a GPU; None: the device.
        rows_only: the result will be taken by `on_rows`, so it needs no memory.

    Raises:
        VaeFileError: the VAE's structure is not understood.
        BadInputError: the shape does not suit this VAE.
        MemoryLimitError: nothing fits; the message names the least that would.
    """
    chain = decoder_chain(vae)
    return _planned(chain, shape, dtype, device, memory_limit, mode, strip_pixels, storage, rows_only)


def plan_encode(
    vae: nn.Module,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory_limit: int | None = None,
    mode: str | None = None,
    strip_pixels: int | None = None,
    storage: torch.device | str | None = None,
    rows_only: bool = False,
) -> Plan:
    """The fastest way to encode pictures of this shape, (N, 3, H, W), that fits; see `plan_decode`."""
    chain = encoder_chain(vae)
    return _planned(chain, shape, dtype, device, memory_limit, mode, strip_pixels, storage, rows_only)


def stream_decode(
    vae: nn.Module,
    z: Tensor,
    *,
    plan: Plan | None = None,
    memory_limit: int | None = None,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_rows: OnRows | None = None,
) -> StreamResult:
    """Decode unscaled latents (N, C, h, w) to pixels (N, 3, H, W), about [-1, 1], not clamped.

    Args:
        plan: from `plan_decode`, for exactly this shape; None makes one. Its dtype and device are computed in.
        memory_limit: bytes that may be taken, where no plan is given; None asks the device what is free.
        on_progress: called as (done, total) after every strip.
        should_stop: asked after every strip; True raises `Interrupted`.
        on_rows: takes the result as (picture, y, rows (3, r, W)) from top to bottom instead of one tensor. After a
            retry (out of memory, overflow) a picture's rows come again from y = 0.

    Raises:
        VaeFileError, BadInputError, MemoryLimitError: as `plan_decode`.
        Interrupted: `should_stop` said so.
    """
    return _stream(decoder_chain(vae), z, plan, memory_limit, on_progress, should_stop, on_rows)


def stream_encode(
    vae: nn.Module,
    x: Tensor,
    *,
    plan: Plan | None = None,
    memory_limit: int | None = None,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_rows: OnRows | None = None,
) -> StreamResult:
    """Encode pictures (N, 3, H, W) in [-1, 1] to moments (N, 2·C, h, w): mean and log-variance, after `quant_conv`.

    The arguments and errors are those of `stream_decode`.
    """
    return _stream(encoder_chain(vae), x, plan, memory_limit, on_progress, should_stop, on_rows)


# --- how


def _planned(
    chain: Chain,
    shape: tuple[int, ...],
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    limit: int | None,
    mode: str | None,
    strip_pixels: int | None,
    storage: torch.device | str | None,
    rows_only: bool,
) -> Plan:
    weight: Tensor = chain.stages[-1].tail.weight  # type: ignore[union-attr, assignment]
    return best_plan(
        chain,
        tuple(shape),
        dtype or weight.dtype,
        torch.device(device) if device is not None else weight.device,
        limit=limit,
        mode=mode,
        strip_pixels=strip_pixels,
        storage=torch.device(storage) if storage is not None else None,
        rows_only=rows_only,
    )


@torch.no_grad()
def _stream(
    chain: Chain,
    source: Tensor,
    plan: Plan | None,
    limit: int | None,
    on_progress: OnProgress | None,
    should_stop: Callable[[], bool] | None,
    on_rows: OnRows | None,
) -> StreamResult:
    start = time.perf_counter()
    if plan is None:
        device = source.device if source.device.type != "cpu" else None
        plan = _planned(chain, source.shape, None, device, limit, None, None, None, on_rows is not None)
    if plan.shape != tuple(source.shape) or plan.decodes != chain.decodes:
        raise BadInputError(f"the plan is for {list(plan.shape)} and the input is {list(source.shape)}")
    total = source.shape[0]
    result = None
    if on_rows is None:
        grid, last = stage_grids(chain, *source.shape[2:])[-1], channels_out(chain)
        result = torch.empty((total, last, grid.height, grid.width), dtype=plan.dtype, device=plan.device)
    retries: list[str] = []
    strips = 0
    dtype = plan.dtype
    for index in range(total):
        todo: Plan | None = plan
        while todo is not None:
            job = _Job(chain, todo, index, total, on_progress, should_stop)
            emit = _emitter(chain, todo, index, result, on_rows)
            trouble = _attempt(chain, todo, source[index], emit, job)
            strips += job.strips
            dtype = todo.dtype
            if trouble is None:
                break
            # Here the failed attempt's frames, and with them its tensors, are gone.
            job = emit = None
            if isinstance(trouble, NotFinite):
                todo = _wider(chain, todo, on_rows is not None)
                retries.append(f"picture {index + 1} overflowed {_name(dtype)} and was computed in {_name(todo.dtype)}")
            else:
                _release(plan.device)
                plan = _smaller(chain, todo, on_rows is not None)
                retries.append(f"out of memory in mode {todo.mode}, went on in mode {plan.mode}")
                todo = plan
    seconds = time.perf_counter() - start
    report = Report(plan.mode, strips, plan.peak_bytes, plan.limit_bytes, seconds, tuple(retries), dtype, plan)
    return StreamResult(result, report)


def _attempt(
    chain: Chain, plan: Plan, picture: Tensor, emit: Callable[[Tensor], None], job: _Job
) -> NotFinite | MemoryError | None:
    """Stream one picture; what went wrong, if it is something that another plan can mend."""
    try:
        _stream_picture(chain, plan, picture, emit, job)
    except NotFinite:
        return NotFinite()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return MemoryError(str(error))
    return None


def _stream_picture(chain: Chain, plan: Plan, picture: Tensor, emit: Callable[[Tensor], None], job: _Job) -> None:
    run = Run(plan.device, plan.dtype, plan.storage, chain.wraps, plan.attention_bytes, job.tick)
    x = picture.to(plan.device, plan.dtype).permute(1, 2, 0).contiguous()
    if chain.pre is not None:
        x = _pointwise(x, chain.pre)
    point = Point(None, x.abs().amax(dim=(0, 1)).to("cpu").double())
    source = Map(x.shape[0], plan.device)
    source.append(x)
    del x
    for stage, steps, keep, rows in zip(chain.stages, stage_steps(chain), plan.keeps, plan.rows):
        todo = passes(kinds(steps), keep)
        source, point = run_stage(stage, steps, todo, rows, source, point, run, emit, job.begin)


def _pointwise(x: Tensor, conv: nn.Module) -> Tensor:
    """A 1×1 convolution of a channels-last strip."""
    weight, bias = live_weight(conv, x)
    return F.linear(x, weight.flatten(1), bias)


def _emitter(
    chain: Chain, plan: Plan, index: int, result: Tensor | None, on_rows: OnRows | None
) -> Callable[[Tensor], None]:
    """Take the last convolution's strips to where the caller wants them."""
    y = 0

    def emit(strip: Tensor) -> None:
        nonlocal y
        if chain.post is not None:
            strip = _pointwise(strip, chain.post)
        if chain.tanh:
            strip = torch.tanh(strip)
        if _checked(plan.dtype) and not bool(torch.isfinite(strip).all()):
            raise NotFinite
        rows = strip.permute(2, 0, 1)
        if result is not None:
            result[index, :, y : y + strip.shape[0]] = rows
        elif on_rows is not None:
            on_rows(index, y, rows)
        y += strip.shape[0]

    return emit


class _Job:
    """Progress of one picture, in the plan's units of work, and the user's wish to stop."""

    def __init__(
        self,
        chain: Chain,
        plan: Plan,
        index: int,
        total: int,
        on_progress: OnProgress | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.strips = 0
        self._work = iter(pass_work(chain, plan))
        self._whole = plan.work / total
        self._done, self._pass = 0.0, 0.0
        self._index, self._total = index, total
        self._on_progress, self._should_stop = on_progress, should_stop

    def begin(self) -> None:
        self._pass = next(self._work)

    def tick(self, share: float) -> None:
        self.strips += 1
        self._done += share * self._pass
        if self._on_progress is not None:
            done = min(1.0, self._done / self._whole)
            self._on_progress(round(1000 * (self._index + done)), 1000 * self._total)
        if self._should_stop is not None and self._should_stop():
            raise Interrupted("the decode or encode was stopped")


def _checked(dtype: torch.dtype) -> bool:
    """In a half precision, what is not finite has overflowed; otherwise it was so in the input."""
    return dtype in (torch.float16, torch.bfloat16)


def _wider(chain: Chain, plan: Plan, rows_only: bool) -> Plan:
    """The plan after an overflow: float32 if that fits, or else bfloat16, which has float32's range."""
    try:
        return _replanned(chain, plan, torch.float32, rows_only)
    except MemoryLimitError:
        if plan.dtype == torch.bfloat16:
            raise
        return replace(plan, dtype=torch.bfloat16)


def _replanned(chain: Chain, plan: Plan, dtype: torch.dtype, rows_only: bool) -> Plan:
    return best_plan(
        chain,
        plan.shape,
        dtype,
        plan.device,
        limit=plan.limit_bytes,
        storage=plan.storage,
        rows_only=rows_only,
    )


def _smaller(chain: Chain, plan: Plan, rows_only: bool) -> Plan:
    found = smaller_plan(plan, chain, rows_only)
    if found is None:
        raise MemoryLimitError(
            f"out of memory in mode {plan.mode}, the smallest there is: free some memory, or use a smaller picture"
        )
    return found


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
        or "out of memory" in text
        or ("can't allocate memory" in text or "not enough memory" in text)
    )


def _release(device: torch.device) -> None:
    """Give blocks that torch caches back to the driver."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
