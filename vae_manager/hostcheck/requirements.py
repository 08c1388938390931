"""What our adapters use of a WebUI: one row per thing. A test keeps this table in step with `vae_manager/webui/`."""

from __future__ import annotations

from dataclasses import dataclass

from vae_manager.hostcheck.checks import (
    AnyOf,
    Attribute,
    Calls,
    Check,
    Closing,
    Hook,
    Symbol,
    Text,
    ThroughModule,
)

A1111, REFORGE, FORGE = "a1111", "reforge", "forge"
"""The three adapters, by their files' names. reForge's is Classic's too, Forge's is Neo's."""

LDM_STYLE = (A1111, REFORGE)
"""The WebUIs whose `sd_vae` writes into the model."""
FORGE_STYLE = (REFORGE, FORGE)
"""The WebUIs that keep their VAE in `forge_objects`."""


@dataclass(frozen=True)
class Requirement:
    """One thing that a WebUI must have."""

    id: str
    check: Check
    needed_by: str
    """Our file that uses it."""
    uses: tuple[str, ...] = ()
    """How our sources name it, where the name that is checked is another."""
    hosts: tuple[str, ...] = (A1111, REFORGE, FORGE)
    without: str | None = None
    """How we cope where it is missing. None: it is required."""


_BASE, _FORGE, _REFORGE = "webui/hosts/base.py", "webui/hosts/forge.py", "webui/hosts/reforge.py"
_SESSION, _OPTIONS, _ENTRY = "webui/session.py", "webui/options.py", "scripts/vae_manager_webui.py"
_CARDS = "webui/hosts/cards_page.py"
_VIEW = "webui/hosts/picture_job.py"

_P = "modules.processing.StableDiffusionProcessing"
_ARGUMENTS = ("modules/cmd_args.py", "modules/paths_internal.py")
_MODEL_FILES = ("modules/sd_models.py", "modules_forge/forge_loader.py", "backend/diffusion_engine/base.py")
_CALLBACKS = (
    "on_before_ui",
    "on_model_loaded",
    "on_script_unloaded",
    "on_infotext_pasted",
    "on_ui_settings",
    "on_app_started",
)
_ENCODER = ("conv_in", "down", "mid", "norm_out", "conv_out")
_DECODER = ("conv_in", "mid", "up", "norm_out", "conv_out")
_KL = ("encoder", "decoder", "quant_conv", "post_quant_conv")
_LDM, _SGM = "repositories/stable-diffusion-stability-ai", "repositories/generative-models"

_FOLDERS = (
    Requirement("models-folder", Symbol("modules.paths.models_path"), _BASE),
    Requirement("data-folder", Symbol("modules.paths.data_path"), _BASE),
    Requirement("checkpoints-folder", Symbol("modules.sd_models.model_path"), _BASE),
    Requirement("cmd-opts", Symbol("modules.shared.cmd_opts"), _BASE),
    Requirement(
        "vae-dir",
        Text(("--vae-dir", "--vae-dirs"), _ARGUMENTS),
        _BASE,
        uses=("modules.shared.cmd_opts.vae_dir", "modules.shared.cmd_opts.vae_dirs"),
        without="only the models folder is searched for VAEs",
    ),
    Requirement(
        "ckpt-dir",
        Text(("--ckpt-dir", "--ckpt-dirs"), _ARGUMENTS),
        _BASE,
        uses=("modules.shared.cmd_opts.ckpt_dir", "modules.shared.cmd_opts.ckpt_dirs"),
        without="*.vae.* files are looked for in the models folder only",
    ),
    Requirement(
        "api-auth",
        Text(("--api-auth",), _ARGUMENTS),
        _BASE,
        uses=("modules.shared.cmd_opts.api_auth",),
        without="our REST routes ask for no login",
    ),
    Requirement(
        "api",
        Text(("--api", "--nowebui"), _ARGUMENTS),
        _BASE,
        uses=("modules.shared.cmd_opts.api", "modules.shared.cmd_opts.nowebui"),
        without="there are no REST routes of ours",
    ),
    Requirement(
        "gradio-auth",
        Text(("--gradio-auth", "--gradio-auth-path"), _ARGUMENTS),
        _BASE,
        uses=("modules.shared.cmd_opts.gradio_auth", "modules.shared.cmd_opts.gradio_auth_path"),
        without="our REST routes ask for no login but the API's",
    ),
)

