"""Our axes in the host's X/Y/Z plot: VAE, Hires VAE and Decode mode. A cell swaps, and never reloads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vae_manager.errors import BadInputError
from vae_manager.selection.decision import AUTOMATIC, BAKED, SAME
from vae_manager.selection.settings import TABLE, Setting
from vae_manager.webui.hosts.picture_job import PictureJob
from vae_manager.webui.infotext import KEY

Names = Callable[[], Sequence[str]]


def add_axes(scripts_data: Iterable[Any], names: Names, check: Callable[[str], object]) -> None:
    """Add the axes to every X/Y/Z script that the host has loaded, once.

    Args:
        scripts_data: the host's list of loaded scripts.
        names: the VAE files' names as of now.
        check: raises BadInputError for a name that means no file.
    """

    def vaes(first: str) -> Callable[[], list[str]]:
        return lambda: [first, BAKED, *names()]

    def confirm(p: object, values: Iterable[str]) -> None:
        for value in values:
            if value.casefold() not in (AUTOMATIC.casefold(), BAKED.casefold(), SAME):
                _told(check, value)

    def confirm_choice(setting: Setting) -> Callable[[object, Iterable[str]], None]:
        def check_choice(p: object, values: Iterable[str]) -> None:
            wrong = next((value for value in values if value not in setting.choices), None)
            if wrong is not None:
                known = ", ".join(setting.choices)
                raise RuntimeError(f"There is no {setting.label.lower()} mode {wrong!r:.40}; the modes are {known}.")

        return check_choice

    def axis(option: Any, setting: Setting) -> Any:
        vae = setting.kind == "vae"
        return option(
            f"[{KEY}] {setting.axis}",
            str,
            _set(setting.name),
            confirm=confirm if vae else confirm_choice(setting),
            choices=vaes(setting.default) if vae else lambda: list(setting.choices),
        )

    for axes in _axis_lists(scripts_data):
        if any(axis.label.startswith(f"[{KEY}]") for axis in axes):
            continue
        option = type(axes[0])
        axes += [axis(option, setting) for setting in TABLE.values() if setting.axis]


def _axis_lists(scripts_data: Iterable[Any]) -> Iterable[list[Any]]:
    for data in scripts_data:
        if data.script_class.__module__ == "xyz_grid.py" and getattr(data.module, "axis_options", None):
            yield data.module.axis_options


def _set(name: str) -> Callable[[object, str, Any], None]:
    def apply(p: object, value: str, values: Any) -> None:
        PictureJob.of(p).set_in_cell(name, value)

    return apply


def _told(check: Callable[[str], object], value: str) -> None:
    try:
        check(value)
    except BadInputError as error:
        raise RuntimeError(str(error)) from error
