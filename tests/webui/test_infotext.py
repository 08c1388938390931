"""Infotext and arguments: there and back, and what cannot be understood."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_manager.library.files import VaeFile
from vae_manager.webui.infotext import Recorded, choice_for, read, write
from vae_manager.webui.settings import PanelSettings, from_arguments

FILES = tuple(VaeFile(Path("/v") / name, name, 1, 1) for name in ("a.safetensors", "x/b.pt"))
HASHES = {"a.safetensors": "aa" * 32, "x/b.pt": "bb" * 32}


def known_hash(file: VaeFile) -> str:
    return HASHES[file.name]


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(names, st.none() | st.from_regex(r"[0-9a-f]{10}", fullmatch=True))
def test_any_name_goes_there_and_back(name: str, hash_: str | None):
    text = write(Recorded(name, hash_))
    if text is not None:
        assert read(text) == Recorded(name, hash_)
        assert not any(c < " " for c in text)


def test_nothing_to_say():
    assert write(Recorded()) is None
    assert write(Recorded("Baked")) == "vae=Baked"


@pytest.mark.parametrize("text", ["", "=", ";;;", "vae", "hash=zz", "future=1; vae=a", "vae=a; hash=<script>"])
def test_text_of_other_versions_and_nonsense(text: str):
    assert read(text).vae in ("Automatic", "a") and read(text).hash is None


def test_the_hash_wins_over_the_name():
    assert choice_for(Recorded("a.safetensors", "bb" * 5), FILES, known_hash) == "x/b.pt"
    assert choice_for(Recorded("gone.pt", "cc" * 5), FILES, known_hash) == "gone.pt"
    assert choice_for(Recorded("a.safetensors"), FILES, known_hash) == "a.safetensors"
    assert choice_for(Recorded("Baked", "bb" * 5), FILES, known_hash) == "Baked"


@pytest.mark.parametrize(
    "args,expected",
    [
        ((), PanelSettings()),
        ((False, "b"), PanelSettings(False, "b")),
        ((True, "b"), PanelSettings(True, "b")),
        ((True, None), PanelSettings(True)),
        ((True,), PanelSettings(True)),
        (({"vae": "b"}, "Automatic"), PanelSettings(True, "b")),
        ((False, {"enabled": False, "vae": "b"}), PanelSettings(False, "b")),
        (({},), PanelSettings(True)),
        ((True, ""), PanelSettings(True)),
    ],
)
def test_arguments(args, expected: PanelSettings):
    assert from_arguments(args) == expected


@pytest.mark.parametrize("values,word", [({"vea": "b"}, "'vea'"), ({"vae": 3}, "int"), ({1: 2}, "'1'")])
def test_arguments_that_are_wrong_are_named(values, word: str):
    (warning,) = from_arguments([values]).warnings
    assert word in warning


@given(st.lists(st.none() | st.booleans() | st.integers() | st.text() | st.dictionaries(st.text(), st.integers())))
def test_no_argument_raises(args):
    assert isinstance(from_arguments(args), PanelSettings)
