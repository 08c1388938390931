"""The dry run: which VAE each checkpoint of a folder gets, by headers alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vae_manager.library.files import MARKED_SUFFIXES, model_files
from vae_manager.selection.checkpoint import Checkpoint, FactsCache, open_checkpoint
from vae_manager.selection.choose import Wishes, choose
from vae_manager.selection.decision import Decision
from vae_manager.selection.names import VaeIndex
from vae_manager.selection.presets import Presets
from vae_manager.selection.rules import RuleSet


@dataclass(frozen=True)
class Matcher:
    """Everything that decides, read once for all checkpoints."""

    index: VaeIndex
    rules: RuleSet
    presets: Presets
    cache: FactsCache
    prompt: str | None = None
    warnings: tuple[str, ...] = ()

    def checkpoint(self, path: Path, name: str | None = None, thorough: bool = False) -> Checkpoint:
        """Describe one checkpoint; `thorough` may take seconds."""
        look = "weights" if thorough else ""
        return open_checkpoint(path, name, self.index.hashes, self.cache, thorough, look)

    def decide(self, checkpoint: Checkpoint) -> Decision:
        """Which VAE it gets."""
        preset = self.presets.find(checkpoint)
        return choose(Wishes(prompt=self.prompt, checkpoint=checkpoint, preset=preset, rules=self.rules), self.index)


def dry_run(matcher: Matcher, folder: Path) -> Iterator[Checkpoint]:
    """Every checkpoint below a folder, by its header alone; files that are something else are passed over."""
    for path in checkpoint_files(folder):
        try:
            checkpoint = matcher.checkpoint(path, path.relative_to(folder).as_posix())
        except OSError:  # deleted between listing and looking
            continue
        if not is_other(checkpoint):
            yield checkpoint


def checkpoint_files(folder: Path) -> Iterator[Path]:
    """Model files below a folder that are not marked as VAEs, sorted, sub-folders and links included."""
    return (path for path in model_files(folder) if not path.name.lower().endswith(MARKED_SUFFIXES))


def is_other(checkpoint: Checkpoint) -> bool:
    """A VAE, LoRA or anything else that is no checkpoint."""
    return checkpoint.space is None and not checkpoint.facts.has_vae and checkpoint.facts.problem is None
