"""`vae-manager color`: files in, files out, with everything that was in them."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.color.test_diagnose import pale, picture
from vae_manager.cli import main
from vae_manager.codec.pictures import save_picture
from vae_manager.color.bake import fold_decoder
from vae_manager.color.correct import to_levels
from vae_manager.color.images import visible
from vae_manager.color.matrix import adjustment, affine
from vae_manager.commands.color import color_pictures
from vae_manager.errors import BadInputError


def image_of(v: torch.Tensor) -> Image.Image:
    return Image.fromarray(to_levels(v).permute(1, 2, 0).contiguous().numpy())


@pytest.fixture
def good(tmp_path) -> Path:
    path = tmp_path / "good.png"
    image_of(picture(0)).save(path)
    return path


def run(capsys, *arguments) -> list[dict]:
    assert main(["color", *map(str, arguments), "--json"]) == 0
    out, _ = capsys.readouterr()
    return json.loads(out)


def refused(capsys, *arguments) -> str:
    assert main(["color", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.strip().count("\n") == 0
    return err


def test_corrected_png_keeps_text_alpha_and_name(tmp_path, good, capsys):
    source, info = tmp_path / "pale.png", PngInfo()
    info.add_text("parameters", "a cat, Steps: 20")
    info.add_itxt("note", "für dich 🐈")
    image = image_of(pale(picture(0))).convert("RGBA")
    alpha = np.full((192, 192), 255, np.uint8)
    alpha[:20] = 7
    image.putalpha(Image.fromarray(alpha))
    image.save(source, pnginfo=info, icc_profile=b"a profile" * 20, dpi=(300, 300))
    before = source.read_bytes()
    (document,) = run(capsys, source, "-o", tmp_path / "out", "--reference", good)
    assert set(document) >= {"path", "output", "washed_out", "score", "cause", "reason", "applied", "matrix"}
    assert document["applied"] and document["washed_out"] and document["cause"] == "reference"
    assert source.read_bytes() == before and document["output"] == str(tmp_path / "out" / "pale.png")
    with Image.open(document["output"]) as out:
        assert out.text == {"parameters": "a cat, Steps: 20", "note": "für dich 🐈"}
        assert out.info["icc_profile"] == b"a profile" * 20
        assert np.array_equal(np.array(out.getchannel("A")), alpha)
        rgb = np.array(out.convert("RGB"), float)
    assert np.abs(rgb - np.array(Image.open(good), float))[20:].mean() < 2.5
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["pale.png"]


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_exif_is_kept(tmp_path, good, capsys, suffix):
    source = tmp_path / f"pale{suffix}"
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a description", 6
    image_of(pale(picture(0))).save(source, exif=exif, quality=92)
    (document,) = run(capsys, source, "-o", tmp_path / "out", "--reference", good)
    assert document["applied"]
    with Image.open(document["output"]) as out:
        assert out.getexif()[0x010E] == "a description" and out.getexif()[0x0112] == 6
        assert out.size == (192, 192)


def test_what_is_left_alone_is_copied_byte_for_byte(tmp_path, good, capsys):
    (document,) = run(capsys, good, "-o", tmp_path / "out")
    assert not document["applied"] and document["cause"] == "none"
    assert Path(document["output"]).read_bytes() == good.read_bytes()
    (document,) = run(capsys, good, "-o", tmp_path / "out2", "--reference", good, "--strength", 0)
    assert Path(document["output"]).read_bytes() == good.read_bytes()


def test_diagnose_writes_nothing(tmp_path, good, capsys):
    before = sorted(tmp_path.iterdir())
    (document,) = run(capsys, good, "--diagnose")
    assert document["output"] is None and not document["applied"]
    assert sorted(tmp_path.iterdir()) == before


def test_session_of_a_folder(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(9):
        image_of(pale(picture(seed))).save(folder / f"{seed}.png")
    documents = run(capsys, folder, "-o", tmp_path / "out", "--session")
    assert [document["cause"] for document in documents] == ["session"] * 9
    fixed = np.array(Image.open(tmp_path / "out" / "0.png"), float)
    assert np.abs(fixed - np.array(image_of(picture(0)), float)).mean() < 10


@pytest.mark.parametrize("mode", ["L", "P", "LA", "1"])
def test_other_modes(tmp_path, good, capsys, mode):
    source = tmp_path / "other.png"
    image_of(picture(2)).convert(mode).save(source)
    assert not run(capsys, source, "-o", tmp_path / "out")[0]["applied"]


def test_several_processes_do_what_one_does(tmp_path):
    """In order, with the bar on stderr; spawned processes, so the flag is given to the function as the parser will."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(5):
        image_of(pale(picture(seed))).save(folder / f"{seed}.png")
    options = {"images": [str(folder)], "diagnose": False, "reference": str(folder / "0.png"), "session": True}
    options |= {"strength": 1.0, "seed": 0, "scheduler": None, "vae": None, "padding": None}
    one = color_pictures(Namespace(**options, output=str(tmp_path / "one"), jobs=1)).document
    two = color_pictures(Namespace(**options, output=str(tmp_path / "two"), jobs=2)).document
    assert [{**row, "output": None} for row in one] == [{**row, "output": None} for row in two]
    for seed in range(5):
        assert (tmp_path / "one" / f"{seed}.png").read_bytes() == (tmp_path / "two" / f"{seed}.png").read_bytes()
    with pytest.raises(BadInputError, match="jobs"):
        color_pictures(Namespace(**options, output=str(tmp_path / "no"), jobs=0))


