"""The Extras tab: old pictures, 8-bit already, are diagnosed and corrected."""

from __future__ import annotations

from PIL import Image

from vae_manager.color.images import corrected, look
from vae_manager.color.matrix import adjustment, blend, compose, is_identity
from vae_manager.selection.settings import BY_HAND
from vae_manager.webui.coloring import said_of

SEED = 0
"""Of the dither: the same picture always comes out the same."""


def correct_image(image: Image.Image, strength: float = 1.0, **by_hand: float) -> tuple[Image.Image, str | None]:
    """Correct what is found wrong, then adjust by hand.

    Args:
        strength: 0 to 1, of what was found; the adjustments are taken as they are.
        by_hand: values of the settings `BY_HAND`; the defaults of those that are left out change nothing.

    Returns:
        the picture, the very same object where nothing was done, and what was found and done.
    """
    found = look(image)
    values = {setting.name: setting.default for setting in BY_HAND} | by_hand
    adjusted = adjustment(**values)
    matrix = compose(adjusted, blend(found.matrix, strength))
    if is_identity(matrix):
        return image, said_of(found) if not found.corrects else None
    said = [said_of(found)] if not is_identity(blend(found.matrix, strength)) else []
    if not is_identity(adjusted):
        said.append("adjusted: " + ", ".join(f"{name} {value:g}" for name, value in values.items()))
    return corrected(image, matrix, seed=SEED), "; ".join(filter(None, said))
