"""Unpickle what PyTorch writes, and nothing else: a name in a pickle is never imported, but looked up in a table.

The table holds exactly the names that PyTorch writes for tensors (`_TENSORS`) and those that A1111 (`modules/safe.py`)
and ComfyUI (`comfy/checkpoint_pickle.py`) let pass beside them (`_HARMLESS`), which become objects that do nothing.
Any other name is refused. Time and memory are bounded by what may be read (`MAX_PICKLE`).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar, NamedTuple

from vae_manager.errors import VaeFileError
from vae_manager.library.dtypes import BY_TORCH_NAME
from vae_manager.library.headers import MAX_DIMENSIONS, MAX_NUMBER

MAX_PICKLE = 4 << 20
"""Bytes of the pickle itself, without the tensors. A checkpoint's, optimizer and all, is below 1 MB."""

COST = 8
"""Bytes of `MAX_PICKLE` that an operation of one byte takes, where it makes an object each time."""


class Storage(NamedTuple):
    """A run of numbers in the file."""

    dtype: str | None
    """None where each tensor says its own type (`UntypedStorage`); then `count` is in bytes."""
    key: str
    start: int
    """The first number in the storage of that key."""
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]


class Stored(NamedTuple):
    """A tensor that lies in the file: a view of a storage."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


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


class Refused(Exception):
    """The pickle asks for something that is not in the tables."""


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class Unpickler(_PythonUnpickler):
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
        raise Refused(f"{module}.{name}")

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
            self._spend(len(items))  # one long list may be made into a mapping again and again
            for key, value in items:
                _put(made, key, value)
        return made

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise pickle.UnpicklingError("too much")

    def load_mark(self) -> None:
        self._spend(COST)
        super().load_mark()

    def load_memoize(self) -> None:
        self._spend(COST)
        super().load_memoize()

    def load_reduce(self) -> None:
        self._spend_on(self.stack[-1])
        super().load_reduce()

    def _spend_on(self, args: object) -> None:
        """One long tuple may be the arguments again and again, and is copied each time."""
        self._spend(len(args) if isinstance(args, tuple) else 0)

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
        self._spend_on(args)
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
        (pickle.BUILD, load_build), (pickle.GLOBAL, load_global),
        (pickle.MARK, load_mark), (pickle.MEMOIZE, load_memoize), (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_newobj),
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
    if type(key) is str:  # no other key names a tensor; whole numbers can be made to collide, tuples to hash for ever
        target[key] = value


class Limited(io.RawIOBase):
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
