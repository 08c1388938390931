"""The WebUI's entry: hooks the session, the panel and the routes in. Everything else is in `vae_manager/`."""

from __future__ import annotations

import gradio as gr
from modules import infotext_utils, script_callbacks, scripts, shared  # noqa: F401
from modules.ui_components import InputAccordion, ToolButton

from vae_manager.webui import api, describe, hosts, infotext, options, panel, paste, settings
from vae_manager.webui.session import Session

session = Session(hosts.current_host(), options.cache_bytes(shared.opts))
session.host.install_guards(session.release, session.ensure)


class VaeManager(scripts.Script):
    """One instance per tab and one more for the API's defaults: no state here."""

    def title(self) -> str:
        return infotext.KEY

    def show(self, is_img2img: bool):
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool):
        built = panel.build_panel(
            "img2img" if is_img2img else "txt2img",
            panel.Parts(InputAccordion, ToolButton),
            lambda refresh: [file.name for file in session.files(refresh)],
            lambda choice: describe.describe_choice(choice, session.files(), session.hashes),
        )
        self.infotext_fields = [
            (built.enabled, paste.PasteKey("VAE Manager enabled", paste.pasted_enabled)),
            (built.vae, paste.PasteKey("VAE Manager VAE", lambda params: paste.pasted_vae(params, session))),
        ]
        self.paste_field_names = [str(key) for _, key in self.infotext_fields]
        return built.arguments()

    def before_process(self, p, *args):
        session.begin(p)

    def process(self, p, *args):
        session.cache.limit = options.cache_bytes(shared.opts)
        session.allow_other_family = bool(getattr(shared.opts, options.OTHER_FAMILY, False))
        session.start(p, settings.from_arguments(args))

    def before_process_batch(self, p, *args, **kwargs):
        session.ensure(p)

    def process_before_every_sampling(self, p, *args, **kwargs):
        session.ensure(p)

    def postprocess(self, p, processed, *args):
        session.finish(p, processed)


script_callbacks.on_model_loaded(lambda model: session.ensure())
script_callbacks.on_script_unloaded(session.release)
script_callbacks.on_infotext_pasted(lambda text, params: paste.on_pasted(params, session))
script_callbacks.on_ui_settings(lambda: options.add_options(shared, gr.Slider))
script_callbacks.on_app_started(
    lambda demo, app: api.add_routes(app, session, getattr(shared.cmd_opts, "api_auth", None))
)
