"""What a run has to know of its weights in float64. A copy from a GPU waits for all that the GPU has to do, so each is
made once for a run, and not at every use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Pair = tuple[Tensor, "Tensor | None"]
"""Of a weight and a bias, in float64."""


class Constants:
    """Those of one run."""

    def __init__(self, norms: Iterable[Any] = (), where: torch.device | None = None) -> None:
        """`norms`: every GroupNorm that the run will meet. `where`: the home of its moments; None: the CPU."""
        self._norms: dict[int, tuple[Tensor | None, Tensor | None]] = {}
        self._magnitudes: dict[int, Pair] = {}
        found = list(norms)
        weights = [tensor for norm in found for tensor in (norm.weight, norm.bias) if tensor is not None]
        ready = _in_double(weights, where or torch.device("cpu"))
        for norm in found:
            weight = None if norm.weight is None else ready.pop(0)
            self._norms[id(norm)] = weight, None if norm.bias is None else ready.pop(0)

    def of_norm(self, norm: Any) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias (C,) of a norm, in float64; None where it has none."""
        return self._norms[id(norm)]

    def magnitudes(self, conv: Any) -> Pair:
        """Σ|w| over a convolution's taps, (C', C), and |b|, (C',), where it has one: in float64 on the CPU."""
        found = self._magnitudes.get(id(conv))
        if found is None:
            weight = conv.weight.detach()
            wide = torch.float64 if weight.device.type == "cpu" else torch.float32  # some devices have no float64
            sums = torch.linalg.vector_norm(weight, 1, dim=(2, 3), dtype=wide)
            biases = [] if conv.bias is None else [conv.bias.detach().abs()]
            sums, *biases = _in_double([sums, *(bias.to(sums) for bias in biases)], torch.device("cpu"))
            found = sums, biases[0] if biases else None
            if weight.device.type != "cpu":  # there it costs nothing to compute, and memory to keep
                self._magnitudes[id(conv)] = found
        return found


def _in_double(tensors: list[Tensor], where: torch.device) -> list[Tensor]:
    """All of them in float64 there, by one copy where they lie on one device."""
    if not tensors or len({(tensor.device, tensor.dtype) for tensor in tensors}) > 1:
        return [tensor.detach().to(where).double() for tensor in tensors]
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).to(where).double()
    pieces = flat.split([tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors)]
