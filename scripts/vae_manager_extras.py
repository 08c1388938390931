"""The Extras tab's entry: the panel there, and the call. What is done stands in `vae_manager/webui/extras.py`."""

from __future__ import annotations

import logging

import gradio as gr
from modules import scripts_postprocessing
from modules.ui_components import InputAccordion

from vae_manager.webui import extras
from vae_manager.webui.record import COLOR_KEY

log = logging.getLogger("vae_manager")


class VaeManagerColor(scripts_postprocessing.ScriptPostprocessing):
    name = "VAE Manager colour"
    order = 4000  # after upscaling and face restoration

    def ui(self):
        with InputAccordion(False, label=self.name, elem_id="vae_manager_extras") as enable:
            gr.HTML("Finds out whether a picture is washed out, and corrects only what is.")
            strength = gr.Slider(0, 1, 1.0, step=0.05, label="Strength", elem_id="vae_manager_extras_strength")
            with gr.Row():
                contrast = gr.Slider(0.5, 2, 1.0, step=0.01, label="Contrast", elem_id="vae_manager_extras_contrast")
                brightness = gr.Slider(
                    -0.5, 0.5, 0.0, step=0.01, label="Brightness", elem_id="vae_manager_extras_brightness"
                )
                saturation = gr.Slider(
                    0, 2, 1.0, step=0.01, label="Saturation", elem_id="vae_manager_extras_saturation"
                )
        return {
            "enable": enable,
            "strength": strength,
            "contrast": contrast,
            "brightness": brightness,
            "saturation": saturation,
        }

    def process(self, pp, enable=False, strength=1.0, contrast=1.0, brightness=0.0, saturation=1.0):
        if not enable:
            return
        try:
            pp.image, said = extras.correct_image(pp.image, strength, contrast, brightness, saturation)
        except Exception as error:
            log.exception("VAE Manager failed; the picture is left as it is")
            said = f"failed ({error}); the picture is left as it is"
        if said:
            pp.info[COLOR_KEY] = said
