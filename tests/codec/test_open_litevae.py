"""open-litevae: files of its names and shapes, held against a second computation that is written from its facts.

Checked once by hand: with the modules of the published repository (commit 2d93a82) and its wavelet transform, filled
with random weights, all four sizes with and without `quantizer` gave our moments to 4.1e-6 and our pictures to 5.5e-7.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from vae_manager.cli import main
from vae_manager.codec.kinds.litevae.names import is_open_litevae
from vae_manager.codec.kinds.open_litevae.network import (
    OpenConfig,
    OpenLiteVAE,
    OpenUNetConfig,
    build_open_litevae,
    published_open_config,
    read_open_config,
)
from vae_manager.errors import VaeFileError
from vae_manager.library.files import vae_file
from vae_manager.library.identify import identify
from vae_manager.library.state import load_state

Z = 4
SMALL = OpenConfig(
    3, OpenUNetConfig(12, 12, (8, 16, 16), 2), OpenUNetConfig(36, 2 * Z, (16, 24), 3), Z, (8, 8, 16, 24), 2
)


# --- a state dict of the published names and shapes, and what it computes, written without our modules


def make_state(
    extractor: tuple[tuple[int, ...], int] = ((8, 16, 16), 2),
    aggregator: tuple[tuple[int, ...], int] = ((16, 24), 3),
    decoder: tuple[tuple[int, ...], int] = ((8, 8, 16, 24), 2),
    z: int = Z,
    quant: bool = False,
) -> dict[str, Tensor]:
    """Widths and residual blocks of each part."""
    state: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(7)

    def tensor(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    def conv(name: str, inputs: int, outputs: int, kernel: int = 3) -> None:
        state[f"{name}.weight"] = tensor(outputs, inputs, kernel, kernel, scale=(inputs * kernel**2) ** -0.5)
        state[f"{name}.bias"] = tensor(outputs, scale=0.1)

    def smc(name: str, inputs: int, outputs: int) -> None:
        conv(f"{name}.conv", inputs, outputs)
        state[f"{name}.gain"], state[f"{name}.scales"] = 1 + tensor(1, scale=0.1), 1 + tensor(inputs, scale=0.3)

    def block(name: str, inputs: int, outputs: int) -> None:
        for index, width in ((1, inputs), (2, outputs)):
            conv(f"{name}.conv{index}", width, outputs)
            state[f"{name}.norm{index}.weight"] = 1 + tensor(outputs, scale=0.1)
            state[f"{name}.norm{index}.bias"] = tensor(outputs, scale=0.1)
        if inputs != outputs:
            conv(f"{name}.residual_conv", inputs, outputs, 1)

    def unet(name: str, inputs: int, outputs: int, widths: tuple[int, ...], blocks: int) -> None:
        conv(f"{name}.init_conv", inputs, widths[0])
        for step, (width, inner) in enumerate(pairwise(widths)):
            for index in range(blocks):
                block(f"{name}.down_blocks.{step}.{index}", width, width)
            conv(f"{name}.down_blocks.{step}.{blocks}", width, inner, 1)
        for index in range(blocks):
            block(f"{name}.mid_block.{index}", widths[-1], widths[-1])
        for step, (inner, width) in enumerate(pairwise(widths[::-1])):
            conv(f"{name}.up_blocks.{step}.0", inner, width, 1)
            for index in range(1, blocks + 1):
                block(f"{name}.up_blocks.{step}.{index}", 2 * width, width)
        conv(f"{name}.conv_out", widths[0], outputs, 1)

    for level in range(3):
        unet(f"encoder.extractors.{level}", 12, 12, *extractor)
    unet("encoder.aggregator", 36, z if quant else 2 * z, *aggregator)
    if quant:
        conv("quantizer.quant_conv", z, 2 * z, 1)
        conv("quantizer.post_quant_conv", z, z, 1)
    widths, blocks = decoder
    conv("decoder.conv_in", z, widths[-1])
    homes = [(f"decoder.mid.{index}", widths[-1], widths[-1]) for index in range(blocks)]
    for level, width in enumerate(widths):
        inner = widths[min(level + 1, len(widths) - 1)]
        homes += [(f"decoder.up.{level}.block.{i}", width if i else inner, width) for i in range(blocks)]
        if level:
            conv(f"decoder.up.{level}.upsample.conv", width, width)
    for name, inputs, outputs in homes:
        smc(f"{name}.conv1", inputs, outputs)
        smc(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", inputs, outputs, 1)
    smc("decoder.conv_norm", widths[0], widths[0])
    conv("decoder.conv_out", widths[0], 3)
    return state


class ByHand:
    """What such a state dict computes, in float64."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {name: tensor.double() for name, tensor in state.items()}

    def conv(self, name: str, x: Tensor) -> Tensor:
        kernel = self.state[f"{name}.weight"]
        return F.conv2d(x, kernel, self.state[f"{name}.bias"], padding=kernel.shape[-1] // 2)

    def smc(self, name: str, x: Tensor) -> Tensor:
        kernel, scales = self.state[f"{name}.conv.weight"], self.state[f"{name}.scales"]
        kernel = kernel / kernel.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        kernel = kernel * (scales / scales.square().mean().sqrt())[None, :, None, None]
        kernel = kernel / (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        bias = self.state[f"{name}.conv.bias"]
        return F.conv2d(x, kernel * self.state[f"{name}.gain"], bias, padding=1)

    def block(self, name: str, x: Tensor) -> Tensor:
        h = x
        for i in (1, 2):
            weight, bias = self.state[f"{name}.norm{i}.weight"], self.state[f"{name}.norm{i}.bias"]
            h = F.silu(F.group_norm(self.conv(f"{name}.conv{i}", h), 8, weight, bias))
        return h + (self.conv(f"{name}.residual_conv", x) if f"{name}.residual_conv.weight" in self.state else x)

    def unet(self, name: str, x: Tensor, steps: int, blocks: int) -> Tensor:
        x, skips = self.conv(f"{name}.init_conv", x), []
        for step in range(steps):
            for i in range(blocks):
                x = self.block(f"{name}.down_blocks.{step}.{i}", x)
                skips.append(x)
            x = self.conv(f"{name}.down_blocks.{step}.{blocks}", x)
        for i in range(blocks):
            x = self.block(f"{name}.mid_block.{i}", x)
        for step in range(steps):
            x = self.conv(f"{name}.up_blocks.{step}.0", x)
            for i in range(1, blocks + 1):
                x = self.block(f"{name}.up_blocks.{step}.{i}", torch.cat([x, skips.pop()], dim=1))
        return self.conv(f"{name}.conv_out", x)

    def encode(self, x: Tensor) -> Tensor:
        low, features = x.double(), []
        for level in range(3):
            a, b = low[..., 0::2, 0::2], low[..., 0::2, 1::2]
            c, d = low[..., 1::2, 0::2], low[..., 1::2, 1::2]
            low = (a + b + c + d) / 2
            bands = torch.cat([low, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2], dim=1)
            h = self.unet(f"encoder.extractors.{level}", bands, steps=2, blocks=2)
            features.append(F.avg_pool2d(h, (4, 2, 1)[level]))
        h = self.unet("encoder.aggregator", torch.cat(features, dim=1), steps=1, blocks=3)
        return self.conv("quantizer.quant_conv", h) if "quantizer.quant_conv.weight" in self.state else h

    def decode(self, z: Tensor) -> Tensor:
        z = z.double()
        if "quantizer.post_quant_conv.weight" in self.state:
            z = self.conv("quantizer.post_quant_conv", z)
        h = self.conv("decoder.conv_in", z)
        blocks = [f"decoder.mid.{i}" for i in range(2)]
        for level in (3, 2, 1, 0):
            for name in [*blocks, *(f"decoder.up.{level}.block.{i}" for i in range(2))]:
                x = h
                for i in (1, 2):
                    h = F.silu(self.smc(f"{name}.conv{i}", h))
                h = h + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.state else x)
            blocks = []
            if level:
                h = self.conv(f"decoder.up.{level}.upsample.conv", F.interpolate(h, scale_factor=2.0))
        return self.conv("decoder.conv_out", F.silu(self.smc("decoder.conv_norm", h)))


def pictures() -> Tensor:
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


# --- the network


@pytest.mark.parametrize("quant", [False, True])
def test_it_computes_what_the_facts_say(quant: bool):
    state = make_state(quant=quant)
    vae, by_hand = build_open_litevae(state), ByHand(state)
    moments = vae.encode_moments(pictures())
    assert moments.shape == (2, 2 * Z, 4, 6) and torch.equal(vae.encode(pictures()), moments[:, :Z])
    torch.testing.assert_close(moments.double(), by_hand.encode(pictures()), atol=1e-5, rtol=1e-5)
    z = torch.randn(1, Z, 3, 5, generator=torch.Generator().manual_seed(2))
    assert vae.decode(z).shape == (1, 3, 24, 40)
    torch.testing.assert_close(vae.decode(z).double(), by_hand.decode(z), atol=1e-5, rtol=1e-5)


def test_the_tensors_are_shared_and_half_precision_runs():
    state = make_state()
    vae = build_open_litevae(state)
    assert vae.decoder.conv_in.weight.data_ptr() == state["decoder.conv_in.weight"].data_ptr()
    half = build_open_litevae({name: tensor.bfloat16() for name, tensor in state.items()})
    picture = half.decode(half.encode(pictures().bfloat16()))
    assert picture.dtype == torch.bfloat16 and picture.isfinite().all()


@pytest.mark.parametrize(("size", "millions"), [("S", 0.97), ("B", 6.60), ("M", 34.00), ("L", 41.15)])
def test_published_sizes_have_the_readmes_parameters_and_are_read_back(size: str, millions: float):
    """The README rounds, and does not say with how many latent channels it counted: within half a percent."""
    config = published_open_config(size)
    with torch.device("meta"):
        vae = OpenLiteVAE(config)
    encoder, decoder = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (vae.encoder, vae.decoder))
    assert encoder == pytest.approx(millions, rel=0.008) and decoder == pytest.approx(53.33, abs=0.005)
    found = read_open_config({name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()})
    assert found == config
    assert config.ratio == 8 and config.latent_channels == 12


