"""What stands in the headers of the models that people run: true names and shapes, of the layers that tell something
and of one block of each kind. Read off the models' own configurations; no numbers are needed to know a model.
"""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]


def unet(width: int, channels: int, context: int, latent: int = 4, adm: int | None = None) -> Shapes:
    """ldm's UNet: SD 1 and SD 2 attend at the first level already, SDXL and its refiner do not."""
    level = "input_blocks.1.1" if adm is None else "input_blocks.4.1"
    inner = width if adm is None else 2 * width
    block = f"{level}.transformer_blocks.0"
    linear = context != 768  # SD 1 projects by 1×1 convolutions
    shapes: Shapes = {
        "input_blocks.0.0.weight": (width, channels, 3, 3),
        "input_blocks.0.0.bias": (width,),
        "time_embed.0.weight": (4 * width, width),
        "input_blocks.1.0.in_layers.0.weight": (width,),
        f"{level}.proj_in.weight": (inner, inner) if linear else (inner, inner, 1, 1),
        f"{block}.attn1.to_q.weight": (inner, inner),
        f"{block}.attn2.to_k.weight": (inner, context),
        "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (2 * width, context),
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (4 * width, context),
        "out.0.weight": (width,),
        "out.2.weight": (latent, width, 3, 3),
    }
    if adm is not None:
        shapes["label_emb.0.0.weight"] = (4 * width, adm)
    return shapes


def diffusers_unet(channels: int, context: int, xl: bool = False) -> Shapes:
    level = 1 if xl else 0
    width = 640 if xl else 320
    return {
        "conv_in.weight": (320, channels, 3, 3),
        f"down_blocks.{level}.attentions.0.transformer_blocks.0.attn2.to_k.weight": (width, context),
        "down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3),
        "conv_out.weight": (4, 320, 3, 3),
        **({"add_embedding.linear_1.weight": (1280, 2816)} if xl else {}),
    }


def flux(width: int = 3072, channels: int = 64, out: int = 64, guidance: bool = True) -> Shapes:
    return {
        "img_in.weight": (width, channels),
        "txt_in.weight": (width, 4096),
        "time_in.in_layer.weight": (width, 256),
        "vector_in.in_layer.weight": (width, 768),
        "double_blocks.0.img_attn.qkv.weight": (3 * width, width),
        "double_blocks.0.img_attn.proj.weight": (width, width),
        "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "single_blocks.0.linear1.weight": (7 * width, width),
        "final_layer.linear.weight": (out, width),
        **({"guidance_in.in_layer.weight": (width, 256)} if guidance else {}),
    }


def flux2(width: int) -> Shapes:
    shapes = flux(width, 128, 128)
    del shapes["vector_in.in_layer.weight"]
    return {**shapes, "double_stream_modulation_img.lin.weight": (6 * width, width)}


def chroma() -> Shapes:
    shapes = flux(guidance=False)
    for name in ("time_in.in_layer.weight", "vector_in.in_layer.weight"):
        del shapes[name]
    return {
        **shapes,
        "distilled_guidance_layer.in_proj.weight": (5120, 64),
        "distilled_guidance_layer.norms.0.scale": (5120,),
    }


def radiance() -> Shapes:
    shapes = chroma()
    for name in ("img_in.weight", "final_layer.linear.weight"):
        del shapes[name]
    return {
        **shapes,
        "img_in_patch.weight": (3072, 3, 16, 16),
        "nerf_blocks.0.norm.scale": (64,),
        "nerf_image_embedder.embedder.0.weight": (64, 67),
    }


def svdq_flux() -> Shapes:
    return {
        "x_embedder.weight": (3072, 64),
        "context_embedder.weight": (3072, 4096),
        "transformer_blocks.0.mlp_fc1.qweight": (12288, 1536),
        "transformer_blocks.0.mlp_fc1.wscales": (48, 12288),
        "single_transformer_blocks.0.mlp_fc1.qweight": (12288, 1536),
        "single_transformer_blocks.0.qkv_proj.qweight": (9216, 1536),
        "proj_out.weight": (64, 3072),
    }


def diffusers_flux() -> Shapes:
    return {
        "x_embedder.weight": (3072, 64),
        "context_embedder.weight": (3072, 4096),
        "transformer_blocks.0.attn.add_q_proj.weight": (3072, 3072),
        "transformer_blocks.0.attn.to_q.weight": (3072, 3072),
        "single_transformer_blocks.0.attn.to_q.weight": (3072, 3072),
        "proj_out.weight": (64, 3072),
    }


