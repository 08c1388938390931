"""What stands beside a file in a diffusers folder: `config.json`, and the parts of a model in several files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vae_manager.errors import VaeFileError
from vae_manager.json_text import read_json_text

_WEIGHTS = "diffusion_pytorch_model"
"""How diffusers names the weights in a folder of their own; other files may have come to lie beside a config."""

_NAMES = {"norm_num_groups": "norm_num_groups", "scaling_factor": "scale_factor", "shift_factor": "shift_factor"}

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.[a-z]+$", re.IGNORECASE)


def config_metadata(path: Path) -> dict[str, str]:
    """What the `config.json` of a VAE's folder says, under the names of our own metadata; empty without one."""
    if not path.name.lower().startswith(_WEIGHTS):
        return {}
    try:
        config = read_json_text(path.with_name("config.json"))
    except (OSError, ValueError):
        return {}
    if not isinstance(config, Mapping) or "Autoencoder" not in str(config.get("_class_name", "")):
        return {}
    found = {name: str(config[key]) for key, name in _NAMES.items() if _is_number(config.get(key))}
    padding = config.get("padding_mode")
    return {**found, "padding_mode": padding} if isinstance(padding, str) else found


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < abs(value) < 10**4  # type: ignore[arg-type]


def part_of(path: Path) -> str | None:
    """For one of several files of a model: what it is and what to do."""
    found = _PART.search(path.name)
    if found is None or int(found.group(2)) < 2:
        return None
    return (
        f"it is part {int(found.group(1))} of {int(found.group(2))} of a model in several files, and no whole VAE; get "
        "the version in one file"
    )


@contextmanager
def telling_parts(path: Path) -> Iterator[None]:
    """What is wrong with one of several files of a model is that it is a part, whatever it lacks."""
    try:
        yield
    except VaeFileError as error:
        if (part := part_of(path)) is not None:
            raise VaeFileError(part) from error
        raise
