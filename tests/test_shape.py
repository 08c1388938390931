"""The shape of the package: short files, imports that go one way, and things that are said in one place only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vae_manager.codec.kinds.registry import KINDS
from vae_manager.selection.settings import TABLE

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vae_manager"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

LINES, LINES_WEBUI = 400, 300

ORDER = (
    *("errors", "downloads", "json_text", "user_data", "writing", "storage", "store"),
    *("latents", "codec", "library", "selection", "color", "hostcheck"),
)
"""Who may be imported: what stands before oneself. The commands and the WebUI stand on all, never on one another."""

TOP = ("commands", "webui", "page", "comfy", "diffusers")

HOSTS = {"modules", "modules_forge", "backend", "ldm_patched", "ldm", "sgm"}
"""Packages of the WebUIs."""

KIND_NAMES = {kind.name for kind in KINDS} | {kind.family for kind in KINDS if kind.family} | {"tiny", "causal"}

SETTING_NAMES = {one.name for one in TABLE.values() if "_" in one.name or one.mode == "manual"}
"""Those that are no everyday words, as "vae", "decode" and "color" are, which are other things' names too."""

COMFY = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "nodes", "server"}
"""Packages of ComfyUI."""


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def strings(node: ast.AST) -> set[str]:
    """The strings in an expression, whatever holds them."""
    constants = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


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
        if module.startswith("vae_manager."):
            assert room(module) in allowed, f"{own} must not import {module}"


@pytest.mark.parametrize("path", [path for path in FILES if not name(path).startswith("webui/")], ids=name)
def test_only_the_webui_room_knows_the_webuis(path: Path):
    assert not {module.split(".")[0] for module in imported(path)} & HOSTS


def last(node: ast.AST) -> str:
    """The end of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def read_of(path: Path, objects: set[str]) -> list[int]:
    """The lines of a file that read something of these variables or fields, by a dot, or by `getattr` and its like."""
    found = []
    for node in nodes(path):
        by_function = isinstance(node, ast.Call) and last(node.func) in ("getattr", "setattr", "hasattr", "vars")
        owner = node.value if isinstance(node, ast.Attribute) else node.args[0] if by_function and node.args else None
        if owner is not None and last(owner) in objects:
            found.append(node.lineno)
    return found


OBJECTS = {"p", "_p", "processed", "_processed"}


@pytest.mark.parametrize("path", [*(PACKAGE / "webui").glob("*.py"), *SCRIPTS], ids=lambda path: path.name)
def test_only_the_hosts_room_reads_the_processing_object_and_its_answer(path: Path):
    assert not read_of(path, OBJECTS)


def test_the_hosts_room_does_read_it():
    assert read_of(PACKAGE / "webui" / "hosts" / "picture_job.py", OBJECTS)
    assert read_of(PACKAGE / "webui" / "hosts" / "processed.py", OBJECTS)


@pytest.mark.parametrize("path", [path for path in FILES if not name(path).startswith("codec/kinds/")], ids=name)
def test_a_kind_is_told_from_others_in_its_own_room_only(path: Path):
    for node in nodes(path):
        told = isinstance(node, (ast.Compare, ast.MatchValue)) or (
            isinstance(node, ast.Subscript) and last(node.value) == "BY_NAME"
        )
        asked = node.slice if isinstance(node, ast.Subscript) else node
        assert not (told and strings(asked) & KIND_NAMES), f"{name(path)}:{ast.unparse(node)}"


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_settings_name_is_written_in_the_table_only(path: Path):
    if path == PACKAGE / "selection" / "settings.py":
        return
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in SETTING_NAMES, f"{path.name}:{node.lineno} names {node.value}"


@pytest.mark.parametrize("path", [path for path in FILES if not name(path).startswith("comfy/")], ids=name)
def test_only_the_comfy_room_knows_comfyui(path: Path):
    assert not {module.split(".")[0] for module in imported(path)} & COMFY


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_needs_the_library_diffusers(path: Path):
    """`vae_manager.diffusers` works on what it is given; the library's own name must never mean ours."""
    assert "diffusers" not in {module.split(".")[0] for module in imported(path)}
