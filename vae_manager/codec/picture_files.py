"""Pictures from files that anyone may have made: the one place where they are opened.

Only formats of pictures are opened, by an allow-list: Pillow would hand others to other programs (an EPS to
Ghostscript). What comes out is what the file shows: 16-bit and floating-point greys keep their range, and colours of
another space are turned into sRGB by the profile that says so. What would be misread is refused with a sentence.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from vae_manager.errors import BadInputError

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM", "TGA", "QOI")
"""Pictures that Pillow reads by itself; those that it was built without are left out."""

ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".jp2", ".ppm", ".pgm"),
    *(".tga", ".qoi"),
)
"""How such files are usually called."""

MODES = ("RGB", "RGBA", "RGBa", "RGBX", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr")
"""Kinds of 8 bits that Pillow turns into RGB rightly (LAB it does not)."""

SAME = 2
"""A profile that moves no colour by more levels than this is sRGB, as far as 8 bits can tell."""


@contextlib.contextmanager
def picture_errors(name: str) -> Iterator[None]:
    """Turn what Pillow raises for a missing, broken or oversized picture into a BadInputError that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except BadInputError:
        raise
    except FileNotFoundError as error:
        raise BadInputError(f"There is no picture {name}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInputError(f"{name} is larger than {Image.MAX_IMAGE_PIXELS} pixels; scale it down.") from error
    except MemoryError as error:
        raise BadInputError(f"{name} does not fit into memory; scale it down.") from error
    except Exception as error:  # a broken file makes Pillow's readers raise anything: struct.error, IndexError, …
        reason = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({error})"
        raise BadInputError(f"{name} is not a picture that can be read{reason}.") from error


def open_picture(source: Path | bytes, name: str | None = None, max_pixels: int | None = None) -> Image.Image:
    """A picture with its pixels loaded, in the mode and turned as it lies in the file.

    Args:
        source: the file, or what is in one.
        name: what to call it in a sentence; default: the file's name in quotes.
        max_pixels: how large it may be, where that is less than what Pillow allows; looked at before it is unpacked.

    Raises:
        BadInputError: no such file, no picture of `FORMATS`, a broken one, or one of several pictures.
    """
    name = name or (repr(str(source)[:300]) if isinstance(source, Path) else "The picture")
    with picture_errors(name):
        if isinstance(source, Path) and not source.is_file():
            raise FileNotFoundError
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: a camera's picture and its previews
            raise BadInputError(f"{name} holds several pictures (an animation?); take one of them out first.")
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise BadInputError(f"{name} has more than {max_pixels >> 20} megapixels; scale it down.")
        image.load()
        return image


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def shown(image: Image.Image, name: str = "The picture") -> np.ndarray:
    """What a picture shows: float32 RGB (H, W, 3) in [0, 1], in sRGB, upright, transparent parts on white.

    Raises:
        BadInputError: its numbers do not say what is black and what is white.
    """
    with picture_errors(name):
        upright = ImageOps.exif_transpose(image) or image
        if is_deep(upright):
            return _deep(upright, image.format, name)
        return np.asarray(_rgb(upright, name), np.float32) / 255


def as_rgb(image: Image.Image, name: str = "The picture") -> Image.Image:
    """What a picture shows in 8 bits: RGB, in sRGB, upright, transparent parts on white.

    Raises:
        BadInputError: as `shown`.
    """
    if is_deep(image):
        return Image.fromarray(np.rint(shown(image, name) * 255).astype(np.uint8))
    with picture_errors(name):
        return _rgb(ImageOps.exif_transpose(image) or image, name)


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode not in MODES:
        raise BadInputError(f"{name} is a picture of the kind {image.mode}; convert it to RGB first.")
    return _on_white(to_srgb(image))


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has one channel of more than 8 bits, which Pillow's `convert` would clip."""
    return image.mode.startswith(("I", "F"))


def has_alpha(image: Image.Image) -> bool:
    """Whether a picture has transparent pixels, in whatever way its mode says so."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as the bytes of its file. Pillow's own writing of a JPEG into a file does not notice a full disk."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def loses_bits(path: Path) -> bool:
    """Whether a picture's file has colours of 16 bits a channel, of which Pillow keeps the upper 8; greys it keeps."""
    with picture_errors(repr(str(path)[:300])), Image.open(path, formats=_formats()) as image:
        return not is_deep(image) and any(";16" in str(part) for part in image.tile)


def is_lossless(image: Image.Image) -> bool:
    """Whether an opened WebP was written without loss: by its chunk 'VP8L' (RFC 9649, §2.6 and §2.7)."""
    name = getattr(image, "filename", "")
    if image.format != "WEBP" or not name:
        return False
    with contextlib.suppress(OSError), Path(name).open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8L", b"VP8 "):
                return head[:4] == b"VP8L"
            length = int.from_bytes(head[4:], "little")
            file.seek(length + length % 2, io.SEEK_CUR)
    return False


def add_color_chunks(info: PngInfo, found: Mapping[Any, Any]) -> None:
    """Have a PNG say of its colours what another one said: its chunks sRGB, gAMA and cHRM."""
    if isinstance(found.get("srgb"), int):
        info.add(b"sRGB", bytes([found["srgb"]]))
    if found.get("gamma"):
        info.add(b"gAMA", struct.pack(">I", round(found["gamma"] * 100000)))
    if found.get("chromaticity"):
        info.add(b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in found["chromaticity"])))


