"""`encode` and `decode`: picture to latent, latent to picture, whole or streamed."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vae_manager.codec.build import Autoencoder
from vae_manager.codec.kinds.registry import takes_scaled
from vae_manager.codec.kinds.scaling import of_model, to_model
from vae_manager.codec.latents import Latent, load_latent, save_latent
from vae_manager.codec.memory import read_bytes
from vae_manager.codec.picture_files import loses_bits
from vae_manager.codec.pictures import check_holds, check_written, load_picture, pad_to_multiple, save_picture
from vae_manager.codec.streaming import (
    Plan,
    StreamResult,
    plan_decode,
    plan_encode,
    stream_decode,
    stream_encode,
)
from vae_manager.codec.whole import check_latent, decode, encode, latent_of
from vae_manager.commands import Result, about, check_seed, megabytes, open_file
from vae_manager.commands.convert import DTYPES
from vae_manager.commands.measure import Measured, measure
from vae_manager.commands.outputs import check_output
from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.latents.spaces import SPACES, space_of, title_of
from vae_manager.library.identify import Identity, identify
from vae_manager.library.state import load_state


def encode_picture(args: argparse.Namespace) -> Result:
    """A picture to a latent file: the mean of the posterior, or a seeded sample of it."""
    output = Path(args.output)
    check_output(output, [args.image, args.vae], (".safetensors",))
    _check_options(args)
    check_seed(args.seed)
    pixels = load_picture(Path(args.image))
    vae, identity = load_vae(args)
    height, width = pixels.shape[2:]
    padded = pad_to_multiple(pixels, vae.config.ratio)
    generator = torch.Generator().manual_seed(args.seed) if args.sample else None
    with about(args.vae):
        (moments, mode), measured = measure(args.device, lambda: _encode(vae, padded, args))
    z = latent_of(moments, generator)
    latent = Latent(z, identity.family, identity.scale_factor)
    if padded.shape != pixels.shape:
        latent = replace(latent, size=(width, height))
    save_latent(output, latent)
    result = _result(args.output, width, height, list(z.shape), measured, mode)
    if not loses_bits(Path(args.image)):
        return result
    note = f"Of the 16 bits that each colour has in {args.image} the upper 8 were read."
    return replace(result, document={**result.document, "note": note}, text=f"{result.text}\n{note}")


def decode_latent(args: argparse.Namespace) -> Result:
    """A latent file to a picture, or to raw float pixels."""
    output = Path(args.output)
    check_written(output, args.bits)
    check_output(output, [args.latent, args.vae])
    _check_options(args)
    latent = load_latent(Path(args.latent))
    check_holds(output, latent.z.shape[0])
    vae, identity = load_vae(args)
    with about(f"{args.latent} with {args.vae}"):
        _check_family(latent, identity)
        z = latent_for(identity, latent)
        (pixels, mode), measured = measure(args.device, lambda: _decode(vae, z, args))
        if not torch.isfinite(pixels).all():
            raise BadInputError(_not_finite(args.dtype))
    if latent.size:
        pixels = pixels[:, :, : latent.size[1], : latent.size[0]]
    save_picture(output, pixels, args.bits)
    return _result(args.output, pixels.shape[3], pixels.shape[2], list(latent.z.shape), measured, mode)


def _not_finite(dtype: str) -> str:
    remedy = "this VAE needs --dtype bf16 or fp32" if dtype == "fp16" else "the VAE is damaged; use another one"
    return f"The picture holds NaN in {dtype}: {remedy}."


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what can be refused before the VAE is read."""
    memory_limit(args)
    _device(args.device)


def _check_family(latent: Latent, identity: Identity) -> None:
    """Refuse a latent that says of itself that it is of another latent space than the VAE's.

    Raises:
        BadInputError: it is.
    """
    ours, theirs = identity.family, latent.family
    if ours != theirs and space_of(ours) and space_of(theirs):
        raise BadInputError(
            f"The latent says that it is {title_of(theirs)}'s, and the VAE is {title_of(ours)}'s: its picture "
            "would be of wrong colours; use a VAE of the latent's family."
        )


def _encode(vae: Autoencoder, pixels: Tensor, args: argparse.Namespace) -> tuple[Tensor, str]:
    """The moments, and how they were computed."""
    plan = _plan(plan_encode, vae, pixels, args)
    return (encode(vae, pixels), "whole") if plan is None else _streamed(stream_encode, vae, pixels, plan)