def test_sixteen_bits_and_floats_are_refused(tmp_path, capsys):
    deep, grey, nan = tmp_path / "deep.png", tmp_path / "grey.png", tmp_path / "nan.tif"
    save_picture(deep, picture(0)[None] * 2 - 1, bits=16)
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(grey)
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(nan)
    assert "16 bits" in refused(capsys, deep, "--diagnose")
    assert "8-bit RGB" in refused(capsys, grey, "--diagnose") and "8-bit RGB" in refused(capsys, nan, "--diagnose")


def test_refusals_are_one_sentence_and_write_nothing(tmp_path, good, capsys):
    text, cmyk, broken = tmp_path / "text.png", tmp_path / "cmyk.jpg", tmp_path / "broken.png"
    text.write_text("no picture")
    Image.new("CMYK", (8, 8)).save(cmyk)
    broken.write_bytes(good.read_bytes()[:900])
    out = tmp_path / "out"
    assert "no picture" in refused(capsys, tmp_path / "none.png", "-o", out)
    assert "cannot" in refused(capsys, text, "-o", out) or "not a picture" in refused(capsys, text, "-o", out)
    assert "CMYK" in refused(capsys, cmyk, "-o", out)
    assert refused(capsys, broken, "-o", out)
    assert "itself" in refused(capsys, good, "-o", tmp_path)
    assert "-o DIR" in refused(capsys, good)
    assert "between 0 and 1" in refused(capsys, good, "-o", out, "--strength", 2)
    assert "no picture" in refused(capsys, good, "-o", out, "--reference", tmp_path / "none.png")
    assert not out.exists() or not list(out.iterdir())
    other = tmp_path / "other"
    other.mkdir()
    (other / "good.png").write_bytes(good.read_bytes())
    assert "called" in refused(capsys, good, other / "good.png", "-o", out)


# --- with the VAE at hand


DEMO = Path(__file__).parents[2] / "vae_manager" / "data" / "demo" / "demo-kl-f8.safetensors"


@pytest.fixture(scope="module")
def flat_vae(tmp_path_factory) -> Path:
    """The demo VAE with a fifth of its contrast lost."""
    path = tmp_path_factory.mktemp("flat") / "flat.safetensors"
    save_file(fold_decoder(load_file(DEMO), adjustment(0.8)), path, of_demo())
    return path


def of_demo() -> dict[str, str]:
    """The demo VAE's metadata, which say its number of norm groups."""
    with safe_open(DEMO, "pt") as file:
        return file.metadata()


def made_by(contrast: float, good: torch.Tensor) -> torch.Tensor:
    """A picture from a decoder that overshoots before its contrast is lost, so that white is reached all the same."""
    return affine((good - 0.5) * 1.4 + 0.5, adjustment(contrast)).clamp(0, 1)


def test_the_vaes_round_trip_tells_what_the_pictures_do_not(tmp_path, flat_vae, capsys):
    right = ((picture(0) - 0.5) * 1.4 + 0.5).clamp(0, 1)
    source = tmp_path / "flat.png"
    image_of(made_by(0.8, picture(0))).save(source)
    (alone,) = run(capsys, source, "--diagnose")
    (document,) = run(capsys, source, "--vae", flat_vae, "-o", tmp_path / "out")
    assert alone["cause"] == "none" and document["cause"] == "round trip" and document["applied"]
    found, before = (visible(Image.open(path)) for path in (tmp_path / "out" / "flat.png", source))
    assert (found - right).abs().mean() < 0.15 * (before - right).abs().mean()


def test_a_sound_vaes_pictures_are_copied_as_they_are(tmp_path, good, capsys):
    (document,) = run(capsys, good, "--vae", DEMO, "-o", tmp_path / "out")
    assert not document["applied"] and "gave black and white back" in document["reason"]
    assert (tmp_path / "out" / "good.png").read_bytes() == good.read_bytes()


def test_in_other_processes_and_again_with_another_vae(tmp_path, flat_vae, capsys):
    folder = tmp_path / "many"
    folder.mkdir()
    for seed in range(3):
        image_of(made_by(0.8, picture(seed))).save(folder / f"{seed}.png")
    first = run(capsys, folder, "--vae", flat_vae, "-o", tmp_path / "out", "--jobs", "2")
    assert [document["cause"] for document in first] == ["round trip"] * 3
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert run(capsys, folder, "--vae", flat_vae, "-o", tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in written} == written  # all of it was done
    other = run(capsys, folder, "--vae", DEMO, "-o", tmp_path / "out")
    assert [document["cause"] for document in other] == ["none"] * 3


def test_a_vae_that_cannot_tell_is_refused_before_any_work(tmp_path, good, capsys):
    tiny = tmp_path / "decoder.safetensors"
    save_file(
        {n: t for n, t in load_file(DEMO).items() if not n.startswith(("encoder.", "quant_conv."))}, tiny, of_demo()
    )
    assert "Leave --vae out" in refused(capsys, good, "--vae", tiny, "-o", tmp_path / "out")
    assert "none.safetensors" in refused(capsys, good, "--vae", tmp_path / "none.safetensors", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()
