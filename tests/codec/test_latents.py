"""Latents as other tools keep them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vae_manager.codec.latents import load_latent
from vae_manager.errors import BadInputError

Z = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(1))


def test_comfyui(tmp_path: Path):
    path = tmp_path / "c.latent"
    save_file({"latent_tensor": Z, "latent_format_version_0": torch.tensor([])}, path)
    assert torch.equal(load_latent(path).z, Z)
    save_file({"latent_tensor": Z.half()}, path)  # of its first weeks: scaled
    assert torch.allclose(load_latent(path).z, Z.half().float() / 0.18215)


@pytest.mark.parametrize("key", ["latents", "latents_5x6"])
@pytest.mark.parametrize(("name", "family"), [("a.npz", "unknown"), ("a_sd.npz", "sd1"), ("a_sdxl.npz", "sdxl")])
def test_trainers(tmp_path: Path, key: str, name: str, family: str):
    beside = {"original_size": np.array([48, 40]), "crop_ltrb": np.zeros(4), "latents_flipped": Z[0].numpy()}
    np.savez(tmp_path / name, **{key: Z[0].numpy()}, **beside)
    found = load_latent(tmp_path / name)
    assert torch.equal(found.z, Z) and found.family == family


def test_fluxs_are_kept_scaled_by_trainers(tmp_path: Path):
    z = torch.randn(1, 16, 4, 4)
    np.savez(tmp_path / "a_flux.npz", latents_4x4=((z - 0.1159) * 0.3611)[0].numpy())
    assert torch.allclose(load_latent(tmp_path / "a_flux.npz").z, z, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ">f4"])
def test_numpy(tmp_path: Path, dtype):
    np.save(tmp_path / "z.npy", Z.numpy().astype(dtype))
    assert torch.allclose(load_latent(tmp_path / "z.npy").z, Z, atol=2e-3)


def test_what_is_no_latent_gets_a_sentence(tmp_path: Path):
    path = tmp_path / "x"

    def said() -> str:
        with pytest.raises(BadInputError) as caught:
            load_latent(path)
        assert "x'" in str(caught.value)
        return str(caught.value)

    for array in (Z[0, 0].numpy(), Z[None].numpy(), np.zeros((1, 4, 0, 3), np.float32)):
        with path.open("wb") as file:
            np.save(file, array)
        assert "4 sides" in said()
    with path.open("wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    assert "broken" in said()
    with path.open("wb") as file:
        np.savez(file, latents_4x4=Z.numpy(), latents_8x8=Z.numpy())
    assert "2 sizes" in said()
    with path.open("wb") as file:
        np.savez(file, other=Z.numpy())
    assert "no array named" in said()
    path.write_bytes(b"PK\3\4")
    assert "broken" in said()
    path.write_bytes(b"\x93NUMPY\1\0")
    assert "broken" in said()
    path.write_bytes(struct.pack("<Q", 1 << 60))
    assert "broken" in said()
    for start, what in (
        (b"<!DOCTYPE html><p>Sign in", "a web page"),
        (b"", "0 bytes"),
        (b"version https://git-lfs", "LFS"),
    ):
        path.write_bytes(start)
        assert what in said()
    path.write_bytes(struct.pack("<Q", 2) + b"[]")
    assert "no latent" in said()
    for entry in ({"scale_factor": "nan"}, {"scale_factor": "inf"}, {"scale_factor": "x"}, {"width": "9" * 9000}):
        save_file({"latent": Z}, path, entry)
        assert "metadata" in said()
    header = json.dumps({"latent": {"dtype": "F32", "shape": [9**9, 9**9], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    assert "broken" in said()
