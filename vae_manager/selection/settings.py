"""The one table of settings, which the panel, the API, the infotext, pasting, X/Y/Z, presets, rules and the Extras tab
read. A setting is one line of `PanelSettings`; whoever goes through the table finds a new one by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from vae_manager.selection.decision import AUTOMATIC, BAKED, SAME

if TYPE_CHECKING:
    from PIL import Image

DecodeMode = Literal["auto", "exact", "whole", "host"]
"""auto: the WebUI's own whole decode where it fits comfortably, and the exact one where not. exact: streamed. whole:
in one piece, whatever memory it takes. host: the WebUI's own way, tiled or not, without our touching it."""

ColorMode = Literal["off", "auto", "match", "manual"]
"""auto: diagnosed, and corrected as far as the evidence goes. match: held against the reference picture, or the one
that img2img began with, and nothing else. manual: contrast, brightness and saturation by hand."""

PaddingWish = Literal["auto", "zeros", "reflect"]
"""auto: what the VAE's file tells, by its metadata or its name. The others are the user's word: EQ-VAEs were trained
with reflected edges, and not every file of one says so."""

Value = str | float
Said = Mapping[str, Any]
"""Values of some settings by their names: what a preset or a rule says, where what it leaves open is not there."""


@dataclass(frozen=True)
class Setting:
    """What everybody needs to know of one setting."""

    kind: Literal["switch", "vae", "choice", "number", "picture"]
    label: str = ""
    """The panel's, in English."""
    choices: tuple[str, ...] = ()
    """Of a choice."""
    least: float = 0.0
    most: float = 1.0
    step: float = 0.05
    """Of a number: its range, and the slider's step."""
    of: str | None = None
    """The choice that it belongs to: without it, at its default, the setting means nothing."""
    mode: str | None = None
    """The one value of that choice in which it means something; None: in every one but the default."""
    kept: bool = False
    """Whether presets hold it."""
    ruled: bool = False
    """Whether rules may say it as well."""
    unruled: tuple[str, ...] = ()
    """The choices that a rule may not say: it is for many checkpoints."""
    key: str = ""
    """What presets and rules call it, where that is not its name."""
    aside: bool = False
    """Whether the panel has it among what is seldom wanted."""
    axis: str | None = None
    """Its axis in the X/Y/Z plot; None: it has none."""
    name: str = ""
    """The API's argument, the infotext's key and part of the element's id. Taken from the field."""
    default: Any = None
    """Likewise."""

    @property
    def rule_choices(self) -> tuple[str, ...]:
        """What of a choice a rule may say."""
        return tuple(choice for choice in self.choices if choice not in self.unruled)

    def text(self, value: Value) -> str:
        """A value as the infotext has it."""
        return value if isinstance(value, str) else f"{round(value, 4):g}"

    def read(self, text: str) -> Value | None:
        """What a text of an infotext means; None where it makes no sense: it may come from anybody."""
        if self.kind == "number":
            return self.number(float(text)) if re.fullmatch(r"-?\d(\.\d{1,6})?", text) else None
        return text if text and (not self.choices or text in self.choices) else None

    def number(self, value: object) -> float | None:
        """A value as this setting's number; None where it is none, or out of its range."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if number and self.least <= value <= self.most else None  # type: ignore[arg-type,operator]

    def kept_value(self, value: object) -> Value | None:
        """A value as a preset's file may have it; None where it makes no sense."""
        if self.kind == "number":
            return self.number(value)
        return value if isinstance(value, str) and value in self.choices else None

    def is_meant(self, settings: PanelSettings) -> bool:
        """Whether it means anything beside the other settings."""
        if self.of is None:
            return True
        leads = getattr(settings, self.of)
        return leads == self.mode if self.mode else leads != getattr(PanelSettings, self.of)


def _setting(default: Any, kind: Any, label: str, **more: Any) -> Any:
    about = Setting(kind, label, default=default, **more)
    return field(default=default, compare=kind != "picture", metadata={"setting": about})


def _choice(default: str, values: Any, label: str, **more: Any) -> Any:
    return _setting(default, "choice", label, choices=get_args(values), **more)


def _by_hand(default: float, least: float, most: float, label: str) -> Any:
    """Of the colour mode 'manual', which rules may not say."""
    return _setting(default, "number", label, least=least, most=most, step=0.01, of="color", mode="manual", kept=True)


