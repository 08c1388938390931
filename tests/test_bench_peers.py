"""The peers of the tables do what they are said to do."""

from __future__ import annotations

import argparse

import pytest
import torch
from torch.nn import functional as F

from benchmarks.peers import OVERLAP, averaged_tiles, convolve_in_tiles
from benchmarks.tiling import make_vae
from vae_manager.errors import BadInputError


@torch.no_grad()
def test_convolutions_in_tiles_are_the_whole_ones(monkeypatch):
    z = torch.randn(1, 4, 5, 7, generator=torch.Generator().manual_seed(1))
    whole = make_vae(32).decode(z)
    vae = make_vae(32)
    convolve_in_tiles(vae, side=16)
    pieces: list[int] = []
    real = F.conv2d

    def convolved(x: torch.Tensor, weight: torch.Tensor, *more) -> torch.Tensor:
        if weight.shape[2] == 3:
            pieces.append(max(x.shape[2:]))
        return real(x, weight, *more)

    monkeypatch.setattr(F, "conv2d", convolved)
    tiled = vae.decode(z)
    assert (tiled - whole).abs().max() < 1e-4 * whole.abs().max()
    assert max(pieces) <= 18 and len(pieces) > 100


def test_tiles_of_a_map_that_looks_at_nothing_else_are_the_whole():
    """Whatever the weights of a blend are, they add up; and every pixel is in some tile of each of the three shapes."""
    x = torch.rand(1, 4, 100, 75, generator=torch.Generator().manual_seed(1))
    seen: list[tuple[int, ...]] = []

    def doubled(tile: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(tile.shape[2:]))
        return F.interpolate(tile, scale_factor=8.0)

    assert torch.allclose(averaged_tiles(doubled, x, True, tile=32), F.interpolate(x, scale_factor=8.0), atol=1e-6)
    assert {(32, 32), (64, 16), (16, 64)} <= set(seen) and OVERLAP < 16
    big = torch.rand(1, 3, 400, 320, generator=torch.Generator().manual_seed(1))
    halved = averaged_tiles(lambda tile: F.avg_pool2d(tile, 8), big, False, tile=32)
    assert torch.allclose(halved, F.avg_pool2d(big, 8), atol=1e-6)


def test_the_gpus_benchmark_without_one(monkeypatch):
    """Every subject gives the picture, and one that runs out of memory is a row all the same."""
    from benchmarks import gpu

    options = argparse.Namespace(device="cpu", dtype="float32", channels=32, sides=[64], rounds=1, compile=False)

    def fails(*args, **options):
        raise MemoryError

    monkeypatch.setattr(gpu, "averaged_tiles", fails)
    found, text = gpu.measure(options)
    rows = {row["subject"]: row for row in found["rows"]}
    assert rows["ComfyUI's tiles"]["milliseconds"] is None and "ComfyUI's tiles | out of memory" in text
    others = [row for name, row in rows.items() if name != "ComfyUI's tiles"]
    assert {"whole", "diffusers tiling", *(f"exact {mode}" for mode in "ABPCD")} <= set(rows)
    assert all(row["max_error_levels"] < 0.01 and row["time_ratio"] > 0 for row in others)


def test_the_gpus_benchmark_says_that_there_is_none(monkeypatch):
    from benchmarks import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInputError, match="no GPU here"):
        gpu.measure(argparse.Namespace(device="cuda", dtype="float16"))


def test_the_pages_benchmark_in_words():
    from benchmarks.page import report

    host = {"imports": [0.2, 0.9], "build": [[0.3, 0.5], [0.015, 0.1], [0.013, 0.2]]}
    page = {"new": {"gradio": [1.0], "names": [0.25, 0.5], "facts": [0.75]}}
    text = report(
        {"files": 9, "load": [1, 2], "page": page, "search": {"a": [20, 40]}, "idle": [0], "hosts": {"4": [host]}}
    )
    assert "names 0.375 s (at most 0.5)" in text and "each key: 30 ms (at most 40)" in text
    assert "imports 200 ms; panels and tab 300 ms the first time, then 14 ms (at most 15)" in text
