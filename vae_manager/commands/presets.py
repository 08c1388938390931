"""`presets`: what is remembered for each checkpoint, as a list and as one file to carry elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae_manager.commands import Result
from vae_manager.commands.match import checkpoint_files
from vae_manager.errors import BadInputError
from vae_manager.selection.checkpoint import open_checkpoint
from vae_manager.selection.decision import SAME
from vae_manager.selection.preset_file import entry_of
from vae_manager.selection.presets import Preset, Presets
from vae_manager.user_data import user_folder


def presets(args: argparse.Namespace) -> Result:
    """List, or do the one thing that is asked for."""
    kept = Presets(Path(args.presets) if args.presets else user_folder() / "presets.json")
    if sum(asked is not None for asked in (args.export, args.import_, args.import_cards)) > 1:
        raise BadInputError("Do one thing at a time: --export, --import or --import-cards.")
    if args.export is not None:
        _refuse_own(kept, Path(args.export))
        count = kept.export_to(Path(args.export))
        return Result({"output": args.export, "presets": count}, f"Wrote {_many(count)} to {args.export}.")
    if args.import_ is not None:
        _refuse_own(kept, Path(args.import_))
        count = kept.import_from(Path(args.import_), args.replace)
        return Result({"imported": count}, f"Took over {_many(count)}.")
    if args.import_cards is not None:
        count = _import_cards(kept, Path(args.import_cards))
        return Result({"imported": count}, f"Made {_many(count)} of cards.")
    documents = [entry_of(owner, preset) for owner, preset in kept.all()]
    lines = [f"{owner.name}: {_told(preset)}" for owner, preset in kept.all()]
    return Result(documents, "\n".join(lines) or "No preset is kept yet.")


def _refuse_own(kept: Presets, path: Path) -> None:
    """Exporting into the presets' own file, or importing it, would be a mistake of the hand."""
    if path.exists() and kept.path.exists() and path.samefile(kept.path):
        raise BadInputError(f"{str(path)!r} is the presets' own file; name another.")


def _import_cards(kept: Presets, folder: Path) -> int:
    if not folder.is_dir():
        raise BadInputError(f"There is no folder {str(folder)[:200]!r}.")
    made = 0
    for path in checkpoint_files(folder):
        if path.with_suffix(".json").is_file():
            made += kept.import_card(open_checkpoint(path, path.relative_to(folder).as_posix()))
    return made


def _told(preset: Preset) -> str:
    parts = [preset.vae.name]
    for name, wish in (("encode", preset.encode_vae), ("hires", preset.hires_vae)):
        if wish.name != SAME:
            parts.append(f"{name} {wish.name}")
    for name in ("tiling", "color", "color_strength"):
        if (value := getattr(preset, name)) is not None:
            parts.append(f"{name} {value}")
    if preset.adjust:
        parts += [f"{name} {value:g}" for name, value in vars(preset.adjust).items()]
    return ", ".join(parts) + (" (remembered)" if preset.remembered else "")


def _many(count: int) -> str:
    return "1 preset" if count == 1 else f"{count} presets"
