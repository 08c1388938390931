"""Say whether a VAE is damaged, and how: checkpoints that were merged often hold one that is.

Two looks. The weights alone, in seconds: numbers that are none, and layers that are empty. And what the VAE does to
pictures, in some more: a healthy one gives back what it was given. How it fails tells the kind of damage: pictures that
come back paler (an affine map of slope below 1: the washed-out look), or that come back different.

Only these refuse a VAE. What rests on how training usually leaves weights (layers that look like noise, or like they
were exchanged, `library.exchanged`) is a suspicion: well-trained VAEs have such layers too. It is told, and refuses
nothing.

Every problem and suspicion is a clause without a full stop that begins with "it" or "its", as `VaeFileError` has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.codec.kinds.shapes import Padding
from vae_manager.codec.pictures import LUMA
from vae_manager.codec.whole import decode, encode, latent_of
from vae_manager.errors import VaeFileError
from vae_manager.library.digest import Progress
from vae_manager.library.exchanged import misplaced_layers, noise_layers, profile
from vae_manager.library.files import VaeFile
from vae_manager.library.layouts import detect_layout
from vae_manager.library.numbers import computable, impossible
from vae_manager.library.probe import SIDE, bundled_pictures
from vae_manager.library.state import load_kl
from vae_manager.library.tensors import TensorFile, open_tensors

PALEST = 0.85
"""Contrast that a VAE must give back."""

BLOCK = 16
"""Pixels: contrast and faithfulness are measured on the means of blocks of this side. Every VAE loses fine detail,
which would look like a loss of contrast; none loses what is as large as this."""

DEGREE = 3
"""Of the polynomial that levels follow: what lifts black by a bend and what flattens both ends are near to one."""

FAITHFUL = MappingProxyType({"sd1": 22.0, "sdxl": 22.0, "sd3": 24.0, "flux": 24.0, "flux2": 24.0})
"""PSNR in dB that block means must reach, contrast and brightness aside. Whole pictures come back with 23 to 25 dB
from SD1's and SDXL's VAEs (model cards of sd-vae-ft-mse and sdxl-vae), block means with more than that."""


@dataclass(frozen=True)
class RoundTrip:
    """What encoding and decoding does to the bundled pictures."""

    contrast: float
    """Slope of the straight line from what went in to what came out (luma of block means)."""
    brightness: float
    """The line's offset, where black is -1 and white 1."""
    psnr: float
    """How well the line explains what came out, in dB, all three colours."""
    chroma: float = 1.0
    """Slope of the line to the colours that came out, less their luma, from those that the curve alone makes."""
    curve: tuple[float, ...] = (0.0, 1.0, 0.0, 0.0)
    """The polynomial that takes levels, from 0 to 1, to those that come out, the constant first; black and white as
    they are: 0, 1, 0, 0."""


def examine(
    file: VaeFile,
    family: str = "unknown",
    thorough: bool = True,
    progress: Progress | None = None,
    padding: Padding | None = None,
) -> tuple[str, ...]:
    """What is wrong with a VAE file, or with the VAE baked into a checkpoint; empty when it is healthy.

    `thorough` False looks at the weights only. `progress` is called after each tensor with (done, total); what it
    raises stops the work. `padding`: of its convolutions, where the user knows better than the file.

    Raises:
        VaeFileError: there is no VAE in it, or it cannot be read.
    """
    opened = open_tensors(file.path)
    layout = detect_layout(opened.header)
    problems = weight_problems(_told(opened, layout.keys, progress))
    if problems or not thorough or not layout.kind.stands_in:
        return problems
    trip = trip_of(file, padding)
    return () if trip is None else trip_problems(trip, family)


def trip_of(file: VaeFile, padding: Padding | None = None, progress: Progress | None = None) -> RoundTrip | None:
    """What the VAE in a file does to the bundled pictures, in some ten seconds; None where it cannot be asked for them,
    which says nothing against it. `progress` is called after each picture with (done, total); what it raises stops
    the work.

    Raises:
        VaeFileError: there is no VAE in it, or it cannot be read.
    """
    if not detect_layout(open_tensors(file.path).header).kind.stands_in:
        return None
    vae = load_kl(file, padding)
    if not vae.config.encodes or vae.config.image_channels != 3:
        return None
    return round_trip(vae, progress)


def suspect(file: VaeFile) -> tuple[str, ...]:
    """What looks unusual about the weights of the VAE in a file, for somebody who asks why its pictures are odd.

    Raises:
        VaeFileError: there is no VAE in it, or it cannot be read.
    """
    opened = open_tensors(file.path)
    return suspicions(_told(opened, detect_layout(opened.header).keys, None))


