"""The number types of weights: what safetensors calls them, how long they are, and what torch calls them."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BITS = MappingProxyType({
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
})  # fmt: skip
"""Length of one number by its type's name in safetensors."""

_TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip

BY_TORCH_NAME = MappingProxyType({own: name for name, own in _TORCH_NAMES.items()})
"""`float8_e4m3fn` → `F8_E4M3`, also where the installed torch lacks the type."""


def is_float(dtype: str) -> bool:
    """Whether a type of safetensors' holds floating-point numbers."""
    return dtype.startswith(("F", "BF"))


def torch_type(dtype: str) -> torch.dtype | None:
    """Torch's type of that name in safetensors; None where the installed torch has none."""
    import torch  # here: headers are read without it

    return getattr(torch, _TORCH_NAMES.get(dtype, ""), None)
