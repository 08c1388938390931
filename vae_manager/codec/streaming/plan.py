"""Choose, before anything is computed, what is kept and what is computed again, so that it fits.

The memory of a pass is counted from the shapes: the maps that are held, the weights made ready, and what one strip
needs on its way through the layers. `best_plan` takes, for each stage on its own, the cheapest policy that stays
under the limit; a stage's peak does not depend on the others' policies, so the whole is the cheapest plan there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch

from vae_manager.codec.streaming.attention import query_chunk
from vae_manager.codec.streaming.heap import with_slack, without_slack
from vae_manager.codec.streaming.kernels import SIDES, transformed, workspace
from vae_manager.codec.streaming.passes import NAMED, POLICIES, Keep, Pass, Step, passes, steps_of
from vae_manager.codec.streaming.structure import Block, Chain
from vae_manager.errors import BadInputError, MemoryLimitError

MODES = "ABPCD"
"""From most memory and fewest computations to least memory; see `Keep.mode`."""

STRIP_PIXELS = {"cpu": (8192, 4096, 2048), "": (262144, 65536, 16384)}
"""Strip sizes that are tried on a CPU and elsewhere, the fastest first. A GPU needs large strips to be busy; on a CPU
2048 pixels are as fast as 16384 (docs/tiling.md)."""

MIN_STRIP_ROWS = 4
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
    mode: str | None = None
    """A letter of `MODES` for the full-resolution stage; None lets the limit decide."""
    strip_pixels: int | None = None
    """Pixels of a strip; None tries `STRIP_PIXELS`."""
    rows_only: bool = False
    """The result is handed out row by row and never whole."""

    @property
    def item(self) -> int:
        """Bytes of one number."""
        return torch.empty(0, dtype=self.dtype).element_size()


@dataclass(frozen=True)
class Plan:
    """How one picture is streamed. Frozen, cheap, and good for every picture of the same shape and dtype."""

    decodes: bool
    request: Request
    keeps: tuple[Keep, ...]
    """One policy per stage, in the order of the chain."""
    rows: tuple[int, ...]
    """Strip height per stage, in rows of that stage."""
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
    def mode(self) -> str:
        """The letter of the full-resolution stage, which decides the memory."""
        return (self.keeps[-1] if self.decodes else self.keeps[0]).mode

    def describe(self) -> str:
        """One line for the log: `exact, mode C: 1.3 GB of 5.1 GB free`."""
        where = "" if self.storage == self.device else f", maps on {self.storage}"
        return f"exact, mode {self.mode}: {_gb(self.peak_bytes)} of {_gb(self.limit_bytes)} free{where}"


@dataclass(frozen=True)
class Grid:
    """Where a stage works: the size of its maps, and of the map that enters it."""

    height: int
    width: int
    height_in: int
    width_in: int


@dataclass(frozen=True)
class Cut:
    """A stage's grid, the rows of a strip, and the side of a Winograd tile."""

    grid: Grid
    rows: int
    side: int


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def best_plan(chain: Chain, request: Request) -> Plan:
    """The fastest plan that fits.

    Raises:
        BadInputError: the input's shape does not suit the chain.
        MemoryLimitError: nothing fits; the message names the least that would.
    """
    check_shape(request, chain.decodes, channels_in(chain), chain.ratio)
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
    raise MemoryLimitError(
        f"to {'decode' if least.decodes else 'encode'} {tuple(least.shape)} takes {_gb(least.peak_bytes)} at least, "
        f"and {_gb(least.limit_bytes)} may be taken: free some memory, raise the limit, or use a smaller picture"
    )


def strip_sizes(request: Request) -> tuple[int, ...]:
    """The strip sizes to try, the fastest first."""
    if request.strip_pixels:
        return (request.strip_pixels,)
    return STRIP_PIXELS.get(request.device.type, STRIP_PIXELS[""])


# --- shapes


def channels_in(chain: Chain) -> int:
    """Channels of the input that `chain` takes (before its `pre` convolution)."""
    first = chain.pre if chain.pre is not None else chain.stages[0].head
    return int(first.weight.shape[1])  # type: ignore[union-attr, arg-type]


def channels_out(chain: Chain) -> int:
    """Channels of the result (behind its `post` convolution)."""
    last = chain.post if chain.post is not None else chain.stages[-1].tail
    return int(last.weight.shape[0])  # type: ignore[union-attr, arg-type]


