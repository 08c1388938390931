"""Tiny autoencoders: true topologies in every key layout, held against diffusers' AutoencoderTiny."""

from __future__ import annotations

import pytest
import torch

from vae_manager.codec.kinds.tiny.names import is_tiny, taesd_names
from vae_manager.codec.kinds.tiny.network import (
    TinyAutoencoder,
    TinyConfig,
    build_taesd,
    make_decoder,
    make_encoder,
    read_configs,
    variants,
)
from vae_manager.errors import BadInputError, VaeFileError

SMALL = TinyConfig(latent_channels=4, channels=(8, 8, 8), blocks=(1, 2, 2))
SANA_ENCODER = TinyConfig(32, (64, 64, 64, 64), (1, 3, 3, 3), stem=(32, 64))
SANA_DECODER = TinyConfig(32, (64, 64, 64, 64, 128, 256), (1, 3, 3, 3, 3, 3))
TRUE = {
    "taesd": (TinyConfig(4), TinyConfig(4)),
    "taef1": (TinyConfig(16), TinyConfig(16)),
    "taef2": (TinyConfig(32, pool=True), TinyConfig(32, pool=True)),
    "taesana": (SANA_ENCODER, SANA_DECODER),
}


def halves(encoder: TinyConfig = SMALL, decoder: TinyConfig = SMALL, seed: int = 0) -> tuple[dict, dict]:
    """State dicts as published: bare numbers, one file for each half."""
    torch.manual_seed(seed)
    return make_encoder(encoder).state_dict(), make_decoder(decoder).state_dict()


def pictures(size: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("name", TRUE)
def test_published_shapes_are_read_back(name):
    encoder, decoder = halves(*TRUE[name])
    vae = build_taesd(encoder, decoder)
    assert (vae.encoder_config, vae.decoder_config) == TRUE[name]
    assert name in variants(vae.config)


@pytest.mark.parametrize(
    ("name", "encoder", "decoder"),
    # taesd: the publisher's README; taef2 and taesana's encoder: counted in the published files
    [("taesd", 1_222_532, 1_222_531), ("taef2", 1_338_528, 1_338_499), ("taesana", 1_256_288, None)],
)
def test_parameter_counts(name, encoder, decoder):
    counts = [sum(tensor.numel() for tensor in half.values()) for half in halves(*TRUE[name])]
    assert counts[0] == encoder
    assert decoder is None or counts[1] == decoder


@pytest.mark.parametrize("name", TRUE)
def test_round_trip_shapes(name):
    vae = build_taesd(*halves(*TRUE[name]))
    x = pictures(64)[:1]
    z = vae.encode(x)
    side = 64 // vae.config.ratio
    assert z.shape == (1, vae.config.latent_channels, side, side)
    assert vae.decode(z).shape == x.shape


def diffusers_tiny(latent_channels: int, channels: tuple[int, ...] = (16, 16, 16), blocks: tuple[int, ...] = (1, 2, 2)):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(3)
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks[::-1],
        latent_channels=latent_channels,
    ).eval()


@pytest.mark.parametrize(
    ("latent_channels", "channels", "blocks"),
    [(4, (16, 16, 16), (1, 2, 2)), (16, (8, 8, 8, 8), (1, 1, 2, 3)), (4, (64, 64, 64, 64), (1, 3, 3, 3))],
)
def test_same_as_diffusers(latent_channels, channels, blocks):
    theirs = diffusers_tiny(latent_channels, channels, blocks)
    ours = build_taesd(theirs.state_dict())
    x = pictures()
    with torch.no_grad():
        z = theirs.encode(x).latents
        torch.testing.assert_close(ours.encode(x), z, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.decode(5 * z), theirs.decode(5 * z).sample, rtol=1e-5, atol=1e-6)


def test_all_layouts_hold_the_same_model():
    encoder, decoder = halves()
    plain = build_taesd(decoder, encoder)  # in any order
    whole = plain.state_dict()
    layouts = {
        "module": whole,
        "comfy": {f"taesd_{name}": tensor for name, tensor in whole.items()} | {"vae_scale": torch.ones(())},
        "diffusers": {f"encoder.layers.{name}": tensor for name, tensor in encoder.items()}
        | {f"decoder.layers.{lower_number(name)}": tensor for name, tensor in decoder.items()},
        "checkpoint": {f"first_stage_model.{name}": t for name, t in whole.items()} | {"model.x": torch.ones(1)},
    }
    z = plain.encode(pictures())
    for name, state in layouts.items():
        vae = build_taesd(state)
        assert torch.equal(vae.encode(pictures()), z), name
        assert torch.equal(vae.decode(z), plain.decode(z)), name
        assert taesd_names(state).keys() == whole.keys()
        assert is_tiny(state)


def test_either_half_is_known_and_other_models_are_not():
    assert all(is_tiny(half) for pair in TRUE.values() for half in halves(*pair))
    others = [
        "decoder.conv_in.weight",
        "encoder.down.0.block.0.conv1.weight",
        "model.0.weight",
        "0.weight",
        "1.0.weight",
    ]
    assert not is_tiny(others)


def lower_number(name: str) -> str:
    number, _, rest = name.partition(".")
    return f"{int(number) - 1}.{rest}"


