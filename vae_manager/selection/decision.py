"""What goes from selection to everything after it."""

from __future__ import annotations

from dataclasses import dataclass

from vae_manager.library.files import VaeFile

AUTOMATIC = "Automatic"
BAKED = "Baked"
SAME = "same"
"""For the encode and the hires VAE: the one that decodes."""

STEPS = ("prompt", "panel", "job", "preset", "rules", "preference", "built-in", "baked", "default")
"""The precedence, highest first. After them comes 'host': nothing of ours decided, the host keeps what it has."""


@dataclass(frozen=True)
class Adjust:
    """Colours by hand. The defaults change nothing."""

    contrast: float = 1.0
    """Factor around mid-grey, 0.5 to 2."""
    brightness: float = 0.0
    """Added to every channel, whose range is 1; -0.5 to 0.5."""
    saturation: float = 1.0
    """Factor around luma, 0 to 2."""


ADJUST_RANGES = {"contrast": (0.5, 2.0), "brightness": (-0.5, 0.5), "saturation": (0.0, 2.0)}
"""What may be asked for by hand: least and most, by the field of `Adjust`."""


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
    tiling: str | None = None
    """A preset's or a rule's decode mode: 'auto', 'exact', 'whole' or 'host'; None where nobody said."""
    color: str | None = None
    """A preset's or a rule's colour mode: 'off', 'auto', 'match', or a preset's 'manual'; None where nobody said."""
    color_strength: float | None = None
    adjust: Adjust | None = None
    """A preset's values for 'manual'."""
