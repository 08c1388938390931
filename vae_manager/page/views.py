"""The page's components: Gradio alone, in the parts that 3.41, 4.40 and the newest have in common.

Nothing is looked at before the page is opened, and nothing while it is idle: our script presses a hidden button when
the page comes into view for the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from vae_manager.page import colour_view, compare_view, decode_view, library_view, models_view
from vae_manager.page.house import House, Tell

_FOR, _HINT = "Search the library", "name, kind, family …"

SEARCH = (
    f'<label class="vae-manager-search">Search <input type="search" aria-label="{_FOR}" placeholder="{_HINT}"></label>'
)


def named(name: str) -> str:
    return f"vae_manager_page_{name}"


def build_page(house: House) -> None:
    """Build all views into the Gradio context that is open."""
    with gr.Column(elem_id=named("root"), elem_classes=["vae-manager-page"]):
        opened = gr.Button("Open", elem_id=named("open"), elem_classes=["vae-manager-hidden"])
        lists: list[Any] = []
        with gr.Tabs():
            with gr.Tab("Library"):
                shown = _library(house)
            with gr.Tab("Compare"):
                lists.append(_compare(house))
            with gr.Tab("Models"):
                _models(house)
            with gr.Tab("Rules"):
                rules, tried = _rules(house)
            with gr.Tab("Colour"):
                _colour()
            with gr.Tab("Decode"):
                lists.append(_decode(house))
    _open(house, opened, shown, lists, rules, tried)


def _open(house: House, opened: Any, shown: Any, lists: list[Any], rules: Any, tried: Any) -> None:
    """The first look: names at once, then what their headers say."""

    def first() -> list[Any]:
        files = house.vaes()
        names = [file.name for file in files if file.name.isprintable()]
        checkpoints = gr.update(choices=models_view.checkpoint_names(house))
        found = library_view.quick_rows(files)
        filled = [gr.update(choices=names) for _ in lists]
        return [library_view.library_html(found), *filled, models_view.rules_text(house), checkpoints]

    def whole() -> str:
        return library_view.library_html(library_view.rows(house, house.vaes()))

    opened.click(first, [], [shown, *lists, rules, tried]).then(whole, [], [shown])


def _library(house: House) -> Any:
    with gr.Row(elem_classes=["vae-manager-row"]):
        gr.HTML(SEARCH, elem_id=named("search"))
        refresh = gr.Button("Look again", size="sm", elem_id=named("refresh"))
    shown = gr.HTML("", elem_id=named("library"))
    details = gr.HTML("", elem_id=named("details"))
    dropped = gr.File(label="Drop a file here to see what it is", height=140, elem_id=named("dropped"))
    name = gr.Textbox("", label="VAE", elem_id=named("name"), elem_classes=["vae-manager-hidden"])
    look = gr.Button("Details", elem_id=named("look"), elem_classes=["vae-manager-hidden"])
    refresh.click(lambda: library_view.library_html(library_view.rows(house, house.vaes())), [], [shown])
    look.click(lambda chosen: library_view.details_html(house, chosen), [name], [details])
    dropped.upload(lambda given: library_view.dropped_html(house, _path(given) or ""), [dropped], [details])
    return shown


def _compare(house: House) -> Any:
    names = gr.Dropdown([], multiselect=True, label="VAEs, two to six", elem_id=named("compared"))
    with gr.Row(equal_height=False):
        image = gr.Image(type="pil", label="Picture", height=280, elem_id=named("compare_picture"))
        with gr.Column():
            side = gr.Radio(list(compare_view.SIDES), value=512, label="Longer side", elem_id=named("side"))
            latent = gr.File(label="or a latent file", height=140, elem_id=named("latent"))
            with gr.Row():
                start = gr.Button("Compare", variant="primary", elem_id=named("compare"))
                stop = gr.Button("Stop", elem_id=named("compare_stop"))
    out = gr.HTML("", elem_id=named("comparison"))

    def run(tell: Tell, chosen: list[str], given: Any, longer: int, file: Any) -> str:
        return compare_view.compare(house, chosen or [], given, int(longer), _path(file), tell)

    _long(start, stop, run, [names, image, side, latent], [out])
    return names


def _models(house: House) -> None:
    with gr.Row(elem_classes=["vae-manager-row"]):
        asked = gr.Radio(list(models_view.FILTERS), value="all", label="Show", elem_id=named("filter"))
        look = gr.Button("Look at all checkpoints", variant="primary", elem_id=named("models_look"))
        stop = gr.Button("Stop", elem_id=named("models_stop"))
    out = gr.HTML("", elem_id=named("models"))
    rows = gr.State([])

    def show(kept: list[models_view.Row], wanted: str) -> str:
        return models_view.models_html(kept, wanted) if kept else ""

    def run(tell: Tell, wanted: str) -> tuple[str, list[models_view.Row]]:
        found = models_view.rows(house, tell)
        return models_view.models_html(found, wanted), found

    _long(look, stop, run, [asked], [out, rows])
    asked.change(show, [rows, asked], [out])


def _rules(house: House) -> tuple[Any, Any]:
    text = gr.Textbox(
        "",
        lines=16,
        max_lines=40,
        label="Your rules, the first one first",
        info='A rule: {"when": {"name": "*anime*"}, "vae": "kl-f8-anime2"}. What else one can say: docs/rules.md.',
        elem_id=named("rules"),
    )
    with gr.Row():
        check = gr.Button("Check", elem_id=named("rules_check"))
        save = gr.Button("Save", variant="primary", elem_id=named("rules_save"))
    said = gr.HTML("", elem_id=named("rules_said"))
    with gr.Row(elem_classes=["vae-manager-row"]):
        tried = gr.Dropdown([], label="Try them on", elem_id=named("rules_on"))
        look = gr.Button("Try", size="sm", elem_id=named("rules_try"))
    trace = gr.HTML("", elem_id=named("rules_trace"))
    check.click(lambda given: models_view.check_rules(given)[1], [text], [said])
    save.click(lambda given: models_view.save_rules(house, given), [text], [said])
    look.click(lambda given, name: models_view.try_rules(house, given, name), [text, tried], [trace])
    return text, tried


def _colour() -> None:
    with gr.Row(equal_height=False):
        image = gr.Image(type="pil", label="Picture", height=280, elem_id=named("colour_picture"))
        with gr.Column():
            strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", elem_id=named("strength"))
            start = gr.Button("Look at it", variant="primary", elem_id=named("colour"))
    said = gr.HTML("", elem_id=named("colour_said"))
    out = gr.Image(type="pil", label="Corrected, to save", height=280, elem_id=named("colour_out"))
    start.click(colour_view.correct, [image, strength], [said, out])


def _decode(house: House) -> Any:
    name = gr.Dropdown([], label="VAE", elem_id=named("decode_vae"))
    with gr.Row():
        width = gr.Slider(64, 16384, 1024, step=64, label="Width", elem_id=named("decode_width"))
        height = gr.Slider(64, 16384, 1024, step=64, label="Height", elem_id=named("decode_height"))
        device = gr.Radio(list(decode_view.DEVICES), value="cpu", label="Device", elem_id=named("decode_device"))
    with gr.Row():
        plan = gr.Button("What would it take?", variant="primary", elem_id=named("plan"))
        start = gr.Button("Try it", elem_id=named("try"))
        stop = gr.Button("Stop", elem_id=named("try_stop"))
    out = gr.HTML("", elem_id=named("plans"))
    asked = [name, width, height, device]
    plan.click(lambda *given: decode_view.plan_html(house, *given), asked, [out])
    _long(start, stop, lambda tell, *given: decode_view.plan_html(house, *given, run=True, tell=tell), asked, [out])
    return name


def _long(start: Any, stop: Any, run: Callable[..., Any], inputs: list[Any], out: list[Any]) -> None:
    """Work that takes a while: the page shows how far it is, and it can be stopped. `run` gets what it tells first."""

    def work(tell: Any = gr.Progress(), *given: Any) -> Any:  # noqa: B008 - Gradio knows it by its default
        return run(tell, *given)

    running = start.click(work, inputs, out)
    stop.click(None, [], [], cancels=[running])


def _path(given: Any) -> str | None:
    """Where an uploaded file lies: 3.41 gives an object, later ones its path."""
    return None if given is None else str(getattr(given, "name", given))
