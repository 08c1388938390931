"""Globs and regular expressions that cannot hang.

Python's `re` backtracks: `(a+)+$` against a few dozen letters runs for years, and rules come from files that
people share. Here a pattern is read by `re`'s own parser and run as a nondeterministic automaton whose states are
all followed at once (K. Thompson, "Regular Expression Search Algorithm", CACM 11 (6), 1968): every character of
the subject is looked at once, at a cost of at most the number of states. What no automaton can do (references
back, looking ahead or behind) is refused with a sentence. Upper and lower case are always equal.

The tests hold it against `re` on random patterns, and run the classic patterns that make `re` hang.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from vae_manager.errors import BadInputError

MAX_PATTERN = 200
"""Characters of a pattern."""
MAX_SUBJECT = 512
"""Characters of a name, folder or metadata value that are looked at; the rest counts as not there."""
MAX_STATES = 2000
"""States of an automaton: counted repeats such as {500} are written out."""

_REMEMBERED = 4096
"""Transitions kept per pattern."""

_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

_REFUSED = {
    "GROUPREF": "a reference back to a group",
    "GROUPREF_EXISTS": "a condition on a group",
    "ASSERT": "a look ahead or behind",
    "ASSERT_NOT": "a look ahead or behind",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repeat",
}

Test = Callable[[str], bool]


class Pattern:
    """A compiled pattern. Shared freely: matching changes nothing but what it remembers."""

    def __init__(self, text: str, tree: Any, whole: bool) -> None:
        self.text = text
        """As the user wrote it."""
        self._whole = whole
        self._states: list[tuple[str, Any, tuple[int, ...]]] = []
        """(kind, argument, next states); kind is 'char', 'split', 'at' or 'end'."""
        self._start = self._build(tree, self._add("end", None))
        self._looks = any(kind == "at" for kind, _, _ in self._states)
        """Whether it asks for a place such as the start or a word's end."""
        self._closed: dict[Any, frozenset[int]] = {}
        self._moved: dict[Any, frozenset[int]] = {}

    def matches(self, subject: str) -> bool:
        """A glob must fit the whole subject, a regular expression some part of it."""
        subject = subject[:MAX_SUBJECT]
        active: frozenset[int] = frozenset()
        for position in range(len(subject) + 1):
            if position == 0 or not self._whole:
                active |= {self._start}
            closed = self._closure(active, _surroundings(subject, position) if self._looks else _NOWHERE)
            if 0 in closed and (not self._whole or position == len(subject)):
                return True
            if position < len(subject):
                active = self._move(closed, subject[position])
        return False

    # --- running

    def _closure(self, active: frozenset[int], around: tuple[bool, ...]) -> frozenset[int]:
        """All states that are reached without reading a character."""
        if (known := self._closed.get((active, around))) is not None:
            return known
        seen, waiting = set(active), list(active)
        while waiting:
            kind, argument, following = self._states[waiting.pop()]
            if kind == "split" or (kind == "at" and _holds(argument, around)):
                waiting += (state for state in following if state not in seen)
                seen.update(following)
        return _remember(self._closed, (active, around), frozenset(seen))

    def _move(self, closed: frozenset[int], char: str) -> frozenset[int]:
        if (known := self._moved.get((closed, char))) is not None:
            return known
        states = (self._states[state] for state in closed)
        moved = frozenset(following[0] for kind, test, following in states if kind == "char" and test(char))
        return _remember(self._moved, (closed, char), moved)

    # --- building: each function adds the states before `after` and returns the first of them

    def _add(self, kind: str, argument: Any, *following: int) -> int:
        if len(self._states) >= MAX_STATES:
            raise _Refused("it repeats too much; write fewer or smaller {counts}")
        self._states.append((kind, argument, following))
        return len(self._states) - 1

    def _build(self, tree: Iterable[tuple[Any, Any]], after: int) -> int:
        for op, value in reversed(list(tree)):
            after = self._one(op.name, value, after)
        return after

    def _one(self, op: str, value: Any, after: int) -> int:
        if op in _REFUSED:
            raise _Refused(f"it has {_REFUSED[op]}, which a rule's pattern cannot have")
        if op == "SUBPATTERN":
            _, add, remove, inner = value
            _check_flags(add | remove)
            return self._build(inner, after)
        if op == "BRANCH":
            return self._add("split", None, *[self._build(branch, after) for branch in value[1]])
        if op in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = value
            return self._repeat(least, most, inner, after)
        if op == "AT":
            return self._add("at", value.name, after)
        return self._add("char", _test(op, value), after)

    def _repeat(self, least: int, most: int, inner: Any, after: int) -> int:
        if most == _parser.MAXREPEAT:
            loop = self._add("split", None)
            self._states[loop] = ("split", None, (self._build(inner, loop), after))
            after = loop
        else:
            end = after
            for _ in range(most - least):
                after = self._add("split", None, self._build(inner, after), end)
        for _ in range(least):
            before, after = after, self._build(inner, after)
            if before == after:  # it holds nothing: `(){1000000000}` would count for minutes
                break
        return after


