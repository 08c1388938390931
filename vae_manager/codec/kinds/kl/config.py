"""The shape of a KL autoencoder, read from its tensors.

Nothing about a VAE file says "SD1" or "Flux": the tensors' shapes do. `KLConfig.from_shapes` reads them in
the ldm key layout (`kl.names` brings every other layout into it) and refuses, in one sentence, what
it does not understand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vae_manager.codec.kinds.shapes import Shape, compare_shapes
from vae_manager.errors import VaeFileError

KL_ROOTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
"""How the names of a KL autoencoder's tensors begin; anything else beside them is a trainer's."""

DEFAULT_NORM_GROUPS = 32
"""GroupNorm groups of every published KL autoencoder (ldm `modules/diffusionmodules/model.py: Normalize`)."""

MAX_COUNT = 12
"""Most levels, and most blocks of a level. Published ones have up to 6 and 4; a header of 45 KB can claim a hundred of
each, which take a minute to build."""


@dataclass(frozen=True)
class KLConfig:
    """Everything needed to build a KL autoencoder of the ldm family.

    Channel tuples run from the full-resolution level to the lowest one, for the encoder and the decoder
    alike (`decoder.up.0` is the full-resolution level in ldm's numbering too). Encoder and decoder are
    described apart because some VAEs pair a full encoder with a smaller decoder.
    """

    latent_channels: int = 4
    """Channels of the latent that `decode` takes and `encode` returns."""
    encoder_stem: int = 128
    """Output channels of `encoder.conv_in`."""
    encoder_channels: Shape = (128, 256, 512, 512)
    decoder_channels: Shape = (128, 256, 512, 512)
    encoder_blocks: int = 2
    """Residual blocks at each encoder level."""
    decoder_blocks: int = 3
    """Residual blocks at each decoder level (ldm: one more than the encoder's)."""
    hidden_latent_channels: int = 4
    """Channels that the decoder's `conv_in` takes; differs from `latent_channels` only behind a quant conv."""
    quant_conv: bool = True
    post_quant_conv: bool = True
    mid_attention: bool = True
    encoder_attention: Shape = ()
    """Levels whose blocks are each followed by attention (kl-f16's lowest), in ascending order."""
    decoder_attention: Shape = ()
    image_channels: int = 3
    norm_groups: int = DEFAULT_NORM_GROUPS

    @property
    def ratio(self) -> int:
        """Pixels per latent pixel along one side: 8 for four levels."""
        return 2 ** (len(self.decoder_channels) - 1)

    @property
    def encodes(self) -> bool:
        """Whether there is an encoder: some files hold a decoder alone."""
        return bool(self.encoder_channels)

    @staticmethod
    def from_shapes(shapes: Mapping[str, Shape], norm_groups: int = DEFAULT_NORM_GROUPS) -> KLConfig:
        """Read the configuration from `{ldm key: shape}`.

        Raises:
            VaeFileError: a tensor that every KL autoencoder has is missing, or its shape is impossible.
        """
        decoder_in = _shape(shapes, "decoder.conv_in.weight", 4)
        decoder_out = _shape(shapes, "decoder.conv_out.weight", 4)
        hidden = decoder_in[1]
        encodes = any(name.startswith("encoder.") for name in shapes)
        if encodes:
            _check_encoder(shapes, 2 * hidden, decoder_out[0])
        post_quant = _shape(shapes, "post_quant_conv.weight", 4) if "post_quant_conv.weight" in shapes else None
        config = KLConfig(
            latent_channels=post_quant[1] if post_quant else hidden,
            encoder_stem=shapes["encoder.conv_in.weight"][0] if encodes else 0,
            encoder_channels=_levels(shapes, "encoder.down") if encodes else (),
            decoder_channels=_levels(shapes, "decoder.up"),
            encoder_blocks=_count(shapes, r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight") if encodes else 0,
            decoder_blocks=_count(shapes, r"decoder\.up\.0\.block\.(\d+)\.conv1\.weight"),
            hidden_latent_channels=hidden,
            quant_conv="quant_conv.weight" in shapes,
            post_quant_conv=post_quant is not None,
            mid_attention="decoder.mid.attn_1.q.weight" in shapes,
            encoder_attention=_attention(shapes, "encoder.down"),
            decoder_attention=_attention(shapes, "decoder.up"),
            image_channels=decoder_out[0],
            norm_groups=norm_groups,
        )
        _check_size(config, len(shapes))
        _check_groups(config)
        return config


def _check_encoder(shapes: Mapping[str, Shape], moments: int, image_channels: int) -> None:
    encoder_in = _shape(shapes, "encoder.conv_in.weight", 4)
    encoder_out = _shape(shapes, "encoder.conv_out.weight", 4)
    if encoder_out[0] != moments:
        raise VaeFileError(
            f"its encoder makes {encoder_out[0]} channels where its decoder needs {moments} "
            "(mean and log-variance): encoder and decoder are of different VAEs"
        )
    if image_channels != encoder_in[1]:
        raise VaeFileError(f"it takes {encoder_in[1]}-channel pictures and returns {image_channels} channels")


def _check_size(config: KLConfig, tensors: int) -> None:
    """A few names can claim a network that takes minutes to build: it needs eight tensors for each block."""
    blocks = len(config.encoder_channels) * config.encoder_blocks + len(config.decoder_channels) * config.decoder_blocks
    if 8 * blocks > tensors:
        raise VaeFileError(f"it has {tensors} tensors where its {blocks} blocks need more: the file is incomplete")


def _shape(shapes: Mapping[str, Shape], key: str, dims: int) -> Shape:
    shape = shapes.get(key)
    if shape is None:
        raise VaeFileError(f"it has no tensor {key!r}, so it is not a whole KL autoencoder")
    if len(shape) != dims or 0 in shape:
        raise VaeFileError(f"its tensor {key!r} has the impossible shape {list(shape)}")
    return shape


def _attention(shapes: Mapping[str, Shape], prefix: str) -> Shape:
    """Levels that have attention."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d{1,3})\.attn\.0\.q\.weight")
    return tuple(sorted(int(match.group(1)) for name in shapes if (match := pattern.fullmatch(name))))


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    """How many consecutive indices 0, 1, … the pattern's group takes among the keys."""
    pattern = pattern.replace(r"(\d+)", r"(\d{1,4})")  # longer numbers name nothing
    found = {int(match.group(1)) for key in shapes if (match := re.fullmatch(pattern, key))}
    if found != set(range(len(found))) or not found:
        layer = pattern.replace("\\", "").replace("(d{1,4})", "N")
        raise VaeFileError(f"its layers '{layer}' are numbered {sorted(found)!s:.60}, not 0, 1, …")
    if len(found) > MAX_COUNT:
        raise VaeFileError(f"it has {len(found)} of one layer's kind, and no autoencoder has more than {MAX_COUNT}")
    return len(found)


def _levels(shapes: Mapping[str, Shape], prefix: str) -> Shape:
    """Output channels of each resolution level."""
    count = _count(shapes, re.escape(prefix) + r"\.(\d+)\.block\.0\.conv1\.weight")
    return tuple(_shape(shapes, f"{prefix}.{level}.block.0.conv1.weight", 4)[0] for level in range(count))


def _check_groups(config: KLConfig) -> None:
    widths = {*([config.encoder_stem] if config.encodes else ()), *config.encoder_channels, *config.decoder_channels}
    bad = sorted(width for width in widths if config.norm_groups < 1 or width % config.norm_groups)
    if bad:
        raise VaeFileError(
            f"its {bad[0]} channels cannot be divided into {config.norm_groups} norm groups; a small VAE must "
            "say its number in the safetensors metadata, key 'norm_num_groups'"
        )


def expected_shapes(config: KLConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of a KL autoencoder, in the order of `AutoencoderKL`'s state dict.

    Written out here so that a header is judged without making a network, and without torch.
    """
    hidden, latent = config.hidden_latent_channels, config.latent_channels
    tensors: list[tuple[str, Shape]] = []
    if config.encodes:
        tensors += _encoder_tensors(config)
    tensors += _decoder_tensors(config)
    if config.quant_conv:
        tensors += _conv("quant_conv", 2 * hidden, 2 * latent, 1)
    if config.post_quant_conv:
        tensors += _conv("post_quant_conv", latent, hidden, 1)
    return dict(tensors)


def check_shapes(config: KLConfig, shapes: Mapping[str, Shape]) -> None:
    """Hold a file's canonical shapes against its configuration; see `compare_shapes`."""
    compare_shapes(expected_shapes(config), shapes)


def _encoder_tensors(config: KLConfig) -> list[tuple[str, Shape]]:
    width, last = config.encoder_stem, len(config.encoder_channels) - 1
    tensors = _conv("encoder.conv_in", config.image_channels, width)
    for i, out in enumerate(config.encoder_channels):
        tensors += _level(f"encoder.down.{i}", width, out, config.encoder_blocks, i in config.encoder_attention)
        if i < last:
            tensors += _conv(f"encoder.down.{i}.downsample.conv", out, out)
        width = out
    tensors += _mid("encoder.mid", width, config.mid_attention)
    return (
        tensors + _norm("encoder.norm_out", width) + _conv("encoder.conv_out", width, 2 * config.hidden_latent_channels)
    )


def _decoder_tensors(config: KLConfig) -> list[tuple[str, Shape]]:
    channels = config.decoder_channels
    tensors = _conv("decoder.conv_in", config.hidden_latent_channels, channels[-1])
    tensors += _mid("decoder.mid", channels[-1], config.mid_attention)
    for i, (out, width) in enumerate(zip(channels, (*channels[1:], channels[-1]))):
        tensors += _level(f"decoder.up.{i}", width, out, config.decoder_blocks, i in config.decoder_attention)
        if i > 0:
            tensors += _conv(f"decoder.up.{i}.upsample.conv", out, out)
    return (
        tensors + _norm("decoder.norm_out", channels[0]) + _conv("decoder.conv_out", channels[0], config.image_channels)
    )


def _level(name: str, width: int, out: int, blocks: int, attention: bool) -> list[tuple[str, Shape]]:
    tensors: list[tuple[str, Shape]] = []
    for i in range(blocks):
        tensors += _block(f"{name}.block.{i}", width if i == 0 else out, out)
    for i in range(blocks if attention else 0):
        tensors += _attn(f"{name}.attn.{i}", out)
    return tensors


def _mid(name: str, width: int, attention: bool) -> list[tuple[str, Shape]]:
    middle = _attn(f"{name}.attn_1", width) if attention else []
    return _block(f"{name}.block_1", width, width) + middle + _block(f"{name}.block_2", width, width)


def _block(name: str, width: int, out: int) -> list[tuple[str, Shape]]:
    tensors = _norm(f"{name}.norm1", width) + _conv(f"{name}.conv1", width, out)
    tensors += _norm(f"{name}.norm2", out) + _conv(f"{name}.conv2", out, out)
    return tensors + (_conv(f"{name}.nin_shortcut", width, out, 1) if width != out else [])


def _attn(name: str, width: int) -> list[tuple[str, Shape]]:
    tensors = _norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        tensors += _conv(f"{name}.{part}", width, width, 1)
    return tensors


def _conv(name: str, width: int, out: int, side: int = 3) -> list[tuple[str, Shape]]:
    return [(f"{name}.weight", (out, width, side, side)), (f"{name}.bias", (out,))]


def _norm(name: str, width: int) -> list[tuple[str, Shape]]:
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]
