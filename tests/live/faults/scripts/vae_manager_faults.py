"""A WebUI extension for the live tests: throws things into a job, and times swaps inside the host."""

from __future__ import annotations

import time

import gradio as gr
import numpy as np
import torch
from modules import script_callbacks, scripts, sd_models, sd_vae, shared


class Faults(scripts.Script):
    def title(self):
        return "VAE Manager faults"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox(value="", visible=False, elem_id=f"vae_manager_faults_{is_img2img}")]

    def before_process(self, p, mode="", *args):
        if mode.startswith("prompts:"):  # several prompts in one batch, as wildcard extensions make them
            p.prompt = mode.removeprefix("prompts:").split("|")
        if mode == "color":
            session().shelf.colors.finish = lambda *args: 1 / 0

    def postprocess(self, p, processed, mode="", *args):
        if mode == "color":
            del session().shelf.colors.finish

    def process_before_every_sampling(self, p, mode="", **kwargs):
        if mode == "sampling":
            print("VAE Manager faults: sampling begins; said:", *getattr(p, "comments", ()), flush=True)

    def post_sample(self, p, ps, mode="", *args):
        if mode.startswith("latent:"):  # of a photograph, scaled: what a model that was trained would have painted
            ps.samples = torch.from_numpy(np.load(mode.removeprefix("latent:")))[None].to(ps.samples)

    def process_batch(self, p, mode="", **kwargs):
        if mode == "interrupt":
            shared.state.interrupt()

    def before_process_batch(self, p, mode="", **kwargs):
        if mode == "raise":

            def sample(**kwargs):
                raise RuntimeError("thrown by the live tests")

            p.sample = sample


def session():
    for data in scripts.scripts_data:
        if data.module is not None and hasattr(data.module, "VaeManager"):
            return data.module.session
    raise LookupError("VAE Manager is not installed")


def ours_times(vae: str, repeats: int) -> list[float]:
    """Seconds to swap a cached VAE in and the host's own back, as a job does it."""
    from vae_manager.codec.swap import install, remove
    from vae_manager.webui.first_stage import ready

    ours = session()
    module = ours.host.first_stage(ours.host.current_model())
    file = next(file for file in ours.shelf.files() if file.name == vae)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        installed = install(module, ready(ours.shelf.cache, file, module))
        remove(installed)
        times.append(time.perf_counter() - begin)
    return times


def own_times(path: str, repeats: int) -> list[float]:
    """Seconds for the host to load the VAE its own way and to return to the baked one."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        if hasattr(sd_models, "forge_model_reload"):
            from modules_forge import main_entry

            for modules in ([path], []):
                main_entry.modules_change(modules, save=False, refresh=True)
                sd_models.forge_model_reload()
        else:
            sd_vae.reload_vae_weights(vae_file=path)
            sd_vae.reload_vae_weights(vae_file=None)
        times.append(time.perf_counter() - begin)
    return times


def swap_times(vae: str, path: str, repeats: int = 5):
    """Both ways in turn, after one uncounted round of each."""
    from modules.call_queue import queue_lock

    with queue_lock:
        ours_times(vae, 1), own_times(path, 1)
        rounds = [(ours_times(vae, 1)[0], own_times(path, 1)[0]) for _ in range(repeats)]
    return {"ours": [ours for ours, _ in rounds], "host": [own for _, own in rounds]}


def known(sha256: str, name: str):
    """From here on these bytes are known to be the VAE of that name."""
    from vae_manager.library import known

    known._hash_index()[sha256] = known.by_name(name)[0]


def add_routes(demo, app):
    for path, answer in (("swap-times", swap_times), ("known", known)):
        app.add_api_route(f"/vae-manager-faults/{path}", answer, methods=["GET"])


script_callbacks.on_app_started(add_routes)
