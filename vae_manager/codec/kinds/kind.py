"""What every kind of autoencoder says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from vae_manager.codec.kinds.shapes import Shape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vae_manager.codec.kinds.network import Autoencoder
    from vae_manager.codec.streaming.chain import Chain

KindName = Literal["kl", "causal3d", "taesd", "taehv", "litevae", "open-litevae"]


class Info(Protocol):
    """What is asked of a tensor in a file's header."""

    @property
    def shape(self) -> Shape: ...


@dataclass(frozen=True)
class Names:
    """The tensors of a file, as a kind looks for its own among them."""

    tensors: Mapping[str, Info]
    """By the file's own name."""
    inner: Mapping[str, str]
    """Name behind the prefix of the VAE (a checkpoint's, a wrapper's) → the file's own name."""


@dataclass(frozen=True)
class Naming:
    """How a file names the tensors of an autoencoder."""

    layout: str
    """'ldm', 'diffusers', or the name of a kind's only layout."""
    keys: Mapping[str, str]
    """Canonical name, which the kind's network has → the file's own, for the VAE's tensors only."""


@dataclass(frozen=True)
class Facts:
    """What the shapes of an autoencoder's tensors tell."""

    latent_channels: int | None
    evidence: str = "its tensors' names"
    """How its family is known, as far as the kind tells."""
    encodes: bool = True
    """False where a KL autoencoder's decoder stands alone."""
    problems: tuple[str, ...] = ()
    """Why it cannot be run, "its …"."""
    variants: tuple[str, ...] = ()
    """Ids of the published ones that have this shape."""


def same_shape(name: str, shape: Shape) -> Shape:
    return shape


def same_tensor(name: str, tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Kind:
    """A kind of autoencoder."""

    name: KindName
    label: str
    """In sentences: "a KL autoencoder"."""
    begins: tuple[str, ...]
    """How the names of its decoder's first layer may begin, by which a prefix before them is found."""
    find: Callable[[Names], Naming | str | None]
    """Its tensors among a file's; None where there are none; a sentence for a relative that is not run."""
    describe: Callable[[Mapping[str, Shape], int], Facts]
    """Facts from `{canonical name: shape}` and the number of norm groups. VaeFileError: they make none of its kind."""
    build: Callable[[Mapping[str, Tensor], int], Autoencoder]
    """The network around the tensors (canonical names, norm groups), which it shares. VaeFileError: not a whole one."""
    chain: Callable[[nn.Module, bool], Chain | None]
    """The steps of a module's decoder (True) or encoder, ours or a host's; None where it is none of this kind.
    VaeFileError: it is, and has something that is not understood."""
    canonical_shape: Callable[[str, Shape], Shape] = same_shape
    canonical_tensor: Callable[[str, Tensor], Tensor] = same_tensor
    """What becomes of a stored tensor (canonical name, tensor), and its shape, for the network."""
    family: str | None = None
    """The family of its latents, where there is only one; None: told by numbers, as KL's."""
    latents_scaled: bool = False
    """Latents are the diffusion model's, (z - shift) · scale or (z - mean) / std of the full VAE's z."""
    stands_for: KindName | None = None
    """The kind of the full VAE whose latents a tiny one takes."""
    stands_in: bool = False
    """Can take the place of a checkpoint's own VAE, in a WebUI's first stage too; is looked at for damage like one."""
    writes: tuple[str, ...] = ()
    """Layouts in which `convert` writes it."""
    rewritable: bool = True
    """Canonical names and shapes are those of a file that others read too, so that one may be written."""
    own_space: bool = False
    """Has a latent space of its own, in which no checkpoint paints."""

    @property
    def an(self) -> str:
        """ "a KL autoencoder"."""
        return f"a {self.label} autoencoder"
