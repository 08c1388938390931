"""The picture whose colours others are to match, as the panel or an API request hands it in."""

from __future__ import annotations

import base64
import binascii

from PIL import Image

from vae_manager.codec.picture_files import as_rgb, open_picture
from vae_manager.errors import BadInputError

MAX_TEXT = 96 << 20
"""Characters of base64: a picture file of 72 MiB."""

MAX_PIXELS = 1 << 26
"""Looked at before anything is unpacked: a small file may hold an enormous picture."""

_LEFT_OUT = "no reference picture was used."


def read_reference(value: object) -> Image.Image | None:
    """The reference picture in 8-bit RGB, in sRGB and upright; None where none was given.

    Paths are not taken: whoever may call the API could find out with them which files there are.

    Args:
        value: a Pillow image (Gradio's), a text with a picture's file in base64, as a data URL or not, or None or ''.

    Raises:
        BadInputError: it is something else.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, (str, Image.Image)):
        raise BadInputError(f"The reference must be a picture in base64, not {type(value).__name__}; {_LEFT_OUT}")
    try:
        return as_rgb(value if isinstance(value, Image.Image) else _opened(value), "The reference")
    except BadInputError as error:
        raise BadInputError(f"{str(error).partition(' (')[0].rstrip('.')}; {_LEFT_OUT}") from error


def _opened(text: str) -> Image.Image:
    if len(text) > MAX_TEXT:
        raise BadInputError(f"The reference picture's file is larger than {MAX_TEXT * 3 // 4 >> 20} MiB")
    try:
        data = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInputError("The reference is not a picture that can be read") from error
    return open_picture(data, "The reference", MAX_PIXELS)
