"""Read PyTorch's pickles (`.pt`, `.ckpt`, `.pth`, `.bin`) without running anything that is in them.

`torch.load(weights_only=True)` refuses the scalars and the callback's class that Lightning left in the pickles of
Stable Diffusion's VAEs, cannot be told of others before torch 2.4, and reads a whole checkpoint to name its tensors.
So the pickle is read here, by an unpickler that is no wider: a name in it is never imported but looked up in a table
of exactly those that PyTorch writes for tensors (`_TENSORS`) and those that A1111 (`modules/safe.py`) and ComfyUI
(`comfy/checkpoint_pickle.py`) let pass beside them (`_HARMLESS`), which become objects that do nothing. Any other
name is refused. The tensors are only noted, and read from their places in the file when they are asked for.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, NamedTuple

from vae_manager.errors import VaeFileError
from vae_manager.library.downloads import described
from vae_manager.library.dtypes import BITS, BY_TORCH_NAME
from vae_manager.library.headers import MAX_DIMENSIONS, MAX_NUMBER
from vae_manager.library.reading import Source, as_bits, fill, new_bytes, open_file, os_reason, stamp_of

if TYPE_CHECKING:
    from vae_manager.library.reading import Bits

MAX_PICKLE = 8 << 20
"""Bytes of the pickle itself, without the tensors. A checkpoint's, optimizer and all, is below 1 MB."""

MAX_INFLATION = 20
"""Bytes out of an archive for each byte in it. PyTorch does not compress at all."""

_BROKEN = "it is neither a safetensors file nor a whole pickle of weights; fetch it again"
_BROKE_OFF = "it is a pickle that ends too early: the download broke off; fetch it again"
_MAGIC = 0x1950A86A20F9469CFC6C


class Storage(NamedTuple):
    """A run of numbers in the file."""

    dtype: str | None
    """None where each tensor says its own type (`UntypedStorage`); then `count` is in bytes."""
    key: str
    start: int
    """The first number in the storage of that key."""
    count: int


class Stored(NamedTuple):
    """A tensor that lies in the file: a view of a storage."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class PickleFile:
    """An opened pickle: its document, with `Stored` in place of tensors, and a way to read the bits of one."""

    document: object
    bits: Callable[[str, Stored], Bits]


class _StorageType(NamedTuple):
    dtype: str | None


class _Type(NamedTuple):
    dtype: str


class _Inert:
    """Stands for whatever does nothing here: takes every call and state, and remembers none."""

    __slots__ = ()

    def __call__(self, *_: object, **__: object) -> _Inert:
        return self


class _Call:
    """A function of ours that a pickle may call and cannot change (no attribute of it can be set)."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *args: object, **_: object) -> object:
        return self._function(*args)


def _counts(value: object) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > MAX_DIMENSIONS:
        raise pickle.UnpicklingError("a shape")
    if not all(type(n) is int and 0 <= n < MAX_NUMBER for n in value):
        raise pickle.UnpicklingError("a shape")
    return value


def _rebuild(storage: object, offset: object, shape: object, stride: object, *rest: object) -> Stored:
    kind = rest[2] if len(rest) > 2 else None
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    dtype = kind.dtype if isinstance(kind, _Type) else storage.dtype
    lengths, steps, (first,) = _counts(shape), _counts(stride), _counts((offset,))
    if dtype is None or len(lengths) != len(steps):
        raise pickle.UnpicklingError("a tensor without a type")
    return Stored(storage, dtype, first, lengths, steps)


def _parameter(data: object, *_: object) -> object:
    return data


_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "ComplexFloatStorage": "C64",
}  # fmt: skip

_TENSORS: Mapping[tuple[str, str], object] = {
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): _StorageType(None),
    **{("torch", name): _Type(dtype) for name, dtype in BY_TORCH_NAME.items()},
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_rebuild),
    ("torch._utils", "_rebuild_tensor_v3"): _Call(_rebuild),
    ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Call(_parameter),
}
"""What PyTorch writes for plain tensors."""

_HARMLESS = frozenset({
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("pytorch_lightning.callbacks", "model_checkpoint"),
    ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "dtype"), ("numpy", "ndarray"), ("_codecs", "encode"),
    ("__builtin__", "set"), ("builtins", "set"),
    ("torch", "Size"), ("torch", "device"), ("torch.nn.modules.container", "ParameterDict"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"), ("torch._utils", "_rebuild_sparse_tensor"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"), ("torch._utils", "_rebuild_nested_tensor"),
    ("torch._utils", "_rebuild_qtensor"), ("torch", "per_tensor_affine"), ("torch.serialization", "_get_layout"),
})  # fmt: skip
"""What may lie beside the tensors. Nothing is imported for them: each becomes an object that does nothing."""

_MAPPINGS = frozenset({("collections", "OrderedDict"), ("collections", "Counter"), ("collections", "defaultdict")})

_KEYS = (str, int, float, bool, bytes, type(None), _Inert)
"""What may be a key. The hash of tuples within tuples takes exponential time."""


