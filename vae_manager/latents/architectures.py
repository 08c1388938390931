"""The architectures: by which tensors each is known, and in which latent space it paints.

The names and shapes were read in the loaders of the WebUIs and of ComfyUI. `ARCHITECTURES` is asked from the top, and
the first row whose marks are all there is it; so what is more particular stands above what it is a variant of.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from vae_manager.latents.spaces import SPACES, LatentSpace

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "unet.", "model.", "net.", "_orig_mod.", "")
"""What may stand before the names: a whole checkpoint's, wrappers', or nothing in a file of the model alone."""


@dataclass(frozen=True)
class Mark:
    """One tensor that must be there."""

    name: str
    """After the prefix. One that ends with a full stop stands for every name that begins so."""
    shape: tuple[int | None, ...] = ()
    """Its shape, None for any number; empty where the shape does not matter."""
    optional: bool = False
    """Whether it may be missing, so long as it has no other shape than this."""
    alone: bool = True
    """Whether its name tells enough where the layer is quantised into whole numbers, and so has another shape on
    disk."""


@dataclass(frozen=True)
class Architecture:
    """One kind of diffusion model."""

    id: str
    title: str
    space: str
    """Id of the latent space that it paints in."""
    marks: tuple[tuple[Mark, ...], ...]
    """Sets of marks, any of which is enough: the files' own names, diffusers', quantised ones'."""
    packing: int | None = None
    """Where it packs its latents otherwise than its space does."""
    metadata: tuple[str, ...] = ()
    """What the metadata of files that tell no shapes say: `modelspec.architecture`, GGUF's `general.architecture`."""

    @property
    def latent_space(self) -> LatentSpace:
        return SPACES[self.space]

    @property
    def model_channels(self) -> int:
        """Channels of the latent that arrives from this model."""
        packing = self.latent_space.packing if self.packing is None else self.packing
        return self.latent_space.channels * packing**2


Marks = tuple[tuple[Mark, ...], ...]


def _any(*marks: Mark) -> Marks:
    """Each of the marks is enough."""
    return tuple((mark,) for mark in marks)


def _all(*sets: Marks) -> Marks:
    """One of every set."""
    return tuple(tuple(mark for marks in chosen for mark in marks) for chosen in product(*sets))


def _unet_takes(channels: int) -> Marks:
    return _any(
        Mark("input_blocks.0.0.weight", (None, channels, 3, 3), alone=False),
        Mark("conv_in.weight", (None, channels, 3, 3), alone=False),
    )


