"""`exact(pipe.vae)` on diffusers' own autoencoders: their own whole numbers, and nothing of them changed."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from tests.codec.streaming_vaes import scaled_weights
from vae_manager.codec import coder
from vae_manager.diffusers import exact
from vae_manager.errors import BadInputError, VaeFileError

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

LEVEL = 2 / 255
KL = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}
CAUSAL = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 4], "num_res_blocks": 1, "temperal_downsample": [False, True]}
TINY = {
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "num_encoder_blocks": (1, 1, 1),
    "num_decoder_blocks": (1, 1, 1),
}
NAMES = ("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderTiny", "AutoencoderKLQwenImage", "AutoencoderKLWan")


def made(name: str):
    """A small one of diffusers', with random weights."""
    if not hasattr(diffusers, name):
        pytest.skip(f"this diffusers has no {name}")
    shape = TINY if "Tiny" in name else CAUSAL if name.endswith(("Wan", "QwenImage")) else KL
    extra = {"batch_norm_eps": 1e-4} if name.endswith("Flux2") else {}
    torch.manual_seed(0)
    vae = getattr(diffusers, name)(**shape, **extra).eval()
    scaled_weights(vae, 3)
    return vae


def inputs(vae) -> tuple[Tensor, Tensor]:
    """A latent and a picture, large enough to be streamed within little memory."""
    generator = torch.Generator().manual_seed(1)
    channels = vae.config.get("latent_channels") or vae.config.get("z_dim")
    z, x = torch.randn(1, channels, 44, 36, generator=generator), torch.rand(1, 3, 88, 72, generator=generator) * 2 - 1
    return (z[:, :, None], x[:, :, None]) if "z_dim" in vae.config else (z, x)


@torch.no_grad()
def both_ways(vae, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    encoded = vae.encode(x)
    latent = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.parameters
    return vae.decode(z).sample, latent


@pytest.fixture
def streamed(monkeypatch) -> list[bool]:
    """Which runs were streamed: True for a decode."""
    runs: list[bool] = []

    def noted(decodes: bool, real):
        return lambda *args, **options: (runs.append(decodes), real(*args, **options))[1]

    monkeypatch.setattr(coder, "stream_decode", noted(True, coder.stream_decode))
    monkeypatch.setattr(coder, "stream_encode", noted(False, coder.stream_encode))
    return runs


@pytest.mark.parametrize("name", NAMES)
def test_streamed_with_the_librarys_own_numbers(name: str, streamed: list[bool]):
    vae = made(name)
    z, x = inputs(vae)
    whole, latent = both_ways(vae, z, x)
    assert exact(vae, memory="8MiB" if "z_dim" in vae.config else "3MiB") is vae
    pixels, moments = both_ways(vae, z, x)
    assert sorted(streamed) == [False, True]
    assert pixels.shape == whole.shape and (pixels - whole).abs().max() < 0.005 * LEVEL
    assert moments.shape == latent.shape and (moments - latent).abs().max() < 1e-4 * latent.abs().max()


def test_wan_2_2_is_streamed_too(streamed: list[bool]):
    """Its squares of pixels are the library's own, outside of the two halves that are streamed."""
    if not hasattr(diffusers, "AutoencoderKLWan"):
        pytest.skip("this diffusers has no AutoencoderKLWan")
    torch.manual_seed(0)
    more = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "decoder_base_dim": 16}
    try:
        vae = diffusers.AutoencoderKLWan(**{**CAUSAL, "dim_mult": [1, 2, 2]}, **more).eval()
    except TypeError:
        pytest.skip("this diffusers knows Wan 2.1 only")
    scaled_weights(vae, 3)
    z, x = inputs(vae)
    x = x.repeat(1, 1, 1, 4, 4)  # inside it is a quarter of the pixels
    whole, latent = both_ways(vae, z, x)
    pixels, moments = both_ways(exact(vae, memory="8MiB"), z, x)
    assert sorted(streamed) == [False, True]
    assert pixels.shape == whole.shape and (pixels - whole).abs().max() < 0.005 * LEVEL
    assert moments.shape == latent.shape and (moments - latent).abs().max() < 1e-4 * latent.abs().max()


def test_what_fits_comfortably_goes_the_librarys_own_way(streamed: list[bool]):
    vae = made("AutoencoderKL")
    z, x = inputs(vae)
    whole = both_ways(vae, z, x)
    assert all(torch.equal(*pair) for pair in zip(both_ways(exact(vae, memory="4GiB"), z, x), whole))
    assert streamed == []


def test_restored_it_is_as_it_was():
    vae = made("AutoencoderKL")
    before = [dict(vars(module)) for module in vae.modules()]
    names = list(vae.state_dict())
    exact(exact(vae), memory=3 << 20)
    assert vae.config.latent_channels == 4 and list(vae.state_dict()) == names and vae.dtype == torch.float32
    vae.restore()
    assert [dict(vars(module)) for module in vae.modules()] == before


