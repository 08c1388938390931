"""`ui`: the page by itself, on this machine alone, without a WebUI."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vae_manager.errors import BadInputError
from vae_manager.library.files import Folder
from vae_manager.page.house import House
from vae_manager.user_data import user_folder

HERE = "127.0.0.1"
"""Never another address: the page reads and writes the user's own files."""

ROOT = Path(__file__).parents[2]
"""Of the checkout: what the page needs beyond Gradio lies where WebUIs look for it."""


def serve(args: argparse.Namespace) -> str:
    """Serve the page until it is interrupted; what is left to say then.

    Raises:
        BadInputError: a folder is not there, the port is taken, or there is no Gradio.
    """
    folders = [Path(given) for given in (*args.vae_dir, *args.checkpoint_dir)]
    for folder in folders:
        if not folder.is_dir():
            raise BadInputError(f"There is no folder {str(folder)[:200]!r}.")
    vaes = tuple(Folder(Path(given)) for given in args.vae_dir)
    models = tuple(Path(given) for given in args.checkpoint_dir)
    house = House(lambda: (*vaes, *(Folder(path, marked_only=True) for path in models)), lambda: models, user_folder())
    demo, extra = build(house)
    print(f"The page is at http://{HERE}:{args.port}/ until you press Ctrl+C.", file=sys.stderr, flush=True)
    try:
        demo.queue().launch(
            server_name=HERE, server_port=args.port, share=False, inbrowser=not args.no_browser, quiet=True, **extra
        )
    except OSError as error:
        raise BadInputError(f"Port {args.port} cannot be had ({error}); name another with --port.") from error
    return "The page is closed."


def build(house: House) -> tuple[Any, dict[str, Any]]:
    """The page, and what its launch wants besides.

    Raises:
        BadInputError: there is no Gradio, or this is no checkout.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise BadInputError('The page needs Gradio: run "make ui", or pip install "vae-manager[ui]".') from error
    from vae_manager.page.views import build_page

    css, scripts = ROOT / "style.css", [ROOT / "javascript" / f"vae_manager_{name}.js" for name in ("page", "words")]
    if not all(path.is_file() for path in (css, *scripts)):
        raise BadInputError("The page runs from a checkout: clone the repository and run make ui there.")
    head = "".join(f"<script>{script.read_text(encoding='utf-8')}</script>" for script in scripts)
    looks = {"css": css.read_text(encoding="utf-8"), "head": _words() + head}
    later = int(gr.__version__.split(".")[0]) >= 6  # what a page looks like is said at its launch since
    with gr.Blocks(title="VAE Manager", analytics_enabled=False, **({} if later else looks)) as demo:
        gr.Markdown("# VAE Manager", elem_classes=["vae-manager-title"])
        build_page(house)
    return demo, looks if later else {}


def _words() -> str:
    """The catalogues of all languages, for the script that puts the page into the browser's."""
    files = (ROOT / "localizations").glob("*.json")
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    text = json.dumps(found, ensure_ascii=False).replace("<", "\\u003c")  # nothing in it ends the element
    return f'<script type="application/json" id="vae_manager_words">{text}</script>'
