"""The models that people run, small, with random weights: one checkpoint each, its text encoders, and VAEs that tint.

A checkpoint has its VAE baked in, or comes with one as a module (`default`), as its makers give it out. Of every latent
space there are a red and a green VAE, so that a look at a picture tells what decoded it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.codec.causal_reference import WanVAE
from tests.live import layers
from tests.live.layers import Shapes, prefixed, random_weights
from vae_manager.codec.kinds.kl.config import KLConfig, expected_shapes

TINTS = {"red": (0.5, -0.4, -0.4), "green": (-0.4, 0.5, -0.4), "default": (0.3, 0.3, -0.3)}
"""`default`: what is baked in, or given as a module."""

State = dict[str, Tensor]


@dataclass(frozen=True)
class Model:
    """One checkpoint and what belongs to it."""

    id: str
    vae: str
    """Which VAEs decode it, by the first part of their files' names."""
    hosts: frozenset[str]
    """The WebUIs that run it on a CPU."""
    checkpoint: Callable[[], tuple[Shapes, dict[str, str]]]
    """The names and shapes of its tensors without a VAE, and metadata."""
    encoders: Mapping[str, Callable[[], Shapes]] = field(default_factory=dict)
    """File's stem → a text encoder that is a module of its own."""
    baked: str | None = None
    """How the names of the VAE baked into its file begin; None: its VAE is a module."""
    config: Callable[[], dict[str, object]] | None = None
    """What lies beside it for A1111."""
    job: Mapping[str, Any] = field(default_factory=dict)
    """What a picture of it needs."""
    refused: tuple[str, ...] = ()
    """Latent spaces whose VAEs must not go into it, by the first part of their files' names."""

    @property
    def file(self) -> str:
        return f"{self.id}.safetensors"

    def vae_file(self, tint: str) -> str:
        return f"{self.vae}-{tint}.safetensors"


def _sdxl() -> tuple[Shapes, dict[str, str]]:
    shapes = prefixed("model.diffusion_model.", layers.sdxl_unet())
    shapes |= prefixed("conditioner.embedders.0.transformer.", layers.clip_l())
    return shapes | prefixed("conditioner.embedders.1.model.", layers.open_clip_g()), {}


def _sd3() -> tuple[Shapes, dict[str, str]]:
    shapes = prefixed("model.diffusion_model.", layers.sd3())
    shapes |= prefixed("text_encoders.clip_l.transformer.", layers.clip_l() | {"text_projection.weight": (768, 768)})
    return shapes | prefixed("text_encoders.clip_g.transformer.", layers.clip_g()), {}


def _alone(shapes: Callable[[], Shapes]) -> Callable[[], tuple[Shapes, dict[str, str]]]:
    """A file with a transformer and nothing else, as most people have them."""
    return lambda: (shapes(), {})


FLOW = {"cfg_scale": 1, "sampler_name": "Euler", "scheduler": "Simple"}
T5 = {"t5xxl": layers.t5}
EVERY = frozenset({"a1111", "forge", "neo", "reforge", "classic"})

MODELS = (
    Model("zoo-sdxl", "sdxl", EVERY, _sdxl, baked="first_stage_model.", config=layers.sdxl_config,
          refused=("sd1", "flux1")),
    Model("zoo-sd3", "sd3", frozenset({"a1111", "forge"}), _sd3, T5, baked="first_stage_model.",
          job={"sampler_name": "Euler", "scheduler": "Simple"}, refused=("sdxl", "flux1", "flux2")),
    Model("zoo-flux1", "flux1", frozenset({"forge", "neo"}), _alone(layers.flux1),
          {"clip_l": layers.clip_l, **T5}, job=FLOW, refused=("sdxl", "sd3", "flux2")),
    Model("zoo-flux2-klein", "flux2", frozenset({"neo"}), _alone(layers.flux2),
          {"qwen3_4b": lambda: layers.qwen3(2560, 9728, 32)}, job=FLOW, refused=("flux1", "sdxl")),
    Model("zoo-anima", "wan21", frozenset({"neo"}), lambda: (prefixed("net.", layers.anima()), {}),
          {"qwen3_06b": lambda: layers.qwen3(1024, 3072, 16)}, job={**FLOW, "cfg_scale": 4},
          refused=("flux1", "sdxl")),
)  # fmt: skip


# --- VAEs


def _kl(config: KLConfig, **metadata: str) -> Callable[[int], tuple[State, dict[str, str]]]:
    def make(seed: int) -> tuple[State, dict[str, str]]:
        state = random_weights(expected_shapes(config), seed, pooled=True)
        state["decoder.conv_out.weight"] *= 0.35  # pixels spread by about 0.2 around the tint
        if config.quant_conv:  # latents of about unit variance, drawn from a narrow posterior
            channels = config.latent_channels
            state["quant_conv.weight"][:channels] *= 2
            state["quant_conv.weight"][channels:] *= 0.1
            state["quant_conv.bias"][channels:] = -6
        else:
            channels = config.latent_channels
            state["encoder.conv_out.weight"][channels:] *= 0.1
            state["encoder.conv_out.bias"][channels:] = -6
        return state, metadata

    return make


