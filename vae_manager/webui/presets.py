"""The panel's buttons for presets: what a checkpoint is to get from now on."""

from __future__ import annotations

import logging
from dataclasses import replace

from vae_manager.errors import BadInputError, os_reason
from vae_manager.selection.decision import AUTOMATIC, BAKED, SAME, Decision
from vae_manager.selection.foreign import Foreign, foreign_presets
from vae_manager.selection.matcher import checkpoint_files
from vae_manager.selection.preset_file import Preset, VaeWish
from vae_manager.selection.settings import PanelSettings, said_by
from vae_manager.webui.describe import refusal_of
from vae_manager.webui.page_offer import PageWish
from vae_manager.webui.shelf import Shelf

log = logging.getLogger("vae_manager")

_NOBODY = "No checkpoint is loaded yet; generate a picture first."


def preset_of(settings: PanelSettings, shelf: Shelf) -> Preset:
    """The panel's settings as a preset: VAEs by their hash where it is known, so that a renamed file is found.

    Raises:
        BadInputError: one of the names means no file.
    """
    return Preset(
        _wish(settings.vae, shelf),
        _wish(settings.encode_vae, shelf),
        _wish(settings.hires_vae, shelf),
        said_by(settings),
    )


def save_preset(shelf: Shelf, settings: PanelSettings, page: PageWish | None = None) -> str:
    """Keep the settings, and what is wished of the page, with the checkpoint that is loaded; what was done, as a
    line."""
    found = shelf.preview(settings)
    if found is None:
        return _NOBODY
    checkpoint, decision = found
    if refused := _refused(settings, decision):
        return f"Not saved: {refused}"
    try:
        old, preset = shelf.chooser.presets.find(checkpoint), preset_of(settings, shelf)
        if page is not None:
            kept = page.values(old.preset.page if old else {})
            preset = replace(preset, page=kept, by_itself=page.by_itself and bool(kept))
        shelf.chooser.presets.save(checkpoint, preset)
    except BadInputError as error:
        return str(error)
    except OSError as error:
        return f"The preset could not be saved ({os_reason(error)}); the old one is untouched."
    return f"Saved: {checkpoint.file.path.name} gets these settings from now on, with VAE on Automatic."


def forget_preset(shelf: Shelf) -> str:
    """Remove the preset of the checkpoint that is loaded; what was done, as a line."""
    found = shelf.preview(PanelSettings(True))
    if found is None:
        return _NOBODY
    checkpoint = found[0]
    if shelf.chooser.presets.find(checkpoint) is None:
        return f"Nothing is saved for {checkpoint.file.path.name}."
    try:
        shelf.chooser.presets.remove(checkpoint)
    except OSError as error:
        return f"The preset could not be removed ({os_reason(error)}); it is untouched."
    return f"Forgotten: {checkpoint.file.path.name} is chosen for by rules and what is known of it again."


def foreign(shelf: Shelf) -> list[Foreign]:
    """What the WebUI keeps of its own for checkpoints that have no preset. Never raises."""
    try:
        folders = [folder.path for folder in shelf.host.vae_folders() if folder.marked_only]
        places = {path.relative_to(folder).as_posix(): path for folder in folders for path in checkpoint_files(folder)}
        settings, kept = shelf.host.own_settings(), shelf.chooser.presets
        return foreign_presets(places, shelf.chooser.checkpoint, shelf.index(), settings, kept)
    except Exception:
        log.exception("VAE Manager could not read what the WebUI keeps of its own")
        return []


def is_kept(shelf: Shelf) -> bool:
    """Whether the checkpoint that is loaded has a preset. Never raises: it stands on every page."""
    try:
        found = shelf.preview(PanelSettings(True))
        return found is not None and shelf.chooser.presets.find(found[0]) is not None
    except Exception:
        log.exception("VAE Manager could not look for a preset")
        return False


def _refused(settings: PanelSettings, decision: Decision) -> str | None:
    """Why these settings would not be obeyed: what is saved must be what will work."""
    for asked, part in ((settings.encode_vae, decision.encode), (settings.hires_vae, decision.hires)):
        if part is None and asked not in (AUTOMATIC, SAME) and decision.warnings:
            return decision.warnings[-1]
    return refusal_of(decision)


def _wish(name: str, shelf: Shelf) -> VaeWish:
    if name in (AUTOMATIC, BAKED, SAME):
        return VaeWish(name)
    file = shelf.find(name)
    return VaeWish(file.name, shelf.hashes.peek(file))