def check_shape(request: Request, decodes: bool, channels: int, ratio: int) -> None:
    """Raise BadInputError unless the request is one that a coder of these channels can do."""
    what, shape = "latent" if decodes else "picture", request.shape
    if len(shape) != 4 or 0 in shape:
        raise BadInputError(f"a {what} has the shape (N, C, height, width), and this is {list(shape)}")
    if shape[1] != channels:
        raise BadInputError(f"the {what} has {shape[1]} channels and this VAE takes {channels}")
    if not decodes and min(shape[2:]) < ratio:
        raise BadInputError(f"the picture is {shape[3]}×{shape[2]}: each side must have {ratio} pixels at least")
    if request.mode is not None and request.mode not in MODES:
        raise BadInputError(f"there is no mode {request.mode!r}: the modes are {', '.join(MODES)}")


def stage_grids(chain: Chain, height: int, width: int) -> list[Grid]:
    """The size of every stage's maps for an input of height × width."""
    grids = []
    for stage in chain.stages:
        entering = (height, width)
        if stage.upsamples:
            height, width = 2 * height, 2 * width
        grids.append(Grid(height, width, *entering))
        if stage.downsamples:
            height, width = height // 2, width // 2
    return grids


def stage_steps(chain: Chain) -> list[tuple[Step, ...]]:
    """The steps of every stage."""
    found, width = [], int(chain.stages[0].head.weight.shape[1])  # type: ignore[union-attr, arg-type]
    for stage in chain.stages:
        steps = steps_of(stage, width)
        found.append(steps)
        width = steps[-1].c_out if steps else width
    return found


def kinds(steps: tuple[Step, ...]) -> tuple[str, ...]:
    return tuple(step.kind for step in steps)


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
    grids, steps = stage_grids(chain, *request.shape[2:]), stage_steps(chain)
    fixed = _fixed_bytes(chain, request, grids[-1])
    room = without_slack(request.limit_bytes, request.device) - fixed
    full = len(grids) - 1 if chain.decodes else 0

    def options(n: int, policies: tuple[Keep, ...]) -> list[_Option]:
        found = []
        for keep, pixels, side in product(policies, strip_sizes(request), SIDES):
            cut = Cut(grids[n], strip_rows(grids[n], pixels), side)
            cost = _stage_cost(chain, request, steps[n], keep, cut, attention_bytes, n == 0)
            found.append(_Option(keep, cut.rows, side, *cost))
        return found

    top = _cheapest(options(full, POLICIES if request.mode is None else (NAMED[request.mode],)), room)
    # In a mode that was asked for, no other stage may take more than the full-resolution one.
    others = room if request.mode is None else min(room, top.peak)
    chosen = [top if n == full else _cheapest(options(n, POLICIES), others) for n in range(len(grids))]
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


def _cheapest(options: list[_Option], limit: int) -> _Option:
    """The least work that fits, and of equals the first, which has the largest strips; or else the least memory."""
    fitting = [option for option in options if option.peak <= limit]
    if fitting:
        return min(fitting, key=lambda option: option.work)
    return min(options, key=lambda option: (option.peak, option.work))


def pass_work(chain: Chain, plan: Plan) -> list[float]:
    """The work of every pass over one picture, in order; its sum is `plan.work` per picture."""
    cuts = map(Cut, stage_grids(chain, *plan.shape[2:]), plan.rows, plan.sides)
    return [
        _strip_cost(chain, plan.request, steps[todo.first : todo.last + 1], todo, cut, plan.attention_bytes)[1]
        for steps, keep, cut in zip(stage_steps(chain), plan.keeps, cuts)
        for todo in passes(kinds(steps), keep)
    ]


