"""The shape of the package: short files, and imports that go one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vae_manager"
FILES = sorted(PACKAGE.rglob("*.py"))

LINES, LINES_WEBUI = 400, 300

ORDER = (
    *("errors", "json_text", "user_data", "writing", "storage", "store"),
    *("latents", "codec", "library", "selection", "color", "hostcheck"),
)
"""Who may be imported: what stands before oneself. The commands and the WebUI stand on all, never on one another."""

TOP = ("commands", "webui", "page", "comfy", "diffusers")

STILL_BACK = {("codec/latents.py", "library")}
"""Imports that go back, to be turned."""

HOSTS = {"modules", "modules_forge", "backend", "ldm_patched", "ldm", "sgm"}
"""Packages of the WebUIs."""


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports by dots"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_is_long(path: Path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    limit = LINES_WEBUI if name(path).startswith("webui/") else LINES
    assert lines <= limit


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_go_one_way(path: Path):
    own = name(path).split("/")[0].removesuffix(".py")
    below = set(ORDER[: ORDER.index(own)] if own in ORDER else ORDER) | {own, "__version__"}
    allowed = below | ({*TOP, "cli"} if own in ("cli", "__main__", "__init__") else set())
    for module in imported(path):
        if module.startswith("vae_manager.") and (name(path), room(module)) not in STILL_BACK:
            assert room(module) in allowed, f"{own} must not import {module}"


@pytest.mark.parametrize("path", [path for path in FILES if not name(path).startswith("webui/")], ids=name)
def test_only_the_webui_room_knows_the_webuis(path: Path):
    assert not {module.split(".")[0] for module in imported(path)} & HOSTS
