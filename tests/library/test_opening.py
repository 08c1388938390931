"""Opening model files: as tolerantly as the hosts, without running or mapping anything, and always with one reason."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import make_state
from vae_manager.errors import VaeFileError
from vae_manager.json_text import parse_json, read_json_text
from vae_manager.library import digest, hashing, reading
from vae_manager.library.files import Folder, find_vaes, model_files, vae_file
from vae_manager.library.identify import identify
from vae_manager.library.numbers import computable
from vae_manager.library.tensors import open_tensors, read_header

FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def safetensors(path: Path, header: object, body: bytes = b"", pad: int = 0, **dumps: object) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header, **dumps).encode()  # type: ignore[arg-type]
    raw += b" " * pad
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + body)
    return path


def entry(start: int, end: int, dtype: str = "U8", shape: object = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def refusal(path: Path) -> str:
    with pytest.raises(VaeFileError) as caught:
        opened = open_tensors(path)
        for name in opened.header.tensors:
            opened.fetch(name)
    with pytest.raises(VaeFileError):
        identify(vae_file(path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return str(caught.value)


# --- safetensors as programs write them


@pytest.mark.parametrize("metadata", [{"step": 12, "ok": True, "deep": {"a": 1}}, None, {"title": "x"}, [1], "x"])
@pytest.mark.parametrize("dumps", [{}, {"separators": (",", ":")}, {"indent": 1}], ids=["spaces", "compact", "indent"])
@pytest.mark.parametrize("last", [False, True])
def test_metadata_of_any_form(tmp_path: Path, metadata: object, dumps: dict[str, object], last: bool):
    parts = [{"__metadata__": metadata}, {"a": entry(0, 3)}]
    document = {**parts[last], **parts[not last]}
    path = safetensors(tmp_path / "v.safetensors", document, b"\1\2\3", pad=5, **dumps)
    opened = open_tensors(path)
    assert opened.fetch("a").tolist() == [1, 2, 3] and list(opened.header.tensors) == ["a"]
    if isinstance(metadata, dict):
        assert opened.header.metadata.get("title", "x") == "x"
        assert opened.header.metadata.get("step", "12") == "12" and opened.header.metadata.get("ok", "true") == "true"


def test_holes_trailing_bytes_and_wide_padding(tmp_path: Path):
    document = {"a": entry(0, 2), "b": entry(10, 12)}
    opened = open_tensors(safetensors(tmp_path / "v.sft", document, bytes(range(40)), pad=100_001))
    assert opened.fetch("a").tolist() == [0, 1] and opened.fetch("b").tolist() == [10, 11]


@pytest.mark.parametrize(
    "dtype,shape,size",
    [("F8_E8M0", [4], 4), ("F4", [3], 2), ("F6_E2M3", [4], 3), ("F8_E4M3FNUZ", [2], 2), ("F99", [7], 3)],
)
def test_a_type_that_no_vae_has_beside_it(tmp_path: Path, dtype: str, shape: list[int], size: int):
    document = {"scale": entry(0, size, dtype, shape), "a": entry(size, size + 1)}
    opened = open_tensors(safetensors(tmp_path / "v.safetensors", document, bytes(size) + b"\7"))
    assert opened.fetch("a").tolist() == [7] and opened.header.tensors["scale"].dtype == dtype
    if dtype in ("F4", "F99"):
        with pytest.raises(VaeFileError, match="does not know"):
            opened.fetch("scale")


@pytest.mark.parametrize("name,dtype", FP8.items())
def test_fp8_is_named_as_what_it_is_and_keeps_its_bits(tmp_path: Path, name: str, dtype: torch.dtype):
    numbers = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(4, 64)
    save_file({"a": numbers}, tmp_path / "v.safetensors")
    torch.save({"a": numbers}, tmp_path / "v.pt")
    torch.save({"a": numbers}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        opened = open_tensors(path)
        assert opened.header.tensors["a"].dtype == name and opened.header.tensors["a"].shape == (4, 64)
        assert torch.equal(opened.fetch("a").view(torch.uint8), numbers.view(torch.uint8))
    assert computable(numbers).dtype == torch.float32 and computable(torch.ones(2).half()).dtype == torch.float16


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(0, 4), "b": entry(2, 6)},
        {"a": entry(0, 4, "F32", [2])},
        {"a": entry(0, 8, "F32", [1])},
        {"a": {"dtype": "U8", "shape": [0], "data_offsets": [4, 0]}},
        {"a": {"dtype": "LATER", "shape": [4], "data_offsets": [8, 4]}},
        {"a": {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]}},
        {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4, 8]}},
        {"a": {"dtype": "U8", "shape": [4], "data_offsets": [-4, 0]}},
        {"a": {"dtype": "U8", "shape": [2**63], "data_offsets": [0, 2**63]}},
        {"a": {"dtype": "U8", "shape": [1] * 65, "data_offsets": [0, 1]}},
        {"a": entry(0, 17)},
        {"a": entry(16, 17)},
        {"a" * 1001: entry(0, 1)},
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,' + b"9" * 5000 + b"]}}",
        b'{"a":' + b"[" * 100_000,
        b'{"__metadata__":' + b"[" * 100_000,
        b'{},"__metadata__":{"key":"value"}}',
        b'{"a":1}',
    ],
)
def test_offsets_shapes_and_names_are_checked(tmp_path: Path, header: object):
    path = safetensors(tmp_path / "v.safetensors", header, bytes(16))
    with pytest.raises(VaeFileError):
        read_header(path)  # before any tensor is read
    refusal(path)


def test_an_index_of_thousands_of_digits_and_a_hundred_levels(tmp_path: Path):
    """The header of a few KB that took a minute: refused by counting, before any network is built."""
    shapes = {"encoder.conv_in": [32, 3, 1, 1], "encoder.conv_out": [8, 1, 1, 1]}
    shapes |= {"decoder.conv_in": [32, 4, 1, 1], "decoder.conv_out": [3, 1, 1, 1]}
    for level in range(100):
        for half in ("encoder.down", "decoder.up"):
            shapes[f"{half}.{level}.block.0.conv1"] = shapes[f"{half}.0.block.{level}.conv1"] = [32, 1, 1, 1]
    document, at = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        document[f"{name}.weight"] = entry(at, at + size, "U8", shape)
        at += size
    path = safetensors(tmp_path / "v.safetensors", document, bytes(at))
    with pytest.raises(VaeFileError, match="100 of one layer's kind"):
        identify(vae_file(path))


# --- pickles


class Chosen:
    """Pickles as a call of a name with arguments, without being it."""

    def __init__(self, module: str, name: str, *args: object) -> None:
        self.call, self.args = (module, name), args

    def dump(self) -> bytes:
        made = io.BytesIO()
        pickler = pickle._Pickler(made, 2)  # type: ignore[attr-defined]
        pickler.proto = 2
        pickler.write(pickle.PROTO + b"\2")
        pickler.write(pickle.GLOBAL + f"{self.call[0]}\n{self.call[1]}\n".encode())
        pickler.save(self.args)
        pickler.write(pickle.REDUCE + pickle.STOP)
        return made.getvalue()


def zipped(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3")
    return path


def lightning(path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, numpy_name: bytes) -> Path:
    """What Lightning 1.4 left in Stable Diffusion's pickles: a callback's class as a key, and a numpy number."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    kind = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = kind  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        torch.save({"callbacks": {kind: {"best": np.float64(0.5), "path": "x"}}, "state_dict": state}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data.replace(b"numpy._core.multiarray", numpy_name))
    return path


