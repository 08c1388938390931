"""What our own adapters use of a WebUI, read from their syntax trees. Nothing of them is imported or run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vae_manager.hostcheck.checks import Shape
from vae_manager.hostcheck.source import Function, dotted

A1111, REFORGE, FORGE = "a1111", "reforge", "forge"
"""The three adapters, by their files' names. reForge's is Classic's too, Forge's is Neo's."""

ADAPTERS: tuple[str, ...] = (A1111, REFORGE, FORGE)

PACKAGES = ("modules", "modules_forge", "backend", "ldm_patched", "ldm", "sgm")
"""The WebUIs' own packages."""

OBJECTS = {
    "p": "p",
    "self._p": "p",
    "processed": "processed",
    "self._processed": "processed",
    "model": "model",
    "shared": "modules.shared",
}
"""What these names mean wherever they stand in our adapters."""

READERS = {"getattr", "hasattr", "setattr", "around", "_Around"}
"""Functions that take an object and the name of something that it has."""

BUILT_IN = {"append", "copy", "get", "items", "keys", "pop", "update"}
"""What lists and dicts have: nothing that a WebUI could lack."""


@dataclass(frozen=True)
class Use:
    """One thing of a WebUI's that a file of ours names."""

    name: str
    """Dotted; it begins with one of `PACKAGES` or with an object: `p`, `processed`, `model`."""
    file: str
    """Ours, below the package or the extension."""
    hosts: tuple[str, ...] = ADAPTERS
    """The adapters that go there."""
    call: Shape | None = None
    """How it is called, where it is."""
    is_hook: bool = False
    """A method of ours that the WebUI calls for each job; `keywords` then says whether it takes any."""
    keywords: bool = False


def our_files() -> dict[str, Path]:
    """Our files that may use a WebUI's, by the names that are shown. A package without the extension has no scripts."""
    package = Path(__file__).parents[1]
    found = {path.relative_to(package).as_posix(): path for path in sorted((package / "webui").rglob("*.py"))}
    return found | {
        f"scripts/{path.name}": path for path in sorted((package.parent / "scripts").glob("vae_manager*.py"))
    }


def our_uses() -> list[Use]:
    """Everything of the WebUIs' that our files use, each name as often as it stands there."""
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in our_files().items()}
    overridden = {adapter: _own_methods(trees[_adapter_file(adapter)]) for adapter in ADAPTERS}
    return [use for name, tree in trees.items() for use in uses_in(tree, name, overridden)]


def uses_in(tree: ast.Module, file: str, overridden: Mapping[str, Iterable[str]]) -> Iterator[Use]:
    """What one file uses. `overridden`: the methods of `Host` that each adapter has of its own, calling no other."""
    imported = dict(_imports(tree))
    outside = _Reader(imported, (node for node in tree.body if not isinstance(node, Function | ast.ClassDef)))
    yield from (Use(name, file, _adapters(file, "", overridden)) for name in imported.values())
    for node in tree.body:
        for part in node.body if isinstance(node, ast.ClassDef) else [node]:
            reader = _Reader(imported, [part], outside)
            method = part.name if isinstance(node, ast.ClassDef) and isinstance(part, Function) else ""
            hosts = _adapters(file, method, overridden)
            yield from (Use(name, file, hosts, call) for name, call in reader.found(part))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for owner in {name for base in node.bases for name in outside.names(base)}:
                yield from (Use(owner, file), *_members(node, owner, file))


def _adapter_file(adapter: str) -> str:
    return f"webui/hosts/{adapter}.py"


def _adapters(file: str, method: str, overridden: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """The adapters that run this method of this file."""
    of_one = tuple(adapter for adapter in ADAPTERS if file == _adapter_file(adapter))
    if of_one or file != "webui/hosts/base.py":
        return of_one or ADAPTERS
    return tuple(adapter for adapter in ADAPTERS if method not in overridden[adapter])


def _own_methods(tree: ast.Module) -> set[str]:
    """The methods of an adapter's class that do not call what they override."""
    methods = {
        part.name: part for node in tree.body if isinstance(node, ast.ClassDef) for part in node.body
        if isinstance(part, Function)
    }  # fmt: skip
    inherited = {
        node.attr for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call) and dotted(node.value.func) == "super"
    }  # fmt: skip
    return methods.keys() - inherited


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The WebUIs' modules and names that a file imports, wherever in it: our name and theirs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES:
                    yield alias.asname or alias.name, alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _members(node: ast.ClassDef, owner: str, file: str) -> Iterator[Use]:
    """What a class of ours has, or calls, because the WebUI's class that it derives from has it."""
    for part in node.body:
        if isinstance(part, Function) and not part.name.startswith("_"):
            is_hook = owner == "modules.scripts.Script" and [a.arg for a in part.args.args][1:2] == ["p"]
            yield Use(f"{owner}.{part.name}", file, is_hook=is_hook, keywords=part.args.kwarg is not None)
        elif isinstance(part, ast.Assign):
            yield from (Use(f"{owner}.{target.id}", file) for target in part.targets if isinstance(target, ast.Name))
    for part in ast.walk(node):
        call = _shape(part) if isinstance(part, ast.Call) else None
        named = part.func if isinstance(part, ast.Call) else part
        if isinstance(named, ast.Attribute) and not named.attr.startswith("_") and _is_own(named.value):
            yield Use(f"{owner}.{named.attr}", file, call=call)


