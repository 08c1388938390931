"""Shapes of tensors, held against those that a configuration makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from vae_manager.errors import VaeFileError

Shape = tuple[int, ...]

Padding = Literal["zeros", "reflect"]
"""How convolutions pad."""


def compare_shapes(expected: Mapping[str, Shape], shapes: Mapping[str, Shape], whose: str = "its") -> None:
    """Hold a file's shapes against those of the module that its configuration makes.

    A missing or misshapen tensor would be filled with random numbers by a careless loader, and one too many is a
    layer that nothing here computes.

    Args:
        whose: what the sentence says before "tensor": "its", "its decoder's".

    Raises:
        VaeFileError: names the first tensor that is missing, misshapen or not known.
    """
    for name in sorted(expected.keys() | shapes.keys()):
        if name not in shapes:
            raise VaeFileError(f"{whose} tensor {name!r} is missing: the file is incomplete; fetch it again")
        if name not in expected:
            raise VaeFileError(f"it has a layer that is not known, {name!r}: this kind of VAE is not supported")
        if tuple(shapes[name]) != tuple(expected[name]):
            raise VaeFileError(
                f"{whose} tensor {name!r} has the shape {list(shapes[name])} instead of {list(expected[name])}"
            )


def kernel_of(shapes: Mapping[str, Shape], name: str, what: str) -> Shape:
    """The shape (out, in, height, width) of a convolution's kernel.

    Args:
        what: the kind that the file is taken for, as "LiteVAE".

    Raises:
        VaeFileError: it is missing, or no kernel.
    """
    shape = shapes.get(name)
    if shape is None:
        raise VaeFileError(f"its tensor {name!r} is missing: it is no whole {what}")
    if len(shape) != 4 or 0 in shape:
        raise VaeFileError(f"its tensor {name!r} has the impossible shape {list(shape)}")
    return shape
