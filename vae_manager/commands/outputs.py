"""Files that commands write: whole or not at all, and never over what they are made from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vae_manager.errors import BadInputError
from vae_manager.writing import save_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from vae_manager.library.files import VaeFile


def check_output(output: Path, inputs: Iterable[Path | str | None], suffixes: Collection[str] = ()) -> None:
    """Raise BadInputError unless a file can be written there that is none of the inputs. Called before any work.

    Args:
        inputs: every file that the command reads; None where an option was not given.
        suffixes: the endings that can be written; none: any.
    """
    if suffixes and output.suffix.lower() not in suffixes:
        raise BadInputError(f"{output.name!r} cannot be written: it must end in {' or '.join(suffixes)}.")
    if "\0" in str(output):
        raise BadInputError("The output's name holds a null character.")
    if output.is_dir():
        raise BadInputError(f"{str(output)!r} is a folder; name a file in it.")
    if output.exists() and not output.is_file():
        raise BadInputError(f"{str(output)!r} is no ordinary file, and is not written over.")
    if is_one_of(output, inputs):
        raise BadInputError(f"{str(output)!r} would overwrite a file it is made from; give it another name.")
    if not Path(os.path.realpath(output)).parent.is_dir():
        raise BadInputError(f"There is no folder {str(output.parent)!r}.")


def is_one_of(output: Path, inputs: Iterable[Path | str | None]) -> bool:
    """Whether writing there would change one of these files, through whatever links or spelling."""
    for source in inputs:
        if source is None or not str(source):
            continue
        with contextlib.suppress(OSError, ValueError):  # there is no such input: that is said later
            if os.path.realpath(output) == os.path.realpath(source) or os.path.samefile(output, source):
                return True
    return False


def check_vae_output(output: Path, sources: Sequence[VaeFile], *others: Path | str | None) -> None:
    """Raise BadInputError unless a VAE made of these files can be written there."""
    if output.suffix.lower() != ".safetensors":
        raise BadInputError(f"{output.name!r} must end in .safetensors: pickles are read, but never written.")
    check_output(output, [*(source.path for source in sources), *others])


class Scaled(Protocol):
    """What says how latents are scaled, such as a file's `Identity`."""

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
    metadata = {"format": "pt", "norm_num_groups": str(norm_groups), **(origin or {})}
    if scaled is not None and scaled.scale_factor is not None:
        metadata |= {"scale_factor": str(scaled.scale_factor), "shift_factor": str(scaled.shift_factor or 0.0)}
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_tensors(output, tensors, metadata)
