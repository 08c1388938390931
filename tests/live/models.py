"""Small checkpoints and VAEs for a real WebUI: true SD1.5 key names and shapes, random weights.

The text encoder and the VAE have their full size; the UNet has its first level's width at every level, which the
WebUIs still take for SD1.5 and which makes a 64-pixel picture in a second on a CPU. Each VAE tints its pictures,
so one look tells which one decoded.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vae_manager.codec.kinds.kl.config import KLConfig, expected_shapes

WIDTH, CONTEXT, LEVELS, BLOCKS = 320, 768, 4, 2

TINTS = {"red": (0.5, -0.4, -0.4), "green": (-0.4, 0.5, -0.4), "blue": (-0.4, -0.4, 0.5)}
CHECKPOINTS = {"tiny-a": (0.0, 0.0, 0.0), "tiny-b": (0.35, 0.35, -0.35)}

Shapes = dict[str, tuple[int, ...]]


def write_models(checkpoints: Path, vaes: Path) -> None:
    """Write two checkpoints (with the .yaml that some hosts need) and three tinting VAEs."""
    for folder in (checkpoints, vaes):
        folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, tint) in enumerate(TINTS.items()):
        save_file(_vae(seed, tint), str(vaes / f"tint-{name}.safetensors"), {"format": "pt"})
    for seed, (name, tint) in enumerate(CHECKPOINTS.items(), start=10):
        state = _random({**_unet(), **_text_encoder()}, seed)
        state |= {f"first_stage_model.{key}": tensor for key, tensor in _vae(100 + seed, tint).items()}
        save_file(state, str(checkpoints / f"{name}.safetensors"), {"format": "pt"})
        # JSON is YAML too
        (checkpoints / f"{name}.yaml").write_text(json.dumps(_config()), encoding="utf-8")


def write_washed_out(source: Path, path: Path, contrast: float) -> None:
    """A VAE that is another one with a part of its contrast lost: the fault that was measured in the field."""
    from vae_manager.color.bake import fold_decoder
    from vae_manager.color.matrix import adjustment

    save_file(fold_decoder(load_file(str(source)), adjustment(contrast)), str(path), {"format": "pt"})


def write_taesd(path: Path) -> None:
    """A TAESD decoder of the true shape, with random weights, in the layout of its author's files."""
    from vae_manager.codec.kinds.tiny.network import TinyConfig, make_decoder

    torch.manual_seed(5)
    save_file(
        {name: tensor.contiguous() for name, tensor in make_decoder(TinyConfig()).state_dict().items()}, str(path)
    )


def _vae(seed: int, tint: tuple[float, float, float]) -> dict[str, Tensor]:
    state = _random(expected_shapes(KLConfig()), seed)
    state["decoder.conv_out.weight"] *= 0.35  # pixels spread by about 0.2 around the tint
    state["decoder.conv_out.bias"] = torch.tensor(tint, dtype=torch.float16)
    # latents of about unit variance, drawn from a narrow posterior
    state["quant_conv.weight"][:4] *= 2
    state["quant_conv.weight"][4:] *= 0.1
    state["quant_conv.bias"][4:] = -6
    return state


def _random(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("bias"):
            return torch.randn(shape, generator=generator) * 0.02
        if len(shape) == 1:  # a norm's gain
            return torch.ones(shape)
        if "embedding" in name:
            return torch.randn(shape, generator=generator) * 0.05
        return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))

    return {name: tensor(name, shape).half() for name, shape in shapes.items()}


def _layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": shape, **({f"{name}.bias": (shape[0],)} if bias else {})}


def _conv(name: str, inputs: int, outputs: int, kernel: int = 3) -> Shapes:
    return _layer(name, outputs, inputs, kernel, kernel)


def _unet() -> Shapes:
    root = "model.diffusion_model."
    shapes = _layer(root + "time_embed.0", 4 * WIDTH, WIDTH) | _layer(root + "time_embed.2", 4 * WIDTH, 4 * WIDTH)
    shapes |= _conv(root + "input_blocks.0.0", 4, WIDTH)
    block = 1
    for level in range(LEVELS):
        for _ in range(BLOCKS):
            shapes |= _unet_block(f"{root}input_blocks.{block}", WIDTH, attention=level < 3)
            block += 1
        if level < LEVELS - 1:
            shapes |= _conv(f"{root}input_blocks.{block}.0.op", WIDTH, WIDTH)
            block += 1
    for index in (0, 2):
        shapes |= _residual(f"{root}middle_block.{index}", WIDTH)
    shapes |= _transformer(f"{root}middle_block.1")
    block = 0
    for level in reversed(range(LEVELS)):
        for index in range(BLOCKS + 1):
            shapes |= _unet_block(f"{root}output_blocks.{block}", 2 * WIDTH, attention=level < 3)
            if level and index == BLOCKS:
                shapes |= _conv(f"{root}output_blocks.{block}.{2 if level < 3 else 1}.conv", WIDTH, WIDTH)
            block += 1
    return shapes | _layer(root + "out.0", WIDTH) | _conv(root + "out.2", WIDTH, 4)


