"""The weights digest: recognise the same weights whatever their file looks like.

One set of weights circulates under many file hashes: as pickle and as safetensors, in ldm's and in diffusers'
layout, in full and in half precision, with and without the discriminator beside it, and baked into checkpoints.
The digest is taken over what they have in common: the VAE's own tensors under canonical names.

The format, so that others can compute it too (version 1, all integers little-endian):

    text(s)  = uint32 length of s in bytes, then s in UTF-8
    digest   = sha256( text("vae-manager weights digest 1") text(kind) tensor* )
    tensor   = text(name) text(dtype) uint32 number-of-dimensions uint64* shape, values

- `kind` is `stored` or `fp16`.
- Tensors come in ascending order of the bytes of `name`. For KL autoencoders `name` is ldm's (see
  `library.layouts`), without a checkpoint's prefix, and attention's q, k, v and proj_out weights have the shape
  (out, in, 1, 1) also where the file keeps (out, in). Other autoencoders have the canonical names that their
  own modules in `codec/` document. Only tensors of the VAE count: no discriminator, loss, EMA copy or optimizer state.
- `values` are the elements in row-major order, each little-endian, without padding. NaNs are all written as the
  quiet NaN whose sign and payload are 0: 0x7ff8000000000000 (F64), 0x7fc00000 (F32), 0x7e00 (F16),
  0x7fc0 (BF16), 0x7f (F8_E4M3 and F8_E5M2). Minus zero stays minus zero.
- `stored`: `dtype` is safetensors' name for the tensor's type, `values` are as stored.
- `fp16`: every floating-point tensor is converted to IEEE float32 and from there to IEEE float16, each time to the
  nearest value (ties to even, too large becomes infinite), and `dtype` is "F16"; other tensors as in `stored`.

What follows: equal `stored` means the same numbers in the same precision. Equal `fp16` means the same numbers up
to half precision, so float32 weights and their float16 copy agree; a bfloat16 copy has lost bits that float16
keeps, and agrees with nothing but other copies of itself.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from vae_manager.errors import VaeFileError
from vae_manager.library.dtypes import is_float
from vae_manager.library.layouts import Layout, canonical_shapes, detect_layout
from vae_manager.library.tensors import TensorFile

if TYPE_CHECKING:
    from vae_manager.library.reading import Bits

VERSION = "vae-manager weights digest 1"

CHUNK = 1 << 15
"""Elements converted and hashed at a time: no more than the processor's nearest memory holds."""

Progress = Callable[[int, int], None]
"""Called with (tensors done, tensors in all). An exception raised in it stops the work and is passed on."""

_FOREIGN = ("loss.", "model_ema.", "ema.", "optimizer.", "discriminator.")
"""What trainers keep beside a VAE."""

_INFINITY = MappingProxyType(
    {"F64": 0x7FF << 52, "F32": 0xFF << 23, "F16": 0x1F << 10, "BF16": 0xFF << 7, "F8_E4M3": 0x7E, "F8_E5M2": 0x7C}
)
"""Bits of the largest number that is no NaN: infinity, or 448 for F8_E4M3, which has no infinity."""

_QUIET_NAN = MappingProxyType(
    {"F64": 0xFFF << 51, "F32": 0x1FF << 22, "F16": 0x3F << 9, "BF16": 0x1FF << 6, "F8_E4M3": 0x7F, "F8_E5M2": 0x7F}
)

_TYPES = frozenset((*_INFINITY, "I64", "I32", "I16", "I8", "U8", "BOOL"))


@dataclass(frozen=True)
class WeightsDigest:
    """The two digests of one set of weights, 64 lower-case hexadecimal digits each."""

    stored: str
    fp16: str


def weights_digest(file: TensorFile, layout: Layout | None = None, progress: Progress | None = None) -> WeightsDigest:
    """Digest of the VAE in an opened file, which may be a whole checkpoint; reads nothing but the VAE's tensors.

    Args:
        layout: what `detect_layout(file.header)` said, where the caller has it already.
        progress: called after each tensor.

    Raises:
        VaeFileError: there is no VAE in the file, or one of its tensors is of a type that no VAE has.
    """
    layout = layout or detect_layout(file.header)
    shapes = canonical_shapes(file.header, layout)
    names = _sorted_names(layout.keys)
    stored, fp16 = (hashlib.sha256(_text(VERSION) + _text(kind)) for kind in ("stored", "fp16"))
    for done, name in enumerate(names, start=1):
        own = layout.keys[name]
        dtype = file.header.tensors[own].dtype
        if dtype not in _TYPES:
            raise VaeFileError(f"its tensor {name!r:.80} is of the type {dtype!r:.20}, which no VAE has")
        _add_tensor(stored, fp16, _text(name), dtype, shapes[name], file.bits(own))
        if progress is not None:
            progress(done, len(names))
    return WeightsDigest(stored.hexdigest(), fp16.hexdigest())


def half_bits(bits: Bits, dtype: str) -> Bits:
    """Floating-point numbers rounded as the digest `fp16` rounds them, as bits of float16."""
    return _one_nan(bits if dtype == "F16" else _half(bits, dtype), "F16")


def _sorted_names(names: Iterable[str]) -> list[str]:
    own = (name for name in names if not name.startswith(_FOREIGN))
    return sorted(own, key=lambda name: name.encode("utf-8", "surrogatepass"))


def _add_tensor(stored: Any, fp16: Any, name: bytes, dtype: str, shape: tuple[int, ...], bits: Bits) -> None:
    rounded = "F16" if is_float(dtype) else dtype
    stored.update(name + _preamble(dtype, shape))
    fp16.update(name + _preamble(rounded, shape))
    flat = bits.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        chunk = flat[start : start + CHUNK]
        raw = _little_endian(_one_nan(chunk, dtype))
        stored.update(raw)
        fp16.update(raw if rounded == dtype else _little_endian(half_bits(chunk, dtype)))


def _preamble(dtype: str, shape: tuple[int, ...]) -> bytes:
    return _text(dtype) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return struct.pack("<I", len(encoded)) + encoded


def _half(bits: Bits, dtype: str) -> Bits:
    """Bits of another floating-point type → bits of float16, by way of float32; numpy rounds ties to even."""
    if dtype == "F8_E5M2":  # a float16 whose last eight bits are gone
        return bits.astype(np.uint16) << 8
    if dtype == "F8_E4M3":
        return _e4m3_as_half()[bits]
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "F64":
            wide = bits.view(np.float64).astype(np.float32)
        else:  # a bfloat16 is a float32 whose last sixteen bits are gone
            wide = (bits.astype(np.uint32) << 16 if dtype == "BF16" else bits).view(np.float32)
        return wide.astype(np.float16).view(np.uint16)


@cache
def _e4m3_as_half() -> Bits:
    """All 256 numbers of F8_E4M3: a sign, four bits of exponent and three of mantissa, no infinity."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    values = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    values[(codes & 127) == 127] = np.nan
    return np.where(codes & 128, -values, values).astype(np.float16).view(np.uint16)


def _one_nan(bits: Bits, dtype: str) -> Bits:
    """The same bits with every NaN the same one: told by its bits, for numpy knows no bfloat16."""
    if dtype in _INFINITY:
        nan = (bits & bits.dtype.type(2 ** (8 * bits.itemsize - 1) - 1)) > _INFINITY[dtype]
        if nan.any():
            return np.where(nan, bits.dtype.type(_QUIET_NAN[dtype]), bits)
    return bits


def _little_endian(bits: Bits) -> Any:
    return np.ascontiguousarray(bits if sys.byteorder == "little" else bits.byteswap())
