"""Small checkpoints and VAEs for a real WebUI: true SD1.5 key names and shapes, random weights.

The text encoder and the VAE have their full size; the UNet has its first level's width at every level, which the
WebUIs still take for SD1.5 and which makes a 64-pixel picture in a second on a CPU. Each VAE tints its pictures,
so one look tells which one decoded.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.live.layers import Shapes, clip_l, conv, layer, prefixed, random_weights, residual, transformer
from vae_manager.codec.kinds.kl.config import KLConfig, expected_shapes
from vae_manager.commands.demo import DATA, GOOD

WIDTH, CONTEXT, LEVELS, BLOCKS = 320, 768, 4, 2

WIDER, INNER = 8, 16
"""How much narrower the demo VAE is than SD1's; its inner convolutions have so many channels and more."""

TINTS = {"red": (0.5, -0.4, -0.4), "green": (-0.4, 0.5, -0.4), "blue": (-0.4, -0.4, 0.5)}
CHECKPOINTS = {"tiny-a": (0.0, 0.0, 0.0), "tiny-b": (0.35, 0.35, -0.35)}


def write_models(checkpoints: Path, vaes: Path) -> None:
    """Write two checkpoints (with the .yaml that some hosts need) and three tinting VAEs."""
    for folder in (checkpoints, vaes):
        folder.mkdir(parents=True, exist_ok=True)
    for name in TINTS:
        write_vae(vaes / f"tint-{name}.safetensors", name)
    for name in CHECKPOINTS:
        write_checkpoint(checkpoints / f"{name}.safetensors", name)
        # JSON is YAML too
        (checkpoints / f"{name}.yaml").write_text(json.dumps(_config()), encoding="utf-8")


def write_vae(path: Path, name: str) -> None:
    """The tinting VAE of that name."""
    save_file(_vae(list(TINTS).index(name), TINTS[name]), str(path), {"format": "pt"})


def write_checkpoint(path: Path, name: str) -> None:
    """The checkpoint of that name."""
    seed = list(CHECKPOINTS).index(name)
    state = random_weights({**_unet(), **prefixed("cond_stage_model.transformer.", clip_l())}, 10 + seed)
    vae = _vae(110 + seed, CHECKPOINTS[name])
    state |= {f"first_stage_model.{key}": tensor for key, tensor in vae.items()}
    save_file(state, str(path), {"format": "pt"})


def write_flux_vae(path: Path) -> None:
    """A VAE of FLUX's shape: 16 channels, without the convolutions around the latent."""
    shape = KLConfig(latent_channels=16, hidden_latent_channels=16, quant_conv=False, post_quant_conv=False)
    state = random_weights(expected_shapes(shape), 7)
    state["decoder.conv_out.weight"] *= 0.35
    state["encoder.conv_out.bias"][16:] = -6
    save_file(state, str(path), {"format": "pt"})


def write_washed_out(source: Path, path: Path, contrast: float) -> None:
    """A VAE that is another one with a part of its contrast lost: the fault that was measured in the field."""
    from vae_manager.color.bake import fold_decoder
    from vae_manager.color.matrix import adjustment

    save_file(fold_decoder(load_file(str(source)), adjustment(contrast)), str(path), {"format": "pt"})


def write_real(path: Path, contrast: float = 1.0) -> None:
    """The demo VAE as wide as SD1's: every host loads it, and it gives pictures back, as random weights do not.

    `contrast` below 1: with a part of its contrast lost.
    """
    from vae_manager.color.bake import fold_decoder
    from vae_manager.color.matrix import adjustment

    state = {name: _widened(name, tensor.float()) for name, tensor in load_file(str(DATA / GOOD)).items()}
    folded = state if contrast == 1 else fold_decoder(state, adjustment(contrast))
    save_file({name: tensor.half().contiguous() for name, tensor in folded.items()}, str(path), {"format": "pt"})


def _widened(name: str, tensor: Tensor) -> Tensor:
    """All inner channels eight times side by side, so that 4 norm groups become 32 and the results stay the same."""
    if tensor.shape[0] >= INNER:
        tensor = torch.cat([tensor] * WIDER)
    if tensor.ndim == 4 and tensor.shape[1] >= INNER:
        tensor = torch.cat([tensor] * WIDER, dim=1) / WIDER
    # attention divides by the root of its width
    return tensor / WIDER**0.5 if ".attn_1.q." in name else tensor


def write_taesd(path: Path) -> None:
    """A TAESD decoder of the true shape, with random weights, in the layout of its author's files."""
    from vae_manager.codec.kinds.tiny.network import TinyConfig, make_decoder

    torch.manual_seed(5)
    save_file(
        {name: tensor.contiguous() for name, tensor in make_decoder(TinyConfig()).state_dict().items()}, str(path)
    )


def _vae(seed: int, tint: tuple[float, float, float]) -> dict[str, Tensor]:
    state = random_weights(expected_shapes(KLConfig()), seed)
    state["decoder.conv_out.weight"] *= 0.35  # pixels spread by about 0.2 around the tint
    state["decoder.conv_out.bias"] = torch.tensor(tint, dtype=torch.float16)
    # latents of about unit variance, drawn from a narrow posterior
    state["quant_conv.weight"][:4] *= 2
    state["quant_conv.weight"][4:] *= 0.1
    state["quant_conv.bias"][4:] = -6
    return state


def _unet() -> Shapes:
    root = "model.diffusion_model."
    shapes = layer(root + "time_embed.0", 4 * WIDTH, WIDTH) | layer(root + "time_embed.2", 4 * WIDTH, 4 * WIDTH)
    shapes |= conv(root + "input_blocks.0.0", 4, WIDTH)
    block = 1
    for level in range(LEVELS):
        for _ in range(BLOCKS):
            shapes |= _unet_block(f"{root}input_blocks.{block}", WIDTH, attention=level < 3)
            block += 1
        if level < LEVELS - 1:
            shapes |= conv(f"{root}input_blocks.{block}.0.op", WIDTH, WIDTH)
            block += 1
    for index in (0, 2):
        shapes |= residual(f"{root}middle_block.{index}", WIDTH, WIDTH, 4 * WIDTH)
    shapes |= transformer(f"{root}middle_block.1", WIDTH, CONTEXT)
    block = 0
    for level in reversed(range(LEVELS)):
        for index in range(BLOCKS + 1):
            shapes |= _unet_block(f"{root}output_blocks.{block}", 2 * WIDTH, attention=level < 3)
            if level and index == BLOCKS:
                shapes |= conv(f"{root}output_blocks.{block}.{2 if level < 3 else 1}.conv", WIDTH, WIDTH)
            block += 1
    return shapes | layer(root + "out.0", WIDTH) | conv(root + "out.2", WIDTH, 4)


def _unet_block(name: str, inputs: int, attention: bool) -> Shapes:
    inner = transformer(f"{name}.1", WIDTH, CONTEXT) if attention else {}
    return residual(f"{name}.0", inputs, WIDTH, 4 * WIDTH) | inner


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