class _Refused(Exception):
    """Why a pattern is not taken, without a subject and full stop."""


def regex(text: str) -> Pattern:
    """A regular expression, searched for anywhere in the subject.

    Raises:
        BadInputError: it is none, or has something in it that cannot be had here. The text says "it …".
    """
    return _compile(text, text, whole=False)


def glob(text: str) -> Pattern:
    """A file name pattern that the whole subject must fit: `*`, `?`, `[abc]`, `[!abc]`, `[a-z]`.

    Raises:
        BadInputError: it is too long, or has an impossible range. The text says "it …".
    """
    return _compile(text, _glob_to_regex(text[: MAX_PATTERN + 1]), whole=True)


def _compile(text: str, expression: str, whole: bool) -> Pattern:
    if len(text) > MAX_PATTERN:
        raise BadInputError(f"it is {len(text)} characters long, and {MAX_PATTERN} is the most")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # re's thoughts about future syntax
            tree = _parser.parse(expression)
        _check_flags(tree.state.flags)
        return Pattern(text, tree, whole)
    except _Refused as error:
        raise BadInputError(str(error)) from error
    except (re.error, OverflowError, RecursionError, ValueError) as error:
        raise BadInputError(f"it is no valid pattern ({error})") from error


def _glob_to_regex(text: str) -> str:
    parts = re.findall(r"\[!?\]?[^\]]*\]|.", text, re.DOTALL)
    return "".join(_glob_part(part) for part in parts)


def _glob_part(part: str) -> str:
    if part == "*":
        return r"[\s\S]*"
    if part == "?":
        return r"[\s\S]"
    if len(part) == 1:
        return re.escape(part)
    negated, inner = ("^", part[2:-1]) if part[1] == "!" else ("", part[1:-1])
    return f"[{negated}{re.sub(r'([^A-Za-z0-9-])', _escaped, inner)}]" if inner else re.escape(part)


def _escaped(match: re.Match[str]) -> str:
    return "\\" + match[0] if match[0].isascii() else match[0]


def _check_flags(flags: int) -> None:
    if flags & ~(re.IGNORECASE | re.UNICODE):
        raise _Refused("it sets a flag; leave it out (upper and lower case are equal anyway)")


# --- single characters


def _test(op: str, value: Any) -> Test:
    if op == "ANY":
        return lambda char: char != "\n"
    if op in ("LITERAL", "NOT_LITERAL"):
        return _either_case(lambda char: ord(char) == value, negated=op == "NOT_LITERAL")
    if op == "IN":
        negated = bool(value) and value[0][0].name == "NEGATE"
        tests = [_item(item.name, argument) for item, argument in value if item.name != "NEGATE"]
        return _either_case(lambda char: any(test(char) for test in tests), negated)
    raise _Refused(f"it has something that is not understood here ({op.lower()})")


def _either_case(test: Test, negated: bool) -> Test:
    def either(char: str) -> bool:
        forms = {char, char.lower(), char.upper()}
        return negated != any(test(form) for form in forms if len(form) == 1)

    return either


def _item(op: str, value: Any) -> Test:
    if op == "LITERAL":
        return lambda char: ord(char) == value
    if op == "RANGE":
        return lambda char: value[0] <= ord(char) <= value[1]
    category = value.name.removeprefix("CATEGORY_")
    negated = category.startswith("NOT_")
    test = {"DIGIT": str.isdecimal, "SPACE": str.isspace, "WORD": _is_word}[category.removeprefix("NOT_")]
    return lambda char: negated != test(char)


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


# --- places between characters


def _surroundings(subject: str, position: int) -> tuple[bool, ...]:
    """(at the start, at the end, before a last line break, between a word and something else)."""
    before = position > 0 and _is_word(subject[position - 1])
    behind = position < len(subject) and _is_word(subject[position])
    last_break = position == len(subject) - 1 and subject[position] == "\n"
    return position == 0, position == len(subject), last_break, before != behind


_NOWHERE = (False, False, False, False)


def _holds(place: str, around: tuple[bool, ...]) -> bool:
    start, end, last_break, boundary = around
    return {
        "AT_BEGINNING": start,
        "AT_BEGINNING_STRING": start,
        "AT_END": end or last_break,
        "AT_END_STRING": end,
        "AT_BOUNDARY": boundary,
        "AT_NON_BOUNDARY": not boundary,
    }[place]


def _remember(table: dict[Any, frozenset[int]], key: Any, states: frozenset[int]) -> frozenset[int]:
    if len(table) >= _REMEMBERED:
        table.clear()
    table[key] = states
    return states
