"""Names and shapes of the models that people run, each with as few blocks as its WebUI still recognises.

Widths are the true ones wherever a WebUI has them fixed; what may be small is small. Nothing here is copied from
anybody's weights: `random_weights` fills the shapes, so that a forward pass stays finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


POOL = 4_000_037
"""A prime number, so that no two rows of a matrix begin at the same place of the pool."""


def random_weights(
    shapes: Shapes, seed: int, dtype: torch.dtype = torch.float16, pooled: bool = False
) -> dict[str, Tensor]:
    """Gains of one, small biases, and matrices that keep the spread of what they are given.

    Args:
        pooled: large tensors are the same few million numbers again and again, which takes a tenth of the time.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, generator=generator).repeat(2) if pooled else None

    def numbers(shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape)
        if pool is None or size < 10_000:
            return torch.randn(shape, generator=generator)
        begun = pool[size % POOL :]
        return (begun if size <= len(begun) else begun.repeat(-(-size // len(begun))))[:size].reshape(shape)

    def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("bias"):
            return numbers(shape) * 0.02
        if len(shape) <= 1 or set(shape[1:]) <= {1}:  # a norm's gain
            return torch.ones(shape)
        if "embedding" in name:
            return numbers(shape) * 0.05
        return numbers(shape) / math.sqrt(math.prod(shape[1:]))

    return {name: tensor(name, shape).to(dtype) for name, shape in shapes.items()}


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": shape, **({f"{name}.bias": (shape[0],)} if bias else {})}


def conv(name: str, inputs: int, outputs: int, kernel: int = 3) -> Shapes:
    return layer(name, outputs, inputs, kernel, kernel)


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


# --- UNets


def residual(name: str, inputs: int, width: int, time: int) -> Shapes:
    shapes = layer(f"{name}.in_layers.0", inputs) | conv(f"{name}.in_layers.2", inputs, width)
    shapes |= layer(f"{name}.emb_layers.1", width, time)
    shapes |= layer(f"{name}.out_layers.0", width) | conv(f"{name}.out_layers.3", width, width)
    return shapes | (conv(f"{name}.skip_connection", inputs, width, 1) if inputs != width else {})


def transformer(name: str, width: int, context: int, depth: int = 1, linear: bool = False) -> Shapes:
    """A spatial transformer; `linear`: SDXL's way in and out of it."""

    def end(which: str) -> Shapes:
        return layer(f"{name}.{which}", width, width) if linear else conv(f"{name}.{which}", width, width, 1)

    shapes = layer(f"{name}.norm", width) | end("proj_in")
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        for attention, inner in (("attn1", width), ("attn2", context)):
            for part, inputs in (("to_q", width), ("to_k", inner), ("to_v", inner)):
                shapes |= layer(f"{block}.{attention}.{part}", width, inputs, bias=False)
            shapes |= layer(f"{block}.{attention}.to_out.0", width, width)
        shapes |= layer(f"{block}.ff.net.0.proj", 8 * width, width) | layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in (1, 2, 3):
            shapes |= layer(f"{block}.norm{norm}", width)
    return shapes | end("proj_out")


SDXL_WIDTH, SDXL_CONTEXT, SDXL_DEPTHS = 320, 2048, (0, 2, 10)
"""True are 320, 640 and 1280 at the three levels; the depths are what SDXL is known by."""


def sdxl_unet() -> Shapes:
    """SDXL's UNet with its first level's width at every level."""
    width, time = SDXL_WIDTH, 4 * SDXL_WIDTH
    shapes = layer("time_embed.0", time, width) | layer("time_embed.2", time, time)
    shapes |= layer("label_emb.0.0", time, 2816) | layer("label_emb.0.2", time, time)
    shapes |= conv("input_blocks.0.0", 4, width)

    def block(name: str, inputs: int, depth: int) -> Shapes:
        inner = transformer(f"{name}.1", width, SDXL_CONTEXT, depth, linear=True) if depth else {}
        return residual(f"{name}.0", inputs, width, time) | inner

    for level, depth in enumerate(SDXL_DEPTHS):
        for index in (3 * level + 1, 3 * level + 2):
            shapes |= block(f"input_blocks.{index}", width, depth)
        if level < 2:
            shapes |= conv(f"input_blocks.{3 * level + 3}.0.op", width, width)
    shapes |= residual("middle_block.0", width, width, time) | residual("middle_block.2", width, width, time)
    shapes |= transformer("middle_block.1", width, SDXL_CONTEXT, SDXL_DEPTHS[-1], linear=True)
    for level, depth in enumerate(reversed(SDXL_DEPTHS)):
        for index in range(3):
            shapes |= block(f"output_blocks.{3 * level + index}", 2 * width, depth)
        if level < 2:
            shapes |= conv(f"output_blocks.{3 * level + 2}.2.conv", width, width)
    return shapes | layer("out.0", width) | conv("out.2", width, 4)


def sdxl_config() -> dict[str, object]:
    """What A1111 needs to build that UNet: its own configuration of SDXL with other widths."""
    unet = {
        "adm_in_channels": 2816, "num_classes": "sequential", "use_checkpoint": False, "in_channels": 4,
        "out_channels": 4, "model_channels": SDXL_WIDTH, "attention_resolutions": [4, 2], "num_res_blocks": 2,
        "channel_mult": [1, 1, 1], "num_head_channels": 64,
        "use_spatial_transformer": True, "use_linear_in_transformer": True,
        "transformer_depth": [1, *SDXL_DEPTHS[1:]], "context_dim": SDXL_CONTEXT,
        "spatial_transformer_attn_type": "softmax-xformers", "legacy": False,
    }  # fmt: skip
    first_stage = {
        "embed_dim": 4, "monitor": "val/rec_loss", "lossconfig": {"target": "torch.nn.Identity"},
        "ddconfig": {
            "attn_type": "vanilla-xformers", "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3,
            "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [],
            "dropout": 0.0,
        },
    }  # fmt: skip
    sgm = "sgm.modules.diffusionmodules."
    clip_g: dict[str, object] = {
        "arch": "ViT-bigG-14", "version": "laion2b_s39b_b160k", "freeze": True, "layer": "penultimate",
        "always_return_pooled": True, "legacy": False,
    }  # fmt: skip
    embedders: list[dict[str, object]] = [
        _embedder("txt", "FrozenCLIPEmbedder", {"layer": "hidden", "layer_idx": 11}),
        _embedder("txt", "FrozenOpenCLIPEmbedder2", clip_g),
        *(
            _embedder(key, "ConcatTimestepEmbedderND", {"outdim": 256})
            for key in ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
        ),
    ]
    denoiser = {
        "num_idx": 1000, "weighting_config": {"target": f"{sgm}denoiser_weighting.EpsWeighting"},
        "scaling_config": {"target": f"{sgm}denoiser_scaling.EpsScaling"},
        "discretization_config": {"target": f"{sgm}discretizer.LegacyDDPMDiscretization"},
    }  # fmt: skip
    params = {
        "scale_factor": 0.13025, "disable_first_stage_autocast": True,
        "denoiser_config": {"target": f"{sgm}denoiser.DiscreteDenoiser", "params": denoiser},
        "network_config": {"target": f"{sgm}openaimodel.UNetModel", "params": unet},
        "conditioner_config": {"target": "sgm.modules.GeneralConditioner", "params": {"emb_models": embedders}},
        "first_stage_config": {"target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper", "params": first_stage},
    }  # fmt: skip
    return {"model": {"target": "sgm.models.diffusion.DiffusionEngine", "params": params}}


def _embedder(key: str, name: str, params: dict[str, object]) -> dict[str, object]:
    return {
        "is_trainable": False,
        "input_key": key,
        "target": f"sgm.modules.encoders.modules.{name}",
        "params": params,
    }


# --- transformers


def sd3(depth: int = 2) -> Shapes:
    """SD 3's, whose width is 64 for each of its blocks."""
    width = 64 * depth
    shapes: Shapes = {"pos_embed": (1, 192 * 192, width)}
    shapes |= layer("x_embedder.proj", width, 16, 2, 2) | layer("context_embedder", width, 4096)
    for name, inputs in (("t_embedder", 256), ("y_embedder", 2048)):
        shapes |= layer(f"{name}.mlp.0", width, inputs) | layer(f"{name}.mlp.2", width, width)
    for index in range(depth):
        for half in ("context_block", "x_block"):
            block = f"joint_blocks.{index}.{half}"
            shapes |= layer(f"{block}.attn.qkv", 3 * width, width)
            last = half == "context_block" and index == depth - 1
            shapes |= layer(f"{block}.adaLN_modulation.1", (2 if last else 6) * width, width)
            if not last:
                shapes |= layer(f"{block}.attn.proj", width, width)
                shapes |= layer(f"{block}.mlp.fc1", 4 * width, width) | layer(f"{block}.mlp.fc2", width, 4 * width)
    shapes |= layer("final_layer.linear", 64, width)
    return shapes | layer("final_layer.adaLN_modulation.1", 2 * width, width)


def flux1() -> Shapes:
    """FLUX.1 dev with one block of each kind."""
    width = 3072
    shapes = layer("img_in", width, 64) | layer("txt_in", width, 4096)
    for name, inputs in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        shapes |= layer(f"{name}.in_layer", width, inputs) | layer(f"{name}.out_layer", width, width)
    for half in ("img", "txt"):
        block = f"double_blocks.0.{half}"
        shapes |= layer(f"{block}_mod.lin", 6 * width, width) | _attention(f"{block}_attn", width, True)
        shapes |= layer(f"{block}_mlp.0", 4 * width, width) | layer(f"{block}_mlp.2", width, 4 * width)
    shapes |= layer("single_blocks.0.linear1", 7 * width, width) | layer("single_blocks.0.linear2", width, 5 * width)
    shapes |= _scales("single_blocks.0.norm") | layer("single_blocks.0.modulation.lin", 3 * width, width)
    return shapes | layer("final_layer.linear", 64, width) | layer("final_layer.adaLN_modulation.1", 2 * width, width)


def flux2() -> Shapes:
    """FLUX.2 Klein 4B with one block of each kind; nothing in it has a bias."""
    width = 3072
    shapes = layer("img_in", width, 128) | layer("txt_in", width, 7680)
    shapes |= layer("time_in.in_layer", width, 256) | layer("time_in.out_layer", width, width)
    for half in ("img", "txt"):
        block = f"double_blocks.0.{half}"
        shapes |= _attention(f"{block}_attn", width, False)
        shapes |= layer(f"{block}_mlp.0", 6 * width, width) | layer(f"{block}_mlp.2", width, 3 * width)
        shapes |= layer(f"double_stream_modulation_{half}.lin", 6 * width, width)
    shapes |= layer("single_blocks.0.linear1", 9 * width, width) | layer("single_blocks.0.linear2", width, 4 * width)
    shapes |= _scales("single_blocks.0.norm") | layer("single_stream_modulation.lin", 3 * width, width)
    shapes |= layer("final_layer.linear", 128, width) | layer("final_layer.adaLN_modulation.1", 2 * width, width)
    return {name: shape for name, shape in shapes.items() if not name.endswith(".bias")}


def _attention(name: str, width: int, bias: bool) -> Shapes:
    shapes = layer(f"{name}.qkv", 3 * width, width, bias=bias) | layer(f"{name}.proj", width, width)
    return shapes | _scales(f"{name}.norm")


def _scales(name: str) -> Shapes:
    return {f"{name}.query_norm.scale": (128,), f"{name}.key_norm.scale": (128,)}


def anima() -> Shapes:
    """Anima with one block, and the adapter that lies in its file."""
    width, text = 2048, 1024
    shapes = layer("x_embedder.proj.1", width, 68) | layer("t_embedding_norm", width)
    shapes |= layer("t_embedder.1.linear_1", width, width) | layer("t_embedder.1.linear_2", 3 * width, width)
    for attention, inputs in (("self_attn", width), ("cross_attn", text)):
        name = f"blocks.0.{attention}"
        shapes |= layer(f"{name}.q_proj", width, width) | layer(f"{name}.output_proj", width, width)
        shapes |= layer(f"{name}.k_proj", width, inputs) | layer(f"{name}.v_proj", width, inputs)
        shapes |= layer(f"{name}.q_norm", 128) | layer(f"{name}.k_norm", 128)
    shapes |= layer("blocks.0.mlp.layer1", 4 * width, width) | layer("blocks.0.mlp.layer2", width, 4 * width)
    for part in ("self_attn", "cross_attn", "mlp"):
        shapes |= layer(f"blocks.0.adaln_modulation_{part}.1", 256, width)
        shapes |= layer(f"blocks.0.adaln_modulation_{part}.2", 3 * width, 256)
    shapes |= layer("final_layer.linear", 64, width)
    shapes |= layer("final_layer.adaln_modulation.1", 256, width)
    shapes |= layer("final_layer.adaln_modulation.2", 2 * width, 256)
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith(".bias")}
    return shapes | prefixed("llm_adapter.", _adapter(text))


def _adapter(width: int) -> Shapes:
    shapes: Shapes = {"embed.weight": (32128, width)}
    for index in range(6):
        block = f"blocks.{index}"
        for attention in ("self_attn", "cross_attn"):
            for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
                shapes |= layer(f"{block}.{attention}.{part}", width, width, bias=False)
            for part in ("q_norm", "k_norm"):
                shapes |= layer(f"{block}.{attention}.{part}", 64, bias=False)
        for norm in ("norm_self_attn", "norm_cross_attn", "norm_mlp"):
            shapes |= layer(f"{block}.{norm}", width, bias=False)
        shapes |= layer(f"{block}.mlp.0", 4 * width, width) | layer(f"{block}.mlp.2", width, 4 * width)
    return shapes | layer("out_proj", width, width) | layer("norm", width, bias=False)


# --- text encoders


def clip_l() -> Shapes:
    """CLIP ViT-L/14's text half, by transformers' names."""
    return _clip(768, 12)


def clip_g() -> Shapes:
    """OpenCLIP ViT-bigG/14's text half, by transformers' names."""
    return _clip(1280, 32) | {"text_projection.weight": (1280, 1280)}


def _clip(width: int, depth: int) -> Shapes:
    root = "text_model."
    shapes: Shapes = {
        root + "embeddings.token_embedding.weight": (49408, width),
        root + "embeddings.position_embedding.weight": (77, width),
    }
    for index in range(depth):
        block = f"{root}encoder.layers.{index}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= layer(f"{block}self_attn.{part}", width, width)
        shapes |= layer(block + "layer_norm1", width) | layer(block + "layer_norm2", width)
        shapes |= layer(block + "mlp.fc1", 4 * width, width) | layer(block + "mlp.fc2", width, 4 * width)
    return shapes | layer(root + "final_layer_norm", width)


def open_clip_g() -> Shapes:
    """The same by OpenCLIP's names, as SDXL checkpoints have it."""
    width = 1280
    shapes: Shapes = {
        "token_embedding.weight": (49408, width), "positional_embedding": (77, width),
        "text_projection": (width, width), "logit_scale": (),
    }  # fmt: skip
    for index in range(32):
        block = f"transformer.resblocks.{index}."
        shapes |= {block + "attn.in_proj_weight": (3 * width, width), block + "attn.in_proj_bias": (3 * width,)}
        shapes |= layer(block + "attn.out_proj", width, width)
        shapes |= layer(block + "ln_1", width) | layer(block + "ln_2", width)
        shapes |= layer(block + "mlp.c_fc", 4 * width, width) | layer(block + "mlp.c_proj", width, 4 * width)
    return shapes | layer("ln_final", width)


def t5(depth: int = 2) -> Shapes:
    """T5 v1.1 XXL's encoder with fewer blocks."""
    width, inner = 4096, 10240
    shapes: Shapes = {"shared.weight": (32128, width)}
    for index in range(depth):
        block = f"encoder.block.{index}.layer"
        for part in "qkvo":
            shapes |= layer(f"{block}.0.SelfAttention.{part}", width, width, bias=False)
        if index == 0:
            shapes[f"{block}.0.SelfAttention.relative_attention_bias.weight"] = (32, 64)
        shapes |= layer(f"{block}.0.layer_norm", width, bias=False) | layer(f"{block}.1.layer_norm", width, bias=False)
        for part, shape in (("wi_0", (inner, width)), ("wi_1", (inner, width)), ("wo", (width, inner))):
            shapes |= layer(f"{block}.1.DenseReluDense.{part}", *shape, bias=False)
    return shapes | layer("encoder.final_layer_norm", width, bias=False)


def qwen3(width: int, inner: int, heads: int, depth: int = 2) -> Shapes:
    """Qwen 3's with fewer blocks."""
    shapes: Shapes = {"model.embed_tokens.weight": (151936, width)}
    for index in range(depth):
        block = f"model.layers.{index}"
        for part, shape in (("q", (heads * 128, width)), ("k", (1024, width)), ("v", (1024, width))):
            shapes |= layer(f"{block}.self_attn.{part}_proj", *shape, bias=False)
        shapes |= layer(f"{block}.self_attn.o_proj", width, heads * 128, bias=False)
        for norm, size in (("self_attn.q_norm", 128), ("self_attn.k_norm", 128), ("input_layernorm", width),
                           ("post_attention_layernorm", width)):  # fmt: skip
            shapes |= layer(f"{block}.{norm}", size, bias=False)
        for part, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
            shapes |= layer(f"{block}.mlp.{part}_proj", *shape, bias=False)
    return shapes | layer("model.norm", width, bias=False)
