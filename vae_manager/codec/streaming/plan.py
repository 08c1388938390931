"""Choose, before anything is computed, what is kept and what is computed again, so that it fits.

The memory of a pass is counted from the shapes: the maps that are held, the weights made ready, and what one strip
needs on its way through the layers. `best_plan` takes, for each stage on its own, the cheapest policy that stays
under the limit; a stage's peak does not depend on the others' policies, so the whole is the cheapest plan there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import torch

from vae_manager.codec.memory import in_words
from vae_manager.codec.streaming.chain import Chain, Stage
from vae_manager.codec.streaming.flow import SPARE, Size, Terms
from vae_manager.codec.streaming.heap import with_slack, without_slack
from vae_manager.codec.streaming.kernels import SIDES
from vae_manager.codec.streaming.passes import MODES, NAMED, POLICIES, Keep, Mode, Pass, passes
from vae_manager.codec.streaming.steps import Convolve, Step
from vae_manager.errors import BadInputError, MemoryLimitError

STRIP_PIXELS = {"cpu": (8192, 4096, 2048), "": (262144, 65536, 16384)}
"""Strip sizes that are tried on a CPU and elsewhere, the fastest first. A GPU needs large strips to be busy; on a CPU
2048 pixels are as fast as 16384 (docs/tiling.md)."""

FRUGAL_PIXELS = (1024, 512)
"""Still smaller strips, for chains that are `frugal` on a CPU."""

FRUGAL_WORK = 1.3
"""How much work they may take, over the least."""

OVERHEAD_BYTES = 2**19
"""What does not depend on the picture: moments, and the attention kernel's own buffers."""

ATTENTION_BYTES = (64 * 2**20, 4 * 2**20)
"""What the scores of a chunk of queries may take: sizes that are tried, the fastest first."""


@dataclass(frozen=True)
class Request:
    """What is to be streamed, and what that may take."""

    shape: tuple[int, int, int, int]
    """Of the input: (N, C, h, w) latents or (N, 3, H, W) pictures."""
    dtype: torch.dtype
    device: torch.device
    storage: torch.device
    """Where maps wait between passes; a second device, where they do not fit on the first."""
    limit_bytes: int
    mode: Mode | None = None
    """One of `MODES`, for the full-resolution stage; None lets the limit decide."""
    strip_pixels: int | None = None
    """Pixels of a strip; None tries `STRIP_PIXELS`."""
    rows_only: bool = False
    """The result is handed out row by row and never whole."""

    @property
    def item(self) -> int:
        """Bytes of one number."""
        return self.dtype.itemsize

    @property
    def on_device(self) -> bool:
        """Do maps wait on the device that computes?"""
        return self.storage == self.device


