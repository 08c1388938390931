"""Files as users bring them: each bad one gets one clear reason, and runs nothing."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import make_state
from vae_manager.errors import VaeFileError
from vae_manager.library.files import vae_file
from vae_manager.library.identify import identify
from vae_manager.library.state import load_kl_state

Write = Callable[..., Path]


def reason(path: Path) -> str:
    """Why this file cannot be loaded: one sentence of reasonable length."""
    with pytest.raises(VaeFileError) as caught:
        load_kl_state(vae_file(path))
    sentence = caught.value.sentence(path.name)
    assert "\n" not in sentence and len(sentence) < 400 and sentence.endswith(".")
    return sentence


def header_of(document: object, body: bytes = b"") -> bytes:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return len(raw).to_bytes(8, "little") + raw + body


def test_empty_file(tmp_path: Path):
    (tmp_path / "v.safetensors").touch()
    assert "0 bytes" in reason(tmp_path / "v.safetensors")


def test_truncated_download(write_vae: Write):
    path = write_vae("v.safetensors")
    os.truncate(path, path.stat().st_size - 1000)
    assert "truncated" in reason(path) and "1000" in reason(path)


def test_truncated_in_the_header(write_vae: Write):
    path = write_vae("v.safetensors")
    os.truncate(path, 500)
    assert "inside its header" in reason(path)


def test_html_page_saved_as_a_model(tmp_path: Path):
    path = tmp_path / "v.safetensors"
    path.write_text("<!DOCTYPE html><title>Sign in</title>")
    assert "a web page" in reason(path)


def test_truncated_pickle(write_vae: Write):
    path = write_vae("v.pt")
    os.truncate(path, path.stat().st_size // 2)
    assert "broke off" in reason(path)


def test_pickle_with_code_runs_none_of_it(tmp_path: Path):
    witness = tmp_path / "witness"

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {witness}",))

    for name, write in {
        "zip.pt": lambda path: torch.save({"state_dict": Evil()}, path),
        "legacy.ckpt": lambda path: torch.save(Evil(), path, _use_new_zipfile_serialization=False),
        "raw.pt": lambda path: path.write_bytes(pickle.dumps(Evil())),
    }.items():
        write(tmp_path / name)
        assert "not loaded" in reason(tmp_path / name) or "neither" in reason(tmp_path / name)
        assert not witness.exists()


def test_tar_archives_are_never_opened(tmp_path: Path):
    path = tmp_path / "v.pt"
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "storages")
    assert "tar archive" in reason(path)


def test_safetensors_under_a_pickles_name_is_read(write_vae: Write):
    path = write_vae("v.safetensors")
    renamed = path.rename(path.with_suffix(".pt"))
    assert load_kl_state(vae_file(renamed))[1] == 32


def test_pickle_under_a_safetensors_name_is_refused(write_vae: Write):
    path = write_vae("v.pt")
    assert "rename it to end in .ckpt" in reason(path.rename(path.with_suffix(".safetensors")))


def test_lora(tmp_path: Path):
    path = tmp_path / "lora.safetensors"
    save_file({"lora_unet_down.lora_up.weight": torch.zeros(4, 4)}, str(path))
    assert "looks like a lora" in reason(path)


def test_checkpoint_without_vae(tmp_path: Path):
    path = tmp_path / "noVae.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4)}, str(path))
    assert "checkpoint without a VAE" in reason(path)


def test_anything_else(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(4)}, str(path))
    assert "no VAE in it" in reason(path)


def test_unreadable_file(write_vae: Write):
    path = write_vae("v.safetensors")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user can read everything")
    assert "cannot be read" in reason(path)


def test_quantised_tensors(tmp_path: Path):
    state = make_state()
    state["decoder.conv_in.weight"] = state["decoder.conv_in.weight"].to(torch.int8)
    path = tmp_path / "v.safetensors"
    save_file(state, str(path))
    assert "quantised" in reason(path)


@pytest.mark.parametrize(
    "document",
    [
        b"{broken",
        b"{" * 100_000,
        {"a": 1},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": "x"}},
        {"__metadata__": [1]},
    ],
)
def test_headers_that_lie(tmp_path: Path, document: object):
    path = tmp_path / "v.safetensors"
    path.write_bytes(header_of(document, b"\0" * 16))
    reason(path)


def test_ten_million_keys(tmp_path: Path):
    """A sparse file: its header claims 700 MB and is refused by its length, unread."""
    path = tmp_path / "v.safetensors"
    with path.open("wb") as file:
        file.write((700 << 20).to_bytes(8, "little") + b'{"a":')
        file.truncate(800 << 20)
    assert "700 MB" in reason(path)


@pytest.mark.parametrize("groups", ["0", "-1", "x", "99999", "3"])
def test_nonsense_norm_groups(write_vae: Write, groups: str):
    assert "norm" in reason(write_vae("v.safetensors", norm_num_groups=groups))


@pytest.mark.parametrize(
    "name", ['a "b".safetensors', "🎨.safetensors", "<script>alert(1)<.safetensors", "x" * 200 + ".safetensors"]
)
def test_strange_names_are_only_names(write_vae: Write, name: str):
    assert identify(vae_file(write_vae(name))).latent_channels == 4
