"""The panel: one accordion in txt2img and in img2img, whose header is the switch.

Built from Gradio alone, in the parts that 3.41 and 4.40 have in common. What only a WebUI has, its
`InputAccordion` and its small tool buttons, is handed in, so that the same panel stands in tests and on a page
of its own.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vae_manager.selection.decision import AUTOMATIC, BAKED
from vae_manager.webui.infotext import KEY


@dataclass(frozen=True)
class Panel:
    """The components whose values become the arguments of a job, in the order of `PanelSettings`."""

    enabled: Any
    vae: Any

    def arguments(self) -> list[Any]:
        return [self.enabled, self.vae]


@dataclass(frozen=True)
class Parts:
    """What the host brings to the panel."""

    accordion: Callable[..., Any]
    """Called with (open, label=, elem_id=); a context manager that is also the on/off component."""
    tool_button: Callable[..., Any]


def build_panel(
    tab: str,
    parts: Parts,
    names: Callable[[bool], Sequence[str]],
    describe: Callable[[str], str],
) -> Panel:
    """Build the panel of one tab.

    Args:
        tab: 'txt2img' or 'img2img'; part of every element's id.
        names: the VAE files' names; called with True it looks at the disk again.
        describe: what one choice means, as one line of plain text.
    """
    with parts.accordion(False, label=KEY, elem_id=f"vae_manager_{tab}") as enabled:
        with gr.Row(elem_classes=["vae-manager-row"]):
            vae = gr.Dropdown(
                choices=_choices(names(False)),
                value=AUTOMATIC,
                label="VAE",
                allow_custom_value=True,  # a pasted picture may name a VAE that is not here
                elem_id=f"vae_manager_{tab}_vae",
            )
            refresh = parts.tool_button("\U0001f504", elem_id=f"vae_manager_{tab}_refresh")
        about = gr.HTML(_line(describe(AUTOMATIC)), elem_id=f"vae_manager_{tab}_about")
    for component in (vae, refresh, about):
        component.do_not_save_to_config = True  # the list of files changes; a saved value would go stale
    vae.change(lambda choice: _line(describe(choice or AUTOMATIC)), [vae], [about], show_progress="hidden")
    refresh.click(lambda: gr.update(choices=_choices(names(True))), [], [vae], show_progress="hidden")
    return Panel(enabled, vae)


def _choices(names: Sequence[str]) -> list[str]:
    return [AUTOMATIC, BAKED, *names]


def _line(text: str) -> str:
    return f'<p class="vae-manager-about">{html.escape(text)}</p>'
