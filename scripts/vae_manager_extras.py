"""The Extras tab's entry: the panel there, and the call. What is done stands in `vae_manager/webui/extras.py`."""

# the host calls these, and types nothing
# pyright: basic, reportMissingImports=false
from __future__ import annotations

import logging

import gradio as gr
from modules import scripts_postprocessing
from modules.ui_components import InputAccordion

from vae_manager.selection.settings import BY_HAND, STRENGTH
from vae_manager.webui import extras
from vae_manager.webui.panel import slider
from vae_manager.webui.record import COLOR_KEY

log = logging.getLogger("vae_manager")


class VaeManagerColor(scripts_postprocessing.ScriptPostprocessing):
    name = "VAE Manager colour"
    order = 4000  # after upscaling and face restoration

    def ui(self):
        with InputAccordion(False, label=self.name, elem_id="vae_manager_extras") as enable:
            gr.HTML("Finds out whether a picture is washed out, and corrects only what is.")
            strength = slider(STRENGTH, "Strength", "vae_manager_extras_strength")
            with gr.Row():
                by_hand = {one.name: slider(one, one.label, f"vae_manager_extras_{one.name}") for one in BY_HAND}
        return {"enable": enable, "strength": strength, **by_hand}

    def process(self, pp, enable=False, strength=1.0, **by_hand):
        if not enable:
            return
        try:
            pp.image, said = extras.correct_image(pp.image, strength, **by_hand)
        except Exception as error:
            log.exception("VAE Manager failed; the picture is left as it is")
            said = f"failed ({error}); the picture is left as it is"
        if said:
            pp.info[COLOR_KEY] = said