def to_srgb(image: Image.Image) -> Image.Image:
    """An 8-bit picture with its colours in sRGB; the picture itself where its profile is (nearly) sRGB's, or is none,
    or cannot be understood. A picture that was changed is RGB or RGBA and has no profile any more."""
    if not image.info.get("icc_profile") or is_deep(image):
        return image
    with contextlib.suppress(Exception):  # a profile that cannot be used is no profile
        plain, alpha = _plain(image)
        turned = _turned(plain, image.info["icc_profile"])
        if turned is None:
            return image
        if alpha is not None:
            turned.putalpha(alpha)
        turned.info = {key: value for key, value in image.info.items() if key not in ("icc_profile", "transparency")}
        return turned
    return image


def _plain(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours (L, RGB or CMYK) and the transparency of a picture of any 8-bit mode."""
    alpha = image.convert("RGBA").getchannel("A") if has_alpha(image) else None
    grey = image.mode in ("1", "L", "LA", "La")
    return image.convert("L" if grey else "CMYK" if image.mode == "CMYK" else "RGB"), alpha


def _turned(plain: Image.Image, profile: bytes) -> Image.Image | None:
    """An L, RGB or CMYK picture in sRGB; None where that would change nothing that can be seen."""
    from PIL import ImageCms  # a Pillow may be built without it

    source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if source.profile.xcolor_space.strip() != {"L": "GRAY"}.get(plain.mode, plain.mode):
        return None
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), plain.mode, "RGB")
    probe = _probe(plain.mode)
    if plain.mode != "CMYK":
        moved = np.asarray(ImageCms.applyTransform(probe, transform), int) - np.asarray(probe.convert("RGB"), int)
        if np.abs(moved).max() <= SAME:
            return None
    return ImageCms.applyTransform(plain, transform)


def _probe(mode: str) -> Image.Image:
    """All greys, or a grid of colours."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    grid = np.stack(np.meshgrid(*[np.linspace(0, 255, 9)] * 3, indexing="ij"), -1)
    return Image.fromarray(grid.reshape(9, 81, 3).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if has_alpha(image):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _deep(image: Image.Image, kind: str | None, name: str) -> np.ndarray:
    """A grey picture of 16 bits or of decimal numbers. Which number is white is known for 16 bits and for 0 … 1."""
    values = np.asarray(image).astype(np.float32)
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise BadInputError(f"{name} holds decimal numbers beyond 0 … 1, so its white is not known; scale them.")
        grey = values
    elif image.mode == "I" and (kind not in ("PNG", "PPM") or values.min() < 0 or values.max() > 65535):
        raise BadInputError(f"{name} holds whole numbers of 32 bits, so its white is not known; make it 16 bits.")
    else:
        grey = values / 65535
    grey = _grey_in_srgb(grey, image.info.get("icc_profile"))
    clear: Any = image.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(values == clear, np.float32(1), grey)
    return np.repeat(grey[..., None], 3, 2)


def _grey_in_srgb(grey: np.ndarray, profile: bytes | None) -> np.ndarray:
    turned = None
    if profile:
        with contextlib.suppress(Exception):
            turned = _turned(_probe("L"), profile)
    if turned is None:
        return grey
    curve = np.asarray(turned.convert("L"), np.float32)[0] / 255
    return np.interp(grey, np.linspace(0, 1, 256), curve).astype(np.float32)
