"""`demo`: the whole chain on a real photograph with the bundled VAEs.

What is measured is a command of this very program, run in a process of its own, so that its memory is its own too.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from vae_manager.codec.build import Autoencoder
from vae_manager.codec.pictures import load_picture, pad_to_multiple, save_picture, to_levels
from vae_manager.codec.whole import decode, encode, latent_of
from vae_manager.color.calibration import measure
from vae_manager.color.correct import treat
from vae_manager.color.diagnose import diagnose
from vae_manager.color.difference import delta_e
from vae_manager.color.evidence import Evidence
from vae_manager.color.faults import examined_fault
from vae_manager.commands import Result, megabytes
from vae_manager.errors import VaeManagerError
from vae_manager.library.files import Folder, VaeFile, find_vaes, vae_file
from vae_manager.library.hashing import HashCache
from vae_manager.library.health import examine
from vae_manager.library.probe import bundled_pictures
from vae_manager.library.report import report
from vae_manager.library.state import load_state
from vae_manager.selection.choose import Wishes, choose
from vae_manager.store import open_store
from vae_manager.user_data import user_folder

DATA = Path(__file__).parents[1] / "data" / "demo"
WIDTH, SMALL = 2048, 1280
"""Pixels across: of the photograph, and of the small one that goes through the washed-out VAE."""
LIMIT = "300MB"
"""What the exact decode may take, beside the program and the VAE."""
GOOD, BAD = "demo-kl-f8.safetensors", "demo-kl-f8-washed-out.safetensors"


EDGE = 0.03
"""Share of a picture's width that is left out at each edge of the side-by-side picture: the demo VAE leaves dark marks
there, in one piece as well, which a margin around the photograph would take away (docs/demo-vae.md)."""

TITLES = ("the photograph", "through the demo VAE and back", "by a washed-out VAE", "the same, mended")
"""Of the four pictures."""


class _Told:
    """Says on stderr what is being done, and how long it took."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done, self._began = steps, 0, 0.0

    def __call__(self, what: str) -> None:
        self.end()
        self._done, self._began = self._done + 1, time.perf_counter()
        print(f"{self._done}/{self._steps}  {what} … ", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._began:
            print(f"{time.perf_counter() - self._began:.1f} s", file=sys.stderr, flush=True)
        self._began = 0.0


@dataclass(frozen=True)
class Step:
    """One command of the demo and what it answered."""

    command: str
    answer: dict[str, Any]


def demo(args: argparse.Namespace) -> Result:
    """Identify the VAEs, choose one, encode and decode the photograph, and write pictures and a report."""
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    photo, latent = output / "photograph.png", output / "latent.safetensors"
    tell = _Told(5)
    tell("Choosing a VAE for the photograph")
    with Image.open(DATA / "photo.jpg") as image:
        image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS).save(photo)
    files = [vae_file(DATA / name) for name in (GOOD, BAD)]
    decision = choose(Wishes(panel=GOOD, asker="the demo"), find_vaes([Folder(DATA)]))
    if decision.vae is None:
        raise VaeManagerError("The demo's VAE is not in this copy of the program; install it anew.")
    vae = decision.vae.path
    tell("Encoding the photograph to a latent")
    encoded = _run("encode", photo, "-o", latent, "--vae", vae)
    tell("Decoding it in one piece")
    whole = _run("decode", latent, "-o", output / "whole.npy", "--vae", vae, "--mode", "whole")
    tell(f"Decoding it exactly, strip by strip, within {LIMIT}")
    exact = _run("decode", latent, "-o", output / "exact.npy", "--vae", vae, "--memory-limit", LIMIT)
    difference = _difference(output)
    original, decoded = load_picture(photo), torch.from_numpy(_taken(output / "exact.npy"))
    save_picture(output / "decoded.png", decoded)
    tell("Decoding it with a washed-out VAE, and mending that")
    small = F.interpolate(original, scale_factor=SMALL / WIDTH, mode="area")
    colors, pale, mended = _colors(files[0], files[1], small)
    save_picture(output / "decoded-washed-out.png", pale)
    save_picture(output / "calibrated.png", mended)
    psnr = {"decoded": _psnr(decoded, original), "decoded-washed-out": _psnr(pale, small)}
    _side_by_side(output / "side-by-side.png", dict(zip(TITLES, (original, decoded, pale, mended))))
    tell.end()
    document = {
        "photograph": {"path": str(photo), "width": original.shape[3], "height": original.shape[2]},
        "vaes": [report(file, HashCache(open_store(user_folder()))).document() for file in files],
        "chosen": {"vae": decision.vae.name, "reason": decision.reason},
        "steps": [{"command": step.command, **step.answer} for step in (encoded, whole, exact)],
        "exact_minus_whole_levels": difference,
        "colors": colors,
        "psnr_db": {name: round(value, 2) for name, value in psnr.items()},
        "output": str(output),
    }
    text = _report(document, encoded, whole, exact)
    (output / "report.md").write_text(text + "\n", encoding="utf-8")
    (output / "report.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    return Result(document, text)


def _run(command: str, *arguments: object) -> Step:
    """Run one command of ours and return its JSON answer.

    Raises:
        VaeManagerError: it refused, with its own sentence.
    """
    call = [sys.executable, "-m", "vae_manager", command, *map(str, arguments), "--json"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VaeManagerError(done.stderr.strip().removeprefix("vae-manager: ") or f"The command {command} failed.")
    return Step(f"vae-manager {command}", json.loads(done.stdout))


def _colors(good: VaeFile, bad: VaeFile, picture: Tensor) -> tuple[dict[str, Any], Tensor, Tensor]:
    """A wash-out found, named and undone.

    The fault is in the VAE, so the remedy is another VAE, and exact. Where there is none, the colours can be
    calibrated: here on the pictures that come with the program, not on the one that is corrected.

    Returns:
        what was found, with CIEDE2000 before and after; the washed-out picture, and the calibrated one.
    """
    sound, pale_vae = _load(good), _load(bad)
    fault = examined_fault(examine(bad))
    matrix, _ = measure(pale_vae, sound, [latent_of(encode(sound, bundled_pictures()))])
    height, width = picture.shape[2:]
    z = latent_of(encode(sound, pad_to_multiple(picture, sound.config.ratio)))
    right, pale = (decode(vae, z)[0, :, :height, :width].clamp(-1, 1) / 2 + 0.5 for vae in (sound, pale_vae))
    found = diagnose(Evidence(pale, calibration=matrix))
    mended, _ = treat(pale, found)
    document = {
        "fault": fault and fault.sentence,
        "remedy": fault and fault.remedy,
        "delta_e_washed_out": round(delta_e(pale, right), 3),
        "delta_e_calibrated": round(delta_e(mended, right), 3),
    }
    return document, pale[None] * 2 - 1, mended[None] * 2 - 1


def _load(file: VaeFile) -> Autoencoder:
    state = load_state(file, torch.float32)
    return state.network()


def _difference(output: Path) -> float:
    """The largest difference between the whole and the exact decode in 8-bit levels."""
    return float(np.abs(_taken(output / "whole.npy") - np.load(output / "exact.npy")).max() * 127.5)


def _taken(path: Path) -> np.ndarray:
    """Raw pixels, whose file goes again: it is large."""
    pixels = np.load(path)
    path.unlink()
    return pixels


def _psnr(picture: Tensor, original: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over 8-bit levels: 10·log10(255² / mean squared error)."""
    error = (to_levels(picture, 255) - to_levels(original, 255)).double().square().mean().item()
    return 10 * math.log10(255**2 / error) if error else math.inf


def _side_by_side(path: Path, pictures: dict[str, Tensor], width: int = 800) -> None:
    """The pictures two by two, each with its caption."""
    font, gap, head = _font(22), 8, 36
    tiles = []
    for caption, pixels in pictures.items():
        image = Image.fromarray(to_levels(pixels, 255)[0].to(torch.uint8).numpy())
        edge = round(EDGE * image.width)
        image = image.crop((edge, edge, image.width - edge, image.height - edge))
        image = image.resize((width, round(width * image.height / image.width)), Image.Resampling.LANCZOS)
        tile = Image.new("RGB", (width, image.height + head), "white")
        tile.paste(image, (0, head))
        ImageDraw.Draw(tile).text((4, 4), caption, fill="black", font=font)
        tiles.append(tile)
    across, down = width + gap, tiles[0].height + gap
    sheet = Image.new("RGB", (2 * across - gap, 2 * down - gap), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % 2 * across, index // 2 * down))
    sheet.save(path)


def _font(size: int) -> Any:
    """Pillow's own, as large as that where it can be (from 10.1 on)."""
    try:
        return ImageFont.load_default(size=size)
    except TypeError:
        return ImageFont.load_default()


def _report(document: dict[str, Any], encoded: Step, whole: Step, exact: Step) -> str:
    photo, psnr, colors = document["photograph"], document["psnr_db"], document["colors"]
    shape = "×".join(map(str, encoded.answer["latent_shape"][1:]))
    lines = [
        "# VAE Manager demo",
        "",
        f"A photograph of {photo['width']}×{photo['height']} pixels, to a latent and back.",
        "",
        "**What is there.** " + " ".join(_identity_line(vae) for vae in document["vaes"]),
        "",
        f"**Which one.** {document['chosen']['vae']}, because {document['chosen']['reason']}.",
        "",
        "| step | result | time | memory |",
        "|---|---|---|---|",
        f"| encode | a latent of {shape} numbers | {_cost(encoded)} |",
        f"| decode, whole | {psnr['decoded']:.1f} dB from the photograph (PSNR; higher is nearer) | {_cost(whole)} |",
        f"| decode, streamed within {LIMIT} | the same: at most {document['exact_minus_whole_levels']:.4f} of an 8-bit "
        f"level from the whole decode | {_cost(exact)} |",
        "",
        f"**Colours.** The photograph comes out grey of the other VAE ({SMALL} pixels across). Looking "
        f"into that VAE finds: {colors['fault']}; {colors['remedy']}. Decoding with the right VAE mends it exactly. "
        f"Where there is none, calibrating on other pictures takes the difference (CIEDE2000) from "
        f"{colors['delta_e_washed_out']:.1f} to {colors['delta_e_calibrated']:.2f}.",
        "",
        f"Look at {document['output']}/side-by-side.png.",
    ]
    return "\n".join(lines)


def _identity_line(vae: dict[str, Any]) -> str:
    name = Path(vae["path"]).name
    return f"{name}: {vae['parameters'] / 1e6:.1f} M parameters in {vae['dtype']}, sha256 {vae['sha256'][:10]}."


def _cost(step: Step) -> str:
    return f"{step.answer['seconds']:.1f} s | {megabytes(step.answer['peak_bytes'])}"
