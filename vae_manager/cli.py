"""The command line: one command per room. `vae-manager COMMAND -h` explains each.

Exit status 0 on success, 2 on bad input with one sentence on stderr. With `--json`, stdout holds one JSON
document and nothing else; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from vae_manager import __version__
from vae_manager.commands import Result
from vae_manager.errors import VaeFileError, VaeManagerError

Command = Callable[[argparse.Namespace], Result]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = _parser().parse_args(argv)
    try:
        result = _command(args.command)(args)
    except VaeFileError as error:
        return _refuse(error.sentence(getattr(args, "vae", None) or getattr(args, "file", None) or "The file"))
    except VaeManagerError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename or 'A file'} cannot be used: {error.strerror or error}.")
    except MemoryError:
        return _refuse("There is not enough memory for this; close other programs or use a smaller picture.")
    except KeyboardInterrupt:
        return 130
    print(json.dumps(result.document, ensure_ascii=False) if args.json else result.text)
    return 0


def _refuse(sentence: str) -> int:
    print(f"vae-manager: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


def _command(name: str) -> Command:
    """Import late: `vae-manager check-host` must not wait for torch."""
    if name in ("list", "inspect", "convert"):
        from vae_manager.commands import library

        return {"list": library.list_files, "inspect": library.inspect, "convert": library.convert}[name]
    if name in ("encode", "decode"):
        from vae_manager.commands import codec

        return {"encode": codec.encode_picture, "decode": codec.decode_latent}[name]
    if name == "check-host":
        from vae_manager.commands.host import check_host

        return check_host
    from vae_manager.commands.demo import demo

    return demo


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vae-manager", description="The right VAE for every picture.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help_, description=help_)
        added.add_argument("--json", action="store_true", help="print one JSON document")
        return added

    add = command("list", "every VAE below the folders")
    add.add_argument("folders", nargs="*", metavar="DIR")

    add = command("inspect", "what this file is: a VAE, or a checkpoint with one in it")
    add.add_argument("file", metavar="FILE")

    add = command("convert", "write a VAE as safetensors, in another layout or precision")
    add.add_argument("file", metavar="VAE")
    add.add_argument("-o", "--output", required=True)
    add.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="default: as it is")
    add.add_argument("--layout", choices=("ldm", "diffusers"), default="ldm")

    add = command("encode", "picture to latent")
    add.add_argument("image", metavar="IMAGE")
    add.add_argument("-o", "--output", required=True, metavar="LATENT.safetensors")
    add.add_argument("--sample", action="store_true", help="sample the posterior instead of taking its mean")
    add.add_argument("--seed", type=int, default=0)
    _codec_options(add)

    add = command("decode", "latent to picture (.png, .jpg, …) or raw pixels (.safetensors, .npy)")
    add.add_argument("latent", metavar="LATENT")
    add.add_argument("-o", "--output", required=True, metavar="IMAGE")
    add.add_argument("--mode", choices=("whole",), default="whole")
    add.add_argument("--bits", type=int, choices=(8, 16), default=8, help="depth of a PNG")
    _codec_options(add)

    add = command("check-host", "does this WebUI have every symbol that the adapters use?")
    add.add_argument("webui", metavar="WEBUI_DIR")

    add = command("demo", "the whole chain on a real photograph with the bundled demo VAE")
    add.add_argument("-o", "--output", default="demo-output", metavar="DIR")
    return parser


def _codec_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vae", required=True, metavar="FILE")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps …")


if __name__ == "__main__":
    sys.exit(main())
