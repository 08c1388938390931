"""The Extras tab: old pictures, 8-bit already, are diagnosed and corrected."""

from __future__ import annotations

from PIL import Image

from vae_manager.color.diagnose import diagnose
from vae_manager.color.images import corrected, visible
from vae_manager.color.matrix import adjustment, blend, compose, is_identity
from vae_manager.webui.coloring import said_of

SEED = 0
"""Of the dither: the same picture always comes out the same."""


def correct_image(
    image: Image.Image,
    strength: float = 1.0,
    contrast: float = 1.0,
    brightness: float = 0.0,
    saturation: float = 1.0,
) -> tuple[Image.Image, str | None]:
    """Correct what is found wrong, then adjust by hand.

    Args:
        strength: 0 to 1, of what was found; the adjustments are taken as they are.
        contrast, saturation: factors around mid-grey and luma; 1 changes nothing.
        brightness: added to every channel, in [-1, 1]; 0 changes nothing.

    Returns:
        the picture, the very same object where nothing was done, and what was found and done.
    """
    found = diagnose(visible(image))
    by_hand = adjustment(contrast, brightness, saturation)
    matrix = compose(by_hand, blend(found.matrix, strength))
    if is_identity(matrix):
        return image, said_of(found) if not found.corrects else None
    said = [said_of(found)] if not is_identity(blend(found.matrix, strength)) else []
    if not is_identity(by_hand):
        said.append(f"adjusted: contrast {contrast:g}, brightness {brightness:g}, saturation {saturation:g}")
    return corrected(image, matrix, seed=SEED), "; ".join(filter(None, said))
