"""`bench`: the benchmarks, which are part of the source tree and not of an installed package."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from vae_manager.commands import Result, whole
from vae_manager.errors import VaeManagerError


def tiling_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--channels", type=whole(32, 512, step=32), default=64, help="of the autoencoder's first level; SD has 128")
    add("--latent", type=whole(8, 1024), default=96, metavar="SIDE", help="side of the square latent")
    add("--rounds", type=whole(1, 1000), default=3, metavar="N")
    add("--only", choices=("decode", "encode"))
    add("--picture", metavar="FILE", help="only draw error maps, of the demo's photograph")
    add("--promises", type=whole(1, 10000), metavar="N", help="only hold N random plans against what they take")
    add("--huge", action="store_true", help="only decode 4096 × 4096; an hour and more")


def swap_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--webui", metavar="DIR", help="an installed WebUI; default: the variable WEBUI_DIR")
    add("--rounds", type=whole(1, 1000), default=5, metavar="N")
    add("--starts", type=whole(1, 100), default=3, metavar="N", help="starts of the WebUI with and without us")


def color_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--set", default="color-set", metavar="DIR", help="what tools/build_color_set.py wrote")
    add("--split", default="test")
    add("--count", type=whole(1, 100000), default=60, metavar="N", help="pictures per measurement")
    add("--ours", action="store_true", help="without the peers, which take most of the time")
    add("--only", default="", help="these sections, separated by commas (all)")
    add("--picture", metavar="FILE", help="only write the before and after picture there")


def causal_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--side", type=whole(64, 8192, step=16), default=512, metavar="PIXELS", help="of the square picture"
    )
    parser.add_argument("--only", choices=("decode", "encode"))


def gpu_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", default="cuda", metavar="DEVICE", help="as torch calls it, such as cuda:1")
    add("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    add("--channels", type=whole(32, 512, step=32), default=128, help="of the autoencoder's first level; SD has 128")
    side = whole(64, 16384, step=8)
    add("--sides", type=side, nargs="+", default=[1024, 2048], metavar="PIXELS", help="of the square pictures")
    add("--rounds", type=whole(1, 1000), default=5, metavar="N")
    add("--compile", action="store_true", help="the whole decode with torch.compile, too, which takes a while")


def library_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--files", type=whole(1, 100000), default=300, metavar="N", help="VAEs, and as many checkpoints")
    add("--megabytes", type=whole(1, 1048576), default=1024, metavar="N", help="of the file that is hashed")
    add("--rounds", type=whole(1, 1000), default=3, metavar="N")


def page_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--files", type=whole(100, 100000), default=1000, metavar="N", help="VAEs, and as many checkpoints")
    add("--rounds", type=whole(1, 1000), default=5, metavar="N")


SUBJECTS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "tiling": ("the exact decode beside the whole one and other tilers", tiling_arguments),
    "gpu": ("the exact decode on a GPU, beside the whole one and other tilers", gpu_arguments),
    "causal": ("a picture from a video autoencoder, as a 2-D network and as the 3-D one", causal_arguments),
    "swap": ("a change of VAE in a running WebUI beside its own way", swap_arguments),
    "color": ("colour correction beside other tools, on a set of pictures", color_arguments),
    "library": ("listing and matching hundreds of files, and hashing one", library_arguments),
    "page": ("the page with a thousand files in a browser, and what a WebUI waits for", page_arguments),
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
