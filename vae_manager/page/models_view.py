"""Each checkpoint with the VAE that it gets and why, and rules tried out on one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vae_manager.errors import os_reason
from vae_manager.json_text import parse_json
from vae_manager.page.house import House
from vae_manager.page.markup import line, problems, table
from vae_manager.page.work import Tell, silent
from vae_manager.selection.checkpoint import Checkpoint
from vae_manager.selection.decision import Decision
from vae_manager.selection.matcher import Matcher, checkpoint_files, dry_run
from vae_manager.selection.preset_text import told
from vae_manager.selection.rules import RuleSet, parse_rules
from vae_manager.storage import update_json

FILTERS = ("all", "another VAE than its own", "damaged", "nothing found")

EMPTY = '{\n "version": 1,\n "rules": []\n}\n'


@dataclass(frozen=True)
class Row:
    """One checkpoint."""

    name: str
    title: str
    chosen: str
    why: str
    preset: str
    kind: str
    """The decision's."""
    damage: str = ""

    def is_in(self, asked: str) -> bool:
        """Whether one of `FILTERS` shows it."""
        return {
            FILTERS[1]: self.kind == "file",
            FILTERS[2]: bool(self.damage),
            FILTERS[3]: self.kind == "host",
        }.get(asked, True)


def rows(house: House, tell: Tell = silent) -> list[Row]:
    """The dry run over all folders of checkpoints, by headers alone.

    Raises:
        Interrupted: `tell` did.
    """
    matcher, found, seen = house.matcher(), [], set[Path]()
    total = len(_places(house))
    try:
        for folder in house.checkpoint_folders():
            for checkpoint in dry_run(matcher, folder):
                place = folder.resolve() / checkpoint.name
                if place in seen:  # a folder may be named twice, or lie in another one
                    continue
                seen.add(place)
                tell((len(found), total), desc=checkpoint.name)
                found.append(_row(matcher, checkpoint))
    finally:
        house.facts.save()
    return found


def _row(matcher: Matcher, checkpoint: Checkpoint) -> Row:
    decision, kept = matcher.decide(checkpoint), matcher.presets.find(checkpoint)
    damage = next(iter([*checkpoint.problems, checkpoint.facts.problem or ""]), "")
    preset = told(kept.preset) if kept else ""
    return Row(checkpoint.name, checkpoint.title, _chosen(decision), _why(decision), preset, decision.kind, damage)


def models_html(found: Sequence[Row], asked: str) -> str:
    """The table of what one filter shows."""
    shown = [row for row in found if row.is_in(asked)]
    if not found:
        return line("There is no checkpoint in these folders.")
    if not shown:
        return line(f"None of {len(found)} checkpoints is so.")
    head = ("Checkpoint", "What it is", "VAE", "Why", "Its preset", "Damage")
    cells = [(row.name, row.title, row.chosen, row.why, row.preset, row.damage) for row in shown]
    return table(head, cells, f"{len(shown)} of {len(found)} checkpoints")


def checkpoint_names(house: House) -> list[str]:
    """The checkpoints' names, for a list."""
    return list(dict.fromkeys(name for name in _places(house) if name.isprintable()))


def rules_text(house: House) -> str:
    """The user's rules as they stand in the file."""
    try:
        return house.rules_file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return EMPTY


def check_rules(text: str) -> tuple[RuleSet, str]:
    """Rules as they are written in the box, and what is wrong with them as HTML."""
    try:
        document = parse_json(text.encode())
    except (ValueError, RecursionError) as error:
        where = f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        return RuleSet(), problems([f"This is no JSON{where}: {getattr(error, 'msg', error)}."])
    found = parse_rules(document, "the box")
    return found, problems(found.problems) or line(f"{len(found.rules)} rules, nothing wrong with them.")


def save_rules(house: House, text: str) -> str:
    """Write the rules that stand in the box, if nothing is wrong with them; what was done, as HTML."""
    found, said = check_rules(text)
    if found.problems or not found.readable or 'role="alert"' in said:
        return line("Not saved; the old rules are untouched.") + said
    try:
        update_json(house.rules_file, lambda _: parse_json(text.encode()))
    except OSError as error:
        return line(f"The rules could not be saved ({os_reason(error)}); the old ones are untouched.")
    return line(f"Saved {len(found.rules)} rules. They count from the next picture on.")


def try_rules(house: House, text: str, name: str | None) -> str:
    """What a checkpoint would get with the rules in the box, step by step."""
    found, said = check_rules(text)
    if 'role="alert"' in said:
        return said
    path = _places(house).get(name or "")
    if path is None:
        return line("Choose a checkpoint to try them on.")
    matcher = house.matcher(found)
    try:
        decision = matcher.decide(matcher.checkpoint(path, name))
    except OSError as error:
        return line(f"{name} cannot be read ({os_reason(error)}).")
    steps = [(step.step, step.outcome, step.detail) for step in decision.trace]
    return line(f"{name}: {_chosen(decision)}. {_why(decision)}.") + table(("Step", "Outcome", "Why"), steps)


def _places(house: House) -> dict[str, Path]:
    return {
        path.relative_to(folder).as_posix(): path
        for folder in house.checkpoint_folders()
        for path in checkpoint_files(folder)
    }


def _chosen(decision: Decision) -> str:
    return decision.vae.name if decision.vae else "its own" if decision.kind == "baked" else "none found"


def _why(decision: Decision) -> str:
    return decision.trace[-2].detail if decision.kind == "host" and len(decision.trace) > 1 else decision.reason