_MODEL = (
    Requirement("loaded-model", Symbol("modules.sd_models.model_data.sd_model"), _BASE),
    Requirement(
        "model-checkpoint",
        Attribute("sd_checkpoint_info", _MODEL_FILES, assigned=True),
        _BASE,
        uses=("model.sd_checkpoint_info",),
    ),
    Requirement(
        "checkpoint-file",
        Symbol("modules.sd_models.CheckpointInfo", members=("filename",)),
        _BASE,
        uses=("model.sd_checkpoint_info.filename",),
    ),
    Requirement(
        "first-stage",
        Attribute("first_stage_model", ("modules/sd_vae.py",)),
        _BASE,
        uses=("model.first_stage_model",),
        hosts=(A1111,),
    ),
    Requirement(
        "forge-objects",
        Attribute("forge_objects", _MODEL_FILES, assigned=True),
        _FORGE,
        uses=("model.forge_objects",),
        hosts=FORGE_STYLE,
    ),
    Requirement(
        "forge-objects-vae",
        Symbol("backend.diffusion_engine.base.ForgeObjects", members=("vae",)),
        _FORGE,
        uses=("model.forge_objects.vae",),
        hosts=(FORGE,),
    ),
    Requirement(
        "forge-objects-vae",
        AnyOf(
            (
                Symbol("modules_forge.forge_loader.ForgeObjects", members=("vae",)),
                Symbol("modules_forge.forge_loader.ForgeSD", members=("vae",)),
            )
        ),
        _REFORGE,
        uses=("model.forge_objects.vae",),
        hosts=(REFORGE,),
    ),
    Requirement(
        "forge-first-stage",
        Symbol("backend.patcher.vae.VAE", members=("first_stage_model",)),
        _FORGE,
        uses=("model.forge_objects.vae.first_stage_model",),
        hosts=(FORGE,),
    ),
    Requirement(
        "reforge-first-stage",
        Symbol("ldm_patched.modules.sd.VAE", members=("first_stage_model",)),
        _REFORGE,
        uses=("model.forge_objects.vae.first_stage_model",),
        hosts=(REFORGE,),
    ),
    Requirement(
        "model-loaded-before-process",
        Calls("modules.processing.process_images", ("manage_model_and_prompt_cache", "process_images_inner")),
        _SESSION,
        hosts=(FORGE,),
        without="the first picture after a start or a change of checkpoint is made with the WebUI's own VAE",
    ),
    Requirement(
        "model-set-before-callback",
        Calls("modules.sd_models.forge_model_reload", ("set_sd_model", "model_loaded_callback")),
        _SESSION,
        hosts=(FORGE,),
        without="a hires checkpoint or refiner gets the VAE only at its next pass, after the hires encode",
    ),
    Requirement(
        "model-set-before-callback",
        Calls("modules.sd_models.load_model", ("set_sd_model", "model_loaded_callback")),
        _SESSION,
        hosts=LDM_STYLE,
        without="a hires checkpoint or refiner gets the VAE only at its next pass, after the hires encode",
    ),
)

