"""The causal 3-D autoencoders of Wan and Qwen-Image, on single pictures; and the same made into 2-D ones (Qwen2D)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vae_manager.codec.kinds.causal3d.config import read_config
from vae_manager.codec.kinds.causal3d.names import canonical, is_causal
from vae_manager.codec.kinds.kind import Facts, Kind, Names, Naming
from vae_manager.codec.kinds.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vae_manager.codec.kinds.network import Autoencoder
    from vae_manager.codec.streaming.chain import Chain

LAYOUT = "wan"
FIRSTS = ("decoder.conv1.weight", "decoder.conv_in.conv.weight", "decoder.conv_in.weight")
"""What the decoder's first convolution may be called."""


def find(names: Names) -> Naming | str | None:
    if is_causal(names.inner):
        return Naming(LAYOUT, {name: names.inner[inner] for name, inner in canonical(names.inner).items()})
    first = _first_kernel(names)
    if first is None or len(names.tensors[first].shape) != 5:
        return None
    return "it is a video autoencoder of a kind that is not known here, which only its own WebUI can run"


def _first_kernel(names: Names) -> str | None:
    """The decoder's first convolution, by the file's own name."""
    return next((names.inner[name] for name in FIRSTS if name in names.inner), None)


def picture_shape(name: str, shape: Shape) -> Shape:
    """The shape of a tensor on a single picture: a kernel without its temporal axis, a gain flat."""
    if name.endswith(".gamma"):
        return shape[:1] if set(shape[1:]) <= {1} else shape
    return (*shape[:2], *shape[3:]) if len(shape) == 5 else shape


def picture_tensor(name: str, tensor: Tensor) -> Tensor:
    """The tensor on a single picture: of a kernel over time the last tap, which alone meets the first frame."""
    if tensor.ndim == 5:
        return tensor[:, :, -1]
    return tensor.reshape(picture_shape(name, tuple(tensor.shape)))


def describe(shapes: Mapping[str, Shape], norm_groups: int) -> Facts:
    return Facts(read_config(shapes).latent_channels, "its norms are those of Wan's and Qwen-Image's VAEs")


def build(state: Mapping[str, Tensor], norm_groups: int) -> Autoencoder:
    from vae_manager.codec.kinds.causal3d.network import build_causal

    return build_causal(state)


def chain(vae: nn.Module, decodes: bool) -> Chain | None:
    from vae_manager.codec.kinds.causal3d.chain import causal_chain
    from vae_manager.codec.kinds.causal3d.network import CausalAutoencoder, Decoder, Encoder

    half = getattr(vae, "decoder" if decodes else "encoder", None)
    is_ours = isinstance(vae, CausalAutoencoder) or isinstance(half, Decoder if decodes else Encoder)
    return causal_chain(vae, decodes) if is_ours else None


KIND = Kind(
    name="causal3d",
    label="WAN",
    begins=("decoder.conv1.", "decoder.conv_in."),
    find=find,
    describe=describe,
    build=build,
    chain=chain,
    canonical_shape=picture_shape,
    canonical_tensor=picture_tensor,
    family=LAYOUT,
    rewritable=False,
)
