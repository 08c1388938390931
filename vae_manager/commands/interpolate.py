"""`interpolate`: latents on the way from one picture to another."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vae_manager.codec.latents import Latent, load_latent, save_latent
from vae_manager.commands import Result
from vae_manager.commands.outputs import check_output
from vae_manager.errors import BadInputError
from vae_manager.latents.spaces import title_of

MAX_STEPS = 10_000

PARALLEL = 1e-6
"""Below this sine two latents point the same way (or opposite ways), and there is no one arc between them."""


def interpolate_latents(args: argparse.Namespace) -> Result:
    """Write `--steps` latents from A to B, both ends included: numbered files in a folder, or one batch."""
    if not 2 <= args.steps <= MAX_STEPS:
        raise BadInputError(f"--steps must be 2 to {MAX_STEPS}: A and B count as the first and the last step.")
    _check_outputs(Path(args.output), args)
    first, last = load_latent(Path(args.first)), load_latent(Path(args.last))
    _check_pair(first, last)
    between = slerp if args.method == "spherical" else lerp
    steps = (between(first.z, last.z, step / (args.steps - 1)) for step in range(args.steps))
    written = _write(Path(args.output), steps, args.steps, first, last)
    document = {
        "outputs": [str(path) for path in written],
        "steps": args.steps,
        "method": args.method,
        "latent_shape": list(first.z.shape),
    }
    where = written[0] if len(written) == 1 else f"{written[0]} … {written[-1].name}"
    return Result(document, f"Wrote {args.steps} latents: {where}.")


def _targets(output: Path, count: int) -> list[Path]:
    """One file, or as many numbered ones as there are steps."""
    if output.suffix.lower() == ".safetensors":
        return [output]
    return [output / f"{number:0{len(str(count - 1))}}.safetensors" for number in range(count)]


def _check_outputs(output: Path, args: argparse.Namespace) -> None:
    """Refuse to write over A, B or a file where the folder should be."""
    batch = output.suffix.lower() == ".safetensors"
    if not batch and output.exists() and not output.is_dir():
        raise BadInputError(f"{str(output)!r} is a file; give a folder, or a name that ends in .safetensors.")
    for target in _targets(output, args.steps):
        if batch or target.exists():
            check_output(target, [args.first, args.last])


def lerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The straight line from a (t = 0) to b (t = 1), exact at both ends."""
    return torch.lerp(a, b, t)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The great arc from a to b (Shoemake, "Animating Rotation with Quaternion Curves", 1985), each picture of the
    batch (N, …) as one vector. Latents of one direction have no arc between them and take the straight line."""
    if t in (0.0, 1.0):
        return b if t else a  # bit for bit
    x, y = (side.double().flatten(1) for side in (a, b))
    # a picture that is nothing but zeros has no direction: NaN, which takes the straight line too
    cosine = ((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))).clamp(-1, 1)[:, None]
    angle = cosine.arccos()
    arc = (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / angle.sin()
    return torch.where(angle.sin() > PARALLEL, arc, torch.lerp(x, y, t)).reshape(a.shape).to(a.dtype)


def _check_pair(first: Latent, last: Latent) -> None:
    if first.z.shape != last.z.shape:
        raise BadInputError(
            f"The latents have the shapes {list(first.z.shape)} and {list(last.z.shape)}, and nothing lies between "
            "those; encode two pictures of one size with one VAE."
        )
    families = {latent.family for latent in (first, last)} - {"unknown"}
    scales = {latent.scale_factor for latent in (first, last)} - {None}
    if len(families) > 1:
        titles = " and of ".join(map(title_of, sorted(families)))
        raise BadInputError(f"The latents are of {titles}, and nothing lies between those; encode both with one VAE.")
    if len(scales) > 1:
        raise BadInputError("The latents have different scale factors: they are of two VAEs; encode both with one.")


def _write(output: Path, steps: Iterator[Tensor], count: int, first: Latent, last: Latent) -> list[Path]:
    if output.suffix.lower() == ".safetensors":
        save_latent(output, _described(torch.cat(list(steps)), first, last))
        return [output]
    output.mkdir(parents=True, exist_ok=True)
    targets = _targets(output, count)
    for target, z in zip(targets, steps, strict=True):
        save_latent(target, _described(z, first, last))
    return targets


def _described(z: Tensor, first: Latent, last: Latent) -> Latent:
    """What both ends are, or what the one says that says anything."""
    family = first.family if first.family != "unknown" else last.family
    scale = first.scale_factor if first.scale_factor is not None else last.scale_factor
    return Latent(z, family, scale, first.size if first.size == last.size else None)
