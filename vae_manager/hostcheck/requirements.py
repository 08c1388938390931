"""What a WebUI must have that no name in our sources tells: how it *behaves*, what its objects are, and how we cope
without something. That a name is there is asked for each name that our adapters use (`derive`)."""

from __future__ import annotations

from dataclasses import dataclass

from vae_manager.hostcheck.checks import (
    Attribute,
    Calls,
    Check,
    Closing,
    Symbol,
    Text,
    ThroughModule,
)
from vae_manager.hostcheck.ours import A1111, ADAPTERS, FORGE, REFORGE

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
    """The names in our sources that this row answers for: they get no row of their own."""
    hosts: tuple[str, ...] = ADAPTERS
    without: str | None = None
    """How we cope where it is missing. None: it is required."""


_P = "modules.processing.StableDiffusionProcessing"
_ENTRY, _SESSION, _SWAP = "scripts/vae_manager_webui.py", "webui/session.py", "codec/swap.py"
_BASE, _FORGE, _REFORGE = "webui/hosts/base.py", "webui/hosts/forge.py", "webui/hosts/reforge.py"
_VIEW, _PROMISE = "webui/hosts/picture_job.py", "webui/hosts/promise.py"

ARGUMENTS = ("modules/cmd_args.py", "modules/paths_internal.py")
OPTIONS = ("modules/shared_options.py", "modules_forge/shared_options.py")
_MODEL_FILES = ("modules/sd_models.py", "modules_forge/forge_loader.py", "backend/diffusion_engine/base.py")
CMD_OPTS, OPTS, _DATA = "modules.shared.cmd_opts", "modules.shared.opts", "modules.sd_models.model_data"
_LDM, _SGM = "repositories/stable-diffusion-stability-ai", "repositories/generative-models"


def _everywhere(*classes: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(ADAPTERS, classes)


_CHECKPOINT = _everywhere("modules.sd_models.CheckpointInfo")

CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "p": _everywhere(_P, f"{_P}Txt2Img", f"{_P}Img2Img"),
    "processed": _everywhere("modules.processing.Processed"),
    "model.sd_checkpoint_info": _CHECKPOINT,
    f"{_DATA}.forge_loading_parameters.checkpoint_info": _CHECKPOINT,
    "model.forge_objects": {
        FORGE: ("backend.diffusion_engine.base.ForgeObjects",),
        REFORGE: ("modules_forge.forge_loader.ForgeObjects", "modules_forge.forge_loader.ForgeSD"),
    },
    "model.forge_objects.vae": {FORGE: ("backend.patcher.vae.VAE",), REFORGE: ("ldm_patched.modules.sd.VAE",)},
    "modules.shared.state": _everywhere("modules.shared_state.State"),
    OPTS: _everywhere("modules.options.Options"),
}
"""What the objects are that our sources name: one of these classes has the member."""

_NO_TILING = "its own tiling has no switch, so there is none to mind"
_NO_ANSWER = "the API's answer does not tell what could not be done; the page and the log do"
_NO_CARDS = "the extra networks have no page of VAEs"
_NO_START = "pictures are not held against the one that img2img began with"

COPES = {
    f"{CMD_OPTS}.api_auth": "our REST routes ask for no login",
    f"{CMD_OPTS}.vae_path": "there is no such flag to honour",
    "backend.memory_management.VAE_ALWAYS_TILED": _NO_TILING,
    "ldm_patched.modules.model_management.VAE_ALWAYS_TILED": _NO_TILING,
    "modules.sd_vae.restore_vae_weights": "there is no function that puts the VAE back, so nothing to guard",
    "p.is_hr_pass": "the hires pass has the first pass's VAE",
    "p.init_images": _NO_START,
    "p.image_mask": _NO_START,
    "p.paste_to": _NO_START,
    "processed": _NO_ANSWER,
    "modules.scripts_postprocessing": "the Extras tab has no part of ours",
    "modules.ui_extra_networks": _NO_CARDS,
    f"{OPTS}.samples_format": _NO_CARDS,
    "modules.scripts.scripts_data": "the X/Y/Z plot has no axes of ours",
}
"""How we cope without a name, or without all that begin with it. Whatever is not here is required."""


def _weights(host: str, autoencoder: str, ends: str, below: str = "") -> tuple[Requirement, ...]:
    """The parameters' names, by which weights are exchanged."""
    kl = ("encoder", "decoder", "quant_conv", "post_quant_conv")
    encoder, decoder = (
        ("conv_in", "down", "mid", "norm_out", "conv_out"),
        ("conv_in", "mid", "up", "norm_out", "conv_out"),
    )
    return tuple(
        Requirement(f"weights{part}", Symbol(name, members=members, below=below), _SWAP, hosts=(host,))
        for part, name, members in (
            ("", autoencoder, kl),
            ("-encoder", f"{ends}.Encoder", encoder),
            ("-decoder", f"{ends}.Decoder", decoder),
        )
    )


