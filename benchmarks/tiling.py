"""Exact streaming against the whole decode and the peers' ways: error, time and memory in one run.

    vae-manager bench tiling                              # random weights, 64 channels, 96² latent
    vae-manager bench tiling --channels 128 --latent 80
    vae-manager bench tiling --picture errors.jpg         # where the errors are, on the demo's photograph
    vae-manager bench tiling --promises 50                # what random plans promise, and what they take
    vae-manager bench tiling --huge                       # 4096 × 4096, 64 channels, float32

Every measurement is one call in a fresh process that has warmed up on a small input; the subjects take turns, and the
figures are medians over the rounds. Time: CPU time of the process, over that of the whole decode in the same round
(on a busy machine wall time measures the neighbours). Memory: growth of the peak resident size during the call, over
the whole decode's. Error: against the whole decode in float64, in 8-bit levels. Threads: OMP_NUM_THREADS.
"""

# pyright: basic
from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers import averaged_tiles, convolve_in_tiles
from vae_manager.codec.kinds.kl.config import KLConfig
from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.codec.streaming import MODES, Mode, Plan, heap, plan_decode, plan_encode, stream_decode, stream_encode
from vae_manager.commands.bench import tiling_arguments
from vae_manager.errors import MemoryLimitError

DEMO = Path(__file__).resolve().parents[1] / "vae_manager" / "data" / "demo"

LEVELS = 127.5
"""8-bit levels per unit of a picture in [-1, 1]."""

WHATS = ("decode", "encode")

SHARES = (50, 25, 15)
"""Memory limits of the rows `exact in … %`, in percent of what the whole decode takes."""


@dataclass(frozen=True)
class Row:
    """One subject. Ratios are to the whole decode."""

    what: str
    subject: str
    max_error_levels: float | None = None
    psnr_db: float | None = None
    seam: float | None = None
    """Mean step of the error across the rows where diffusers' tiles meet, over the mean step elsewhere; None for
    an error of rounding."""
    time_ratio: float | None = None
    memory_ratio: float | None = None
    seconds: float | None = None
    """CPU time."""
    peak_mb: float | None = None
    promise_mb: float | None = None
    """What the plan said."""
    plan: str | None = None


# --- the subjects


def make_vae(channels: int, seed: int = 0) -> AutoencoderKL:
    """A KL-f8 of SD's shape with random weights under which activations keep their scale."""
    widths = (channels, 2 * channels, 4 * channels, 4 * channels)
    torch.manual_seed(seed)
    vae = AutoencoderKL(KLConfig(encoder_stem=channels, encoder_channels=widths, decoder_channels=widths)).eval()
    with torch.no_grad():
        for parameter in vae.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return vae.requires_grad_(False)


def in_place_silu(vae: nn.Module) -> None:
    """The residual blocks with SiLU in place: the whole decode's own saving."""
    for module in vae.modules():
        if hasattr(module, "norm1"):
            module.forward = _in_place_block.__get__(module)  # type: ignore[method-assign]


