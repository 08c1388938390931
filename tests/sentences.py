"""The catalogue of what the program says to people on a page, read out of the source: texts, and sentences with {0},
{1} … where names and numbers come."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from vae_manager.latents.architectures import ARCHITECTURES
from vae_manager.latents.spaces import SPACES
from vae_manager.page.colour_view import NAMES
from vae_manager.page.library_view import HEAD as LIBRARY
from vae_manager.page.models_view import FILTERS
from vae_manager.selection.decision import STEPS
from vae_manager.selection.page_fields import PAGE_FIELDS
from vae_manager.webui.kept_presets import FOREIGN_HEAD as FOREIGN
from vae_manager.webui.kept_presets import HEAD as KEPT

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vae_manager"

OURS = "VAE Manager: "

SILENT = {
    *("page/command.py", "selection/examiner.py", "webui/api.py", "webui/options.py", "webui/xyz.py"),
    *("library/merge.py", "codec/memory.py", "codec/pictures.py"),  # what commands alone ask for, and what others say
}
"""Files of these rooms whose texts stand on no page, or are labels, which are found elsewhere."""

ROOMS = [
    path
    for room in ("page", "webui", "selection", "color", "library", "codec", "latents")
    for path in sorted((PACKAGE / room).rglob("*.py"))
    if path.relative_to(PACKAGE).as_posix() not in SILENT
]
FILES = [*ROOMS, PACKAGE / "errors.py", PACKAGE / "downloads.py", PACKAGE / "json_text.py"]

NOT_SAID = (
    re.compile(r"</|<\w+ |class=|=\"|^<"),  # HTML
    re.compile(r"^--|\[[-_.]|\(\?|\\|%s|\n"),  # options, patterns, logs, documents
    re.compile(r"^(\W|\{\d\}|GB|MB|dB|s|MiB)*$"),  # numbers with their units, and what only joins others
    re.compile(r"^vae-manager "),  # commands
)

OTHERS = {
    *("Expecting value", "Expecting ',' delimiter", "Expecting ':' delimiter", "Extra data"),
    *("Expecting property name enclosed in double quotes", "Unterminated string starting at"),
    *("Illegal trailing comma before end of object", "Illegal trailing comma before end of array"),
    "Invalid control character at",
    *("No such file or directory", "Permission denied", "Is a directory", "No space left on device"),
    *("Read-only file system", "Input/output error", "File name too long"),
}
"""What Python says of JSON and the system of files, for the ends of our sentences: the most usual."""

TITLES = {one.title for one in (*ARCHITECTURES, *SPACES.values())}
"""Names of models, in sentences. Those that are words, too, are said in each language."""

WORDY = re.compile(r"\b(and|without|the|inpainting|depth)\b")

_NAMES = {title for title in TITLES if not WORDY.search(title)} | {
    "VAE",
    "VAE Manager",
    "VAE hash",
    "VAE Manager color",
    "VAE Manager warning",
    "CFG",
    "sha256",
}

_NOT_SHOWN = {
    *('L256 64 Z"/>', "L{0} {1}", "health {0}", "hold() first", "held something else than presets", "{0} enabled"),
    *("contrast contrasty", "dark darker darkness", "sharp sharper", "vibrant vivid", "Decode mode", "Hires VAE"),
    *("{0} has version {1}, this program reads version 1", "GGUF type {0}", "{0} bytes", "it is {0}", "{0} or {1}"),
    *("rule {0} {1}", "round trip", "trip {0}", "Built in", "attention is a pass of its own"),
    *("a shape", "a tensor without a storage", "a tensor without a type", "a storage", "a storage's type", "too much"),
    *("an operation that PyTorch does not write", "an entry of something that has none", "Tensor | None"),
    *("a norm's input is always measured first", "a level has begun before it ends", "longer than {0} bytes"),
    *("a block was opened before it is closed", "a level of several stages begins with one of them"),
    *(
        "build_taesd makes no autoencoder without either half",
        "it is no ordinary file",
        "the plan is for {0} and the input is {1}",
        "the decode or encode was stopped",
        "the work was stopped",
    ),
}
"""What the rooms say to nobody: to logs, to themselves; and names."""


def sentences() -> set[str]:
    """All of them."""
    found = {text for path in FILES for text in _said(path)} | set(_words()) | set(_of_the_scripts()) | OTHERS
    return found - _NAMES - _NOT_SHOWN


def _words() -> Iterator[str]:
    """Single words, which look like names in the source. The WebUIs put a catalogue's word into the page wherever it
    stands, so ours have a name before them, which only our script looks for."""
    words = [word for head in (LIBRARY, KEPT, FOREIGN, FILTERS, STEPS, NAMES) for word in head if word]
    words += ["host", "chosen", "refused", "Checkpoint", "Why", "Damage", "Step", "Outcome", "Command", "File", "Name"]
    words += ["Precision", "Size", "remembered", "corrected", "Search", "decode", "encode", "decoder", "encoder"]
    words += ["upsampling", "downsampling", "Stopped."]
    yield from (
        word if " " in word else OURS + word for word in words if word not in ("VAE", "Decode", "Colour")
    )  # labels too
    for field in PAGE_FIELDS.values():
        yield "{0} steps" if field.name == "steps" else f"{field.label} {{0}}"


def _of_the_scripts() -> Iterator[str]:
    """What our scripts write into the page by themselves."""
    for path in sorted((ROOT / "javascript").glob("*.js")):
        text = path.read_text(encoding="utf-8")
        titles = re.search(r"TITLES = \{(.*?)\};", text, re.DOTALL)
        yield from re.findall(r'"([^"]+ [^"]+)"', titles[1] if titles else "")
        for written in re.findall(r"textContent = [^;]*;", text):
            for said in re.findall(r"`([^`]*)`", written):
                first, *others = re.split(r"\$\{[^}]*\}", said)
                yield first + "".join(f"{{{at}}}{other}" for at, other in enumerate(others))


def _said(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = _never_shown(tree)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        text = template(node)
        if text is not None and " " in text and not any(pattern.search(text) for pattern in NOT_SAID):
            yield text


def template(node: ast.AST) -> str | None:
    """A text, or an f-string with numbered places; what a later `format` fills is a place too."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        parts: list[str | None] = [node.value]
    elif isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]  # type: ignore[misc]
    else:
        return None
    pieces = [piece for part in parts for piece in ([None] if part is None else _split(part))]
    places = iter(range(len(pieces)))
    return "".join(f"{{{next(places)}}}" if piece is None else piece for piece in pieces).strip()


def _split(text: str) -> list[str | None]:
    first, *others = text.split("{}")
    return [first, *(piece for other in others for piece in (None, other))]


def _never_shown(tree: ast.Module) -> set[int]:
    """Docstrings, logs, parts of f-strings, annotations, keys and the names of things."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            found |= {id(one.value) for one in node.body if isinstance(one, ast.Expr)}
        elif isinstance(node, ast.JoinedStr):
            found |= {id(part) for part in node.values}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("log.", "re.compile", "isinstance")):
            found |= {id(part) for part in ast.walk(node)}
        elif isinstance(node, (ast.AnnAssign, ast.arg)) and node.annotation is not None:
            found |= {id(part) for part in ast.walk(node.annotation)}
        elif isinstance(node, ast.Dict):
            found |= {id(key) for key in node.keys}
        elif isinstance(node, ast.keyword) and node.arg in ("elem_id", "elem_classes", "prefix", "name"):
            found |= {id(part) for part in ast.walk(node.value)}
    return found
