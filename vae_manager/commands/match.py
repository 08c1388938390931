"""`match`: which VAE a checkpoint gets, and why; `match --all` is the dry run over a folder of checkpoints."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vae_manager.commands import Result, open_file
from vae_manager.commands.outputs import check_output
from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.library.files import Folder, find_vaes
from vae_manager.library.hashing import HashCache
from vae_manager.library.identify import identify
from vae_manager.selection.checkpoint import Checkpoint, FactsCache
from vae_manager.selection.decision import Decision, Part
from vae_manager.selection.matcher import Matcher, dry_run, is_other
from vae_manager.selection.names import VaeIndex
from vae_manager.selection.preset_file import read_exported
from vae_manager.selection.presets import Presets
from vae_manager.selection.prompt_tags import take_vae_tag
from vae_manager.selection.rules import load_rules
from vae_manager.selection.settings import ENCODE_VAE, HIRES_VAE, RULED, said_by_hand
from vae_manager.selection.twins import baked_twin
from vae_manager.store import open_store
from vae_manager.user_data import user_folder


def match(args: argparse.Namespace) -> Result:
    """One checkpoint, or with `--all` every one below a folder."""
    if (args.checkpoint is None) == (args.all is None):
        raise BadInputError("Say which: a checkpoint file, or --all and a folder of checkpoints.")
    return _match_all(args) if args.all is not None else _match_one(args)


def _match_one(args: argparse.Namespace) -> Result:
    path = open_file(args.checkpoint).path
    matcher = _matcher(args, path.parent)
    checkpoint = matcher.checkpoint(path, thorough=True)
    _refuse_other_files(checkpoint)
    decision = matcher.decide(checkpoint)
    document = _document(checkpoint, decision, matcher)
    matcher.cache.save()
    return Result(document, _story(checkpoint, decision, document))


def _match_all(args: argparse.Namespace) -> Result:
    folder = Path(args.all)
    if not folder.is_dir():
        raise BadInputError(f"There is no folder {args.all[:200]!r}.")
    matcher = _matcher(args, folder)
    documents, rows = [], []
    for checkpoint in dry_run(matcher, folder):
        decision = matcher.decide(checkpoint)
        documents.append(_document(checkpoint, decision, matcher))
        rows.append((checkpoint.name, _chosen(decision), _reason(decision)))
    matcher.cache.save()
    notes = "".join(f"\n! {warning}" for warning in matcher.warnings)
    return Result(documents, (_table(rows) or "No checkpoint was found there.") + notes)


def _matcher(args: argparse.Namespace, folder: Path) -> Matcher:
    home = user_folder()
    for given in args.vae_dir or ():
        if not Path(given).is_dir():
            raise BadInputError(f"There is no folder {given[:200]!r}.")
    presets = named_presets(args.presets)
    vaes = find_vaes([*(Folder(Path(given)) for given in args.vae_dir or ()), Folder(folder, marked_only=True)])
    rules = load_rules(Path(args.rules)) if args.rules else load_rules(home / "rules.json", missing_ok=True)
    if args.rules and not rules.readable:
        raise BadInputError(" ".join(rules.problems))
    tagged = take_vae_tag(args.prompt or "")
    return Matcher(
        VaeIndex(vaes, HashCache(open_store(home), alone=True)),
        rules,
        presets,
        FactsCache(open_store(home)),
        tagged.vae,
        (*tagged.warnings, *rules.problems),
    )


def named_presets(name: str | None, new: bool = False) -> Presets:
    """The presets of the file that the user named, or of the user's folder.

    A file of the user's folder that is damaged is set aside; a named one never is: it may be anything.

    Raises:
        BadInputError: there is no such file (unless it may be `new`), or it is no file of presets.
    """
    if not name:
        return Presets(user_folder() / "presets.json")
    path = Path(name)
    if new and not os.path.lexists(path):
        check_output(path, [], (".json",))
    else:
        read_exported(path)
    return Presets(path)


def _refuse_other_files(checkpoint: Checkpoint) -> None:
    path = checkpoint.file.path
    if checkpoint.facts.problem and checkpoint.facts.has_vae is False:
        raise BadInputError(f"{str(path)!r} cannot be used: {checkpoint.facts.problem}.")
    if not is_other(checkpoint):
        return
    try:
        identify(checkpoint.file)
    except VaeFileError as error:
        raise BadInputError(f"{str(path)!r} is no checkpoint: {error}.") from error
    raise BadInputError(f"{str(path)!r} is a VAE, not a checkpoint; 'vae-manager inspect' says which.")


# --- what it prints


def _document(checkpoint: Checkpoint, decision: Decision, matcher: Matcher) -> dict[str, Any]:
    twin = baked_twin(checkpoint, matcher.index.files)
    return {
        "checkpoint": str(checkpoint.file.path),
        "family": checkpoint.family,
        "architecture": checkpoint.facts.architecture,
        "latent_space": checkpoint.space.id if checkpoint.space else "unknown",
        "vae": _path(decision),
        "source": decision.source if decision.kind != "host" else None,
        "reason": _reason(decision),
        "trace": [asdict(step) for step in decision.trace if step.step != "host"],
        **{setting.key: decision.said.get(setting.name) for setting in RULED},
        "adjust": said_by_hand(decision.said) or None,
        ENCODE_VAE.key: _path(decision.encode),
        HIRES_VAE.key: _path(decision.hires),
        "baked_same_as": str(twin.path) if twin else None,
        "warnings": [*matcher.warnings, *decision.warnings],
        "advice": list(decision.advice),
    }


def _reason(decision: Decision) -> str:
    """Why; where nothing can be had, what is missing (the last step before the host's own way out)."""
    return decision.trace[-2].detail if decision.kind == "host" else decision.reason


def _path(chosen: Decision | Part | None) -> str | None:
    if chosen is None or chosen.kind == "host":
        return None
    return str(chosen.vae.path) if chosen.vae else "baked"


def _chosen(decision: Decision) -> str:
    return decision.vae.name if decision.vae else "baked" if decision.kind == "baked" else "none found"


def _story(checkpoint: Checkpoint, decision: Decision, document: dict[str, Any]) -> str:
    lines = [f"{checkpoint.name} ({checkpoint.title}): {_chosen(decision)} — {document['reason']}"]
    lines += [f"  {row['step']:>10}  {row['outcome']:<11}  {row['detail']}" for row in document["trace"]]
    for key in (*(setting.key for setting in (ENCODE_VAE, HIRES_VAE, *RULED)), "adjust", "baked_same_as"):
        if document[key] is not None:
            lines.append(f"  {key}: {document[key]}")
    lines += [f"! {sentence}" for sentence in document["warnings"]]
    lines += [f"· {sentence}" for sentence in document["advice"]]
    return "\n".join(lines)


def _table(rows: list[tuple[str, str, str]]) -> str:
    widths = [min(60, max(len(row[column]) for row in rows)) if rows else 0 for column in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {vae:<{widths[1]}}  {reason}" for name, vae, reason in rows)
