"""`convert`: the same weights in another container."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch

from vae_manager.codec.kinds.kl.names import as_matrix, to_diffusers
from vae_manager.commands import Result, megabytes, open_file
from vae_manager.commands.outputs import check_vae_output, save_vae
from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.library.hashing import HashCache
from vae_manager.library.padding import KEY
from vae_manager.library.report import quick_report
from vae_manager.library.state import load_state

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def convert(args: argparse.Namespace) -> Result:
    """Write the VAE of a file as safetensors, in the layout and precision asked for."""
    source, output = open_file(args.file), Path(args.output)
    check_vae_output(output, [source])
    loaded = load_state(source, DTYPES[args.dtype] if args.dtype else None)
    if args.layout not in loaded.kind.writes:
        raise BadInputError(f"A {loaded.kind.label} autoencoder has one layout of its own and stays in it.")
    state, groups = loaded.tensors, loaded.norm_groups
    if args.layout == "diffusers":
        levels = 1 + max(int(m.group(1)) for name in state if (m := re.match(r"decoder\.up\.(\d+)\.", name)))
        state = {to_diffusers(name, levels): as_matrix(name, tensor) for name, tensor in state.items()}
    found = quick_report(source, HashCache(None))
    padding = args.padding or loaded.padding
    origin = {KEY: padding} if padding else None
    save_vae(output, state, groups, None if isinstance(found, VaeFileError) else found.identity, origin)
    document = {"output": str(output), "tensors": len(state), "bytes": output.stat().st_size}
    return Result(document, f"Wrote {output} ({len(state)} tensors, {megabytes(output.stat().st_size)}).")
