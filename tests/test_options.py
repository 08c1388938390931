"""Every option that takes a number, in every command, with what is none: one sentence, and nothing is computed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from vae_manager.cli import _parser, main

NONSENSE = ("nan", "1e400", "-1e400", "", " ", "x", "0x10", "9" * 23, "9" * 5000, "1,5", "-9223372036854775809")
TOO_LITTLE = ("0", "-1", "1.5")


def commands() -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """Every command, `bench` by its subjects."""

    def below(names: list[str], parser: argparse.ArgumentParser) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
        groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not groups:
            yield names, parser
        for group in groups:
            for name, inner in group.choices.items():
                yield from below([*names, name], inner)

    return below([], _parser())


def calls() -> Iterator[tuple[str, list[str], str]]:
    """The command with its other arguments naming what is not there, and an option that takes a number."""
    for names, parser in commands():
        needed = [action for action in parser._actions if action.required]
        given = [text for action in needed for text in (*action.option_strings[:1], "nowhere/x.safetensors")]
        for action in parser._actions:
            if action.type in (int, float) or getattr(action.type, "__qualname__", "").startswith("whole."):
                yield names[0], [*names, *given], action.option_strings[-1]


CALLS = list(calls())


def test_there_are_such_options():
    assert {"bench", "color", "decode", "encode", "interpolate", "merge", "bake"} <= {name for name, *_ in CALLS}


@pytest.mark.parametrize("name, call, option", CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_no_number_is_refused_in_one_sentence(name: str, call: list[str], option: str, capsys):
    for value in (*NONSENSE, *(TOO_LITTLE if name == "bench" else ())):
        assert _status([*call, f"{option}={value}"]) == 2, value
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1 and "Traceback" not in err and len(err) < 1000, (value, err)


def test_a_benchmarks_channels_come_in_whole_groups(capsys):
    assert _status(["bench", "tiling", "--channels", "48"]) == 2
    assert "no whole number from 32 to 512 in steps of 32" in capsys.readouterr().err


def _status(arguments: list[str]) -> int | str | None:
    try:
        return main(arguments)
    except SystemExit as stop:  # what the parser itself refuses
        return stop.code