def test_sizes_of_ones_own_are_read():
    config = read_open_config({name: tuple(tensor.shape) for name, tensor in make_state().items()})
    assert config == SMALL


# --- files


def test_a_trainers_checkpoint_is_recognised_and_loaded_and_the_file_goes_round(tmp_path: Path, capsys):
    """A Lightning checkpoint has the weights below `state_dict`, with the discriminator and EMA copies beside them."""
    state = make_state(quant=True)
    more = {"loss.discriminator.main.0.weight": torch.zeros(1), "encoder_ema.decay": torch.zeros(1)}
    path, out = tmp_path / "open.ckpt", tmp_path / "open.safetensors"
    torch.save({"state_dict": {**state, **more}, "global_step": 1}, path)
    identity = identify(vae_file(path))
    assert (identity.family, identity.layout, identity.latent_channels, identity.problems) == ("litevae",) * 2 + (Z, ())
    assert "open-litevae" in identity.family_evidence
    assert main(["convert", str(path), "-o", str(out), "--layout", "diffusers"]) == 2 and not out.exists()
    assert main(["convert", str(path), "-o", str(out)]) == 0
    loaded = load_state(vae_file(out))
    assert loaded.kind.label == "LITEVAE" and loaded.tensors.keys() == state.keys()
    vae = loaded.kind.build(loaded.tensors, loaded.norm_groups)
    assert torch.equal(vae.encode(pictures()), build_open_litevae(state).encode(pictures()))
    picture, latent, again = tmp_path / "a.png", tmp_path / "a.safetensors", tmp_path / "b.png"
    Image.fromarray((np.arange(24 * 40 * 3) % 251).astype(np.uint8).reshape(24, 40, 3)).save(picture)
    capsys.readouterr()
    assert main(["encode", str(picture), "-o", str(latent), "--vae", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["latent_shape"] == [1, Z, 3, 5]
    assert main(["decode", str(latent), "-o", str(again), "--vae", str(out), "--json"]) == 0
    assert Image.open(again).size == (40, 24)


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_names_behind_a_prefix(prefix: str):
    state = {prefix + name: tensor for name, tensor in make_state().items()}
    assert is_open_litevae(state) and build_open_litevae(state).config == SMALL


def without(part: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in make_state().items() if part not in name}


BROKEN = {
    "a level is missing": (lambda: without("extractors.2"), "do not fit together"),
    "the middle is missing": (lambda: without("extractors.0.mid_block"), "numbered"),
    "a bias is missing": (lambda: without("extractors.1.init_conv.bias"), "init_conv.bias' is missing"),
    "no decoder": (lambda: without("decoder."), "numbered"),
    "another latent": (
        lambda: make_state() | {"encoder.aggregator.conv_out.weight": torch.zeros(6, 16, 1, 1)},
        "of different VAEs",
    ),
    "no groups": (
        lambda: make_state() | {"encoder.extractors.0.init_conv.weight": torch.zeros(9, 12, 3, 3)},
        "into 8 norm groups",
    ),
    "a layer too much": (lambda: make_state() | {"decoder.attn.weight": torch.zeros(1)}, "not known, 'decoder.attn"),
    "half a quantizer": (
        lambda: {k: t for k, t in make_state(quant=True).items() if "post_quant" not in k},
        "post_quant_conv.bias' is missing",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_whole_open_litevae_is_refused_in_one_sentence(case: str, tmp_path: Path):
    make, message = BROKEN[case]
    with pytest.raises(VaeFileError, match=message):
        build_open_litevae(make())
    path = tmp_path / "broken.safetensors"
    save_file(make(), str(path))
    assert len(identify(vae_file(path)).problems) == 1
