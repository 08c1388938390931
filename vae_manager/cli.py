"""The command line: one command per room. `vae-manager COMMAND -h` explains each.

Exit status 0 on success, 2 on bad input with one sentence on stderr. With `--json`, stdout holds one JSON
document and nothing else; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from vae_manager import __version__
from vae_manager.commands import Result, whole
from vae_manager.commands.bench import SUBJECTS
from vae_manager.commands.terminal import hush, printable, say, say_json, sentence, show_warnings, unforeseen
from vae_manager.errors import VaeFileError, VaeManagerError

EXAMPLES = {
    "list": "models/VAE",
    "inspect": "models/VAE/kl-f8-anime2.safetensors --health",
    "convert": "vae.safetensors -o half.safetensors --dtype fp16",
    "encode": "photo.png -o latent.safetensors --vae vae.safetensors",
    "decode": "latent.safetensors -o picture.png --vae vae.safetensors --memory-limit 2GiB",
    "interpolate": "a.safetensors b.safetensors -o between --steps 9",
    "merge": "a.safetensors b.safetensors --alpha 0.3 -o merged.safetensors",
    "presets": "--import-webui stable-diffusion-webui --preview",
    "check-host": "stable-diffusion-webui",
    "bench": "tiling",
    "demo": "",
    "match": "models/Stable-diffusion/dream.safetensors --vae-dir models/VAE",
    "color": "outputs -o mended --session",
    "calibrate": "latent.safetensors --vae mine.safetensors --reference-vae good.safetensors -o map.json",
    "bake": "mine.safetensors -o mended.safetensors --calibration map.json",
    "ui": "--vae-dir models/VAE --checkpoint-dir models/Stable-diffusion",
}
"""The end of each command's help."""

