"""What an API request or an X/Y/Z cell asks for, read into the table's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vae_manager.errors import BadInputError
from vae_manager.selection.settings import TABLE, PanelSettings, Setting
from vae_manager.webui.reference import read_reference


def from_arguments(args: Sequence[object], cell: Mapping[str, object] | None = None) -> PanelSettings:
    """Read the positional arguments, or one dict anywhere among them. Never raises.

    A dict that does not say whether it is enabled counts as enabled: sending it is asking for it. So does `cell`,
    what an X/Y/Z cell sets over the arguments.
    """
    given = next((argument for argument in args if isinstance(argument, Mapping)), None)
    if given is not None:
        values: dict[object, object] = {"enabled": True, **given}
    else:
        values = {"enabled": False, **{name: value for name, value in zip(TABLE, args) if value is not None}}
    if cell:
        values = {**values, **cell, "enabled": True}
    return _from_mapping(values)


def _from_mapping(values: Mapping[object, object]) -> PanelSettings:
    found = PanelSettings(enabled=values.get("enabled") in (True, 1, "true", "True"))
    warnings = []
    for key, value in values.items():
        if key == "enabled":
            continue
        setting = TABLE.get(key) if isinstance(key, str) else None
        if setting is None:
            warnings.append(f"VAE Manager does not know the argument {str(key)!r:.60}; it knows {', '.join(TABLE)}.")
            continue
        try:
            if setting.kind == "picture":
                found = replace(found, **{setting.name: read_reference(value)})
            elif value != "":
                found = replace(found, **{setting.name: _checked(setting, value)})
        except BadInputError as error:
            warnings.append(str(error))
    return replace(found, warnings=tuple(warnings))


def _checked(setting: Setting, value: object) -> str | float:
    """One argument's value.

    Raises:
        BadInputError: it makes no sense; its default is taken then.
    """
    name, default = setting.name, setting.default
    if setting.kind == "number":
        number = setting.number(value)
        if number is not None:
            return number
        raise BadInputError(
            f"{name} must be a number from {setting.least:g} to {setting.most:g}, not {value!r:.40}; "
            f"{default:g} was taken."
        )
    if not isinstance(value, str):
        raise BadInputError(f"The argument {name} must be a text, not {type(value).__name__}; {default} was taken.")
    if setting.choices and value not in setting.choices:
        known = f"{', '.join(setting.choices[:-1])} or {setting.choices[-1]}"
        raise BadInputError(f"{name} must be {known}, not {value!r:.40}; {default} was taken.")
    return value
