"""LiteVAE: the wavelet transform, the paper's sizes, both decoders, reading from tensors, and that it learns."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from vae_manager.codec.kinds.kl.config import KLConfig
from vae_manager.codec.kinds.kl.network import Decoder
from vae_manager.codec.kinds.litevae.config import LiteConfig, UNetConfig, published_config, read_config, size_of
from vae_manager.codec.kinds.litevae.names import litevae_names
from vae_manager.codec.kinds.litevae.network import LiteVAE, SelfModulatedConv, build_litevae, haar, wavelet_levels
from vae_manager.errors import VaeFileError

GROUPS = 8


def small_config(smc: bool = False, latent_channels: int = 4, **changes) -> LiteConfig:
    decoder = KLConfig(
        latent_channels=latent_channels,
        hidden_latent_channels=latent_channels,
        decoder_channels=(16, 16, 24, 24),
        decoder_blocks=1,
        norm_groups=GROUPS,
    )
    config = LiteConfig(
        UNetConfig(12, 12, 8, (8, 8, 16)), UNetConfig(36, 2 * latent_channels, 8, (8, 16)), decoder, smc
    )
    return dataclasses.replace(config, **changes)


def small_vae(smc: bool = False, seed: int = 0, **changes) -> LiteVAE:
    torch.manual_seed(seed)
    return LiteVAE(small_config(smc, **changes))


def pictures(height: int = 32, width: int = 32, seed: int = 1) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# The wavelet transform


def test_haar_of_one_block():
    x = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    low, horizontal, vertical, diagonal = haar(x).flatten().tolist()
    assert (low, horizontal, vertical, diagonal) == (7.5, -4.5, -2.5, 1.5)


def test_haar_is_orthonormal():
    x = pictures()
    torch.testing.assert_close(haar(x).square().sum(), x.square().sum())


def test_bands_come_one_after_the_other():
    flat = torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    bands = haar(flat)
    torch.testing.assert_close(bands[:, :3], 2 * flat[..., ::2, ::2])
    assert bands[:, 3:].abs().max() < 1e-6


def test_each_level_has_the_pictures_range():
    flat = torch.full((1, 3, 16, 24), 0.7)
    for level, bands in enumerate(wavelet_levels(flat), start=1):
        assert bands.shape == (1, 12, 16 >> level, 24 >> level)
        torch.testing.assert_close(bands[:, :3], torch.full_like(bands[:, :3], 0.7))


def test_levels_work_on_the_low_band():
    x = pictures()
    first, second, third = wavelet_levels(x)
    torch.testing.assert_close(second, haar(2 * first[:, :3]) / 4)
    torch.testing.assert_close(third, haar(4 * second[:, :3]) / 8)
    assert wavelet_levels(x.half())[2].dtype == torch.float16


# The paper's sizes


@pytest.mark.parametrize(
    ("size", "millions", "aggregator"),
    # tables 2 and 3; the paper cuts 1.0357 off to 1.03. Table 20 gives B's aggregator alone
    [("S", 1.03, None), ("B", 6.75, 1.69), ("M", 32.75, None), ("L", 41.42, None)],
)
def test_parameter_counts_are_the_papers(size, millions, aggregator):
    with torch.device("meta"):
        vae = LiteVAE(published_config(size, latent_channels=4))
    assert parameters(vae.encoder) // 10_000 / 100 == millions
    assert aggregator is None or round(parameters(vae.encoder.feature_aggregator) / 1e6, 2) == aggregator
    assert parameters(vae.decoder) == 49_490_179  # Stable Diffusion's decoder (README of TAESD)


@pytest.mark.parametrize("size", ["S", "B", "M", "L"])
@pytest.mark.parametrize("latent_channels", [4, 12])
@pytest.mark.parametrize("smc", [False, True])
def test_published_sizes_are_read_back(size, latent_channels, smc):
    config = published_config(size, latent_channels, smc)
    with torch.device("meta"):
        shapes = shapes_of(LiteVAE(config))
    found = read_config(shapes)
    assert found == config and size_of(found) == size
    assert found.latent_channels == latent_channels and found.smc_decoder == smc


def test_smallest_published_size_runs():
    torch.manual_seed(0)
    vae = build_litevae(LiteVAE(published_config("S", 4)).state_dict())
    z = vae.encode(pictures(16, 24)[:1])
    assert z.shape == (1, 4, 2, 3)
    assert vae.decode(z).shape == (1, 3, 16, 24)


# Self-modulated convolution


def test_modulated_kernel_is_equation_3():
    torch.manual_seed(0)
    layer = SelfModulatedConv(3, 5)
    with torch.no_grad():
        layer.scales.copy_(torch.tensor([0.5, 2.0, -3.0]))
        layer.gain.fill_(1.5)
    kernel = layer.weight()
    for out in range(5):
        total = sum((layer.scales[i] * layer.conv.weight[out, i]).square().sum() for i in range(3))
        for i in range(3):
            expected = 1.5 * layer.scales[i] * layer.conv.weight[out, i] / (total + 1e-8).sqrt()
            torch.testing.assert_close(kernel[out, i], expected)


def test_modulated_output_does_not_depend_on_the_kernels_size():
    torch.manual_seed(0)
    layer = SelfModulatedConv(4, 4)
    nn.init.zeros_(layer.conv.bias)
    x = torch.randn(1, 4, 8, 8)
    before = layer(x)
    with torch.no_grad():
        layer.conv.weight *= 1000
    torch.testing.assert_close(layer(x), before)
    assert layer.half().weight().dtype == torch.float16 and layer.weight().isfinite().all()


def test_smc_decoder_has_no_norm_in_its_blocks():
    names = shapes_of(small_vae(smc=True).decoder)
    assert not any("norm1" in name or "norm2" in name for name in names)
    assert "up.0.block.0.conv1.scales" in names and "mid.block_2.conv2.gain" in names


# The whole


@pytest.mark.parametrize("smc", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 40), (8, 8)])
def test_round_trip_shapes(smc, height, width):
    vae = small_vae(smc)
    moments = vae.encode_moments(pictures(height, width))
    assert moments.shape == (2, 8, height // 8, width // 8)
    assert torch.equal(vae.encode(pictures(height, width)), moments[:, :4])
    assert vae.decode(moments[:, :4]).shape == (2, 3, height, width)


def test_group_norm_decoder_is_stable_diffusions():
    vae = small_vae()
    decoder = Decoder(vae.config.decoder)
    decoder.load_state_dict(vae.decoder.state_dict())
    z = torch.randn(1, 4, 4, 4)
    assert torch.equal(vae.decode(z), decoder(z))


@pytest.mark.parametrize("extractor", [1, 2, 3])
def test_every_level_reaches_the_latent(extractor):
    """The paper's pseudocode runs the second level through the first level's extractor by a slip."""
    vae, x = small_vae(), pictures()
    before = vae.encode(x)
    with torch.no_grad():
        vae.encoder.get_submodule(f"feature_extractor_L{extractor}.out_layer").bias += 1
    assert not torch.equal(vae.encode(x), before)


def test_optional_convolutions_around_the_latent():
    vae = small_vae(pre_conv=True, post_conv=True)
    built = build_litevae(vae.state_dict(), GROUPS)
    assert built.config == vae.config
    x = pictures()
    assert torch.equal(vae.encode_moments(x), vae.pre_conv(vae.encoder(x)))
    z = vae.encode(x)
    assert torch.equal(vae.decode(z), vae.decoder(vae.post_conv(z)))


# Reading from tensors


@pytest.mark.parametrize("smc", [False, True])
@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_built_from_its_tensors(smc, prefix):
    vae = small_vae(smc).eval()
    state = {prefix + name: tensor for name, tensor in vae.state_dict().items()} | {"loss.logvar": torch.zeros(1)}
    built = build_litevae(state, GROUPS)
    assert built.config == vae.config and not built.training
    assert built.decoder.conv_in.weight.data_ptr() == vae.decoder.conv_in.weight.data_ptr()
    x = pictures()
    assert torch.equal(built.encode(x), vae.encode(x))
    assert torch.equal(built.decode(built.encode(x)), vae.decode(vae.encode(x)))


def test_pseudocodes_slips_are_read():
    vae = small_vae(extractor=dataclasses.replace(small_config().extractor, smc_mid=True))
    state = {name.replace("extractor_L2", "extractors_L2"): tensor for name, tensor in vae.state_dict().items()}
    assert any("extractors_L2" in name for name in state)
    assert build_litevae(state, GROUPS).config == vae.config
    assert set(litevae_names(state)) == set(vae.state_dict())


def test_half_precision_runs():
    built = build_litevae({name: t.bfloat16() for name, t in small_vae(smc=True).state_dict().items()}, GROUPS)
    picture = built.decode(built.encode(pictures().bfloat16()))
    assert picture.dtype == torch.bfloat16 and picture.isfinite().all()


def broken() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    state = small_vae().state_dict()
    other = small_vae(latent_channels=12).state_dict()
    one = "encoder.feature_extractor_L1"

    def without(part: str) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in state.items() if part not in name}

    def only(*parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor for part in parts for name, tensor in part.items()}

    kernel = state[f"{one}.in_layer.weight"]
    return {
        "nothing": ({}, "is missing"),
        "encoder only": ({k: t for k, t in state.items() if k.startswith("encoder.")}, "decoder.conv_in.weight' is"),
        "decoder only": ({k: t for k, t in state.items() if k.startswith("decoder.")}, "feature_extractor_L1"),
        "a level is missing": (without("extractor_L3"), "feature_extractor_L3.*is missing"),
        "a bias is missing": (without(f"{one}.mid_block.res1.conv_out.bias"), "res1.conv_out.bias' is missing"),
        "a block is missing": (without(f"{one}.encoder_blocks.1."), "numbered"),
        "a layer too much": (state | {"encoder.downsample_block_L1.weight": kernel}, "not known, 'encoder.downsample"),
        "a wrong shape": (state | {"encoder.feature_extractor_L2.in_layer.weight": kernel[:, :3]}, "instead of"),
        "no kernel": (state | {f"{one}.in_layer.weight": kernel[0]}, "impossible shape"),
        "another decoder": (
            only(state, {k: t for k, t in other.items() if k.startswith("decoder.")}),
            "of different VAEs",
        ),
        "pictures of two channels": (state | {"decoder.conv_out.weight": torch.zeros(2, 16, 3, 3)}, "fit together"),
    }


@pytest.mark.parametrize("case", broken())
def test_what_is_no_litevae_is_refused(case):
    state, message = broken()[case]
    with pytest.raises(VaeFileError, match=message):
        build_litevae(state, GROUPS)


@pytest.mark.parametrize("groups", [0, 7, 32])
def test_impossible_norm_groups_are_refused(groups):
    with pytest.raises(VaeFileError, match=f"into {groups} norm groups"):
        build_litevae(small_vae().state_dict(), groups)


# It learns


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of pictures in [-1, 1], in dB."""
    return float(10 * torch.log10(4 / (a - b).detach().square().mean()))


@pytest.mark.parametrize("smc", [False, True])
def test_gradients_flow_and_it_learns_a_picture(smc):
    vae = small_vae(smc)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    picture = torch.stack([x, y, torch.sin(6 * x * y)])[None]
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    before = psnr(vae.decode(vae.encode(picture)), picture)
    for _ in range(60):
        optimizer.zero_grad()
        moments = vae.encode_moments(picture)
        # the log-variance takes part as well, so that every parameter has a gradient
        loss = (vae.decode(moments[:, :4]) - picture).square().mean() + 1e-6 * moments.square().mean()
        loss.backward()
        optimizer.step()
    missing = [name for name, parameter in vae.named_parameters() if parameter.grad is None]
    assert not missing
    assert psnr(vae.decode(vae.encode(picture)), picture) > before + 6
