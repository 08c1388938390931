"""`bench`: the benchmarks, which are part of the source tree and not of an installed package."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from vae_manager.commands import Result
from vae_manager.errors import VaeManagerError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench tiling`, which the benchmark has as a script of its own too."""
    parser.add_argument("--channels", type=int, default=64, help="of the autoencoder's first level; SD has 128")
    parser.add_argument("--latent", type=int, default=96, metavar="SIDE", help="side of the square latent")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--only", choices=("decode", "encode"))
    parser.add_argument("--picture", metavar="FILE", help="only draw error maps, of the demo's photograph")
    parser.add_argument("--promises", type=int, metavar="N", help="only hold N random plans against what they take")
    parser.add_argument("--huge", action="store_true", help="only decode 4096 × 4096; an hour and more")


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
