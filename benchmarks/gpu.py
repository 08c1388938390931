"""Exact streaming on a GPU, beside the whole decode and the peers' ways: wall time, memory and error in one process.

    vae-manager bench gpu                                    # bfloat16, SDXL's and FLUX.1's shape, 1024² and 2048²
    vae-manager bench gpu --dtype float16 --sides 1024 4096
    vae-manager bench gpu --compile                          # the whole decode with torch.compile, too

Every subject is warmed up on the picture itself; then they take turns, and a figure is the median of the rounds,
between two waits for the device. Memory: the most that torch's allocator has handed out during a call, less what lay
there before (the weights). Error: against the whole decode in float32, its convolutions too, in 8-bit levels. Where the
whole one does not fit, the rows say so and ratios are left out.

    vae-manager bench gpu --device cpu --channels 32 --sides 128    # only to see that it runs
"""

# pyright: basic
from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import averaged_tiles, convolve_in_tiles
from benchmarks.tiling import LEVELS, diffusers_vae, make_vae
from vae_manager.codec.memory import is_out_of_memory
from vae_manager.codec.streaming import MODES, fused, plan_decode, stream_decode
from vae_manager.commands.bench import gpu_arguments
from vae_manager.errors import BadInputError

Decode = Callable[[Tensor], Tensor]


@dataclass
class Row:
    """One subject at one size."""

    side: int
    subject: str
    milliseconds: float | None = None
    """None: it ran out of memory."""
    peak_mb: float | None = None
    max_error_levels: float | None = None
    time_ratio: float | None = None
    memory_ratio: float | None = None
    """Ratios are to the whole decode."""
    promise_mb: float | None = None
    """What the plan said."""


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What the options ask for: the JSON document, and a text for people.

    Raises:
        BadInputError: there is no GPU that torch can use.
    """
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInputError("There is no GPU here that this torch can use: run it where torch.cuda.is_available().")
    dtype = getattr(torch, options.dtype)
    rows = [row for side in options.sides for row in _at(side, options, device, dtype)]
    about = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "dtype": options.dtype,
        "triton": fused.fuses(device, dtype),
    }
    return {"about": about, "rows": [asdict(row) for row in rows]}, _text(about, rows)


def _at(side: int, options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> list[Row]:
    """The rows of one size."""
    vae = make_vae(options.channels)
    z = torch.randn(1, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(0))
    exact = _reference(vae, z, device)
    vae, z = vae.to(device, dtype), z.to(device, dtype)
    subjects = _subjects(vae, z, options.compile)
    rows = {name: Row(side, name) for name in subjects}
    for mode in MODES:
        rows[f"exact {mode}"].promise_mb = plan_decode(vae, tuple(z.shape), mode=mode).peak_bytes / 1e6
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(options.rounds + 1):
        for name, decode in [*subjects.items()]:
            found = _once(decode, z)
            if found is None:
                del subjects[name]
                continue
            seconds, peak, picture = found
            if turn:
                times[name].append(seconds)
                continue
            rows[name].peak_mb = peak / 1e6
            if exact is not None:
                rows[name].max_error_levels = float((picture.float().cpu() - exact).abs().max()) * LEVELS
    for name, seconds in times.items():
        if seconds and name in subjects:
            rows[name].milliseconds = 1000 * statistics.median(seconds)
    whole = rows["whole"]
    for row in rows.values():
        if row.milliseconds is not None and whole.milliseconds is not None:
            row.time_ratio = row.milliseconds / whole.milliseconds
            row.memory_ratio = row.peak_mb / whole.peak_mb if row.peak_mb and whole.peak_mb else None
    return [*rows.values()]


def _subjects(vae: Any, z: Tensor, compiles: bool) -> dict[str, Decode]:
    def streamed(mode: str) -> Decode:
        return lambda z: stream_decode(vae, z, plan=plan_decode(vae, tuple(z.shape), mode=mode)).tensor  # type: ignore

    tiled, lasting = copy.deepcopy(vae), copy.deepcopy(vae).to(memory_format=torch.channels_last)
    convolve_in_tiles(tiled)
    theirs = diffusers_vae(vae).to(z)
    found: dict[str, Decode] = {
        "whole": vae.decode,
        "whole, channels last": lambda z: lasting.decode(z.contiguous(memory_format=torch.channels_last)),
        "convolutions in tiles of 128": tiled.decode,
        "ComfyUI's tiles": lambda z: averaged_tiles(vae.decode, z, True),
        "diffusers tiling": lambda z: theirs.decode(z).sample,
        **{f"exact {mode}": streamed(mode) for mode in MODES},
    }
    if compiles:
        found["whole, torch.compile"] = torch.compile(copy.deepcopy(vae).decode)
    return found


@torch.no_grad()
def _reference(vae: nn.Module, z: Tensor, device: torch.device) -> Tensor | None:
    """The whole decode in float32, on the CPU; None where that does not fit."""
    reduced, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        found = _once(vae.to(device, torch.float32).decode, z.to(device))  # type: ignore[attr-defined]
    finally:
        torch.backends.cudnn.allow_tf32 = reduced
    return None if found is None else found[2].cpu()


@torch.no_grad()
def _once(decode: Decode, z: Tensor) -> tuple[float, int, Tensor] | None:
    """Seconds, bytes and the picture of a call; None where it ran out of memory."""
    gpu = z.is_cuda
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(z.device)
        before = torch.cuda.memory_allocated(z.device)
        torch.cuda.synchronize(z.device)
    start = time.perf_counter()
    try:
        picture = decode(z)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    if gpu:
        torch.cuda.synchronize(z.device)
    seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated(z.device) - before if gpu else 0, picture


def _text(about: dict[str, Any], rows: list[Row]) -> str:
    kernels = "with Triton's kernels" if about["triton"] else "without Triton"
    lines = [f"{about['device']}, torch {about['torch']}, {about['dtype']}, {kernels}", ""]
    lines += ["| side | subject | ms | × | MB | % | promised MB | error, levels |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        if row.milliseconds is None:
            lines.append(f"| {row.side} | {row.subject} | out of memory | | | | | |")
            continue
        share = "" if row.memory_ratio is None else f"{100 * row.memory_ratio:.0f}"
        figures = (
            f"{row.milliseconds:.1f}",
            "" if row.time_ratio is None else f"{row.time_ratio:.2f}",
            f"{row.peak_mb:.0f}",
            share,
            "" if row.promise_mb is None else f"{row.promise_mb:.0f}",
            "" if row.max_error_levels is None else f"{row.max_error_levels:.3g}",
        )
        lines.append(f"| {row.side} | {row.subject} | {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu_arguments(parser)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows, text = measure(options)
    print(json.dumps(rows, indent=2) if options.json else text)


if __name__ == "__main__":
    main()
