"""Globs and regular expressions that cannot hang.

Rules come from files that people share, and a pattern can be such that a backtracking search runs for years. Globs are
`fnmatch`'s; expressions are run by the `regex` library, which stops after `TIMEOUT`: such a pattern then is told as a
fault of its rule and matches nothing from there on. Upper and lower case are always equal.
"""

from __future__ import annotations

import fnmatch
import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

from vae_manager.errors import BadInputError

log = logging.getLogger("vae_manager")

MAX_PATTERN = 200
"""Characters of a pattern."""
MAX_SUBJECT = 512
"""Characters of a name, folder or metadata value that are looked at; the rest counts as not there."""
TIMEOUT = 0.1
"""Seconds that one search may take; an honest one takes a thousandth of it."""

_COUNTED = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
MAX_REPEATS = 3999
"""What the counts {n} of an expression may multiply to."""

_QUOTED = re.compile(r"\\[^1-9]|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
"""Escaped characters and sets, in which nothing means what it looks like."""
_REFUSED = (
    (re.compile(r"\\[1-9]|\(\?P[=>]"), "it has a reference back to a group, which a rule's pattern cannot have"),
    (re.compile(r"\(\?\("), "it has a condition on a group, which a rule's pattern cannot have"),
    (re.compile(r"\(\?<?[=!]"), "it has a look ahead or behind, which a rule's pattern cannot have"),
    (re.compile(r"\(\?>"), "it has an atomic group, which a rule's pattern cannot have"),
    (re.compile(r"[*+?}]\+"), "it has a possessive repeat, which a rule's pattern cannot have"),
    (re.compile(r"\(\?(?![iuIU]+[:)])[a-zA-Z-]+[:)]"), "it sets a flag; leave it out (case is ignored anyway)"),
)
"""What rules files have never been able to say: with it, one search can take very long, or mean something else."""


class Pattern:
    """A compiled pattern. Shared freely between threads."""

    def __init__(self, text: str, search: Callable[[str], Any]) -> None:
        self.text = text
        """As the user wrote it."""
        self._search = search
        self._given_up = False

    def matches(self, subject: str) -> bool:
        """A glob must fit the whole subject, a regular expression some part of it. False once it took too long."""
        if self._given_up:
            return False
        try:
            return self._search(subject[:MAX_SUBJECT]) is not None
        except TimeoutError:
            self._given_up = True
            log.warning(
                "The pattern %r of a rule takes too long on %r; it matches nothing from here on. Write it without "
                "repeats inside repeats.",
                self.text,
                subject[:80],
            )
            return False


def regex(text: str) -> Pattern:
    """A regular expression, searched for anywhere in the subject.

    Raises:
        BadInputError: it is none, or too long. The text says "it …".
    """
    import regex as library  # only where a rule has an expression

    _check_length(text)
    bare = _QUOTED.sub("_", text)
    if said := next((said for found, said in _REFUSED if found.search(bare)), None):
        raise BadInputError(said)
    _check_counts(bare)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # thoughts about future syntax
            compiled = library.compile(text, library.IGNORECASE | library.VERSION0)
    except (library.error, OverflowError, RecursionError, ValueError, MemoryError) as error:
        raise BadInputError(f"it is no valid pattern ({error})") from error
    return Pattern(text, lambda subject: compiled.search(subject, timeout=TIMEOUT))


def glob(text: str) -> Pattern:
    """A file name pattern that the whole subject must fit: `*`, `?`, `[abc]`, `[!abc]`, `[a-z]`.

    Raises:
        BadInputError: it is too long. The text says "it …".
    """
    _check_length(text)
    folded = text.casefold()
    while "**" in folded:
        folded = folded.replace("**", "*")
    match = re.compile(fnmatch.translate(folded)).match
    return Pattern(text, lambda subject: match(subject.casefold()))


def _check_length(text: str) -> None:
    if len(text) > MAX_PATTERN:
        raise BadInputError(f"it is {len(text)} characters long, and {MAX_PATTERN} is the most")


def _check_counts(text: str) -> None:
    product = 1
    for least, most in _COUNTED.findall(text):
        digits = max((least, most), key=lambda number: (len(number), number))
        product *= max(1, int(digits or 1)) if len(digits) < 9 else MAX_REPEATS + 1
        if product > MAX_REPEATS:
            raise BadInputError("it repeats too much; write fewer or smaller {counts}")
