"""How long it takes to list and match hundreds of files, and to hash one.

    python -m benchmarks.library [--files 300] [--megabytes 1024] [--json]

The files are sparse: true headers of the published topologies, the true size, and no content. Every file has metadata
of its own. Each measurement is a process of its own; `cold` has none of our caches (the system's page cache holds the
headers), `warm` has what the cold one left. Start-up (Python, torch and our modules) is measured apart and is not in
the figures. Seconds are those on the clock; the processor's stand beside them, because other work may share the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vae_manager.codec.kinds.kl.config import KLConfig, expected_shapes
from vae_manager.commands.bench import library_arguments
from vae_manager.library.dtypes import BITS

Shapes = Mapping[str, tuple[int, ...]]

SIXTEEN = KLConfig(latent_channels=16, hidden_latent_channels=16, quant_conv=False, post_quant_conv=False)

CHILD = """
import contextlib, io, json, sys, time
begun = time.process_time(), time.perf_counter()
from vae_manager import cli
from vae_manager.commands import library, match
ready = time.process_time(), time.perf_counter()
out = io.StringIO()
with contextlib.redirect_stdout(out):
    status = cli.main(sys.argv[1:])
done = time.process_time(), time.perf_counter()
assert status == 0
print(json.dumps({"start": [b - a for a, b in zip(begun, ready)], "run": [b - a for a, b in zip(ready, done)],
                  "rows": len(json.loads(out.getvalue()))}))
"""


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What the options ask for: the JSON document, and a text for people."""
    found = times(options.files, options.megabytes, options.rounds)
    return found, report(found)


def times(files: int, megabytes: int, rounds: int = 3) -> dict[str, Any]:
    """Seconds [processor, clock] of each task, and the hashing speeds."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root, files)
        found: dict[str, Any] = {"files": files, "start": []}
        for name, arguments in {
            "list": ["list", root / "VAE"],
            "list all": ["list", root],
            "match --all": ["match", "--all", root / "models", "--vae-dir", root / "VAE"],
        }.items():
            found[name] = {"cold": [], "warm": []}
            for _ in range(rounds):
                home = root / "home"
                shutil.rmtree(home, ignore_errors=True)
                for kind in ("cold", "warm"):
                    done = _child(home, [*map(str, arguments), "--json"])
                    found[name][kind].append(done["run"])
                    found[name]["rows"] = done["rows"]
                    found["start"].append(done["start"])
        found["hashing"] = hashing(root, megabytes, rounds)
    return found


def hashing(folder: Path, megabytes: int, rounds: int) -> dict[str, Any]:
    """Bytes per second of `sha256sum`, of `sha256_of` and of the background examiner, in turn."""
    from vae_manager.library.files import vae_file
    from vae_manager.library.hashing import HashCache, sha256_of
    from vae_manager.selection.checkpoint import FactsCache
    from vae_manager.selection.examiner import Examiner

    path = folder / "random.safetensors"
    with path.open("wb") as out:
        for _ in range(megabytes):
            out.write(os.urandom(1 << 20))

    def background() -> None:
        hashes = HashCache(None)
        examiner = Examiner(hashes, FactsCache())
        examiner.add(checkpoints=[vae_file(path)])
        if not examiner.wait(600) or not hashes.peek(vae_file(path)):
            raise SystemExit("the examiner did not hash the file")

    ways: dict[str, Callable[[], object]] = {"ours": lambda: sha256_of(path), "in the background": background}
    if shutil.which("sha256sum"):
        ways["sha256sum"] = lambda: subprocess.run(["sha256sum", path], check=True, capture_output=True)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - begun)
    return {name: path.stat().st_size / statistics.median(taken) for name, taken in times.items()}


def write_files(root: Path, count: int) -> None:
    """`count` VAEs and `count` checkpoints: eight kinds of each, as they lie on a disk that was filled over years."""
    kl, sixteen = expected_shapes(KLConfig()), expected_shapes(SIXTEEN)
    vaes = [(kl, "F32"), (kl, "F16"), (kl, "BF16"), (sixteen, "F32"), (sixteen, "BF16")]
    sd1, sdxl, flux = _unet("model.diffusion_model.", 686), _unet("model.diffusion_model.", 1680), _unet("", 780)
    marks = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.", "flux": "double_blocks.0."}
    baked = {f"first_stage_model.{name}": shape for name, shape in kl.items()}
    models = [
        ({**sd1, **_unet(marks["sd1"], 197), **baked}, "F32"),
        ({**sd1, **_unet(marks["sd1"], 197), **baked}, "F16"),
        ({**sd1, **_unet(marks["sd1"], 197)}, "F16"),
        ({**sd1, **_unet("model_ema.", 686), **_unet(marks["sd1"], 197), **baked}, "F32"),
        ({**sdxl, **_unet(marks["sdxl"], 715), **baked}, "F16"),
        ({**sdxl, **_unet(marks["sdxl"], 715), **baked}, "F32"),
        ({**sdxl, **_unet(marks["sdxl"], 715)}, "F16"),
        ({**flux, **_unet(marks["flux"], 40)}, "F8_E4M3"),
    ]
    for folder in ("VAE", "models"):
        (root / folder).mkdir()
    for number in range(count):
        shapes, dtype = vaes[number % len(vaes)]
        _sparse(root / "VAE" / f"vae-{number}.safetensors", shapes, dtype, number)
        shapes, dtype = models[number % len(models)]
        _sparse(root / "models" / f"model-{number}.safetensors", shapes, dtype, number)


def _unet(prefix: str, tensors: int) -> Shapes:
    """As many tensors as the model has, with names as long as its own, and the size of a usual checkpoint."""
    names = (f"{prefix}blocks.{i // 12}.1.transformer_blocks.{i % 12}.attn.to_q.weight" for i in range(tensors))
    return dict.fromkeys(names, (1280, 1000))


def _sparse(path: Path, shapes: Shapes, dtype: str, number: int) -> None:
    document: dict[str, Any] = {"__metadata__": {"format": "pt", "title": f"number {number}", "hash": f"{number:064x}"}}
    end = 0
    for name, shape in sorted(shapes.items()):
        start, count = end, 1
        for side in shape:
            count *= side
        end += count * BITS[dtype] // 8
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(document, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)


def _child(home: Path, arguments: list[str]) -> dict[str, Any]:
    environment = {**os.environ, "VAE_MANAGER_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def report(found: dict[str, Any]) -> str:
    """The figures for people: medians, and every round's seconds on the clock."""
    start = f"{_median(found['start'], 1):.2f} s on the clock, {_median(found['start'], 0):.2f} s of processor"
    lines = [f"start-up of torch and the program: {start}, not in what follows"]
    for name in ("list", "list all", "match --all"):
        for kind in ("cold", "warm"):
            times = found[name][kind]
            rounds = ", ".join(f"{clock:.2f}" for _, clock in times)
            lines.append(
                f"{name} ({found[name]['rows']} files), {kind}: {_median(times, 1):.2f} s on the clock ({rounds}), "
                f"{_median(times, 0):.2f} s of processor"
            )
    speeds = found["hashing"]
    for name, speed in speeds.items():
        beside = f" = {speed / speeds['sha256sum']:.0%} of sha256sum" if "sha256sum" in speeds else ""
        lines.append(f"sha256, {name}: {speed / 1e6:,.0f} MB/s{beside}")
    return "\n".join(lines)


def _median(times: list[list[float]], which: int) -> float:
    return statistics.median(pair[which] for pair in times)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    library_arguments(parser)
    args = parser.parse_args(argv)
    found, text = measure(args)
    print(json.dumps(found) if args.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
