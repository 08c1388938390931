"""GGUF headers: what they say, and what they may not do to us."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from tests.library.gguf_files import entry, header, text, write
from vae_manager.errors import VaeFileError
from vae_manager.library.files import file_stem
from vae_manager.library.headers import TensorInfo
from vae_manager.library.tensors import open_tensors, read_header

TENSORS = {
    "double_blocks.0.img_attn.qkv.weight": ("Q4_K", (9216, 3072)),
    "img_in.weight": ("F32", (3072, 64)),
    "input_blocks.0.0.weight": ("F16", (45, 256)),
}


def test_names_shapes_types_and_texts(tmp_path: Path) -> None:
    metadata = {
        "general.architecture": "flux",
        "general.quantization_version": 2,
        "tags": ["one", "two"],
        "comfy.gguf.orig_shape.input_blocks.0.0.weight": [320, 4, 3, 3],
    }
    format_, found = read_header(write(tmp_path / "model.gguf", TENSORS, metadata=metadata))
    assert format_ == "gguf"
    assert found.tensors["double_blocks.0.img_attn.qkv.weight"] == TensorInfo("Q4_K", (9216, 3072))
    assert found.tensors["img_in.weight"] == TensorInfo("F32", (3072, 64))
    assert found.tensors["input_blocks.0.0.weight"].shape == (320, 4, 3, 3)
    assert found.metadata == {"general.architecture": "flux"}


def test_it_is_known_by_its_content(tmp_path: Path) -> None:
    assert read_header(write(tmp_path / "model.bin", TENSORS))[0] == "gguf"


def test_what_is_not_quantised_can_be_fetched(tmp_path: Path) -> None:
    raw, _ = header({"a": ("F16", (2, 2)), "b": ("Q8_0", (32,))})
    numbers = torch.arange(4, dtype=torch.float16)
    (tmp_path / "a.gguf").write_bytes(raw + numbers.numpy().tobytes().ljust(32, b"\0") + bytes(64))
    opened = open_tensors(tmp_path / "a.gguf")
    assert torch.equal(opened.fetch("a"), numbers.reshape(2, 2))
    with pytest.raises(VaeFileError, match="Q8_0"):
        opened.fetch("b")


def test_a_type_that_came_after_us_is_a_type_like_others(tmp_path: Path) -> None:
    raw, rest = header(TENSORS)
    raw = raw.replace(struct.pack("<I", 12) + bytes(8), struct.pack("<I", 77) + bytes(8), 1)
    (tmp_path / "a.gguf").write_bytes(raw + bytes(rest))
    assert read_header(tmp_path / "a.gguf")[1].tensors["double_blocks.0.img_attn.qkv.weight"].shape == (9216, 3072)


def huge(*parts: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + b"".join(parts)


RAW, REST = header(TENSORS)
BAD = {
    "empty": (b"", "empty or broken download"),
    "a page": (b"<!DOCTYPE html><html>", "web page"),
    "magic only": (b"GGUF", "ends inside its header"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "of version 1"),
    "the other endianness": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "of version"),
    "half a header": (RAW[: len(RAW) // 2], "ends inside its header"),
    "no numbers": (RAW + bytes(REST // 2), "truncated"),
    "an endless key": (huge(struct.pack("<Q", 2**62)), "longer than 32 MB"),
    "an endless list": (huge(text("a"), struct.pack("<IIQ", 9, 4, 2**61)), "longer than 32 MB"),
    "a list of lists": (huge(text("a"), struct.pack("<IIQ", 9, 9, 2**61)), "list of lists"),
    "an unknown value": (huge(text("a"), struct.pack("<I", 99)), "unknown type 99"),
    "no text": (huge(struct.pack("<Q", 2), b"\xff\xfe"), "not valid"),
    "endless tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "ends inside its header"),
    "endless dimensions": (
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + struct.pack("<I", 2**31), "no valid shape",
    ),
    "a name without end": (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a" * 2000), "2000 letters"),
    "too many numbers": (
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0),
        "no valid place",
    ),
    "twice the same": (
        b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + 2 * (text("a") + struct.pack("<IQIQ", 1, 0, 0, 0)), "there twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_headers_end_in_a_sentence(tmp_path: Path, name: str) -> None:
    raw, said = BAD[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with pytest.raises(VaeFileError, match=said):
        read_header(path)


def test_an_original_shape_that_does_not_fit_is_passed_over(tmp_path: Path) -> None:
    metadata = {"comfy.gguf.orig_shape.img_in.weight": [7, 7]}
    found = read_header(write(tmp_path / "a.gguf", TENSORS, metadata=metadata))[1]
    assert found.tensors["img_in.weight"].shape == (3072, 64)


def test_an_alignment_of_its_own(tmp_path: Path) -> None:
    raw, rest = header({"a": ("F32", (8,))}, {"general.alignment": 128})
    raw += b"\0" * (-len(raw) % 128)
    (tmp_path / "a.gguf").write_bytes(raw + struct.pack("<8f", *range(8)) + bytes(rest))
    assert open_tensors(tmp_path / "a.gguf").fetch("a").tolist() == list(range(8))


def test_the_stem_of_a_name() -> None:
    assert file_stem("flux1-dev-Q4_K_S.gguf") == "flux1-dev-Q4_K_S"
    assert entry("a", 1).startswith(text("a"))
