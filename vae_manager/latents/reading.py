"""Which architecture a checkpoint is of, by the names, shapes and types of its tensors alone.

Files of the model alone (a UNet, a transformer) and whole checkpoints are read alike, and so are quantised ones: a
layer that is packed into whole numbers has a shape that says nothing, so its name must do.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vae_manager.latents.architectures import ARCHITECTURES, PREFIXES, Architecture, Mark
from vae_manager.latents.evidence import Claim, Evidence


class Info(Protocol):
    """What is asked of a tensor."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


_ADAPTER = re.compile(r"^(?:lora_|control_model\.|controlnet_|input_hint_block\.)|\.(?:lora_|hada_|lokr_|dora_)")
"""What LoRAs and ControlNets have, whose other names are those of the model that they are for."""

_PACKED = ("U", "I8", "I16", "I32", "I64", "BOOL")
"""How the types begin in which several numbers may be packed into one. (Types of fewer bits that have a name, F4 or
GGUF's Q4_K, stand in tables with the layers' own shapes.)"""


@dataclass(frozen=True)
class Found:
    """An architecture, and how it is known."""

    architecture: Architecture
    evidence: Evidence
    """`SHAPES` or `NAMES`."""
    prefix: str
    """What stands before the model's names."""

    @property
    def claim(self) -> Claim:
        how = "the shapes of its tensors" if self.evidence is Evidence.SHAPES else "the names of its tensors"
        return Claim(frozenset({self.architecture.space}), self.evidence, how)


def architecture_of(tensors: Mapping[str, Info]) -> Found | None:
    """The architecture of the diffusion model among a file's tensors; None where there is none that is known."""
    table = _Table(tensors, sorted(tensors))
    if any(_ADAPTER.search(name) for name in table.names):
        return None
    prefixes = [prefix for prefix in PREFIXES if not prefix or table.begins(prefix)]
    for packed in (False, True):  # what is readable first
        for prefix in prefixes:
            for architecture in ARCHITECTURES:
                evidence = max(table.evidence(prefix, marks, packed) for marks in architecture.marks)
                if evidence is not Evidence.NONE:
                    return Found(architecture, evidence, prefix)
    return None


@dataclass(frozen=True)
class _Table:
    """A file's tensors, ready to be asked."""

    tensors: Mapping[str, Info]
    names: Sequence[str]
    """Sorted."""

    def begins(self, prefix: str) -> bool:
        """Whether a name begins so."""
        at = bisect_left(self.names, prefix)
        return at < len(self.names) and self.names[at].startswith(prefix)

    def evidence(self, prefix: str, marks: Sequence[Mark], packed: bool) -> Evidence:
        """How far a set of marks holds; `NONE` where one does not."""
        held = [self._held(prefix + mark.name, mark, packed) for mark in marks]
        return Evidence.NONE if Evidence.NONE in held else max(held)

    def _held(self, name: str, mark: Mark, packed: bool) -> Evidence:
        if name.endswith("."):
            return Evidence.NAMES if self.begins(name) else Evidence.NONE
        info = self.tensors.get(name)
        if info is None:
            return Evidence.NAMES if mark.optional else Evidence.NONE
        if not mark.shape:
            return Evidence.NAMES
        if _fits(info.shape, mark.shape):
            return Evidence.SHAPES
        readable = not info.dtype.startswith(_PACKED)
        return Evidence.NAMES if packed and mark.alone and not readable else Evidence.NONE


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(want in (None, own) for own, want in zip(shape, wanted, strict=True))
