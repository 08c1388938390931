"""`presets`: what is remembered for each checkpoint, as a list and as one file to carry elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae_manager.commands import Result
from vae_manager.commands.match import named_presets
from vae_manager.commands.outputs import check_output
from vae_manager.errors import BadInputError
from vae_manager.json_text import read_json_text
from vae_manager.library.files import Folder, find_vaes
from vae_manager.selection.checkpoint import open_checkpoint
from vae_manager.selection.foreign import foreign_presets, take_over
from vae_manager.selection.matcher import checkpoint_files
from vae_manager.selection.names import VaeIndex
from vae_manager.selection.preset_file import entry_of, read_exported
from vae_manager.selection.preset_text import NONE_KEPT, many, taken_over, told
from vae_manager.selection.presets import Presets, owner_of


def presets(args: argparse.Namespace) -> Result:
    """List, or do the one thing that is asked for."""
    imports = (args.import_, args.import_cards, args.import_webui)
    kept = named_presets(args.presets, new=any(asked is not None for asked in imports))
    if sum(asked is not None for asked in (args.export, *imports)) > 1:
        raise BadInputError("Do one thing at a time: --export, --import, --import-cards or --import-webui.")
    if args.preview and args.import_webui is None:
        raise BadInputError("--preview goes with --import-webui.")
    if args.export is not None:
        _check_export(kept, Path(args.export))
        count = kept.export_to(Path(args.export))
        return Result({"output": args.export, "presets": count}, f"Wrote {many(count)} to {args.export}.")
    if args.import_ is not None:
        _refuse_own(kept, Path(args.import_))
        count = kept.import_from(Path(args.import_), args.replace)
        return Result({"imported": count}, taken_over(count))
    if args.import_cards is not None:
        count = _import_cards(kept, Path(args.import_cards))
        return Result({"imported": count}, f"Made {many(count)} of cards.")
    if args.import_webui is not None:
        return _import_webui(kept, Path(args.import_webui), args.preview)
    documents = [entry_of(owner, preset) for owner, preset in kept.all()]
    lines = [f"{owner.name}: {told(preset)}" for owner, preset in kept.all()]
    return Result(documents, "\n".join(lines) or NONE_KEPT)


def _check_export(kept: Presets, path: Path) -> None:
    """Refuse to export into what is no file of presets: it would be lost, or set aside under another name."""
    _refuse_own(kept, path)
    check_output(path, [], (".json",))
    if path.exists():
        try:
            read_exported(path)
        except BadInputError as error:
            raise BadInputError(f"{str(path)!r} is there and holds no presets; export to another name.") from error


def _refuse_own(kept: Presets, path: Path) -> None:
    """Exporting into the presets' own file, or importing it, would be a mistake of the hand."""
    if path.exists() and kept.path.exists() and path.samefile(kept.path):
        raise BadInputError(f"{str(path)!r} is the presets' own file; name another.")


def _import_webui(kept: Presets, webui: Path, preview: bool) -> Result:
    """Take over, or only show, what a WebUI keeps of its own for checkpoints that have no preset."""
    checkpoints = webui / "models" / "Stable-diffusion"
    if not checkpoints.is_dir():
        raise BadInputError(f"{str(webui)[:200]!r} is no WebUI's folder: it has no models/Stable-diffusion.")
    try:
        settings = read_json_text(webui / "config.json")
    except (OSError, ValueError, RecursionError):
        settings = {}
    places = {path.relative_to(checkpoints).as_posix(): path for path in checkpoint_files(checkpoints)}
    index = VaeIndex(find_vaes([Folder(webui / "models" / "VAE"), Folder(checkpoints, marked_only=True)]))
    settings = settings if isinstance(settings, dict) else {}
    found = foreign_presets(places, open_checkpoint, index, settings, kept)
    lines = [f"{one.checkpoint.name}: {told(one.preset)} ({one.source})" for one in found]
    if preview or not found:
        documents = [{**entry_of(owner_of(one.checkpoint), one.preset), "source": one.source} for one in found]
        return Result(documents, "\n".join(lines) or "Nothing of the WebUI's own is left to take over.")
    count = take_over(found, kept)
    return Result({"imported": count}, "\n".join([*lines, taken_over(count)]))


def _import_cards(kept: Presets, folder: Path) -> int:
    if not folder.is_dir():
        raise BadInputError(f"There is no folder {str(folder)[:200]!r}.")
    made = 0
    for path in checkpoint_files(folder):
        if path.with_suffix(".json").is_file():
            made += kept.import_card(open_checkpoint(path, path.relative_to(folder).as_posix()))
    return made
