"""Pictures on disk ↔ float pixels (N, 3, H, W) in [-1, 1]."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vae_manager.codec.picture_files import encoded, open_picture, shown
from vae_manager.errors import BadInputError
from vae_manager.writing import save_tensors, write_whole

LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of Rec. ITU-R BT.709, applied to gamma RGB."""

WRITTEN = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".safetensors", ".npy")
"""Endings that `save_picture` knows."""

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_OPAQUE = (".jpg", ".jpeg", ".bmp")
_SIDES = {".jpg": 65535, ".jpeg": 65535, ".webp": 16383}
"""The longest side of a format, where it has one."""


def load_picture(path: Path) -> Tensor:
    """Read a picture as (1, 3, H, W) in [-1, 1] in sRGB; transparent parts are laid on white, EXIF rotation applied.

    Raises:
        BadInputError: no such file, or not a picture that can be read whole and rightly.
    """
    rgb = shown(open_picture(path), repr(str(path)[:300]))
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None] * 2.0 - 1.0


def pad_to_multiple(pixels: Tensor, ratio: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples of `ratio`."""
    height, width = pixels.shape[2:]
    return F.pad(pixels, (0, -width % ratio, 0, -height % ratio), mode="replicate")


def with_channels(pixels: Tensor, channels: int) -> Tensor:
    """Pixels (N, 3, H, W) as a VAE of so many channels takes them: where there is a fourth, all of it is opaque."""
    return F.pad(pixels, (0, 0, 0, 0, 0, 1), value=1.0) if (pixels.shape[1], channels) == (3, 4) else pixels


def on_white(pixels: Tensor) -> Tensor:
    """Pixels (N, 4, H, W) in [-1, 1], the fourth being opacity, laid on white: (N, 3, H, W). Others as they are."""
    if pixels.shape[1] != 4:
        return pixels
    opacity = ((pixels[:, 3:] + 1) / 2).clamp(0, 1)
    return pixels[:, :3].clamp(-1, 1) * opacity + (1 - opacity)


def save_picture(path: Path, pixels: Tensor, bits: int = 8) -> None:
    """Write pixels (N, 3, H, W), (N, 4, H, W) with opacity, or (N, 1, H, W) in grey: as a picture (N = 1) by the file's
    ending, or raw for `.safetensors` and `.npy`.

    Pictures are clamped and rounded to the nearest level; raw files hold the float32 values as they are. Where a format
    has no opacity (JPEG, BMP), transparent parts are laid on white.

    Raises:
        BadInputError: the ending or depth is not known, or pictures do not have so many channels.
    """
    check_written(path, bits)
    check_holds(path, pixels.shape[0])
    suffix = path.suffix.lower()
    pixels = pixels.detach().float().cpu()
    if suffix not in (".safetensors", ".npy"):
        if pixels.shape[1] not in (1, 3, 4):
            raise BadInputError(f"A picture has no {pixels.shape[1]} channels; write a .npy or .safetensors file.")
        pixels = pixels.expand(-1, max(3, pixels.shape[1]), -1, -1)
        pixels = on_white(pixels) if suffix in _OPAQUE else pixels
    if suffix == ".safetensors":
        save_tensors(path, {"pixels": pixels.contiguous()})
    elif suffix == ".npy":
        write_whole(path, lambda part: _save_array(part, pixels.numpy()))
    elif bits == 16:
        png = _png16(to_levels(pixels, 65535)[0].numpy())
        write_whole(path, lambda part: part.write_bytes(png))
    else:
        image = Image.fromarray(to_levels(pixels, 255)[0].numpy().astype(np.uint8))
        if max(image.size) > _SIDES.get(suffix, max(image.size)):
            raise BadInputError(f"{image.width}×{image.height} pixels do not fit into a {suffix} file; use .png.")
        data = encoded(image, _FORMATS.get(suffix, "BMP"), quality=95)
        write_whole(path, lambda part: part.write_bytes(data))


def check_written(path: Path, bits: int = 8) -> None:
    """Raise BadInputError unless `save_picture` knows this ending and depth."""
    suffix = path.suffix.lower()
    if suffix not in WRITTEN or (bits == 16 and suffix not in (".png", ".safetensors", ".npy")):
        raise BadInputError(
            f"A {bits}-bit picture cannot be written to {path.name!r}; use .png (8 or 16 bits), .safetensors or .npy."
        )


def check_holds(path: Path, count: int) -> None:
    """Raise BadInputError unless so many pictures fit into one file of this ending."""
    suffix = path.suffix.lower()
    if count != 1 and suffix not in (".safetensors", ".npy"):
        raise BadInputError(f"{count} pictures do not fit into one {suffix} file; use .safetensors or .npy.")


def to_levels(pixels: Tensor, top: int) -> Tensor:
    """Pixels (N, C, H, W) in [-1, 1] → whole levels (N, H, W, C) from 0 to `top`, int32, rounded to nearest."""
    precise = pixels.double() if top > 255 else pixels  # fp32 has too few digits for 16-bit levels
    levels = ((precise.clamp(-1, 1) + 1) * (top / 2)).round()
    return levels.permute(0, 2, 3, 1).to(torch.int32)


def _save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # by its name, numpy would add an ending
        np.save(file, array)


def _png16(levels: np.ndarray) -> bytes:
    """A 16-bit PNG, RGB or RGBA (W3C PNG specification, §5 and §11): Pillow writes 16 bits for grey ones only."""
    height, width, channels = levels.shape
    rows = levels.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # filter 0 on every row

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
