"""Exact streaming against the whole decode and diffusers' tiling: error, time and memory in one run.

    python benchmarks/tiling.py --json                    # random weights, 64 channels, 96² latent
    python benchmarks/tiling.py --channels 128 --latent 80
    python benchmarks/tiling.py --huge                    # 4096 × 4096, 64 channels, float32

Time: every subject once per round, alternating, the median of its ratios to the whole decode of the same round.
Memory: a fresh process per subject, growth of its peak resident size over that before the call; the ratio is to the
whole decode's. Error: against the whole decode in float64 where that is affordable, else in float32; in 8-bit levels.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vae_manager.codec.autoencoder import AutoencoderKL
from vae_manager.codec.config import KLConfig
from vae_manager.codec.streaming import MODES, plan_decode, plan_encode, stream_decode, stream_encode

LEVELS = 127.5
"""8-bit levels per unit of a picture in [-1, 1]."""


@dataclass(frozen=True)
class Row:
    """One subject."""

    what: str
    subject: str
    max_error_levels: float | None
    psnr_db: float | None
    seam: float | None
    """Mean step across the rows and columns where tiles meet, over the mean step elsewhere, in the error map."""
    time_ratio: float | None
    memory_ratio: float | None
    peak_mb: float | None
    promise_mb: float | None = None


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


def diffusers_vae(vae: AutoencoderKL, channels: int) -> Any:
    """diffusers' AutoencoderKL with the same weights, tiling on (its 512-pixel tiles)."""
    import diffusers

    widths = (channels, 2 * channels, 4 * channels, 4 * channels)
    make: Any = getattr(diffusers, "AutoencoderKL")  # noqa: B009
    theirs = make(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
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


def subject(what: str, name: str, channels: int, size: tuple[int, int]) -> tuple[Callable[[Tensor], Tensor], int]:
    """The function to measure, and the bytes that its plan promises (0 where there is no plan)."""
    vae = make_vae(channels)
    whole = vae.decode if what == "decode" else vae.encode_moments
    if name == "whole":
        return whole, 0
    if name == "whole, channels_last":
        vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return lambda x: whole(x.contiguous(memory_format=torch.channels_last)), 0
    if name == "whole, in-place SiLU":
        in_place_silu(vae)
        return whole, 0
    if name == "diffusers tiling":
        theirs = diffusers_vae(vae, channels)
        if what == "decode":
            return lambda x: theirs.decode(x).sample, 0
        return lambda x: theirs.encode(x).latent_dist.parameters, 0
    mode = name.removeprefix("exact ")
    plan_it, stream = (plan_decode, stream_decode) if what == "decode" else (plan_encode, stream_encode)
    plan = plan_it(vae, (1, 4 if what == "decode" else 3, *size), mode=mode, memory_limit=1 << 50)

    def run_exact(x: Tensor) -> Tensor:
        tensor = stream(vae, x, plan=plan).tensor
        assert tensor is not None
        return tensor

    return run_exact, plan.peak_bytes


def make_input(what: str, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if what == "decode":
        return torch.randn(1, 4, *size, generator=generator)
    return torch.rand(1, 3, *size, generator=generator) * 2 - 1


def resident_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_in_fresh_process(what: str, name: str, channels: int, size: tuple[int, int]) -> int:
    """Peak resident growth of one run, in a process of its own that has warmed up on a small input."""
    arguments = [sys.executable, __file__, "--one", json.dumps([what, name, channels, *size])]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=dict(os.environ))
    return int(done.stdout.splitlines()[-1])


@torch.no_grad()
def _one(what: str, name: str, channels: int, height: int, width: int) -> None:
    run_small, _ = subject(what, name, channels, (8, 8) if what == "decode" else (64, 64))
    run_small(make_input(what, (8, 8) if what == "decode" else (64, 64)))
    del run_small
    function, _ = subject(what, name, channels, (height, width))
    x = make_input(what, (height, width))
    before = resident_peak()
    function(x)
    print(resident_peak() - before)


def seam(error: Tensor, every: int) -> float | None:
    """Steps in the error map across tile borders, over steps elsewhere; None for an error of noise."""
    if float(error.abs().max()) < 0.01:
        return None
    steps = (error[..., 1:, :] - error[..., :-1, :]).abs().mean(dim=(0, 1, 3))
    at = torch.zeros_like(steps, dtype=torch.bool)
    at[every - 1 :: every] = True
    return float(steps[at].mean() / steps[~at].mean()) if bool(at.any()) else None


@torch.no_grad()
def run(
    channels: int = 64, latent: int = 96, repeats: int = 3, whats: tuple[str, ...] = ("decode", "encode")
) -> list[Row]:
    """Measure every subject; see the module's docstring."""
    rows = []
    names = ["whole", "whole, channels_last", "whole, in-place SiLU", *(f"exact {mode}" for mode in MODES)]
    try:
        import diffusers  # noqa: F401

        names.append("diffusers tiling")
    except ImportError:
        pass
    for what in whats:
        size = (latent, latent) if what == "decode" else (8 * latent, 8 * latent)
        x = make_input(what, size)
        subjects = {name: subject(what, name, channels, size) for name in names}
        reference = subjects["whole"][0](x)
        times: dict[str, list[float]] = {name: [] for name in names}
        errors = {}
        for n in range(repeats):
            for name, (function, _) in subjects.items():
                start = time.perf_counter()
                y = function(x)
                times[name].append(time.perf_counter() - start)
                if n == 0:
                    errors[name] = (y - reference) * LEVELS
                del y
        peaks = {name: peak_in_fresh_process(what, name, channels, size) for name in names}
        for name in names:
            error, promise = errors[name], subjects[name][1]
            mse = float(error.square().mean())
            ratios = [ours / base for ours, base in zip(times[name], times["whole"])]
            rows.append(
                Row(
                    what,
                    name,
                    round(float(error.abs().max()), 5),
                    round(10 * math.log10(255**2 / mse), 1) if mse else None,
                    seam(error, 384 if what == "decode" else 48),
                    round(statistics.median(ratios), 3),
                    round(peaks[name] / peaks["whole"], 3),
                    round(peaks[name] / 1e6, 1),
                    round(promise / 1e6, 1) if promise else None,
                )
            )
    return rows


@torch.no_grad()
def run_huge(size: int = 4096, channels: int = 64, limit: int = 2_700_000_000) -> Row:
    """A picture of size × size, in float32, with the decoder's own memory limit; rows are checked to be finite."""
    vae = make_vae(channels)
    z = make_input("decode", (size // 8, size // 8))
    stream_decode(vae, z[..., :8, :8])
    plan = plan_decode(vae, z.shape, memory_limit=limit, rows_only=True)
    before = resident_peak()
    finite = [True]
    start = time.perf_counter()

    def check(_index: int, _y: int, rows: Tensor) -> None:
        finite[0] &= bool(torch.isfinite(rows).all())

    stream_decode(vae, z, plan=plan, on_rows=check)
    print(f"{plan.describe()}; {time.perf_counter() - start:.0f} s; finite: {finite[0]}", file=sys.stderr)
    peak = (resident_peak() - before) / 1e6
    return Row(
        f"decode {size}²",
        f"exact {plan.mode}",
        None,
        None,
        None,
        None,
        None,
        round(peak, 1),
        plan.peak_bytes / 1e6,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--latent", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("decode", "encode"))
    parser.add_argument("--huge", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        _one(*json.loads(options.one))
        return
    if options.huge:
        rows = [run_huge()]
    else:
        whats = (options.only,) if options.only else ("decode", "encode")
        rows = run(options.channels, options.latent, options.repeats, whats)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    print("| | subject | max error (levels) | PSNR dB | seam × | time | memory | peak MB | promised MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join("" if value is None else str(value) for value in asdict(row).values()) + " |")


if __name__ == "__main__":
    main()