@dataclass(frozen=True)
class Plan:
    """How one picture is streamed. Frozen, cheap, and good for every picture of the same shape and dtype."""

    decodes: bool
    request: Request
    keeps: tuple[Keep, ...]
    """One policy per stage, in the order of the chain."""
    rows: tuple[int, ...]
    """Strip height per stage, in rows of its largest map."""
    sides: tuple[int, ...]
    """Per stage, outputs along one side of a Winograd tile."""
    attention_bytes: int
    peak_bytes: int
    """What the run adds to memory at its peak, the result included."""
    work: float
    """Multiplications (after transforming), for comparing plans and for progress."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.request.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.request.dtype

    @property
    def device(self) -> torch.device:
        return self.request.device

    @property
    def storage(self) -> torch.device:
        return self.request.storage

    @property
    def limit_bytes(self) -> int:
        return self.request.limit_bytes

    @property
    def mode(self) -> Mode:
        """The letter of the full-resolution stage, which decides the memory."""
        return (self.keeps[-1] if self.decodes else self.keeps[0]).mode

    def describe(self) -> str:
        """One line for the log: `exact, mode C: 1.3 GB of 5.1 GB free`."""
        where = "" if self.storage == self.device else f", maps on {self.storage}"
        return f"exact, mode {self.mode}: {in_words(self.peak_bytes)} of {in_words(self.limit_bytes)} free{where}"


def best_plan(chain: Chain, request: Request) -> Plan:
    """The fastest plan that fits.

    Raises:
        BadInputError: the input's shape does not suit the chain.
        MemoryLimitError: nothing fits; the message names the least that would.
    """
    check_shape(chain, request)
    return fastest([_plan(chain, request, attention_bytes) for attention_bytes in ATTENTION_BYTES])


def fastest(plans: list[Plan]) -> Plan:
    """The plan with the least work among those that fit; of equals, the first.

    Raises:
        MemoryLimitError: none fits; the message names the least that would.
    """
    fitting = [plan for plan in plans if plan.peak_bytes <= plan.limit_bytes]
    if fitting:
        return min(fitting, key=lambda plan: plan.work)
    least = min(plans, key=lambda plan: plan.peak_bytes)
    needed, limit = in_words(least.peak_bytes), in_words(least.limit_bytes)
    raise MemoryLimitError(
        f"to {'decode' if least.decodes else 'encode'} {tuple(least.shape)} takes {needed} at least, and {limit} may "
        "be taken: free some memory, raise the limit, or use a smaller picture"
    )


def strip_sizes(request: Request) -> tuple[int, ...]:
    """The strip sizes to try, the fastest first."""
    if request.strip_pixels:
        return (request.strip_pixels,)
    return STRIP_PIXELS.get(request.device.type, STRIP_PIXELS[""])


def check_shape(chain: Chain, request: Request) -> None:
    """Raise BadInputError unless the request is one that the chain can do."""
    what, shape = "latent" if chain.decodes else "picture", request.shape
    if len(shape) != 4 or 0 in shape:
        raise BadInputError(f"a {what} has the shape (N, C, height, width), and this is {list(shape)}")
    if shape[1] != chain.channels_in:
        raise BadInputError(f"the {what} has {shape[1]} channels and this VAE takes {chain.channels_in}")
    if min(shape[2:]) < chain.least_side:
        raise BadInputError(
            f"the {what} is {shape[3]}×{shape[2]}: each side must have {chain.least_side} pixels at least"
        )
    if request.mode is not None and request.mode not in MODES:
        raise BadInputError(f"there is no mode {request.mode!r}: the modes are {', '.join(MODES)}")
    if request.mode is not None and request.mode not in chain.modes:
        raise BadInputError(f"this VAE is streamed in mode {' or '.join(chain.modes)} only: not in {request.mode}")
    if chain.needs_multiples and any(side % chain.ratio for side in shape[2:]):
        why = "to tile seamlessly, " if chain.wraps else ""
        raise BadInputError(f"{why}the sides of the picture must be multiples of {chain.ratio}")


# --- memory and work


@dataclass(frozen=True)
class _Option:
    """One way to take a map through a stage."""

    keep: Keep
    rows: int
    side: int
    peak: int
    work: float


def _plan(chain: Chain, request: Request, attention_bytes: int) -> Plan:
    """The cheapest plan that fits, or else the smallest."""
    grids = chain.grids(*request.shape[2:])
    fixed = _fixed_bytes(chain, request)
    room = without_slack(request.limit_bytes, request.device) - fixed
    full = len(chain.stages) - 1 if chain.decodes else 0
    policies = POLICIES if chain.modes == MODES else tuple(NAMED[mode] for mode in chain.modes)
    frugal = chain.frugal and request.device.type == "cpu" and request.strip_pixels is None
    sizes = (*strip_sizes(request), *(FRUGAL_PIXELS if frugal else ()))

    def options(n: int, policies: tuple[Keep, ...]) -> list[_Option]:
        heights = [chain.stages[n].strip_rows(*grids[n], pixels) for pixels in sizes]
        terms = [Terms(request.device, request.dtype, attention_bytes, side, chain.rescales) for side in SIDES]
        ways = {(rows, t.side): StagePrices(chain, n, grids[n], rows, t) for rows in heights for t in terms}
        found: list[_Option] = []
        for keep, ((rows, side), prices) in product(policies, ways.items()):
            costs = prices.of_passes(keep, request.on_device)
            found.append(_Option(keep, rows, side, max(peak for peak, _ in costs), sum(work for _, work in costs)))
        return found

    top = _cheapest(options(full, policies if request.mode is None else (NAMED[request.mode],)), room, frugal)
    # In a mode that was asked for, no other stage may take more than the full-resolution one.
    others = room if request.mode is None else min(room, top.peak)
    chosen = [top if n == full else _cheapest(options(n, policies), others, frugal) for n in range(len(chain.stages))]
    return Plan(
        decodes=chain.decodes,
        request=request,
        keeps=tuple(option.keep for option in chosen),
        rows=tuple(option.rows for option in chosen),
        sides=tuple(option.side for option in chosen),
        attention_bytes=attention_bytes,
        peak_bytes=with_slack(fixed + max(option.peak for option in chosen), request.device),
        work=sum(option.work for option in chosen) * request.shape[0],
    )


def _cheapest(options: list[_Option], limit: int, frugal: bool = False) -> _Option:
    """The least work that fits, and of equals the first, which has the largest strips; or else the least memory.

    `frugal`: the least memory that fits and takes not much more than the least work.
    """
    fitting = [option for option in options if option.peak <= limit]
    if fitting and frugal:
        most = FRUGAL_WORK * min(option.work for option in fitting)
        return min((option for option in fitting if option.work <= most), key=lambda option: option.peak)
    if fitting:
        return min(fitting, key=lambda option: option.work)
    return min(options, key=lambda option: (option.peak, option.work))


def _fixed_bytes(chain: Chain, request: Request) -> int:
    """The results of all pictures, and the channels-last copy of one input."""
    n, _, height, width = request.shape
    result = 0 if request.rows_only else n * prod(chain.result_shape(height, width))
    copies = chain.channels_in + (chain.stages[0].steps[0].c_in if chain.pre is not None else 0)
    return OVERHEAD_BYTES + request.item * (result + copies * height * width)


def pass_work(chain: Chain, plan: Plan) -> list[float]:
    """The work of every pass over one picture, in order; its sum is `plan.work` per picture."""
    grids, found = chain.grids(*plan.shape[2:]), list[float]()
    for n, (keep, rows, side) in enumerate(zip(plan.keeps, plan.rows, plan.sides)):
        terms = Terms(plan.device, plan.dtype, plan.attention_bytes, side, chain.rescales)
        prices = StagePrices(chain, n, grids[n], rows, terms)
        found += [work for _, work in prices.of_passes(keep, plan.request.on_device)]
    return found


def entering(stage: Stage, grid: tuple[int, int], rows: int) -> Size:
    """The size that enters a stage, whose strips are `rows` high in its largest map."""
    return Size(*grid, max(1, rows // stage.zoom))


class StagePrices:
    """What the passes over one stage take, with strips of one height and Winograd tiles of one size."""

    def __init__(self, chain: Chain, n: int, grid: tuple[int, int], rows: int, terms: Terms) -> None:
        """`grid`: of the map that enters the stage."""
        self._steps, self._wraps, self._terms = chain.stages[n].steps, chain.wraps, terms
        self._sizes = chain.stages[n].sizes(entering(chain.stages[n], grid, rows))
        self._is_first, self._is_last = n == 0, n + 1 == len(chain.stages)
        since = chain.beside[n]
        self._keeps_source = since == n
        """What enters waits for the end of a level, in another stage."""
        self._beside = 0
        """Numbers of a map that waits so since an earlier stage."""
        if since is not None and since < n:
            self._beside = chain.stages[since].steps[0].c_in * self._sizes[0].pixels
        self._strips: dict[tuple[int, int, int | None], tuple[int, float]] = {}
        """Passes of several policies are the same ones."""

    def of_passes(self, keep: Keep, maps_count: bool) -> list[tuple[int, float]]:
        """Bytes at the peak and work of every pass; `maps_count`: whole maps are held on the device that computes."""
        found: list[tuple[int, float]] = []
        h_map = 0
        for todo in passes(self._steps, keep):
            key = todo.first, todo.last, todo.reads
            if key not in self._strips:
                self._strips[key] = self._strip_price(todo)
            strips, work = self._strips[key]
            # The first stage's input is counted with the fixed parts, and so is the result.
            source = self._map(todo.first, todo.first) if todo.first or not self._is_first else 0
            is_result = self._is_last and todo.last + 1 == len(self._steps)
            made = self._map(todo.last + 1, todo.last) if todo.keeps and not is_result else 0
            held = source + (h_map if todo.reads is not None else 0)
            # what attention made is one strip, which goes when its last row is read
            lump = todo.first > 0 and self._steps[todo.first - 1].whole
            maps = max(held, made) if todo.frees and not lump and not self._keeps_source else max(held, source + made)
            maps += self._beside
            found.append((self._terms.item * ((maps if maps_count else 0) + strips), work))
            h_map = made if self._steps[todo.last].opens else 0
        return found

    def _map(self, at: int, step: int) -> int:
        """Numbers of the map before step `at`, which the step reads or makes."""
        channels = self._steps[step].c_in if at == step else self._steps[step].c_out
        return channels * self._sizes[at].pixels

    def _strip_price(self, todo: Pass) -> tuple[int, float]:
        """Numbers that a pass holds besides whole maps (strips, line buffers, weights made ready), and its work."""
        first, size = self._steps[todo.first], self._sizes[todo.first]
        if first.whole:
            price = first.cost(size, self._terms)
            return price.strip, price.work
        margin = pass_margin(self._steps, todo) if self._wraps else 0
        size = size._replace(over=SPARE, margin=margin, waiting=0)
        # short strips are joined, and the last rows of a seamless stream are taken out beforehand
        held = first.c_in * (2 * size.area + 4 * margin * size.width)
        strip, scratch, work = 0, 0, 0.0
        for i in range(todo.first, todo.last + 1):
            step = self._steps[i]
            if step.begins:
                size = size.begun(step.c_in)
            elif isinstance(step, Convolve) and step.ends is not None and not size.level:
                size = size.begun(step.ends.channels)  # in another stage, and is read again
            if step.opens and i < todo.last:
                size = size.opened(step.c_in)
            if i == todo.reads:
                strip = max(strip, size.waiting + 2 * step.c_out * size.area)
                continue
            price = step.cost(size, self._terms)
            held += price.carried + price.weights
            strip, scratch, work = max(strip, price.strip), max(scratch, price.scratch), work + price.work
            size = step.behind(size)
        return held + strip + scratch, work


def pass_margin(steps: Sequence[Step], todo: Pass) -> int:
    """How many extra rows a seamless stream needs at each end of its source so that none is missing at the end."""
    needed = 0
    for i in range(todo.last, todo.first - 1, -1):
        step = steps[i]
        assert isinstance(step, Convolve), "attention is a pass of its own"
        needed = needed if i == todo.reads else step.reach(needed)
    return needed
