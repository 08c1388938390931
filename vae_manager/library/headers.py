"""Read what tensors a file holds without reading the tensors.

A safetensors file is an 8-byte little-endian length, a JSON header of that length and the tensors' bytes
(https://github.com/huggingface/safetensors, "Format"). Reading the header by hand costs two small reads, so a
folder of hundreds of multi-gigabyte checkpoints is listed at once, and lets us check sizes before any tensor
is read: a truncated download is told apart from a broken one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

from vae_manager.downloads import described
from vae_manager.errors import VaeFileError, os_reason
from vae_manager.library.dtypes import BITS
from vae_manager.library.reading import CHANGED, Source, open_file, stamp_of

MAX_HEADER_BYTES = 32 << 20
"""Largest header accepted. The largest real checkpoint's is about 1 MB; safetensors' own limit is 100 MB."""

MAX_NAME = 1000
MAX_DIMENSIONS = 64
MAX_NUMBER = 2**63
"""What no real file reaches. Longer names and numbers take quadratic time in places."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: its safetensors dtype name and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)


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


@dataclass(frozen=True)
class Places:
    """Where the tensors of a safetensors file lie."""

    source: Source
    data_start: int
    ranges: Mapping[str, tuple[int, int]]
    """First byte and the one after the last, counted from `data_start`."""


def read_safetensors_header(path: Path) -> Header:
    """Read and check a safetensors header.

    Raises:
        VaeFileError: not a safetensors file, truncated, or with a header that contradicts the file.
    """
    return read_places(path)[0]


def read_places(path: Path) -> tuple[Header, Places]:
    """A safetensors header, and where its tensors lie.

    Raises:
        VaeFileError: as `read_safetensors_header`.
    """
    with open_file(path) as file:
        try:
            source = Source(path, stamp_of(file))
            start = file.read(8)
            length = int.from_bytes(start, "little")
            raw = file.read(min(length, MAX_HEADER_BYTES)) if len(start) == 8 else b""
        except OSError as error:
            raise VaeFileError(f"it cannot be read: {os_reason(error)}") from error
    if source.size <= 8 or not raw.startswith(b"{"):
        raise VaeFileError(described(start + raw[:4096], source.size) or "it is no safetensors file; fetch it again")
    if 8 + length > source.size:
        raise VaeFileError("it ends inside its header: the download broke off; fetch it again")
    if length > MAX_HEADER_BYTES:
        raise VaeFileError(
            f"its header is {length >> 20} MB long, where {MAX_HEADER_BYTES >> 20} MB is far more than any "
            "model needs: it is broken or made to do harm"
        )
    if len(raw) < length:
        raise VaeFileError(CHANGED)
    header, ranges, data_bytes = _parse(raw)
    if (end := 8 + length + data_bytes) > source.size:
        missing = end - source.size
        raise VaeFileError(f"it is truncated: {missing} of its {end} bytes are missing; fetch it again")
    return header, Places(source, 8 + length, ranges)


def _parse(raw: bytes) -> tuple[Header, Mapping[str, tuple[int, int]], int]:
    """A header, where its tensors lie, and the bytes of all tensors."""
    try:
        metadata, rest = _split(raw.decode().rstrip("\0 \t\r\n"))  # padded to whole words
        tensors, ranges, data_bytes, inner = _read_table(rest)
    except (ValueError, RecursionError) as error:
        raise VaeFileError("its header is not valid: the file is broken; fetch it again") from error
    found = metadata if isinstance(metadata, dict) else inner
    return Header(tensors, _texts(found)), ranges, data_bytes


def _texts(metadata: object) -> dict[str, str]:
    """The format allows texts only; trainers write numbers, lists and null all the same."""
    if not isinstance(metadata, dict):
        return {}
    return {key: value if isinstance(value, str) else _text(value) for key, value in metadata.items()}


def _text(value: object) -> str:
    try:
        return json.dumps(value)
    except (ValueError, RecursionError):
        return ""


_METADATA = re.compile(r'\{\s*"__metadata__"\s*:\s*')
_AFTER_METADATA = re.compile(r"\s*([,}])")
_DECODER = json.JSONDecoder()


def _split(text: str) -> tuple[object, str]:
    """The metadata, where they come first as safetensors writes them, and what follows them or the opening brace."""
    start = _METADATA.match(text)
    if start is None:
        return None, text[1:]
    metadata, end = _DECODER.raw_decode(text, start.end())
    after = _AFTER_METADATA.match(text, end)
    if after is None:  # the whole, read below, says what is wrong
        return None, text[1:]
    return metadata, text[after.end() if after[1] == "," else after.start(1) :]


@lru_cache(maxsize=32)
def _read_table(rest: str) -> tuple[TensorTable, Mapping[str, tuple[int, int]], int, object]:
    """The tensors of a header, where they lie, the bytes of all, and the metadata where they were left in it."""
    document: dict[str, Any] = json.loads("{" + rest)
    metadata = document.pop("__metadata__", None)
    rows = {name: _tensor(name, entry) for name, entry in document.items()}
    table = TensorTable((name, info) for name, (info, _) in rows.items())
    ranges = {name: place for name, (_, place) in rows.items()}
    _refuse_overlaps(ranges)
    return table, MappingProxyType(ranges), max((end for _, end in ranges.values()), default=0), metadata


def _refuse_overlaps(ranges: Mapping[str, tuple[int, int]]) -> None:
    """No two tensors share bytes: a small file that claims so could fill the memory."""
    last, before = 0, ""
    for name, (start, end) in sorted(ranges.items(), key=lambda row: row[1]):
        if start < last and start < end:
            raise VaeFileError(f"its tensors {before!r:.80} and {name!r:.80} lie in one place: the file is broken")
        if end > last:
            last, before = end, name


def _tensor(name: str, entry: object) -> tuple[TensorInfo, tuple[int, int]]:
    """A tensor, and its first byte and the one after its last, counted from the end of the header."""
    if len(name) > MAX_NAME:
        raise VaeFileError(f"a tensor's name in it has {len(name)} letters: it is broken or made to do harm")
    if not isinstance(entry, dict):
        raise VaeFileError(f"its tensor {name!r:.80} has no valid entry in the header: the file is broken")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str):
        raise VaeFileError(f"its tensor {name!r:.80} has no valid type")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise VaeFileError(f"its tensor {name!r:.80} has no valid shape")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise VaeFileError(f"its tensor {name!r:.80} has no valid place in the file")
    info = TensorInfo(dtype, tuple(shape))
    bits = BITS.get(dtype)  # a type that came after us has a length that only the file knows
    if bits is not None and 8 * (offsets[1] - offsets[0]) != -(-info.count * bits // 8) * 8:
        raise VaeFileError(f"its tensor {name!r:.80} does not fill the place given for it: the file is broken")
    return info, (offsets[0], offsets[1])


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < MAX_NUMBER for n in value)