def _in_place_block(self: Any, x: Tensor) -> Tensor:
    h = self.conv1(F.silu(self.norm1(x), inplace=True))
    h = self.conv2(F.silu(self.norm2(h), inplace=True))
    return h.add_(self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


def diffusers_vae(vae: AutoencoderKL) -> Any:
    """diffusers' AutoencoderKL with the same weights, tiling on (its 512-pixel tiles)."""
    import diffusers

    make: Any = getattr(diffusers, "AutoencoderKL")  # noqa: B009
    theirs = make(
        block_out_channels=vae.config.decoder_channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=vae.config.norm_groups,
        sample_size=512,
    ).eval()
    # Both trees list their layers in the order of execution, but for up (ours from the full resolution).
    state = vae.state_dict()
    theirs.load_state_dict({_their_name(name): _their_shape(name, tensor) for name, tensor in state.items()})
    theirs.enable_tiling()
    return theirs


def _their_name(name: str) -> str:
    parts = name.split(".")
    for i, part in enumerate(parts[:-1]):
        if part == "up" and parts[i + 1].isdigit():
            parts[i], parts[i + 1] = "up_blocks", str(3 - int(parts[i + 1]))
    fixed = ".".join(parts).replace("down.", "down_blocks.", 1) if ".down." in name else ".".join(parts)
    for ours, theirs in (
        (".block.", ".resnets."),
        ("mid.block_1", "mid_block.resnets.0"),
        ("mid.block_2", "mid_block.resnets.1"),
        ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
        ("mid.attn_1.q", "mid_block.attentions.0.to_q"),
        ("mid.attn_1.k", "mid_block.attentions.0.to_k"),
        ("mid.attn_1.v", "mid_block.attentions.0.to_v"),
        ("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
        ("nin_shortcut", "conv_shortcut"),
        ("downsample.conv", "downsamplers.0.conv"),
        ("upsample.conv", "upsamplers.0.conv"),
        ("norm_out", "conv_norm_out"),
    ):
        fixed = fixed.replace(ours, theirs)
    return fixed


def _their_shape(name: str, tensor: Tensor) -> Tensor:
    return tensor.flatten(1) if ".attn_1." in name and tensor.dim() == 4 else tensor


def subjects() -> list[str]:
    """Everything that can be measured here. The whole decode comes first: the others are held against it."""
    names = ["whole", "whole, channels_last", "whole, in-place SiLU"]
    if shutil.which("g++") or shutil.which("clang++"):
        names.append("whole, torch.compile")
    names += ["convolutions in tiles", "ComfyUI's tiles"]
    names += [f"exact {mode}" for mode in MODES] + [f"exact in {share} %" for share in SHARES]
    try:
        import diffusers  # noqa: F401
    except ImportError:
        return names
    return [*names, "diffusers tiling"]


def subject(what: str, name: str, vae: AutoencoderKL, size: tuple[int, int], limit: int) -> Callable[[Tensor], Any]:
    """The function to measure: it returns the result, and for ours the plan beside it.

    Raises:
        MemoryLimitError: ours does not fit into `limit` bytes.
    """
    whole = vae.decode if what == "decode" else vae.encode_moments
    if name == "whole, channels_last":
        vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return lambda x: (whole(x.contiguous(memory_format=torch.channels_last)), None)
    if name == "whole, torch.compile":
        compiled = torch.compile(whole)
        return lambda x: (compiled(x), None)
    if name == "diffusers tiling":
        theirs = diffusers_vae(vae)
        if what == "decode":
            return lambda x: (theirs.decode(x).sample, None)
        return lambda x: (theirs.encode(x).latent_dist.parameters, None)
    if name.startswith("exact"):
        mode: Mode | None = next((mode for mode in MODES if name == f"exact {mode}"), None)
        plan_it, stream = (plan_decode, stream_decode) if what == "decode" else (plan_encode, stream_encode)
        plan = plan_it(vae, make_input(what, size).shape, mode=mode, memory_limit=limit)
        return lambda x: (stream(vae, x, plan=plan).tensor, plan)
    if name == "whole, in-place SiLU":
        in_place_silu(vae)
    if name == "convolutions in tiles":
        convolve_in_tiles(vae)
    if name == "ComfyUI's tiles":
        return lambda x: (averaged_tiles(whole, x, what == "decode"), None)
    return lambda x: (whole(x), None)


def make_input(what: str, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if what == "decode":
        return torch.randn(1, 4, *size, generator=generator)
    return torch.rand(1, 3, *size, generator=generator) * 2 - 1


# --- one measurement, in a process of its own


@torch.no_grad()
def _measure_here(what: str, name: str, channels: int, size: tuple[int, int], limit: int, output: str) -> None:
    """Run one subject and print what it took as JSON; its result goes to `output`, where that is a path."""
    vae = make_vae(channels)
    if name == "whole, float64":
        exact = vae.double().decode if what == "decode" else vae.double().encode_moments
        torch.save(exact(make_input(what, size).double()), output)
        print(json.dumps({}))
        return
    try:
        function, x = subject(what, name, vae, size, limit), make_input(what, size)
    except MemoryLimitError:
        print(json.dumps(None))
        return
    small = (8, 8) if what == "decode" else (64, 64)
    # torch.compile makes code for one shape, so that it has to warm up on the whole of it
    function(x) if "compile" in name else subject(what, name, vae, small, 1 << 50)(make_input(what, small))
    release_heap()
    before, start = heap.resident_bytes(), time.process_time()
    y, plan = function(x)
    seconds, peak = time.process_time() - start, resident_peak() - before
    if output:
        torch.save(y, output)
    told = {} if plan is None else {"promise": plan.peak_bytes, "plan": _told(plan)}
    print(json.dumps({"seconds": seconds, "peak": peak, **told}))


def _told(plan: Plan) -> str:
    return f"{plan.mode}: {' '.join(keep.mode for keep in plan.keeps)}"


def measure_apart(
    what: str, name: str, channels: int, size: tuple[int, int], limit: int = 1 << 50, output: str = ""
) -> dict[str, Any] | None:
    """`_measure_here` in a fresh process; None where ours does not fit into `limit`."""
    arguments = [sys.executable, __file__, "--one", json.dumps([what, name, channels, size, limit, output])]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode:
        raise RuntimeError(f"{what}, {name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def resident_peak() -> int:
    """The most that this process has held since `release_heap`; elsewhere than on Linux since it began.

    Not `ru_maxrss` where there is another way: a process begins with that of the one that started it.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def release_heap() -> None:
    """Give freed memory back, and count the peak from here."""
    gc.collect()
    heap.trim()
    with contextlib.suppress(OSError):  # Linux: the peak starts again
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


# --- the table


def run(
    channels: int = 64, latent: int = 96, rounds: int = 3, whats: tuple[str, ...] = ("decode", "encode")
) -> list[Row]:
    """Measure every subject; see the module's docstring."""
    rows = []
    for what in whats:
        size = (latent, latent) if what == "decode" else (8 * latent, 8 * latent)
        with tempfile.TemporaryDirectory() as folder:
            rows += _rows(what, channels, size, rounds, Path(folder))
    return rows


def _rows(what: str, channels: int, size: tuple[int, int], rounds: int, folder: Path) -> list[Row]:
    measure_apart(what, "whole, float64", channels, size, output=str(folder / "exact"))
    found: dict[str, list[dict[str, Any]]] = {}
    errors: dict[str, Tensor] = {}
    for n in range(rounds):
        for name in subjects() if n == 0 else list(found):
            share = int(name.split()[-2]) if "%" in name else None
            limit = 1 << 50 if share is None else int(found["whole"][0]["peak"] * share / 100)
            output = folder / "result"
            took = measure_apart(what, name, channels, size, limit, str(output) if n == 0 else "")
            print(f"{what}, {name}: {took}", file=sys.stderr, flush=True)
            if took is None:
                continue
            found.setdefault(name, []).append(took)
            if n == 0:
                errors[name] = (torch.load(output).double() - torch.load(folder / "exact")) * LEVELS
    return [_row(what, name, found, error) for name, error in errors.items()]


def _row(what: str, name: str, found: dict[str, list[dict[str, Any]]], error: Tensor) -> Row:
    def median(key: str) -> float:
        return statistics.median(took[key] for took in found[name])

    def ratio(key: str) -> float:
        return statistics.median(ours[key] / whole[key] for ours, whole in zip(found[name], found["whole"]))

    first = found[name][0]
    return Row(
        what,
        name,
        float(f"{float(error.abs().max()):.2g}"),
        round(psnr(error), 1),
        seam(error, 384 if what == "decode" else 48),
        round(ratio("seconds"), 2),
        round(ratio("peak"), 3),
        round(median("seconds"), 1),
        round(median("peak") / 1e6, 1),
        round(first["promise"] / 1e6, 1) if "promise" in first else None,
        first.get("plan"),
    )


def psnr(error: Tensor) -> float:
    """In dB, of an error in 8-bit levels."""
    return 10 * math.log10(255**2 / float(error.square().mean()))


def seam(error: Tensor, every: int) -> float | None:
    """Steps in the error map across tile borders, over steps elsewhere; None for an error of rounding."""
    if float(error.abs().max()) < 0.01:
        return None
    steps = (error[..., 1:, :] - error[..., :-1, :]).abs().mean(dim=(0, 1, 3))
    at = torch.zeros_like(steps, dtype=torch.bool)
    at[every - 1 :: every] = True
    return round(float(steps[at].mean() / steps[~at].mean()), 1) if bool(at.any()) else None


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    names = [name for name in asdict(rows[0]) if any(getattr(row, name) is not None for row in rows)]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        values = [getattr(row, name) for name in names]
        lines.append("| " + " | ".join("" if value is None else str(value) for value in values) + " |")
    return "\n".join(lines)


# --- what plans promise


def run_promises(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random sizes, widths and modes, each in a fresh process: growth of the peak resident size over the promise."""
    pick = random.Random(seed)
    found = []
    for n in range(count):
        what, mode = pick.choice(WHATS), pick.choice(MODES)
        channels, sides = pick.choice((32, 64, 96, 128)), (pick.randint(16, 64), pick.randint(16, 64))
        size = sides if what == "decode" else (8 * sides[0], 8 * sides[1])
        took = measure_apart(what, f"exact {mode}", channels, size)
        assert took is not None, "there is no limit that it could miss"
        over = round(took["peak"] / took["promise"], 3)
        found.append({"what": what, "mode": mode, "channels": channels, "size": size, **took, "peak_to_promise": over})
        print(f"{n + 1} of {count}: {found[-1]}", file=sys.stderr, flush=True)
    return found


def promises_text(rows: list[dict[str, Any]]) -> str:
    ratios = sorted(row["peak_to_promise"] for row in rows)
    within = sum(ratio <= 1.1 for ratio in ratios)
    return (
        f"peak over promise: median {statistics.median(ratios):.2f}, largest {ratios[-1]:.2f}, "
        f"within 1.10 in {within} of {len(ratios)}"
    )


# --- the picture


@torch.no_grad()
def draw_errors(path: Path, width: int = 1152) -> dict[str, float]:
    """Decode the demo's photograph whole, by diffusers' tiling and exactly, and draw where the errors are.

    Writes one picture to `path`, and returns the largest error of each in levels.
    """
    from PIL import Image, ImageDraw, ImageFont

    from vae_manager.codec.pictures import load_picture, to_levels
    from vae_manager.codec.whole import latent_of
    from vae_manager.library.files import vae_file
    from vae_manager.library.state import load_state

    state = load_state(vae_file(DEMO / "demo-kl-f8.safetensors"), torch.float32)
    vae = state.kind.build(state.tensors, state.norm_groups)
    assert isinstance(vae, AutoencoderKL)
    photo = F.interpolate(load_picture(DEMO / "photo.jpg"), (width * 2 // 3 // 8 * 8, width), mode="area")
    z = latent_of(vae.encode_moments(photo))
    whole = vae.decode(z)
    exact = stream_decode(vae, z).tensor
    assert exact is not None
    errors = {
        "diffusers' tiling": diffusers_vae(vae).decode(z).sample - whole,
        "exact streaming": exact - whole,
    }
    worst = {name: float(error.abs().max() * LEVELS) for name, error in errors.items()}
    tiles = {"whole decode": Image.fromarray(to_levels(whole, 255)[0].to(torch.uint8).numpy())}
    for name, error in errors.items():
        tiles[f"{name}: off by up to {_short(worst[name])} levels"] = _heat(error[0].abs().amax(0) * LEVELS)
    across = 560
    height = round(across * whole.shape[2] / whole.shape[3])
    sheet = Image.new("RGB", (across * len(tiles) + 8 * (len(tiles) - 1), height + 30), "white")
    font = ImageFont.load_default(size=18)
    for n, (caption, tile) in enumerate(tiles.items()):
        sheet.paste(tile.resize((across, height), Image.Resampling.BOX), (n * (across + 8), 30))
        ImageDraw.Draw(sheet).text((n * (across + 8) + 4, 4), caption, fill="black", font=font)
    sheet.save(path, quality=88)
    return worst


def _short(levels: float) -> str:
    return f"{levels:.0f}" if levels >= 10 else f"{levels:.2g}"


def _heat(error: Tensor, full: float = 40.0) -> Any:
    """An error in levels as black → red → yellow → white, white from `full` levels on."""
    from PIL import Image

    ramp = (3 * error / full).clamp(0, 3)
    colors = torch.stack([(ramp - i).clamp(0, 1) for i in range(3)], dim=-1)
    return Image.fromarray((255 * colors).round().to(torch.uint8).numpy())


# --- the huge one


def pad_circularly(vae: nn.Module) -> nn.Module:
    """Seamless tiling, as the hosts switch it on: every convolution pads from the other end."""
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    return vae


@torch.no_grad()
def run_huge(side: int = 512, period: int = 64, channels: int = 64, limit: int = 2_700_000_000) -> Row:
    """A latent of side × side in float32, every row of the result held against float64.

    The latent repeats every `period` and the convolutions pad circularly, so its decode is the repetition of the
    whole decode of one period: convolutions do not see where they are, GroupNorm's statistics are those of one
    period, and in the attention every key and value has equally many duplicates, which leaves the softmax's average
    as it is. So float64 has to decode one period only. That the streaming decoder knows nothing of the repetition
    makes this an error of the whole of its work at full size.
    """
    vae = pad_circularly(make_vae(channels))
    tile = make_input("decode", (period, period))
    exact: Tensor = vae.double().decode(tile.double())[0]  # type: ignore[operator]
    vae.float()
    z = tile.repeat(1, 1, side // period, side // period)
    stream_decode(vae, z[..., :8, :8])
    plan = plan_decode(vae, z.shape, memory_limit=limit, rows_only=True)
    release_heap()
    before, start = heap.resident_bytes(), time.process_time()
    largest, squares, count = 0.0, 0.0, 0

    def check(_index: int, y: int, rows: Tensor) -> None:
        nonlocal largest, squares, count
        for i in range(rows.shape[1]):
            expected = exact[:, (y + i) % exact.shape[1]].repeat(1, side // period)
            error = (rows[:, i].double() - expected) * LEVELS
            largest = max(largest, float(error.abs().max()))
            squares += float(error.square().sum())
            count += error.numel()

    stream_decode(vae, z, plan=plan, on_rows=check, on_progress=Progress())
    seconds, peak = time.process_time() - start, resident_peak() - before
    assert count == 3 * (8 * side) ** 2, "rows are missing"
    return Row(
        f"decode {8 * side}²",
        f"exact {plan.mode}",
        float(f"{largest:.2g}"),
        round(10 * math.log10(255**2 * count / squares), 1),
        seconds=round(seconds, 1),
        peak_mb=round(peak / 1e6, 1),
        promise_mb=round(plan.peak_bytes / 1e6, 1),
        plan=_told(plan),
    )


class Progress:
    """A line on stderr for every tenth of the work."""

    def __init__(self) -> None:
        self._shown, self._start = 0, time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        if 10 * done // total > self._shown:
            self._shown = 10 * done // total
            print(f"{10 * self._shown} %, {time.perf_counter() - self._start:.0f} s", file=sys.stderr, flush=True)


# --- the command line


def measure(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """What the options ask for: the JSON document's rows, and a table for people."""
    if options.picture:
        worst = draw_errors(Path(options.picture))
        text = "; ".join(f"{name}: up to {error:.2g} levels" for name, error in worst.items())
        return [{"subject": name, "max_error_levels": error} for name, error in worst.items()], text
    if options.promises:
        found = run_promises(options.promises)
        return found, promises_text(found)
    whats = (options.only,) if options.only else WHATS
    rows = [run_huge()] if options.huge else run(options.channels, options.latent, options.rounds, whats)
    return [asdict(row) for row in rows], table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    tiling_arguments(parser)
    options = parser.parse_args()
    if options.one:
        _measure_here(*json.loads(options.one))
        return
    document, text = measure(options)
    print(json.dumps(document, indent=1) if options.json else text)


if __name__ == "__main__":
    main()
