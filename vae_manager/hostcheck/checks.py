"""The questions that can be asked of a WebUI's source. Each is one frozen dataclass with `look`."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from vae_manager.hostcheck.source import Found, Function, Module, Source, Unreadable, dotted


@dataclass(frozen=True)
class Answer:
    """`found` is where it is; without it, `reason` is what is the matter, as a sentence without its full stop."""

    found: str | None = None
    reason: str = ""
    unknown: bool = False
    """Neither there nor missing: it cannot be told from this folder."""


Shape = tuple[int, tuple[str, ...]]
"""How we call something: so many positional arguments and these keywords."""


class Check(Protocol):
    """A question; `str()` of it names what must be there.

    `look` raises `source.Unreadable` for a file that cannot be read.
    """

    def look(self, source: Source) -> Answer: ...


@dataclass(frozen=True)
class Symbol:
    """A dotted name: a module, function, class, variable, or a member of a class or instance."""

    name: str
    calls: tuple[Shape, ...] = ()
    """The ways that we call it."""
    members: tuple[str, ...] = ()
    """What a class must have besides."""
    below: str = ""
    """The folder whose modules are meant, if not the WebUI's own. It may be fetched only when the WebUI starts."""

    def __str__(self) -> str:
        call = " or ".join(f"({_shape(*call)})" for call in self.calls)
        members = f" with {', '.join(self.members)}" if self.members else ""
        return f"{self.name}{call}{members}"

    def look(self, source: Source) -> Answer:
        if self.below:
            if not os.path.isdir(source.root / self.below):
                return Answer(reason=f"{self.below} is not there; a WebUI fetches it at its first start", unknown=True)
            source = Source(source.root / self.below, f"{self.below}/")
        found = source.find(self.name)
        if found is None:
            return Answer(reason=f"{self.name} is not there")
        for member in self.members:
            if source.find(f"{self.name}.{member}") is None:
                return Answer(reason=f"{self.name} ({found}) has no {member}")
        refused = next((call for call in self.calls if not _accepts(source, self.name, found, *call)), None)
        if refused is not None:
            return Answer(reason=f"{self.name} ({found}) does not take ({_shape(*refused)})")
        return Answer(str(found))


@dataclass(frozen=True)
class Member:
    """What an object has, which may be of one of these classes."""

    classes: tuple[str, ...]
    name: str
    calls: tuple[Shape, ...] = ()

    def __str__(self) -> str:
        return str(Symbol(f"{self.classes[0]}.{self.name}", self.calls))

    def look(self, source: Source) -> Answer:
        owner = next((one for one in self.classes if source.find(f"{one}.{self.name}")), self.classes[0])
        return Symbol(f"{owner}.{self.name}", self.calls).look(source)


@dataclass(frozen=True)
class Text:
    """A string that the WebUI must use in one of these files: an option's, an argument's, an infotext's name."""

    any_of: tuple[str, ...]
    files: tuple[str, ...]
    keyword: str | None = None
    """Only as the value of this keyword argument."""

    def __str__(self) -> str:
        names = " or ".join(self.any_of)
        return f"{self.keyword}={names!r}" if self.keyword else f"the name {names}"

    def look(self, source: Source) -> Answer:
        for module, node in _nodes(source, self.files):
            if isinstance(node, ast.keyword):
                text = _string(node.value) if node.arg == self.keyword else None if self.keyword else node.arg
            else:
                text = None if self.keyword else _string(node)
            if text in self.any_of and isinstance(node, ast.keyword | ast.expr):
                return Answer(f"{module.path}:{node.lineno}")
        return Answer(reason=f"{self} is not in {' or '.join(self.files)}")


@dataclass(frozen=True)
class Attribute:
    """An attribute that the WebUI itself reads in one of these files, on whatever object."""

    name: str
    files: tuple[str, ...]
    function: str | None = None
    """Only inside this function."""
    assigned: bool = False
    """It must be set, not only read."""

    def __str__(self) -> str:
        return (
            f"the attribute {self.name}{' being set' if self.assigned else ''}"
            f"{f' in {self.function}()' if self.function else ''}"
        )

    def look(self, source: Source) -> Answer:
        for module, node in _nodes(source, self.files, self.function):
            if not isinstance(node, ast.Attribute) or node.attr != self.name:
                continue
            if isinstance(node.ctx, ast.Store) or not self.assigned:
                return Answer(f"{module.path}:{node.lineno}")
        return Answer(reason=f"{self} is not in {' or '.join(self.files)}")


@dataclass(frozen=True)
class Calls:
    """A function that makes these calls in this order. A call is told by the end of its name."""

    function: str
    order: tuple[str, ...]
    last_of: str = ""
    """No call on this object may come after the last of them."""

    def __str__(self) -> str:
        return f"{self.function}() calling {' then '.join(self.order)}"

    def look(self, source: Source) -> Answer:
        found = source.find(self.function)
        if found is None or not isinstance(found.node, Function):
            return Answer(reason=f"{self.function}() is not there")
        calls = sorted(
            (node.lineno, node.col_offset, f".{name}")
            for node in ast.walk(found.node)
            if isinstance(node, ast.Call) and (name := dotted(node.func))
        )
        places = []
        for wanted in self.order:
            place = next((place for place in calls if place[2].endswith(f".{wanted}")), None)
            if place is None:
                return Answer(reason=f"{self.function}() ({found}) does not call {wanted}()")
            places.append(place)
        for index in range(1, len(places)):
            if places[index] < places[index - 1]:
                late, early = self.order[index - 1], self.order[index]
                return Answer(reason=f"{self.function}() ({found}) calls {early}() before {late}()")
        if self.last_of:
            after = [name for line, column, name in calls if (line, column) > places[-1][:2]]
            late_call = next((name for name in after if f".{self.last_of}." in name), None)
            if late_call:
                return Answer(reason=f"{self.function}() ({found}) calls {late_call[1:]}() after {self.order[-1]}()")
        return Answer(f"{found.file}:{places[0][0]}")


