"""The latent spaces: what a latent of each looks like, and how a model's numbers become its VAE's.

A checkpoint paints in one latent space and a VAE decodes one: that is the only thing that has to match. The numbers are
those of the models' own configurations: `scaling_factor`, `shift_factor`, `latents_mean`, `latents_std` of the VAEs of
diffusers, `scale_factor` of ldm's and sgm's, read again in the latent formats of the WebUIs.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class LatentSpace:
    """What checkpoints and VAEs share.

    A VAE's latent z becomes the model's by (z - shift) · scale, or by (z - mean) / std with one number a channel.
    """

    id: str
    title: str
    """For people, in a sentence: "made for Flux.1"."""
    channels: int
    """Of the VAE's latent."""
    ratio: int
    """Pixels per latent pixel along one side."""
    topology: str
    """What kind of network decodes it: 'kl', 'causal3d', 'pixels' (none at all), or 'other', which is not run here."""
    scale: float | None = None
    """None: not one number, or not known."""
    shift: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    packing: int = 1
    """Side of the squares of latent pixels that the models of this space see as channels of one: 2 makes of 32
    channels 128 at half the size."""
    normalised_by_vae: bool = False
    """Whether the numbers that make the model's latent of it lie in the VAE file (`bn.*`)."""
    video: bool = False
    """Whether a latent has frames: (N, C, T, h, w); a picture is one of them."""
    family: str = ""
    """Under which name rules and latent files have known it since 2023; the id where that is the same."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", self.family or self.id)

    @property
    def model_channels(self) -> int:
        """Channels of the latent as the models of this space see it."""
        return self.channels * self.packing**2

    @property
    def scalable(self) -> bool:
        """Whether numbers that are known here make the model's latent of the VAE's."""
        return self.scale is not None or bool(self.mean)

    @property
    def decoded_here(self) -> bool:
        """Whether VAEs of this space are of a kind that this program can know at all; others are the host's."""
        return self.topology not in ("pixels", "other")


_WAN21_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_WAN21_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
_WAN22_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
_WAN22_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip
_QWEN21_MEAN = (
    0.5126, 0.7721, -0.0631, 1.3506, -0.7855, -2.1025, -0.3458, 1.3722, 1.8873, -1.7177, -0.6510, 0.2732,
    0.7562, -0.6163, -1.0277, 3.8363, 2.0210, 0.0472, 0.9320, 2.0087, 2.4954, -0.1391, -1.4249, 1.8464,
    -0.5236, 1.2826, 3.7046, -1.3035, 2.7286, -1.4518, -1.9036, -1.9955, -0.0342, -1.0265, -0.7636, 3.0555,
    0.0746, -3.0751, -0.1076, 1.7376, -1.0914, -1.9435, -0.2784, -1.3680, 0.4809, -0.4433, 0.3764, 0.5729,
    -2.0595, 1.0960, -1.3260, -2.0211, -5.0179, 0.5275, 4.0162, 1.8505, 0.3026, 1.9373, 1.4937, 0.2632,
    0.5547, -1.7121, -0.1562, 0.0304,
)  # fmt: skip
_QWEN21_STD = (
    3.2001, 3.2936, 3.4321, 3.0091, 3.1061, 4.0379, 4.0705, 3.7910, 3.0785, 3.6500, 3.9308, 3.0904,
    2.8778, 3.7675, 3.7320, 5.0756, 3.2864, 4.0397, 3.1317, 4.0443, 2.9249, 3.9454, 3.0988, 4.2489,
    3.4896, 3.8513, 3.9323, 3.4719, 3.7498, 4.2830, 3.5694, 4.2467, 3.9037, 3.2947, 5.0770, 3.5075,
    3.2700, 3.4767, 2.8063, 5.1125, 3.5327, 4.7833, 3.1286, 4.1819, 3.8527, 3.8312, 3.5605, 4.3875,
    3.9624, 4.0168, 3.5643, 4.0550, 5.5614, 4.2963, 4.4080, 3.4959, 3.8747, 3.7608, 3.5735, 3.1490,
    3.7662, 3.6746, 3.4563, 3.8161,
)  # fmt: skip

SPACES = MappingProxyType({
    space.id: space
    for space in (
        LatentSpace("sd1", "Stable Diffusion 1.x and 2.x", 4, 8, "kl", 0.18215),
        LatentSpace("sdxl", "SDXL", 4, 8, "kl", 0.13025),
        LatentSpace("sd3", "Stable Diffusion 3", 16, 8, "kl", 1.5305, 0.0609),
        LatentSpace("flux1", "Flux.1", 16, 8, "kl", 0.3611, 0.1159, family="flux"),
        LatentSpace("flux2", "Flux.2", 32, 8, "kl", packing=2, normalised_by_vae=True),
        LatentSpace("wan21", "Wan 2.1 and Qwen-Image", 16, 8, "causal3d", mean=_WAN21_MEAN, std=_WAN21_STD,
                    video=True, family="wan"),
        LatentSpace("wan22", "Wan 2.2 5B", 48, 16, "causal3d", mean=_WAN22_MEAN, std=_WAN22_STD,
                    video=True, family="wan"),
        LatentSpace("qwen21", "Qwen-Image 2.1", 64, 16, "causal3d", mean=_QWEN21_MEAN, std=_QWEN21_STD),
        # named, so that they are left alone
        LatentSpace("pixels", "pixels without a VAE", 3, 1, "pixels", 1.0),
        LatentSpace("ltx", "LTX-Video", 128, 32, "other", video=True),
        LatentSpace("hunyuan-video", "HunyuanVideo", 16, 8, "other", 0.476986, video=True),
        LatentSpace("hunyuan-video15", "HunyuanVideo 1.5", 32, 16, "other", 1.03682, video=True),
        LatentSpace("hunyuan-image21", "HunyuanImage 2.1", 64, 32, "other", 0.75289),
        LatentSpace("dc-ae", "Sana (DC-AE)", 32, 32, "other", 0.41407, family="sana"),
        LatentSpace("cascade", "Stable Cascade", 16, 42, "other"),
        LatentSpace("svd", "Stable Video Diffusion", 4, 8, "other", 0.18215, video=True),
        LatentSpace("sd-x4", "the SD 2 upscaler", 4, 4, "other", 0.08333),
        LatentSpace("mochi", "Mochi", 12, 8, "other", video=True),
    )
})  # fmt: skip
"""Every latent space by its id."""


def space_of(name: str, channels: int | None = None) -> LatentSpace | None:
    """The space of an id, or the first one of an older family's name ('flux', 'wan'); None where there is none.

    `channels`: of the latent at hand, where it is known: a family may have several spaces.
    """
    of_family = (space for space in SPACES.values() if space.family == name and channels in (None, space.channels))
    return SPACES.get(name) or next(of_family, None)


def title_of(name: str) -> str:
    """A space's name for people; what is no latent space is returned as it is."""
    space = space_of(name)
    return space.title if space else name


def spaces_of_vae(topology: str, channels: int, ratio: int | None = None) -> frozenset[str]:
    """Ids of the spaces that a VAE of this kind and shape may decode; empty where no model paints in such a one.

    `ratio` None: the shape does not tell it.
    """
    return frozenset(
        space.id
        for space in SPACES.values()
        if (space.topology, space.channels) == (topology, channels) and ratio in (None, space.ratio)
    )


def spaces_of_latent(channels: int) -> frozenset[str]:
    """Ids of the spaces in which a model's latent may have so many channels, packed or not."""
    return frozenset(space.id for space in SPACES.values() if channels in (space.channels, space.model_channels))
