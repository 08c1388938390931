"""The causal 3-D autoencoders of Wan and Qwen-Image, and what looks like them: named, and not run here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vae_manager.codec.kinds.kind import Facts, Kind, Names, Naming
from vae_manager.codec.kinds.shapes import Shape
from vae_manager.errors import VaeFileError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vae_manager.codec.kinds.network import Autoencoder
    from vae_manager.codec.streaming.chain import Chain

LAYOUT = "wan"

VIDEO = "it is a video autoencoder (Wan or Qwen), which only its own WebUI can run"


def find(names: Names) -> Naming | str | None:
    """Of the video autoencoders, Wan's is known by its norms, which have gains called gamma and nothing else."""
    first = _first_kernel(names)
    if first is None or len(names.tensors[first].shape) != 5:
        return None
    middles = ("decoder.middle.", "decoder.mid_block.")
    if any(name.startswith(middles) and name.endswith(".gamma") for name in names.inner):
        return Naming(LAYOUT, dict(names.inner))
    return "it is a video autoencoder of a kind that is not known here, which only its own WebUI can run"


def _first_kernel(names: Names) -> str | None:
    """The decoder's first convolution, by the file's own name."""
    firsts = ("decoder.conv1.weight", "decoder.conv_in.conv.weight", "decoder.conv_in.weight")
    return next((names.inner[name] for name in firsts if name in names.inner), None)


def describe(shapes: Mapping[str, Shape], norm_groups: int) -> Facts:
    return Facts(None, problems=(VIDEO,))


def build(state: Mapping[str, Tensor], norm_groups: int) -> Autoencoder:
    raise VaeFileError(VIDEO)


def chain(vae: nn.Module, decodes: bool) -> Chain | None:
    return None


KIND = Kind(
    name="causal3d",
    label="WAN",
    begins=("decoder.conv1.", "decoder.conv_in."),
    find=find,
    describe=describe,
    build=build,
    chain=chain,
    family=LAYOUT,
)