_SD1 = _any(
    Mark("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (320, 768)),
    Mark("middle_block.1.transformer_blocks.0.attn2.to_k.weight", (1280, 768)),
    Mark("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", (320, 768)),
)
_SD_TEXT = _any(Mark("cond_stage_model."))
"""Where a checkpoint keeps its text encoder tells something too, when nothing else does."""
_SD2 = _any(
    Mark("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (320, 1024)),
    Mark("middle_block.1.transformer_blocks.0.attn2.to_k.weight", (1280, 1024)),
    Mark("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", (320, 1024)),
)
_SDXL = _any(
    Mark("label_emb.0.0.weight", (None, 2816)),
    Mark("add_embedding.linear_1.weight", (None, 2816)),
    Mark("input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", (None, 2048), alone=False),
    Mark("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight", (None, 2048), alone=False),
)
_SDXL_TEXT = _any(Mark("conditioner.embedders."))
_REFINER = _any(
    Mark("label_emb.0.0.weight", (None, 2560)),
    Mark("add_embedding.linear_1.weight", (None, 2560)),
    Mark("input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", (None, 1280), alone=False),
)
_FLUX = _any(
    Mark("double_blocks.0.img_attn.norm.key_norm.scale"),
    Mark("double_blocks.0.img_attn.norm.key_norm.weight"),
    Mark("double_blocks."),
)
_FLUX_IN = _any(*(Mark("img_in.weight", (None, size), optional=True) for size in (64, 384, 128)))
"""16 channels packed by four; with a masked picture and the mask beside them (Fill), or another one (Canny, Depth)."""
_FLUX_DIFFUSERS = _all(_any(Mark("transformer_blocks.0.attn.")), _any(Mark("single_transformer_blocks.0.")))
_CHROMA = _any(Mark("distilled_guidance_layer."))
_HUNYUAN = _any(Mark("txt_in.individual_token_refiner."))
_COSMOS = _any(Mark("blocks.0.mlp.layer1.weight"))
_WAN = _any(Mark("head.modulation"))
_WAN_DIFFUSERS = _any(Mark("condition_embedder.time_embedder.linear_1.weight"), Mark("condition_embedder."))
_PIXART_DIFFUSERS = _any(Mark("pos_embed.proj.bias"))

ARCHITECTURES = (
    # what has no VAE, or one that is not run here
    Architecture("pid", "PiD", "pixels", _any(Mark("lq_proj.latent_proj.0.weight"), Mark("core.lq_proj."))),
    Architecture(
        "chroma-radiance", "Chroma Radiance", "pixels", _any(Mark("nerf_blocks."), Mark("nerf_image_embedder."))
    ),
    Architecture(
        "ltx",
        "LTX-Video",
        "ltx",
        _any(Mark("patchify_proj.weight", (None, 128)))
        + _all(_any(Mark("proj_in.weight", (None, 128))), _any(Mark("time_embed.emb."), Mark("caption_projection."))),
        metadata=("ltxv", "ltx"),
    ),
    Architecture(
        "hunyuan-image21",
        "HunyuanImage 2.1",
        "hunyuan-image21",
        _all(_HUNYUAN, _any(Mark("img_in.proj.weight", (None, 64, None, None)))),
    ),
    Architecture(
        "hunyuan-video15",
        "HunyuanVideo 1.5",
        "hunyuan-video15",
        _all(_HUNYUAN, _any(Mark("img_in.proj.weight", (None, 65, 1, 1, 1)))),
    ),
    Architecture("hunyuan-video", "HunyuanVideo", "hunyuan-video", _HUNYUAN, metadata=("hyvid",)),
    Architecture(
        "sana",
        "Sana",
        "dc-ae",
        _any(Mark("blocks.0.mlp.inverted_conv.conv.weight"), Mark("transformer_blocks.0.ff.conv_inverted.weight")),
    ),
    Architecture("cascade", "Stable Cascade", "cascade", _any(Mark("clf.1.weight"))),
    Architecture("mochi", "Mochi", "mochi", _any(Mark("t5_yproj.weight"))),
    Architecture(
        "svd",
        "Stable Video Diffusion",
        "svd",
        _any(Mark("input_blocks.1.1.time_stack."), Mark("down_blocks.0.attentions.0.temporal_transformer_blocks.")),
    ),
    Architecture("sd-x4-upscaler", "the SD 2 upscaler", "sd-x4", _unet_takes(7)),
    # transformers
    Architecture(
        "sd3",
        "Stable Diffusion 3",
        "sd3",
        _all(_any(Mark("joint_blocks.")), _any(Mark("x_embedder.proj.weight", (None, 16, 2, 2), optional=True)))
        + _all(
            _any(Mark("pos_embed.proj.weight", (None, 16, 2, 2))), _any(Mark("transformer_blocks.0.attn.add_k_proj."))
        ),
        metadata=("stable-diffusion-v3", "sd3"),
    ),
    Architecture(
        "flux2",
        "Flux.2",
        "flux2",
        _all(
            _any(Mark("double_stream_modulation_img.")),
            _any(
                Mark("img_in.weight", (None, 128), optional=True),
                Mark("x_embedder.weight", (None, 128)),
            ),
        ),
        metadata=("flux2", "flux-2"),
    ),
    Architecture("chroma", "Chroma", "flux1", _all(_CHROMA, _FLUX_IN), metadata=("chroma",)),
    Architecture(
        "flux1",
        "Flux.1",
        "flux1",
        _all(_FLUX, _FLUX_IN, _any(Mark("final_layer.linear.weight", (64, None), optional=True)))
        + _any(Mark("single_transformer_blocks.0.mlp_fc1.qweight"))
        + _all(_FLUX_DIFFUSERS, _any(Mark("x_embedder.weight", (None, 64)), Mark("proj_out.weight", (64, None)))),
        metadata=("flux", "flux-1", "flux1", "flux.1"),
    ),
    Architecture(
        "lumina2",
        "Lumina 2",
        "flux1",
        _any(
            Mark("cap_embedder.1.weight", (2304, None)),
            Mark("time_caption_embed.caption_embedder.1.weight", (2304, None)),
        ),
        metadata=("lumina2", "lumina-2"),
    ),
    Architecture(
        "z-image",
        "Z-Image",
        "flux1",
        _any(Mark("cap_embedder.1.weight", (3840, None)), Mark("all_x_embedder.")),
        metadata=("z-image", "zimage", "z_image"),
    ),
    Architecture("omnigen2", "OmniGen 2", "flux1", _any(Mark("time_caption_embed.")), metadata=("omnigen2",)),
    Architecture(
        "hidream", "HiDream", "flux1", _any(Mark("caption_projection.0.linear.weight")), metadata=("hidream",)
    ),
    Architecture(
        "wan22",
        "Wan 2.2 5B",
        "wan22",
        _all(
            _WAN,
            _any(
                Mark("head.head.weight", (192, None), alone=False),
                Mark("patch_embedding.weight", (None, 48, None, None, None)),
            ),
        )
        + _all(
            _WAN_DIFFUSERS,
            _any(
                Mark("proj_out.weight", (192, None), alone=False),
                Mark("patch_embedding.weight", (None, 48, None, None, None)),
            ),
        ),
    ),
    Architecture(
        "wan21",
        "Wan 2.1",
        "wan21",
        _all(_WAN, _any(Mark("head.head.weight", (64, None), optional=True)))
        + _all(_WAN_DIFFUSERS, _any(Mark("proj_out.weight", (64, None)))),
        metadata=("wan",),
    ),
    Architecture(
        "qwen-image21", "Qwen-Image 2.1", "qwen21", _any(Mark("txt_in.text_norm.weight")), metadata=("qwen_image21",)
    ),
    Architecture(
        "qwen-image",
        "Qwen-Image",
        "wan21",
        _all(
            _any(Mark("txt_norm.weight")),
            _any(Mark("transformer_blocks.")),
            _any(Mark("img_in.weight", (None, 64), optional=True)),
        ),
        metadata=("qwen_image", "qwen-image"),
    ),
    Architecture("anima", "Anima", "wan21", _all(_COSMOS, _any(Mark("llm_adapter."))), metadata=("anima",)),
    Architecture("cosmos-predict2", "Cosmos Predict2", "wan21", _COSMOS, metadata=("cosmos",)),
    Architecture(
        "krea2",
        "Krea 2",
        "wan21",
        _any(Mark("txtfusion.projector.weight"), Mark("txtfusion.")),
        metadata=("krea2", "krea-2"),
    ),
    Architecture(
        "ernie-image",
        "Ernie-Image",
        "flux2",
        _any(Mark("layers.0.mlp.linear_fc2.weight")),
        metadata=("ernie", "ernie-image", "ernie_image"),
    ),
    Architecture("auraflow", "AuraFlow", "sdxl", _any(Mark("double_layers.0.attn.w1q.weight")), metadata=("aura",)),
    Architecture("hunyuan-dit", "HunyuanDiT", "sdxl", _any(Mark("mlp_t5.0.weight"))),
    Architecture(
        "pixart-alpha",
        "PixArt-α",
        "sd1",
        _all(_any(Mark("t_block.1.weight")), _any(Mark("ar_embedder.mlp.0.weight")))
        + _all(_PIXART_DIFFUSERS, _any(Mark("adaln_single.emb.resolution_embedder.linear_1.weight"))),
    ),
    Architecture(
        "pixart-sigma",
        "PixArt-Σ",
        "sdxl",
        _any(Mark("t_block.1.weight")) + _all(_PIXART_DIFFUSERS, _any(Mark("adaln_single."))),
    ),
    # UNets
    Architecture("mugen", "Mugen", "flux2", _unet_takes(32) + _any(Mark("out.2.weight", (32, None, 3, 3))), packing=1),
    Architecture(
        "kolors", "Kolors", "sdxl", _any(Mark("label_emb.0.0.weight", (None, 5632)), Mark("encoder_hid_proj."))
    ),
    Architecture("sdxl-inpaint", "SDXL inpainting", "sdxl", _all(_unet_takes(9), _SDXL)),
    Architecture("sdxl-pix2pix", "SDXL pix2pix", "sdxl", _all(_unet_takes(8), _SDXL)),
    Architecture("sdxl", "SDXL", "sdxl", _SDXL + _SDXL_TEXT, metadata=("stable-diffusion-xl-v1-base", "sdxl")),
    Architecture("sdxl-refiner", "the SDXL refiner", "sdxl", _REFINER, metadata=("stable-diffusion-xl-v1-refiner",)),
    Architecture("sd2-inpaint", "SD 2 inpainting", "sd1", _all(_unet_takes(9), _SD2)),
    Architecture("sd2-depth", "SD 2 depth", "sd1", _all(_unet_takes(5), _SD2)),
    Architecture(
        "sd2", "Stable Diffusion 2.x", "sd1", _SD2, metadata=("stable-diffusion-v2-512", "stable-diffusion-v2-768-v")
    ),
    Architecture("sd1-inpaint", "SD 1 inpainting", "sd1", _all(_unet_takes(9), _SD1)),
    Architecture("sd1-pix2pix", "InstructPix2Pix", "sd1", _all(_unet_takes(8), _SD1)),
    Architecture("sd1", "Stable Diffusion 1.x", "sd1", _SD1 + _SD_TEXT, metadata=("stable-diffusion-v1", "sd1")),
)
"""Every architecture that is known, the more particular above the more general."""

BY_ID = {architecture.id: architecture for architecture in ARCHITECTURES}
