"""Pictures are read as what they are, or refused with a sentence."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.color.test_command import good, refused, run  # noqa: F401 (a fixture)
from tests.color.test_diagnose import pale, picture
from vae_manager.cli import main
from vae_manager.codec.picture_files import open_picture, shown, to_srgb
from vae_manager.color.correct import to_levels
from vae_manager.errors import BadInputError

RAMP = np.tile(np.linspace(0, 65535, 64).round(), (8, 1))


def read(path: Path) -> np.ndarray:
    return shown(open_picture(path))


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_sixteen_bit_greys_keep_their_range(tmp_path: Path, name: str):
    Image.fromarray(RAMP.astype(np.uint16)).save(tmp_path / name)
    assert np.abs(read(tmp_path / name) - RAMP[..., None] / 65535).max() < 1e-5


def test_a_pgm_of_sixteen_bits(tmp_path: Path):
    (tmp_path / "g.pgm").write_bytes(b"P5 64 8 65535\n" + RAMP.astype(">u2").tobytes())
    assert np.abs(read(tmp_path / "g.pgm") - RAMP[..., None] / 65535).max() < 1e-5


def test_decimal_numbers_from_0_to_1_are_greys_and_others_are_refused(tmp_path: Path):
    path = tmp_path / "f.tif"
    grey = (RAMP / 65535).astype(np.float32)
    Image.fromarray(grey).save(path)
    assert np.abs(read(path) - grey[..., None]).max() < 1e-6
    for values in (grey * 255, grey - 0.5, np.full_like(grey, np.nan)):
        Image.fromarray(values.astype(np.float32)).save(path)
        with pytest.raises(BadInputError, match="white is not known"):
            read(path)
    Image.fromarray((RAMP * 1000).astype(np.int32)).save(path)
    with pytest.raises(BadInputError, match="32 bits"):
        read(path)


def matrix_profile() -> bytes:
    """An RGB matrix profile (ICC.1:2022, §8.3.3) with Display P3's primaries and gamma 2.2."""
    primaries = {
        "rXYZ": (0.51512, 0.2412, -0.00105),
        "gXYZ": (0.29198, 0.69225, 0.04189),
        "bXYZ": (0.1571, 0.06657, 0.78407),
    }

    def s15(value: float) -> bytes:
        return round(value * 65536).to_bytes(4, "big", signed=True)

    tags = {name: b"XYZ \0\0\0\0" + b"".join(map(s15, xyz)) for name, xyz in primaries.items()}
    tags["wtpt"] = b"XYZ \0\0\0\0" + s15(0.9642) + s15(1) + s15(0.8249)
    curve = b"curv\0\0\0\0\0\0\0\1" + int(2.2 * 256).to_bytes(2, "big") + b"\0\0"
    tags |= dict.fromkeys(("rTRC", "gTRC", "bTRC"), curve)
    tags["desc"] = b"desc\0\0\0\0\0\0\0\2P\0" + b"\0" * 80
    tags["cprt"] = b"text\0\0\0\0-\0\0\0"
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name.encode() + at.to_bytes(4, "big") + len(data).to_bytes(4, "big")
        body, at = body + data, at + len(data)
    head = bytearray(128)
    head[0:4], head[8:12], head[12:24] = at.to_bytes(4, "big"), b"\2\x10\0\0", b"mntrRGB XYZ "
    head[36:40], head[68:80] = b"acsp", s15(0.9642) + s15(1) + s15(0.8249)
    return bytes(head) + len(tags).to_bytes(4, "big") + table + body


def test_colours_of_another_profile_are_turned_into_srgb(tmp_path: Path):
    image = Image.new("RGB", (4, 4), (200, 100, 100))
    image.save(tmp_path / "p3.png", icc_profile=matrix_profile())
    red, green, _ = read(tmp_path / "p3.png")[0, 0] * 255
    assert red > 206 and green < 97  # sRGB needs more red for this colour than the wide space
    alpha = image.convert("RGBA")
    alpha.putalpha(128)
    alpha.save(tmp_path / "a.png", icc_profile=matrix_profile())
    turned = to_srgb(open_picture(tmp_path / "a.png"))
    assert turned.getpixel((0, 0))[0] > 206 and turned.getpixel((0, 0))[3] == 128


