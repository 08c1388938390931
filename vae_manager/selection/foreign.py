"""What a WebUI keeps of its own for a checkpoint, as presets to take over: the cards of A1111 and Forge, and Neo's
presets, which its settings hold. A checkpoint that has a preset keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.library.report import quick_report
from vae_manager.selection.card import card_modules, card_vae
from vae_manager.selection.checkpoint import Checkpoint
from vae_manager.selection.decision import AUTOMATIC, BAKED
from vae_manager.selection.names import VaeIndex
from vae_manager.selection.page_fields import PageValues, page_values
from vae_manager.selection.preset_file import Preset, VaeWish
from vae_manager.selection.presets import Presets

BUILT_IN = "Built in"
"""Forge's word for the VAE that is baked in."""

_CHECKPOINT, _MODULES = "forge_checkpoint_", "forge_additional_modules_"
_HASH = re.compile(r"\s*\[[0-9a-f]{8,64}\]$")

_FIELDS = {
    "sampler": "sampler", "scheduler": "scheduler", "steps": "step", "cfg": "cfg", "distilled_cfg": "dcfg",
    "width": "width", "height": "height", "hires_steps": "hr_step",
}  # fmt: skip
"""Our fields of the page → the end of Neo's setting, after "PRESET_t2i_" (its `modules_forge/presets.py`)."""

Places = Mapping[str, Path]
"""The checkpoints' names, with forward slashes, and where they lie."""


@dataclass(frozen=True)
class Foreign:
    """One preset that could be taken over."""

    checkpoint: Checkpoint
    preset: Preset
    source: str
    """Where it stands, in words."""


def foreign_presets(
    places: Places,
    describe: Callable[[Path, str], Checkpoint | None],
    index: VaeIndex,
    settings: Mapping[str, object],
    kept: Presets,
) -> list[Foreign]:
    """Everything that can be taken over; of several for one checkpoint the first: its card, then Neo's chosen preset.

    Args:
        describe: opens a checkpoint; None where it is gone.
        settings: the WebUI's own, by their names.
    """
    found: dict[str, Foreign] = {}
    for name, preset, source in (*_cards(places, index), *_neo(places, index, settings)):
        if name in found:
            continue
        checkpoint = describe(places[name], name)
        if checkpoint is not None and kept.find(checkpoint) is None:
            found[name] = Foreign(checkpoint, preset, source)
    return list(found.values())


def take_over(found: Sequence[Foreign], kept: Presets) -> int:
    """Save them, but for checkpoints that have got a preset meanwhile; how many were.

    Raises:
        OSError: the presets' file cannot be written.
    """
    taken = 0
    for one in found:
        if kept.find(one.checkpoint) is None:
            kept.save(one.checkpoint, one.preset)
            taken += 1
    return taken


def _cards(places: Places, index: VaeIndex) -> Iterator[tuple[str, Preset, str]]:
    for name, path in places.items():
        if not path.with_suffix(".json").is_file():
            continue
        if (modules := card_modules(path)) is not None:
            wanted = _vae_among(modules, index)
        else:
            wanted = card_vae(path)
            wanted = wanted and (_called(wanted, index) or wanted)
        if wanted:
            yield name, Preset(VaeWish(BAKED if wanted.casefold() == "none" else wanted)), "its card"


def _neo(places: Places, index: VaeIndex, settings: Mapping[str, object]) -> Iterator[tuple[str, Preset, str]]:
    """Neo keeps a checkpoint, modules and the page's values for each of its presets: the one in use first."""
    presets = [key.removeprefix(_CHECKPOINT) for key in settings if key.startswith(_CHECKPOINT)]
    presets.sort(key=lambda preset: preset != settings.get("forge_preset"))
    for preset in presets:
        name = _place(settings[_CHECKPOINT + preset], places)
        if name is None:
            continue
        modules = settings.get(_MODULES + preset)
        vae = _vae_among([one for one in modules if isinstance(one, str)], index) if isinstance(modules, list) else None
        page = _page(preset, settings)
        if vae or page:
            yield name, Preset(VaeWish(vae or AUTOMATIC), page=page), f"the WebUI's preset {preset}"


def _page(preset: str, settings: Mapping[str, object]) -> PageValues:
    values = {field: settings.get(f"{preset}_t2i_{key}") for field, key in _FIELDS.items()}
    return page_values({field: value for field, value in values.items() if value not in (0, None)})  # 0: left open


def _place(title: object, places: Places) -> str | None:
    """The checkpoint that a WebUI's title means: "folder/name.safetensors [hash]", or its name alone."""
    if not isinstance(title, str):
        return None
    wanted = _HASH.sub("", title.replace("\\", "/")).strip()
    for form in (lambda name: name, lambda name: PurePosixPath(name).name, lambda name: PurePosixPath(name).stem):
        same = [name for name in places if form(name) == wanted]
        if len(same) == 1:
            return same[0]
    return None


def _vae_among(modules: list[str], index: VaeIndex) -> str | None:
    """The first VAE of a list that text encoders stand in too."""
    if modules == [BUILT_IN]:
        return BAKED
    return next((name for module in modules if (name := _called(module, index))), None)


def _called(module: str, index: VaeIndex) -> str | None:
    """What we call the VAE of a name or path; None: it is no VAE, or not here."""
    for name in (module, PurePosixPath(module.replace("\\", "/")).name):
        try:
            file = index.find(name)
        except BadInputError:
            continue
        found = quick_report(file, index.hashes)
        return None if isinstance(found, VaeFileError) or found.identity.problems else file.name
    return None
