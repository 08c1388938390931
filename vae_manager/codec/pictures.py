"""Pictures on disk ↔ float pixels (N, 3, H, W) in [-1, 1]."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from vae_manager.errors import BadInputError


@contextlib.contextmanager
def picture_errors(path: Path) -> Iterator[None]:
    """Turn what Pillow raises for a missing, broken or oversized picture into a BadInputError that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except FileNotFoundError as error:
        raise BadInputError(f"There is no picture {str(path)!r}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInputError(f"{str(path)!r} is larger than {Image.MAX_IMAGE_PIXELS} pixels; scale it down.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadInputError(f"{str(path)!r} is not a picture that can be read ({error}).") from error


def load_picture(path: Path) -> Tensor:
    """Read a picture as (1, 3, H, W) in [-1, 1]; transparent parts are laid on white, EXIF rotation applied.

    Raises:
        BadInputError: no such file, or not a picture that can be read whole.
    """
    with picture_errors(path), Image.open(path) as image:
        upright = ImageOps.exif_transpose(image) or image
        rgb = np.asarray(_on_white(upright))
    pixels = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float()
    return pixels / 127.5 - 1.0


def pad_to_multiple(pixels: Tensor, ratio: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples of `ratio`."""
    height, width = pixels.shape[2:]
    return F.pad(pixels, (0, -width % ratio, 0, -height % ratio), mode="replicate")


def save_picture(path: Path, pixels: Tensor, bits: int = 8) -> None:
    """Write pixels (N, 3, H, W): as a picture (N = 1) by the file's ending, or raw for `.safetensors` and `.npy`.

    Pictures are clamped and rounded to the nearest level; raw files hold the float32 values as they are.

    Raises:
        BadInputError: the ending or depth is not known.
    """
    suffix = path.suffix.lower()
    pixels = pixels.detach().float().cpu()
    if suffix == ".safetensors":
        save_file({"pixels": pixels.contiguous()}, str(path))
    elif suffix == ".npy":
        np.save(path, pixels.numpy())
    elif pixels.shape[0] != 1:
        raise BadInputError(f"{pixels.shape[0]} pictures do not fit into one {suffix} file; use .safetensors or .npy.")
    elif bits == 16 and suffix == ".png":
        path.write_bytes(_png16(to_levels(pixels, 65535)[0].numpy()))
    elif bits == 8 and suffix in (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"):
        Image.fromarray(to_levels(pixels, 255)[0].numpy().astype(np.uint8)).save(path, quality=95)
    else:
        raise BadInputError(
            f"A {bits}-bit picture cannot be written to {path.name!r}; use .png (8 or 16 bits), .safetensors or .npy."
        )


def to_levels(pixels: Tensor, top: int) -> Tensor:
    """Pixels (N, 3, H, W) in [-1, 1] → whole levels (N, H, W, 3) from 0 to `top`, int32, rounded to nearest."""
    precise = pixels.double() if top > 255 else pixels  # fp32 has too few digits for 16-bit levels
    levels = ((precise.clamp(-1, 1) + 1) * (top / 2)).round()
    return levels.permute(0, 2, 3, 1).to(torch.int32)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _png16(levels: np.ndarray) -> bytes:
    """A 16-bit RGB PNG (W3C PNG specification, §5 and §11): Pillow writes 16 bits for grey pictures only."""
    height, width, _ = levels.shape
    rows = levels.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # filter 0 on every row

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
