"""The tiny autoencoders of the TAESD family: fast, approximate stand-ins for the VAEs of diffusion models.

The architecture is that of madebyollin/taesd (MIT): plain 3×3 convolutions and ReLU, no attention and, but for the
FLUX.2 variant, no normalisation. Checked against diffusers' `AutoencoderTiny` in the tests.

| variant | latents of | channels | pixels per latent pixel | what is special |
|---|---|---|---|---|
| taesd, taesdxl | SD 1/2, SDXL | 4 | 8 | |
| taesd3, taef1 | SD 3, FLUX.1 | 16 | 8 | |
| taef2 | FLUX.2 | 32 | 8 | GroupNorm over the whole picture in the lowest-resolution blocks |
| taesana | Sana's DC-AE | 32 | 32 | two strided convolutions first, a wider decoder |

Two conventions differ from `AutoencoderKL`'s. Inside, pictures are in [0, 1]; `encode` and `decode` convert, so at
this module's border they are in [-1, 1] as everywhere in this package. Latents are **scaled**: the very numbers
that the diffusion model works on, (z - shift) * scale of the full VAE's latent z (`latent_is_scaled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from vae_manager.codec.kinds.network import Network, built_around
from vae_manager.codec.kinds.shapes import Shape, compare_shapes, kernel_of
from vae_manager.codec.kinds.tiny.names import taesd_names
from vae_manager.errors import BadInputError, VaeFileError

_first = partial(kernel_of, what="VAE of the TAESD family")

LATENT_MAGNITUDE = 3.0
"""Latents are squashed into ±3 before decoding: 3 * tanh(z / 3)."""

NO_NOISE = -30.0
"""Log-variance of a latent that has none: the lower limit that ldm clamps to."""

POOL_WIDENING, POOL_GROUPS = 4, 4


@dataclass(frozen=True)
class TinyConfig:
    """The shape of one half, encoder or decoder. Resolutions are listed from the full one to the lowest."""

    latent_channels: int = 4
    channels: Shape = (64, 64, 64, 64)
    """Width at each resolution."""
    blocks: Shape = (1, 3, 3, 3)
    """Residual blocks at each resolution."""
    stem: Shape = ()
    """Encoder only: widths of the strided convolutions before the first block."""
    pool: bool = False
    """Do the blocks of the lowest resolution normalise over the whole picture?"""
    image_channels: int = 3

    @property
    def ratio(self) -> int:
        """Pixels per latent pixel along one side."""
        return 2 ** (len(self.channels) - 1 + len(self.stem))


class Clamp(nn.Module):
    """Keep latents within ±3, smoothly."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z / LATENT_MAGNITUDE) * LATENT_MAGNITUDE


