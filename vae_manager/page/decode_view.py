"""What one decode takes of this machine's memory, drawn beside what is free."""

from __future__ import annotations

import time

import torch

from vae_manager.codec.memory import free_bytes, in_words
from vae_manager.codec.streaming import plan_decode, stream_decode
from vae_manager.codec.streaming.passes import MODES
from vae_manager.codec.streaming.plan import Plan
from vae_manager.errors import Interrupted, MemoryLimitError, VaeFileError, VaeManagerError
from vae_manager.library.state import load_state
from vae_manager.page.house import House
from vae_manager.page.markup import bars, line, problems
from vae_manager.page.work import Tell, part_of, silent

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
    """The plans for a picture of this size, and, with `run`, what decoding noise really took.

    Raises:
        Interrupted: `tell` did.
    """
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
    except Interrupted:
        raise
    except VaeManagerError as error:
        return problems([str(error)])
    size = f"{shape[3] * ratio} × {shape[2] * ratio}"
    if chosen is None:
        said = line(f"A picture of {size} does not fit: {in_words(free)} are free.", "verdict")
    else:
        takes, least = (in_words(count) for count in (chosen.peak_bytes, min(p.peak_bytes for p in plans.values())))
        said = line(
            f"A picture of {size} takes {takes} of {in_words(free)} that are free; the least would be {least}. "
            "Every way gives the same pixels.",
            "verdict",
        )
    return said + tried + bars(drawn, ("free now", free, in_words(free)))


def _plan(vae: torch.nn.Module, shape: tuple[int, ...], mode: str | None, limit: int | None = None) -> Plan | None:
    try:
        return plan_decode(vae, shape, mode=mode, memory_limit=limit or 1 << 62)  # type: ignore[arg-type]
    except MemoryLimitError:
        return None


def _row(mode: str, plan: Plan, chosen: Plan | None) -> tuple[str, float, str, bool]:
    name = f"{mode}: {WORDS[mode]}" if mode in WORDS else mode
    return name, float(plan.peak_bytes), in_words(plan.peak_bytes), chosen is not None and chosen.mode == mode


def _tried(vae: torch.nn.Module, shape: tuple[int, ...], free: int, tell: Tell) -> str:
    began = time.perf_counter()
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    z = z.to(next(vae.parameters()).device)
    report = stream_decode(vae, z, memory_limit=free, on_progress=part_of(tell, 0, 1, "")).report
    return line(f"Tried: {time.perf_counter() - began:.1f} s, {report.describe()}.")
