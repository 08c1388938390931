"""Which WebUI is this, and does it have what we use?"""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vae_manager.errors import BadInputError
from vae_manager.hostcheck.checks import Answer
from vae_manager.hostcheck.derive import requirements
from vae_manager.hostcheck.ours import A1111, FORGE, REFORGE, our_files
from vae_manager.hostcheck.requirements import Requirement
from vae_manager.hostcheck.source import Source, Unreadable

NESTED = ("webui", "stable-diffusion-webui")
"""Where the packages that users unpack keep the WebUI itself."""


@dataclass(frozen=True)
class Missing:
    """One thing that a WebUI does not have, or a file of its that cannot be read."""

    id: str
    what: str
    where: str
    """What is the matter: a sentence without its full stop."""
    needed_by: str


@dataclass(frozen=True)
class HostReport:
    """What was found in one WebUI."""

    host: str
    """Its name, for people."""
    adapter: str
    """The file of ours that would serve it, without its suffix."""
    version: str | None
    answers: tuple[tuple[Requirement, Answer], ...]
    missing: tuple[Missing, ...]
    notes: tuple[str, ...]
    """What is not required and not there, with the way we cope; and what cannot be told."""

    @property
    def title(self) -> str:
        """The WebUI's name and version."""
        if self.version is None:
            return f"{self.host} (version unknown)"
        return self.host if self.version in self.host.lower() else f"{self.host} {self.version}"

    @property
    def ok(self) -> bool:
        return not self.missing

    def document(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "host": self.host,
            "version": self.version,
            "ok": self.ok,
            "missing": [vars(part) for part in self.missing],
            "notes": list(self.notes),
            "adapter": self.adapter,
        }


def check_webui(folder: Path) -> HostReport:
    """Answer the whole table for the WebUI in this folder.

    Raises:
        BadInputError: there is no WebUI.
    """
    _refuse_other_folders(folder)
    source = Source(folder)
    adapter = _adapter(source)
    answers: list[tuple[Requirement, Answer]] = []
    missing: list[Missing] = []
    notes: list[str] = []
    broken: set[str] = set()
    for row in requirements():
        if adapter not in row.hosts:
            continue
        try:
            answer = row.check.look(source)
        except Unreadable as error:
            answer = Answer(reason=str(error))
            if answer.reason not in broken:  # one file answers many rows
                broken.add(answer.reason)
                missing.append(Missing("unreadable", str(row.check), answer.reason, row.needed_by))
        else:
            if answer.unknown:
                notes.append(f"Not checked: {row.check} ({answer.reason}).")
            elif answer.found is None and row.without is not None:
                notes.append(f"{answer.reason}: {row.without}.")
            elif answer.found is None:
                missing.append(Missing(row.id, str(row.check), answer.reason, row.needed_by))
        answers.append((row, answer))
    if not any(name.startswith("scripts/") for name in our_files()):
        notes.append("Not checked: what the extension's own scripts use, for they are not beside this package.")
    host, version = _name(source, adapter)
    return HostReport(host, adapter, version, tuple(answers), tuple(missing), tuple(dict.fromkeys(notes)))


def _refuse_other_folders(folder: Path) -> None:
    name = str(folder)[:200]
    try:
        if not folder.is_dir():
            raise BadInputError(f"There is no folder {name!r}.")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise BadInputError(f"The folder {name!r} may not be read.")
    except (OSError, ValueError) as error:  # too long a name, a null byte, a loop of links
        raise BadInputError(f"There is no folder {name!r}.") from error
    if _is_webui(folder):
        return
    for nested in NESTED:
        if _is_webui(folder / nested):
            raise BadInputError(f"{name!r} is no WebUI itself; the WebUI is in {str(folder / nested)!r}, name that.")
    raise BadInputError(
        f"{name!r} is no Stable Diffusion WebUI: it has neither modules/processing.py nor modules/script_callbacks.py."
    )


def _is_webui(folder: Path) -> bool:
    return any(os.path.isfile(folder / "modules" / name) for name in ("processing.py", "script_callbacks.py"))


def _adapter(source: Source) -> str:
    """As `webui.hosts.current_host` decides."""
    if not source.is_module("modules_forge"):
        return A1111
    return REFORGE if source.is_module("ldm_patched") else FORGE


def _name(source: Source, adapter: str) -> tuple[str, str | None]:
    """The WebUI's name and version; Forge's relatives say in `forge_version.py` which one they are."""
    said = _strings(source, "modules_forge/forge_version.py")
    version = said.get("release") or said.get("version") or _changelog_version(source)
    if adapter == A1111:
        return "AUTOMATIC1111", version
    if said.get("version") == "neo":
        return "Forge Neo", version
    if adapter == FORGE:
        return "Forge", version
    return ("Forge Classic" if said.get("version") == "classic" else "reForge"), version


def _strings(source: Source, path: str) -> dict[str, str]:
    """The strings that a file gives names to."""
    try:
        module = source.file(path)
    except Unreadable:
        return {}
    found = {}
    for name, node in module.names.items() if module else ():
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found[name] = value.value
    return found


def _changelog_version(source: Source) -> str | None:
    """The first heading of the change log."""
    try:
        text = source.text("CHANGELOG.md") or ""
    except Unreadable:
        return None
    match = re.search(r"^#+\s*v?(\d[\w.+-]{0,40})", text, re.MULTILINE)
    return match.group(1) if match else None