_WEIGHTS = (
    Requirement(
        "weights", Symbol("backend.nn.vae.IntegratedAutoencoderKL", members=_KL), "codec/swap.py", hosts=(FORGE,)
    ),
    Requirement("weights-encoder", Symbol("backend.nn.vae.Encoder", members=_ENCODER), "codec/swap.py", hosts=(FORGE,)),
    Requirement("weights-decoder", Symbol("backend.nn.vae.Decoder", members=_DECODER), "codec/swap.py", hosts=(FORGE,)),
    Requirement(
        "weights",
        Symbol("ldm_patched.ldm.models.autoencoder.AutoencoderKL", members=_KL),
        "codec/swap.py",
        hosts=(REFORGE,),
    ),
    Requirement(
        "weights-encoder",
        Symbol("ldm_patched.ldm.modules.diffusionmodules.model.Encoder", members=_ENCODER),
        "codec/swap.py",
        hosts=(REFORGE,),
    ),
    Requirement(
        "weights-decoder",
        Symbol("ldm_patched.ldm.modules.diffusionmodules.model.Decoder", members=_DECODER),
        "codec/swap.py",
        hosts=(REFORGE,),
    ),
    Requirement(
        "weights",
        Symbol("ldm.models.autoencoder.AutoencoderKL", members=_KL, below=_LDM),
        "codec/swap.py",
        hosts=(A1111,),
    ),
    Requirement(
        "weights-encoder",
        Symbol("ldm.modules.diffusionmodules.model.Encoder", members=_ENCODER, below=_LDM),
        "codec/swap.py",
        hosts=(A1111,),
    ),
    Requirement(
        "weights-decoder",
        Symbol("ldm.modules.diffusionmodules.model.Decoder", members=_DECODER, below=_LDM),
        "codec/swap.py",
        hosts=(A1111,),
    ),
    Requirement(
        "weights-sdxl",
        Symbol("sgm.models.autoencoder.AutoencoderKLInferenceWrapper", members=_KL, below=_SGM),
        "codec/swap.py",
        hosts=(A1111,),
        without="VAEs are not swapped in SDXL models",
    ),
)

_OWN_VAE = (
    Requirement("loaded-vae", Symbol("modules.sd_vae.loaded_vae_file"), _BASE, hosts=LDM_STYLE),
    Requirement(
        "loaded-modules", Symbol("modules.sd_models.model_data.forge_loading_parameters"), _FORGE, hosts=(FORGE,)
    ),
    Requirement(
        "loaded-modules-list",
        Text(("additional_modules",), ("modules/sd_models.py", "modules_forge/main_entry.py")),
        _FORGE,
        hosts=(FORGE,),
        without="the WebUI's own VAE counts as the baked one in what we report",
    ),
    Requirement(
        "additional-modules-option",
        Text(("forge_additional_modules",), ("modules_forge/shared_options.py", "modules/shared_options.py")),
        _FORGE,
        uses=("modules.shared.opts.forge_additional_modules",),
        hosts=(FORGE,),
    ),
    Requirement("modules-by-name", Symbol("modules_forge.main_entry.module_list"), _FORGE, hosts=(FORGE,)),
)

_MEMORY = (
    Requirement(
        "vae-list",
        Symbol("modules.sd_vae.vae_dict"),
        _BASE,
        uses=("modules.sd_vae.vae_dict.get",),
    ),
    Requirement(
        "standing-vae",
        Text(("sd_vae",), ("modules/shared_options.py",)),
        _BASE,
        uses=("modules.shared.opts.sd_vae",),
        hosts=LDM_STYLE,
    ),
    Requirement(
        "vae-path",
        Text(("--vae-path",), _ARGUMENTS),
        _BASE,
        uses=("modules.shared.cmd_opts.vae_path",),
        without="there is no such flag to honour",
    ),
    Requirement(
        "free-memory",
        Symbol("backend.memory_management.get_free_memory"),
        _FORGE,
        uses=("backend.memory_management",),
        hosts=(FORGE,),
    ),
    Requirement(
        "always-tiled",
        Symbol("backend.memory_management.VAE_ALWAYS_TILED"),
        _FORGE,
        hosts=(FORGE,),
        without="its own tiling has no switch, so there is none to mind",
    ),
    Requirement(
        "free-memory",
        Symbol("ldm_patched.modules.model_management.get_free_memory"),
        _REFORGE,
        uses=("ldm_patched.modules.model_management",),
        hosts=(REFORGE,),
    ),
    Requirement(
        "always-tiled",
        Symbol("ldm_patched.modules.model_management.VAE_ALWAYS_TILED"),
        _REFORGE,
        hosts=(REFORGE,),
        without="its own tiling has no switch, so there is none to mind",
    ),
)

