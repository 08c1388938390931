"""What the panel, an API request or an X/Y/Z cell asks for: one frozen object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from PIL import Image

from vae_manager.errors import BadInputError
from vae_manager.selection.decision import ADJUST_RANGES, AUTOMATIC, BAKED, SAME, Adjust
from vae_manager.webui.reference import read_reference

DECODE = ("auto", "exact", "whole", "host")
"""auto: the WebUI's own whole decode where it fits comfortably, and the exact one where not. exact: streamed. whole:
in one piece, whatever memory it takes. host: the WebUI's own way, tiled or not, without our touching it."""

COLOR = ("off", "auto", "match", "manual")
"""auto: diagnosed, and corrected as far as the evidence goes. match: held against the reference picture, or the one
that img2img began with, and nothing else. manual: contrast, brightness and saturation by hand."""

RANGES = {"color_strength": (0.0, 1.0), **ADJUST_RANGES}
"""Least and most of the numbers."""


@dataclass(frozen=True)
class PanelSettings:
    """The panel's values. Fields stand in the order of the API's positional arguments: append only."""

    enabled: bool = False
    vae: str = AUTOMATIC
    encode_vae: str = SAME
    hires_vae: str = SAME
    decode: str = "auto"
    """One of `DECODE`; for encoding as well."""
    color: str = "off"
    """One of `COLOR`."""
    color_strength: float = 1.0
    """0 to 1."""
    contrast: float = Adjust.contrast
    """This and the next two are for the colour mode 'manual', in the ranges of `ADJUST_RANGES`."""
    brightness: float = Adjust.brightness
    saturation: float = Adjust.saturation
    reference: Image.Image | None = field(default=None, compare=False)
    """For the colour mode 'match'. In the API: a picture's file in base64."""
    warnings: tuple[str, ...] = ()
    """What could not be understood: one sentence each."""

    @property
    def names_a_file(self) -> bool:
        """Whether a VAE is chosen by name for any part of the job."""
        return bool({self.vae, self.encode_vae, self.hires_vae} - {AUTOMATIC, BAKED, SAME})

    @property
    def adjust(self) -> Adjust:
        """What 'manual' does."""
        return Adjust(self.contrast, self.brightness, self.saturation)


NAMES = tuple(field.name for field in fields(PanelSettings) if field.name != "warnings")
"""The arguments in their order."""


def from_arguments(args: Sequence[object], cell: Mapping[str, object] | None = None) -> PanelSettings:
    """Read the positional arguments, or one dict anywhere among them. Never raises.

    A dict that does not say whether it is enabled counts as enabled: sending it is asking for it. So does `cell`,
    what an X/Y/Z cell sets over the arguments.
    """
    given = next((argument for argument in args if isinstance(argument, Mapping)), None)
    if given is not None:
        values: dict[object, object] = {"enabled": True, **given}
    else:
        values = {"enabled": False, **{name: value for name, value in zip(NAMES, args) if value is not None}}
    if cell:
        values = {**values, **cell, "enabled": True}
    return _from_mapping(values)


def _from_mapping(values: Mapping[object, object]) -> PanelSettings:
    found = PanelSettings(enabled=values.get("enabled") in (True, 1, "true", "True"))
    warnings = []
    for key, value in values.items():
        if key == "enabled":
            continue
        if key not in NAMES:
            warnings.append(f"VAE Manager does not know the argument {str(key)!r:.60}; it knows {', '.join(NAMES)}.")
            continue
        try:
            if key == "reference":
                found = replace(found, reference=read_reference(value))
            elif value != "":
                found = replace(found, **{str(key): _checked(str(key), value)})  # type: ignore[arg-type]
        except BadInputError as error:
            warnings.append(str(error))
    return replace(found, warnings=tuple(warnings))


def _checked(key: str, value: object) -> str | float:
    """One argument's value.

    Raises:
        BadInputError: it makes no sense; its default is taken then.
    """
    default = getattr(PanelSettings, key)
    if key in RANGES:
        least, most = RANGES[key]
        if isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most:
            return float(value)
        raise BadInputError(
            f"{key} must be a number from {least:g} to {most:g}, not {value!r:.40}; {default:g} was taken."
        )
    if not isinstance(value, str):
        raise BadInputError(f"The argument {key} must be a text, not {type(value).__name__}; {default} was taken.")
    choices = {"decode": DECODE, "color": COLOR}.get(key)
    if choices and value not in choices:
        known = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise BadInputError(f"{key} must be {known}, not {value!r:.40}; {default} was taken.")
    return value
