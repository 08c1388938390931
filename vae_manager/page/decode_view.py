"""What one decode takes of this machine's memory, drawn beside what is free."""

from __future__ import annotations

import time

import torch

from vae_manager.codec.memory import free_bytes
from vae_manager.codec.streaming import plan_decode, stream_decode
from vae_manager.codec.streaming.passes import MODES
from vae_manager.codec.streaming.plan import Plan
from vae_manager.errors import MemoryLimitError, VaeFileError, VaeManagerError
from vae_manager.library.state import load_state
from vae_manager.page.house import House, Tell, silent
from vae_manager.page.markup import bars, line, problems

WORDS = {
    "A": "everything in memory, the fastest",
    "B": "the largest maps kept once",
    "P": "computed again in parts",
    "C": "strip by strip",
    "D": "the least memory, the slowest",
}

DEVICES = ("cpu", "cuda")


def plan_html(
    house: House, name: str | None, width: int, height: int, device: str, run: bool = False, tell: Tell = silent
) -> str:
    """The plans for a picture of this size, and, with `run`, what decoding noise really took."""
    file = next((file for file in house.vaes() if file.name == name), None)
    if file is None:
        return line("Choose a VAE first.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        return line("There is no CUDA device here; choose cpu.")
    try:
        vae = load_state(file, torch.float32).network().eval().to(device)
        ratio = vae.config.ratio
        shape = (1, vae.config.latent_channels, max(1, int(height) // ratio), max(1, int(width) // ratio))
        free = free_bytes(torch.device(device))
        plans = {mode: plan for mode in MODES if (plan := _plan(vae, shape, mode)) is not None}
        chosen = _plan(vae, shape, None, free)
        drawn = [_row(mode, plan, chosen) for mode, plan in plans.items()]
        tried = _tried(vae, shape, free, tell) if run and chosen else ""
    except VaeFileError as error:
        return problems([error.sentence(file.name)])
    except VaeManagerError as error:
        return problems([str(error)])
    size = f"{shape[3] * ratio} × {shape[2] * ratio}"
    if chosen is None:
        said = line(f"A picture of {size} does not fit: {_gb(free)} are free.", "verdict")
    else:
        least = min(plan.peak_bytes for plan in plans.values())
        said = line(
            f"A picture of {size} takes {_gb(chosen.peak_bytes)} of {_gb(free)} that are free; the least would be "
            f"{_gb(least)}. Every way gives the same pixels.",
            "verdict",
        )
    return said + tried + bars(drawn, ("free now", free, _gb(free)))


def _plan(vae: torch.nn.Module, shape: tuple[int, ...], mode: str | None, limit: int | None = None) -> Plan | None:
    try:
        return plan_decode(vae, shape, mode=mode, memory_limit=limit or 1 << 62)  # type: ignore[arg-type]
    except MemoryLimitError:
        return None


def _row(mode: str, plan: Plan, chosen: Plan | None) -> tuple[str, float, str, bool]:
    name = f"{mode}: {WORDS[mode]}" if mode in WORDS else mode
    return name, float(plan.peak_bytes), _gb(plan.peak_bytes), chosen is not None and chosen.mode == mode


def _tried(vae: torch.nn.Module, shape: tuple[int, ...], free: int, tell: Tell) -> str:
    began = time.perf_counter()
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    z = z.to(next(vae.parameters()).device)

    def on_progress(done: int, total: int) -> None:
        tell((done, total))

    report = stream_decode(vae, z, memory_limit=free, on_progress=on_progress).report
    return line(f"Tried: {time.perf_counter() - began:.1f} s, {report.describe()}.")


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{count / 1e6:.0f} MB"
