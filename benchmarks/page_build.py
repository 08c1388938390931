"""How long a WebUI waits for us before it can show its page, without a WebUI: `benchmarks.page` runs this.

    python -m benchmarks.page_build FOLDER ROUNDS

FOLDER has `VAE` and `models`, of which the first checkpoint counts as the one that is loaded. Everything that the
program's own entry builds is built: both panels and the tab.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch  # noqa: F401 # pyright: ignore[reportUnusedImport] - a WebUI has it by then


def now() -> tuple[float, float]:
    """The processor's seconds and those on the clock."""
    return time.process_time(), time.perf_counter()


def since(begun: tuple[float, float]) -> list[float]:
    return [b - a for a, b in zip(begun, now())]


def main() -> None:
    root, rounds = Path(sys.argv[1]), int(sys.argv[2])
    begun = now()
    for name in ("api", "calibration", "paste", "xyz"):  # what else the program's entry names
        importlib.import_module(f"vae_manager.webui.{name}")
    from vae_manager.library.files import Folder
    from vae_manager.page import house, views
    from vae_manager.webui import options, page_offer, panel, presets
    from vae_manager.webui.hosts.base import Host
    from vae_manager.webui.session import Session

    imported = since(begun)

    class OneCheckpoint(Host):
        """A WebUI that has not loaded its checkpoint yet."""

        def current_model(self) -> Any:
            return None

        def next_checkpoint(self) -> tuple[Path, str]:
            return root / "models" / "model-0.safetensors", "model-0.safetensors"

        def standing_vae(self) -> str:
            return "Automatic"

        def loaded_vae(self, model: Any) -> None:
            return None

        def vae_folders(self) -> tuple[Folder, ...]:
            return Folder(root / "VAE"), Folder(root / "models", marked_only=True)

        def data_folder(self) -> Path:
            return root / "data"

    @contextlib.contextmanager
    def accordion(value: bool, label: str, elem_id: str) -> Iterator[Any]:
        """What the hosts' is inside: a checkbox beside an accordion."""
        checkbox = gr.Checkbox(value, label=label)
        with gr.Accordion(label, open=value, elem_id=elem_id):
            yield checkbox

    def build() -> None:
        shelf = Session(OneCheckpoint(), options.Options()).shelf
        actions = panel.Actions(
            shelf.offers,
            shelf.about,
            lambda values, page: "",
            lambda: "",
            lambda: presets.is_kept(shelf),
            lambda values, reference: "",
            shelf.chooser.presets,
            lambda: page_offer.page_offer(shelf),
            lambda: presets.foreign(shelf),
            lambda: shelf.told,
        )
        for tab in ("txt2img", "img2img"):
            panel.build_panel(tab, panel.Parts(accordion, lambda text, elem_id: gr.Button(text)), actions)
        views.build_page(house.House(shelf.host.vae_folders, lambda: [root / "models"], shelf.host.data_folder()))

    built: list[list[float]] = []
    for _ in range(rounds):
        with gr.Blocks(analytics_enabled=False):
            begun = now()
            build()
            built.append(since(begun))
    print(json.dumps({"imports": imported, "build": built}))


if __name__ == "__main__":
    main()
