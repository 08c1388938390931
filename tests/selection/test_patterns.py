"""Patterns mean what `re` and `fnmatch` mean, and never hang."""

from __future__ import annotations

import fnmatch
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_manager.errors import BadInputError
from vae_manager.selection.patterns import MAX_PATTERN, glob, regex

PIECES = [
    "a", "b", "A", "1", "_", " ", ".", "^", "$", r"\b", r"\B", r"\d", r"\w", r"\s", r"\W", "[ab]", "[^a]", "[a-c1]",
    r"[\d_]", "(?:ab)", "(a|b)", "(a|ab|)", "a*", "a+?", "b?", "(ab)*", "(a*)*", "(?:a|b)+", "a{2}", "b{1,3}",
    "(a{0,2}b)+",
]  # fmt: skip

CATASTROPHES = [
    "(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*a){12}$", "(a*)*$", "(a?){50}a{50}$", "^(([a-z])+.)+[A-Z]([a-z])+$",
    "(x+x+)+y", "(.*)*(.*)*(.*)*=", "((a{1,5}){1,5}){1,5}$", ".*.*.*.*.*.*.*.*.*b$", r"(\w+\s?)*!$", "(?:(?:a+)+)+b",
]  # fmt: skip


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=6), st.text("aAb1_ -", min_size=1, max_size=12))
def test_a_regex_means_what_it_means_to_re(pieces, subject):
    # not on the empty text, where \B means something else before Python 3.14; no name is empty
    text = "".join(pieces)
    assert regex(text).matches(subject) == (re.search(text, subject, re.IGNORECASE) is not None)


@settings(max_examples=400)
@given(st.text("ab*?[]!-.x\\^", max_size=10), st.text("abABx.-!]^\\", max_size=8))
def test_a_glob_means_what_it_means_to_fnmatch(text, subject):
    try:
        pattern = glob(text)
    except BadInputError:
        return  # an empty range such as [b-a], which fnmatch takes for "never"
    assert pattern.matches(subject) == fnmatch.fnmatchcase(subject.lower(), text.lower())


@pytest.mark.parametrize("text", CATASTROPHES)
def test_patterns_that_make_re_hang_are_answered_at_once(text):
    short, long = ("a" * (4 * count) + "!" * count for count in (50, 200))
    compiled = regex(text)
    begun = time.process_time()
    compiled.matches(short)
    between = time.process_time()
    compiled.matches(long)
    assert time.process_time() - between < 40 * (between - begun) + 0.05  # four times as long


def test_a_pattern_that_takes_too_long_is_told_once_and_alone(caplog):
    slow, other = regex("(a|aa)+$"), regex("a!$")
    subject = "a" * 400 + "!"
    assert not slow.matches(subject) and not slow.matches("a") and other.matches(subject)
    (record,) = caplog.records
    assert "(a|aa)+$" in record.getMessage() and "takes too long" in record.getMessage()


def test_what_looks_refused_in_a_set_or_escaped_is_taken():
    assert regex(r"[*+]+\(\?=\\1[(?=]$").matches("*+(?=\\1?")


@settings(max_examples=300)
@given(st.text("(a|b)*+?{}[]0123456789,\\.^$:=!<P>", max_size=60), st.text("ab", max_size=600))
def test_no_pattern_crashes_or_hangs(text, subject):
    for compile_ in (regex, glob):
        try:
            pattern = compile_(text)
        except BadInputError as error:
            assert str(error).startswith("it ")
        else:
            pattern.matches(subject)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (r"(a)\1", "reference back"),
        ("(?=a)b", "look ahead"),
        ("(?<!a)b", "look ahead or behind"),
        ("(?m)^a", "flag"),
        ("(", "no valid pattern"),
        ("a{4000}", "repeats too much"),
        ("(a{99}){99}", "repeats too much"),
        ("(){1000000000}b", "repeats too much"),
        ("((){2000}){2000}b", "repeats too much"),
        ("a" * (MAX_PATTERN + 1), "characters long"),
    ],
)
def test_what_an_automaton_cannot_do_is_refused_in_words(text, said):
    with pytest.raises(BadInputError, match=said):
        regex(text)


def test_case_is_ignored():
    assert regex("REALISTIC").matches("myRealisticModel") and glob("*Realistic*").matches("my-realISTIC-model")
    assert not glob("realistic").matches("my-realistic-model")
