"""What goes from selection to everything after it."""

from __future__ import annotations

from dataclasses import dataclass

from vae_manager.library.files import VaeFile

AUTOMATIC = "Automatic"
BAKED = "Baked"


@dataclass(frozen=True)
class Step:
    """One step of the precedence, in the order it was asked."""

    step: str
    """'panel', 'job', 'host' or 'baked' (prompts, presets and rules join when they exist)."""
    outcome: str
    """'chosen', 'not asked' or 'refused'."""
    detail: str = ""


@dataclass(frozen=True)
class Decision:
    """Which VAE a job gets, and why. Everything after selection only obeys it."""

    kind: str
    """'file' (then `vae` is set), 'baked' (the checkpoint's own) or 'host' (leave the host's VAE as it is)."""
    source: str
    """The step that won."""
    reason: str
    """One sentence for the user."""
    vae: VaeFile | None = None
    trace: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()
    """What was asked for and could not be had: one sentence each."""
