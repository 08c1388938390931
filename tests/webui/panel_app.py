"""The panel on a page of its own, in whichever Gradio runs this: python panel_app.py FOLDER PORT

The accordion and the tool button stand in for the host's, made of plain Gradio.
"""

from __future__ import annotations

import contextlib
import html
import json
import sys
import tempfile
from pathlib import Path

import gradio as gr
import numpy as np
from safetensors.numpy import save_file

from vae_manager.library.files import Folder, find_vaes
from vae_manager.library.hashing import HashCache
from vae_manager.selection.checkpoint import open_checkpoint
from vae_manager.selection.choose import Wishes, choose
from vae_manager.selection.facts import FactsCache
from vae_manager.selection.foreign import foreign_presets
from vae_manager.selection.names import VaeIndex
from vae_manager.selection.page_fields import page_values_of
from vae_manager.selection.presets import Preset, Presets, VaeWish
from vae_manager.selection.prompt_tags import vae_tag
from vae_manager.webui.describe import describe_choice
from vae_manager.webui.offers import offers_of
from vae_manager.webui.page_offer import PageOffer
from vae_manager.webui.panel import Actions, Parts, build_panel

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])
HASHES = HashCache(None)
LOADED = ["first.safetensors"]
"""The checkpoints that were chosen, the last one last."""
MADE = [""]
"""What is said of the pictures that were made, the last one last."""
PRESETS = Presets(FOLDER / "presets.json")
MODELS = Path(tempfile.mkdtemp(prefix="vae-manager-page-"))
for name, architecture in (("first", "stable-diffusion-v1"), ("second", "flux-1-dev")):
    said = {"modelspec.architecture": architecture, "modelspec.resolution": "1024x768"}
    (MODELS / f"{name}.json").write_text(json.dumps({"vae": "<b>one</b>"}))
    save_file({"x": np.zeros(1, np.float32)}, str(MODELS / f"{name}.safetensors"), said)


@contextlib.contextmanager
def accordion(value: bool, label: str, elem_id: str):
    """A checkbox beside an accordion: what the hosts' `InputAccordion` is inside."""
    checkbox = gr.Checkbox(value, label=f"{label} on", elem_id=f"{elem_id}-checkbox")
    with gr.Accordion(label, open=True, elem_id=elem_id):
        yield checkbox


def files():
    return find_vaes([Folder(FOLDER)])


def offers(refresh):
    """The second checkpoint is of another latent space than the first."""
    return offers_of(files(), FactsCache(), HASHES, open_checkpoint(MODELS / LOADED[-1]))


def cards():
    """Cards as the hosts make them: what a click does stands in the element, and calls a function of the host's."""
    rows = []
    for offer in offers(False):
        called = html.escape(f"cardClicked('txt2img', {json.dumps(vae_tag(offer.name))}, '', false);")
        name = html.escape(offer.name)
        rows.append(f'<div class="card" onclick="{called}" data-name="{name}"><span class="name">{name}</span></div>')
    return f'<div id="txt2img_vae_cards">{"".join(rows)}</div>'


def checkpoint():
    return open_checkpoint(MODELS / LOADED[-1])


def save(settings, page):
    found = PRESETS.find(checkpoint())
    kept = page.values(found.preset.page if found else {})
    PRESETS.save(
        checkpoint(),
        Preset(VaeWish(settings.vae), said={"decode": settings.decode}, page=kept, by_itself=page.by_itself),
    )
    return f"saved {settings.vae} {settings.decode}"


def forget():
    PRESETS.remove(checkpoint())
    return "forgotten"


def offer():
    found = PRESETS.find(checkpoint())
    if found is None:
        return PageOffer(LOADED[-1], page_values_of(checkpoint().facts.metadata), "metadata")
    kept = found.preset
    return PageOffer(LOADED[-1], kept.page, "preset", kept.by_itself, kept.by_itself)


def foreign():
    """Both checkpoints have a card."""
    places = {path.name: path for path in sorted(MODELS.glob("*.safetensors"))}
    return foreign_presets(places, open_checkpoint, VaeIndex(files(), HASHES), {}, PRESETS)


with gr.Blocks() as page:
    # the host's own, where our script looks for them
    checkpoints = gr.Dropdown([*LOADED, "second.safetensors"], value=LOADED[0], elem_id="setting_sd_model_checkpoint")
    checkpoints.change(LOADED.append, [checkpoints], [])
    prompt = gr.Textbox(lines=3, elem_id="txt2img_prompt")
    gr.HTML(cards, elem_id="txt2img_vae_cards_html")
    fields = {  # as the hosts have them
        "sampler": gr.Dropdown(["Euler", "Euler a"], value="Euler", elem_id="txt2img_sampling"),
        "steps": gr.Slider(1, 150, 20, step=1, elem_id="txt2img_steps"),
        "cfg": gr.Slider(1, 30, 7, step=0.5, elem_id="txt2img_cfg_scale"),
        "width": gr.Slider(64, 2048, 512, step=8, elem_id="txt2img_width"),
        "height": gr.Slider(64, 2048, 512, step=8, elem_id="txt2img_height"),
    }
    panels = [
        build_panel(
            tab,
            Parts(accordion, lambda text, elem_id: gr.Button(text, elem_id=elem_id)),
            Actions(
                offers,
                lambda choice: (
                    f"{LOADED[-1]}: {describe_choice(choice, VaeIndex(files(), HASHES).find, HASHES, None)}",
                    choose(Wishes(choice), VaeIndex(files(), HASHES)).trace,
                ),
                save,
                forget,
                lambda: PRESETS.find(checkpoint()) is not None,
                lambda settings, reference: f"calibrated {settings.vae} with {reference}",
                PRESETS,
                offer,
                foreign,
                lambda: MADE[-1],
            ),
        )
        for tab in ("txt2img", "img2img")
    ]
    panels[0].connect(fields)
    panels[1].connect({})
    log = gr.HTML(elem_id="html_log_txt2img")
    generate = gr.Button("generate", elem_id="txt2img_generate")
    generate.click(
        lambda: MADE.append(f"Last picture: <b>one</b> · number {len(MADE)}") or f"Time {len(MADE)}", [], [log]
    )
    seen = gr.Textbox(elem_id="seen")
    prompt_seen = gr.Textbox(elem_id="prompt_seen")
    gr.Button("read the prompt", elem_id="read_prompt").click(lambda text: text, [prompt], [prompt_seen])
    gr.Button("read", elem_id="read").click(lambda *values: repr(values), panels[0].arguments(), [seen])

print("gradio", gr.__version__, flush=True)
page.queue().launch(server_name="127.0.0.1", server_port=PORT, share=False, inbrowser=False)
