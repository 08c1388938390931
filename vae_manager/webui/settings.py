"""What the panel, or an API request, asks for: one frozen object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vae_manager.selection.decision import AUTOMATIC


@dataclass(frozen=True)
class PanelSettings:
    """The panel's values. Fields stand in the order of the API's positional arguments: append only."""

    enabled: bool = False
    vae: str = AUTOMATIC
    warnings: tuple[str, ...] = ()
    """What could not be understood: one sentence each."""


def from_arguments(args: Sequence[object]) -> PanelSettings:
    """Read the positional arguments, or one dict anywhere among them. Never raises.

    A dict that does not say whether it is enabled counts as enabled: sending it is asking for it.
    """
    for argument in args:
        if isinstance(argument, Mapping):
            return _from_mapping(argument)
    enabled = args[0] if args else False
    vae = args[1] if len(args) > 1 else None
    return _from_mapping({"enabled": enabled, "vae": AUTOMATIC if vae is None else vae})


def _from_mapping(values: Mapping[object, object]) -> PanelSettings:
    warnings = [
        f"VAE Manager does not know the argument {str(key)!r:.60}; it knows 'enabled' and 'vae'."
        for key in values
        if key not in ("enabled", "vae")
    ]
    vae = values.get("vae", AUTOMATIC)
    if not isinstance(vae, str):
        warnings.append(f"The VAE must be a name, not {type(vae).__name__}; Automatic was taken.")
        vae = AUTOMATIC
    enabled = values.get("enabled", True)
    return PanelSettings(enabled in (True, 1, "true", "True"), vae or AUTOMATIC, tuple(warnings))