def _flux2(seed: int) -> tuple[State, dict[str, str]]:
    state, metadata = _kl(KLConfig(latent_channels=32, hidden_latent_channels=32))(seed)
    generator = torch.Generator().manual_seed(seed)
    state["bn.running_mean"] = torch.randn(128, generator=generator) * 0.1
    state["bn.running_var"] = 1 + torch.rand(128, generator=generator)
    state["bn.num_batches_tracked"] = torch.tensor(1)
    return state, metadata


def _wan21(seed: int) -> tuple[State, dict[str, str]]:
    with torch.device("meta"):  # the names and shapes alone
        shapes = {n: tuple(t.shape) for n, t in WanVAE((96, 192, 384, 384), latent=16, blocks=2).state_dict().items()}
    state = random_weights(shapes, seed, pooled=True)
    state["decoder.head.2.weight"] *= 0.35
    return state, {}


SIXTEEN = KLConfig(latent_channels=16, hidden_latent_channels=16, quant_conv=False, post_quant_conv=False)
VAES: dict[str, Callable[[int], tuple[State, dict[str, str]]]] = {
    "sd1": _kl(KLConfig(), scale_factor="0.18215"),
    "sdxl": _kl(KLConfig(), scale_factor="0.13025"),
    "sd3": _kl(SIXTEEN, scale_factor="1.5305"),
    "flux1": _kl(SIXTEEN, scale_factor="0.3611"),
    "flux2": _flux2,
    "wan21": _wan21,
}
LAST = {"wan21": "decoder.head.2.bias"}
"""The bias that tints."""


def vae_state(space: str, tint: str) -> tuple[State, dict[str, str]]:
    """A VAE of a latent space that tints its pictures, and its metadata; the tints differ in all weights."""
    state, metadata = VAES[space](len(tint))
    state[LAST.get(space, "decoder.conv_out.bias")] = torch.tensor(TINTS[tint], dtype=torch.float16)
    return state, metadata


# --- files


@dataclass(frozen=True)
class Zoo:
    """The folders."""

    checkpoints: Path
    vaes: Path
    encoders: Path

    def modules(self, model: Model) -> list[str]:
        """What a model is given beside its checkpoint, as Forge's list of modules."""
        files = [] if model.baked else [self.vaes / model.vae_file("default")]
        return [str(file) for file in (*files, *(self.encoders / f"{name}.safetensors" for name in model.encoders))]


def write_zoo(root: Path, models: tuple[Model, ...]) -> Zoo:
    """Write these models, and the VAEs that are theirs or are refused for them; files that are there stay."""
    zoo = Zoo(root / "Stable-diffusion", root / "VAE", root / "text_encoder")
    for folder in (zoo.checkpoints, zoo.vaes, zoo.encoders):
        folder.mkdir(parents=True, exist_ok=True)
    for model in models:
        _write(zoo.checkpoints / model.file, partial(_checkpoint, model))
        if model.config:  # JSON is YAML too
            (zoo.checkpoints / f"{model.id}.yaml").write_text(json.dumps(model.config()), encoding="utf-8")
        for name, shapes in model.encoders.items():
            _write(zoo.encoders / f"{name}.safetensors", partial(_encoder, shapes))
        tints = ("red", "green") if model.baked else tuple(TINTS)
        for space, tint in (*((model.vae, t) for t in tints), *((space, "red") for space in model.refused)):
            _write(zoo.vaes / f"{space}-{tint}.safetensors", partial(vae_state, space, tint))
    return zoo


def _write(path: Path, make: Callable[[], tuple[State, dict[str, str]]]) -> None:
    if not path.exists():
        state, metadata = make()
        save_file(state, f"{path}.part", {"format": "pt", **metadata})
        Path(f"{path}.part").rename(path)


def _checkpoint(model: Model) -> tuple[State, dict[str, str]]:
    shapes, metadata = model.checkpoint()
    seed, dtype = 20 + MODELS.index(model), torch.float16 if model.baked else torch.bfloat16
    state = random_weights(shapes, seed, dtype, pooled=True)
    if model.baked:
        baked, _ = vae_state(model.vae, "default")
        state |= {model.baked + name: tensor for name, tensor in baked.items()}
    return state, metadata


def _encoder(shapes: Callable[[], Shapes]) -> tuple[State, dict[str, str]]:
    return random_weights(shapes(), 7, pooled=True), {}