@pytest.mark.parametrize("numpy_name", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_what_lightning_left_does_not_refuse_a_vae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numpy_name: bytes):
    state = make_state()
    path = lightning(tmp_path / "v.ckpt", state, monkeypatch, numpy_name)
    opened = open_tensors(path)
    assert all(torch.equal(opened.fetch(name), tensor) for name, tensor in state.items())
    assert identify(vae_file(path)).dtype == "fp32" and "pytorch_lightning" not in sys.modules


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_pickled_tensors_come_back_as_they_were(tmp_path: Path, old: bool):
    base = torch.arange(24, dtype=torch.float32)
    state = {
        "whole": base, "view": base[4:16].reshape(3, 4), "turned": base.reshape(4, 6).T, "part": base[::3],
        "scalar": torch.tensor(7.0), "empty": torch.zeros(0, 3), "half": base.half(), "brain": base.bfloat16(),
        "long": torch.arange(3), "bool": torch.tensor([True, False]), "parameter": torch.nn.Parameter(base.clone()),
    }  # fmt: skip
    torch.save({"state_dict": state, "step": 3}, tmp_path / "v.pt", _use_new_zipfile_serialization=not old)
    opened = open_tensors(tmp_path / "v.pt")
    for name, tensor in state.items():
        fetched = opened.fetch(name)
        assert fetched.dtype == tensor.dtype and torch.equal(fetched, tensor), name
        assert opened.header.tensors[name].shape == tuple(tensor.shape)


