"""`list`, `inspect`, `convert`: what files there are, what they are, and the same weights in another container."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from vae_manager.commands import Result, megabytes, one_line, open_file
from vae_manager.commands.outputs import check_vae_output, save_vae
from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.library.families import family_title
from vae_manager.library.files import Folder, find_vaes
from vae_manager.library.hashing import HashCache
from vae_manager.library.health import examine, suspect
from vae_manager.library.layouts import as_matrix, to_diffusers
from vae_manager.library.report import quick_report, report
from vae_manager.library.state import load_state
from vae_manager.store import open_store
from vae_manager.user_data import user_folder

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def list_files(args: argparse.Namespace) -> Result:
    """Every VAE below the folders, by header alone; unusable files are listed with the reason."""
    folders = [Path(folder) for folder in args.folders or ["."]]
    for folder in folders:
        if not folder.is_dir():
            raise BadInputError(f"There is no folder {str(folder)!r}.")
    hashes = HashCache(open_store(user_folder()))
    documents, lines = [], []
    for file in find_vaes(Folder(folder) for folder in folders):
        found = quick_report(file, hashes)
        if isinstance(found, VaeFileError):
            documents.append({"path": str(file.path), "name": file.name, "bytes": file.size, "problems": [str(found)]})
            lines.append(f"✗ {found.sentence(one_line(file.name))}")
            continue
        documents.append({"name": file.name, **found.document()})
        known = f" = {found.known.name}" if found.known else ""
        kind = f"{family_title(found.family)}, {found.identity.dtype}, {megabytes(file.size)}"
        if found.identity.problems:
            lines.append(f"✗ {VaeFileError(found.identity.problems[0]).sentence(one_line(file.name))}")
            continue
        lines.append(f"  {one_line(file.name)}{known}: {kind}")
    return Result(documents, "\n".join(lines) or "No VAE file was found there.")


def inspect(args: argparse.Namespace) -> Result:
    """Everything about one file."""
    file = open_file(args.file)
    with tqdm(total=file.size, unit="B", unit_scale=True, desc="sha256", leave=False, file=sys.stderr) as bar:

        def progress(done: int, _: int) -> None:
            bar.update(done - bar.n)

        found = report(file, HashCache(open_store(user_folder())), progress=progress)
    document = found.document()
    if args.health and not document["problems"]:
        document["problems"] = list(examine(file, found.family))
        document["suspicions"] = list(suspect(file))
    return Result(document, "\n".join(f"{key:>15}: {_plain(value)}" for key, value in document.items()))


def convert(args: argparse.Namespace) -> Result:
    """Write the VAE of a file as safetensors, in the layout and precision asked for."""
    source, output = open_file(args.file), Path(args.output)
    check_vae_output(output, [source])
    loaded = load_state(source, DTYPES[args.dtype] if args.dtype else None)
    if loaded.kind == "taesd" or (loaded.kind != "kl" and args.layout != "ldm"):
        raise BadInputError(f"A {loaded.kind.upper()} autoencoder has one layout of its own and stays in it.")
    state, groups = loaded.tensors, loaded.norm_groups
    if args.layout == "diffusers":
        levels = 1 + max(int(m.group(1)) for name in state if (m := re.match(r"decoder\.up\.(\d+)\.", name)))
        state = {to_diffusers(name, levels): as_matrix(name, tensor) for name, tensor in state.items()}
    found = quick_report(source, HashCache(None))
    save_vae(output, state, groups, None if isinstance(found, VaeFileError) else found.identity)
    document = {"output": str(output), "tensors": len(state), "bytes": output.stat().st_size}
    return Result(document, f"Wrote {output} ({len(state)} tensors, {megabytes(document['bytes'])}).")


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return "–" if value is None else str(value)