def test_a_copy_is_exact_by_itself(streamed: list[bool]):
    vae = exact(made("AutoencoderKL"), memory="3MiB")
    z, _ = inputs(vae)
    other = copy.deepcopy(vae)
    with torch.no_grad():
        other.decoder.conv_out.bias.add_(1.0)
        assert ((other.decode(z).sample - vae.decode(z).sample) - 1).abs().max() < 1e-4
    assert streamed == [True, True]
    vae.restore()
    assert not hasattr(vae, "restore") and hasattr(other, "restore")


def test_half_precision_stays(streamed: list[bool]):
    vae = exact(made("AutoencoderKL").to(torch.bfloat16), memory="3MiB")
    z, x = (tensor.bfloat16() for tensor in inputs(vae))
    assert [tensor.dtype for tensor in both_ways(vae, z, x)] == [torch.bfloat16] * 2 and len(streamed) == 2


def test_its_tiles_are_for_what_cannot_be_streamed(streamed: list[bool], caplog):
    """`enable_tiling` asks for less memory, which streaming takes; where nothing fits, the tiles are the library's."""
    vae = made("AutoencoderKL")
    z, _ = inputs(vae)
    with torch.no_grad():
        whole = vae.decode(z).sample
        vae.tile_latent_min_size, vae.tile_sample_min_size = 24, 48
        vae.enable_tiling()
        tiled = vae.decode(z).sample
        assert (tiled - whole).abs().max() > LEVEL
        assert (exact(vae, memory="3MiB").decode(z).sample - whole).abs().max() < 0.005 * LEVEL
        assert streamed == [True] and vae.use_tiling
        with caplog.at_level(logging.WARNING, "vae_manager"):
            assert torch.equal(exact(vae, memory=1000).decode(z).sample, tiled)
    assert "is not possible here" in caplog.text and "Diffusers' own way was used." in caplog.text


def test_a_video_goes_the_librarys_own_way(streamed: list[bool]):
    vae = made("AutoencoderKLWan")
    z = torch.randn(1, 4, 3, 10, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = vae.decode(z).sample
        assert torch.equal(exact(vae, memory="3MiB").decode(z).sample, whole)
    assert streamed == []


def test_gradients_are_the_librarys_own(streamed: list[bool]):
    vae = exact(made("AutoencoderKL"), memory="3MiB")
    z = inputs(vae)[0].requires_grad_()
    vae.decode(z).sample.sum().backward()
    assert z.grad is not None and streamed == []


def test_what_cannot_be_streamed_is_refused_at_once_and_untouched():
    vae = nn.Sequential(nn.Conv2d(4, 3, 3))
    with pytest.raises(VaeFileError):
        exact(vae)
    strange = made("AutoencoderKL")
    strange.decoder.extra = nn.Linear(2, 2)
    with pytest.raises(VaeFileError, match=r"extra\.weight"):
        exact(strange)
    assert not {"decode", "encode", "restore"} & set(vars(strange))
    with pytest.raises(BadInputError, match="write 2GiB"):
        exact(made("AutoencoderKL"), memory="a lot")


def test_enable_model_cpu_offload(streamed: list[bool]):
    """The pipeline's hook still brings the weights, and the autoencoder is the pipeline's."""
    pytest.importorskip("accelerate", reason="accelerate is not installed")

    class Pipeline(diffusers.DiffusionPipeline):
        model_cpu_offload_seq = "vae"

        def __init__(self, vae) -> None:
            super().__init__()
            self.register_modules(vae=vae)

    pipe = Pipeline(made("AutoencoderKL"))
    z, x = inputs(pipe.vae)
    whole = both_ways(pipe.vae, z, x)[0]
    pipe.vae = exact(pipe.vae, memory="3MiB")
    pipe.enable_model_cpu_offload(device="cpu")
    calls: list[nn.Module] = []
    real = pipe.vae._hf_hook.pre_forward
    pipe.vae._hf_hook.pre_forward = lambda module, *a, **k: (calls.append(module), real(module, *a, **k))[1]
    assert (both_ways(pipe.vae, z, x)[0] - whole).abs().max() < 0.005 * LEVEL
    assert calls == [pipe.vae] * 2 and sorted(streamed) == [False, True]
    assert pipe.components["vae"] is pipe.vae


def test_weights_that_come_layer_by_layer_go_the_librarys_own_way(streamed: list[bool], caplog):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    vae = made("AutoencoderKL")
    z, x = inputs(vae)
    whole = both_ways(vae, z, x)
    accelerate.cpu_offload(vae, torch.device("cpu"), offload_buffers=True)
    exact(vae, memory="3MiB")
    with caplog.at_level(logging.WARNING, "vae_manager"):
        assert all(torch.equal(*pair) for pair in zip(both_ways(vae, z, x), whole))
    assert "layer by layer" in caplog.text and streamed == []