Command = Callable[[argparse.Namespace], Result]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for a refusal, 130 when it was interrupted."""
    # Before torch is loaded: threads that wait by spinning make a busy machine up to eight times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `vae-manager list | head -1`
        hush(sys.stdout)
        return 0
    except SystemExit as end:  # argparse: -h, --version, a wrong option
        return end.code if isinstance(end.code, int) else 2


def _run(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    show_warnings()
    try:
        result = _command(args.command)(args)
    except VaeFileError as error:
        return _refuse(error.sentence(getattr(args, "vae", None) or getattr(args, "file", None) or "The file"))
    except VaeManagerError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "A file"
        return _refuse(f"{name[:300]} cannot be used: {error.strerror or error}.")
    except Exception as error:
        return _refuse(unforeseen(error))
    if args.json:
        say_json(result.document, sys.stdout)
    else:
        say(printable(result.text), sys.stdout)
    return _refuse(result.refusal) if result.refusal else 0


def _refuse(text: str) -> int:
    say(f"vae-manager: {sentence(text)}", sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """Refuses in one sentence, as everything here does."""

    def error(self, message: str) -> NoReturn:
        short = message if len(message) <= 300 else message[:300] + "…"
        self.exit(_refuse(f"{short.rstrip('.')}; {self.prog} -h says what there is."))


def _command(name: str) -> Command:
    """Import late: what computes no tensors must not wait for torch."""
    if name in ("list", "inspect"):
        from vae_manager.commands import library

        return {"list": library.list_files, "inspect": library.inspect}[name]
    if name == "convert":
        from vae_manager.commands.convert import convert

        return convert
    if name in ("encode", "decode"):
        from vae_manager.commands import codec

        return {"encode": codec.encode_picture, "decode": codec.decode_latent}[name]
    if name == "color":
        from vae_manager.commands.color import color_pictures

        return color_pictures
    if name in ("calibrate", "bake"):
        from vae_manager.commands import calibrate

        return {"calibrate": calibrate.calibrate, "bake": calibrate.bake}[name]
    if name == "check-host":
        from vae_manager.commands.host import check_host

        return check_host
    if name == "match":
        from vae_manager.commands.match import match

        return match
    if name == "presets":
        from vae_manager.commands.presets import presets

        return presets
    if name == "interpolate":
        from vae_manager.commands.interpolate import interpolate_latents

        return interpolate_latents
    if name == "merge":
        from vae_manager.commands.merge import merge

        return merge
    if name == "bench":
        from vae_manager.commands.bench import bench

        return bench
    if name == "ui":
        from vae_manager.page.command import serve

        return lambda args: Result(None, serve(args))
    from vae_manager.commands.demo import demo

    return demo


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vae-manager", description="The right VAE for every picture.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str) -> argparse.ArgumentParser:
        example = f"Example: vae-manager {name} {EXAMPLES[name]}".rstrip()
        added = commands.add_parser(name, help=help_, description=help_, epilog=example)
        added.add_argument("--json", action="store_true", help="print one JSON document")
        return added

    add = command("list", "every VAE below the folders")
    add.add_argument("folders", nargs="*", metavar="DIR")

    add = command("inspect", "what this file is: a VAE, or a checkpoint with one in it")
    add.add_argument("file", metavar="FILE")
    add.add_argument(
        "--health", action="store_true", help="also look for damage: weights, and a round trip of pictures"
    )
    _padding_option(add)

    add = command("convert", "write a VAE as safetensors, in another layout or precision")
    add.add_argument("file", metavar="VAE")
    add.add_argument("-o", "--output", required=True)
    add.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="default: as it is")
    add.add_argument("--layout", choices=("ldm", "diffusers"), default="ldm")
    _padding_option(add)

    add = command("encode", "picture to latent, or a folder of them")
    add.add_argument("images", nargs="+", metavar="IMAGE", help=f"a picture, {_FOLDERS}")
    add.add_argument("-o", "--output", required=True, metavar="LATENT.safetensors", help="of several, a folder")
    add.add_argument("--sample", action="store_true", help="sample the posterior instead of taking its mean")
    add.add_argument(
        "--seed", type=int, default=0, help="of the sample; of several, each has its own by it and its name"
    )
    _codec_options(add)
    _many_options(add)

    add = command("decode", "latent to picture (.png, .jpg, …) or raw pixels (.safetensors, .npy), or a folder of them")
    add.add_argument("latents", nargs="+", metavar="LATENT", help=f"a latent, {_FOLDERS}")
    add.add_argument("-o", "--output", required=True, metavar="IMAGE", help="of several, a folder")
    add.add_argument("--bits", type=int, choices=(8, 16), default=8, help="depth of a PNG")
    add.add_argument("--format", choices=_FORMATS, help="of the files in the folder; default png")
    _codec_options(add)
    _many_options(add)

    add = command("interpolate", "latents on the way from one latent to another, both ends included")
    add.add_argument("first", metavar="A")
    add.add_argument("last", metavar="B")
    add.add_argument("-o", "--output", required=True, help="a folder for numbered files, or one batch.safetensors")
    add.add_argument("--steps", type=int, default=5, metavar="N")
    add.add_argument("--method", choices=("linear", "spherical"), default="linear")

    add = command("merge", "one VAE out of two of the same family: (1 - alpha) A + alpha B")
    add.add_argument("first", metavar="A")
    add.add_argument("second", metavar="B")
    add.add_argument("--alpha", type=float, default=0.5, metavar="0…1", help="how much of B; default 0.5")
    add.add_argument("-o", "--output", required=True, metavar="VAE.safetensors")

    add = command("presets", "what is remembered for each checkpoint: list, export to or import from one file")
    add.add_argument("--export", metavar="FILE", help="write all presets into one file")
    add.add_argument("--import", dest="import_", metavar="FILE", help="take over the presets of an exported file")
    add.add_argument("--import-cards", metavar="DIR", help="make presets of A1111's checkpoint cards below a folder")
    add.add_argument(
        "--import-webui",
        metavar="WEBUI_DIR",
        help="make presets of what a WebUI keeps of its own: A1111's and Forge's cards, Forge Neo's presets",
    )
    add.add_argument("--preview", action="store_true", help="with --import-webui: show them, and change nothing")
    add.add_argument("--replace", action="store_true", help="imported presets replace a checkpoint's own")
    add.add_argument("--presets", metavar="FILE", help="default: presets.json in the user's folder")

    add = command("check-host", "does this WebUI have every symbol that the adapters use?")
    add.add_argument("webui", metavar="WEBUI_DIR")

    add = command("bench", "the benchmarks, against peers; in a checkout of the source only")
    subjects = add.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    for subject, (help_, add_arguments) in SUBJECTS.items():
        subparser = subjects.add_parser(subject, help=help_, description=help_)
        # also after the subject; left out there, what stood before it counts
        subparser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
        add_arguments(subparser)

    add = command("demo", "the whole chain on a real photograph with the bundled demo VAE")
    add.add_argument("-o", "--output", default="demo-output", metavar="DIR")

    _color_commands(command)

    add = command("match", "which VAE a checkpoint gets, and why")
    add.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT")
    add.add_argument("--all", metavar="DIR", help="a table of every checkpoint below the folder, by headers alone")
    add.add_argument("--prompt", metavar="TEXT", help="a prompt that may hold <vae:NAME>")
    add.add_argument("--vae-dir", action="append", metavar="DIR", help="where VAEs are; may be given several times")
    add.add_argument("--rules", metavar="FILE", help="default: rules.json in the user's folder")
    add.add_argument("--presets", metavar="FILE", help="default: presets.json in the user's folder")

    add = command("ui", "the page in your browser: library, comparison, rules, colours; on this machine alone")
    add.add_argument("--vae-dir", action="append", default=[], metavar="DIR", help="where VAEs are; several times")
    add.add_argument("--checkpoint-dir", action="append", default=[], metavar="DIR", help="where checkpoints are")
    add.add_argument("--port", type=whole(1024, 65535), default=7870, help="from 1024 to 65535; default 7870")
    add.add_argument("--no-browser", action="store_true", help="print the address instead of opening it")
    return parser


def _color_commands(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    add = command("color", "find out whether pictures are washed out, and correct those that are")
    add.add_argument("images", nargs="+", metavar="IMAGE", help=f"a picture, {_FOLDERS}")
    add.add_argument("-o", "--output", metavar="DIR", help="where the pictures go, under their own names")
    add.add_argument("--diagnose", action="store_true", help="only say what is wrong; write nothing")
    add.add_argument("--reference", metavar="IMAGE", help="the same picture with the right colours")
    add.add_argument("--session", action="store_true", help="the pictures all come from one checkpoint and VAE")
    add.add_argument(
        "--vae", metavar="FILE", help="the VAE that made them all: its round trip tells what it does to colours"
    )
    _padding_option(add)
    add.add_argument("--strength", type=float, default=1.0, metavar="0…1", help="how much of the correction; default 1")
    add.add_argument("--seed", type=int, default=0, help="of the dither")
    _many_options(add)

    add = command("calibrate", "the 3×4 colour map that makes one VAE's pictures look like another's")
    add.add_argument("latents", nargs="+", metavar="LATENT")
    add.add_argument("--vae", required=True, metavar="FILE")
    add.add_argument("--reference-vae", required=True, metavar="FILE")
    _padding_option(add)
    add.add_argument("-o", "--output", metavar="JSON", help="keep the map, for `bake --calibration`")

    add = command("bake", "write a VAE with a colour correction folded into its weights")
    add.add_argument("file", metavar="VAE")
    add.add_argument("-o", "--output", required=True, metavar="VAE.safetensors")
    add.add_argument("--calibration", metavar="JSON", help="what `calibrate -o` wrote")
    add.add_argument("--contrast", type=float, default=1.0)
    add.add_argument("--brightness", type=float, default=0.0)
    add.add_argument("--saturation", type=float, default=1.0)
    add.add_argument("--encoder", action="store_true", help="have the encoder undo the correction too (see docs)")


def _padding_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--padding", choices=("zeros", "reflect"), help="of the VAE's convolutions; default: what its file or name says"
    )


def _codec_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vae", required=True, metavar="FILE")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps …")
    parser.add_argument("--mode", choices=("auto", "whole", "exact"), default="auto", help=_MODE_HELP)
    _padding_option(parser)
    parser.add_argument("--memory-limit", metavar="SIZE", help="what streaming may take; default: what is free")
    parser.set_defaults(vae_sha256=None)


def _many_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="processes, of one thread each; by default as many as pay"
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster that does it, such as tcp://host:8786"
    )


_FOLDERS = "or a folder of them and all below it; in several, what is done already is not done again"

_FORMATS = ("png", "jpg", "webp", "tif", "bmp", "safetensors", "npy")

_MODE_HELP = "exact: the same pixels, streamed in bounded memory; auto: exact wherever the VAE can be streamed"


if __name__ == "__main__":
    sys.exit(main())