class Block(nn.Module):
    """Three convolutions, added to the input; before them, perhaps, something normalised over the whole picture."""

    def __init__(self, channels: int, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv(channels, channels), relu(), conv(channels, channels), relu(), conv(channels, channels)
        )
        self.fuse = relu()
        if pool:
            wide = POOL_WIDENING * channels
            self.pool = nn.Sequential(
                nn.Conv2d(channels, wide, 1, bias=False),
                nn.GroupNorm(POOL_GROUPS, wide),
                relu(),
                nn.Conv2d(wide, channels, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "pool"):
            x = x + self.pool(x)
        return self.fuse(self.conv(x) + x)


def conv(in_channels: int, out_channels: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, stride=stride, bias=bias)


def relu() -> nn.ReLU:
    return nn.ReLU(inplace=True)


def make_encoder(config: TinyConfig) -> nn.Sequential:
    """(N, 3, H, W) in [0, 1] → scaled latent (N, C, h, w). The layers' numbers are the files' keys."""
    layers: list[nn.Module] = []
    width = config.image_channels
    for out in config.stem:
        layers += [conv(width, out, stride=2), relu()]
        width = out
    if not config.stem:
        layers.append(conv(width, config.channels[0]))
    last = len(config.channels) - 1
    for level, (channels, blocks) in enumerate(zip(config.channels, config.blocks, strict=True)):
        if level > 0:
            layers.append(conv(config.channels[level - 1], channels, stride=2, bias=False))
        layers += [Block(channels, config.pool and level == last) for _ in range(blocks)]
    return nn.Sequential(*layers, conv(config.channels[-1], config.latent_channels))


def make_decoder(config: TinyConfig) -> nn.Sequential:
    """Scaled latent (N, C, h, w) → (N, 3, H, W), about [0, 1]. The layers' numbers are the files' keys."""
    layers: list[nn.Module] = [Clamp(), conv(config.latent_channels, config.channels[-1]), relu()]
    last = len(config.channels) - 1
    for level in range(last, -1, -1):
        channels = config.channels[level]
        layers += [Block(channels, config.pool and level == last) for _ in range(config.blocks[level])]
        if level > 0:
            layers += [nn.Upsample(scale_factor=2.0), conv(channels, config.channels[level - 1], bias=False)]
    return nn.Sequential(*layers, conv(config.channels[0], config.image_channels))


class TinyAutoencoder(Network[TinyConfig]):
    """A tiny encoder and decoder, or one of them: the two come in files of their own."""

    latent_is_scaled = True
    """Latents are the diffusion model's, not the full VAE's: (z - shift) * scale."""

    def __init__(self, encoder: TinyConfig | None, decoder: TinyConfig | None) -> None:
        super().__init__()
        self.encoder_config, self.decoder_config = encoder, decoder
        if encoder is not None:
            self.encoder = make_encoder(encoder)
        if decoder is not None:
            self.decoder = make_decoder(decoder)

    @property
    def config(self) -> TinyConfig:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The decoder's configuration, or the encoder's where there is no decoder."""
        config = self.decoder_config or self.encoder_config
        assert config is not None, "build_taesd makes no autoencoder without either half"
        return config

    def encode(self, x: Tensor) -> Tensor:
        """Picture (N, 3, H, W) in [-1, 1] → scaled latent (N, C, h, w), about [-3, 3]; nothing is sampled.

        Raises:
            BadInputError: only the decoder's file was loaded.
        """
        if self.encoder_config is None:
            raise BadInputError("this tiny VAE has only its decoder; load its encoder's file as well to encode")
        return self.encoder((x + 1) / 2)

    def encode_moments(self, x: Tensor) -> Tensor:
        """Like `AutoencoderKL.encode_moments`: the latent, then a log-variance that makes no noise."""
        z = self.encode(x)
        return torch.cat([z, torch.full_like(z, NO_NOISE)], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        """Scaled latent (N, C, h, w) → picture (N, 3, H, W), about [-1, 1], not clamped.

        Raises:
            BadInputError: only the encoder's file was loaded.
        """
        if self.decoder_config is None:
            raise BadInputError("this tiny VAE has only its encoder; load its decoder's file as well to decode")
        return self.decoder(z) * 2 - 1


def build_taesd(*states: Mapping[str, Tensor]) -> TinyAutoencoder:
    """Build a tiny autoencoder around the tensors of its file or files, in any order and either key layout.

    The module is in evaluation mode, asks for no gradients, and shares memory with the tensors.

    Raises:
        VaeFileError: the tensors do not make a tiny autoencoder, or the files do not belong together.
    """
    tensors: dict[str, Tensor] = {}
    for state in states:
        names = taesd_names(state)
        if twice := sorted(tensors.keys() & names.keys()):
            half = twice[0].partition(".")[0]
            raise VaeFileError(f"both files hold a tiny {half}; one must be the encoder's and one the decoder's")
        tensors |= {name: state[own] for name, own in names.items()}
    encoder, decoder = read_configs({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return built_around(tensors, lambda: TinyAutoencoder(encoder, decoder))


def read_configs(shapes: Mapping[str, Shape]) -> tuple[TinyConfig | None, TinyConfig | None]:
    """The encoder's and the decoder's configuration from `{canonical name: shape}`; None for an absent half.

    Raises:
        VaeFileError: the tensors do not make a tiny autoencoder.
    """
    encoder, decoder = (_read_half(shapes, half) for half in ("encoder", "decoder"))
    if encoder is None and decoder is None:
        raise VaeFileError("it holds neither an encoder nor a decoder of the TAESD family")
    if encoder and decoder and (encoder.latent_channels, encoder.ratio) != (decoder.latent_channels, decoder.ratio):
        raise VaeFileError(
            f"the encoder makes latents of {encoder.latent_channels} channels at 1/{encoder.ratio} of the size, the "
            f"decoder takes {decoder.latent_channels} at 1/{decoder.ratio}: they are halves of different VAEs"
        )
    return encoder, decoder


def variants(config: TinyConfig) -> tuple[str, ...]:
    """The published variants that have this shape; taesd and taesdxl differ in their weights only."""
    return _VARIANTS.get((config.latent_channels, config.ratio, config.pool), ())


_VARIANTS = {
    (4, 8, False): ("taesd", "taesdxl"),
    (16, 8, False): ("taesd3", "taef1"),
    (32, 8, True): ("taef2",),
    (32, 32, False): ("taesana",),
}


def _read_half(shapes: Mapping[str, Shape], half: str) -> TinyConfig | None:
    own = {name[len(half) + 1 :]: shape for name, shape in shapes.items() if name.startswith(half + ".")}
    if not own:
        return None
    config = _read_encoder(own) if half == "encoder" else _read_decoder(own)
    _check_shapes(config, own, half)
    return config


def _read_encoder(shapes: Mapping[str, Shape]) -> TinyConfig:
    widths, blocks = _runs(shapes)
    first_block = min(number for number, kind in _layers(shapes) if kind == "block")
    # a plain encoder's blocks begin right after its first convolution, number 1; each convolution of a strided
    # stem has a ReLU behind it, so that the first block's number is twice the convolutions'
    stem = tuple(_first(shapes, f"{2 * i}.weight")[0] for i in range(first_block // 2))
    first, last = _convolutions(shapes)
    config = TinyConfig(last[0], widths, blocks, stem, image_channels=first[1])
    return replace(config, pool=_has_pool(shapes))


def _read_decoder(shapes: Mapping[str, Shape]) -> TinyConfig:
    widths, blocks = _runs(shapes)
    first, last = _convolutions(shapes)
    return TinyConfig(first[1], widths[::-1], blocks[::-1], pool=_has_pool(shapes), image_channels=last[0])


def _runs(shapes: Mapping[str, Shape]) -> tuple[Shape, Shape]:
    """Width and number of the blocks between two convolutions, in the file's order."""
    widths: list[int] = []
    counts: list[int] = []
    previous = "conv"
    for number, kind in _layers(shapes):
        if kind == "block" and previous == "block":
            counts[-1] += 1
        elif kind == "block":
            widths.append(_first(shapes, f"{number}.conv.0.weight")[0])
            counts.append(1)
        previous = kind
    if not counts:
        raise VaeFileError("it has no residual blocks: it is no VAE of the TAESD family")
    return tuple(widths), tuple(counts)


def _layers(shapes: Mapping[str, Shape]) -> list[tuple[int, str]]:
    """Number and kind, 'conv' or 'block', of every layer that has weights."""
    numbers = sorted({int(name.partition(".")[0]) for name in shapes})
    return [(number, "block" if f"{number}.conv.0.weight" in shapes else "conv") for number in numbers]


def _convolutions(shapes: Mapping[str, Shape]) -> tuple[Shape, Shape]:
    """Weight shapes of the first and the last layer."""
    numbers = [number for number, _ in _layers(shapes)]
    return _first(shapes, f"{numbers[0]}.weight"), _first(shapes, f"{numbers[-1]}.weight")


def _has_pool(shapes: Mapping[str, Shape]) -> bool:
    return any(".pool." in name for name in shapes)


def _check_shapes(config: TinyConfig, shapes: Mapping[str, Shape], half: str) -> None:
    with torch.device("meta"):
        module = make_encoder(config) if half == "encoder" else make_decoder(config)
    compare_shapes({name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}, shapes, f"its {half}'s")
