"""Read PyTorch's pickles (`.pt`, `.ckpt`, `.pth`, `.bin`) without running anything that is in them.

`torch.load(weights_only=True)` refuses the scalars and the callback's class that Lightning left in the pickles of
Stable Diffusion's VAEs, cannot be told of others before torch 2.4, and reads a whole checkpoint to name its tensors.
So the pickle is read by an unpickler that is no wider (`library.unpickler`). The tensors are only noted, and read from
their places in the file when they are asked for.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vae_manager.downloads import described
from vae_manager.errors import VaeFileError, os_reason
from vae_manager.library.dtypes import BITS
from vae_manager.library.reading import Source, as_bits, fill, new_bytes, open_file, stamp_of
from vae_manager.library.unpickler import Limited, Refused, Storage, Stored, Unpickler

if TYPE_CHECKING:
    from vae_manager.library.reading import Bits

MAX_INFLATION = 20
"""Bytes out of an archive for each byte in it. PyTorch does not compress at all."""

_BROKEN = "it is neither a safetensors file nor a whole pickle of weights; fetch it again"
_BROKE_OFF = "it is a pickle that ends too early: the download broke off; fetch it again"
_OTHER_ORDER = "it was saved on a machine of the other byte order; get the safetensors version of it"
_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class PickleFile:
    """An opened pickle: its document, with `Stored` in place of tensors, and a way to read the bits of one."""

    document: object
    bits: Callable[[str, Stored], Bits]


def open_pickle(path: Path) -> PickleFile:
    """Open a pickle of PyTorch, of the kind since 1.6 (a zip archive) or the older one.

    Raises:
        VaeFileError: it is none, broken, or asks for more than tensors.
    """
    with open_file(path) as file:
        try:
            return _open(Source(path, stamp_of(file)), file)
        except (VaeFileError, Refused) as error:
            raise error if isinstance(error, VaeFileError) else _refusal(error) from error
        except OSError as error:
            raise VaeFileError(f"it cannot be read: {os_reason(error)}") from error
        except EOFError as error:
            raise VaeFileError(_BROKE_OFF) from error
        except Exception as error:  # a broken pickle raises anything: all mean the same to the user
            raise VaeFileError(_BROKEN) from error


def _open(source: Source, file: BinaryIO) -> PickleFile:
    start = file.read(4096)
    if not start.startswith(b"PK\3\4") and not start.startswith((b"\x80", b"(", b"c", b"}")):
        raise VaeFileError(_no_pickle(start, source.size))
    if start.startswith(b"PK\3\4") or zipfile.is_zipfile(file):
        if not zipfile.is_zipfile(file):
            raise VaeFileError("it is a pickle whose end is missing: the download broke off; fetch it again")
        return _open_zip(source, file)
    file.seek(0)
    return _open_old(source, file)


def _no_pickle(start: bytes, size: int) -> str:
    if start[257:262] == b"ustar":
        return "it is a tar archive, which no WebUI loads safely; ask for safetensors"
    return described(start, size) or _BROKEN


def _refusal(error: Refused) -> VaeFileError:
    return VaeFileError(
        f"it is a pickle with more in it than weights ({error!s:.80}), which could run code on this computer, so it "
        "was not loaded; get the safetensors version of it"
    )


def _open_zip(source: Source, file: BinaryIO) -> PickleFile:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if sum(entry.file_size for entry in entries.values()) > MAX_INFLATION * source.size:
            raise VaeFileError("it inflates to many times its size: it is no file of weights, or made to do harm")
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            if any(name.endswith(".npy") for name in entries):
                raise VaeFileError("it is an archive of numpy's arrays (latents?), and no model")
            raise VaeFileError("it is a zip archive, but no pickle of weights; unpack it if it holds a model")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in entries:
            with archive.open(f"{root}byteorder") as inner:
                if inner.read(4) == b"big":
                    raise VaeFileError(_OTHER_ORDER)
        with archive.open(pickles[0]) as inner:
            document = Unpickler(io.BytesIO(Limited(inner).read()), {}).load()  # type: ignore[arg-type]

    def read(key: str, start: int, count: int) -> Bits:
        entry = entries.get(f"{root}data/{key}")
        if entry is None:
            raise VaeFileError("a part of it is missing: the file is broken; fetch it again")
        return _read_entry(source, entry, start, count)

    return PickleFile(document, lambda name, stored: _bits(name, stored, read))


def _read_entry(source: Source, entry: zipfile.ZipInfo, start: int, count: int) -> Bits:
    """`count` bytes of one entry of an archive, from `start` on."""
    if start + count > entry.file_size:
        raise VaeFileError("a part of it is too short: the file is broken; fetch it again")
    if entry.flag_bits & 1:
        raise VaeFileError("it is encrypted; unpack it first")
    local = bytes(source.read(entry.header_offset, 30))
    at = entry.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if entry.compress_type == zipfile.ZIP_STORED:
        return source.read(at + start, count)
    if entry.compress_type != zipfile.ZIP_DEFLATED:
        raise VaeFileError("it is compressed in a way that PyTorch does not know; fetch it again")
    packed = source.read(at, entry.compress_size)
    try:
        data = zlib.decompressobj(-15).decompress(packed.tobytes(), start + count)
    except zlib.error as error:
        raise VaeFileError(_BROKEN) from error
    raw = new_bytes(count)
    fill(io.BytesIO(data[start:]), raw)
    return raw


def _open_old(source: Source, file: BinaryIO) -> PickleFile:
    """Five pickles: a magic number, a version, the machine, the document and the storages' order; then these."""
    storages: dict[str, Storage] = {}
    limited = Limited(file)
    magic, _, machine = (Unpickler(limited, {}).load() for _ in range(3))
    if magic != _MAGIC:
        raise VaeFileError(_BROKEN)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise VaeFileError(_OTHER_ORDER)
    document = Unpickler(limited, storages).load()
    order = Unpickler(limited, {}).load()
    places: dict[str, tuple[int, int]] = {}
    at = file.tell()
    for key in order:
        storage = storages[key]
        size = storage.count * BITS[storage.dtype or "U8"] // 8
        places[key] = at + 8, size
        at += 8 + size
    if at > source.size:
        raise VaeFileError(f"it is truncated: {at - source.size} of its {at} bytes are missing; fetch it again")

    def read(key: str, start: int, count: int) -> Bits:
        first, size = places[key]
        if start + count > size:
            raise VaeFileError("a part of it is too short: the file is broken; fetch it again")
        return source.read(first + start, count)

    return PickleFile(document, lambda name, stored: _bits(name, stored, read))


def _bits(name: str, stored: Stored, read: Callable[[str, int, int], Bits]) -> Bits:
    from numpy.lib.stride_tricks import as_strided  # here: see `library.reading`

    size = BITS[stored.dtype] // 8
    total = 1
    for length in stored.shape:
        total *= length
    if total == 0:
        return as_bits(name, new_bytes(0), stored.dtype, stored.shape)
    span = 1 + sum((length - 1) * step for length, step in zip(stored.shape, stored.stride, strict=True))
    held = stored.storage.count if stored.storage.dtype else stored.storage.count // size
    if stored.offset + span > held or total > held:
        raise VaeFileError(f"its tensor {name!r:.80} is larger than what is stored of it: the file is broken")
    raw = read(stored.storage.key, (stored.storage.start + stored.offset) * size, span * size)
    flat = as_bits(name, raw, stored.dtype, (span,))
    # a step along a side of length 1 is never taken, and may be any number
    steps = [size * step if length > 1 else 0 for length, step in zip(stored.shape, stored.stride, strict=True)]
    try:
        return as_strided(flat, stored.shape, steps)
    except ValueError as error:  # more sides than numpy has
        raise VaeFileError(f"its tensor {name!r:.80} cannot be read: the file is broken; fetch it again") from error