_ARGUMENTS_AND_OPTIONS = (
    Requirement(
        "vae-dir",
        Text(("--vae-dir", "--vae-dirs"), ARGUMENTS),
        _BASE,
        uses=(f"{CMD_OPTS}.vae_dir", f"{CMD_OPTS}.vae_dirs"),
        without="only the models folder is searched for VAEs",
    ),
    Requirement(
        "ckpt-dir",
        Text(("--ckpt-dir", "--ckpt-dirs"), ARGUMENTS),
        _BASE,
        uses=(f"{CMD_OPTS}.ckpt_dir", f"{CMD_OPTS}.ckpt_dirs"),
        without="*.vae.* files are looked for in the models folder only",
    ),
    Requirement(
        "api",
        Text(("--api", "--nowebui"), ARGUMENTS),
        _BASE,
        uses=(f"{CMD_OPTS}.api", f"{CMD_OPTS}.nowebui"),
        without="there are no REST routes of ours",
    ),
    Requirement(
        "gradio-auth",
        Text(("--gradio-auth", "--gradio-auth-path"), ARGUMENTS),
        _BASE,
        uses=(f"{CMD_OPTS}.gradio_auth", f"{CMD_OPTS}.gradio_auth_path"),
        without="our REST routes ask for no login but the API's",
    ),
)

_MODEL = (
    Requirement(
        "model-checkpoint",
        Attribute("sd_checkpoint_info", _MODEL_FILES, assigned=True),
        _BASE,
        uses=("model.sd_checkpoint_info",),
    ),
    Requirement(
        "next-checkpoint",
        Text(("checkpoint_info",), ("modules/sd_models.py", "modules_forge/main_entry.py")),
        _FORGE,
        uses=(f"{_DATA}.forge_loading_parameters.checkpoint_info",),
        hosts=(FORGE,),
        without="the panel shows the checkpoint that is loaded, not the one that was chosen since",
    ),
    Requirement(
        "loaded-modules-list",
        Text(("additional_modules",), ("modules/sd_models.py", "modules_forge/main_entry.py")),
        _FORGE,
        uses=(f"{_DATA}.forge_loading_parameters.additional_modules",),
        hosts=(FORGE,),
        without="the WebUI's own VAE counts as the baked one in what we report",
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
        "memory-estimate",
        Attribute("memory_used_decode", ("backend/patcher/vae.py", "ldm_patched/modules/sd.py"), assigned=True),
        _PROMISE,
        hosts=FORGE_STYLE,
        without="the memory manager makes room for a whole decode, also where it is streamed",
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
        ),
        hosts=(REFORGE,),
    ),
    Requirement(
        "latent-format",
        Attribute("model_config", ("backend/diffusion_engine/base.py",), assigned=True),
        _FORGE,
        uses=("model.model_config", "model.model_config.latent_format"),
        hosts=(FORGE,),
        without="a model's latents are told by the channels of its VAE and by its checkpoint's header",
    ),
    *_weights(FORGE, "backend.nn.vae.IntegratedAutoencoderKL", "backend.nn.vae"),
    *_weights(
        REFORGE, "ldm_patched.ldm.models.autoencoder.AutoencoderKL", "ldm_patched.ldm.modules.diffusionmodules.model"
    ),
    *_weights(A1111, "ldm.models.autoencoder.AutoencoderKL", "ldm.modules.diffusionmodules.model", _LDM),
    Requirement(
        "weights-sdxl",
        Symbol(
            "sgm.models.autoencoder.AutoencoderKLInferenceWrapper",
            members=("encoder", "decoder", "quant_conv", "post_quant_conv"),
            below=_SGM,
        ),
        _SWAP,
        hosts=(A1111,),
        without="VAEs are not swapped in SDXL models",
    ),
)

_LATE = "a hires checkpoint or refiner gets the VAE only at its next pass, after the hires encode"

_ORDER = (
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
        without=_LATE,
    ),
    Requirement(
        "model-set-before-callback",
        Calls("modules.sd_models.load_model", ("set_sd_model", "model_loaded_callback")),
        _SESSION,
        hosts=LDM_STYLE,
        without=_LATE,
    ),
    Requirement(
        "guard-override-vae",
        Symbol("modules.sd_vae.reload_vae_weights"),
        _FORGE,
        uses=("modules.sd_vae.reload_vae_weights",),
        hosts=(FORGE,),
        without="there is no function that writes another VAE into the model, so nothing to guard",
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
    Requirement("decode-batch", ThroughModule("modules.processing", ("decode_latent_batch",)), _BASE),
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
        "picture-in-batch",
        Attribute("batch_index", ("modules/processing.py",), assigned=True),
        _VIEW,
        uses=("p.batch_index",),
        without="what repaints a part of a picture has the VAE of its batch's first one",
    ),
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
        "generation-params-written",
        Attribute("extra_generation_params", ("modules/processing.py",), "create_infotext"),
        _SESSION,
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
    Requirement(  # handed on, and called far from the name
        "tool-button",
        Symbol("modules.ui_components.ToolButton", ((1, ("elem_id",)),)),
        _ENTRY,
        uses=("modules.ui_components.ToolButton",),
    ),
)

WRITTEN: tuple[Requirement, ...] = (*_ARGUMENTS_AND_OPTIONS, *_MODEL, *_ORDER, *_INFOTEXT)
"""The rows that no name in our sources makes. Of two rows with one id, each is for other WebUIs."""
