"""The WebUI's entry: hooks the session, the panel, the axes and the routes in. Everything else is in `vae_manager/`."""

# the host calls these, and types nothing
# pyright: basic, reportMissingImports=false
from __future__ import annotations

import logging

import gradio as gr
from modules import extra_networks, infotext_utils, script_callbacks, scripts, shared  # noqa: F401
from modules.ui_components import InputAccordion, ToolButton

from vae_manager.page import house, views
from vae_manager.webui import (
    api,
    arguments,
    calibration,
    hosts,
    infotext,
    options,
    page_offer,
    panel,
    paste,
    presets,
    xyz,
)
from vae_manager.webui.hosts import cards_page
from vae_manager.webui.hosts.page_components import PageComponents
from vae_manager.webui.hosts.picture_job import PictureJob
from vae_manager.webui.session import Session

log = logging.getLogger("vae_manager")

session = Session(hosts.current_host(), options.read_options(shared.opts))
session.host.install_guards(session.guards())
shelf = session.shelf
components = PageComponents()


class VaeManager(scripts.Script):
    """One instance per tab and one more for the API's defaults: no state here."""

    def title(self) -> str:
        return infotext.KEY

    def show(self, is_img2img: bool):
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool):
        tab = "img2img" if is_img2img else "txt2img"
        built = panel.build_panel(
            tab,
            panel.Parts(InputAccordion, ToolButton),
            panel.Actions(
                shelf.offers,
                shelf.about,
                lambda values, page: presets.save_preset(shelf, values, page),
                lambda: presets.forget_preset(shelf),
                lambda: presets.is_kept(shelf),
                lambda values, reference: calibration.calibrate(shelf, values, reference),
                shelf.chooser.presets,
                lambda: page_offer.page_offer(shelf),
                lambda: presets.foreign(shelf),
                lambda: shelf.told,
            ),
        )
        components.when_complete(tab, built.connect)
        self.infotext_fields = paste.fields(built, shelf)
        self.paste_field_names = [str(key) for _, key in self.infotext_fields]
        return built.arguments()

    def before_process(self, p, *args):
        session.begin(p)

    def process(self, p, *args):
        shelf.obey(options.read_options(shared.opts))
        session.prepare(p, arguments.from_arguments(args, PictureJob.of(p).cell))

    def before_process_batch(self, p, *args, **kwargs):
        session.next_batch(p)

    def process_before_every_sampling(self, p, *args, **kwargs):
        session.ensure(p)

    def postprocess_batch_list(self, p, pp, *args, **kwargs):
        pp.images = session.finish_pictures(p, pp.images)

    def postprocess(self, p, processed, *args):
        session.finish(p, processed)


class PromptTag(extra_networks.ExtraNetwork):
    """So that the host does not complain of `<vae:NAME>` in a prompt; the session reads the tags of all pictures."""

    def __init__(self):
        super().__init__("vae")

    def activate(self, p, params_list):
        pass

    def deactivate(self, p):
        pass


def before_ui():
    components.begin()
    extra_networks.register_extra_network(PromptTag())
    try:
        cards_page.register_cards(shelf.offers, shelf.host.vae_folders)
    except Exception:
        log.exception("VAE Manager could not add its page to the extra networks; the panel is there all the same")
    xyz.add_axes(scripts.scripts_data, shelf.names, shelf.find)


def page_tab():
    """The page VAE Manager as a tab. Nothing is looked at before somebody opens it."""
    try:
        with gr.Blocks(analytics_enabled=False) as tab:
            views.build_page(house.House(shelf.host.vae_folders, checkpoint_folders, shelf.host.data_folder()))
    except Exception:
        log.exception("VAE Manager could not build its tab; the panel is there all the same")
        return []
    return [(tab, infotext.KEY, "vae_manager_tab")]


def checkpoint_folders():
    return [folder.path for folder in shelf.host.vae_folders() if folder.marked_only]


script_callbacks.on_before_ui(before_ui)
script_callbacks.on_ui_tabs(page_tab)
script_callbacks.on_after_component(lambda component, **more: components.see(component))
script_callbacks.on_model_loaded(lambda model: session.ensure())
script_callbacks.on_script_unloaded(session.shut_down)
script_callbacks.on_infotext_pasted(lambda text, params: paste.on_pasted(params, shelf))
script_callbacks.on_ui_settings(lambda: options.add_options(shared, gr.Slider, session.host.translates_sd_vae))
script_callbacks.on_app_started(lambda demo, app: api.add_routes(app, session))
