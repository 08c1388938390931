"""`encode` and `decode`: picture to latent, latent to picture, whole or streamed."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vae_manager.codec.build import Autoencoder
from vae_manager.codec.kinds.registry import takes_scaled
from vae_manager.codec.kinds.scaling import of_model, to_model
from vae_manager.codec.latents import Latent, load_latent, save_latent
from vae_manager.codec.memory import read_bytes
from vae_manager.codec.picture_files import ENDINGS, loses_bits
from vae_manager.codec.pictures import (
    check_holds,
    check_written,
    load_picture,
    pad_to_multiple,
    save_picture,
    with_channels,
)
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
from vae_manager.commands.many import Batch, Document, Files, Item, attempt, checked_place, is_many, items_of, result
from vae_manager.commands.measure import Measured, measure
from vae_manager.commands.outputs import check_output
from vae_manager.commands.workers import count_jobs, share, workers
from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.latents.spaces import SPACES, space_of, title_of
from vae_manager.library.files import VaeFile
from vae_manager.library.hashing import HashCache
from vae_manager.library.identify import Identity, identify
from vae_manager.library.state import load_state
from vae_manager.store import open_store
from vae_manager.user_data import user_folder

LATENT_FILE = ".safetensors"
PICTURES = Files("picture", ENDINGS, LATENT_FILE)
LATENTS = Files("latent", (".safetensors", ".latent", ".npz", ".npy"))


def encode_picture(args: argparse.Namespace) -> Result:
    """A picture to a latent file: the mean of the posterior, or a seeded sample of it; or each of many pictures."""
    check_seed(args.seed)
    if is_many(args.images):
        return _many(args, PICTURES, _encode_file, {"sample": args.sample, "seed": args.seed if args.sample else None})
    source, output = Path(args.images[0]), Path(args.output)
    check_output(output, [source, args.vae], (LATENT_FILE,))
    _check_options(args)
    document = _encode_file(Item(source, output, source.name), args, lambda: load_vae(args), args.seed)
    return Result(document, "\n".join([_line(document), *_notes(document)]))


def decode_latent(args: argparse.Namespace) -> Result:
    """A latent file to a picture, or to raw float pixels; or each of many latents."""
    if is_many(args.latents):
        files = replace(LATENTS, makes=f".{args.format or 'png'}")
        check_written(Path(f"picture{files.makes}"), args.bits)
        return _many(args, files, _decode_file, {"bits": args.bits})
    if args.format:
        raise BadInputError("--format is for folders of latents: one picture's kind is told by the ending of -o.")
    source, output = Path(args.latents[0]), Path(args.output)
    check_written(output, args.bits)
    check_output(output, [source, args.vae])
    _check_options(args)
    document = _decode_file(Item(source, output, source.name), args, lambda: load_vae(args), 0)
    return Result(document, _line(document))


Loaded = tuple[Autoencoder, Identity]


def _encode_file(item: Item, args: argparse.Namespace, load: Callable[[], Loaded], seed: int) -> Document:
    """`load`: gives the VAE, which may be held already; `seed`: of the sample, where one is taken."""
    pixels = load_picture(item.source)
    vae, identity = load()
    height, width = pixels.shape[2:]
    padded = pad_to_multiple(with_channels(pixels, vae.config.image_channels), vae.config.ratio)
    generator = torch.Generator().manual_seed(seed) if args.sample else None
    with about(args.vae):
        (moments, mode), measured = measure(args.device, lambda: _encode(vae, padded, args))
    z = latent_of(moments, generator)
    latent = Latent(z, identity.family, identity.scale_factor)
    if padded.shape[2:] != pixels.shape[2:]:
        latent = replace(latent, size=(width, height))
    assert item.target is not None
    save_latent(item.target, latent)
    document = _document(item, width, height, z, measured, mode)
    if loses_bits(item.source):
        document["note"] = f"Of the 16 bits that each colour has in {item.source} the upper 8 were read."
    return document


def _decode_file(item: Item, args: argparse.Namespace, load: Callable[[], Loaded], seed: int) -> Document:
    """`load`: gives the VAE, which may be held already."""
    assert item.target is not None
    latent = load_latent(item.source)
    check_holds(item.target, latent.z.shape[0])
    vae, identity = load()
    with about(f"{item.source} with {args.vae}"):
        _check_family(latent, identity)
        z = latent_for(identity, latent)
        (pixels, mode), measured = measure(args.device, lambda: _decode(vae, z, args))
        if not torch.isfinite(pixels).all():
            raise BadInputError(_not_finite(args.dtype))
    if latent.size:
        pixels = pixels[:, :, : latent.size[1], : latent.size[0]]
    save_picture(item.target, pixels, args.bits)
    return _document(item, pixels.shape[3], pixels.shape[2], latent.z, measured, mode)


def _not_finite(dtype: str) -> str:
    remedy = "this VAE needs --dtype bf16 or fp32" if dtype == "fp16" else "the VAE is damaged; use another one"
    return f"The picture holds NaN in {dtype}: {remedy}."


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what can be refused before the VAE is read."""
    if args.jobs is not None or args.scheduler:
        raise BadInputError("--jobs and --scheduler are for several files, or a folder of them.")
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
    return (encode(vae, pixels), "whole") if plan is None else _streamed(stream_encode, vae, pixels, plan, args)


