"""A device that is not there: shapes, dtypes and devices of every operation are real, numbers are not computed.

torch's fake tensors refuse an operation that mixes devices, as a GPU does. `Watch` counts beside that what a GPU would
have to wait for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

NAME = "pretended"
DEVICE = f"{NAME}:0"


def registered() -> bool:
    """Have the device registered, where torch can do that."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as setup
    except ImportError:  # before torch 2.10
        return False
    if torch._C._get_privateuse1_backend_name() != NAME:
        setup(NAME)
    return True


class Watch(TorchDispatchMode):
    """Counts what a device would have to wait for, and what it could not do."""

    def __init__(self) -> None:
        super().__init__()
        self.to_cpu: list[int] = []
        """Numbers in every copy from the device to main memory."""
        self.asked = 0
        """How often Python asked for a number that lies on the device."""
        self.wide: Counter[str] = Counter()
        """Operations that made float64 on the device: MPS and many others have none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:  # of what nobody has computed: taken to be all right
            self.asked += args[0].device.type == NAME
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        out = func(*args, **(kwargs or {}))
        into = {tensor.device.type for tensor in tensors((args, kwargs))}
        for tensor in tensors(out):
            if tensor.device.type == NAME and tensor.dtype == torch.float64:
                self.wide[str(func)] += 1
            if tensor.device.type == "cpu" and NAME in into:
                self.to_cpu.append(tensor.numel())
        return out


def tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


@contextmanager
def pretended() -> Iterator[None]:
    """In here tensors may lie on `DEVICE`."""
    from torch._subclasses import FakeTensorMode

    if not registered():
        pytest.skip("this torch cannot pretend a device (2.10 can)")
    with FakeTensorMode(), torch.no_grad():
        yield


def moved(vae: nn.Module, dtype: torch.dtype, device: str = DEVICE) -> None:
    """Exchange a module's weights for pretended ones of this dtype on that device."""
    for module in vae.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                there = torch.empty(parameter.shape, device=device, dtype=dtype)
                module._parameters[name] = nn.Parameter(there, requires_grad=False)
