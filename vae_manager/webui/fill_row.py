"""The part of the panel that fills the page: the offer with its buttons, and what a preset is to keep of the page.

Built from Gradio alone, in the parts that 3.41 and 4.40 have in common. The row with the offer is hidden by
`style.css` while there is none, for Gradio cannot hide it when a page is loaded.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vae_manager.selection.page_fields import PAGE_FIELDS
from vae_manager.webui.page_offer import PageOffer, fill
from vae_manager.webui.with_the_page import WithThePage


def offered_html(text: str) -> str:
    """The line of the row, which is there only with a text."""
    return f'<p class="vae-manager-offered">{html.escape(text)}</p>' if text else ""


@dataclass(frozen=True)
class OfferRow:
    """The row above the presets."""

    line: Any
    apply: Any
    undo: Any
    before: Any
    """A state: what stood on the page before it was filled."""
    seen: Any
    """The checkpoint that the page was last filled or asked for, by name; hidden."""

    def components(self) -> tuple[Any, ...]:
        return (self.line, self.apply, self.undo, self.seen)


def build_offer_row(tab: str, offer: Callable[[], PageOffer]) -> OfferRow:
    """Build the row into the Gradio context that is open."""

    def named(name: str) -> str:
        return f"vae_manager_{tab}_{name}"

    with gr.Row(equal_height=False, elem_classes=["vae-manager-row", "vae-manager-offer"]):
        said = gr.HTML(WithThePage(lambda: offered_html(offer().sentence)), elem_id=named("offer"))
        apply = gr.Button("Fill in", size="sm", elem_id=named("apply"))
        undo = gr.Button("Undo", size="sm", visible=False, elem_id=named("undo"))
        seen = gr.Textbox(WithThePage(lambda: offer().checkpoint), visible=False, elem_id=named("seen"))
    return OfferRow(said, apply, undo, gr.State({}), seen)


@dataclass(frozen=True)
class Keeping:
    """What a preset is to keep of the page."""

    ticks: Any
    by_itself: Any

    def components(self) -> tuple[Any, ...]:
        return (self.ticks, self.by_itself)


def build_keeping(tab: str) -> Keeping:
    """Build the ticks into the Gradio context that is open."""
    choices = [(field.label, name) for name, field in PAGE_FIELDS.items()]
    ticks = gr.CheckboxGroup(choices, value=[], label="Save with it, as they stand", elem_id=f"vae_manager_{tab}_ticks")
    by_itself = gr.Checkbox(
        False, label="Fill in by itself when this checkpoint is chosen", elem_id=f"vae_manager_{tab}_by_itself"
    )
    return Keeping(ticks, by_itself)


def connect_row(
    row: OfferRow, keeping: Keeping, follow: Any, offer: Callable[[], PageOffer], page: Mapping[str, Any]
) -> None:
    """Connect the row with the page's own components.

    Args:
        follow: the button that our script presses when another checkpoint was chosen.
        page: the components, by the fields' names.
    """
    names = [name for name in PAGE_FIELDS if name in page]
    fields = [page[name] for name in names]
    keeping.ticks.choices = [(PAGE_FIELDS[name].label, name) for name in names]

    def filled(values: Mapping[str, Any], now: Sequence[Any]) -> list[Any]:
        done = fill(values, page, dict(zip(names, now)))
        updates = [gr.update(value=done.now[name]) if name in done.now else gr.update() for name in names]
        return [offered_html(done.sentence), gr.update(visible=bool(done.now)), dict(done.before), *updates]

    def followed(seen: str, before: Any, *now: Any) -> list[Any]:
        found = offer()
        ticked = [gr.update(value=[name for name in names if name in found.values and found.of == "preset"]),
                  gr.update(value=found.ticked)]  # fmt: skip
        if found.checkpoint == seen:  # our script looks twice
            return [gr.update(), gr.update(), before, *(gr.update() for _ in names), seen, gr.update(), gr.update()]
        if found.by_itself:
            return [*filled(found.values, now), found.checkpoint, *ticked]
        line, undo = offered_html(found.sentence), gr.update(visible=False)
        return [line, undo, {}, *(gr.update() for _ in names), found.checkpoint, *ticked]

    def undone(before: Mapping[str, Any]) -> list[Any]:
        back = [gr.update(value=before[name]) if name in before else gr.update() for name in names]
        return [offered_html(offer().sentence), gr.update(visible=False), {}, *back]

    shown = [row.line, row.undo, row.before, *fields]
    quiet = {"show_progress": "hidden"}
    row.apply.click(lambda *now: filled(offer().values, now), fields, shown, **quiet)
    row.undo.click(undone, [row.before], shown, **quiet)
    follow.click(followed, [row.seen, row.before, *fields], [*shown, row.seen, *keeping.components()], **quiet)