@dataclass(frozen=True)
class Hook:
    """A method of ours that the WebUI calls: named in its `Script`, called by its `ScriptRunner`, for each job."""

    name: str
    keywords: bool = False
    """Whether it is handed keyword arguments too."""

    def __str__(self) -> str:
        return f"the script hook {self.name}(p, *args{', **kwargs' if self.keywords else ''})"

    def look(self, source: Source) -> Answer:
        found = source.find(f"modules.scripts.Script.{self.name}")
        runner = source.find(f"modules.scripts.ScriptRunner.{self.name}")
        if found is None:
            return Answer(reason=f"modules.scripts.Script.{self.name} is not there")
        if runner is None or not _called(runner.node, f"script.{self.name}"):
            return Answer(reason=f"modules.scripts.ScriptRunner does not call the scripts' {self.name}()")
        processing = source.module("modules.processing")
        if processing is None or not _called(processing.tree, f"scripts.{self.name}"):
            return Answer(reason=f"modules/processing.py never calls scripts.{self.name}()")
        return Answer(str(found))


@dataclass(frozen=True)
class Closing:
    """A file that runs its jobs inside `with closing(…)`."""

    file: str

    def __str__(self) -> str:
        return f"`with closing(…)` around the job in {self.file}"

    def look(self, source: Source) -> Answer:
        for module, node in _nodes(source, (self.file,)):
            if isinstance(node, ast.withitem) and isinstance(node.context_expr, ast.Call):
                name = dotted(node.context_expr.func)
                if name and name.split(".")[-1] == "closing":
                    return Answer(f"{module.path}:{node.context_expr.lineno}")
        return Answer(reason=f"{self} is not there")


@dataclass(frozen=True)
class ThroughModule:
    """Functions that nobody imports by name: a function we wrap in its module would be passed by."""

    module: str
    functions: tuple[str, ...]
    folders: tuple[str, ...] = ("modules", "modules_forge", "scripts")

    def __str__(self) -> str:
        return f"{', '.join(self.functions)} called through {self.module}, nowhere imported by name"

    def look(self, source: Source) -> Answer:
        unread = []
        for path in source.python_files(self.folders):
            try:
                # most files need not be parsed
                if self.module.rpartition(".")[2] not in (source.text(path) or ""):
                    continue
                module = source.file(path)
            except Unreadable as error:
                unread.append(str(error))
                continue
            for node in ast.walk(module.tree) if module else ():
                if isinstance(node, ast.ImportFrom) and module and module.origin(node) == self.module:
                    for alias in node.names:
                        if alias.name in self.functions:
                            return Answer(reason=f"{path}:{node.lineno} imports {self.module}.{alias.name} by name")
        if unread:
            return Answer(reason="; ".join(unread), unknown=True)
        return Answer(self.module)


def _nodes(source: Source, files: tuple[str, ...], function: str | None = None) -> Iterator[tuple[Module, ast.AST]]:
    """The nodes of those files that there are."""
    for path in files:
        module = source.file(path)
        if module is not None:
            node = module.names.get(function) if function else module.tree
            for part in ast.walk(node) if node else ():
                yield module, part


def _string(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _called(node: ast.AST | None, end: str) -> bool:
    return node is not None and any(
        isinstance(part, ast.Call) and f".{dotted(part.func)}".endswith(f".{end}") for part in ast.walk(node)
    )


def _accepts(source: Source, name: str, found: Found, positional: int, keywords: tuple[str, ...]) -> bool:
    """Whether what is there can be called this way, as far as its definition says."""
    node, bound = found.node, False
    if isinstance(node, ast.ClassDef):
        init = source.find(f"{name}.__init__")
        node, bound = (init.node if init else None), True
    elif isinstance(node, Function):
        parent = source.find(name.rpartition(".")[0])
        bound = parent is not None and isinstance(parent.node, ast.ClassDef) and not _is_static(node)
    if not isinstance(node, Function):
        return node is None or not isinstance(node, ast.Module)
    arguments = node.args
    names = [a.arg for a in [*arguments.posonlyargs, *arguments.args]][1 if bound else 0 :]
    only_positional = {a.arg for a in arguments.posonlyargs}
    required = names[: len(names) - len(arguments.defaults)] if arguments.defaults else names
    given = {*names[:positional], *keywords}
    if positional > len(names) and arguments.vararg is None:
        return False
    by_keyword = {*names[positional:], *(a.arg for a in arguments.kwonlyargs)} - only_positional
    if arguments.kwarg is None and not set(keywords) <= by_keyword:
        return False
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {*required, *(a.arg for a, default in pairs if default is None)} <= given


def _is_static(node: Function) -> bool:
    return any(dotted(decorator) == "staticmethod" for decorator in node.decorator_list)


def _shape(positional: int, keywords: tuple[str, ...]) -> str:
    given = f"{positional} argument{'' if positional == 1 else 's'}" if positional or not keywords else ""
    return ", ".join(filter(None, [given, *(f"{keyword}=" for keyword in keywords)]))