def test_pictures_are_converted_at_the_border():
    vae = build_taesd(*halves())
    x, z = pictures(), torch.randn(1, 4, 8, 8)
    assert torch.equal(vae.encode(x), vae.encoder((x + 1) / 2))
    assert torch.equal(vae.decode(z), vae.decoder(z) * 2 - 1)
    assert vae.latent_is_scaled


def test_latents_are_clamped_smoothly():
    vae = build_taesd(*halves())
    z = torch.full((1, 4, 4, 4), 1e4)
    torch.testing.assert_close(vae.decode(z), vae.decode(2 * z))


def test_moments_have_no_noise():
    vae = build_taesd(*halves())
    mean, logvar = vae.encode_moments(pictures()).chunk(2, dim=1)
    assert torch.equal(mean, vae.encode(pictures()))
    assert (0.5 * logvar).exp().max() < 1e-6


def test_pool_sees_the_whole_picture():
    config = TinyConfig(4, (8, 8, 8), (1, 2, 2), pool=True)
    x = pictures(64)
    changed = x.clone()
    changed[..., :8, :8] = 1
    for pool, reaches in ((True, True), (False, False)):
        vae = build_taesd(*halves(*[TinyConfig(4, (8, 8, 8), (1, 1, 1), pool=pool)] * 2))
        far = (vae.encode(changed) - vae.encode(x))[..., -1, -1].abs().max()
        assert bool(far > 0) == reaches
    assert build_taesd(*halves(config, config)).decoder_config.pool


@pytest.mark.parametrize(("keep", "works", "fails"), [("encoder", "encode", "decode"), ("decoder", "decode", "encode")])
def test_one_half_alone(keep, works, fails):
    vae = build_taesd(dict(zip(("encoder", "decoder"), halves(), strict=True))[keep])
    inputs = {"encode": pictures(), "decode": torch.randn(1, 4, 8, 8)}
    assert getattr(vae, works)(inputs[works]).isfinite().all()
    with pytest.raises(BadInputError, match=f"has only its {keep}"):
        getattr(vae, fails)(inputs[fails])


def test_weights_are_shared_and_frozen():
    encoder, decoder = halves()
    vae = build_taesd(encoder, decoder)
    assert vae.encoder[0].weight.data_ptr() == encoder["0.weight"].data_ptr()
    assert not vae.training and not any(p.requires_grad for p in vae.parameters())


def test_half_precision_is_kept():
    encoder, decoder = ({k: t.half() for k, t in half.items()} for half in halves())
    assert {p.dtype for p in build_taesd(encoder, decoder).parameters()} == {torch.float16}


def without(state: dict, name: str) -> dict:
    return {key: tensor for key, tensor in state.items() if key != name}


def broken() -> dict[str, tuple[list[dict], str]]:
    encoder, decoder = halves()
    other = halves(SMALL, TinyConfig(16, (8, 8, 8), (1, 2, 2)))[1]
    deeper = halves(SMALL, TinyConfig(4, (8, 8, 8, 8), (1, 1, 1, 1)))[1]
    return {
        "nothing": ([{}], "neither an encoder nor a decoder"),
        "another kind": ([{"decoder.conv_in.weight": torch.zeros(1)}], "neither an encoder nor a decoder"),
        "missing bias": ([without(encoder, "1.conv.0.bias")], "'1.conv.0.bias' is missing"),
        "missing last layer": ([without(without(decoder, "12.weight"), "12.bias")], "'11.weight' is missing"),
        "extra layer": ([encoder | {"40.weight": torch.zeros(4, 4, 3, 3)}], "'40"),
        "wrong shape": ([encoder | {"2.weight": torch.zeros(8, 8, 1, 1)}], r"\[8, 8, 1, 1\] instead of"),
        "two-dimensional": ([encoder | {"0.weight": torch.zeros(8, 3)}], "impossible shape"),
        "empty": ([encoder | {"0.weight": torch.zeros(0, 3, 3, 3)}], "impossible shape"),
        "no blocks": ([{"0.weight": torch.zeros(8, 3, 3, 3), "1.weight": torch.zeros(4, 8, 3, 3)}], "no residual"),
        "twice the same": ([encoder, encoder], "both files hold a tiny encoder"),
        "other channels": ([encoder, other], "halves of different VAEs"),
        "other ratio": ([encoder, deeper], "halves of different VAEs"),
    }


@pytest.mark.parametrize("case", broken())
def test_what_is_no_tiny_vae_is_refused(case):
    states, message = broken()[case]
    with pytest.raises(VaeFileError, match=message):
        build_taesd(*states)


def test_reading_shapes_needs_no_weights():
    encoder, decoder = read_configs(
        {f"encoder.{name}": tuple(tensor.shape) for name, tensor in halves()[0].items()},
    )
    assert encoder == SMALL and decoder is None


def test_unknown_shape_is_no_published_variant():
    assert variants(SMALL) == () and variants(TinyConfig(4)) == ("taesd", "taesdxl")


def test_it_can_be_trained():
    torch.manual_seed(0)
    vae = TinyAutoencoder(SMALL, SMALL)
    vae.decode(vae.encode(pictures())).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
