"""The panel: one accordion in txt2img and in img2img, whose header is the switch.

Built from Gradio alone, in the parts that 3.41 and 4.40 have in common. What only a WebUI has, its
`InputAccordion` and its small tool buttons, is handed in, so that the same panel stands in tests and on a page
of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vae_manager.selection.decision import AUTOMATIC, BAKED, Step
from vae_manager.selection.foreign import Foreign
from vae_manager.selection.page_fields import PAGE_FIELDS
from vae_manager.selection.presets import Presets
from vae_manager.selection.settings import TABLE, PanelSettings, Setting
from vae_manager.webui.arguments import from_arguments
from vae_manager.webui.fill_row import build_keeping, build_offer_row, connect_row, offered_html
from vae_manager.webui.infotext import KEY
from vae_manager.webui.offers import Offer, offers_html
from vae_manager.webui.page_offer import PageOffer, PageWish
from vae_manager.webui.preset_list import build_preset_list
from vae_manager.webui.trace import line, told, trace_html
from vae_manager.webui.with_the_page import WithThePage

_ID = {"reference": "match"}
"""Where an element is not called like its setting."""


@dataclass(frozen=True)
class Panel:
    """The components whose values become the arguments of a job."""

    settings: Mapping[str, Any]
    """By the settings' names, in the table's order."""
    connect: Callable[[Mapping[str, Any]], None]
    """To be called once, with the page's own components by the names of the fields that presets fill, while the page is
    built: the buttons that keep and fill do nothing before."""

    def arguments(self) -> list[Any]:
        return list(self.settings.values())


@dataclass(frozen=True)
class Parts:
    """What the host brings to the panel."""

    accordion: Callable[..., Any]
    """Called with (open, label=, elem_id=); a context manager that is also the on/off component."""
    tool_button: Callable[..., Any]


@dataclass(frozen=True)
class Actions:
    """What the panel can do. What returns a text returns one line of it, plain."""

    offers: Callable[[bool], Sequence[Offer]]
    """The VAE files, those that fit first; called with True it looks at the disk again."""
    about: Callable[[str], tuple[str, Sequence[Step]]]
    """What one choice of VAE means, and how it is decided on what the loaded checkpoint gets with it."""
    save: Callable[[PanelSettings, PageWish], str]
    """Keep these settings, and what is wished of the page, as the preset of the checkpoint that is loaded."""
    forget: Callable[[], str]
    """Remove that preset."""
    is_kept: Callable[[], bool]
    """Whether that checkpoint has one."""
    calibrate: Callable[[PanelSettings, str], str]
    """Measure the colours of the last pictures' VAE against a reference VAE, by name."""
    presets: Presets
    """All presets, for their list."""
    offer: Callable[[], PageOffer]
    """What the page is offered for the checkpoint that comes next."""
    foreign: Callable[[], Sequence[Foreign]]
    """What the WebUI keeps of its own for checkpoints without a preset."""
    last: Callable[[], str]
    """How the last picture was made; empty where there is none of ours."""


