"""Read JSON that other programs wrote: with a byte order mark, as Windows' editors save it, or without."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

MAX_BYTES = 16 << 20


def parse_json(raw: bytes | str) -> Any:
    """The document in a JSON text.

    Raises:
        ValueError: it is no JSON, no UTF-8, or nested too deeply.
    """
    text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw.removeprefix("\ufeff")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json_text(path: Path, limit: int = MAX_BYTES) -> Any:
    """The document in a JSON file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read, or is no ordinary file.
        ValueError: it is too large, or no JSON.
    """
    if not path.is_file() and path.exists():
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    with path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ValueError(f"longer than {limit} bytes")
    return parse_json(raw)
