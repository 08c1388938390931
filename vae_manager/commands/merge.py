"""`merge`: one VAE out of two of the same family."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from vae_manager import __version__
from vae_manager.commands import Result, about, megabytes, open_file
from vae_manager.commands.outputs import check_vae_output, save_vae
from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.latents.spaces import space_of, title_of
from vae_manager.library.files import VaeFile
from vae_manager.library.hashing import HashCache
from vae_manager.library.merge import merge_states
from vae_manager.library.probe import UNSURE, probe_file
from vae_manager.library.report import Report, report
from vae_manager.library.state import LoadedState, load_state
from vae_manager.store import open_store
from vae_manager.user_data import user_folder


def merge(args: argparse.Namespace) -> Result:
    """(1 - alpha) · A + alpha · B as a safetensors file in ldm's layout."""
    sources, output = [open_file(args.first), open_file(args.second)], Path(args.output)
    check_vae_output(output, sources)
    reports = [_report(file) for file in sources]
    states = [_load(file) for file in sources]
    with about(f"{sources[0].path.name} and {sources[1].path.name}"):
        merged = merge_states(states[0], states[1], args.alpha)
    family = _one_family(reports)
    space = space_of(family)
    scaled = reports[0].identity
    if space is not None and space.scale is not None:
        scaled = replace(scaled, scale_factor=space.scale, shift_factor=space.shift)
    save_vae(output, merged, states[0].norm_groups, scaled, _origin(reports, args.alpha))
    document = {
        "output": str(output),
        "alpha": args.alpha,
        "family": family,
        "tensors": len(merged),
        "bytes": output.stat().st_size,
    }
    text = f"Wrote {output}: {1 - args.alpha:.0%} {sources[0].path.name}, {args.alpha:.0%} {sources[1].path.name}"
    return Result(document, f"{text} ({len(merged)} tensors, {megabytes(output.stat().st_size)}).")


def _report(file: VaeFile) -> Report:
    try:
        return report(file, HashCache(open_store(user_folder())), digest=False)
    except VaeFileError as error:
        raise BadInputError(error.sentence(file.path.name)) from error


def _load(file: VaeFile) -> LoadedState:
    try:
        return load_state(file)
    except VaeFileError as error:
        raise BadInputError(error.sentence(file.path.name)) from error


def _one_family(reports: list[Report]) -> str:
    """The family of both: what lies between two latent spaces decodes neither.

    Raises:
        BadInputError: they are of two families.
    """
    families = [_family(found) for found in reports]
    known = sorted(set(families) - {"unknown"})
    if len(known) > 1:
        names = " and ".join(
            f"{found.file.path.name} ({title_of(family)})" for found, family in zip(reports, families, strict=True)
        )
        raise BadInputError(f"{names} have different latent spaces: what lies between them decodes neither.")
    return known[0] if known else "unknown"


def _family(found: Report) -> str:
    """By hash, tensors and metadata; or, where those cannot tell SD1 from SDXL, by looking at latents."""
    if found.family != "unknown" or found.identity.latent_channels != 4:
        return found.family
    try:
        family = probe_file(found.file).family
    except VaeFileError:
        return "unknown"
    return "unknown" if family == UNSURE else family


def _origin(reports: list[Report], alpha: float) -> dict[str, str]:
    """For the file's metadata: where its weights come from."""
    parts = [
        {"name": found.file.path.name, "sha256": found.sha256, "weight": weight}
        for found, weight in zip(reports, (1 - alpha, alpha), strict=True)
    ]
    return {"vae_manager.version": __version__, "vae_manager.merged_from": json.dumps(parts)}
