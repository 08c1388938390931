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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vae_manager.errors import VaeFileError
from vae_manager.library.dtypes import NAMES
from vae_manager.library.layouts import Layout, as_conv, detect_layout
from vae_manager.library.tensors import TensorFile

VERSION = "vae-manager weights digest 1"

CHUNK = 1 << 15
"""Elements converted and hashed at a time. No more than torch converts in one thread: with more it starts as many
threads as there are cores, which wait for one another when the cores are busy (measured: 20 times slower)."""

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

_INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
    keys = (layout or detect_layout(file.header)).keys
    return _digest(_sorted_names(keys), lambda name: file.fetch(keys[name]), progress)


def state_digest(state: Mapping[str, Tensor], progress: Progress | None = None) -> WeightsDigest:
    """Digest of tensors in memory that have canonical names already, such as a loaded autoencoder's state dict.

    Raises:
        VaeFileError: a tensor is of a type that no VAE has.
    """
    return _digest(_sorted_names(state), lambda name: state[name].detach().cpu(), progress)


def _sorted_names(names: Iterable[str]) -> list[str]:
    own = (name for name in names if not name.startswith(_FOREIGN))
    return sorted(own, key=lambda name: name.encode("utf-8", "surrogatepass"))


def _digest(names: list[str], fetch: Callable[[str], Tensor], progress: Progress | None) -> WeightsDigest:
    stored, fp16 = (hashlib.sha256(_text(VERSION) + _text(kind)) for kind in ("stored", "fp16"))
    for done, name in enumerate(names, start=1):
        _add_tensor(stored, fp16, name, as_conv(name, fetch(name)))
        if progress is not None:
            progress(done, len(names))
    return WeightsDigest(stored.hexdigest(), fp16.hexdigest())


def _add_tensor(stored: Any, fp16: Any, name: str, tensor: Tensor) -> None:
    dtype = NAMES.get(tensor.dtype)
    if dtype not in _TYPES:
        raise VaeFileError(f"its tensor {name!r:.80} is of the type {tensor.dtype}, which no VAE has")
    rounded = "F16" if tensor.is_floating_point() else dtype
    stored.update(_preamble(name, dtype, tensor.shape))
    fp16.update(_preamble(name, rounded, tensor.shape))
    for chunk in _chunks(tensor):
        raw = _raw(chunk, dtype)
        stored.update(raw)
        fp16.update(raw if rounded == dtype else _raw(chunk.to(torch.float32).to(torch.float16), rounded))


def _preamble(name: str, dtype: str, shape: torch.Size) -> bytes:
    return _text(name) + _text(dtype) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return struct.pack("<I", len(encoded)) + encoded


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    """The elements in row-major order, `CHUNK` at a time, each chunk contiguous."""
    return iter(tensor.reshape(-1).split(CHUNK)) if tensor.numel() else iter(())


def _raw(values: Tensor, dtype: str) -> Any:
    """Little-endian bytes of a one-dimensional tensor, as a buffer, with every NaN the same."""
    bits = values.contiguous().view(_INTEGER_OF_SIZE[values.element_size()]).numpy()
    if dtype in _INFINITY:
        # NaNs are told by their bits: numpy knows no bfloat16, old versions of torch no isnan for one byte
        magnitude = bits & (2 ** (8 * bits.itemsize - 1) - 1)
        nan = magnitude > _INFINITY[dtype]
        if nan.any():
            bits = np.where(nan, bits.dtype.type(_QUIET_NAN[dtype]), bits)
    return bits if sys.byteorder == "little" else bits.byteswap()