def strip_rows(grid: Grid, pixels: int) -> int:
    """The whole map, or a power of two, so that strips of one stage divide into strips of the next."""
    rows = max(1, pixels // grid.width)
    return grid.height if rows >= grid.height else max(min(MIN_STRIP_ROWS, grid.height), 2 ** (rows.bit_length() - 1))


def _fixed_bytes(chain: Chain, request: Request, last: Grid) -> int:
    """The results of all pictures, and the channels-last copy of one input."""
    n, _, height, width = request.shape
    result = 0 if request.rows_only else n * channels_out(chain) * last.height * last.width
    entering = channels_in(chain) + (steps_of(chain.stages[0], 0)[0].layer.weight.shape[1] if chain.pre else 0)
    return OVERHEAD_BYTES + request.item * (result + entering * height * width)


def _stage_cost(
    chain: Chain,
    request: Request,
    steps: tuple[Step, ...],
    keep: Keep,
    cut: Cut,
    attention_bytes: int,
    is_first: bool,
) -> tuple[int, float]:
    """Bytes at the peak and work of one stage under a policy."""
    peak, work, h_map, grid = 0, 0.0, 0, cut.grid
    for todo in passes(kinds(steps), keep):
        doing = steps[todo.first : todo.last + 1]
        pixels = grid.height * grid.width
        pixels_in = grid.height_in * grid.width_in if todo.first == 0 else pixels
        # The first stage's input is counted with the fixed parts.
        source = 0 if is_first and todo.first == 0 else doing[0].c_in * pixels_in
        last = doing[-1]
        made = last.c_out * (pixels // 4 if last.kind == "down" else pixels) if todo.keeps and last.kind != "out" else 0
        held = source + (h_map if todo.reads_h else 0)
        maps = max(held, made) if todo.frees else max(held, source + made)
        strip, more = _strip_cost(chain, request, doing, todo, cut, attention_bytes)
        peak = max(peak, request.item * (maps if request.storage == request.device else 0) + strip)
        work += more
        h_map = made if last.kind == "open" else 0
    return peak, work


def _strip_cost(
    chain: Chain,
    request: Request,
    doing: tuple[Step, ...],
    todo: Pass,
    cut: Cut,
    attention_bytes: int,
) -> tuple[int, float]:
    """Bytes that a pass holds besides whole maps (strips, line buffers, weights made ready), and its work."""
    if doing[0].kind == "attend":
        return _attention_cost(request, doing[0], cut.grid, attention_bytes)
    grid = cut.grid
    item, width, pixels = request.item, grid.width, grid.height * grid.width
    # Strips are cut where they are two rows too long, and a block's last one is two rows longer than the others.
    rows = min(cut.rows + 4, grid.height)
    area, line = rows * width, width + 2
    carried = weights = busiest = scratch = 0
    work = 0.0
    margin = 2 * len(doing) * doing[0].c_in * width * (2 if chain.wraps else 0)
    for n, step in enumerate(doing):
        loads_h = step.kind == "open" and todo.reads_h and "open" not in kinds(doing[n + 1 :])
        area_in = area // 4 if step.kind == "up" else area
        line_in = line // 2 + 1 if step.kind == "up" else line
        area_out = area // 4 if step.kind == "down" else area
        waiting = 0
        if step.kind in ("open", "close"):
            block: Block = step.layer
            x_width = int(block.conv1.weight.shape[1])  # type: ignore[arg-type, union-attr]
            if n + 1 < len(doing) or step.kind == "close":
                waiting = x_width * area
            if step.kind == "close":
                carried += 4 * x_width * line
                if block.skip is not None:
                    weights += 2 * step.c_out * x_width
                    work += x_width * step.c_out * pixels
        if loads_h:
            busiest = max(busiest, waiting + 2 * step.c_out * area)
            continue
        carried += 2 * step.c_in * line_in
        buffer = step.c_in * (area_in + 2 * line_in + 2 * rows)
        extra = 0
        if item == 2 and step.kind in ("open", "close", "out"):
            extra = 6 * step.c_in * area_in  # the strip and its normalised copies in float32
        up = step.kind == "up"
        if step.kind != "down" and transformed(request.device, request.dtype, step.c_in, step.c_out, up):
            halved = 2 if up else 1  # a kernel that upsamples works on the pixels that it repeats
            ready, needed, products = workspace(
                step.c_in, step.c_out, up, cut.side, rows // halved + 1, width // halved
            )
            weights += ready
            scratch = max(scratch, needed)
        else:
            weights += 9 * step.c_in * step.c_out
            extra += 6 * step.c_in * area_in if up else 0
            extra += step.c_out * area_out  # a convolution may return another memory format
            products = 9 / 4 if step.kind == "down" else 9.0
        made = step.c_out * area_out
        if item == 2:
            extra += 2 * made  # its moments are taken in float32
        busiest = max(busiest, waiting + step.c_in * area_in + buffer + extra + made)
        work += step.c_in * step.c_out * products * pixels
    source = 2 * doing[0].c_in * (area // 4 if doing[0].kind == "up" else area)  # short strips are joined
    return item * (carried + weights + busiest + scratch + source + margin), work


def _attention_cost(request: Request, step: Step, grid: Grid, attention_bytes: int) -> tuple[int, float]:
    """Besides x: the normalised map, keys, values, the weights, and one chunk of queries with its scores."""
    positions = grid.height * grid.width
    chunk = query_chunk(positions, attention_bytes)
    channels, wide = step.c_out, 4 // request.item if request.item < 4 else 1
    scores = 8 * chunk * positions
    maps = channels * (positions * (2 + wide) + 4 * chunk + 4 * channels)
    return request.item * maps + scores, 4.0 * channels**2 * positions + 2.0 * positions**2 * channels