def build_panel(tab: str, parts: Parts, actions: Actions) -> Panel:
    """Build the panel of one tab.

    Args:
        tab: 'txt2img' or 'img2img'; part of every element's id.
    """

    def named(name: str) -> str:
        return f"vae_manager_{tab}_{name}"

    built: dict[str, Any] = {}

    def build(*settings: Setting) -> None:
        for setting in settings:
            built[setting.name] = component(setting, named(_ID.get(setting.name, setting.name)))

    def chosen(choice: str | None, said: str | None = None) -> str:
        """The panel's line, the choice's own unless another is given, and below it how the choice is decided."""
        meaning, steps = actions.about(choice or AUTOMATIC)
        return line(meaning if said is None else said) + trace_html(steps)

    def starred() -> str:
        return "\u2605" if actions.is_kept() else "\u2606"

    with parts.accordion(False, label=KEY, elem_id=f"vae_manager_{tab}") as enabled:
        built["enabled"] = enabled
        first, *others = vae_settings = [setting for setting in TABLE.values() if setting.kind == "vae"]
        choices = [setting for setting in TABLE.values() if setting.kind == "choice"]
        modes = [setting for setting in choices if not setting.aside]
        with gr.Row(elem_classes=["vae-manager-row"]):
            build(first)
            refresh = parts.tool_button("\U0001f504", elem_id=named("refresh"))
            star = parts.tool_button(WithThePage(starred, "\u2606"), elem_id=named("star"))
        vae = built[first.name]
        about = gr.HTML(WithThePage(lambda: chosen(AUTOMATIC), line("\u2026")), elem_id=named("about"))
        with gr.Row():
            build(*modes)
        for mode in modes:
            _rows_of(mode, built, build)
        with gr.Accordion("More", open=False, elem_id=named("more")):
            with gr.Row():
                build(*others)
                build(*(setting for setting in choices if setting.aside))
            with gr.Row(elem_classes=["vae-manager-row"]):
                reference = vae_list(BAKED, "Reference VAE for colours", named("reference"))
                calibrate = gr.Button("Calibrate colours", size="sm", elem_id=named("calibrate"))
            for_page = gr.HTML(WithThePage(lambda: offers_html(actions.offers(False))), elem_id=named("names"))
            # pressed by our script: in Gradio 4.40 an HTML's `change` comes without end
            files = gr.Button("Look again", visible=False, elem_id=named("files"))
            follow = gr.Button("Follow the checkpoint", visible=False, elem_id=named("follow"))
            made = gr.Button("Look at the last picture", visible=False, elem_id=named("made"))
        row = build_offer_row(tab, actions.offer)
        with gr.Accordion("Presets", open=False, elem_id=named("preset")):
            keeping = build_keeping(tab)
            with gr.Row(elem_classes=["vae-manager-row"]):
                save = gr.Button("Save for this checkpoint", size="sm", elem_id=named("save"))
                forget = gr.Button("Forget what is saved", size="sm", elem_id=named("forget"))
            kept = build_preset_list(tab, parts.tool_button, actions.presets, actions.foreign)
        last = gr.HTML(
            WithThePage(lambda: told(actions.last())), elem_id=named("last"), elem_classes=["vae-manager-last"]
        )
    settings = [built[name] for name in TABLE]
    lists = [*(built[one.name] for one in vae_settings), reference]
    buttons = (refresh, star, files, follow, made, save, forget, calibrate)
    parts_of_page = (*row.components(), *keeping.components(), *kept.components)
    for one in (*settings[1:], *buttons, about, last, reference, for_page, *parts_of_page):
        one.do_not_save_to_config = True  # the list of files changes; a saved value would go stale

    def read(choice: str, again: bool) -> list[Any]:
        offers = actions.offers(again)
        return [*listed(offers), offers_html(offers), chosen(choice), starred()]  # the checkpoint may be another now

    def listed(offers: Sequence[Offer]) -> list[Any]:
        names = [offer.name for offer in offers]
        firsts = (*(one.default for one in vae_settings), BAKED)
        return [gr.update(choices=_choices(first, names)) for first in firsts]

    files.click(lambda: listed(actions.offers(False)), [], lists, show_progress="hidden")
    vae.change(chosen, [vae], [about], show_progress="hidden")
    for pressed, again in ((refresh, True), (follow, False)):
        does = functools.partial(read, again=again)
        pressed.click(does, [vae], [*lists, for_page, about, star], show_progress="hidden")

    def button(pressed: Any, does: Callable[..., str], inputs: Sequence[Any], **how: Any) -> Any:
        """Have a button's line shown, with the trace as it is after what the button did."""
        answer = lambda choice, *given: [chosen(choice, does(*given)), starred()]  # noqa: E731
        return pressed.click(answer, [vae, *inputs], [about, star], **how)

    def connect(page: Mapping[str, Any]) -> None:
        names = [name for name in PAGE_FIELDS if name in page]
        inputs = [*settings, *keeping.components(), *(page[name] for name in names)]

        def keep(*given: Any) -> str:
            ticks, by_itself, *now = given[len(settings) :]
            wish = PageWish(tuple(ticks), dict(zip(names, now)), bool(by_itself))
            return actions.save(from_arguments(given[: len(settings)]), wish)

        def turn(*given: Any) -> str:
            return actions.forget() if actions.is_kept() else keep(*given)

        for pressed, does, read_from in ((save, keep, inputs), (forget, actions.forget, []), (star, turn, inputs)):
            done = button(pressed, does, read_from, show_progress="hidden")
            after = lambda: [*kept.read(), offered_html(actions.offer().sentence)]  # noqa: E731
            done.then(after, [], [*kept.shown, row.line], show_progress="hidden")
        connect_row(row, keeping, follow, actions.offer, page)

    button(calibrate, lambda other, *given: actions.calibrate(from_arguments(given), other), [reference, *settings])

    made.click(lambda: told(actions.last()), [], [last], show_progress="hidden")
    return Panel({name: built[name] for name in TABLE}, connect)


def component(setting: Setting, elem_id: str) -> Any:
    """The component of one setting, anywhere on the page."""
    if setting.kind == "vae":
        return vae_list(setting.default, setting.label, elem_id)
    if setting.kind == "choice":
        return gr.Radio(list(setting.choices), value=setting.default, label=setting.label, elem_id=elem_id)
    if setting.kind == "picture":
        return gr.Image(type="pil", label=setting.label, height=200, elem_id=elem_id)
    return slider(setting, setting.label, elem_id)


def slider(setting: Setting, label: str, elem_id: str) -> Any:
    """A number's slider."""
    return gr.Slider(setting.least, setting.most, setting.default, step=setting.step, label=label, elem_id=elem_id)


def vae_list(first: str, label: str, elem_id: str) -> Any:
    """A list of VAEs, with what may be chosen instead of a file at its top; our script has the files come as the page
    is opened."""
    return gr.Dropdown(
        choices=_choices(first, ()),
        value=first,
        label=label,
        allow_custom_value=True,  # a pasted picture may name a VAE that is not here
        elem_id=elem_id,
    )


def _rows_of(mode: Setting, built: Mapping[str, Any], build: Callable[..., None]) -> None:
    """Rows for what belongs to a mode, each there only while it means something: beside one value of the mode, or
    beside every value but the default."""
    rows: dict[str | None, Any] = {}
    owned = [one for one in TABLE.values() if one.of == mode.name]
    for value in dict.fromkeys(one.mode for one in owned):
        with gr.Row(visible=False) as rows[value]:
            build(*(one for one in owned if one.mode == value))
    if rows:
        built[mode.name].change(
            lambda now: [gr.update(visible=now == value if value else now != mode.default) for value in rows],
            [built[mode.name]],
            [*rows.values()],
            show_progress="hidden",
        )


def _choices(first: str, names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([first, BAKED, *names]))
