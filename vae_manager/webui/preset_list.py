"""The panel's list of saved presets: what is kept for which checkpoint, take one away, carry all elsewhere and back.

Built from Gradio alone, in the parts that 3.41 and 4.40 have in common. The list is read anew with the page and after
each of its buttons; what another page or process has changed meanwhile is noticed, never overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from vae_manager.selection.foreign import Foreign
from vae_manager.selection.presets import Presets
from vae_manager.webui.kept_presets import (
    export_file,
    foreign_html,
    import_file,
    labels,
    presets_html,
    remove_one,
    take_foreign,
)
from vae_manager.webui.trace import line
from vae_manager.webui.with_the_page import WithThePage


@dataclass(frozen=True)
class PresetList:
    """The list on the page."""

    shown: tuple[Any, ...]
    """The components that `read` gives new values."""
    components: tuple[Any, ...]
    """All of them."""
    read: Callable[[], list[Any]]
    """What is kept now."""


def build_preset_list(
    tab: str, tool_button: Callable[..., Any], presets: Presets, foreign: Callable[[], Sequence[Foreign]]
) -> PresetList:
    """Build the list into the Gradio context that is open.

    Args:
        tab: 'txt2img' or 'img2img'; part of every element's id.
        tool_button: the host's small button.
        foreign: what the WebUI keeps of its own, to be taken over.
    """

    def named(name: str) -> str:
        return f"vae_manager_{tab}_presets_{name}"

    def read() -> list[Any]:
        return [presets_html(presets), gr.update(choices=list(labels(presets)), value=None)]

    with gr.Accordion("Saved presets", open=False, elem_id=named("group")):
        kept = gr.HTML(WithThePage(lambda: presets_html(presets)), elem_id=named("kept"))
        with gr.Row(equal_height=False, elem_classes=["vae-manager-row"]):
            chosen = gr.Dropdown(list(labels(presets)), label="Preset of", elem_id=named("chosen"))
            refresh = tool_button("\U0001f504", elem_id=named("refresh"))
            remove = gr.Button("Remove it", size="sm", elem_id=named("remove"))
        with gr.Row(equal_height=False):
            export = gr.Button("Export all", size="sm", elem_id=named("export"))
            upload = gr.UploadButton("Import a file", file_types=[".json"], size="sm", elem_id=named("import"))
            replace_own = gr.Checkbox(False, label="Imported ones replace my own", elem_id=named("replace"))
        with gr.Row(equal_height=False):
            look = gr.Button("Look for the WebUI's own", size="sm", elem_id=named("look"))
            take = gr.Button("Take these over", size="sm", visible=False, elem_id=named("take"))
        others = gr.HTML("", elem_id=named("others"))
        said = gr.HTML("", elem_id=named("said"))
        file = gr.File(label="All presets", visible=False, elem_id=named("file"))
    shown = (kept, chosen)

    refresh.click(read, [], [*shown], show_progress="hidden")
    remove.click(lambda label: [line(remove_one(presets, label)), *read()], [chosen], [said, *shown])
    export.click(lambda: _exported(presets), [], [said, file])
    upload.upload(
        lambda given, own: [line(import_file(presets, Path(getattr(given, "name", given)), own)), *read()],
        [upload, replace_own],
        [said, *shown],
    )

    def looked() -> list[Any]:
        found = foreign()
        return [foreign_html(found), gr.update(visible=bool(found))]

    def taken() -> list[Any]:
        return [line(take_foreign(presets, foreign())), "", gr.update(visible=False), *read()]

    look.click(looked, [], [others, take])
    take.click(taken, [], [said, others, take, *shown])
    buttons = (refresh, remove, export, upload, replace_own, look, take)
    return PresetList(shown, (*shown, *buttons, others, said, file), read)


def _exported(presets: Presets) -> list[Any]:
    sentence, path = export_file(presets)
    return [line(sentence), gr.update(value=str(path) if path else None, visible=path is not None)]