def test_a_pickle_packed_again_with_compression(tmp_path: Path):
    torch.save({"a": torch.arange(100.0), "b": torch.arange(7)}, tmp_path / "v.pt")
    with zipfile.ZipFile(tmp_path / "v.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    opened = open_tensors(tmp_path / "w.pt")
    assert torch.equal(opened.fetch("a"), torch.arange(100.0)) and torch.equal(opened.fetch("b"), torch.arange(7))


def test_a_pickle_saved_on_a_gpu(tmp_path: Path):
    torch.save({"a": torch.arange(5.0)}, tmp_path / "v.pt")
    with zipfile.ZipFile(tmp_path / "v.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data.replace(b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:0"))
    assert open_tensors(tmp_path / "w.pt").fetch("a").tolist() == [0, 1, 2, 3, 4]


HOSTILE = [
    ("os", "system", "touch {witness}"),
    ("posix", "system", "touch {witness}"),
    ("builtins", "exec", "open('{witness}', 'w')"),
    ("builtins", "eval", "open('{witness}', 'w')"),
    ("builtins", "getattr", "x", "y"),
    ("io", "open", "{witness}", "w"),
    ("torch", "load", "{witness}"),
    ("torch.hub", "load", "{witness}"),
    ("torch.serialization", "load", "{witness}"),
    ("numpy", "load", "{witness}"),
    ("numpy.testing._private.utils", "runstring", "open('{witness}', 'w')", {}),
    ("pytorch_lightning.callbacks.model_checkpoint", "os.system", "touch {witness}"),
    ("torch._utils", "_import_dotted_name", "os.system"),
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda call: ".".join(call[:2]))
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, hostile: tuple[str, ...]):
    witness = tmp_path / "witness"
    module, name, *args = hostile
    data = Chosen(module, name, *(a.format(witness=witness) if isinstance(a, str) else a for a in args)).dump()
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    (tmp_path / "old.pt").write_bytes(head + data)
    assert "could run code" in refusal(tmp_path / "old.pt") and f"{module}.{name}" in refusal(tmp_path / "old.pt")
    assert "could run code" in refusal(zipped(tmp_path / "new.pt", data))
    (tmp_path / "bare.pt").write_bytes(data)
    refusal(tmp_path / "bare.pt")
    assert not witness.exists()


