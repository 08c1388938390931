"""The last room of a job: each picture of a batch is diagnosed, and corrected as far as the evidence goes.

Works on what `postprocess_batch_list` hands over: float pictures, before ADetailer, the inpaint composite and 8 bits.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vae_manager.color.correct import correct, treat
from vae_manager.color.diagnose import diagnose, looks_fine, match
from vae_manager.color.drift import hold
from vae_manager.color.evidence import Evidence, Finding, Reference
from vae_manager.color.faults import Fault, examined_fault, known_fault, scale_fault
from vae_manager.color.matrix import adjustment
from vae_manager.color.pool import MIN_VETO, SEEN, ends
from vae_manager.color.session import ColorSession
from vae_manager.color.statistics import OwnEnds, statistics
from vae_manager.color.trip import Undoing
from vae_manager.latents.spaces import SPACES, LatentSpace
from vae_manager.library.known import by_sha256
from vae_manager.storage import read_json, update_json
from vae_manager.store import open_store

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
    trip: Undoing | None = field(default=None, compare=False)
    """What undoes that which a round trip through the VAE does; None: that is not known."""
    intended: str | None = None
    """What its pictures are on purpose, "… is made darker on purpose": colours that look wrong then are none."""


@dataclass(frozen=True, eq=False)
class Wish:
    """What a job asks for."""

    mode: str
    """'off', 'auto', 'match' or 'manual'."""
    strength: float = 1.0
    by_hand: Mapping[str, float] = field(default_factory=dict)
    """What 'manual' does: arguments of `adjustment`."""
    picture: Image.Image | None = None
    """What 'match' goes by; None: the picture that img2img began with."""


@dataclass(frozen=True, eq=False)
class FirstPass:
    """What hires fix began with."""

    pixels: Tensor
    """(3, h, w) half precision in [0, 1], in main memory."""
    made: Made


@dataclass(frozen=True, eq=False)
class Finished:
    """A picture on its way out."""

    pixels: Tensor
    """The very same object where nothing was done."""
    said: str | None = None
    """For the infotext: what was found and done."""
    warning: str | None = None
    """Why what was asked for was not done."""


class Colors:
    """What is known of the colours of each (checkpoint, VAE): statistics of the last pictures, and calibrations."""

    def __init__(self, folder: Path) -> None:
        self.session = ColorSession(open_store(folder))
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

    def doubts(self, made: Made) -> bool:
        """Whether the VAE is to be asked for a round trip: from the first picture on where none reaches black, and from
        a few on whatever they show, for one that overshoots, or takes white or colours alone, lets them reach it."""
        kept = self.session.pictures(made.checkpoint, made.vae)
        return made.trip is None and bool(kept) and (len(kept) >= MIN_VETO or ends(kept).floor >= SEEN)

    def finish(
        self,
        picture: Tensor,
        made: Made,
        wish: Wish,
        began: Reference | None,
        first: FirstPass | None = None,
        own: OwnEnds | None = None,
    ) -> Finished:
        """Diagnose and correct one picture.

        Args:
            picture: (3, H, W) float in [0, 1].
            began: the picture that img2img began with.
            first: what hires fix made before, where it was decoded.
            own: how far the decoder went beyond black and white in it.
        """
        if wish.mode == "manual":
            return Finished(correct(picture, adjustment(**wish.by_hand), wish.strength).to(picture.dtype))
        if wish.mode == "match":
            return _matched(picture, wish, began)
        if made.intended is not None and made.fault is None and self.calibration(made) is None:
            return Finished(picture, f"{made.intended}; left as it is")
        found = self._diagnosed(picture, made, began, first, own)
        done, found = treat(picture, found, wish.strength)
        return Finished(_held(done.to(picture.dtype), began), said_of(found))

    def _diagnosed(
        self, picture: Tensor, made: Made, began: Reference | None, first: FirstPass | None, own: OwnEnds | None
    ) -> Finding:
        seen = statistics(picture, whole=False)
        if own is not None and own.size == tuple(picture.shape[1:]):  # else others have changed the picture since
            seen = own.on(seen)
        pool = self.session.add(made.checkpoint, made.vae, seen)
        known = Evidence(picture, made.fault, self.calibration(made), began, made.trip, pool, seen)
        if began is not None or first is None or not self._trusted(first, made):
            return diagnose(known)
        by_first = Reference(first.pixels.to(picture), called="the first pass")
        found = diagnose(replace(known, reference=by_first))
        # another VAE for the hires pass is a wish: that it is more vivid is no fault of it, that it is pale is
        chosen = first.made.vae != made.vae and found.cause == "reference" and not found.washed_out
        return diagnose(known) if chosen else found

    def _trusted(self, first: FirstPass, made: Made) -> bool:
        """Whether the first pass has colours to go by.

        Not where its VAE is known to be at fault, or calibrated because it is; nor, where the same VAE made both,
        unless the first pass looks right by itself; nor where another checkpoint was to paint the second.
        """
        if first.made.checkpoint != made.checkpoint or first.made.fault or self.calibration(first.made) is not None:
            return False
        return first.made.vae != made.vae or looks_fine(first.pixels.float())


def _matched(picture: Tensor, wish: Wish, began: Reference | None) -> Finished:
    """Against the picture that was given, or the one that the job began with, and nothing else."""
    reference = began
    if wish.picture is not None:
        given = torch.from_numpy(np.array(wish.picture)).permute(2, 0, 1).float() / 255
        reference = Reference(given, called="the reference picture")
    if reference is None:
        return Finished(picture, warning="Colour is on 'match', but there is no picture to match; nothing was changed.")
    found = match(picture, reference)
    if found is None:
        other = f"{reference.called} shows something else, or in another shape"
        return Finished(picture, warning=f"Colour: {other}; nothing was changed.")
    done, found = treat(picture, found, wish.strength)
    done = done.to(picture.dtype)
    return Finished(_held(done, began) if reference is began else done, said_of(found))


def _held(picture: Tensor, began: Reference | None) -> Tensor:
    """A round trip through a VAE loses a little; ten of them show."""
    return picture if began is None else hold(picture, began.pixels, began.changed).to(picture.dtype)


def rounded(picture: Tensor) -> Tensor:
    """The nearest 8-bit level of every value, as a float that comes out as that level also where a host truncates."""
    return ((picture.float().clamp(0, 1) * 255).round() + 0.25) / 255


def reference_of(image: Image.Image | None, mask: Image.Image | None, picture: Tensor) -> Reference | None:
    """The picture that img2img began with, where it lies exactly under the new one.

    Args:
        mask: white where it was to be painted anew.
        picture: (3, H, W).
    """
    if image is None:
        return None
    height, width = picture.shape[1:]
    if abs((image.width / image.height) / (width / height) - 1) > SAME_SHAPE:
        return None
    pixels = _pixels(image.convert("RGB"), width, height)
    changed = None if mask is None else _pixels(mask.convert("L"), width, height)
    return Reference(pixels, changed, "the picture that it began with")


def vae_fault(sha256: str | None, problems: Sequence[str] = ()) -> Fault | None:
    """What is known against a VAE: what was found in its weights, or that its hash is that of a flat one."""
    known = by_sha256(sha256) if sha256 else None
    return examined_fault(problems) or (known_fault(known.name, known.quirks) if known else None)


def rescaled(used: float | None, space: LatentSpace | None) -> tuple[float, Fault] | None:
    """What to multiply unscaled latents with where the host divides by a wrong scale, and the fault's name.

    Only another space's scale is a wrong one: a model may well have a number of its own.

    Args:
        space: the one that the model is known to paint in; None where that is a guess.
    """
    if space is None or space.scale is None or used is None:
        return None
    others = (other for other in SPACES.values() if other.channels == space.channels and other.scale is not None)
    if not any(scale_fault(used, other.scale or 1.0, "") is None for other in others):
        return None
    fault = scale_fault(used, space.scale, space.title)
    return (used / space.scale, fault) if fault else None


def said_of(found: Finding | None) -> str | None:
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