_GUARDS = (
    Requirement("guard-load-vae", Symbol("modules.sd_vae.load_vae"), _BASE, hosts=LDM_STYLE),
    Requirement("guard-load-weights", Symbol("modules.sd_models.load_model_weights"), _BASE, hosts=LDM_STYLE),
    Requirement("guard-reload-model", Symbol("modules.sd_models.reload_model_weights"), _BASE, hosts=LDM_STYLE),
    Requirement("guard-reload-vae", Symbol("modules.sd_vae.reload_vae_weights"), _REFORGE, hosts=(REFORGE,)),
    Requirement(
        "guard-override-vae",
        Symbol("modules.sd_vae.reload_vae_weights"),
        _FORGE,
        hosts=(FORGE,),
        without="there is no function that writes another VAE into the model, so nothing to guard",
    ),
    Requirement(
        "guard-restore-vae",
        Symbol("modules.sd_vae.restore_vae_weights"),
        _FORGE,
        hosts=(FORGE,),
        without="there is no function that puts the VAE back, so nothing to guard",
    ),
    Requirement(
        "guards-not-passed-by",
        ThroughModule("modules.sd_vae", ("load_vae", "reload_vae_weights", "restore_vae_weights")),
        _BASE,
    ),
    Requirement(
        "guards-not-passed-by-model",
        ThroughModule("modules.sd_models", ("load_model_weights", "reload_model_weights")),
        _BASE,
        hosts=LDM_STYLE,
    ),
)

_JOB = (
    Requirement("hook-before-process", Hook("before_process"), _ENTRY, uses=("modules.scripts.Script.before_process",)),
    Requirement("hook-process", Hook("process"), _ENTRY, uses=("modules.scripts.Script.process",)),
    Requirement(
        "hook-batch",
        Hook("before_process_batch", keywords=True),
        _ENTRY,
        uses=("modules.scripts.Script.before_process_batch",),
    ),
    Requirement(
        "hook-sampling",
        Hook("process_before_every_sampling", keywords=True),
        _ENTRY,
        uses=("modules.scripts.Script.process_before_every_sampling",),
    ),
    Requirement(
        "hook-pictures",
        Hook("postprocess_batch_list", keywords=True),
        _ENTRY,
        uses=("modules.scripts.Script.postprocess_batch_list",),
    ),
    Requirement("hook-postprocess", Hook("postprocess"), _ENTRY, uses=("modules.scripts.Script.postprocess",)),
    Requirement(
        "before-process-first",
        Calls("modules.processing.process_images", ("scripts.before_process", "process_images_inner")),
        _SESSION,
    ),
    Requirement(
        "process-before-encode",
        Calls(
            "modules.processing.process_images_inner",
            ("scripts.process", "init", "scripts.before_process_batch", "scripts.postprocess"),
            last_of="scripts",
        ),
        _VIEW,
        uses=("p.init",),
    ),
    Requirement(
        "decode-batch",
        ThroughModule("modules.processing", ("decode_latent_batch",)),
        _BASE,
        uses=("modules.processing.decode_latent_batch",),
    ),
    Requirement(
        "prompts",
        Symbol(_P, members=("all_prompts", "all_negative_prompts", "prompts", "negative_prompts")),
        _VIEW,
        uses=("p.all_prompts", "p.all_negative_prompts", "p.prompts", "p.negative_prompts"),
    ),
    Requirement(
        "hires-prompts",
        Symbol(f"{_P}Txt2Img", members=("enable_hr", "all_hr_prompts")),
        _VIEW,
        uses=("p.enable_hr", "p.all_hr_prompts"),
    ),
    Requirement(
        "hires-pass",
        Symbol(f"{_P}Txt2Img", members=("is_hr_pass",)),
        _VIEW,
        uses=("p.is_hr_pass",),
        without="the hires pass has the first pass's VAE",
    ),
    Requirement(
        "batches",
        Symbol(_P, members=("iteration", "batch_size")),
        _VIEW,
        uses=("p.iteration", "p.batch_size"),
    ),
    Requirement(
        "picture-in-batch",
        Attribute("batch_index", ("modules/processing.py",), assigned=True),
        _VIEW,
        uses=("p.batch_index",),
        without="what repaints a part of a picture has the VAE of its batch's first one",
    ),
    Requirement(
        "img2img",
        Symbol(f"{_P}Img2Img", members=("init_images", "image_mask", "paste_to")),
        _VIEW,
        uses=("p.init_images", "p.image_mask", "p.paste_to"),
        without="pictures are not held against the one that img2img began with",
    ),
    Requirement(
        "latent-scale",
        Symbol("ldm.models.diffusion.ddpm.DDPM", below=_LDM),
        _BASE,
        uses=("model.scale_factor",),
        hosts=(A1111,),
        without="a wrong latent scale is not noticed",
    ),
    Requirement(
        "latent-scale",
        Attribute("latent_format", ("modules_forge/forge_loader.py",)),
        _REFORGE,
        uses=(
            "model.forge_objects.unet",
            "model.forge_objects.unet.model",
            "model.forge_objects.unet.model.model_config",
            "model.forge_objects.unet.model.model_config.latent_format",
            "model.forge_objects.unet.model.model_config.latent_format.scale_factor",
        ),
        hosts=(REFORGE,),
    ),
    Requirement("override-settings", Symbol(_P, members=("override_settings",)), _VIEW, uses=("p.override_settings",)),
    Requirement(
        "interrupt",
        Symbol("modules.shared_state.State", members=("interrupted", "skipped", "textinfo")),
        _BASE,
        uses=(
            "modules.shared.state",
            "modules.shared.state.interrupted",
            "modules.shared.state.skipped",
            "modules.shared.state.textinfo",
        ),
    ),
    Requirement("comment", Symbol(f"{_P}.comment", call=(1, ())), _VIEW, uses=("p.comment",)),
    Requirement("close", Symbol(f"{_P}.close", call=(0, ())), _VIEW, uses=("p.close",)),
    *(
        Requirement(
            f"closing-{name}",
            Closing(file),
            _SESSION,
            without="after an exception the VAE is put back when the next job begins, not at once",
        )
        for name, file in (
            ("txt2img", "modules/txt2img.py"),
            ("img2img", "modules/img2img.py"),
            ("api", "modules/api/api.py"),
        )
    ),
)

