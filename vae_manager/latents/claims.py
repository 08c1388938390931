"""What each kind of evidence says of a latent space, as `evidence.Claim`s."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vae_manager.latents.architectures import ARCHITECTURES, Architecture
from vae_manager.latents.evidence import Claim, Evidence
from vae_manager.latents.spaces import SPACES, LatentSpace, spaces_of_latent, spaces_of_vae

NOTHING = Claim(frozenset(), Evidence.NONE)


@dataclass(frozen=True)
class LoadedFormat:
    """What a loaded model says of its own latents, in plain values; None where its WebUI does not say."""

    channels: int | None = None
    """As the model sees them: 128 for Flux.2."""
    scale: float | None = None
    shift: float | None = None
    mean: Sequence[float] = ()
    """One number a channel."""
    ratio: int | None = None


def of_latent(channels: int) -> Claim:
    """What the number of channels of a latent that arrives says."""
    return Claim(spaces_of_latent(channels), Evidence.LATENT, f"the latent has {channels} channels")


def of_loaded(loaded: LoadedFormat) -> Claim:
    """What the loaded model's own latent format says."""
    fitting = frozenset(space.id for space in SPACES.values() if _has_format(space, loaded))
    return Claim(fitting, Evidence.HOST, "the loaded model's own latent format")


def of_metadata(metadata: Mapping[str, str]) -> Claim:
    """What a checkpoint's metadata say: `modelspec.architecture`, or GGUF's `general.architecture`."""
    for key in ("general.architecture", "modelspec.architecture"):
        if key in metadata and (architecture := _by_metadata(metadata[key])) is not None:
            return Claim(frozenset({architecture.space}), Evidence.METADATA, f"its metadata ({key})")
    return NOTHING


def of_file_name(stem: str) -> Claim:
    """What a file's name suggests, which is a guess."""
    found = next((space for space, pattern in _FILE_NAMES if pattern.search(stem)), None)
    return Claim(frozenset({found}), Evidence.FILE_NAME, "its name") if found else NOTHING


def of_vae_shape(topology: str, channels: int, ratio: int | None = None) -> Claim:
    """What the shape of a VAE says: SD 1's and SDXL's have the same, and so have SD 3's and Flux.1's."""
    return Claim(spaces_of_vae(topology, channels, ratio), Evidence.SHAPES, f"{channels} latent channels")


def of_vae_scale(scale: float, channels: int) -> Claim:
    """What the scale factor in a VAE's metadata says."""
    fitting = frozenset(s.id for s in SPACES.values() if s.scale == scale and s.channels == channels and s.decoded_here)
    return Claim(fitting, Evidence.METADATA, "the scale factor in its metadata")


def _has_format(space: LatentSpace, loaded: LoadedFormat) -> bool:
    if loaded.channels not in (None, space.channels, space.model_channels):
        return False
    if loaded.mean:
        return len(loaded.mean) == len(space.mean) and all(
            abs(own - said) < 1e-3 for own, said in zip(space.mean, loaded.mean, strict=True)
        )
    if loaded.scale is None or space.scale is None:
        # a scale of one says nothing, for formats with means have it too
        return loaded.channels is not None and loaded.scale in (None, 1.0)
    return _near(space.scale, loaded.scale) and (loaded.shift is None or _near(space.shift, loaded.shift))


def _near(one: float, other: float) -> bool:
    return abs(one - other) < 1e-3 * max(abs(one), 1e-2)


def _by_metadata(said: str) -> Architecture | None:
    """The architecture whose word in metadata the text begins with; the longest word wins (flux-2 before flux)."""
    words = [(word, row) for row in ARCHITECTURES for word in row.metadata if _begins_with_word(said, word)]
    return max(words, key=lambda pair: len(pair[0]), default=(None, None))[1]


def _begins_with_word(text: str, word: str) -> bool:
    text = text.strip().casefold()
    return text.startswith(word) and not text[len(word) : len(word) + 1].isalpha()


def _name(pattern: str) -> re.Pattern[str]:
    """Words of a name, which may stand beside digits, capitals, `-`, `_` and blanks, but in no longer word."""
    return re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![a-z])", re.IGNORECASE)


_FILE_NAMES = (
    ("flux2", _name(r"flux[-_. ]?2|klein|ernie")),
    ("flux1", _name(r"flux|chroma|z[-_. ]?image|lumina")),
    ("sd3", _name(r"sd[-_. ]?3(?:\.5)?|stable[-_. ]?diffusion[-_. ]?(?:v)?3")),
    ("qwen21", _name(r"qwen[-_. ]?image[-_. ]?2[-_. ]1")),
    ("wan22", _name(r"wan[-_. ]?2[-_. ]?2.*5b")),
    ("wan21", _name(r"wan|qwen|anima|krea[-_. ]?2")),
    ("sdxl", _name(r"sd[-_. ]?xl|xl|pony|illustrious|noob[-_. ]?ai")),
    ("sd1", _name(r"sd[-_. ]?(?:v)?[12](?:[-_. ]?[015])?|v1[-_. ]5")),
)
"""What names suggest, the more particular first."""
