"""Model files of the true names and shapes in every container, without the numbers: as long as they must be, and empty.

A *table* is what stands in a header, `{name: (type, shape)}`. What a quantiser makes of a model is a function from one
table to another, and a container is a function that writes one.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from tests.latents.models import Shapes
from tests.library import gguf_files
from vae_manager.library.dtypes import BITS

Table = dict[str, tuple[str, tuple[int, ...]]]

WIDE = 2
"""Axes that a weight must have to be quantised."""


def halves(shapes: Shapes, dtype: str = "F16") -> Table:
    """A model in half precision."""
    return {name: (dtype, shape) for name, shape in shapes.items()}


def behind(prefix: str, table: Table) -> Table:
    return {prefix + name: entry for name, entry in table.items()}


# --- what quantisers leave


def _is_quantised(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == WIDE and name.endswith(".weight") and min(shape) >= 16


def fp8_scaled(shapes: Shapes) -> Table:
    """ComfyUI's and Kijai's: eight bits and a scale for each layer."""
    table = halves(shapes, "BF16") | {"scaled_fp8": ("F8_E4M3", (0,))}
    for name, shape in shapes.items():
        if _is_quantised(name, shape):
            table[name] = ("F8_E4M3", shape)
            table[f"{name.removesuffix('weight')}scale_weight"] = ("F32", ())
    return table


def mxfp8(shapes: Shapes) -> Table:
    """Eight bits, and for each 32 numbers a scale that is a power of two."""
    table = halves(shapes, "BF16")
    for name, shape in shapes.items():
        if _is_quantised(name, shape):
            table[name] = ("F8_E4M3", shape)
            table[f"{name}_scale"] = ("F8_E8M0", (shape[0], -(-shape[1] // 32)))
    return table


def nvfp4(shapes: Shapes) -> Table:
    """Two numbers of four bits in a byte, and scales for each 16."""
    table = halves(shapes, "BF16")
    for name, shape in shapes.items():
        if _is_quantised(name, shape):
            table[name] = ("U8", (shape[0], shape[1] // 2))
            table[f"{name}_scale"] = ("F8_E4M3", (shape[0], -(-shape[1] // 16)))
            table[f"{name}_scale_2"] = ("F32", ())
    return table


def fp4(shapes: Shapes) -> Table:
    """The same with the type that safetensors has for it since 2025."""
    table = mxfp8(shapes)
    return {name: ("F4" if dtype == "F8_E4M3" else dtype, shape) for name, (dtype, shape) in table.items()}


def nf4(shapes: Shapes) -> Table:
    """bitsandbytes': every matrix a column of bytes, two numbers in each."""
    table = halves(shapes)
    for name, shape in shapes.items():
        if len(shape) == WIDE and name.endswith(".weight"):
            count = math.prod(shape)
            table[name] = ("U8", (-(-count // 2), 1))
            table[f"{name}.absmax"] = ("F32", (-(-count // 64),))
            table[f"{name}.quant_map"] = ("F32", (16,))
            table[f"{name}.quant_state.bitsandbytes__nf4"] = ("U8", (100,))
    return table


def int8(shapes: Shapes) -> Table:
    table = halves(shapes, "BF16")
    for name, shape in shapes.items():
        if _is_quantised(name, shape):
            table[name] = ("I8", shape)
            table[f"{name}_scale"] = ("F32", (shape[0], 1))
    return table


def of_a_later_type(shapes: Shapes) -> Table:
    """A type that nobody has heard of: its length is whatever the file says."""
    return {name: ("F7_E9M9" if len(shape) == WIDE else "BF16", shape) for name, shape in shapes.items()}


# --- containers


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) * BITS.get(dtype, 7) // 8)


def write_safetensors(path: Path, table: Table, metadata: dict[str, str] | None = None) -> Path:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape) in table.items():
        start, end = end, end + _bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    return path


def write_pickle(path: Path, table: Table) -> Path:
    """A zip of a pickle. One number stands for all of a tensor, so that the file is small."""
    types = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    state = {name: torch.zeros(1, dtype=types[dtype]).expand(shape) for name, (dtype, shape) in table.items()}
    torch.save({"state_dict": state}, path)
    return path


def write_gguf(path: Path, shapes: Shapes, flat: bool = True) -> Path:
    """Matrices in four bits, the others whole; kernels `flat` beside their own shape, as ComfyUI-GGUF writes them, or
    as they are, as stable-diffusion.cpp does."""
    table: dict[str, tuple[str, tuple[int, ...]]] = {}
    said: dict[str, gguf_files.Value] = {}
    for name, shape in shapes.items():
        if math.prod(shape) % 256 or len(shape) == 1:
            table[name] = ("F32", shape)
        elif len(shape) > WIDE:
            table[name] = ("F16", (math.prod(shape) // 256, 256) if flat else shape)
            said |= {f"comfy.gguf.orig_shape.{name}": list(shape)} if flat else {}
        else:
            table[name] = ("Q4_K", shape)
    return gguf_files.write(path, table, metadata=said)
