"""Decode and encode huge latents and pictures in bounded memory, with the pixels of the whole decode.

    result = stream_decode(vae, z)              # z unscaled, (N, C, h, w)
    result.tensor, result.report.describe()     # (N, 3, 8h, 8w) in about [-1, 1]; what was done

`vae` is our `AutoencoderKL`, a host's (ldm, Forge, ldm_patched) or diffusers'; or a tiny autoencoder, ours or
diffusers'. Its modules are found by their structure and used as they are. Every picture of a batch is streamed by
itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor, nn

from vae_manager.codec.kinds.registry import chain_of
from vae_manager.codec.memory import free_bytes, is_out_of_memory, release_cached
from vae_manager.codec.streaming import heap
from vae_manager.codec.streaming.chain import Chain
from vae_manager.codec.streaming.flow import NotFinite
from vae_manager.codec.streaming.passes import MODES, Mode
from vae_manager.codec.streaming.plan import Plan, Request, best_plan, pass_work
from vae_manager.codec.streaming.run import stream
from vae_manager.errors import BadInputError, Interrupted, MemoryLimitError

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
    """The dtype of the result: the plan's, or a wider one after an overflow."""
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


class PlanOptions(TypedDict, total=False):
    """What may be asked of a plan; whatever is left out, or None, is chosen."""

    dtype: torch.dtype | None
    """To compute in; None takes the weights' own."""
    device: torch.device | str | None
    """To compute on; None takes the weights' own."""
    memory_limit: int | None
    """Bytes that may be taken; None asks the device what is free."""
    mode: Mode | None
    """One of "A", "B", "P", "C", "D", from most memory to least; None lets the limit decide."""
    strip_pixels: int | None
    """Pixels of a strip, at every resolution; None chooses."""
    storage: torch.device | str | None
    """Where maps wait between passes, such as "cpu" while computing on a GPU; None: the device."""
    rows_only: bool
    """The result will be taken by `on_rows`, so it needs no memory."""


class StreamOptions(TypedDict, total=False):
    """How a run goes, and what it tells; all of it may be left out."""

    plan: Plan | None
    """From `plan_decode` or `plan_encode`, for exactly this shape; None makes one. Its dtype and device are used."""
    memory_limit: int | None
    """Bytes that may be taken, where no plan is given; None asks the device what is free."""
    on_progress: Callable[[int, int], None] | None
    """Called as (done, total) after every strip."""
    should_stop: Callable[[], bool] | None
    """Asked after every strip; True raises `Interrupted`."""
    on_rows: Callable[[int, int, Tensor], None] | None
    """Takes the result as (picture, y, rows (3, r, W)) from top to bottom instead of one tensor. After a retry (out
    of memory, overflow) a picture's rows come again from y = 0."""


def plan_decode(vae: nn.Module, shape: tuple[int, ...], **options: Unpack[PlanOptions]) -> Plan:
    """The fastest way to decode latents of this shape, (N, C, h, w), that fits.

    Raises:
        VaeFileError: the VAE's structure is not understood.
        BadInputError: the shape does not suit this VAE.
        MemoryLimitError: nothing fits; the message names the least that would.
    """
    return _plan(chain_of(vae, True), shape, options)


def plan_encode(vae: nn.Module, shape: tuple[int, ...], **options: Unpack[PlanOptions]) -> Plan:
    """The fastest way to encode pictures of this shape, (N, 3, H, W), that fits; errors as `plan_decode`."""
    return _plan(chain_of(vae, False), shape, options)


def stream_decode(vae: nn.Module, z: Tensor, **options: Unpack[StreamOptions]) -> StreamResult:
    """Decode latents (N, C, h, w), as `vae.decode` takes them, to pixels (N, 3, H, W), about [-1, 1], not clamped.

    Raises:
        VaeFileError, BadInputError, MemoryLimitError: as `plan_decode`.
        Interrupted: `should_stop` said so.
    """
    return _stream(chain_of(vae, True), z, **options)


def stream_encode(vae: nn.Module, x: Tensor, **options: Unpack[StreamOptions]) -> StreamResult:
    """Encode pictures (N, 3, H, W) in [-1, 1] to moments (N, 2·C, h, w): mean and log-variance, after `quant_conv`.

    Errors as `stream_decode`.
    """
    return _stream(chain_of(vae, False), x, **options)


# --- how


def _plan(chain: Chain, shape: tuple[int, ...], options: PlanOptions) -> Plan:
    device = torch.device(options.get("device") or chain.weight.device)
    limit = options.get("memory_limit")
    request = Request(
        shape=tuple(shape),  # type: ignore[arg-type]
        dtype=options.get("dtype") or chain.weight.dtype,
        device=device,
        storage=torch.device(options.get("storage") or device),
        limit_bytes=free_bytes(device) if limit is None else limit,
        mode=options.get("mode"),
        strip_pixels=options.get("strip_pixels"),
        rows_only=options.get("rows_only", False),
    )
    return best_plan(chain, request)


