"""The panel: one accordion in txt2img and in img2img, whose header is the switch.

Built from Gradio alone, in the parts that 3.41 and 4.40 have in common. What only a WebUI has, its
`InputAccordion` and its small tool buttons, is handed in, so that the same panel stands in tests and on a page
of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vae_manager.selection.decision import ADJUST_RANGES, AUTOMATIC, BAKED, SAME, Adjust, Step
from vae_manager.selection.presets import Presets
from vae_manager.webui.infotext import KEY
from vae_manager.webui.preset_list import build_preset_list
from vae_manager.webui.settings import COLOR, DECODE, PanelSettings, from_arguments
from vae_manager.webui.trace import line, trace_html


@dataclass(frozen=True)
class Panel:
    """The components whose values become the arguments of a job, in the order of `PanelSettings`."""

    enabled: Any
    vae: Any
    encode_vae: Any
    hires_vae: Any
    decode: Any
    color: Any
    color_strength: Any
    contrast: Any
    brightness: Any
    saturation: Any
    reference: Any

    def arguments(self) -> list[Any]:
        return list(vars(self).values())


@dataclass(frozen=True)
class Parts:
    """What the host brings to the panel."""

    accordion: Callable[..., Any]
    """Called with (open, label=, elem_id=); a context manager that is also the on/off component."""
    tool_button: Callable[..., Any]


@dataclass(frozen=True)
class Actions:
    """What the panel can do. What returns a text returns one line of it, plain."""

    names: Callable[[bool], Sequence[str]]
    """The VAE files' names; called with True it looks at the disk again."""
    about: Callable[[str], tuple[str, Sequence[Step]]]
    """What one choice of VAE means, and how it is decided on what the loaded checkpoint gets with it."""
    save: Callable[[PanelSettings], str]
    """Keep these settings as the preset of the checkpoint that is loaded."""
    forget: Callable[[], str]
    """Remove that preset."""
    calibrate: Callable[[PanelSettings, str], str]
    """Measure the colours of the last pictures' VAE against a reference VAE, by name."""
    presets: Presets
    """All presets, for their list."""


def build_panel(tab: str, parts: Parts, actions: Actions) -> Panel:
    """Build the panel of one tab.

    Args:
        tab: 'txt2img' or 'img2img'; part of every element's id.
    """

    def named(name: str) -> str:
        return f"vae_manager_{tab}_{name}"

    def vae_list(first: str, label: str, name: str) -> Any:
        return gr.Dropdown(
            choices=_choices(first, actions.names(False)),
            value=first,
            label=label,
            allow_custom_value=True,  # a pasted picture may name a VAE that is not here
            elem_id=named(name),
        )

    def chosen(choice: str | None, said: str | None = None) -> str:
        """The panel's line, the choice's own unless another is given, and below it how the choice is decided."""
        meaning, steps = actions.about(choice or AUTOMATIC)
        return line(meaning if said is None else said) + trace_html(steps)

    with parts.accordion(False, label=KEY, elem_id=f"vae_manager_{tab}") as enabled:
        with gr.Row(elem_classes=["vae-manager-row"]):
            vae = vae_list(AUTOMATIC, "VAE", "vae")
            refresh = parts.tool_button("\U0001f504", elem_id=named("refresh"))
        about = gr.HTML(lambda: chosen(AUTOMATIC), elem_id=named("about"))  # with the page: a model may be loaded then
        with gr.Row():
            encode_vae = vae_list(SAME, "VAE for encoding", "encode_vae")
            hires_vae = vae_list(SAME, "VAE for the hires pass", "hires_vae")
        with gr.Row():
            decode = gr.Radio(list(DECODE), value="auto", label="Decode", elem_id=named("decode"))
            color = gr.Radio(list(COLOR), value="off", label="Colour", elem_id=named("color"))
            strength = gr.Slider(0, 1, 1.0, step=0.05, label="Colour strength", elem_id=named("color_strength"))
        with gr.Row(visible=False) as by_hand:
            contrast, brightness, saturation = (
                gr.Slider(*ADJUST_RANGES[key], getattr(Adjust, key), step=0.01, label=key.title(), elem_id=named(key))
                for key in ADJUST_RANGES
            )
        with gr.Row(visible=False) as to_match:
            label = "Picture to match (none: the one that img2img begins with)"
            picture = gr.Image(type="pil", label=label, height=200, elem_id=named("match"))
        with gr.Row():
            save = gr.Button("Save for this checkpoint", size="sm", elem_id=named("save"))
            forget = gr.Button("Forget what is saved", size="sm", elem_id=named("forget"))
        with gr.Row(equal_height=False):
            reference = vae_list(BAKED, "Reference VAE for colours", "reference")
            calibrate = gr.Button("Calibrate colours", size="sm", elem_id=named("calibrate"))
        kept = build_preset_list(tab, parts.tool_button, actions.presets)
    panel = Panel(
        enabled, vae, encode_vae, hires_vae, decode, color, strength, contrast, brightness, saturation, picture
    )
    for component in (*panel.arguments()[1:], refresh, about, save, forget, reference, calibrate, *kept.components):
        component.do_not_save_to_config = True  # the list of files changes; a saved value would go stale

    def refreshed(choice: str) -> list[Any]:
        names = actions.names(True)
        lists = [gr.update(choices=_choices(first, names)) for first in (AUTOMATIC, SAME, SAME, BAKED)]
        return [*lists, chosen(choice)]  # the checkpoint may be another now

    vae.change(chosen, [vae], [about], show_progress="hidden")
    refresh.click(refreshed, [vae], [vae, encode_vae, hires_vae, reference, about], show_progress="hidden")
    color.change(
        lambda mode: [gr.update(visible=mode == "manual"), gr.update(visible=mode == "match")],
        [color],
        [by_hand, to_match],
        show_progress="hidden",
    )
    settings = panel.arguments()

    def button(pressed: Any, does: Callable[..., str], inputs: Sequence[Any], **how: Any) -> Any:
        """Have a button's line shown, with the trace as it is after what the button did."""
        return pressed.click(lambda choice, *given: chosen(choice, does(*given)), [vae, *inputs], [about], **how)

    saved = button(save, lambda *given: actions.save(from_arguments(given)), settings, show_progress="hidden")
    forgotten = button(forget, actions.forget, [], show_progress="hidden")
    for done in (saved, forgotten):
        done.then(kept.read, [], [*kept.shown], show_progress="hidden")
    button(calibrate, lambda other, *given: actions.calibrate(from_arguments(given), other), [reference, *settings])
    return panel


def _choices(first: str, names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([first, BAKED, *names]))
