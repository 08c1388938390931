"""Read what tensors a file holds without reading the tensors.

A safetensors file is an 8-byte little-endian length, a JSON header of that length and the tensors' bytes
(https://github.com/huggingface/safetensors, "Format"). Reading the header by hand costs two small reads, so a
folder of hundreds of multi-gigabyte checkpoints is listed at once, and lets us check sizes before anything
is mapped into memory: a truncated download is told apart from a broken one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard

from vae_manager.errors import VaeFileError

MAX_HEADER_BYTES = 32 << 20
"""Largest header accepted. The largest real checkpoint's is about 1 MB; safetensors' own limit is 100 MB."""

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: its safetensors dtype name and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * DTYPE_BYTES[self.dtype]


class TensorTable(dict[str, TensorInfo]):
    """A file's tensors by name; never changed once it is made.

    Safetensors sorts a file's tensors, so that of a hundred checkpoints of one family most have the very same table.
    Those share one object, which is equal to and hashed as nothing but itself: what is found out about a table is
    cached by it (`functools.lru_cache`), and a folder of hundreds of files is listed at once.
    """

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name, and the file's own metadata strings."""

    tensors: TensorTable
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_safetensors_header(path: Path) -> Header:
    """Read and check a safetensors header.

    Raises:
        VaeFileError: not a safetensors file, truncated, or with a header that contradicts the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise VaeFileError(f"the file is {size} bytes long: an empty or broken download; fetch it again")
            length = int.from_bytes(prefix, "little")
            if length > MAX_HEADER_BYTES and length <= size:
                raise VaeFileError(
                    f"its header is {length >> 20} MB long, where {MAX_HEADER_BYTES >> 20} MB is far more than any "
                    "model needs: it is broken or made to do harm"
                )
            raw = file.read(min(length, MAX_HEADER_BYTES))
    except OSError as error:
        raise VaeFileError(f"it cannot be read: {os_reason(error)}") from error
    if not raw.startswith(b"{"):
        raise VaeFileError("it is not a safetensors file, whatever its name says; fetch it again")
    if 8 + length > size:
        raise VaeFileError("it ends inside its header: the download broke off; fetch it again")
    return _parse(raw, data_start=8 + length, size=size)


def os_reason(error: OSError) -> str:
    """The operating system's own words for an error, without the path (the caller names the file)."""
    return error.strerror or os.strerror(error.errno or 0)


def _parse(raw: bytes, data_start: int, size: int) -> Header:
    try:
        metadata, rest = _split(raw.decode().rstrip())  # padded to whole words
        tensors, inner, data_bytes = _read_table(rest)
        metadata = {str(k): str(v) for k, v in (metadata or inner or {}).items()}
    except VaeFileError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise VaeFileError("its header is not valid: the file is broken; fetch it again") from error
    if (end := data_start + data_bytes) > size:
        missing = end - size
        raise VaeFileError(f"it is truncated: {missing} of its {end} bytes are missing; fetch it again")
    return Header(tensors, metadata)


_METADATA = '{"__metadata__":'
_DECODER = json.JSONDecoder()


def _split(text: str) -> tuple[dict[str, object] | None, str]:
    """The metadata, where they come first as safetensors writes them, and the header without them."""
    if not text.startswith(_METADATA):
        return None, text
    metadata, end = _DECODER.raw_decode(text, len(_METADATA))
    if text[end : end + 1] not in (",", "}"):  # white space; the whole is read below
        return None, text
    return metadata, "{" + text[end:].removeprefix(",")


@lru_cache(maxsize=32)
def _read_table(text: str) -> tuple[TensorTable, dict[str, object] | None, int]:
    """The tensors of a header, its metadata where they were left in it, and the bytes of all tensors."""
    document = json.loads(text)
    metadata = document.pop("__metadata__", None)
    rows = {name: _tensor(name, entry) for name, entry in document.items()}
    table = TensorTable((name, info) for name, (info, _) in rows.items())
    return table, metadata, max((end for _, end in rows.values()), default=0)


def _tensor(name: str, entry: Mapping[str, object]) -> tuple[TensorInfo, int]:
    """A tensor, and the place after its last byte, counted from the end of the header."""
    dtype, shape, offsets = str(entry["dtype"]), entry["shape"], entry["data_offsets"]
    if dtype not in DTYPE_BYTES:
        raise VaeFileError(f"its tensor {name!r:.80} has the unknown type {dtype!r:.20}")
    if not _are_counts(shape):
        raise VaeFileError(f"its tensor {name!r:.80} has no valid shape")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise VaeFileError(f"its tensor {name!r:.80} has no valid place in the file")
    info = TensorInfo(dtype, tuple(shape))
    if offsets[1] - offsets[0] != info.bytes:
        raise VaeFileError(f"its tensor {name!r:.80} does not fill the place given for it: the file is broken")
    return info, offsets[1]


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