def _unet_block(name: str, inputs: int, attention: bool) -> Shapes:
    return _residual(f"{name}.0", inputs) | (_transformer(f"{name}.1") if attention else {})


def _residual(name: str, inputs: int) -> Shapes:
    shapes = _layer(f"{name}.in_layers.0", inputs) | _conv(f"{name}.in_layers.2", inputs, WIDTH)
    shapes |= _layer(f"{name}.emb_layers.1", WIDTH, 4 * WIDTH)
    shapes |= _layer(f"{name}.out_layers.0", WIDTH) | _conv(f"{name}.out_layers.3", WIDTH, WIDTH)
    return shapes | (_conv(f"{name}.skip_connection", inputs, WIDTH, 1) if inputs != WIDTH else {})


def _transformer(name: str) -> Shapes:
    block = f"{name}.transformer_blocks.0"
    shapes = _layer(f"{name}.norm", WIDTH) | _conv(f"{name}.proj_in", WIDTH, WIDTH, 1)
    for attention, context in (("attn1", WIDTH), ("attn2", CONTEXT)):
        for part, inputs in (("to_q", WIDTH), ("to_k", context), ("to_v", context)):
            shapes |= _layer(f"{block}.{attention}.{part}", WIDTH, inputs, bias=False)
        shapes |= _layer(f"{block}.{attention}.to_out.0", WIDTH, WIDTH)
    shapes |= _layer(f"{block}.ff.net.0.proj", 8 * WIDTH, WIDTH) | _layer(f"{block}.ff.net.2", WIDTH, 4 * WIDTH)
    for index in (1, 2, 3):
        shapes |= _layer(f"{block}.norm{index}", WIDTH)
    return shapes | _conv(f"{name}.proj_out", WIDTH, WIDTH, 1)


def _text_encoder() -> Shapes:
    """CLIP ViT-L/14's text half."""
    root = "cond_stage_model.transformer.text_model."
    shapes: Shapes = {
        root + "embeddings.token_embedding.weight": (49408, CONTEXT),
        root + "embeddings.position_embedding.weight": (77, CONTEXT),
    }
    for index in range(12):
        layer = f"{root}encoder.layers.{index}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _layer(f"{layer}self_attn.{part}", CONTEXT, CONTEXT)
        shapes |= _layer(layer + "layer_norm1", CONTEXT) | _layer(layer + "layer_norm2", CONTEXT)
        shapes |= _layer(layer + "mlp.fc1", 4 * CONTEXT, CONTEXT) | _layer(layer + "mlp.fc2", CONTEXT, 4 * CONTEXT)
    return shapes | _layer(root + "final_layer_norm", CONTEXT)


def _config() -> dict[str, object]:
    """What A1111 needs to build a model whose UNet has other widths than SD1.5's."""
    unet = {
        "in_channels": 4, "out_channels": 4, "model_channels": WIDTH, "attention_resolutions": [4, 2, 1],
        "num_res_blocks": BLOCKS, "channel_mult": [1] * LEVELS, "num_heads": 8, "use_spatial_transformer": True,
        "transformer_depth": 1, "context_dim": CONTEXT, "use_checkpoint": False, "legacy": False, "image_size": 32,
    }  # fmt: skip
    first_stage = {
        "embed_dim": 4, "lossconfig": {"target": "torch.nn.Identity"},
        "ddconfig": {
            "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
            "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
        },
    }  # fmt: skip
    params = {
        "linear_start": 0.00085, "linear_end": 0.012, "num_timesteps_cond": 1, "timesteps": 1000,
        "first_stage_key": "jpg", "cond_stage_key": "txt", "image_size": 64, "channels": 4,
        "cond_stage_trainable": False, "conditioning_key": "crossattn", "scale_factor": 0.18215, "use_ema": False,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
        "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": first_stage},
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
    }  # fmt: skip
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}