@pytest.mark.parametrize(
    "profile", [b"no profile at all", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()]
)
def test_srgb_and_what_is_no_profile_change_nothing(tmp_path: Path, profile: bytes):
    Image.new("RGB", (4, 4), (200, 100, 50)).save(tmp_path / "s.png", icc_profile=profile)
    opened = open_picture(tmp_path / "s.png")
    assert to_srgb(opened) is opened
    assert (read(tmp_path / "s.png")[0, 0] * 255).round().tolist() == [200, 100, 50]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_is_white_where_it_is_white(tmp_path: Path, mode: str):
    kind = "TIFF" if mode in ("CMYK", "YCbCr", "PA") else "PNG"
    white = Image.new("RGB", (4, 4), "white")
    image = Image.new("I;16", (4, 4), 65535) if mode == "I;16" else white.convert("P" if mode == "PA" else mode)
    image.convert(mode).save(tmp_path / "w", kind)
    assert read(tmp_path / "w").min() > 0.98


def test_kinds_that_would_be_misread_are_refused(tmp_path: Path):
    Image.new("LAB", (4, 4), (255, 0, 0)).save(tmp_path / "l.tif")
    with pytest.raises(BadInputError, match="kind LAB"):
        read(tmp_path / "l.tif")


def test_turned_pictures_and_transparent_ones(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "t.jpg", exif=exif)
    assert read(tmp_path / "t.jpg").shape == (6, 4, 3)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "c.png")
    assert read(tmp_path / "c.png").min() == 1


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_animations_are_refused(tmp_path: Path, suffix: str):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(BadInputError, match="several pictures"):
        open_picture(tmp_path / f"a.{suffix}")


def test_no_other_program_is_started_for_an_eps(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "e.png").write_bytes(eps)
    with pytest.raises(BadInputError, match="not a picture"):
        open_picture(tmp_path / "e.png")
    with pytest.raises(BadInputError, match="The reference is not a picture"):
        open_picture(eps, "The reference")


def test_bytes_are_opened_as_files_are():
    data = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(data, "PNG")
    assert shown(open_picture(data.getvalue()))[0, 0].tolist() == [1, 0, 0]


# --- what `color` writes


def image_of(seed: int) -> Image.Image:
    return Image.fromarray(to_levels(pale(picture(seed))).permute(1, 2, 0).contiguous().numpy())


def test_a_lossless_webp_stays_lossless(tmp_path: Path, good, capsys):  # noqa: F811
    image_of(0).save(tmp_path / "p.webp", lossless=True)
    image_of(0).save(tmp_path / "p.png")
    for name in ("p.webp", "p.png"):
        assert run(capsys, tmp_path / name, "-o", tmp_path / "out", "--reference", good)[0]["applied"]
    webp, png = (np.asarray(Image.open(tmp_path / "out" / name).convert("RGB")) for name in ("p.webp", "p.png"))
    assert np.array_equal(webp, png)


def test_a_png_keeps_what_it_says_of_its_colours(tmp_path: Path, good, capsys):  # noqa: F811
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    primaries = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    info.add(b"cHRM", b"".join(value.to_bytes(4, "big") for value in primaries))
    info.add(b"gAMA", (45455).to_bytes(4, "big"))
    info.add(b"sRGB", b"\1")
    image_of(0).save(tmp_path / "p.png", pnginfo=info)
    before = Image.open(tmp_path / "p.png").info
    assert run(capsys, tmp_path / "p.png", "-o", tmp_path / "out", "--reference", good)[0]["applied"]
    after = Image.open(tmp_path / "out" / "p.png").info
    assert {"gamma", "srgb", "chromaticity"} <= set(before)
    assert {key: after.get(key) for key in before} == before


def test_what_was_turned_into_srgb_has_its_old_profile_no_more(tmp_path: Path, good, capsys):  # noqa: F811
    image_of(0).save(tmp_path / "p.png", icc_profile=matrix_profile())
    assert run(capsys, tmp_path / "p.png", "-o", tmp_path / "out", "--reference", good)[0]["applied"]
    assert "icc_profile" not in Image.open(tmp_path / "out" / "p.png").info


def test_one_odd_picture_does_not_stop_the_others(tmp_path: Path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for seed in range(3):
        image_of(seed).save(folder / f"{seed}.png")
    (folder / "1b.png").write_text("no picture")
    assert main(["color", str(folder), "-o", str(out), "--session", "--json"]) == 2
    printed, err = capsys.readouterr()
    assert printed.count("problem") == 1 and "1 of 4 pictures was left out" in err and "1b.png" in err
    assert sorted(path.name for path in out.glob("*.png")) == ["0.png", "1.png", "2.png"]
    assert "1b.png" in refused(capsys, folder / "1b.png", "-o", out)


def test_the_reference_is_not_written_over(tmp_path: Path, good, capsys):  # noqa: F811
    out = tmp_path / "out"
    out.mkdir()
    (out / "p.png").symlink_to(good)
    image_of(0).save(tmp_path / "p.png")
    before = good.read_bytes()
    assert "written over" in refused(capsys, tmp_path / "p.png", "-o", out, "--reference", good)
    assert good.read_bytes() == before
