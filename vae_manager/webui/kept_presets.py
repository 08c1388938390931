"""What the panel's list of presets shows and does, in words and files; the components are in `preset_list`."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vae_manager.errors import BadInputError, os_reason
from vae_manager.selection.decision import SAME
from vae_manager.selection.foreign import Foreign, take_over
from vae_manager.selection.page_fields import page_words
from vae_manager.selection.preset_file import Owner, Preset, VaeWish
from vae_manager.selection.preset_text import NONE_KEPT, by_hand, many, taken_over
from vae_manager.selection.presets import Presets
from vae_manager.selection.settings import KEPT, TABLE
from vae_manager.webui.trace import table

FILE_NAME = "vae-manager-presets.json"
FOREIGN_HEAD = ("Checkpoint", "VAE", "Page", "From")
NOTHING_FOREIGN = "The WebUI keeps nothing of its own for a checkpoint that has no preset here."
HEAD = ("Checkpoint", "VAE", "Encoding", "Hires pass", "Decode", "Colour", "Page", "From")


def presets_html(presets: Presets) -> str:
    """All presets as a table."""
    rows = [_row(owner, preset) for owner, preset in presets.all()]
    return table(HEAD, rows) if rows else f"<p>{NONE_KEPT}</p>"


def remove_one(presets: Presets, label: str | None) -> str:
    """Remove the preset with this label of the list; what was done, as a line."""
    if not label:
        return "Choose first which preset is to go."
    owner = labels(presets).get(label)
    try:
        if owner is None or not presets.remove_owner(owner):
            return f"There is no preset of {label} any more."
    except OSError as error:
        return f"The preset could not be removed ({os_reason(error)}); it is untouched."
    return f"Removed the preset of {label}."


def export_file(presets: Presets) -> tuple[str, Path | None]:
    """Write all presets into a new file of the temporary folder; what was done, and the file."""
    if not presets.all():
        return NONE_KEPT, None
    try:
        path = Path(tempfile.mkdtemp(prefix="vae-manager-"), FILE_NAME)
        count = presets.export_to(path)
    except OSError as error:
        return f"The presets could not be exported ({os_reason(error)}).", None
    return f"Wrote {many(count)} to {path.name}; download it below.", path


def import_file(presets: Presets, path: Path, replace_own: bool) -> str:
    """Take over the presets of an uploaded file; what was done, as a line."""
    try:
        return taken_over(presets.import_from(path, replace_own))
    except BadInputError as error:
        return str(error).replace(str(path), path.name)
    except OSError as error:
        return f"The presets could not be taken over ({os_reason(error)}); yours are untouched."


def foreign_html(found: Sequence[Foreign]) -> str:
    """What could be taken over, as a table: nothing is until the next button is pressed."""
    rows = [
        (one.checkpoint.name, one.preset.vae.name, ", ".join(page_words(one.preset.page)), one.source) for one in found
    ]
    return table(FOREIGN_HEAD, rows) if rows else f"<p>{NOTHING_FOREIGN}</p>"


def take_foreign(presets: Presets, found: Sequence[Foreign]) -> str:
    """Take over what was shown; what was done, as a line."""
    try:
        return taken_over(take_over(found, presets))
    except OSError as error:
        return f"The presets could not be taken over ({os_reason(error)}); yours are untouched."


def labels(presets: Presets) -> dict[str, Owner]:
    """What the list calls each preset: its checkpoint, with a piece of its hash where two are called the same."""
    owners = [owner for owner, _ in presets.all()]
    count = Counter(owner.name for owner in owners)

    def label(owner: Owner) -> str:
        return owner.name if count[owner.name] == 1 else f"{owner.name} [{(owner.sha256 or owner.print or '')[:8]}]"

    return {label(owner): owner for owner in owners}


def _row(owner: Owner, preset: Preset) -> tuple[str, ...]:
    def part(wish: VaeWish) -> str:
        return "" if wish.name == SAME else wish.name

    return (
        owner.name,
        preset.vae.name,
        part(preset.encode_vae),
        part(preset.hires_vae),
        _mode("decode", preset),
        " ".join([_mode("color", preset), *by_hand(preset)]).strip(),
        ", ".join([*page_words(preset.page), *(["by itself"] if preset.by_itself else [])]),
        "remembered" if preset.remembered else "",
    )


def _mode(name: str, preset: Preset) -> str:
    """What a preset says of a mode, with what belongs to it in every mode."""
    said = [preset.said.get(name)]
    said += [preset.said.get(one.name) for one in KEPT if one.of == name and one.mode is None]
    return " ".join(TABLE[name].text(value) for value in said if value is not None)
