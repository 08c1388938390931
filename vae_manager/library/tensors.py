"""Open a model file's tensors, safely.

Tensors are read from the file when they are asked for, never mapped (see `library.reading`). Pickles (`.pt`, `.ckpt`,
`.pth`, `.bin`) are read by an unpickler that runs no code of the file, or refused (see `library.pickles`). Of GGUF
files the header is read, and what is not quantised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vae_manager.errors import VaeFileError, os_reason
from vae_manager.library.diffusers_folder import config_metadata
from vae_manager.library.gguf import SUFFIXES as GGUF_SUFFIXES
from vae_manager.library.gguf import is_gguf, is_gguf_name, read_gguf_places
from vae_manager.library.headers import (
    MAX_NAME,
    Header,
    Places,
    TensorInfo,
    TensorTable,
    read_places,
    read_safetensors_header,
)
from vae_manager.library.pickles import Stored, open_pickle
from vae_manager.library.reading import as_bits, as_tensor, open_file

if TYPE_CHECKING:
    from torch import Tensor

    from vae_manager.library.reading import Bits

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".pt", ".ckpt", ".pth", ".bin")
SUFFIXES = (*SAFETENSORS_SUFFIXES, *PICKLE_SUFFIXES, *GGUF_SUFFIXES)


_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "vae", "first_stage_model", "ema")
"""Under which names trainers keep the weights in a pickle, the likeliest first."""

MAX_NESTED = 4


@dataclass(frozen=True)
class TensorFile:
    """A model file that has been opened: what it holds, and a way to fetch a tensor by its own name.

    Fetching raises `VaeFileError` when the file has been changed or cut short since it was opened.
    """

    path: Path
    format: str
    """'safetensors', 'pickle' or 'gguf'."""
    header: Header
    bits: Callable[[str], Bits]
    """A tensor's numbers as bits (`library.reading`), in the tensor's shape and in memory of their own."""

    def fetch(self, name: str) -> Tensor:
        """A tensor on the CPU in the dtype of the file, in memory of its own."""
        return as_tensor(name, self.bits(name), self.header.tensors[name].dtype)


def open_tensors(path: Path) -> TensorFile:
    """Open a safetensors, pickle or GGUF file, told apart by its content, not by its name.

    Raises:
        VaeFileError: not such a file, broken, truncated, unreadable or unsafe.
    """
    if is_safetensors_name(path) or _looks_like_safetensors(path):
        header, places = read_places(path)
        return TensorFile(path, "safetensors", _with_config(path, header), _reader(header, places))
    if is_gguf_name(path) or is_gguf(path):
        header, places = read_gguf_places(path)
        return TensorFile(path, "gguf", header, _reader(header, places))
    return _open_pickle(path)


def read_header(path: Path) -> tuple[str, Header]:
    """A model file's format ('safetensors', 'pickle' or 'gguf') and header, without the tensors.

    Raises:
        VaeFileError: not such a file, broken, truncated, unreadable or unsafe.
    """
    if is_safetensors_name(path) or _looks_like_safetensors(path):
        return "safetensors", _with_config(path, read_safetensors_header(path))
    if is_gguf_name(path) or is_gguf(path):
        return "gguf", read_gguf_places(path)[0]
    return "pickle", _open_pickle(path).header


def is_safetensors_name(path: Path) -> bool:
    """Whether a file calls itself a safetensors file."""
    return path.suffix.lower() in SAFETENSORS_SUFFIXES


def _looks_like_safetensors(path: Path) -> bool:
    with open_file(path) as file:
        try:
            start = file.read(9)
        except OSError as error:
            raise VaeFileError(f"it cannot be read: {os_reason(error)}") from error
    length = int.from_bytes(start[:8], "little")
    return len(start) == 9 and start[8:] == b"{" and length < 1 << 40  # eight letters of a text make more


def _with_config(path: Path, header: Header) -> Header:
    """The header with what a diffusers folder's config.json says; the file's own metadata come first."""
    found = config_metadata(path)
    return Header(header.tensors, {**found, **header.metadata}) if found else header


def _reader(header: Header, places: Places) -> Callable[[str], Bits]:
    def bits(name: str) -> Bits:
        info, (start, end) = header.tensors[name], places.ranges[name]
        raw = places.source.read(places.data_start + start, end - start)
        return as_bits(name, raw, info.dtype, info.shape)

    return bits


def _open_pickle(path: Path) -> TensorFile:
    opened = open_pickle(path)
    tensors = _tensors_of(opened.document)
    if not tensors:
        raise VaeFileError("it holds no tensors: it is not a model file")
    if any(len(name) > MAX_NAME for name in tensors):
        raise VaeFileError("a tensor's name in it is endless: it is broken or made to do harm")
    table = TensorTable((name, TensorInfo(t.dtype, t.shape)) for name, t in tensors.items())
    header = _with_config(path, Header(table))
    return TensorFile(path, "pickle", header, lambda name: opened.bits(name, tensors[name]))


def _tensors_of(document: object) -> dict[str, Stored]:
    """The named tensors of a loaded pickle, out of the `state_dict` that trainers wrap them in."""
    for _ in range(MAX_NESTED):
        inner = (document.get(key) for key in _WRAPPERS) if isinstance(document, Mapping) else ()
        document = next((found for found in inner if isinstance(found, Mapping)), document)
    if not isinstance(document, Mapping):
        return {}
    return {key: value for key, value in document.items() if isinstance(key, str) and isinstance(value, Stored)}