class _Refused(Exception):
    """The pickle asks for something that is not in the tables."""


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(_PythonUnpickler):
    """The one written in Python: its memo is a dict, where the other's fills the memory at one large index."""

    def __init__(self, file: Any, dtype_of_storages: dict[str, Storage]) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self._storages = dtype_of_storages
        self._left = MAX_PICKLE
        self._mapping = _Call(self._make_mapping)

    def find_class(self, module: str, name: str) -> Any:
        if (found := _TENSORS.get((module, name))) is not None:
            return found
        if (module, name) in _MAPPINGS:
            return self._mapping
        if (module, name) in _HARMLESS:
            return _Inert()
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Storage:
        """('storage', its type, key, device, count) and for old files a view of it; the device does not matter."""
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or type(pid[2]) is not str:
            raise pickle.UnpicklingError("a storage")
        if not isinstance(pid[1], _StorageType):
            raise pickle.UnpicklingError("a storage's type")
        storage = Storage(pid[1].dtype, pid[2], 0, _counts((pid[4],))[0])
        self._storages.setdefault(storage.key, storage)
        if len(pid) == 6 and pid[5] is not None:
            _, start, count = pid[5]
            start, count = _counts((start, count))
            storage = storage._replace(start=start, count=count)
        return storage

    def _make_mapping(self, *args: object) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for pairs in args:
            items = list(pairs.items()) if isinstance(pairs, dict) else pairs
            if not isinstance(items, (list, tuple)):
                continue
            self._left -= len(items)
            if self._left < 0:  # one long list, made into a mapping again and again
                raise pickle.UnpicklingError("too much")
            for key, value in items:
                _put(made, key, value)
        return made

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], key, value)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            _put(self.stack[-1], key, value)

    def load_dict(self) -> None:
        items, made = self.pop_mark(), {}
        for key, value in zip(items[::2], items[1::2], strict=True):
            _put(made, key, value)
        self.append(made)

    def load_empty_set(self) -> None:
        self.append([])

    def load_build(self) -> None:
        """No state of any object matters here."""
        self.stack.pop()

    def load_newobj(self) -> None:
        args, made = self.stack.pop(), self.stack.pop()
        self.append(made(*args))

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def load_global(self) -> None:
        """A name that breaks off is a broken download, and no name."""
        lines = self.readline(), self.readline()
        if not all(line.endswith(b"\n") for line in lines):
            raise EOFError
        self.append(self.find_class(*(line[:-1].decode() for line in lines)))

    def load_refused(self) -> None:
        raise pickle.UnpicklingError("an operation that PyTorch does not write")

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)
    for _operation, _method in (
        (pickle.SETITEM, load_setitem), (pickle.SETITEMS, load_setitems), (pickle.DICT, load_dict),
        (pickle.BUILD, load_build), (pickle.GLOBAL, load_global), (pickle.NEWOBJ, load_newobj),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.EMPTY_SET, load_empty_set), (pickle.ADDITEMS, dispatch[pickle.APPENDS[0]]),
        (pickle.FROZENSET, dispatch[pickle.LIST[0]]),
        (pickle.EXT1, load_refused), (pickle.EXT2, load_refused), (pickle.EXT4, load_refused),
        (pickle.BYTEARRAY8, load_refused), (pickle.NEXT_BUFFER, load_refused),
        (pickle.READONLY_BUFFER, load_refused),
    ):  # fmt: skip
        dispatch[_operation[0]] = _method


def _put(target: object, key: object, value: object) -> None:
    if isinstance(target, _Inert):
        return
    if type(target) is not dict:
        raise pickle.UnpicklingError("an entry of something that has none")
    if type(key) in _KEYS:
        target[key] = value


class _Limited(io.RawIOBase):
    """A file of which no more than `MAX_PICKLE` bytes are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, MAX_PICKLE

    def read(self, size: int = -1, /) -> bytes:
        return self._spent(self._file.read(min(size, self._left + 1) if size >= 0 else self._left + 1))

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._spent(self._file.readline(self._left + 1))

    def _spent(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise VaeFileError(
                f"the part of it that is no tensor takes more than {MAX_PICKLE >> 20} MB: it is no file of weights, or "
                "made to do harm"
            )
        return data


def open_pickle(path: Path) -> PickleFile:
    """Open a pickle of PyTorch, of the kind since 1.6 (a zip archive) or the older one.

    Raises:
        VaeFileError: it is none, broken, or asks for more than tensors.
    """
    with open_file(path) as file:
        try:
            return _open(Source(path, stamp_of(file)), file)
        except (VaeFileError, _Refused) as error:
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


def _refusal(error: _Refused) -> VaeFileError:
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
            raise VaeFileError("it is a zip archive, but no pickle of weights; unpack it if it holds a model")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") == b"big":
            raise VaeFileError("it was saved on a machine of the other byte order; get the safetensors version of it")
        with archive.open(pickles[0]) as inner:
            document = _Unpickler(io.BytesIO(_Limited(inner).read()), {}).load()  # type: ignore[arg-type]

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
    limited = _Limited(file)
    magic, _, machine = (_Unpickler(limited, {}).load() for _ in range(3))
    if magic != _MAGIC:
        raise VaeFileError(_BROKEN)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise VaeFileError("it was saved on a machine of the other byte order; get the safetensors version of it")
    document = _Unpickler(limited, storages).load()
    order = _Unpickler(limited, {}).load()
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
    return as_strided(flat, stored.shape, [size * step for step in stored.stride])
