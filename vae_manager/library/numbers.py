"""Compute with a file's numbers: torch keeps eight-bit floats, but knows hardly an operation on them."""

from __future__ import annotations

import torch
from torch import Tensor


def is_fp8(dtype: torch.dtype) -> bool:
    """e4m3fn, e5m2 and their kin."""
    return dtype.is_floating_point and dtype.itemsize == 1


def computable(tensor: Tensor) -> Tensor:
    """The same numbers in a precision that torch computes in: eight-bit floats as float32, all others as they are."""
    return tensor.float() if is_fp8(tensor.dtype) else tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether none of the numbers is NaN or infinite."""
    return bool(torch.isfinite(computable(tensor)).all())


def wider(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """The precision that holds the numbers of both; two kinds of eight-bit floats meet in float16, which holds both."""
    if one == other:
        return one
    one, other = (torch.float16 if is_fp8(dtype) else dtype for dtype in (one, other))
    return torch.promote_types(one, other)


def impossible(name: str, tensor: Tensor) -> str | None:
    """What no training leaves in a tensor, as the end of a sentence that begins with its name; None: nothing such."""
    if not tensor.is_floating_point() or not tensor.numel():
        return None
    tensor = computable(tensor)
    if not all_finite(tensor):
        return "holds NaN or infinite values"
    if not name.endswith("weight"):
        return None  # a bias may well be zero
    least, most = torch.aminmax(tensor.float() if tensor.element_size() < 4 else tensor)
    if least == most == 0:
        return "holds nothing but zeros"
    # a norm's gains are all 1 before training, and a layer of one number has nothing to compare
    if least == most and tensor.ndim > 1 and tensor.numel() > 1:
        return f"holds one number only, {least.item():.3g}, everywhere"
    return None
