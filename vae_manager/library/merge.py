"""Merge two VAEs: every weight a little of the one and a little of the other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vae_manager.errors import BadInputError
from vae_manager.library.numbers import wider
from vae_manager.library.state import LoadedState


def merge_states(a: LoadedState, b: LoadedState, alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) · A + alpha · B for every tensor, under canonical names, in the wider of the two precisions.

    At alpha 0 the numbers are A's and at alpha 1 they are B's, exactly.

    Raises:
        BadInputError: the two are not of one shape, or alpha is not in 0 … 1.
    """
    if not 0 <= alpha <= 1:
        raise BadInputError(f"--alpha must be 0 (the first VAE) to 1 (the second), not {alpha:g}.")
    if difference := _difference(a, b):
        raise BadInputError(f"The two VAEs cannot be merged: {difference}.")
    return {name: _mixed(tensor, b.tensors[name], alpha) for name, tensor in a.tensors.items()}


def _mixed(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    dtype = wider(a.dtype, b.dtype)
    exact = wider(dtype, torch.float32)
    return torch.lerp(a.to(exact), b.to(exact), alpha).to(dtype)


def _difference(a: LoadedState, b: LoadedState) -> str | None:
    """What keeps two VAEs from being one network, as a clause."""
    if a.kind != b.kind:
        return f"the first is {a.kind.an}, the second a {b.kind.label} one"
    if not a.kind.rewritable:
        return f"each is {a.kind.an}, of which only what single pictures need is read"
    if a.norm_groups != b.norm_groups:
        return f"the first normalises in {a.norm_groups} groups, the second in {b.norm_groups}"
    return _shape_difference(a.tensors, b.tensors)


def _shape_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str | None:
    if alone := sorted(a.keys() ^ b.keys()):
        return f"only the {'first' if alone[0] in a else 'second'} has a tensor {alone[0]!r}"
    for name, tensor in a.items():
        if tensor.shape != b[name].shape:
            return f"the tensor {name!r} is {list(tensor.shape)} in the first and {list(b[name].shape)} in the second"
    return None
