"""How files name the tensors of causal 3-D autoencoders: Wan's own names, and diffusers'.

Both number the layers of a half flat in Wan 2.1 (Qwen-Image's, too) and by levels in Wan 2.2. Canonical names are laid
out as ldm's: `encoder.down.I.block.J`, `decoder.up.I.block.J` with level 0 at the full resolution. Layers that only mix
frames (`time_conv`) are left out: a single picture never meets them. But where levels have shortcuts, the bias is
kept (`time_bias`): that it is there tells what the shortcut does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

ROOTS = ("encoder.", "decoder.", "conv1.", "conv2.", "quant_conv.", "post_quant_conv.")

_PLAIN = (
    (r"conv1\.", "quant_conv."),
    (r"conv2\.", "post_quant_conv."),
    (r"(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"(encoder|decoder)\.middle\.0\.", r"\1.mid.block_1."),
    (r"(encoder|decoder)\.middle\.1\.", r"\1.mid.attn_1."),
    (r"(encoder|decoder)\.middle\.2\.", r"\1.mid.block_2."),
    (r"(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.mid.block_1."),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.mid.attn_1."),
    (r"(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.mid.block_2."),
)

_LAYERS = (
    (r"residual\.0\.", "norm1."),
    (r"residual\.2\.", "conv1."),
    (r"residual\.3\.", "norm2."),
    (r"residual\.6\.", "conv2."),
    (r"conv_shortcut\.", "shortcut."),
)

_NUMBERED = re.compile(
    r"(?P<half>encoder|decoder)\.(?:downsamples|upsamples|down_blocks|up_blocks)\.(?P<first>\d{1,3})\."
    r"(?:(?:downsamples|upsamples|resnets)\.(?P<second>\d{1,3})\.)?"
    r"(?:(?:(?P<plain>upsamplers\.0)|downsampler|upsampler)\.)?(?P<rest>.+)"
)

_RESAMPLE, _TIME = "resample.1.", "time_conv."


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Canonical name → the name given, for those that belong to such an autoencoder. What nobody knows stays itself."""
    names = [name for name in names if name.startswith(ROOTS)]
    levels = {half: _Levels(names, half) for half in ("encoder", "decoder")}
    found = {}
    for own in names:
        match = _NUMBERED.fullmatch(own)
        name = levels[match["half"]].place(match) if match else _plain(own)
        if name is not None:
            found[name] = own
    return found


def _plain(name: str) -> str:
    for pattern, replacement in _PLAIN:
        if re.match(pattern, name):
            return _layer(re.sub("^" + pattern, replacement, name))
    return name


def _layer(name: str) -> str:
    for pattern, replacement in _LAYERS:
        name = re.sub(rf"(?<=\.){pattern}", replacement, name)
    return name


class _Levels:
    """Where the numbered layers of a half belong."""

    def __init__(self, names: Iterable[str], half: str) -> None:
        matches = [m for name in names if (m := _NUMBERED.fullmatch(name)) and m["half"] == half]
        self.nested = any(m["second"] is not None for m in matches)
        """Two numbers: a level and a layer of it. Else one number over all levels."""
        self.ends = sorted({int(m["first"]) for m in matches if m["rest"].startswith((_RESAMPLE, _TIME))})
        firsts = {int(m["first"]) for m in matches}
        self.count = 1 + (max(firsts, default=0) if self.nested else len(self.ends))

    def place(self, match: re.Match[str]) -> str | None:
        half, first, rest = match["half"], int(match["first"]), match["rest"]
        if self.nested:
            level, block = first, int(match["second"] or 0)
        else:
            before = [end for end in self.ends if end < first]
            level, block = len(before), first - (before[-1] + 1 if before else 0)
        if half == "decoder":  # counted from the lowest resolution
            level = self.count - 1 - level
        stem = f"{half}.{'down' if half == 'encoder' else 'up'}.{level}"
        kind = "downsample" if half == "encoder" else "upsample"
        if rest.startswith(_TIME):
            # Wan 2.1's decoder has levels of their own in diffusers' names, and no shortcuts
            told = self.nested and match["plain"] is None and rest == f"{_TIME}bias"
            return f"{stem}.{kind}.time_bias" if told else None
        if rest.startswith(_RESAMPLE):
            return f"{stem}.{kind}.conv.{rest.removeprefix(_RESAMPLE)}"
        return _layer(f"{stem}.block.{block}.{rest}")


def is_causal(inner: Mapping[str, str]) -> bool:
    """Their norms have gains called gamma and nothing else, in the middle too, which no other kind has."""
    middles = ("decoder.middle.", "decoder.mid_block.")
    return any(name.startswith(middles) and name.endswith(".gamma") for name in inner)
