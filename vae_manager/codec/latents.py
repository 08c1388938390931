"""Latents on disk. Ours is one safetensors file with one float32 tensor `latent` (N, C, h, w), unscaled.

Read as well: ComfyUI's `.latent`, sd-scripts' cached `.npz`, and a bare `.npy`.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from vae_manager.downloads import described
from vae_manager.errors import BadInputError
from vae_manager.latents.spaces import space_of
from vae_manager.writing import save_tensors

MAX_BYTES = 4 << 30
"""Of one latent file: 4 GiB are 65536 × 65536 pixels in 16 channels."""

MAX_HEADER = 100_000_000
"""Of a safetensors file, as safetensors itself has it."""

SD1_SCALE = 0.18215

_TRAINERS = {"_sd.npz": "sd1", "_sdxl.npz": "sdxl", "_sd3.npz": "sd3", "_flux.npz": "flux"}
"""How sd-scripts ends the names of what it caches (before that it was only `.npz`)."""


@dataclass(frozen=True)
class Latent:
    """A latent and what is needed to make the picture of it."""

    z: Tensor
    family: str = "unknown"
    scale_factor: float | None = None
    size: tuple[int, int] | None = None
    """Width and height of the picture, where it is smaller than the latent's (its sides were padded)."""


def save_latent(path: Path, latent: Latent) -> None:
    """Write the latent, replacing the file as a whole.

    Raises:
        OSError: it cannot be written; an old file is untouched.
    """
    metadata = {"family": latent.family}
    if latent.scale_factor is not None:
        metadata["scale_factor"] = repr(latent.scale_factor)
    if latent.size is not None:
        metadata["width"], metadata["height"] = map(str, latent.size)
    save_tensors(path, {"latent": latent.z.detach().to("cpu", torch.float32).contiguous()}, metadata)


def load_latent(path: Path) -> Latent:
    """Read a latent file of ours, ComfyUI's or sd-scripts', or an array of numpy's.

    Raises:
        BadInputError: no such file, or not a latent file.
    """
    try:
        if not path.is_file():
            raise BadInputError(f"There is no latent file {str(path)[:200]!r}.")
        found = _read(path)
    except (SafetensorError, OSError, ValueError, MemoryError, RecursionError, EOFError, zipfile.BadZipFile) as error:
        raise BadInputError(_no_latent(path, error)) from error
    if found.z.ndim != 4 or not found.z.numel():
        shape = list(found.z.shape)
        raise BadInputError(
            f"{str(path)!r} holds an array of the shape {shape}; a picture's latent has 4 sides, none of them 0 "
            "(number, channels, height, width)."
        )
    return found


def _no_latent(path: Path, error: Exception) -> str:
    """Why a file is no latent: what it is instead, where that can be told by its first bytes."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(4096)
        pickled = start.startswith((b"PK", b"\x80", b"\x93NUMPY"))
        if not pickled and (said := described(start, path.stat().st_size)):
            return f"{str(path)!r} is no latent file: {said}."
    return f"{str(path)!r} is no latent file, or a broken one ({error})."


def _read(path: Path) -> Latent:
    if path.stat().st_size > MAX_BYTES:
        raise BadInputError(f"{str(path)!r} is no latent file: it is larger than {MAX_BYTES >> 30} GiB.")
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"\x93NUMPY"):
        return Latent(_picture(np.load(path, allow_pickle=False), path))
    if start.startswith(b"PK"):
        return _from_npz(path)
    return _from_safetensors(path)


def _from_safetensors(path: Path) -> Latent:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, path.stat().st_size):
            raise ValueError("its beginning is not that of a safetensors file")
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
        if not isinstance(header, dict) or not {"latent", "latent_tensor"} & set(header):
            raise BadInputError(
                f"{str(path)!r} is no latent file: it must hold a tensor named 'latent' or ComfyUI's 'latent_tensor' "
                "(is it a VAE?)."
            )
        file.seek(0)
        tensors = load(file.read())
    if "latent" not in tensors:  # as ComfyUI's LoadLatent has it: files of its first weeks are scaled
        scaled = "latent_format_version_0" not in tensors
        return Latent(tensors["latent_tensor"].float() / (SD1_SCALE if scaled else 1.0))
    return _described(path, tensors["latent"].float(), metadata if isinstance(metadata, dict) else {})


def _described(path: Path, z: Tensor, metadata: dict[str, object]) -> Latent:
    try:
        size = (int(str(metadata["width"])), int(str(metadata["height"]))) if "width" in metadata else None
        scale = float(str(metadata["scale_factor"])) if "scale_factor" in metadata else None
    except (KeyError, ValueError) as error:
        raise BadInputError(f"{str(path)!r} has a metadata entry that is no number ({error}).") from error
    if (scale is not None and not (math.isfinite(scale) and scale > 0)) or (size is not None and min(size) < 1):
        raise BadInputError(f"{str(path)!r} has a metadata entry that cannot be: a scale or a size must be above 0.")
    return Latent(z, str(metadata.get("family", "unknown")), scale, size)


def _from_npz(path: Path) -> Latent:
    """What sd-scripts cached: `latents` (C, h, w) or `latents_HxW`, unscaled but for Flux's."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
            raise BadInputError(f"{str(path)!r} is no latent file: unpacked it is larger than {MAX_BYTES >> 30} GiB.")
    with np.load(path, allow_pickle=False) as arrays:
        names = [name for name in arrays.files if re.fullmatch(r"latents?(_\d{1,6}x\d{1,6})?", name)]
        if len(names) != 1:
            holds = f"latents of {len(names)} sizes; keep one of them" if names else "no array named 'latents'"
            raise BadInputError(f"{str(path)!r} cannot be used as a latent: it holds {holds}.")
        z = _picture(arrays[names[0]], path)
    ending = next((ending for ending in _TRAINERS if path.name.lower().endswith(ending)), None)
    if ending is None:
        return Latent(z)
    space = space_of(_TRAINERS[ending])
    assert space is not None  # the table names spaces that there are
    if ending == "_flux.npz" and space.scale:  # Flux's own autoencoder scales as it encodes
        z = z / space.scale + space.shift
    return Latent(z, _TRAINERS[ending], space.scale)


def _picture(array: np.ndarray, path: Path) -> Tensor:
    """An array (C, h, w) or (N, C, h, w) as a float32 tensor with N."""
    if array.dtype.kind != "f":
        raise BadInputError(f"{str(path)!r} is no latent: it holds {array.dtype}, where decimal numbers are needed.")
    z = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    return z[None] if z.ndim == 3 else z
