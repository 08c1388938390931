"""A WebUI's Python source as syntax trees, and the way from a dotted name to where it is defined."""

from __future__ import annotations

import ast
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

MAX_BYTES = 2 << 20
"""Larger than any file of a WebUI by far (the largest has 100 kB)."""

MAX_LINKS = 20_000
"""Dots, operators and brackets in one file, more than twice what any has. Python 3.10 overflows its stack on a chain
of some 50,000."""

MAX_STEPS, MAX_NAMES = 20, 500
"""Imports, aliases and base classes are followed this deep, and for one question to so many names: a source may
run in circles."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Unreadable(Exception):
    """A source file is there but cannot be read; the text is a sentence without its full stop."""


@dataclass(frozen=True)
class Found:
    """Where a name is defined. `node` is None for what comes from outside the source, a library for one."""

    file: str
    line: int
    node: ast.AST | None
    source: Module | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Source:
    """The files below one folder, read when they are asked for."""

    def __init__(self, root: Path, shown: str = "") -> None:
        """`shown` is what file names begin with where `root` is not the WebUI's own folder."""
        self.root, self.shown = root, shown
        self._modules: dict[str, Module | Unreadable | None] = {}
        self._names_left = 0

    def file(self, path: str) -> Module | None:
        """The tree of one file, or None where there is no such file.

        Raises:
            Unreadable: it is too large, or no Python.
        """
        if path not in self._modules:
            try:
                self._modules[path] = self._read(path)
            except Unreadable as error:
                self._modules[path] = error
        module = self._modules[path]
        if isinstance(module, Unreadable):
            raise module
        return module

    def module(self, name: str) -> Module | None:
        """The tree of a module or package by its dotted name."""
        path = name.replace(".", "/")
        return self.file(f"{path}.py") or self.file(f"{path}/__init__.py")

    def is_module(self, name: str) -> bool:
        """Whether importing this name would find something here; a folder without `__init__.py` counts."""
        path = self.root / name.replace(".", "/")
        return os.path.isdir(path) or os.path.isfile(f"{path}.py")

    def find(self, name: str) -> Found | None:
        """Where a dotted name leads: a module, what it defines or imports, members of classes and instances."""
        self._names_left = MAX_NAMES
        return self._find(name, MAX_STEPS)

    def python_files(self, folders: Iterable[str]) -> Iterator[str]:
        """The Python files below some folders, of the first thousand in each; links to folders are not followed."""
        for folder in folders:
            for parent, _, names in islice(os.walk(self.root / folder), 1000):
                for name in sorted(names):
                    if name.endswith(".py"):
                        yield Path(parent, name).relative_to(self.root).as_posix()

    def text(self, path: str) -> str | None:
        """A file's text, or None where there is none.

        Raises:
            Unreadable: see `file`.
        """
        try:
            if not os.path.isfile(self.root / path):  # also what is no regular file, which might never end
                return None
            with open(self.root / path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise Unreadable(f"{self.shown}{path} cannot be read ({error.strerror or error})") from error
        if len(data) > MAX_BYTES:
            raise Unreadable(f"{self.shown}{path} is larger than {MAX_BYTES >> 20} MB and was not read")
        return data.decode("utf-8-sig", "replace")

    def _read(self, path: str) -> Module | None:
        text = self.text(path)
        if text is None:
            return None
        if len(re.findall(r"[.+\-*/%|&^@<>(\[]", text)) > MAX_LINKS:
            raise Unreadable(f"{self.shown}{path} is no ordinary source file and was not parsed")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "\d" in somebody else's strings
                tree = ast.parse(text)
        except SyntaxError as error:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            where = f"line {error.lineno}: {error.msg}"
            raise Unreadable(f"{self.shown}{path} is not valid Python for {version} ({where})") from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise Unreadable(f"{self.shown}{path} is not valid Python ({str(error) or 'nested too deeply'})") from error
        package = path.endswith("__init__.py")
        name = path.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        return Module(self.shown + path, name, package, tree)

    def _find(self, name: str, steps: int) -> Found | None:
        parts = name.split(".")
        for count in range(len(parts), 0, -1):
            module = self.module(".".join(parts[:count]))
            if module is not None:
                found: Found | None = Found(module.path, 1, module.tree, module)
                for part in parts[count:]:
                    found = self._member(found, part, steps) if found else None
                return found
        return None

    def _member(self, found: Found, name: str, steps: int) -> Found | None:
        """What `found.name` would be."""
        module, node = found.source, found.node
        if steps <= 0:
            return None
        if module is None or node is None:
            return Found(found.file, found.line, None)  # from outside: nothing can be said against it
        if isinstance(node, ast.Module):
            return self._global(module, name, steps)
        if isinstance(node, ast.ClassDef):
            return self._class_member(module, node, name, steps)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for expression in (getattr(node, "annotation", None), node.value):
                type_ = expression.func if isinstance(expression, ast.Call) else expression
                target = self._expression(module, type_, steps - 1)
                if target is not None:
                    return self._member(target, name, steps - 1)
        return None

    def _global(self, module: Module, name: str, steps: int) -> Found | None:
        self._names_left -= 1
        if self._names_left < 0:
            return None
        if name in module.names:
            node = module.names[name]
            value = getattr(node, "value", None)
            if isinstance(node, ast.Assign) and isinstance(value, ast.Attribute | ast.Name):
                alias = self._expression(module, value, steps - 1)
                if alias is not None and alias.node is not None:
                    return alias
            return Found(module.path, node.lineno, node, module)
        if name in module.imports:
            target, line = module.imports[name]
            return self._imported(module, target, line, steps)
        for target, line in module.stars.items():
            if self._names_left < 0:
                return None
            if self.is_module(target) and (found := self._imported(module, f"{target}.{name}", line, steps)):
                return found
        return None

    def _imported(self, module: Module, target: str, line: int, steps: int) -> Found | None:
        if not self.is_module(target.partition(".")[0]):
            return Found(module.path, line, None)
        return self._find(target, steps - 1) if steps > 0 else None

    def _class_member(self, module: Module, node: ast.ClassDef, name: str, steps: int) -> Found | None:
        for member in _definitions(node.body):
            if name in _defined(member):
                return Found(module.path, member.lineno, member, module)
        for method in node.body:
            if not isinstance(method, Function):
                continue
            for part in ast.walk(method):
                for target in _targets(part):
                    if isinstance(target, ast.Attribute) and target.attr == name and _is_self(method, target.value):
                        return Found(module.path, target.lineno, part, module)
        for base in node.bases:
            target = self._expression(module, base, steps - 1)
            if target is not None and target.node is not None and target.node is not node:
                found = self._member(target, name, steps - 1)
                if found is not None:
                    return found
        return None

    def _expression(self, module: Module, node: ast.AST | None, steps: int) -> Found | None:
        """What a name or a chain of attributes in this module refers to."""
        name = dotted(node)
        if name is None or steps <= 0:
            return None
        first, *rest = name.split(".")
        found = self._global(module, first, steps)
        for part in rest:
            found = self._member(found, part, steps) if found else None
        return found


class Module:
    """One file's tree, and what it defines at its top level."""

    def __init__(self, path: str, name: str, package: bool, tree: ast.Module) -> None:
        self.path, self.tree = path, tree
        self._package = name if package else name.rpartition(".")[0]

    @cached_property
    def names(self) -> dict[str, ast.stmt]:
        """Functions, classes and variables."""
        return {name: node for node in _definitions(self.tree.body) for name in _defined(node)}

    @cached_property
    def imports(self) -> dict[str, tuple[str, int]]:
        """Names that come from elsewhere: their dotted name there, and the line."""
        found = {}
        for node in _definitions(self.tree.body):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    found[alias.asname or first] = (alias.name if alias.asname else first, node.lineno)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[alias.asname or alias.name] = (f"{self.origin(node)}.{alias.name}", node.lineno)
        return found

    @cached_property
    def stars(self) -> dict[str, int]:
        """Modules of which everything is imported, and the line."""
        return {
            self.origin(node): node.lineno
            for node in _definitions(self.tree.body)
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
        }

    def origin(self, node: ast.ImportFrom) -> str:
        """The absolute name of the module that a `from … import` reads."""
        package = self._package.split(".")
        above = package[: len(package) + 1 - node.level] if node.level else []
        return ".".join([*above, *([node.module] if node.module else [])])


def dotted(node: ast.AST | None) -> str | None:
    """`a.b.c` of a name, a chain of attributes, or a string annotation; None for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        return ".".join([node.id, *reversed(parts)])
    text = node.value if isinstance(node, ast.Constant) and not parts else None
    return text if isinstance(text, str) and text.replace(".", "a").isidentifier() else None


def _definitions(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body and of the branches in it, but not those inside functions and classes."""
    left = [*reversed([*body])]
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, Function | ast.ClassDef):
            inside = [part for field in ("body", "orelse", "finalbody") for part in getattr(node, field, ())]
            inside += [part for handler in getattr(node, "handlers", ()) for part in handler.body]
            left += reversed(inside)


def _defined(node: ast.AST) -> list[str]:
    """The names that a statement defines."""
    if isinstance(node, Function | ast.ClassDef):
        return [node.name]
    return [target.id for target in _targets(node) if isinstance(target, ast.Name)]


def _targets(node: ast.AST) -> list[ast.expr]:
    """What a statement assigns to."""
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    else:
        return []
    return [
        part for target in targets for part in (target.elts if isinstance(target, ast.Tuple | ast.List) else [target])
    ]


def _is_self(method: Function, node: ast.AST) -> bool:
    first = [*method.args.posonlyargs, *method.args.args][:1]
    return isinstance(node, ast.Name) and bool(first) and node.id == first[0].arg
