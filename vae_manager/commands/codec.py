"""`encode` and `decode`: picture to latent, latent to picture."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vae_manager.codec.build import Autoencoder, build
from vae_manager.codec.latents import Latent, load_latent, save_latent
from vae_manager.codec.pictures import load_picture, pad_to_multiple, save_picture
from vae_manager.codec.whole import decode, encode, latent_of
from vae_manager.commands import Result, megabytes, open_file
from vae_manager.commands.library import DTYPES
from vae_manager.commands.measure import Measured, measure
from vae_manager.errors import BadInputError
from vae_manager.library.families import FAMILIES
from vae_manager.library.identify import Identity, identify
from vae_manager.library.state import load_state


def encode_picture(args: argparse.Namespace) -> Result:
    """A picture to a latent file: the mean of the posterior, or a seeded sample of it."""
    vae, identity = load_vae(args)
    pixels = load_picture(Path(args.image))
    height, width = pixels.shape[2:]
    padded = pad_to_multiple(pixels, vae.config.ratio)
    generator = torch.Generator().manual_seed(args.seed) if args.sample else None
    z, measured = measure(args.device, lambda: latent_of(encode(vae, padded), generator))
    latent = Latent(z, identity.family, identity.scale_factor)
    if padded.shape != pixels.shape:
        latent = replace(latent, size=(width, height))
    save_latent(Path(args.output), latent)
    return _result(args.output, width, height, list(z.shape), measured)


def decode_latent(args: argparse.Namespace) -> Result:
    """A latent file to a picture, or to raw float pixels."""
    latent = load_latent(Path(args.latent))
    vae, identity = load_vae(args)
    z = latent_for(identity, latent)
    pixels, measured = measure(args.device, lambda: decode(vae, z))
    if not torch.isfinite(pixels).all():
        raise BadInputError(f"The picture holds NaN in {args.dtype}: this VAE needs --dtype bf16 or fp32.")
    if latent.size:
        pixels = pixels[:, :, : latent.size[1], : latent.size[0]]
    save_picture(Path(args.output), pixels, args.bits)
    return _result(args.output, pixels.shape[3], pixels.shape[2], list(latent.z.shape), measured)


def load_vae(args: argparse.Namespace) -> tuple[Autoencoder, Identity]:
    """The VAE that `--vae`, `--dtype` and `--device` ask for."""
    file = open_file(args.vae)
    device = _device(args.device)
    state = load_state(file, DTYPES[args.dtype])
    tensors = {name: tensor.to(device) for name, tensor in state.tensors.items()}
    return build(state.kind, tensors, state.norm_groups), identify(file)


def latent_for(identity: Identity, latent: Latent) -> Tensor:
    """The latent as this VAE takes it: TAESD works on scaled latents, (z − shift) · scale, all others on z.

    Raises:
        BadInputError: the scale is needed and not known.
    """
    tiny, from_tiny = identity.family == "taesd", latent.family == "taesd"
    if tiny == from_tiny:
        return latent.z
    family = FAMILIES.get(latent.family if tiny else identity.family)
    if family is None or family.scale_factor is None:
        raise BadInputError(
            "A tiny VAE works on scaled latents, and the scale is not known here: the latent file must name its "
            f"family (one of {', '.join(FAMILIES)}) in its metadata."
        )
    if tiny:
        return (latent.z - family.shift_factor) * family.scale_factor
    return latent.z / family.scale_factor + family.shift_factor


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInputError(f"There is no device {name!r} on this computer; use --device cpu.") from error
    return device


def _result(output: str, width: int, height: int, latent_shape: list[int], measured: Measured) -> Result:
    document = {
        "output": output,
        "width": width,
        "height": height,
        "latent_shape": latent_shape,
        "seconds": round(measured.seconds, 4),
        "peak_bytes": measured.peak_bytes,
        "mode": "whole",
    }
    text = f"Wrote {output}: {width}×{height}, {measured.seconds:.2f} s, {megabytes(measured.peak_bytes)} of memory."
    return Result(document, text)
