"""The picture whose colours others are to match, as the panel or an API request hands it in."""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image, ImageOps

from vae_manager.errors import BadInputError

MAX_TEXT = 96 << 20
"""Characters of base64: a picture file of 72 MiB."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Pillow would hand an EPS to Ghostscript, and has decoders that nobody looks at: what people send is one of these."""

MAX_PIXELS = 1 << 26
"""Looked at before anything is unpacked: a small file may hold an enormous picture."""

_LEFT_OUT = "no reference picture was used."


def read_reference(value: object) -> Image.Image | None:
    """The reference picture in RGB; None where none was given.

    Paths are not taken: whoever may call the API could find out with them which files there are.

    Args:
        value: a Pillow image (Gradio's), a text with a picture's file in base64, as a data URL or not, or None or ''.

    Raises:
        BadInputError: it is something else.
    """
    if value is None or value == "":
        return None
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    if not isinstance(value, str):
        raise BadInputError(f"The reference must be a picture in base64, not {type(value).__name__}; {_LEFT_OUT}")
    if len(value) > MAX_TEXT:
        raise BadInputError(f"The reference picture's file is larger than {MAX_TEXT * 3 // 4 >> 20} MiB; {_LEFT_OUT}")
    try:
        data = base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadInputError(f"The reference picture has more than {MAX_PIXELS >> 20} megapixels; {_LEFT_OUT}")
            return (ImageOps.exif_transpose(image) or image).convert("RGB")
    except BadInputError:
        raise
    except (binascii.Error, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise BadInputError(f"The reference is no picture that can be read; {_LEFT_OUT}") from error
