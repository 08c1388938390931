"""One picture or latent through several VAEs: pictures side by side, where they differ, and by how much."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_manager.codec.build import Autoencoder
from vae_manager.codec.latents import load_latent
from vae_manager.codec.pictures import on_white, pad_to_multiple, with_channels
from vae_manager.codec.streaming import stream_decode, stream_encode
from vae_manager.codec.whole import decode, encode, latent_of
from vae_manager.color.difference import delta_e
from vae_manager.errors import BadInputError, Interrupted, VaeFileError, VaeManagerError
from vae_manager.library.files import VaeFile
from vae_manager.library.state import load_state
from vae_manager.page.house import House
from vae_manager.page.markup import before_after, difference, picture, problems
from vae_manager.page.work import Tell, part_of, silent

MOST = 6
"""VAEs at once."""

OnProgress = Callable[[int, int], None]

Run = Callable[[Autoencoder, OnProgress], Tensor]
"""A VAE's pixels of what is compared, (N, 3, H, W); tells (done, total) meanwhile."""

SIDES = (256, 512, 768, 1024)
"""Longer sides to which a picture is brought first: the comparison is to be seen soon."""


@dataclass(frozen=True)
class Through:
    """What one VAE made of it."""

    name: str
    pixels: np.ndarray
    """(H, W, 3) in [0, 1]."""


def compare(
    house: House, names: Sequence[str], image: Image.Image | None, side: int, latent: str | None, tell: Tell = silent
) -> str:
    """The comparison as HTML.

    Args:
        image: goes through encoder and decoder of each VAE.
        side: the longer side in pixels to which it is brought.
        latent: path of a latent file; it goes before the picture, and through the decoders alone.

    Raises:
        Interrupted: `tell` did.
    """
    try:
        names = _checked(names)
        source, run = _source(image, side, latent)
        files = {file.name: file for file in house.vaes()}
        done, refused = _each(names, files, run, bool(latent), tell)
    except Interrupted:
        raise
    except VaeManagerError as error:
        return problems([str(error)])
    first = Through("the picture", source) if source is not None else done[0] if done else None
    cells = [_cell(one, first) for one in done] if first is not None else []
    return problems(refused) + f'<div class="vae-manager-grid">{"".join(cells)}</div>'


def _checked(names: Sequence[str]) -> list[str]:
    if not names:
        raise BadInputError("Choose two to six VAEs to compare.")
    if len(names) > MOST:
        raise BadInputError(f"Choose at most {MOST} VAEs, not {len(names)}.")
    return list(dict.fromkeys(names))


def _source(image: Image.Image | None, side: int, latent: str | None) -> tuple[np.ndarray | None, Run]:
    """What went in, where it is a picture, and what brings a VAE's pixels out of it."""
    if latent:
        z = _latent(Path(latent))
        return None, lambda vae, on_progress: _decoded(vae, z, on_progress)
    if image is None:
        raise BadInputError("Give a picture or a latent to compare on.")
    image = image.convert("RGB")
    scale = min(1.0, side / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1

    def through(vae: Autoencoder, on_progress: OnProgress) -> Tensor:
        padded = pad_to_multiple(with_channels(pixels, vae.config.image_channels), vae.config.ratio)
        z = latent_of(_encoded(vae, padded, lambda done, total: on_progress(done, 2 * total)))
        return _decoded(vae, z, lambda done, total: on_progress(total + done, 2 * total))[..., :height, :width]

    return np.asarray(image, dtype=np.float32) / 255, through


def _latent(path: Path) -> Tensor:
    """An uploaded latent. Where it lies meanwhile is nobody's business: only its name is said."""
    try:
        return load_latent(path).z
    except BadInputError as error:
        raise BadInputError(str(error).replace(str(path), path.name)) from error


def _each(
    names: Sequence[str], files: dict[str, VaeFile], run: Run, raw: bool, tell: Tell
) -> tuple[list[Through], list[str]]:
    """What each VAE made of it, and a sentence for each that could not be used. `raw`: it is a latent, unscaled."""
    done: list[Through] = []
    refused: list[str] = []
    for at, name in enumerate(names):
        on_progress = part_of(tell, at, len(names), name)
        on_progress(0, 1)
        try:
            if name not in files:
                raise BadInputError(f"There is no VAE {name!r} any more.")
            state = load_state(files[name], torch.float32)
            if raw and state.kind.latents_scaled:
                raise BadInputError(f"{name} is a tiny VAE, which takes the model's own latents; compare on a picture.")
            out = run(state.network().eval(), on_progress)
            if not bool(torch.isfinite(out).all()):
                raise BadInputError(f"{name} gives no picture (NaN): it is damaged.")
            pixels = ((on_white(out)[0] + 1) / 2).clamp(0, 1).permute(1, 2, 0).float().numpy()
            done.append(Through(name, pixels))
        except VaeFileError as error:
            refused.append(error.sentence(name))
        except Interrupted:
            raise
        except VaeManagerError as error:
            refused.append(str(error) if name in str(error) else f"{name}: {error}")
    return done, refused


@torch.no_grad()
def _decoded(vae: Autoencoder, z: Tensor, on_progress: OnProgress) -> Tensor:
    try:
        tensor = stream_decode(vae, z, on_progress=on_progress).tensor
    except VaeFileError:  # of a kind that is not streamed
        tensor = None
    return decode(vae, z) if tensor is None else tensor.float()


@torch.no_grad()
def _encoded(vae: Autoencoder, pixels: Tensor, on_progress: OnProgress) -> Tensor:
    try:
        tensor = stream_encode(vae, pixels, on_progress=on_progress).tensor
    except VaeFileError:
        tensor = None
    return encode(vae, pixels) if tensor is None else tensor.float()


def _cell(one: Through, first: Through) -> str:
    """One VAE's picture with a slider to what it is held against, and the map of what differs."""
    name = html.escape(one.name)
    if one is first or one.pixels.shape != first.pixels.shape:
        other = "" if one is first else ", of another size"
        return f"<figure>{picture(_image(one.pixels), one.name)}<figcaption>{name}{other}</figcaption></figure>"
    slider = before_after(_image(first.pixels), _image(one.pixels), (first.name, one.name))
    where = picture(difference(first.pixels, one.pixels), f"Where {one.name} differs from {first.name}, eight times")
    words = html.escape(", ".join(_measures(first.pixels, one.pixels)))
    return f"<figure>{slider}{where}<figcaption>{name}: {words}</figcaption></figure>"


def _measures(one: np.ndarray, other: np.ndarray) -> Iterator[str]:
    off = float(((one - other) ** 2).mean())
    yield f"{-10 * math.log10(off):.1f} dB" if off > 0 else "the same"
    pixels = [torch.from_numpy(np.ascontiguousarray(each)).permute(2, 0, 1) for each in (one, other)]
    yield f"mean CIEDE2000 {delta_e(*pixels):.2f}"


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels * 255).round().astype(np.uint8))
