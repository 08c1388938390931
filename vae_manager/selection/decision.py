"""What goes from selection to everything after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vae_manager.library.files import VaeFile

AUTOMATIC = "Automatic"
BAKED = "Baked"
SAME = "same"
"""For the encode and the hires VAE: the one that decodes."""

STEPS = ("prompt", "panel", "job", "preset", "rules", "preference", "built-in", "baked", "default")
"""The precedence, highest first. After them comes 'host': nothing of ours decided, the host keeps what it has."""


@dataclass(frozen=True)
class Step:
    """One step of the precedence, in the order it was asked."""

    step: str
    """One of `STEPS`, or 'host'."""
    outcome: str
    """'chosen'; 'not asked'; 'refused' (it asked for what cannot be had); 'not reached' (a higher one won)."""
    detail: str = ""


@dataclass(frozen=True)
class Part:
    """The VAE of one part of the job that is not the decoding: encoding, or the hires pass."""

    kind: str
    """'file' (then `vae` is set) or 'baked'."""
    reason: str
    vae: VaeFile | None = None


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
    advice: tuple[str, ...] = ()
    """What would make it better though nobody asked, such as a file to get. For the panel, not for every picture."""
    encode: Part | None = None
    """None: the one that decodes."""
    hires: Part | None = None
    """None: the one that decodes."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """What the checkpoint's preset and the rules say of the settings beside the VAE, by their names in the table."""