def diffusers_flux2() -> Shapes:
    return {
        "x_embedder.weight": (6144, 128),
        "context_embedder.weight": (6144, 15360),
        "double_stream_modulation_img.linear.weight": (36864, 6144),
        "transformer_blocks.0.attn.to_q.weight": (6144, 6144),
        "single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight": (55296, 6144),
        "proj_out.weight": (128, 6144),
    }


def diffusers_chroma() -> Shapes:
    return diffusers_flux() | {
        "distilled_guidance_layer.in_proj.weight": (5120, 64),
        "distilled_guidance_layer.norms.0.weight": (5120,),
    }


def svdq_qwen() -> Shapes:
    return {
        "img_in.weight": (3072, 64),
        "txt_in.weight": (3072, 3584),
        "txt_norm.weight": (3584,),
        "transformer_blocks.0.attn.to_qkv.qweight": (9216, 1536),
        "transformer_blocks.0.attn.to_qkv.wscales": (48, 9216),
        "proj_out.weight": (64, 3072),
    }


def svdq_z_image() -> Shapes:
    return {
        "all_x_embedder.2-1.weight": (3840, 64),
        "cap_embedder.0.weight": (2560,),
        "cap_embedder.1.weight": (3840, 2560),
        "layers.0.attention.to_qkv.qweight": (11520, 1920),
        "layers.0.attention.to_qkv.wscales": (60, 11520),
    }


def diffusers_sd3() -> Shapes:
    return {
        "pos_embed.proj.weight": (1536, 16, 2, 2),
        "context_embedder.weight": (1536, 4096),
        "transformer_blocks.0.attn.add_k_proj.weight": (1536, 1536),
        "transformer_blocks.0.attn.to_q.weight": (1536, 1536),
        "proj_out.weight": (64, 1536),
    }


def diffusers_wan(width: int, latent: int) -> Shapes:
    return {
        "patch_embedding.weight": (width, latent, 1, 2, 2),
        "condition_embedder.time_embedder.linear_1.weight": (width, 256),
        "condition_embedder.text_embedder.linear_1.weight": (width, 4096),
        "blocks.0.attn1.to_q.weight": (width, width),
        "scale_shift_table": (1, 2, width),
        "proj_out.weight": (4 * latent, width),
    }


def diffusers_z_image() -> Shapes:
    return {
        "all_x_embedder.2-1.weight": (3840, 64),
        "all_final_layer.2-1.linear.weight": (64, 3840),
        "cap_embedder.1.weight": (3840, 2560),
        "layers.0.attention.to_q.weight": (3840, 3840),
    }


def diffusers_pixart(resolution: bool) -> Shapes:
    told = {"adaln_single.emb.resolution_embedder.linear_1.weight": (384, 256)} if resolution else {}
    return {
        "pos_embed.proj.weight": (1152, 4, 2, 2),
        "pos_embed.proj.bias": (1152,),
        "adaln_single.emb.timestep_embedder.linear_1.weight": (1152, 256),
        "transformer_blocks.0.attn1.to_q.weight": (1152, 1152),
        "proj_out.weight": (32, 1152),
        **told,
    }


def pixart(aspect: bool) -> Shapes:
    told = {"ar_embedder.mlp.0.weight": (384, 256)} if aspect else {}
    return {
        "x_embedder.proj.weight": (1152, 4, 2, 2),
        "t_block.1.weight": (6912, 1152),
        "blocks.0.attn.qkv.weight": (3456, 1152),
        "y_embedder.y_proj.fc1.weight": (1152, 4096),
        **told,
    }


def lumina(width: int, text: int) -> Shapes:
    return {
        "cap_embedder.0.weight": (text,),
        "cap_embedder.1.weight": (width, text),
        "x_embedder.weight": (width, 64),
        "noise_refiner.0.attention.k_norm.weight": (128,),
        "layers.0.attention.qkv.weight": (3 * width, width),
        "layers.0.feed_forward.w1.weight": (10240, width),
        "final_layer.linear.weight": (64, width),
    }


def wan(width: int, channels: int, latent: int) -> Shapes:
    return {
        "patch_embedding.weight": (width, channels, 1, 2, 2),
        "text_embedding.0.weight": (width, 4096),
        "time_embedding.0.weight": (width, 256),
        "blocks.0.self_attn.q.weight": (width, width),
        "blocks.0.ffn.0.weight": (8960, width),
        "head.modulation": (1, 2, width),
        "head.head.weight": (4 * latent, width),
    }


