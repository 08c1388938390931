"""Pickles made to run something, to fill the memory or to take for ever: one sentence each, and nothing is done."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vae_manager.errors import VaeFileError
from vae_manager.library.pickles import open_pickle
from vae_manager.library.tensors import open_tensors

PROTOCOL = b"\x80\x02"
MAGIC = 0x1950A86A20F9469CFC6C


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8b" + struct.pack("<i", size) + value.to_bytes(size, "little", signed=True)


def name(module: str, of: str) -> bytes:
    return f"c{module}\n{of}\n".encode()


def many(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def numbers(*values: int) -> bytes:
    return many(*map(number, values))


FLOATS, NOTHING, DTYPE = name("torch", "FloatStorage"), name("collections", "OrderedDict"), name("numpy", "dtype")
REBUILD, MORE = name("torch._utils", "_rebuild_tensor_v2"), name("torch._utils", "_rebuild_tensor_v3")


def storage(kind: bytes = FLOATS, key: bytes = text("0"), count: bytes = number(4), view: bytes = b"") -> bytes:
    return many(text("storage"), kind, key, text("cpu"), count, view) + b"Q"


def tensor(
    of: bytes | None = None, offset: int = 0, shape: bytes = numbers(2, 2), stride: bytes = numbers(2, 1)
) -> bytes:
    return REBUILD + many(of or storage(), number(offset), shape, stride, b"\x89", NOTHING + b")R") + b"R"


def document(value: bytes) -> bytes:
    return PROTOCOL + b"}" + text("a") + value + b"s."


def zipped(data: bytes, root: str = "archive/", **parts: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(f"{root}data.pkl", data)
        for part, content in (parts or {"0": bytes(16)}).items():
            archive.writestr(f"{root}data/{part}", content)
    return made.getvalue()


def old(data: bytes, order: object = ("0",)) -> bytes:
    head = [pickle.dumps(MAGIC, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    return b"".join([*head, data, pickle.dumps(order, 2), struct.pack("<Q", 4), bytes(16)])


CALL = name("os", "system") + many(text("touch witness"))

CODE = {
    "REDUCE": PROTOCOL + CALL + b"R.",
    "INST": PROTOCOL + b"(" + text("touch witness") + b"ios\nsystem\n.",
    "OBJ": PROTOCOL + b"(" + name("os", "system") + text("touch witness") + b"o.",
    "NEWOBJ": PROTOCOL + CALL + b"\x81.",
    "NEWOBJ_EX": b"\x80\x04" + CALL + b"}\x92.",
    "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + many(text("touch witness")) + b"R.",
    "an attribute of what is let pass": b"\x80\x04"
    + text("torch")
    + text("FloatStorage.__init__.__globals__")
    + b"\x93.",
    "a method of what is let pass": b"\x80\x04" + text("collections") + text("OrderedDict.fromkeys") + b"\x93.",
    "an empty name": PROTOCOL + b"c\n\n.",
}


@pytest.mark.parametrize("case", CODE)
@pytest.mark.parametrize("wrapped", [zipped, old], ids=["zip", "old"])
def test_every_way_to_call_something_is_refused(tmp_path: Path, monkeypatch, case: str, wrapped):
    monkeypatch.chdir(tmp_path)
    Path("v.pt").write_bytes(wrapped(CODE[case]))
    with pytest.raises(VaeFileError, match="could run code") as caught:
        open_tensors(Path("v.pt"))
    assert not Path("witness").exists() and len(str(caught.value)) < 300


WRONG = {
    "a global of numbers": b"\x80\x04" + number(1) + number(2) + b"\x93.",
    "a global of mappings": b"\x80\x04}}\x93.",
    "an attribute set on a function": PROTOCOL + REBUILD + text("x") + number(1) + b"s.",
    "an attribute set on a type": PROTOCOL + FLOATS + text("x") + number(1) + b"s.",
    "an element for a mapping": PROTOCOL + b"}" + number(1) + b"a.",
    "an element for a text": PROTOCOL + text("x") + number(1) + b"a.",
    "a text that is called": PROTOCOL + text("format") + many(number(1)) + b"R.",
    "a mapping of triples": document(NOTHING + many(many(numbers(1, 2, 3))) + b"R"),
    "a tensor of nothing": document(REBUILD + b")R"),
    "arguments that are a number": document(REBUILD + number(3) + b"R"),
    "a memo that is not there": PROTOCOL + b"h\x05.",
    "a memo before the first": PROTOCOL + b"Np-5\n.",
    "a memo of thousands of digits": PROTOCOL + b"Np" + b"9" * 9000 + b"\n.",
    "a number of a million digits": PROTOCOL + b"I" + b"9" * 1_000_000 + b"\n.",
    "a count of a megabyte": document(tensor(storage(count=number(1 << (8 << 20) - 9)))),
    "a number of less than no bytes": PROTOCOL + b"\x8b" + struct.pack("<i", -5) + b".",
    "a text of less than no bytes": PROTOCOL + b"T" + struct.pack("<i", -5) + b".",
    "a frame of exabytes": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "a frame of a terabyte": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "protocol 255": b"\x80\xffN.",
    "an unknown operation": PROTOCOL + b"\xffN.",
    "a storage that is a text": PROTOCOL + b"Pabc\n.",
    "a storage that is nothing": PROTOCOL + b"NQ.",
    "a storage that is a list": PROTOCOL + b"]Q.",
    "a storage of one part": PROTOCOL + many(text("storage")) + b"Q.",
    "a storage of an unknown type": document(tensor(storage(text("FloatStorage")))),
    "a storage whose key is a mapping": document(tensor(storage(key=b"}"))),
    "a storage of less than nothing": document(tensor(storage(count=number(-4)))),
    "a storage of True": document(tensor(storage(count=b"\x88"))),
    "a storage of 4.0": document(tensor(storage(count=b"G" + struct.pack(">d", 4.0)))),
    "a view of two parts": document(tensor(storage(view=many(text("v"), number(2))))),
    "a view that begins before": document(tensor(storage(view=many(text("v"), number(-1), number(2))))),
    "an offset before": document(tensor(offset=-1)),
    "a step back": document(tensor(stride=numbers(-2, 1))),
    "a side of less than nothing": document(tensor(shape=numbers(-2, 2))),
    "65 sides": document(tensor(shape=numbers(*[1] * 65), stride=numbers(*[1] * 65))),
    "sides that are a list": document(tensor(shape=b"]")),
    "sides that are True": document(tensor(shape=many(b"\x88", b"\x88"))),
    "other sides than steps": document(tensor(stride=numbers(1))),
    "no type at all": document(tensor(storage(name("torch.storage", "UntypedStorage")))),
    "two million tuples in tuples": PROTOCOL + b")" + b"\x85" * 2_000_000 + b".",
    "millions of marks": PROTOCOL + b"(" * 4_000_000 + b".",
    "millions of memos": b"\x80\x04N" + b"\x94" * 4_000_000 + b".",
    "a long tuple as arguments ever again": PROTOCOL
    + b"(" + b"N" * 500_000 + b"tq\0" + (DTYPE + b"h\0R0") * 40_000 + b"N.",
    "a long tuple for an object ever again": PROTOCOL
    + b"(" + b"N" * 500_000 + b"tq\0" + (DTYPE + b"h\0\x81") * 40_000 + b"N.",
    "a long list as a mapping ever again": PROTOCOL
    + b"]q\0(" + b"K\1K\1\x86" * 100_000 + b"e" + (NOTHING + b"h\0\x85R") * 20_000 + b"N.",
    "keys whose hashes are equal": PROTOCOL
    + b"}(" + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(1, 150_000)) + b"u.",
}  # fmt: skip


@pytest.mark.timeout(120)  # squared, each of the last would take many minutes: no clock is read
@pytest.mark.parametrize("case", WRONG)
def test_what_pytorch_never_writes_is_one_sentence(tmp_path: Path, case: str):
    path = tmp_path / "v.pt"
    path.write_bytes(zipped(WRONG[case]))
    with pytest.raises(VaeFileError) as caught:
        open_tensors(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert "fault" not in str(caught.value)


UNTYPED = storage(name("torch.storage", "UntypedStorage"), count=number(15))
LYING = {
    "a count beyond the part": tensor(storage(count=number(2**62)), shape=numbers(2**30), stride=numbers(1)),
    "a view beyond the storage": tensor(storage(view=many(text("v"), number(3), number(400)))),
    "an offset beyond the storage": tensor(offset=3),
    "an endless offset": tensor(offset=2**62),
    "an endless step": tensor(stride=numbers(2**62, 1)),
    "a terabyte of one number": tensor(shape=numbers(10**6, 10**6), stride=numbers(0, 0)),
    "64 sides of 2": tensor(shape=numbers(*[2] * 64), stride=numbers(*[0] * 64)),
    "15 bytes as 4 numbers": MORE
    + many(UNTYPED, number(0), numbers(4), numbers(1), b"\x89", b"}", name("torch", "float32"))
    + b"R",
    "floats that are said to be doubles": MORE
    + many(storage(), number(0), numbers(4), numbers(1), b"\x89", b"}", name("torch", "float64"))
    + b"R",
    "a key that leads to the pickle": tensor(storage(key=text("../data.pkl"))),
    "a key that leads out": tensor(storage(key=text("../../v.pt"))),
}


@pytest.mark.parametrize("case", LYING)
def test_a_tensor_that_lies_is_refused_when_it_is_asked_for(tmp_path: Path, case: str):
    path = tmp_path / "v.pt"
    path.write_bytes(zipped(document(LYING[case])))
    opened = open_tensors(path)
    with pytest.raises(VaeFileError) as caught:
        opened.fetch("a")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_step_that_is_never_taken_may_be_any_number(tmp_path: Path):
    path = tmp_path / "v.pt"
    path.write_bytes(zipped(document(tensor(shape=numbers(1, 4), stride=numbers(2**62, 1)))))
    assert open_tensors(path).fetch("a").shape == (1, 4)


def test_state_that_is_set_changes_nothing(tmp_path: Path):
    """BUILD on a tensor, on the function that makes it, on what stands for nothing."""
    state = b"}" + text("shape") + number(9) + b"s" + b"b"
    path = tmp_path / "v.pt"
    path.write_bytes(zipped(PROTOCOL + REBUILD + state + b"0" + DTYPE + state + b"0" + document(tensor() + state)[2:]))
    assert open_tensors(path).fetch("a").shape == (2, 2)


ORDERS = {"another key": ["1"], "a number": 5, "a list in it": [[]], "one key many times": ["0"] * 100_000}


@pytest.mark.parametrize("order", ORDERS)
def test_an_old_pickle_whose_order_lies(tmp_path: Path, order: str):
    path = tmp_path / "v.pt"
    path.write_bytes(old(document(tensor()), ORDERS[order]))
    with pytest.raises(VaeFileError):
        open_pickle(path)


def test_archives_that_lie(tmp_path: Path):
    whole = zipped(document(tensor()))
    entry = whole.rfind(b"PK\1\2")

    def changed(at: int, part: bytes) -> bytes:
        return whole[: entry + at] + part + whole[entry + at + len(part) :]

    path = tmp_path / "v.pt"
    for data in (
        zipped(b"PK\3\4" + whole),
        zipped(document(tensor()), **{"1": b""}),
        zipped(document(tensor()), **{"0": bytes(3)}),
        changed(42, struct.pack("<I", 2**31)),  # where it lies
        changed(20, struct.pack("<II", 2**31, 2**31)),  # how large it is
        changed(10, b"\x63"),  # how it is packed
        changed(8, b"\x01"),  # encrypted
    ):
        path.write_bytes(data)
        with pytest.raises(VaeFileError) as caught:
            open_tensors(path).fetch("a")
        assert "\n" not in str(caught.value)
    np.savez(path.with_suffix(".npz"), latents=np.zeros((4, 2, 2), np.float32))
    with pytest.raises(VaeFileError, match="numpy's arrays"):
        open_tensors(path.with_suffix(".npz"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", document(tensor()))
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/byteorder", "big")
    with pytest.raises(VaeFileError, match="byte order"):
        open_tensors(path)