def test_what_is_let_pass_beside_tensors_does_nothing(tmp_path: Path):
    """The harmless names stand for nothing: what is called by them is neither imported nor done."""
    for module, name in [("_codecs", "encode"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct")]:
        path = zipped(tmp_path / f"{name}.pt", Chosen(module, name, "x" * 9, "zlib").dump())
        assert "no tensors" in refusal(path)


NESTED_KEY = b"\x80\x02}" + b"(K\1t" + b"q\0h\0\x86" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(1, 45)) + b"K\1s."

EVIL = {
    "a memo of billions": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a text of gigabytes": b"\x80\x02\x8d\xff\xff\xff\xff\xff\x00\x00\x00x.",
    "a bytearray of gigabytes": b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00x.",
    "a key of tuples in tuples": NESTED_KEY,
    "an extension": b"\x80\x02\x82\x01.",
    "a number of megabytes": b"\x80\x02\x8b\xff\xff\xff\x00" + b"\xff" * 1000 + b".",
    "nothing": b".",
    "a class's attribute": b"\x80\x02ccollections\nOrderedDict\n}X\1\0\0\0aK\1sb.",
    "a storage that is none": b"\x80\x02X\1\0\0\0aQ.",
}


@pytest.mark.parametrize("data", EVIL.values(), ids=EVIL.keys())
def test_pickles_that_would_fill_the_memory_or_never_end(tmp_path: Path, data: bytes):
    refusal(zipped(tmp_path / "v.pt", data))


def test_a_pickle_that_inflates(tmp_path: Path):
    bomb = zipped(tmp_path / "bomb.pt", b"\x80\x02" + b"N0" * (30 << 20) + b"N.", zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 20 and "inflates" in refusal(bomb)
    long = zipped(tmp_path / "long.pt", b"\x80\x02" + b"N0" * (5 << 20) + b"N.")
    assert "no tensor takes more" in refusal(long)


def test_tensors_that_claim_more_than_is_stored(tmp_path: Path):
    torch.save({"a": torch.zeros(1).expand(10**9), "b": torch.ones(3)}, tmp_path / "v.pt")
    opened = open_tensors(tmp_path / "v.pt")
    assert opened.fetch("b").tolist() == [1, 1, 1]
    with pytest.raises(VaeFileError, match="larger than what is stored"):
        opened.fetch("a")


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_ones(tmp_path: Path):
    odd = {
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.zeros(3, device="meta"),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    }
    for name, tensor in odd.items():
        torch.save({"a": tensor}, tmp_path / f"{name}.pt")
        refusal(tmp_path / f"{name}.pt")


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_every_cut_of_a_pickle(tmp_path: Path, old: bool):
    torch.save({"a": torch.arange(50.0)}, tmp_path / "v.pt", _use_new_zipfile_serialization=not old)
    whole = (tmp_path / "v.pt").read_bytes()
    for length in range(0, len(whole) - 1, 13):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        assert "could run code" not in refusal(tmp_path / "cut.pt")


# --- what is no model

STRANGE = {
    "web page": b"<!DOCTYPE html><html><head><title>Sign in</title></head>",
    "web page ": b"\xef\xbb\xbf\n<html lang=en>",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 334641190\n",
    "JSON": b'{"error":"Unauthorized","message":"log in"}',
    "JSON ": b'[{"error": 1}]',
    "GGUF": b"GGUF\3\0\0\0" + bytes(16),
    "ONNX": b"\x08\x07\x12\x07pytorch\x1a\x051.13.1:\xa0\x9d",
    "0 bytes": b"",
    "an array of numpy's": b"\x93NUMPY\1\0" + bytes(118),
    "the index of a model in several files": b'{"metadata": {}, "weight_map": {"a": "x-00001-of-00002.safetensors"}}',
    "5 bytes": b"\x01\2\3\4\5",
    "filled with zeros": bytes(5000),
    "a text": b"Not Found\n",
    "7-Zip": b"7z\xbc\xaf\x27\x1c" + bytes(40),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".sft", ".pt", ".ckpt", ".bin"])
@pytest.mark.parametrize("what", STRANGE)
def test_what_is_no_model_is_named(tmp_path: Path, what: str, suffix: str):
    path = tmp_path / f"v{suffix}"
    path.write_bytes(STRANGE[what])
    said = refusal(path)
    assert what.strip() in said and "could run code" not in said


# --- diffusers' folders, parts, JSON


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_diffusers_folder_says_groups_and_scale(tmp_path: Path, mark: bytes):
    config = {"_class_name": "AutoencoderKL", "norm_num_groups": 8, "scaling_factor": 0.36, "shift_factor": 0.11}
    (tmp_path / "config.json").write_bytes(mark + json.dumps(config).encode())
    state = make_state()
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    save_file(state, tmp_path / "other.safetensors")
    save_file(state, tmp_path / "diffusion_pytorch_model.fp16.safetensors", {"norm_num_groups": "16"})
    for name, groups in [(".safetensors", 8), (".bin", 8), (".fp16.safetensors", 16)]:
        found = identify(vae_file(tmp_path / f"diffusion_pytorch_model{name}"))
        assert (found.norm_groups, found.scale_factor, found.shift_factor) == (groups, 0.36, 0.11)
    assert identify(vae_file(tmp_path / "other.safetensors")).norm_groups == 32


@pytest.mark.parametrize("config", [b"[1]", b"{", b"\xff", b'{"_class_name":"UNet","norm_num_groups":8}', b"[" * 99999])
def test_a_config_that_says_nothing(tmp_path: Path, config: bytes):
    (tmp_path / "config.json").write_bytes(config)
    save_file(make_state(), tmp_path / "diffusion_pytorch_model.safetensors")
    assert identify(vae_file(tmp_path / "diffusion_pytorch_model.safetensors")).norm_groups == 32


def test_a_part_of_a_model_is_said_to_be_one(tmp_path: Path):
    half = dict(list(make_state().items())[:60])
    save_file(half, tmp_path / "v-00001-of-00002.safetensors")
    with pytest.raises(VaeFileError, match="part 1 of 2"):
        identify(vae_file(tmp_path / "v-00001-of-00002.safetensors"))
    save_file(make_state(), tmp_path / "v-00001-of-00001.safetensors")
    assert identify(vae_file(tmp_path / "v-00001-of-00001.safetensors")).problems == ()


def test_json_with_and_without_a_mark(tmp_path: Path):
    assert parse_json(b"\xef\xbb\xbf[1]") == parse_json("\ufeff[1]") == parse_json(b"[1]") == [1]
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"ä": 1}, ensure_ascii=False).encode())
    assert read_json_text(tmp_path / "a.json") == {"ä": 1}
    for raw in (b"\xff[1]", b"[" * 100_000, b"["):
        with pytest.raises(ValueError):
            parse_json(raw)
    with pytest.raises(ValueError, match="longer than"):
        read_json_text(tmp_path / "a.json", limit=3)