def qwen() -> Shapes:
    return {
        "img_in.weight": (3072, 64),
        "txt_in.weight": (3072, 3584),
        "txt_norm.weight": (3584,),
        "transformer_blocks.0.attn.to_q.weight": (3072, 3072),
        "transformer_blocks.0.attn.add_q_proj.weight": (3072, 3072),
        "transformer_blocks.0.img_mlp.net.0.proj.weight": (12288, 3072),
        "norm_out.linear.weight": (6144, 3072),
        "proj_out.weight": (64, 3072),
    }


def qwen21() -> Shapes:
    return {
        "img_in.weight": (4096, 64),
        "txt_in.text_norm.weight": (4096,),
        "txt_in.in_layer.weight": (4096, 4096),
        "modulation.1.weight": (16384, 4096),
        "transformer_blocks.0.attn.to_q.weight": (4096, 4096),
        "transformer_blocks.0.img_mlp.gate_up.weight": (24576, 4096),
        "proj_out.weight": (64, 4096),
    }


def anima() -> Shapes:
    return {
        "x_embedder.proj.1.weight": (2048, 68),
        "blocks.0.self_attn.q_proj.weight": (2048, 2048),
        "blocks.0.mlp.layer1.weight": (8192, 2048),
        "llm_adapter.blocks.0.cross_attn.q_proj.weight": (1024, 1024),
        "final_layer.linear.weight": (64, 2048),
    }


def cosmos() -> Shapes:
    shapes = anima()
    del shapes["llm_adapter.blocks.0.cross_attn.q_proj.weight"]
    return shapes


def krea2() -> Shapes:
    return {
        "first.weight": (4096, 64),
        "blocks.0.attn.wq.weight": (4096, 4096),
        "txtfusion.projector.weight": (1, 12),
        "txtfusion.layerwise_blocks.0.prenorm.scale": (2560,),
    }


def ernie() -> Shapes:
    return {
        "x_embedder.proj.weight": (4096, 128, 1, 1),
        "text_proj.weight": (4096, 3072),
        "layers.0.self_attention.to_q.weight": (4096, 4096),
        "layers.0.mlp.linear_fc2.weight": (4096, 12288),
        "final_linear.weight": (128, 4096),
    }


def sd3() -> Shapes:
    return {
        "x_embedder.proj.weight": (1536, 16, 2, 2),
        "pos_embed": (1, 36864, 1536),
        "context_embedder.weight": (1536, 4096),
        "joint_blocks.0.context_block.attn.qkv.weight": (4608, 1536),
        "joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536),
        "final_layer.linear.weight": (64, 1536),
    }


def hunyuan(patch: tuple[int, ...], channels: int, latent: int) -> Shapes:
    out = latent
    for size in patch:
        out *= size
    return {
        "img_in.proj.weight": (3072, channels, *patch),
        "txt_in.individual_token_refiner.blocks.0.norm1.weight": (3072,),
        "double_blocks.0.img_attn.proj.weight": (3072, 3072),
        "final_layer.linear.weight": (out, 3072),
    }


