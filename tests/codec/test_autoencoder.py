"""Our autoencoder against diffusers' with the same weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import AutoencoderKL as ReferenceKL
from torch import Tensor

from tests.conftest import FLUX, SD1, make_state, make_vae
from vae_manager.codec.build import build_kl
from vae_manager.codec.kinds.kl.config import KLConfig, expected_shapes
from vae_manager.codec.kinds.kl.names import as_matrix, to_diffusers
from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.codec.whole import decode, encode, latent_of
from vae_manager.errors import BadInputError, VaeFileError

FULL = KLConfig()
FLUX2 = dataclasses.replace(SD1, latent_channels=32, hidden_latent_channels=32)
CONFIGS = {"sd1": SD1, "flux": FLUX, "flux2": FLUX2, "full-width": FULL}


def reference(vae: AutoencoderKL) -> ReferenceKL:
    config = vae.config
    model = ReferenceKL(
        block_out_channels=config.encoder_channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=config.encoder_blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        use_quant_conv=config.quant_conv,
        use_post_quant_conv=config.post_quant_conv,
    )
    state = {to_diffusers(name, 4): as_matrix(name, tensor) for name, tensor in vae.state_dict().items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(48, 80), (64, 64)])
def test_equals_diffusers(name: str, size: tuple[int, int]):
    vae = make_vae(CONFIGS[name])
    other = reference(vae)
    pixels = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        theirs = other.encode(pixels).latent_dist
        moments = encode(vae, pixels)
        assert relative_error(moments, theirs.parameters) <= 1e-5
        z = latent_of(moments)
        assert relative_error(decode(vae, z), other.decode(z).sample) <= 1e-5


def test_sample_is_mean_plus_noise_of_the_posterior():
    moments = torch.cat([torch.full((1, 4, 64, 64), 2.0), torch.full((1, 4, 64, 64), -2.0)], dim=1)
    z = latent_of(moments, torch.Generator().manual_seed(3))
    assert z.mean().item() == pytest.approx(2.0, abs=0.02)
    assert z.std().item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.02)
    assert torch.equal(z, latent_of(moments, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("dtype,limit", [(torch.float16, 2e-2), (torch.bfloat16, 1.5e-1)])
def test_half_precisions_stay_near_fp32(dtype: torch.dtype, limit: float):
    vae, z = make_vae(), torch.randn(1, 4, 8, 8)
    half = build_kl({name: tensor.to(dtype) for name, tensor in vae.state_dict().items()}, 32)
    assert relative_error(decode(half, z), decode(vae, z)) < limit


ODD = {
    "kl-f16": dataclasses.replace(
        SD1, encoder_channels=(32, 32, 64, 64, 96), decoder_channels=(32, 32, 64, 64, 96), encoder_attention=(4,),
        decoder_attention=(3, 4), latent_channels=16, hidden_latent_channels=16,
    ),
    "decoder alone": dataclasses.replace(SD1, encoder_stem=0, encoder_channels=(), encoder_blocks=0, quant_conv=False),
    "small decoder": dataclasses.replace(SD1, decoder_channels=(32, 32, 64, 64), decoder_blocks=1, mid_attention=False),
    "grey": dataclasses.replace(SD1, image_channels=1, encoder_stem=64, hidden_latent_channels=8),
}  # fmt: skip


@pytest.mark.parametrize("config", [*CONFIGS.values(), *ODD.values()], ids=[*CONFIGS, *ODD])
def test_configuration_is_read_from_the_shapes(config: KLConfig):
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in AutoencoderKL(config).state_dict().items()}
    assert KLConfig.from_shapes(shapes) == config
    assert list(expected_shapes(config).items()) == list(shapes.items())


def test_small_decoder_beside_a_full_encoder():
    config = dataclasses.replace(SD1, decoder_channels=(32, 32, 64, 64))
    vae = build_kl(make_state(config), 32)
    assert decode(vae, torch.randn(1, 4, 4, 4)).shape == (1, 3, 32, 32)


def test_build_shares_the_tensors_and_needs_all_of_them():
    state = make_state()
    vae = build_kl(state, 32)
    assert vae.decoder.conv_out.bias.data_ptr() == state["decoder.conv_out.bias"].data_ptr()
    del state["decoder.up.1.block.2.conv2.bias"]
    with pytest.raises(VaeFileError, match=r"decoder\.up\.1\.block\.2\.conv2\.bias.*missing"):
        build_kl(state, 32)


@pytest.mark.parametrize(
    "change,sentence",
    [
        (lambda s: s.pop("decoder.conv_in.weight"), "no tensor 'decoder.conv_in.weight'"),
        (lambda s: s.update({"encoder.conv_out.weight": torch.zeros(10, 128, 3, 3)}), "different VAEs"),
        (lambda s: s.update({"decoder.up.0.block.0.conv1.weight": torch.zeros(32, 64, 1, 1)}), "shape"),
        (lambda s: s.update({"decoder.up.0.attn_2.q.weight": torch.zeros(1)}), "not known"),
        (lambda s: s.update({"encoder.conv_in.weight": torch.zeros(0, 3, 3, 3)}), "impossible shape"),
    ],
)
def test_broken_states_are_refused_with_the_reason(change, sentence: str):
    state = make_state()
    change(state)
    with pytest.raises(VaeFileError, match=sentence):
        build_kl(state, 32)


def test_norm_groups_that_do_not_divide():
    with pytest.raises(VaeFileError, match="norm_num_groups"):
        build_kl(make_state(), 24)


@pytest.mark.parametrize(
    ("latent", "reason"),
    [
        (torch.zeros(1, 16, 4, 4), "another family"),
        (torch.zeros(4, 4, 4), "four axes"),
        (torch.zeros(1, 4, 1, 4, 4), "four axes"),
        (torch.zeros(1, 4, 0, 4), "none of them empty"),
    ],
)
def test_what_is_no_latent_of_this_vae_is_refused_for_what_it_is(latent: Tensor, reason: str):
    with pytest.raises(BadInputError, match=reason):
        decode(make_vae(), latent)


def test_nan_latents_are_told_from_vae_faults():
    with pytest.raises(BadInputError, match="model failed before the VAE"):
        decode(make_vae(), torch.full((1, 4, 4, 4), torch.nan))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(BadInputError, match="multiples of 8"):
        encode(make_vae(), torch.zeros(1, 3, 60, 64))