# --- files that change, and what is no file


@pytest.mark.parametrize("name", ["v.safetensors", "v.pt"])
def test_a_file_cut_short_while_it_is_read_is_told(tmp_path: Path, name: str):
    """Through a mapping this ends the process (SIGBUS)."""
    path = tmp_path / name
    state = make_state()
    save_file(state, path) if name.endswith("s") else torch.save(state, path)
    opened = open_tensors(path)
    first = opened.fetch("decoder.conv_in.weight")

    def cut(done: int, _: int) -> None:
        if done == 3:
            os.truncate(path, 1000)

    with pytest.raises(VaeFileError, match="changed or cut short"):
        digest.weights_digest(opened, progress=cut)
    assert torch.equal(first, state["decoder.conv_in.weight"])  # what was fetched before is not the file's memory


def test_a_file_cut_short_in_the_middle_of_a_read_gives_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between the look at the file and the read: what was not read must not be whatever lay in memory."""
    path = tmp_path / "v.safetensors"
    save_file(make_state(), path)
    opened, look = open_tensors(path), reading.stamp_of

    def cut_after_the_look(file):
        found = look(file)
        os.truncate(path, 100)
        return found

    monkeypatch.setattr(reading, "stamp_of", cut_after_the_look)
    with pytest.raises(VaeFileError, match="changed or cut short"):
        opened.fetch("decoder.conv_in.weight")


def test_a_file_written_over_is_not_mixed_with_what_was_there(tmp_path: Path):
    path = tmp_path / "v.safetensors"
    save_file(make_state(seed=1), path)
    opened = open_tensors(path)
    save_file(make_state(seed=2), tmp_path / "new")
    os.utime(tmp_path / "new", ns=(1, 1))
    os.replace(tmp_path / "new", path)
    with pytest.raises(VaeFileError, match="changed"):
        opened.fetch("decoder.conv_in.weight")


@pytest.mark.skipif(os.name == "nt", reason="there are none on Windows")
def test_pipes_sockets_and_devices_are_neither_listed_nor_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "device.pt").symlink_to("/dev/zero")
    (tmp_path / "folder.pt").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "s.sft"))
        assert find_vaes([Folder(tmp_path)]) == ()
        for name in ("pipe.safetensors", "device.pt", "folder.pt", "s.sft"):
            for read in (open_tensors, read_header, hashing.sha256_of):
                with pytest.raises(VaeFileError, match=r"it is a (pipe|device|folder|socket)"):
                    read(tmp_path / name)


# --- folders


def listed(folder: Path) -> list[str]:
    return [file.name for file in find_vaes([Folder(folder)])]


def test_links_to_siblings_and_to_one_another(tmp_path: Path):
    for name in ("vae", "vae-old", "a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "vae" / "x.sft").touch()
    (tmp_path / "vae-old" / "link").symlink_to(tmp_path / "vae")
    assert listed(tmp_path / "vae-old") == ["link/x.sft"]
    assert [path.name for path in model_files(tmp_path / "vae-old")] == ["x.sft"]
    (tmp_path / "b" / "v.pt").touch()
    for name in "abcdefgh":
        (tmp_path / "a" / f"to-{name}").symlink_to(tmp_path / "b")
        (tmp_path / "b" / f"to-{name}").symlink_to(tmp_path / "a")
    (tmp_path / "c" / "self").symlink_to(tmp_path / "c" / "self")
    assert listed(tmp_path) == ["b/v.pt", "vae/x.sft"]  # each by its own place
    assert listed(tmp_path / "a") == ["to-a/v.pt"]


def test_a_tree_deeper_than_python_recurses(tmp_path: Path):
    folder = tmp_path
    for _ in range(300):
        folder = folder / "d"
    folder.mkdir(parents=True)
    (folder / "v.pt").touch()
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(250)
        assert len(list(model_files(tmp_path))) == 1
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such names")
def test_names_that_are_not_utf8(tmp_path: Path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.safetensors"))
    save_file(make_state(), tmp_path / "v.safetensors")
    os.rename(tmp_path / "v.safetensors", path)
    [file] = find_vaes([Folder(tmp_path)])
    assert identify(file).latent_channels == 4
