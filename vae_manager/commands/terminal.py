"""What is printed: readable on every terminal, and never a command to it."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
from typing import Any, TextIO

FAULT = "This is a fault of the program"

_HARMLESS = "\n\t"
_TURNING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF}
"""They change the order in which a line is shown, or break it: a file name can look like another one by them."""


def printable(text: str) -> str:
    """The text with control characters written out (`\\x1b`): those of file names, titles and metadata could move the
    cursor, change what was printed before, or give commands to a terminal."""
    return "".join(char if _is_harmless(char) else ascii(char)[1:-1] for char in text)


def _is_harmless(char: str) -> bool:
    code = ord(char)
    return char in _HARMLESS or not (code < 32 or 127 <= code < 160 or code in _TURNING)


def sentence(text: str) -> str:
    """One line of it."""
    return printable(" ".join(text.split()))


def unforeseen(error: Exception) -> str:
    """The sentence for what should not have happened: too little memory, or a fault of this program."""
    texts = ("not enough memory", "out of memory", "can't allocate memory", "bad_alloc")
    if isinstance(error, MemoryError) or any(text in str(error).lower() for text in texts):
        return "There is not enough memory for this; close other programs or use a smaller picture."
    if "not implemented for 'Half'" in str(error):  # torch 2.1 on the CPU
        return "This PyTorch cannot compute in float16 here; choose --dtype fp32 or bf16, or use a newer PyTorch."
    if os.environ.get("VAE_MANAGER_DEBUG"):
        raise error
    return (
        f"{FAULT} ({type(error).__name__}: {str(error)[:200]}); please report it, with what is printed when "
        "VAE_MANAGER_DEBUG=1 is set."
    )


def strict_json(document: Any) -> str:
    """One JSON document as RFC 8259 has it: what is no number (NaN, infinity) is null."""
    return json.dumps(_finite(document), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def say(text: str, stream: TextIO) -> None:
    """Print a line, with ? for what the terminal has no sign for.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    encoding = stream.encoding or "ascii"
    print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)


def say_json(document: Any, stream: TextIO) -> None:
    """Print a document; what the stream has no sign for is written as JSON's `\\u….`.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    text = strict_json(document)
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))
    print(text, file=stream, flush=True)


def hush(stream: TextIO) -> None:
    """Nobody reads the stream any more: what is left in it goes nowhere, without a word at the exit."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a test has no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class _Warnings(logging.Handler):
    """Warnings of the log on stderr, as it is at that moment, fit for a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a warning never stops the work
            say(sentence(record.getMessage()), sys.stderr)


def show_warnings() -> None:
    """Have the program's warnings printed; once."""
    log = logging.getLogger("vae_manager")
    if not any(isinstance(handler, _Warnings) for handler in log.handlers):
        log.addHandler(_Warnings(logging.WARNING))