_INFOTEXT = (
    Requirement("vae-name", Symbol(f"{_P}.sd_vae_name"), _VIEW, uses=("p.sd_vae_name",), hosts=LDM_STYLE),
    Requirement("vae-hash", Symbol(f"{_P}.sd_vae_hash"), _VIEW, uses=("p.sd_vae_hash",), hosts=LDM_STYLE),
    Requirement(
        "vae-name-set-before-process",
        Calls("modules.processing.process_images_inner", ("get_loaded_vae_name", "scripts.process")),
        _BASE,
        hosts=LDM_STYLE,
    ),
    Requirement(
        "vae-name-written",
        Attribute("sd_vae_name", ("modules/processing.py",), "create_infotext"),
        _BASE,
        hosts=LDM_STYLE,
    ),
    Requirement(
        "generation-params",
        Symbol(f"{_P}.extra_generation_params"),
        _VIEW,
        uses=("p.extra_generation_params",),
    ),
    Requirement(
        "generation-params-written",
        Attribute("extra_generation_params", ("modules/processing.py",), "create_infotext"),
        _SESSION,
    ),
    Requirement(
        "processed-params",
        Symbol("modules.processing.Processed.extra_generation_params"),
        _SESSION,
        uses=("processed.extra_generation_params", "processed.all_prompts"),
        without="the API's answer does not tell what could not be done; the page and the log do",
    ),
    Requirement(
        "paste-callback",
        Calls("modules.infotext_utils.connect_paste", ("parse_generation_parameters", "infotext_pasted_callback")),
        _ENTRY,
        uses=("modules.infotext_utils",),
    ),
    Requirement(
        "pasted-vae",
        Text(("VAE",), ("modules/shared_options.py",), keyword="infotext"),
        _BASE,
        hosts=LDM_STYLE,
        without="pasting sets no VAE of the WebUI's, so there is nothing to take out",
    ),
    Requirement(
        "pasted-modules",
        Text(("VAE/TE",), ("modules/infotext_utils.py",)),
        _FORGE,
        hosts=(FORGE,),
        without="pasting sets no modules, so there is nothing to take out",
    ),
)

