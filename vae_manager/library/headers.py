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
from pathlib import Path

from vae_manager.errors import VaeFileError

MAX_HEADER_BYTES = 32 << 20
"""Largest header accepted. The largest real checkpoint's is about 1 MB; safetensors' own limit is 100 MB."""

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: its safetensors dtype name, its shape, and where its bytes lie in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    """First byte in the file, counted from the file's beginning (0 for pickles)."""

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name, and the file's own metadata strings."""

    tensors: Mapping[str, TensorInfo]
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
        document = json.loads(raw)
        metadata = {str(k): str(v) for k, v in (document.pop("__metadata__", None) or {}).items()}
        tensors = {name: _tensor(name, entry, data_start) for name, entry in document.items()}
    except VaeFileError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise VaeFileError("its header is not valid: the file is broken; fetch it again") from error
    end = max((info.start + info.bytes for info in tensors.values()), default=data_start)
    if end > size:
        missing = end - size
        raise VaeFileError(f"it is truncated: {missing} of its {end} bytes are missing; fetch it again")
    return Header(tensors, metadata)


def _tensor(name: str, entry: Mapping[str, object], data_start: int) -> TensorInfo:
    dtype, shape, offsets = str(entry["dtype"]), entry["shape"], entry["data_offsets"]
    if dtype not in DTYPE_BYTES:
        raise VaeFileError(f"its tensor {name!r:.80} has the unknown type {dtype!r:.20}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise VaeFileError(f"its tensor {name!r:.80} has no valid shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise VaeFileError(f"its tensor {name!r:.80} has no valid place in the file")
    info = TensorInfo(dtype, tuple(shape), data_start + offsets[0])
    if offsets[1] - offsets[0] != info.bytes:
        raise VaeFileError(f"its tensor {name!r:.80} does not fill the place given for it: the file is broken")
    return info
