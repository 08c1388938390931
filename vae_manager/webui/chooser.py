"""What a job asks for, and the decision on it: selection with the user's own files around it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vae_manager.latents.claims import LoadedFormat
from vae_manager.library.hashing import HashCache
from vae_manager.selection.checkpoint import Checkpoint, FactsCache, open_checkpoint
from vae_manager.selection.choose import Wishes, choose
from vae_manager.selection.decision import AUTOMATIC, SAME, Decision, Step
from vae_manager.selection.names import VaeIndex
from vae_manager.selection.presets import Presets
from vae_manager.selection.rules import RuleSet, load_rules
from vae_manager.selection.settings import PanelSettings
from vae_manager.store import open_store

log = logging.getLogger("vae_manager")


@dataclass(frozen=True)
class Asked:
    """What one job asks for, whichever of its pictures and whichever model makes it."""

    settings: PanelSettings = field(default_factory=PanelSettings)
    on: bool = False
    """The panel is on, or every job is to get the automatic choice: pictures without a tag are ours too."""
    asker: str = "the panel"
    """Who gives the settings, in words."""
    job: str | None = None
    """What the user told the host for this job."""
    standing: str | None = None
    """The host's standing setting."""
    own: Path | None = None
    """The VAE file that the host itself has loaded into the model; None: the baked one."""
    left_alone: str | None = None
    """What the model's VAE is, where nothing of ours can compute with it: "a video VAE". None: it is one of ours."""
    host: str = "the WebUI's own choice"
    """What leaving it to the host means, in words."""
    allow_other_family: bool = False
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Path → what loading it said."""


class Chooser:
    """Selection with this user's presets, rules and caches."""

    def __init__(self, folder: Path, hashes: HashCache) -> None:
        """`folder`: where the user's own files are."""
        self.hashes = hashes
        self.facts = FactsCache(open_store(folder))
        self.presets = Presets(folder / "presets.json")
        self.rules_file = folder / "rules.json"
        self._rules: tuple[tuple[int, int], RuleSet] | None = None

    def rules(self) -> RuleSet:
        """The user's rules as the file has them now."""
        try:
            stat = self.rules_file.stat()
            version = (stat.st_mtime_ns, stat.st_size)
        except OSError:
            version = (0, 0)
        if self._rules is None or self._rules[0] != version:
            found = load_rules(self.rules_file, missing_ok=True)
            for problem in found.problems:
                log.warning(problem)
            self._rules = version, found
        return self._rules[1]

    def checkpoint(self, path: Path, name: str, loaded: LoadedFormat | None = None) -> Checkpoint | None:
        """What is known of a checkpoint, by its header and what the model says that was `loaded` from it; None where
        the file is gone."""
        try:
            return open_checkpoint(path, name, self.hashes, self.facts, loaded=loaded)
        except OSError:
            return None

    def decide(self, asked: Asked, name: str | None, checkpoint: Checkpoint | None, files: VaeIndex) -> Decision:
        """The decision for a picture whose prompt asks for `name`, made by that checkpoint. Never raises."""
        if not asked.on and name is None and asked.job is None:
            return Decision("host", "host", asked.host, trace=(Step("host", "chosen", asked.host),))
        if asked.left_alone is not None:
            return _left_alone(asked, name)
        settings = asked.settings
        wishes = Wishes(
            panel=settings.vae if asked.on else AUTOMATIC,
            host=asked.host,
            prompt=name,
            asker=asked.asker,
            encode=settings.encode_vae,
            hires=settings.hires_vae,
            job=asked.job,
            checkpoint=checkpoint,
            preset=self.presets.find(checkpoint) if checkpoint else None,
            rules=self.rules(),
            setting=asked.standing,
            allow_other_family=asked.allow_other_family,
            unusable=asked.unusable,
        )
        decision = choose(wishes, files)
        if not asked.on and decision.source not in ("prompt", "job"):
            reason = asked.host
            trace = (*(step for step in decision.trace if step.outcome == "refused"), Step("host", "chosen", reason))
            return Decision("host", "host", reason, trace=trace, warnings=decision.warnings[:1])
        return decision

    def save(self) -> None:
        """Write down what was learnt of files since the last time."""
        self.facts.save()


def _left_alone(asked: Asked, name: str | None) -> Decision:
    """The decision for a model whose VAE is none of ours: the host's own, and one sentence for who asks for more."""
    leaves = f"{asked.left_alone}, which VAE Manager leaves to the WebUI"
    reason = f"{asked.host}, {leaves}"
    asks = {"prompt": name, "panel": _asks_for(asked.settings) if asked.on else None}
    sentences = {step: f"{what} was not used: this model has {leaves}." for step, what in asks.items() if what}
    trace = (*(Step(step, "refused", sentence) for step, sentence in sentences.items()), Step("host", "chosen", reason))
    return Decision("host", "host", reason, trace=trace, warnings=tuple(sentences.values())[:1])


def _asks_for(settings: PanelSettings) -> str | None:
    """What the panel wants of a VAE that is not the host's, in words; None: nothing."""
    vaes = (settings.vae, settings.encode_vae, settings.hires_vae)
    named = next((vae for vae in vaes if vae not in (AUTOMATIC, SAME)), None)
    return named or ("The exact decode" if settings.decode == "exact" else None)
