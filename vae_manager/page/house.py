"""Where the files are that the page shows, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vae_manager.library.files import Folder, VaeFile, find_vaes
from vae_manager.library.hashing import HashCache
from vae_manager.selection.facts import FactsCache
from vae_manager.selection.matcher import Matcher
from vae_manager.selection.names import VaeIndex
from vae_manager.selection.presets import Presets
from vae_manager.selection.rules import RuleSet, load_rules
from vae_manager.store import open_store


@dataclass(frozen=True)
class House:
    """A WebUI's folders, or those that were named on the command line."""

    vae_folders: Callable[[], Sequence[Folder]]
    checkpoint_folders: Callable[[], Sequence[Path]]
    home: Path
    """The folder of the user's own files: presets, rules, what was found out."""

    @cached_property
    def hashes(self) -> HashCache:
        return HashCache(open_store(self.home))

    @cached_property
    def facts(self) -> FactsCache:
        return FactsCache(open_store(self.home))

    @property
    def rules_file(self) -> Path:
        return self.home / "rules.json"

    def vaes(self) -> tuple[VaeFile, ...]:
        """The VAE files that are there now."""
        return find_vaes(self.vae_folders())

    def matcher(self, rules: RuleSet | None = None) -> Matcher:
        """Everything that decides, as the files are now; with other `rules` than the user's, where they are given."""
        rules = rules or load_rules(self.rules_file, missing_ok=True)
        index = VaeIndex.of(self.vaes(), self.hashes)
        return Matcher(index, rules, Presets(self.home / "presets.json"), self.facts, None, tuple(rules.problems))