def weight_problems(tensors: Iterable[tuple[str, Tensor]]) -> tuple[str, ...]:
    """Numbers that cannot be right, of (canonical name, tensor) pairs. For each problem one tensor is named."""
    found: dict[str, list[str]] = {}
    for name, tensor in tensors:
        if problem := impossible(name, tensor):
            found.setdefault(problem, []).append(name)
    return tuple(f"its tensor {names[0]!r}{_and_more(names)} {problem}" for problem, names in found.items())


def suspicions(tensors: Iterable[tuple[str, Tensor]]) -> tuple[str, ...]:
    """Layers that are not as training usually leaves them, of (canonical name, tensor) pairs."""
    profiles = {name: kept for name, tensor in tensors if (kept := profile(name, computable(tensor))) is not None}
    return noise_layers(profiles) or misplaced_layers(profiles)


@torch.no_grad()
def round_trip(vae: AutoencoderKL, progress: Progress | None = None) -> RoundTrip:
    """Encode and decode the bundled pictures. Runs where the VAE's weights are, in their precision."""
    if vae.config.ratio > SIDE or SIDE % vae.config.ratio or vae.config.image_channels != 3:
        raise VaeFileError("it does not take colour pictures of the usual sizes")
    pictures, decoded = bundled_pictures(), []
    for picture in pictures:
        decoded.append(decode(vae, _finite(latent_of(encode(vae, picture[None])))))
        if progress is not None:
            progress(len(decoded), len(pictures))
    before, after = (F.avg_pool2d(x.cpu().double(), BLOCK) for x in (pictures, torch.cat(decoded)))
    contrast, brightness = _line(_luma(before), _luma(after))
    slope, offset = _line(before, after)
    # an error weighs more where little is left of the picture
    error = (after - slope * before - offset) / max(abs(slope), 0.05)
    psnr = 10 * math.log10(4 / max(error.square().mean().item(), 1e-12)) if math.isfinite(slope) else 0.0
    if not math.isfinite(slope):
        return RoundTrip(contrast, brightness, psnr)
    # powers before the means of blocks: those of the means would miss what a bend does within blocks
    powers = [F.avg_pool2d((pictures.cpu().double() / 2 + 0.5) ** power, BLOCK) for power in range(DEGREE + 1)]
    curve = _curve(powers, after / 2 + 0.5)
    alone = torch.stack([factor * power for factor, power in zip(curve, powers, strict=True)]).sum(0)
    chroma, _ = _line(*(x - _luma(x) for x in (alone, after / 2 + 0.5)))
    return RoundTrip(contrast, brightness, psnr, chroma, tuple(curve.tolist()))


def trip_problems(trip: RoundTrip, family: str = "unknown") -> tuple[str, ...]:
    """What a round trip says against a VAE."""
    least = FAITHFUL.get(family, min(FAITHFUL.values()))
    if not math.isfinite(trip.contrast):
        return ("it returns no picture but NaN or infinite values",)
    if trip.psnr < least:
        return (
            f"it does not give pictures back as they were ({trip.psnr:.0f} dB where {least:.0f} dB is the least): "
            "it seems damaged by a merge",
        )
    if trip.contrast < PALEST:
        return (f"it washes pictures out: of their contrast {trip.contrast:.0%} comes back",)
    return ()


def _told(opened: TensorFile, keys: Mapping[str, str], progress: Progress | None) -> Iterator[tuple[str, Tensor]]:
    for done, (name, own) in enumerate(keys.items(), start=1):
        yield name, opened.fetch(own)
        if progress is not None:
            progress(done, len(keys))


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _finite(z: Tensor) -> Tensor:
    """`decode` refuses NaN; here they must come out at the other end, to be reported."""
    return torch.nan_to_num(z)


def _luma(x: Tensor) -> Tensor:
    """(N, 3, h, w) → (N, 1, h, w). Colours fade toward their luma, so it says nothing of them."""
    return (x * torch.tensor(LUMA, dtype=x.dtype)[:, None, None]).sum(dim=1, keepdim=True)


def _curve(powers: list[Tensor], after: Tensor) -> Tensor:
    """Coefficients of the polynomial, the same for all channels, that comes nearest to the luma that came out."""
    columns = torch.stack([_luma(power).flatten() for power in powers], dim=1)
    return torch.linalg.lstsq(columns, _luma(after).flatten()[:, None]).solution[:, 0]


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Slope and offset of the least-squares line through (x, y)."""
    x, y = x.flatten(), y.flatten()
    slope = ((x - x.mean()) * (y - y.mean())).mean() / (x - x.mean()).square().mean()
    return slope.item(), (y.mean() - slope * x.mean()).item()
