"""Time a VAE swap inside a running WebUI, ours beside the host's own way, in turn in one run.

    WEBUI_DIR=… WEBUI_PYTHON=… python -m benchmarks.swap [--rounds 5] [--json]

Both are warm: the VAE's file is in the page cache, ours is in our cache of VAEs (which is what a user who changes
back and forth has). A round is "put the VAE in and the baked one back". Then an X/Y/Z plot over three VAEs, by our
axis and by the host's (Forge's does nothing by itself: there three jobs with the VAE among the modules), each beside
the same pictures without any change of VAE. Start-up is compared as the WebUI's own "Startup time" with and without
the extension, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.live.harness import FAULTS, PROJECT, WebUI
from tests.live.models import write_models
from tests.live.test_choice import xyz
from vae_manager.commands.bench import swap_arguments
from vae_manager.errors import BadInputError

VAE = "tint-red.safetensors"


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What the options ask for: the JSON document, and a text for people.

    Raises:
        BadInputError: there is no WebUI to measure in.
    """
    folder = options.webui or os.environ.get("WEBUI_DIR")
    if not folder or not Path(folder, "launch.py").is_file():
        raise BadInputError("Say in which WebUI: --webui or WEBUI_DIR is to be the folder of an installed one.")
    found = times(Path(folder).resolve(), options.rounds, options.starts)
    return found, report(found)


def times(webui_dir: Path, rounds: int, starts: int) -> dict[str, Any]:
    """Seconds of every round and every start."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_models(root / "Stable-diffusion", root / "VAE")
        startup: dict[str, list[float]] = {"without": [], "with": []}
        swaps: dict[str, list[float]] = {}
        plots: dict[str, list[float]] = {}
        for turn in range(starts + 1):
            for kind, extensions in (("without", []), ("with", [PROJECT])):
                last = turn == starts
                if last and kind == "without":
                    continue
                webui = run(webui_dir, root, [*extensions, *([FAULTS] if last else [])])
                try:
                    if last:
                        webui.generate()
                        swaps = webui.get(
                            f"/vae-manager-faults/swap-times?vae={VAE}&path={webui.vaes / VAE}&repeats={rounds}"
                        )
                        plots = plot_times(webui, rounds)
                    else:
                        startup[kind].append(webui.startup_seconds)
                finally:
                    webui.stop()
    return {"host": webui_dir.name, "swap": swaps, "plot": plots, "startup": startup}


def plot_times(webui: WebUI, rounds: int) -> dict[str, list[float]]:
    """Seconds of three cells: with one VAE throughout, over three VAEs by our axis, and the host's own way."""
    names = [f"tint-{tint}.safetensors" for tint in ("red", "green", "blue")]

    def grid(axis: str, values: list[str]) -> float:
        return webui.generate(script_name="x/y/z plot", script_args=xyz(webui, axis, values)).seconds

    def host() -> float:
        if webui.kind in ("forge", "neo"):
            return sum(webui.generate(**webui.native(name)).seconds for name in names)
        return grid("VAE", names)

    ways = {
        "plain": lambda: grid("[VAE Manager] Decode mode", ["host"] * 3),
        "ours": lambda: grid("[VAE Manager] VAE", names),
        "host": host,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            taken = way()
            if turn:  # the first round warms up
                seconds[name].append(taken)
    return seconds


def run(webui_dir: Path, root: Path, extensions: list[Path]) -> WebUI:
    data = Path(tempfile.mkdtemp(dir=root))
    return WebUI(webui_dir, data, root / "Stable-diffusion", root / "VAE").start(*extensions)


def report(result: dict[str, Any]) -> str:
    ours, host = (statistics.median(result["swap"][key]) for key in ("ours", "host"))
    lines = [f"swap and back, median: ours {ours * 1000:.1f} ms, host {host * 1000:.0f} ms, ratio 1/{host / ours:.0f}"]
    plain, ours, host = (statistics.median(result["plot"][key]) for key in ("plain", "ours", "host"))
    more, theirs = ours - plain, host - plain
    lines.append(
        f"X/Y/Z over three VAEs, medians: no change {plain:.2f} s, ours {ours:.2f} s ({more:+.2f}), "
        f"the host's way {host:.2f} s ({theirs:+.2f})"
    )
    if result["startup"]["with"]:
        without, with_us = (statistics.median(result["startup"][key]) for key in ("without", "with"))
        lines.append(f"start-up, median: without {without:.2f} s, with {with_us:.2f} s ({with_us - without:+.2f} s)")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    swap_arguments(parser)
    args = parser.parse_args()
    result, text = measure(args)
    print(json.dumps(result) if args.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
