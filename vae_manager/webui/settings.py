"""What the panel, an API request or an X/Y/Z cell asks for: one frozen object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from vae_manager.selection.decision import AUTOMATIC, SAME

DECODE = ("auto", "exact", "whole", "host")
"""auto: the WebUI's own whole decode where it fits comfortably, and the exact one where not. exact: streamed. whole:
in one piece, whatever memory it takes. host: the WebUI's own way, tiled or not, without our touching it."""

COLOR = ("off", "auto", "match")


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
    warnings: tuple[str, ...] = ()
    """What could not be understood: one sentence each."""


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
        problem = _problem(str(key), value)
        if problem:
            warnings.append(problem)
        elif value != "":
            found = replace(found, **{str(key): float(value) if key == "color_strength" else value})  # type: ignore[arg-type]
    return replace(found, warnings=tuple(warnings))


def _problem(key: str, value: object) -> str | None:
    """What is wrong with one argument; its default is taken then."""
    default = getattr(PanelSettings, key)
    if key == "color_strength":
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
        return (
            None if number else f"color_strength must be a number from 0 to 1, not {value!r:.40}; {default} was taken."
        )
    if not isinstance(value, str):
        return f"The argument {key} must be a text, not {type(value).__name__}; {default} was taken."
    choices = {"decode": DECODE, "color": COLOR}.get(key)
    if choices and value not in choices:
        return f"{key} must be {', '.join(choices[:-1])} or {choices[-1]}, not {value!r:.40}; {default} was taken."
    return None