def _decode(vae: Autoencoder, z: Tensor, args: argparse.Namespace) -> tuple[Tensor, str]:
    """The pixels, and how they were computed."""
    check_latent(z, vae.config.latent_channels)
    plan = _plan(plan_decode, vae, z, args)
    return (decode(vae, z), "whole") if plan is None else _streamed(stream_decode, vae, z, plan, args)


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
        return make(vae, tuple(x.shape), memory_limit=limit or (share() if args.device == "cpu" else None))
    except VaeFileError as error:
        if args.mode == "exact" or limit:
            raise BadInputError(
                f"This VAE cannot be streamed: {error}. Leave out --mode exact and --memory-limit."
            ) from error
        return None


def _streamed(
    stream: Callable[..., StreamResult], vae: Autoencoder, x: Tensor, plan: Plan, args: argparse.Namespace
) -> tuple[Tensor, str]:
    with _strips("decode" if plan.decodes else "encode", shown=args.vae_sha256 is None) as progress:
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
def _strips(name: str, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar of the strips; where there are many pictures, there is one of those instead."""
    with tqdm(desc=name, leave=False, file=sys.stderr, disable=None if shown else True) as bar:

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
    """The latent as this VAE takes it: tiny ones work on the diffusion model's latents, all others on z.

    Raises:
        BadInputError: the scale is needed and not known.
    """
    tiny, from_tiny = takes_scaled(identity.family), takes_scaled(latent.family)
    if tiny == from_tiny:
        return latent.z
    space = space_of((latent.family if tiny else identity.family) or "", latent.z.shape[1])
    if space is None or not space.scalable:
        raise BadInputError(
            "A tiny VAE works on scaled latents, and the scale is not known here: the latent file must name its "
            f"family (one of {', '.join(_SCALED)}) in its metadata."
        )
    return to_model(latent.z, space) if tiny else of_model(latent.z, space)


_SCALED = tuple(space.family for space in SPACES.values() if space.scalable and space.decoded_here)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # also of the device 'meta', which holds no numbers
    except Exception as error:  # each kind of device has its own
        raise BadInputError(f"There is no device {name[:40]!r} on this computer; use --device cpu.") from error
    return device


def _document(item: Item, width: int, height: int, z: Tensor, measured: Measured, mode: str) -> Document:
    return {
        "output": str(item.target),
        "width": width,
        "height": height,
        "latent_shape": list(z.shape),
        "seconds": round(measured.seconds, 4),
        "peak_bytes": measured.peak_bytes,
        "mode": mode.split(",")[0],
        "plan": mode,
    }


def _line(document: Document) -> str:
    cost = f"{document['seconds']:.2f} s, {megabytes(document['peak_bytes'])} of memory"
    return f"Wrote {document['output']}: {document['width']}×{document['height']}, {cost} ({document['plan']})."


def _notes(document: Document) -> list[str]:
    return [document[name] for name in ("note", "problem") if name in document]


# --- many files


def _many(args: argparse.Namespace, files: Files, code: Callable[..., Document], job: dict[str, Any]) -> Result:
    """Code every file; `job`: which of this command's options an output depends on."""
    names = "images" if files is PICTURES else "latents"
    args = checked_place(args, names, "output", "vae")
    memory_limit(args)
    if not args.scheduler:  # whose workers have devices of their own
        _device(args.device)
    file = open_file(args.vae)
    identify(file)  # refused here where it is none, and not for each picture
    args.vae_sha256 = _sha256(file)
    folder = Path(args.output)
    items = items_of(getattr(args, names), folder, files, [args.vae])
    job |= {"command": args.command, "vae": args.vae_sha256, "dtype": args.dtype, "padding": args.padding}
    batch = Batch(items, folder, job)
    jobs = count_jobs(args.jobs, len(batch.waiting), None)
    with workers(jobs, args.scheduler) as each:
        documents = batch.do(each, partial(_code_one, code=code, args=args), args.command)
    written = sum("problem" not in document for document in documents)
    lines = [line for document in documents for line in _notes(document)]
    return result(documents, batch.before, files, lines, f"{written} {files.makes} files are in {folder}.")


def _code_one(item: Item, code: Callable[..., Document], args: argparse.Namespace) -> Document:
    """One of many, in whatever process; the VAE is loaded once in each, and one picture at a time is computed."""
    with _one_at_a_time:
        loaded = _held_vae(args)
        seed = _seed_of(args.seed, item.name) if args.command == "encode" else 0
        return attempt(item, lambda: {"path": str(item.source), **code(item, args, lambda: loaded, seed)})


def _seed_of(seed: int, name: str) -> int:
    """A seed for each picture: with one for all of them, all would get the same noise."""
    text = f"{seed}:{name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


_one_at_a_time = threading.Lock()
_held: tuple[Any, Loaded] | None = None


def _held_vae(args: argparse.Namespace) -> Loaded:
    """As `load_vae`, and kept for the next picture.

    Raises:
        BadInputError: it is another file than the one that the run was begun with, on another computer perhaps.
    """
    global _held
    file = open_file(args.vae)
    key = (file.version, args.vae_sha256, args.dtype, args.device, args.padding)
    if _held is None or _held[0] != key:
        _held = None  # before the next one is loaded
        if _sha256(file) != args.vae_sha256:
            raise BadInputError(f"{args.vae} is not the same file everywhere, or was changed; use one file for all.")
        _held = key, load_vae(args)
    return _held[1]


def _sha256(file: VaeFile) -> str:
    return HashCache(open_store(user_folder())).sha256(file)
