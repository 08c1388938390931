"""Open a model file's tensors, safely.

Safetensors files are mapped into memory, so only the pages that are used are read. Pickles (`.pt`, `.ckpt`,
`.pth`, `.bin`) are loaded with `weights_only=True`, which runs no code of the file, or refused.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vae_manager.errors import VaeFileError
from vae_manager.library.headers import Header, TensorInfo, TensorTable, os_reason, read_safetensors_header

PICKLE_SUFFIXES = (".pt", ".ckpt", ".pth", ".bin")
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)

_DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class TensorFile:
    """A model file that has been opened: what it holds, and a way to fetch a tensor by its own name.

    Fetched tensors are on the CPU in the dtype of the file; they may share memory with the file's mapping,
    so copy before writing into them.
    """

    path: Path
    format: str
    """'safetensors' or 'pickle'."""
    header: Header
    fetch: Callable[[str], Tensor]


def open_tensors(path: Path) -> TensorFile:
    """Open a safetensors or pickle file, told apart by its content, not by its name.

    Raises:
        VaeFileError: not such a file, broken, truncated, unreadable or unsafe.
    """
    if _looks_like_safetensors(path):
        return _open_safetensors(path)
    if path.suffix.lower() == ".safetensors":
        read_safetensors_header(path)  # says precisely what is wrong with it
    return _open_pickle(path)


def read_header(path: Path) -> tuple[str, Header]:
    """A model file's format ('safetensors' or 'pickle') and header, without the tensors where that is possible.

    Raises:
        VaeFileError: not such a file, broken, truncated, unreadable or unsafe.
    """
    if path.suffix.lower() == ".safetensors" or _looks_like_safetensors(path):
        return "safetensors", read_safetensors_header(path)
    return "pickle", _open_pickle(path).header


def _looks_like_safetensors(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise VaeFileError(f"it cannot be read: {os_reason(error)}") from error
    return len(start) == 9 and start[8:] == b"{"


def _open_safetensors(path: Path) -> TensorFile:
    header = read_safetensors_header(path)
    try:
        handle: Any = safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise VaeFileError(f"it cannot be opened ({error}); fetch it again") from error
    return TensorFile(path, "safetensors", header, handle.get_tensor)


def _open_pickle(path: Path) -> TensorFile:
    tensors = _tensors_of(_load_pickle(path))
    if not tensors:
        raise VaeFileError("it holds no tensors: it is not a model file")
    table = TensorTable(
        (name, TensorInfo(_DTYPE_NAMES.get(t.dtype, "F32"), tuple(t.shape))) for name, t in tensors.items()
    )
    return TensorFile(path, "pickle", Header(table), tensors.__getitem__)


def _load_pickle(path: Path) -> object:
    is_zip = zipfile.is_zipfile(path)
    # torch before 2.6 runs code from tar archives even with weights_only=True (CVE-2025-32434)
    if not is_zip and tarfile.is_tarfile(path):
        raise VaeFileError("it is a tar archive, which old versions of torch cannot load safely; ask for safetensors")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except OSError as error:
        raise VaeFileError(f"it cannot be read: {os_reason(error)}") from error
    except Exception as error:  # torch raises many kinds for broken files: all mean the same to the user
        text = str(error)
        if "weights_only" in text or "Unsupported" in text or "GLOBAL" in text:
            raise VaeFileError(
                "it is a pickle with more in it than weights, which could run code on this computer, so it was "
                "not loaded; get the safetensors version of it"
            ) from error
        raise VaeFileError("it is neither a safetensors file nor a whole pickle of weights; fetch it again") from error


def _tensors_of(document: object) -> dict[str, Tensor]:
    """The named tensors of a loaded pickle, out of the `state_dict` that trainers wrap them in."""
    for key in ("state_dict", "model", "module"):
        if isinstance(document, Mapping) and isinstance(document.get(key), Mapping):
            document = document[key]
    if not isinstance(document, Mapping):
        return {}
    return {str(key): value for key, value in document.items() if isinstance(value, Tensor)}