def _is_own(node: ast.AST) -> bool:
    """`self` or `super()`."""
    return dotted(node.func if isinstance(node, ast.Call) else node) in ("self", "super")


class _Reader:
    """Follows the names of one function: what was imported, loops over constants, variables."""

    def __init__(self, imported: Mapping[str, str], scope: Iterable[ast.AST], outside: _Reader | None = None) -> None:
        self.imported, self.outside = imported, outside
        self.strings: dict[str, set[str]] = {}
        """Loop variables that go over strings."""
        self.variables: dict[str, ast.expr] = {}
        for part in scope:
            for node in ast.walk(part):
                self._learn(node)

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple | ast.List):
            targets = node.target.elts if isinstance(node.target, ast.Tuple) else [node.target]
            for item in node.iter.elts:
                values = item.elts if isinstance(item, ast.Tuple) else [item]
                for target, value in zip(targets, values, strict=False):
                    if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
                        self.strings.setdefault(target.id, set()).add(str(value.value))
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self.variables.setdefault(node.targets[0].id, node.value)

    def found(self, root: ast.AST) -> Iterator[tuple[str, Shape | None]]:
        """Every name of the WebUI's in this part, with the way it is called."""
        for node in ast.walk(root):
            if isinstance(node, ast.Attribute):
                yield from ((name, None) for name in self.names(node))
            elif isinstance(node, ast.Call):
                yield from ((name, None) for name in self.names(node))
                yield from ((name, _shape(node)) for name in self.names(node.func))
            elif isinstance(node, ast.Tuple) and len(node.elts) == 2:  # (module, "function") in a list of guards
                module, function = node.elts
                if isinstance(function, ast.Constant):
                    names = self.names(module)
                    yield from ((f"{name}.{function.value}", None) for name in names if name.startswith(PACKAGES))

    def names(self, node: ast.AST | None, steps: int = 8) -> set[str]:
        """What an expression refers to, if it is something of the WebUI's."""
        whole = dotted(node) or ""
        if whole in OBJECTS or whole in self.imported:
            return {self.imported.get(whole) or OBJECTS[whole]}
        if steps == 0:
            return set()
        if isinstance(node, ast.Name):
            if node.id not in self.variables:
                return self.outside.names(node, steps - 1) if self.outside else set()
            return self.names(self.variables[node.id], steps - 1)
        if isinstance(node, ast.Attribute):
            if node.attr in BUILT_IN:
                return set()
            return {f"{name}.{node.attr}" for name in self.names(node.value, steps - 1)}
        if isinstance(node, ast.Call) and dotted(node.func) in READERS:
            owners, names = self.names(node.args[0], steps - 1), self._constants(node.args[1])
            if not names and dotted(node.func) == "around":
                names = {"?"}  # whatever it is, no row will answer it
            return {f"{owner}.{name}" for owner in owners for name in names} or owners
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            owners, names = self.names(node.func.value, steps - 1), self._constants(node.args[0])
            return {f"{owner}.{name}" for owner in owners for name in names} or owners
        return set()

    def _constants(self, node: ast.AST) -> set[str]:
        if isinstance(node, ast.Constant):
            return {str(node.value)}
        return self.strings.get(node.id, set()) if isinstance(node, ast.Name) else set()


def _shape(node: ast.Call) -> Shape | None:
    """How a call looks, where no argument is unpacked."""
    keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg is not None)
    unpacked = len(keywords) < len(node.keywords) or any(isinstance(part, ast.Starred) for part in node.args)
    return None if unpacked else (len(node.args), keywords)
