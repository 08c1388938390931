"""The page's components: Gradio alone, in the parts that 3.41, 4.40 and the newest have in common.

Nothing is looked at before the page is opened, and nothing while it is idle: our script presses a hidden button when
the page comes into view for the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from vae_manager.errors import Interrupted
from vae_manager.page import colour_view, compare_view, decode_view, library_view, models_view
from vae_manager.page.house import House
from vae_manager.page.markup import line
from vae_manager.page.work import Stoppable, Tell

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
    """The first look: names at once, then what their headers say, and last what the other views offer."""

    def names() -> str:
        return library_view.library_html(library_view.quick_rows(house.vaes()))

    def whole() -> str:
        return library_view.library_html(library_view.rows(house, house.vaes()))

    def offered() -> list[Any]:
        vaes = [file.name for file in house.vaes() if file.name.isprintable()]
        checkpoints = gr.update(choices=models_view.checkpoint_names(house))
        return [*(gr.update(choices=vaes) for _ in lists), models_view.rules_text(house), checkpoints]

    looked = opened.click(names, [], [shown]).then(whole, [], [shown])
    looked.then(offered, [], [*lists, rules, tried], show_progress="hidden")


def _library(house: House) -> Any:
    with gr.Row(elem_classes=["vae-manager-row"]):
        gr.HTML(SEARCH, elem_id=named("search"))
        refresh = gr.Button("Look again", size="sm", elem_id=named("refresh"))
        stop = _stop_button("library_stop", size="sm")
    shown = gr.HTML("", elem_id=named("library"))
    details = gr.HTML("", elem_id=named("details"))
    dropped = gr.File(label="Drop a file here to see what it is", height=140, elem_id=named("dropped"))
    name = gr.Textbox("", label="VAE", elem_id=named("name"), elem_classes=["vae-manager-hidden"])
    look = gr.Button("Details", elem_id=named("look"), elem_classes=["vae-manager-hidden"])

    def again(tell: Tell) -> tuple[str, str]:
        return "", library_view.library_html(library_view.rows(house, house.vaes(), tell))

    def inspect(tell: Tell, chosen: str) -> str:
        return library_view.details_html(house, chosen, tell)

    def inspect_dropped(tell: Tell, given: Any) -> str:
        return library_view.dropped_html(house, _path(given) or "", tell)

    work = Stoppable()
    _long(refresh.click, stop, work, again, [], [details, shown], [gr.update()])
    _long(look.click, stop, work, inspect, [name], [details])
    _long(dropped.upload, stop, work, inspect_dropped, [dropped], [details])
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
                stop = _stop_button("compare_stop")
    out = gr.HTML("", elem_id=named("comparison"))

    def run(tell: Tell, chosen: list[str], given: Any, longer: int, file: Any) -> str:
        return compare_view.compare(house, chosen or [], given, int(longer), _path(file), tell)

    _long(start.click, stop, Stoppable(), run, [names, image, side, latent], [out])
    return names


def _models(house: House) -> None:
    with gr.Row(elem_classes=["vae-manager-row"]):
        asked = gr.Radio(list(models_view.FILTERS), value="all", label="Show", elem_id=named("filter"))
        look = gr.Button("Look at all checkpoints", variant="primary", elem_id=named("models_look"))
        stop = _stop_button("models_stop")
    out = gr.HTML("", elem_id=named("models"))
    rows = gr.State([])

    def show(kept: list[models_view.Row], wanted: str) -> str:
        return models_view.models_html(kept, wanted) if kept else ""

    def run(tell: Tell, wanted: str) -> tuple[str, list[models_view.Row]]:
        found = models_view.rows(house, tell)
        return models_view.models_html(found, wanted), found

    _long(look.click, stop, Stoppable(), run, [asked], [out, rows], [[]])
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
        stop = _stop_button("try_stop")
    out = gr.HTML("", elem_id=named("plans"))
    asked = [name, width, height, device]
    plan.click(lambda *given: decode_view.plan_html(house, *given), asked, [out])

    def run(tell: Tell, *given: Any) -> str:
        return decode_view.plan_html(house, *given, run=True, tell=tell)

    _long(start.click, stop, Stoppable(), run, asked, [out])
    return name


def _stop_button(name: str, **how: Any) -> Any:
    """It can be pressed only while there is something to stop."""
    return gr.Button("Stop", interactive=False, elem_id=named(name), **how)


def _long(
    begin: Callable[..., Any],
    stop: Any,
    work: Stoppable,
    run: Callable[..., Any],
    inputs: list[Any],
    out: list[Any],
    stopped: Sequence[Any] = (),
) -> None:
    """Work that takes a while: the page shows how far it is, and it can be stopped.

    Args:
        begin: the event that it begins with, as `button.click`.
        stop: its button.
        run: gets what it tells first, and gives HTML or, where `out` has several, a tuple that begins with HTML.
        out: the first is HTML.
        stopped: what the others get where it is stopped.
    """

    def worked(tell: Any = gr.Progress(), *given: Any) -> Any:  # noqa: B008 - Gradio knows it by its default
        try:
            with work.running(tell) as told:
                return run(told, *given)
        except Interrupted:
            said = line("Stopped.")
            return (said, *stopped) if stopped else said

    begun = begin(lambda: gr.update(interactive=True), [], [stop], queue=False)
    begun.then(worked, inputs, out).then(lambda: gr.update(interactive=False), [], [stop], queue=False)
    stop.click(work.stop, [], [], queue=False)


def _path(given: Any) -> str | None:
    """Where an uploaded file lies: 3.41 gives an object, later ones its path."""
    return None if given is None else str(getattr(given, "name", given))
