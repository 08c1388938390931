"""The last room of a job: each picture of a batch is diagnosed, and corrected as far as the evidence goes.

Works on what `postprocess_batch_list` hands over: float pictures, before ADetailer, the inpaint composite and 8 bits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_manager.color.correct import correct
from vae_manager.color.diagnose import Diagnosis, diagnose
from vae_manager.color.drift import hold
from vae_manager.color.faults import Fault, examined_fault, known_fault, scale_fault
from vae_manager.color.session import ColorSession
from vae_manager.color.statistics import statistics
from vae_manager.library.families import FAMILIES, family_title
from vae_manager.library.known import by_sha256
from vae_manager.storage import read_json, update_json

log = logging.getLogger("vae_manager")

SAME_SHAPE = 0.01
"""How much the width-to-height ratio of a reference may differ: cropped or padded pictures are not aligned."""

Version = tuple[str, int, int]


@dataclass(frozen=True)
class Made:
    """What made a picture."""

    checkpoint: Version
    vae: Version
    """The VAE file's version, or the checkpoint's own where the baked one decoded."""
    fault: Fault | None = None


class Colors:
    """What is known of the colours of each (checkpoint, VAE): statistics of the last pictures, and calibrations."""

    def __init__(self, folder: Path) -> None:
        self.session = ColorSession(folder / "colors.json")
        self._calibrations = folder / "calibrations.json"

    def calibration(self, made: Made) -> Tensor | None:
        """The 3×4 that was measured for these two files, if they are still the same."""
        document = read_json(self._calibrations)
        entry = document.get(_key(made)) if isinstance(document, dict) else None
        if not isinstance(entry, dict) or entry.get("versions") != _versions(made):
            return None
        try:
            matrix = torch.tensor(entry["matrix"], dtype=torch.float64)
        except (KeyError, TypeError, ValueError):
            return None
        return matrix if matrix.shape == (3, 4) and bool(matrix.isfinite().all()) else None

    def calibrate(self, made: Made, matrix: Tensor) -> None:
        """Keep a measured map.

        Raises:
            OSError: the file cannot be written.
        """

        def change(document: Any) -> dict[str, Any]:
            known = dict(document) if isinstance(document, dict) else {}
            return {**known, _key(made): {"versions": _versions(made), "matrix": matrix.tolist()}}

        update_json(self._calibrations, change)

    def finish(
        self, picture: Tensor, made: Made, mode: str, strength: float, p: Any, index: int
    ) -> tuple[Tensor, Diagnosis | None]:
        """Diagnose and correct one picture.

        Args:
            picture: (3, H, W) float in [0, 1].
            mode: 'auto' or 'match' (only against the picture that img2img began with).
            p: the job, for the picture it began with.
            index: the picture's place in the batch.

        Returns:
            the picture, the very same object where nothing was done, and what was found.
        """
        reference = reference_of(p, picture, index)
        if mode == "match":
            if reference is None:
                return picture, None
            found = diagnose(picture, reference=reference.pixels, changed=reference.changed)
        else:
            pool = self.session.add(made.checkpoint, made.vae, statistics(picture))
            found = diagnose(
                picture,
                made.fault,
                self.calibration(made),
                reference.pixels if reference else None,
                reference.changed if reference else None,
                pool,
            )
        done = correct(picture, found.matrix, strength).to(picture.dtype) if found.corrects else picture
        if reference is not None:  # a round trip through a VAE loses a little; ten of them show
            done = hold(done, reference.pixels, reference.changed).to(picture.dtype)
        return done, found


@dataclass(frozen=True)
class Reference:
    """A picture of the same thing with the right colours."""

    pixels: Tensor
    """(3, H, W) float in [0, 1]."""
    changed: Tensor | None
    """(H, W), 1 where the job was to paint anew."""


def reference_of(p: Any, picture: Tensor, index: int) -> Reference | None:
    """The picture that img2img began with, where it lies exactly under the new one."""
    images = getattr(p, "init_images", None) or []
    if not images or getattr(p, "paste_to", None) is not None:  # "only masked" paints an enlarged part
        return None
    image: Image.Image = images[min(index, len(images) - 1)]
    height, width = picture.shape[1:]
    if abs((image.width / image.height) / (width / height) - 1) > SAME_SHAPE:
        return None
    pixels = _pixels(image.convert("RGB"), width, height)
    mask = getattr(p, "image_mask", None)
    return Reference(pixels, None if mask is None else _pixels(mask.convert("L"), width, height))


def vae_fault(sha256: str | None, problems: Sequence[str] = ()) -> Fault | None:
    """What is known against a VAE: what was found in its weights, or that its hash is that of a flat one."""
    known = by_sha256(sha256) if sha256 else None
    return examined_fault(problems) or (known_fault(known.name, known.quirks) if known else None)


def rescaled(used: float | None, family: str) -> tuple[float, Fault] | None:
    """What to multiply unscaled latents with where the host divides by a wrong scale, and the fault's name."""
    right = FAMILIES[family].scale_factor if family in FAMILIES else None
    fault = scale_fault(used, right, family_title(family)) if used and right else None
    return (used / right, fault) if fault and used and right else None


def said_of(found: Diagnosis | None) -> str | None:
    """For the infotext and the page: what was found and done; None where all was well."""
    if found is None or found.cause == "none":
        return None
    done = "corrected" if found.corrects else (found.remedy or "left as it is")
    return f"{found.reason}; {done}"


def _pixels(image: Image.Image, width: int, height: int) -> Tensor:
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    values = torch.from_numpy(np.array(image)).float() / 255
    return values if values.ndim == 2 else values.permute(2, 0, 1)


def _key(made: Made) -> str:
    return f"{made.checkpoint[0]}|{made.vae[0]}"


def _versions(made: Made) -> list[list[object]]:
    return [list(made.checkpoint), list(made.vae)]