MODELS: dict[str, Shapes] = {
    "sd1": unet(320, 4, 768),
    "sd1-inpaint": unet(320, 9, 768),
    "sd1-pix2pix": unet(320, 8, 768),
    "sd2": unet(320, 4, 1024),
    "sd2-inpaint": unet(320, 9, 1024),
    "sd2-depth": unet(320, 5, 1024),
    "sdxl": unet(320, 4, 2048, adm=2816),
    "sdxl-inpaint": unet(320, 9, 2048, adm=2816),
    "sdxl-pix2pix": unet(320, 8, 2048, adm=2816),
    "sdxl-refiner": unet(384, 4, 1280, adm=2560),
    "kolors": unet(320, 4, 2048, adm=5632),
    "mugen": unet(320, 32, 2048, latent=32, adm=2816),
    "sd3": sd3(),
    "flux1": flux(),
    "flux1 schnell": flux(guidance=False),
    "flux1 fill": flux(channels=384),
    "flux1 canny": flux(channels=128),
    "flux1 svdq": svdq_flux(),
    "flux1 diffusers": diffusers_flux(),
    "sd3 diffusers": diffusers_sd3(),
    "chroma diffusers": diffusers_chroma(),
    "flux2 diffusers": diffusers_flux2(),
    "z-image diffusers": diffusers_z_image(),
    "z-image svdq": svdq_z_image(),
    "lumina2 diffusers": {
        "x_embedder.weight": (2304, 64),
        "time_caption_embed.caption_embedder.1.weight": (2304, 2304),
        "layers.0.attn.to_q.weight": (2304, 2304),
    },
    "omnigen2": {
        "x_embedder.weight": (2520, 64),
        "ref_image_patch_embedder.weight": (2520, 64),
        "time_caption_embed.timestep_embedder.linear_1.weight": (1024, 256),
        "time_caption_embed.caption_embedder.1.weight": (2520, 2048),
        "layers.0.attn.to_q.weight": (2520, 2520),
    },
    "hidream": {
        "x_embedder.proj.weight": (2560, 64),
        "caption_projection.0.linear.weight": (2560, 4096),
        "double_stream_blocks.0.block.attn1.to_q.weight": (2560, 2560),
        "final_layer.linear.weight": (64, 2560),
    },
    "qwen-image svdq": svdq_qwen(),
    "wan21 diffusers": diffusers_wan(1536, 16),
    "wan22 diffusers": diffusers_wan(3072, 48),
    "cosmos-predict2": cosmos(),
    "chroma": chroma(),
    "lumina2": lumina(2304, 2304),
    "z-image": lumina(3840, 2560),
    "flux2": flux2(6144),
    "flux2 klein 4B": flux2(3072),
    "flux2 klein 9B": flux2(4096),
    "ernie-image": ernie(),
    "qwen-image": qwen(),
    "anima": anima(),
    "krea2": krea2(),
    "wan21": wan(1536, 16, 16),
    "wan21 i2v": wan(5120, 36, 16),
    "wan22": wan(3072, 48, 48),
    "qwen-image21": qwen21(),
    "auraflow": {
        "init_x_linear.weight": (3072, 16),
        "double_layers.0.attn.w1q.weight": (3072, 3072),
        "final_linear.weight": (16, 3072),
    },
    "hunyuan-dit": {
        "x_embedder.proj.weight": (1408, 4, 2, 2),
        "mlp_t5.0.weight": (8192, 2048),
        "blocks.0.attn1.Wqkv.weight": (4224, 1408),
    },
    "pixart-alpha": pixart(aspect=True),
    "pixart-sigma": pixart(aspect=False),
    "pixart-alpha diffusers": diffusers_pixart(resolution=True),
    "pixart-sigma diffusers": diffusers_pixart(resolution=False),
    "sd1 diffusers": diffusers_unet(4, 768),
    "sd1-inpaint diffusers": diffusers_unet(9, 768),
    "sd2 diffusers": diffusers_unet(4, 1024),
    "sdxl-inpaint diffusers": diffusers_unet(9, 2048, xl=True),
    "sdxl-refiner diffusers": {
        "conv_in.weight": (384, 4, 3, 3),
        "add_embedding.linear_1.weight": (1536, 2560),
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (768, 1280),
    },
    "sdxl diffusers": diffusers_unet(4, 2048, xl=True),
    "pid": {"lq_proj.latent_proj.0.weight": (512, 16, 3, 3), "pixel_embedder.proj.weight": (16, 3)},
    "chroma-radiance": radiance(),
    "ltx": {
        "patchify_proj.weight": (2048, 128),
        "adaln_single.emb.timestep_embedder.linear_1.bias": (2048,),
        "transformer_blocks.0.attn2.to_k.weight": (2048, 2048),
    },
    "ltx diffusers": {
        "proj_in.weight": (2048, 128),
        "time_embed.emb.timestep_embedder.linear_1.weight": (2048, 256),
        "caption_projection.linear_1.weight": (2048, 4096),
        "transformer_blocks.0.attn2.to_k.weight": (2048, 2048),
    },
    "cascade": {"clf.1.weight": (64, 320, 1, 1), "down_blocks.0.0.channelwise.0.weight": (1280, 320)},
    "mochi": {"t5_yproj.weight": (1536, 4096), "blocks.0.attn.qkv_x.weight": (9216, 3072)},
    "svd": unet(320, 8, 1024) | {"input_blocks.1.1.time_stack.0.attn1.to_q.weight": (320, 320)},
    "sd-x4-upscaler": unet(256, 7, 1024),
    "hunyuan-video": hunyuan((1, 2, 2), 16, 16),
    "hunyuan-video15": hunyuan((1, 1, 1), 65, 32),
    "hunyuan-image21": hunyuan((1, 1), 64, 64),
    "sana": {
        "x_embedder.proj.weight": (2240, 32, 1, 1),
        "blocks.0.mlp.inverted_conv.conv.weight": (11200, 2240, 1, 1),
        "final_layer.linear.weight": (32, 2240),
    },
}
"""The model's id in `latents.architectures` (and which variant of it) → its tensors without a prefix."""

SVDQ = frozenset(name for name in MODELS if name.endswith(" svdq"))
"""Those that are quantised already."""

DIFFUSERS = {
    name: "unet" if name.startswith("sd") and name != "sd3 diffusers" else "transformer"
    for name in MODELS
    if name.endswith(" diffusers")
}
"""Those with diffusers' names → the folder that they lie in."""
