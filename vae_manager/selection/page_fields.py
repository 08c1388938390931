"""The fields of a WebUI's page that a preset may fill besides the VAE, decode and colour. Never the prompt, never the
seed. One table, which the presets' file, their words and the page read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from vae_manager.selection.rules import MAX_TEXT

PageValue = str | int | float
PageValues = Mapping[str, PageValue]
"""Values by the fields' names; what is left open is not there."""


@dataclass(frozen=True)
class PageField:
    """One field of the page."""

    name: str
    """In the presets' file."""
    label: str
    """For people, in English."""
    element: str
    """The end of its element's id, after 'txt2img' or 'img2img'."""
    kind: str = "choice"
    """'choice', 'whole' (a whole number) or 'number'."""
    least: float = 0.0
    most: float = 0.0
    txt2img_only: bool = False
    """The hires pass's."""

    def element_id(self, tab: str) -> str | None:
        """Its element in that tab; None where it has none."""
        return None if self.txt2img_only and tab != "txt2img" else f"{tab}_{self.element}"

    def value(self, given: object) -> PageValue | None:
        """A value as it may stand in a preset; None where it makes no sense."""
        if self.kind == "choice":
            valid = isinstance(given, str) and bool(given.strip()) and len(given) <= MAX_TEXT and given.isprintable()
            return str(given) if valid else None
        if not isinstance(given, (int, float)) or isinstance(given, bool) or not self.least <= given <= self.most:
            return None
        return int(given) if self.kind == "whole" and given == int(given) else None if self.kind == "whole" else given

    def text(self, value: PageValue) -> str:
        """A value in words: "28 steps", "CFG 5"."""
        number = value if isinstance(value, str) else f"{value:g}"
        return f"{number} {self.label.lower()}" if self.name == "steps" else f"{self.label} {number}"


PAGE_FIELDS = MappingProxyType(
    {
        field.name: field
        for field in (
            PageField("sampler", "Sampler", "sampling"),
            PageField("scheduler", "Scheduler", "scheduler"),
            PageField("steps", "Steps", "steps", "whole", 1, 150),
            PageField("cfg", "CFG", "cfg_scale", "number", 0, 100),
            PageField("distilled_cfg", "Distilled CFG", "distilled_cfg_scale", "number", 0, 100),
            PageField("width", "Width", "width", "whole", 8, 16384),
            PageField("height", "Height", "height", "whole", 8, 16384),
            PageField("hires_upscaler", "Hires upscaler", "hr_upscaler", txt2img_only=True),
            PageField("hires_scale", "Hires scale", "hr_scale", "number", 1, 16, True),
            PageField("hires_steps", "Hires steps", "hires_steps", "whole", 0, 150, True),
            PageField("hires_denoise", "Hires denoise", "denoising_strength", "number", 0, 1, True),
        )
    }
)
"""Every field by its name, in the order in which they are told and filled: a sampler's own default comes before the
steps that the user wants."""


def page_values(given: object) -> dict[str, PageValue]:
    """What a document says of the page; what makes no sense counts as left open."""
    if not isinstance(given, Mapping):
        return {}
    values = {name: field.value(given.get(name)) for name, field in PAGE_FIELDS.items()}
    return {name: value for name, value in values.items() if value is not None}


def page_words(values: PageValues) -> list[str]:
    """The values in words, one text each; the size in one."""
    size = {"width", "height"} <= values.keys()
    words = [] if not size else [f"{values['width']} × {values['height']}"]
    return [
        *(field.text(values[name]) for name, field in PAGE_FIELDS.items()
          if name in values and not (size and name in ("width", "height"))),
        *words,
    ]  # fmt: skip


_SIZE = re.compile(r"\s*(\d{2,5})\s*[xX×]\s*(\d{2,5})\s*")
_HINTS = {
    "steps": re.compile(r"\bsteps?\s*[:=]?\s*(\d{1,3})\b|\b(\d{1,3})\s+steps?\b", re.IGNORECASE),
    "cfg": re.compile(r"\bcfg(?:\s+scale)?\s*[:=]?\s*(\d{1,2}(?:\.\d{1,2})?)(?![\d.-])", re.IGNORECASE),
}


def page_values_of(metadata: Mapping[str, Any]) -> dict[str, PageValue]:
    """What a checkpoint's own metadata (modelspec) recommends. Ranges ("20-30 steps") say nothing of one value."""
    found: dict[str, object] = {}
    if size := _SIZE.fullmatch(str(metadata.get("modelspec.resolution", ""))):
        found |= {"width": int(size[1]), "height": int(size[2])}
    hint = str(metadata.get("modelspec.usage_hint", ""))
    for name, pattern in _HINTS.items():
        matches = {next(filter(None, match.groups())) for match in pattern.finditer(hint)}
        before = re.search(r"\d\s*[-–]\s*\d", hint) is not None
        if len(matches) == 1 and not before:
            number = float(matches.pop())
            found[name] = int(number) if number == int(number) else number
    return page_values(found)