_PAGE = (
    Requirement(
        "accordion",
        Symbol("modules.ui_components.InputAccordion", call=(1, ("label", "elem_id"))),
        _ENTRY,
    ),
    Requirement("tool-button", Symbol("modules.ui_components.ToolButton", call=(1, ("elem_id",))), _ENTRY),
    Requirement("always-visible", Symbol("modules.scripts.AlwaysVisible"), _ENTRY),
    Requirement(
        "script",
        Symbol("modules.scripts.Script", members=("title", "show", "ui", "infotext_fields", "paste_field_names")),
        _ENTRY,
        uses=(
            "modules.scripts.Script.title",
            "modules.scripts.Script.show",
            "modules.scripts.Script.ui",
            "modules.scripts.Script.infotext_fields",
            "modules.scripts.Script.paste_field_names",
        ),
    ),
    Requirement(
        "extras",
        Symbol("modules.scripts_postprocessing.ScriptPostprocessing", members=("name", "order", "ui", "process")),
        "scripts/vae_manager_extras.py",
        uses=("modules.scripts_postprocessing",),
        without="the Extras tab has no part of ours",
    ),
    Requirement("options", Symbol("modules.shared.opts"), _ENTRY),
    Requirement(
        "extra-network",
        Symbol("modules.extra_networks.ExtraNetwork", members=("activate", "deactivate")),
        _ENTRY,
        uses=("modules.extra_networks",),
    ),
    Requirement(
        "cards-page",
        Symbol(
            "modules.ui_extra_networks.ExtraNetworksPage",
            members=(
                "refresh",
                "list_items",
                "create_item",
                "allowed_directories_for_previews",
                "create_item_html",
                "create_tree_file_item_html",
                "create_tree_dir_item_html",
                "search_terms_from_path",
                "find_preview",
                "find_description",
                "get_sort_keys",
                "read_user_metadata",
            ),
        ),
        _CARDS,
        without="the extra networks have no page of VAEs",
    ),
    Requirement(
        "register-page",
        Symbol("modules.ui_extra_networks.register_page", call=(1, ())),
        _CARDS,
        uses=("modules.ui_extra_networks",),
        without="the extra networks have no page of VAEs",
    ),
    Requirement(
        "quote-js",
        Symbol("modules.ui_extra_networks.quote_js", call=(1, ())),
        _CARDS,
        without="the extra networks have no page of VAEs",
    ),
    Requirement(
        "samples-format",
        Text(("samples_format",), ("modules/shared_options.py",)),
        _CARDS,
        uses=("modules.shared.opts.samples_format",),
        without="the extra networks have no page of VAEs",
    ),
    Requirement("register-network", Symbol("modules.extra_networks.register_extra_network", call=(1, ())), _ENTRY),
    Requirement(
        "loaded-scripts",
        Symbol("modules.scripts.scripts_data"),
        _ENTRY,
        without="the X/Y/Z plot has no axes of ours",
    ),
    Requirement(
        "option-info",
        Symbol("modules.shared.OptionInfo", call=(4, ("section",))),
        _OPTIONS,
    ),
    Requirement(
        "add-option",
        Symbol("modules.options.Options.add_option", call=(2, ())),
        _OPTIONS,
        uses=("modules.shared.opts.add_option",),
    ),
    *(
        Requirement(name.replace("_", "-"), Symbol(f"modules.script_callbacks.{name}", call=(1, ())), _ENTRY)
        for name in _CALLBACKS
    ),
)

REQUIREMENTS: tuple[Requirement, ...] = (
    *_FOLDERS,
    *_MODEL,
    *_WEIGHTS,
    *_OWN_VAE,
    *_MEMORY,
    *_GUARDS,
    *_JOB,
    *_INFOTEXT,
    *_PAGE,
)
"""Every row. Of two rows with one id, each is for other WebUIs."""
