"""Read the header of a GGUF file: which tensors it holds, without the tensors.

The format is ggml's (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): the magic word, a version, the numbers
of tensors and of metadata entries, the entries, and for each tensor its name, its shape (the fastest dimension first),
its type and where it lies. Quantised types stand in the table with the layers' own shapes. Everything is little-endian,
and read piece by piece within a budget: a header that claims endless lists ends in a sentence.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from vae_manager.downloads import described
from vae_manager.errors import VaeFileError, os_reason
from vae_manager.library.headers import (
    MAX_DIMENSIONS,
    MAX_HEADER_BYTES,
    MAX_NAME,
    MAX_NUMBER,
    Header,
    Places,
    TensorInfo,
    TensorTable,
)
from vae_manager.library.reading import Source, open_file, stamp_of

MAGIC = b"GGUF"
SUFFIXES = (".gguf",)

VERSIONS = (2, 3)
"""Of the format: what the WebUIs read. Version 1 counted in 32 bits and was short-lived."""

MAX_TEXT = 512
"""Characters of a metadata text that are kept."""

ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Before a tensor's name: the shape it had before it was flattened to be quantised."""

_TYPES: Mapping[int, tuple[str, int, int]] = MappingProxyType({
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
})  # fmt: skip
"""A tensor type's number → its name, how many numbers a block of it holds, and in how many bytes."""

_SCALARS = MappingProxyType({0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"})
"""A metadata value's type → how `struct` spells it; 8 is a text and 9 a list."""
_TEXT, _LIST = 8, 9


def is_gguf_name(path: Path) -> bool:
    """Whether a file calls itself a GGUF file."""
    return path.suffix.lower() in SUFFIXES


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does.

    Raises:
        VaeFileError: it cannot be read.
    """
    with open_file(path) as file:
        try:
            return file.read(4) == MAGIC
        except OSError as error:
            raise VaeFileError(f"it cannot be read: {os_reason(error)}") from error


def read_gguf_places(path: Path) -> tuple[Header, Places]:
    """A GGUF file's header, and where its tensors lie.

    Raises:
        VaeFileError: no GGUF file, truncated, or with a header that contradicts itself.
    """
    with open_file(path) as file:
        source = Source(path, stamp_of(file))
        try:
            return _read(_Reader(file), source)
        except OSError as error:
            raise VaeFileError(f"it cannot be read: {os_reason(error)}") from error
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise VaeFileError("its header is not valid: the file is broken; fetch it again") from error


@dataclass
class _Reader:
    """Reads on through a file, within a budget."""

    file: BinaryIO
    left: int = MAX_HEADER_BYTES
    at: int = 0

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise VaeFileError(
                f"its header is longer than {MAX_HEADER_BYTES >> 20} MB, far more than any model needs: it is broken "
                "or made to do harm"
            )
        raw = self.file.read(count)
        if len(raw) < count:
            raise VaeFileError("it ends inside its header: the download broke off; fetch it again")
        self.left -= count
        self.at += count
        return raw

    def number(self, kind: str) -> int:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode()


@dataclass(frozen=True)
class _Metadata:
    texts: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Original shapes by the tensor's name."""
    alignment: int = 32


def _read(reader: _Reader, source: Source) -> tuple[Header, Places]:
    start = reader.file.read(4096)
    if not start.startswith(MAGIC):
        raise VaeFileError(described(start, source.size) or "it is no GGUF file; fetch it again")
    reader.file.seek(0)
    reader.take(len(MAGIC))
    version = reader.number("I")
    if version not in VERSIONS:
        raise VaeFileError(
            f"it is a GGUF file of version {version}, and {' and '.join(map(str, VERSIONS))} are what WebUIs read"
        )
    count, entries = reader.number("Q"), reader.number("Q")
    if not count:
        raise VaeFileError("it is a GGUF file without a tensor in it; fetch it again")
    metadata = _read_metadata(reader, entries)
    tensors: dict[str, TensorInfo] = {}
    ranges: dict[str, tuple[int, int]] = {}
    for _ in range(count):
        name, info, place = _read_tensor(reader, metadata.shapes)
        if name in tensors:
            raise VaeFileError(f"its tensor {name!r:.80} is there twice: the file is broken")
        tensors[name], ranges[name] = info, place
    begin = -(-reader.at // metadata.alignment) * metadata.alignment
    end = begin + max((stop for _, stop in ranges.values()), default=0)
    if end > source.size:
        raise VaeFileError(f"it is truncated: {end - source.size} of its {end} bytes are missing; fetch it again")
    return Header(TensorTable(tensors), metadata.texts), Places(source, begin, MappingProxyType(ranges))


def _read_metadata(reader: _Reader, entries: int) -> _Metadata:
    texts: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    alignment = 32
    for _ in range(entries):
        key = reader.text()
        value = _read_value(reader, reader.number("I"))
        if key.startswith(ORIGINAL_SHAPE) and isinstance(value, tuple):
            shapes[key.removeprefix(ORIGINAL_SHAPE)] = value
        elif key == "general.alignment" and isinstance(value, int) and value > 0:
            alignment = value
        elif isinstance(value, str):
            texts[key[:MAX_TEXT]] = value[:MAX_TEXT]
    return _Metadata(texts, shapes, alignment)


def _read_value(reader: _Reader, kind: int) -> object:
    """A text, a number, or a list of a few numbers; longer lists and lists of texts are passed over (None)."""
    if kind == _TEXT:
        return reader.text()
    if kind != _LIST:
        return reader.number(_scalar(kind))
    inner, count = reader.number("I"), reader.number("Q")
    if inner == _TEXT:
        for _ in range(count):
            reader.text()
        return None
    if inner == _LIST:
        raise VaeFileError("its metadata hold a list of lists, which no model's do: it is broken or made to do harm")
    item = _scalar(inner)
    raw = reader.take(count * struct.calcsize("<" + item))
    return struct.unpack(f"<{count}{item}", raw) if count <= MAX_DIMENSIONS else None


def _scalar(kind: int) -> str:
    if kind not in _SCALARS:
        raise VaeFileError(f"its metadata hold a value of the unknown type {kind}: the file is broken")
    return _SCALARS[kind]


def _read_tensor(reader: _Reader, originals: Mapping[str, tuple[int, ...]]) -> tuple[str, TensorInfo, tuple[int, int]]:
    """A tensor's name, itself, and its first byte and the one after its last, from the end of the header on."""
    name = reader.text()
    if len(name) > MAX_NAME:
        raise VaeFileError(f"a tensor's name in it has {len(name)} letters: it is broken or made to do harm")
    dimensions = reader.number("I")
    if dimensions > MAX_DIMENSIONS:
        raise VaeFileError(f"its tensor {name!r:.80} has no valid shape")
    shape = tuple(reversed([reader.number("Q") for _ in range(dimensions)]))
    kind, start = reader.number("I"), reader.number("Q")
    count = math.prod(shape)
    if max(count, start) >= MAX_NUMBER:
        raise VaeFileError(f"its tensor {name!r:.80} has no valid place in the file")
    dtype, block, size = _TYPES.get(kind, (f"GGUF type {kind}", 1, 0))  # a type that came after us: nobody knows
    original = originals.get(name, shape)
    own = original if math.prod(original) == count and all(n >= 0 for n in original) else shape
    return name, TensorInfo(dtype, own), (start, start + -(-count // block) * size)
