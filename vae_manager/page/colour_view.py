"""Whether a picture is washed out, in words and as histograms, and the corrected one beside it."""

from __future__ import annotations

import html

from PIL import Image

from vae_manager.color.evidence import Finding
from vae_manager.color.images import corrected, look
from vae_manager.page.markup import before_after, histogram, line

NAMES = ("before", "after")

SEED = 0
"""Of the dither: the same picture always comes out the same."""


def correct(image: Image.Image | None, strength: float) -> tuple[str, Image.Image | None]:
    """What was found and done, as HTML, and the picture: the very same where nothing was done."""
    if image is None:
        return line("Drop a picture here first."), None
    found = look(image)
    out = corrected(image, found.matrix, strength, SEED, clip=found.clips) if found.corrects and strength > 0 else image
    return _told(found, strength) + _shown(image, out), out


def _told(found: Finding, strength: float) -> str:
    reason = found.reason[:1].upper() + found.reason[1:]
    done = f" Corrected by {strength:.0%} of what was found." if found.corrects and strength > 0 else ""
    remedy = f" Better than mending pixels: {found.remedy}." if found.remedy else ""
    score = f" How washed out it looks by itself: {found.score:.0%}."
    return line(f"{reason}.{done}{remedy}{score}", "verdict")


def _shown(before: Image.Image, after: Image.Image) -> str:
    drawn = "".join(
        f"<figure>{histogram(image, f'How often each brightness occurs, {name}')}"
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, image in zip(NAMES, (before, after))
    )
    if after is before:
        return f'<div class="vae-manager-grid">{drawn.partition("</figure>")[0]}</figure></div>'
    return f'{before_after(before, after, NAMES)}<div class="vae-manager-grid">{drawn}</div>'
