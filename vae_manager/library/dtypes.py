"""The number types of weights: what safetensors calls them, how long they are, and what torch calls them."""

from __future__ import annotations

from types import MappingProxyType

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

TORCH = MappingProxyType({name: getattr(torch, own) for name, own in _TORCH_NAMES.items() if hasattr(torch, own)})
"""Safetensors' names → torch's types, as far as the installed torch has them."""

NAMES = MappingProxyType({dtype: name for name, dtype in TORCH.items()})
"""Torch's types → safetensors' names."""

BY_TORCH_NAME = MappingProxyType({own: name for name, own in _TORCH_NAMES.items()})
"""`float8_e4m3fn` → `F8_E4M3`, also where the installed torch lacks the type."""