@dataclass(frozen=True)
class PanelSettings:
    """The settings of one job: the table, and its values.

    The fields stand in the order of the API's positional arguments: append only.
    """

    enabled: bool = _setting(False, "switch", "VAE Manager")
    vae: str = _setting(AUTOMATIC, "vae", "VAE", axis="VAE")
    encode_vae: str = _setting(SAME, "vae", "VAE for encoding")
    hires_vae: str = _setting(SAME, "vae", "VAE for the hires pass", axis="Hires VAE")
    decode: DecodeMode = _choice("auto", DecodeMode, "Decode", kept=True, ruled=True, key="tiling", axis="Decode mode")
    """For encoding as well."""
    color: ColorMode = _choice("off", ColorMode, "Colour", kept=True, ruled=True, unruled=("manual",))
    color_strength: float = _setting(1.0, "number", "Colour strength", of="color", kept=True, ruled=True)
    contrast: float = _by_hand(1.0, 0.5, 2.0, "Contrast")
    """Factor around mid-grey."""
    brightness: float = _by_hand(0.0, -0.5, 0.5, "Brightness")
    """Added to every channel, whose range is 1."""
    saturation: float = _by_hand(1.0, 0.0, 2.0, "Saturation")
    """Factor around luma."""
    reference: Image.Image | None = _setting(
        None, "picture", "Picture to match (none: the one that img2img begins with)", of="color", mode="match"
    )
    """In the API: a picture's file in base64."""
    padding: PaddingWish = _choice("auto", PaddingWish, "Edges of the VAE", kept=True, ruled=True, aside=True)
    """How the convolutions of the job's VAE pad."""
    warnings: tuple[str, ...] = ()
    """What could not be understood: one sentence each."""

    @property
    def names_a_file(self) -> bool:
        """Whether a VAE is chosen by name for any part of the job."""
        return bool({self.vae, self.encode_vae, self.hires_vae} - {AUTOMATIC, BAKED, SAME})


def _table() -> Iterator[Setting]:
    for one in fields(PanelSettings):
        if about := one.metadata.get("setting"):
            yield replace(about, name=one.name, key=about.key or one.name)


TABLE = {setting.name: setting for setting in _table()}
"""Every setting by its name, in the order of the API's positional arguments."""

VAES = tuple(setting for setting in TABLE.values() if setting.kind == "vae")
"""The names of VAEs; presets hold them all."""

_, ENCODE_VAE, HIRES_VAE, *_ = VAES

KEPT = tuple(setting for setting in TABLE.values() if setting.kept)
"""What presets hold beside the VAEs."""

RULED = tuple(setting for setting in KEPT if setting.ruled)
"""What rules may say beside the VAE."""

STRENGTH = TABLE["color_strength"]

BY_HAND = tuple(setting for setting in TABLE.values() if setting.mode == "manual")
"""What the colour mode 'manual' does: the arguments of `color.matrix.adjustment`."""


def by_hand(settings: PanelSettings) -> dict[str, float]:
    """The values of the colour mode 'manual'."""
    return {setting.name: getattr(settings, setting.name) for setting in BY_HAND}


def said_by_hand(said: Said) -> dict[str, float]:
    """The same as a preset says them, with defaults for what it leaves open; empty where it says none."""
    values = {setting.name: said.get(setting.name, setting.default) for setting in BY_HAND}
    return values if values.keys() & said.keys() else {}


def said_by(settings: PanelSettings) -> Said:
    """What settings say for a preset: each mode that is not its default, with all that belongs to it."""
    return {
        setting.name: getattr(settings, setting.name)
        for setting in KEPT
        if setting.is_meant(settings) and (setting.of or getattr(settings, setting.name) != setting.default)
    }


def with_said(settings: PanelSettings, said: Said) -> PanelSettings:
    """The settings, where a mode that was left at its default is taken from what a preset or rule says.

    With the mode comes all that belongs to it. What is not said of that is the panel's, if the panel shows it
    whatever the mode, or else the default.
    """
    changes: dict[str, Any] = {}
    for mode in KEPT:
        if mode.of or mode.name not in said or getattr(settings, mode.name) != mode.default:
            continue
        changes[mode.name] = said[mode.name]
        for setting in TABLE.values():
            if setting.of == mode.name:
                otherwise = setting.default if setting.mode else getattr(settings, setting.name)
                changes[setting.name] = said.get(setting.name, otherwise)
    return replace(settings, **changes)