@torch.no_grad()
def _stream(
    chain: Chain,
    source: Tensor,
    plan: Plan | None = None,
    memory_limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_rows: Callable[[int, int, Tensor], None] | None = None,
) -> StreamResult:
    start = time.perf_counter()
    if plan is None:
        device = source.device if source.device.type != "cpu" else None
        plan = _plan(chain, source.shape, {"device": device, "memory_limit": memory_limit, "rows_only": bool(on_rows)})
    if plan.shape != tuple(source.shape) or plan.decodes != chain.decodes:
        raise BadInputError(f"the plan is for {list(plan.shape)} and the input is {list(source.shape)}")
    result = _Result(chain, plan, on_rows)
    progress = _Progress(source.shape[0], on_progress, should_stop)
    retries: list[str] = []
    for index, picture in enumerate(source):
        while True:
            result.begin(index, plan.dtype)
            trouble = _attempt(chain, picture, plan, result, progress)
            if trouble is None:
                break
            # Here the failed attempt's frames, and with them its tensors, are gone.
            failed = plan
            if isinstance(trouble, NotFinite):
                plan = _wider(chain, failed)
                names = [str(p.dtype).removeprefix("torch.") for p in (failed, plan)]
                retries.append(f"picture {index + 1} overflowed {names[0]} and was computed in {names[1]}")
            else:
                release_cached(plan.device)
                plan = _smaller(chain, failed)
                retries.append(f"out of memory in mode {failed.mode}, went on in mode {plan.mode}")
    seconds = time.perf_counter() - start
    report = Report(
        plan.mode, progress.strips, plan.peak_bytes, plan.limit_bytes, seconds, tuple(retries), result.dtype, plan
    )
    return StreamResult(result.tensor, report)


def _attempt(
    chain: Chain, picture: Tensor, plan: Plan, result: _Result, progress: _Progress
) -> NotFinite | MemoryError | None:
    """Stream one picture; what went wrong, if it is something that another plan can mend."""
    progress.start(result.index, pass_work(chain, plan))
    try:
        stream(chain, picture, plan, result.put, progress)
        result.check()
    except NotFinite:
        return NotFinite()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return MemoryError(str(error))
    finally:
        heap.trim()  # the host needs what the run has left
    return None


class _Result:
    """Where the strips of the result go: into one tensor, or to the caller."""

    def __init__(self, chain: Chain, plan: Plan, on_rows: Callable[[int, int, Tensor], None] | None) -> None:
        self.tensor, self.dtype, self.index = None, plan.dtype, 0
        if on_rows is None:
            shape = (plan.shape[0], *chain.result_shape(*plan.shape[2:]))
            self.tensor = torch.empty(shape, dtype=plan.dtype, device=plan.device)
        self._on_rows, self._y = on_rows, 0

    def begin(self, index: int, dtype: torch.dtype) -> None:
        """Go to the first row of a picture that is computed in this dtype, which the result has to hold."""
        self.index, self._y = index, 0
        self._finite: Tensor | None = None
        self._computed_in, self.dtype = dtype, torch.promote_types(self.dtype, dtype)
        if self.tensor is not None:
            self.tensor = self.tensor.to(self.dtype)

    def put(self, strip: Tensor) -> None:
        if self._computed_in in (torch.float16, torch.bfloat16):
            finite = torch.isfinite(strip).all()
            self._finite = finite if self._finite is None else self._finite & finite
        rows, y = strip.permute(2, 0, 1), self._y
        self._y += strip.shape[0]
        if self.tensor is not None:
            self.tensor[self.index, :, y : self._y] = rows
        elif self._on_rows is not None:
            self._on_rows(self.index, y, rows)

    def check(self) -> None:
        """Raise NotFinite where a half precision has overflowed; otherwise what is not finite was so in the input.

        Asked once for a picture: the answer waits for all that the device has to do.
        """
        if self._finite is not None and not bool(self._finite):
            raise NotFinite


class _Progress:
    """Progress in the plan's units of work, and the user's wish to stop."""

    def __init__(
        self,
        total: int,
        on_progress: Callable[[int, int], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.strips = 0
        self._total, self._on_progress, self._should_stop = total, on_progress, should_stop

    def start(self, index: int, work: list[float]) -> None:
        """A picture begins, whose passes are that much work each."""
        self._index, self._work, self._whole = index, iter(work), sum(work)
        self._done = self._pass = 0.0

    def begin(self) -> None:
        """A pass begins."""
        self._pass = next(self._work)

    def tick(self, share: float) -> None:
        """A share of the pass is done."""
        self.strips += 1
        self._done += share * self._pass
        if self._on_progress is not None:
            done = min(1.0, self._done / self._whole)
            self._on_progress(round(1000 * (self._index + done)), 1000 * self._total)
        if self._should_stop is not None and self._should_stop():
            raise Interrupted("the decode or encode was stopped")


def _wider(chain: Chain, plan: Plan) -> Plan:
    """The plan after an overflow: float32 if that fits, or else bfloat16, which has float32's range."""
    try:
        return best_plan(chain, replace(plan.request, dtype=torch.float32, mode=None))
    except MemoryLimitError:
        if plan.dtype == torch.bfloat16:
            raise
        return best_plan(chain, replace(plan.request, dtype=torch.bfloat16))


def _smaller(chain: Chain, plan: Plan) -> Plan:
    """The plan to go on with after `plan` ran out of memory: the next mode that takes less, if there is one."""
    for mode in MODES[MODES.index(plan.mode) + 1 :]:
        try:
            found = best_plan(chain, replace(plan.request, mode=mode, limit_bytes=plan.peak_bytes - 1))
        except MemoryLimitError:
            continue
        return replace(found, request=replace(found.request, limit_bytes=plan.limit_bytes))
    raise MemoryLimitError(
        f"out of memory in mode {plan.mode}, the smallest there is: free some memory, or use a smaller picture"
    )
