"""A single picture from a causal 3-D autoencoder (Wan 2.1's shape, random weights): the 2-D network beside 3-D ones.

    python -m benchmarks.causal [--side 512] [--only decode]

Every way runs in a process of its own, once on a small picture and then on the one that counts. Memory is how far the
process's peak resident size rises above its size before (Linux: VmHWM, started again), weights not included; time is
the processor's, so that other programs on the computer change it little. `3-D` is the plain reference of the tests,
`diffusers` its `AutoencoderKLWan`, whole and in tiles, where it is installed. `error` is the largest difference from
the 3-D network's picture, in levels of 255, all in float32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.tiling import release_heap, resident_peak
from tests.codec.causal_reference import WanVAE, random_weights
from vae_manager.codec.streaming import heap
from vae_manager.commands.bench import causal_arguments
from vae_manager.library.files import vae_file
from vae_manager.library.state import load_state

WAYS = ("3-D", "diffusers", "diffusers tiled", "ours whole", "ours streamed")

DIMS, LATENT, BLOCKS = (96, 192, 384, 384), 16, 2


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What the options ask for: the JSON document, and a text for people."""
    found: dict[str, Any] = {}
    parts = (options.only,) if options.only else ("decode", "encode")
    with tempfile.TemporaryDirectory() as folder:
        save_file(reference().state_dict(), Path(folder) / "wan.safetensors")
        for part in parts:
            found[part] = {way: _in_a_process(way, part, options.side, folder) for way in WAYS}
    return found, "\n\n".join(_table(part, rows, options.side) for part, rows in found.items())


def reference() -> WanVAE:
    vae = WanVAE(DIMS, latent=LATENT, blocks=BLOCKS).eval().requires_grad_(False)
    random_weights(vae)
    return vae


def _in_a_process(way: str, part: str, side: int, folder: str) -> dict[str, Any] | None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.causal", "--way", way, "--part", part, "--side", str(side), "--in", folder],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(f"{part}, {way}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def _table(part: str, rows: dict[str, Any], side: int) -> str:
    lines = [
        f"{part} {side}×{side}",
        "| way | memory | of 3-D | processor | of 3-D | error |",
        "|---|---|---|---|---|---|",
    ]
    whole = rows[WAYS[0]] or {"bytes": 0, "seconds": 0}
    for way, row in rows.items():
        if row is not None:
            error = f"{row['error']:.5f}" if "error" in row else "–"
            memory, seconds = (
                f"{row[what] / whole[what]:.2f}" if whole[what] else "–" for what in ("bytes", "seconds")
            )
            cells = (way, f"{row['bytes'] / 1e6:.0f} MB", memory, f"{row['seconds']:.1f} s", seconds, error)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# --- one way, in a process of its own


def one(way: str, part: str, side: int, folder: Path) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    shape = (1, LATENT, side // 8, side // 8) if part == "decode" else (1, 3, side, side)
    source = torch.randn(shape, generator=generator)
    run = _runner(way, part, folder)
    with torch.no_grad():
        run(source[:, :, :8, :8] if part == "decode" else source[:, :, :64, :64])  # what is made once
        release_heap()
        before, start = heap.resident_bytes(), time.process_time()
        result = run(source)
        seconds, peak = time.process_time() - start, resident_peak() - before
    row: dict[str, Any] = {"seconds": seconds, "bytes": peak}
    kept = folder / f"{part}.pt"
    if way == WAYS[0]:
        torch.save(result, kept)
    elif way != "diffusers tiled":
        whole = torch.load(kept, weights_only=True)
        if part == "decode":  # diffusers' is clamped
            result, whole = result.clamp(-1, 1), whole.clamp(-1, 1)
        row["error"] = (result - whole).abs().max().item() * 127.5
    return row


def _runner(way: str, part: str, folder: Path) -> Callable[[Tensor], Tensor]:
    path = folder / "wan.safetensors"
    if way == "3-D":
        vae = reference()
        whole = vae.decode if part == "decode" else vae.encode
        return lambda x: whole(x[:, :, None])[:, :, 0]
    if way.startswith("diffusers"):
        return _diffusers(path, part, way.endswith("tiled"))
    return _ours(path, part, way.endswith("streamed"))


def _ours(path: Path, part: str, streamed: bool) -> Callable[[Tensor], Tensor]:
    from vae_manager.codec.streaming import stream_decode, stream_encode

    vae: Any = load_state(vae_file(path)).network()
    if not streamed:
        return vae.decode if part == "decode" else vae.encode_moments
    stream = stream_decode if part == "decode" else stream_encode

    def run(x: Tensor) -> Tensor:
        found = stream(vae, x).tensor
        assert found is not None
        return found

    return run


def _diffusers(path: Path, part: str, tiled: bool) -> Callable[[Tensor], Tensor]:
    from diffusers import AutoencoderKLWan  # type: ignore[attr-defined]

    vae: Any = AutoencoderKLWan()
    vae.eval().requires_grad_(False)
    _copy(path, vae)
    if tiled:
        vae.enable_tiling()
    if part == "decode":
        return lambda x: vae.decode(x[:, :, None]).sample[:, :, 0]
    return lambda x: vae.encode(x[:, :, None]).latent_dist.parameters[:, :, 0]


def _copy(path: Path, vae: Any) -> None:
    """The weights of a file of Wan's names into diffusers' module, by their canonical names."""
    from safetensors.torch import load_file

    from vae_manager.codec.kinds.causal3d.names import canonical

    theirs, state = canonical(vae.state_dict()), load_file(path)
    ours, own = canonical(state), vae.state_dict()
    for name, place in theirs.items():
        own[place].copy_(state[ours[name]].reshape(own[place].shape))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    causal_arguments(parser)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--in", dest="folder", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(one(asked.way, asked.part, asked.side, Path(asked.folder))))
    else:
        print(measure(asked)[1])