def _decode(vae: Autoencoder, z: Tensor, args: argparse.Namespace) -> tuple[Tensor, str]:
    """The pixels, and how they were computed."""
    check_latent(z, vae.config.latent_channels)
    plan = _plan(plan_decode, vae, z, args)
    return (decode(vae, z), "whole") if plan is None else _streamed(stream_decode, vae, z, plan)


def _plan(make: Callable[..., Plan], vae: Autoencoder, x: Tensor, args: argparse.Namespace) -> Plan | None:
    """How to stream; None: not at all. `auto` streams wherever it can: that is exact, smaller and faster.

    Raises:
        BadInputError: streaming was asked for, and this VAE cannot be streamed.
        MemoryLimitError: nothing fits.
    """
    limit = memory_limit(args)
    if args.mode == "whole":
        return None
    try:
        return make(vae, tuple(x.shape), memory_limit=limit)
    except VaeFileError as error:
        if args.mode == "exact" or limit:
            raise BadInputError(
                f"This VAE cannot be streamed: {error}. Leave out --mode exact and --memory-limit."
            ) from error
        return None


def _streamed(stream: Callable[..., StreamResult], vae: Autoencoder, x: Tensor, plan: Plan) -> tuple[Tensor, str]:
    with _progress("decode" if plan.decodes else "encode") as progress:
        done = stream(vae, x, plan=plan, on_progress=progress)
    assert done.tensor is not None  # no `on_rows` was given
    return done.tensor.float(), done.report.describe()


def memory_limit(args: argparse.Namespace) -> int | None:
    """`--memory-limit` in bytes: '2GiB', '500MB', '1e9'.

    Raises:
        BadInputError: it is no amount of memory.
    """
    if not args.memory_limit:
        return None
    if args.mode == "whole":
        raise BadInputError("--memory-limit needs --mode exact or auto: the whole decode takes what it takes.")
    return read_bytes(args.memory_limit)


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    with tqdm(desc=name, leave=False, file=sys.stderr, disable=None) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def load_vae(args: argparse.Namespace) -> tuple[Autoencoder, Identity]:
    """The VAE that `--vae`, `--dtype` and `--device` ask for."""
    file = open_file(args.vae)
    device = _device(args.device)
    state = load_state(file, DTYPES[args.dtype])
    if args.padding:
        state = replace(state, padding=args.padding)
    tensors = {name: tensor.to(device) for name, tensor in state.tensors.items()}
    return state.network(tensors), identify(file)


def latent_for(identity: Identity, latent: Latent) -> Tensor:
    """The latent as this VAE takes it: TAESD works on scaled latents, (z − shift) · scale, all others on z.

    Raises:
        BadInputError: the scale is needed and not known.
    """
    tiny, from_tiny = takes_scaled(identity.family), takes_scaled(latent.family)
    if tiny == from_tiny:
        return latent.z
    space = space_of((latent.family if tiny else identity.family) or "")
    if space is None or space.scale is None:
        raise BadInputError(
            "A tiny VAE works on scaled latents, and the scale is not known here: the latent file must name its "
            f"family (one of {', '.join(_SCALED)}) in its metadata."
        )
    return to_model(latent.z, space) if tiny else of_model(latent.z, space)


_SCALED = tuple(space.family for space in SPACES.values() if space.scale is not None and space.decoded_here)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # also of the device 'meta', which holds no numbers
    except Exception as error:  # each kind of device has its own
        raise BadInputError(f"There is no device {name[:40]!r} on this computer; use --device cpu.") from error
    return device


def _result(output: str, width: int, height: int, latent_shape: list[int], measured: Measured, mode: str) -> Result:
    document = {
        "output": output,
        "width": width,
        "height": height,
        "latent_shape": latent_shape,
        "seconds": round(measured.seconds, 4),
        "peak_bytes": measured.peak_bytes,
        "mode": mode.split(",")[0],
        "plan": mode,
    }
    cost = f"{measured.seconds:.2f} s, {megabytes(measured.peak_bytes)} of memory"
    return Result(document, f"Wrote {output}: {width}×{height}, {cost} ({mode}).")
