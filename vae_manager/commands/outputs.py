"""Files that commands write: whole or not at all, and never over what they are made from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vae_manager.errors import BadInputError

if TYPE_CHECKING:
    from torch import Tensor

    from vae_manager.library.files import VaeFile


def write_whole(target: Path, save: Callable[[Path], object]) -> None:
    """Have `save` write beside the target, then rename: a kill leaves the old file or the new one."""
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        save(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def check_vae_output(output: Path, sources: Sequence[VaeFile]) -> None:
    """Raise BadInputError unless a VAE made of these files can be written there."""
    if output.suffix.lower() != ".safetensors":
        raise BadInputError(f"{output.name!r} must end in .safetensors: pickles are read, but never written.")
    if output.exists() and any(output.samefile(source.path) for source in sources):
        raise BadInputError("The output would overwrite the file it is made from; give it another name.")
    if not output.absolute().parent.is_dir():
        raise BadInputError(f"There is no folder {str(output.parent)!r}.")


class Scaled(Protocol):
    """What says how latents are scaled: a file's `Identity` or a family's facts."""

    @property
    def scale_factor(self) -> float | None: ...

    @property
    def shift_factor(self) -> float | None: ...


def save_vae(
    output: Path,
    state: Mapping[str, Tensor],
    norm_groups: int,
    scaled: Scaled | None,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write a VAE's tensors as a safetensors file whose metadata say what they mean and where they come from."""
    from safetensors.torch import save_file  # brings torch, which not every command needs

    metadata = {"format": "pt", "norm_num_groups": str(norm_groups), **(origin or {})}
    if scaled is not None and scaled.scale_factor is not None:
        metadata |= {"scale_factor": str(scaled.scale_factor), "shift_factor": str(scaled.shift_factor or 0.0)}
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    write_whole(output, lambda part: save_file(tensors, str(part), metadata))
