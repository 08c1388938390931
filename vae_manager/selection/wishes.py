"""What goes into a decision, and what each of its steps answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vae_manager.library.files import VaeFile
from vae_manager.selection.checkpoint import Checkpoint
from vae_manager.selection.decision import AUTOMATIC, SAME
from vae_manager.selection.presets import Found
from vae_manager.selection.rules import RuleSet


@dataclass(frozen=True)
class Wishes:
    """Everything that has a say in one job, from the highest precedence to the lowest.

    What is left out has no say. Without a `checkpoint` the steps below the job's do not speak, and what nobody
    decided is left to the host.
    """

    panel: str = AUTOMATIC
    """The panel's, the API argument's or the X/Y/Z cell's choice: a name, 'Automatic' or 'Baked'."""
    host: str = "what the WebUI itself has loaded"
    """What leaving it to the host means just now, in words."""
    prompt: str | None = None
    """The NAME of `<vae:NAME>` in this picture's prompt."""
    asker: str = "the panel"
    """Who gives `panel`, in words: the panel, the API, the X/Y/Z cell."""
    encode: str = SAME
    """The panel's VAE for encoding: a name, 'Baked', 'Automatic' or 'same'."""
    hires: str = SAME
    """The panel's VAE for the hires pass."""
    job: str | None = None
    """What the user told the host for this job: a name, 'Automatic', or 'None' (the baked one)."""
    setting: str | None = None
    """The host's standing setting, in the same words. It was made for some other checkpoint, perhaps: so it counts
    among the host's own preferences."""
    checkpoint: Checkpoint | None = None
    preset: Found | None = None
    """What `Presets.find` says for the checkpoint."""
    rules: RuleSet = field(default_factory=RuleSet)
    """The user's rules."""
    allow_other_family: bool = False
    """Use even a VAE of another family ("use anyway")."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Path → what loading it said, "it …": files that turned out not to be there or not to work after a decision.
    Decide again with them to have the next step's choice."""


@dataclass(frozen=True)
class Answer:
    """What one step says."""

    outcome: str
    """'chosen', 'not asked' or 'refused'."""
    detail: str
    vae: VaeFile | None = None
    """The file that is chosen; None for the baked VAE."""
    warnings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
