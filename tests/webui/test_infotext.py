"""Infotext and arguments: there and back, and what cannot be understood."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vae_manager.library.files import VaeFile
from vae_manager.selection.settings import PanelSettings, by_hand
from vae_manager.webui.arguments import from_arguments
from vae_manager.webui.infotext import Recorded, choice_for, read, write

FILES = tuple(VaeFile(Path("/v") / name, name, 1, 1) for name in ("a.safetensors", "x/b.pt"))
HASHES = {"a.safetensors": "aa" * 32, "x/b.pt": "bb" * 32}


def known_hash(file: VaeFile) -> str:
    return HASHES[file.name]


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(names, st.none() | st.from_regex(r"[0-9a-f]{10}", fullmatch=True))
def test_any_name_goes_there_and_back(name: str, hash_: str | None):
    text = write(Recorded(PanelSettings(vae=name), hash_))
    if text is not None:
        assert read(text) == Recorded(PanelSettings(vae=name), hash_)
        assert not any(c < " " for c in text)


@pytest.mark.parametrize("name", ["50%41.pt", "a;b.pt", "vae=b; hash=0123456789", "%", "100%", "a\tb", "é %C3%A9"])
def test_names_that_look_like_our_own_writing(name: str):
    assert read(write(Recorded(PanelSettings(vae=name))) or "").settings.vae == name


def test_nothing_to_say():
    assert write(Recorded()) is None
    assert write(Recorded(PanelSettings(vae="Baked"))) == "vae=Baked"


@pytest.mark.parametrize("text", ["", "=", ";;;", "vae", "hash=zz", "future=1; vae=a", "vae=a; hash=<script>"])
def test_text_of_other_versions_and_nonsense(text: str):
    assert read(text).settings.vae in ("Automatic", "a") and read(text).hash is None


def test_the_hash_wins_over_the_name():
    assert choice_for(Recorded(PanelSettings(vae="a.safetensors"), "bb" * 5), FILES, known_hash) == "x/b.pt"
    assert choice_for(Recorded(PanelSettings(vae="gone.pt"), "cc" * 5), FILES, known_hash) == "gone.pt"
    assert choice_for(Recorded(PanelSettings(vae="a.safetensors")), FILES, known_hash) == "a.safetensors"
    assert choice_for(Recorded(PanelSettings(vae="Baked"), "bb" * 5), FILES, known_hash) == "Baked"


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


def base64_of(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def test_values_by_hand_go_there_and_back():
    settings = from_arguments([{"color": "manual", "contrast": 1.25, "brightness": -0.05, "saturation": 0}])
    assert by_hand(settings) == {"contrast": 1.25, "brightness": -0.05, "saturation": 0.0} and not settings.warnings
    line = write(Recorded(PanelSettings(color="manual", contrast=1.25, brightness=-0.05, saturation=0.0)))
    assert line == "color=manual; contrast=1.25; brightness=-0.05; saturation=0"
    assert read(line).settings.brightness == -0.05 and read("contrast=9; saturation=nan") == Recorded()


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_reference_picture_in_base64(prefix: str):
    settings = from_arguments([{"color": "match", "reference": prefix + base64_of(Image.new("RGBA", (8, 4), "red"))}])
    assert settings.reference and settings.reference.size == (8, 4) and settings.reference.mode == "RGB"
    assert not settings.warnings


WHOLE = base64_of(Image.effect_noise((64, 64), 50))
WRONG = ["/etc/passwd", "C:\\x.png", "aGVsbG8=", WHOLE[: len(WHOLE) // 8 * 4], 5, {}, "data:,", "ü"]


@pytest.mark.parametrize("value", WRONG)
def test_a_reference_that_is_none_is_refused_with_one_sentence(value):
    settings = from_arguments([{"color": "match", "reference": value}])
    (warning,) = settings.warnings
    assert settings.reference is None and settings.color == "match"
    assert "reference" in warning and warning.endswith("no reference picture was used.") and len(warning) < 120


def test_a_kind_of_picture_that_would_run_another_program_is_not_even_opened(monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("handed to Ghostscript"))
    data = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(data, "EPS")
    settings = from_arguments([{"reference": base64.b64encode(data.getvalue()).decode()}])
    assert settings.reference is None and "not a picture that can be read" in settings.warnings[0]


@pytest.mark.parametrize(("side", "said"), [(9000, "more than 64 megapixels"), (12000, "larger than")])
def test_an_enormous_picture_in_a_small_file_is_refused_before_it_is_unpacked(monkeypatch, side: int, said: str):
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda *a, **k: pytest.fail("unpacked"))
    (warning,) = from_arguments([{"reference": base64_of(Image.new("1", (side, side)))}]).warnings
    assert said in warning and warning.endswith("no reference picture was used.")


def test_a_reference_is_read_as_the_command_reads_pictures():
    """A 16-bit grey ramp stays a ramp, transparent is white, and an animation is told."""
    deep = Image.fromarray(np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(8, 0))
    found = from_arguments([{"reference": base64_of(deep)}]).reference
    assert (
        found
        and found.mode == "RGB"
        and np.asarray(found)[0, :, 1].tolist() == [round(n * 255 / 63) for n in range(64)]
    )
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    for reference in (clear, base64_of(clear)):  # Gradio's, and the API's
        found = from_arguments([{"reference": reference}]).reference
        assert found and found.getpixel((0, 0)) == (255, 255, 255)
    data = io.BytesIO()
    Image.new("L", (8, 8)).save(data, "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 9)])
    settings = from_arguments([{"reference": base64.b64encode(data.getvalue()).decode()}])
    assert settings.warnings == ("The reference holds several pictures; no reference picture was used.",)


@pytest.mark.parametrize("name,value", [("contrast", 3), ("brightness", "0"), ("saturation", float("nan"))])
def test_values_by_hand_that_make_no_sense_are_named(name: str, value):
    settings = from_arguments([{name: value}])
    assert settings.warnings[0].startswith(f"{name} must be a number from") and by_hand(settings) == by_hand(
        PanelSettings()
    )


@pytest.mark.parametrize("values,word", [({"vea": "b"}, "'vea'"), ({"vae": 3}, "int"), ({1: 2}, "'1'")])
def test_arguments_that_are_wrong_are_named(values, word: str):
    (warning,) = from_arguments([values]).warnings
    assert word in warning


@given(st.lists(st.none() | st.booleans() | st.integers() | st.text() | st.dictionaries(st.text(), st.integers())))
def test_no_argument_raises(args):
    assert isinstance(from_arguments(args), PanelSettings)
