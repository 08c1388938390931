"""GGUF files of any header, without the numbers: the file is as long as it must be, and empty."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144),
         "Q5_K": (13, 256, 176), "BF16": (30, 1, 2)}  # fmt: skip
"""Number, numbers of a block, bytes of a block."""

Value = str | int | list[int] | list[str]


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str, value: Value) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", 4, value)
    if value and isinstance(value[0], str):
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(str(item)) for item in value)
    return text(key) + struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, Value] | None = None, version: int = 3
) -> tuple[bytes, int]:
    """The header, padded, and how many bytes of numbers follow it."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata or {}))
    out += b"".join(entry(key, value) for key, value in (metadata or {}).items())
    at = 0
    for name, (dtype, shape) in tensors.items():
        kind, block, size = TYPES[dtype]
        out += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)) + struct.pack("<IQ", kind, at)
        at = -(-(at + math.prod(shape) // block * size) // 32) * 32
    return out + b"\0" * (-len(out) % 32), at


def write(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], **how: Mapping[str, Value]) -> Path:
    raw, rest = header(tensors, how.get("metadata"))
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(len(raw) + rest)
    return path
