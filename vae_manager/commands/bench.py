"""`bench`: the benchmarks, which are part of the source tree and not of an installed package."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from vae_manager.commands import Result
from vae_manager.errors import VaeManagerError


def tiling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=int, default=64, help="of the autoencoder's first level; SD has 128")
    parser.add_argument("--latent", type=int, default=96, metavar="SIDE", help="side of the square latent")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--only", choices=("decode", "encode"))
    parser.add_argument("--picture", metavar="FILE", help="only draw error maps, of the demo's photograph")
    parser.add_argument("--promises", type=int, metavar="N", help="only hold N random plans against what they take")
    parser.add_argument("--huge", action="store_true", help="only decode 4096 × 4096; an hour and more")


def swap_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--webui", metavar="DIR", help="an installed WebUI; default: the variable WEBUI_DIR")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--starts", type=int, default=3, metavar="N", help="starts of the WebUI with and without us")


def color_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", default="color-set", metavar="DIR", help="what tools/build_color_set.py wrote")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=60, metavar="N", help="pictures per measurement")
    parser.add_argument("--ours", action="store_true", help="without the peers, which take most of the time")
    parser.add_argument("--only", default="", help="these sections, separated by commas (all)")
    parser.add_argument("--picture", metavar="FILE", help="only write the before and after picture there")


def library_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=int, default=300, metavar="N", help="VAEs, and as many checkpoints")
    parser.add_argument("--megabytes", type=int, default=1024, metavar="N", help="of the file that is hashed")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")


SUBJECTS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "tiling": ("the exact decode beside the whole one and other tilers", tiling_arguments),
    "swap": ("a change of VAE in a running WebUI beside its own way", swap_arguments),
    "color": ("colour correction beside other tools, on a set of pictures", color_arguments),
    "library": ("listing and matching hundreds of files, and hashing one", library_arguments),
}
"""What each benchmark is, and its options, which it has as a script of its own too."""


def bench(args: argparse.Namespace) -> Result:
    """Run one benchmark: a row per subject.

    Raises:
        VaeManagerError: the benchmarks are not there, or one of them needs what this platform does not have.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "benchmarks" / f"{args.subject}.py").is_file():
        raise VaeManagerError("The benchmarks are not here: they are in a checkout of the source, not in a package.")
    sys.path.insert(0, str(root))
    try:
        module = importlib.import_module(f"benchmarks.{args.subject}")
    except ImportError as error:  # Windows has no `resource`
        raise VaeManagerError(f"The benchmark cannot run on this computer ({error}).") from error
    rows, text = module.measure(args)
    return Result(rows, text)
