"""What holds of every kind of autoencoder in the registry: one small random network of each goes through all of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.codec.streaming_vaes import peak_bytes, scaled_weights, small_vae
from vae_manager.codec.kinds.causal3d.config import CausalConfig, Half
from vae_manager.codec.kinds.causal3d.network import CausalAutoencoder
from vae_manager.codec.kinds.kind import KindName
from vae_manager.codec.kinds.kl.config import KLConfig
from vae_manager.codec.kinds.litevae.config import LiteConfig, UNetConfig
from vae_manager.codec.kinds.litevae.network import LiteVAE
from vae_manager.codec.kinds.open_litevae.network import OpenLiteVAE, published_open_config
from vae_manager.codec.kinds.registry import BY_NAME, KINDS
from vae_manager.codec.kinds.taehv.config import Half as VideoHalf
from vae_manager.codec.kinds.taehv.config import TaehvConfig
from vae_manager.codec.kinds.taehv.network import TinyVideoAutoencoder
from vae_manager.codec.kinds.tiny.network import TinyAutoencoder, TinyConfig
from vae_manager.codec.streaming import plan_decode, plan_encode, stream_decode, stream_encode
from vae_manager.codec.swap import check_fits, install, remove
from vae_manager.codec.whole import decode
from vae_manager.errors import VaeFileError
from vae_manager.library.files import vae_file
from vae_manager.library.identify import identify
from vae_manager.library.state import load_state

GROUPS = 4


@dataclass(frozen=True)
class Sample:
    """A small network of a kind, and which halves of it can be streamed."""

    make: Callable[[], Any]
    decoder_streams: bool = True
    encoder_streams: bool = True


def _tiny() -> TinyAutoencoder:
    config = TinyConfig(4, (16, 16, 16), (1, 2, 2))
    return TinyAutoencoder(config, config)


def _taehv() -> TinyVideoAutoencoder:
    encoder = VideoHalf(3, 4, (8, 8, 8), (2, 1), (2, 2))
    return TinyVideoAutoencoder(TaehvConfig(encoder, VideoHalf(4, 3, (24, 16, 8), (1, 2), (1, 2))))


def _lite() -> LiteVAE:
    decoder = KLConfig(decoder_channels=(8, 8, 16, 16), decoder_blocks=2, norm_groups=GROUPS)
    return LiteVAE(LiteConfig(UNetConfig(12, 12, 8, (8, 8)), UNetConfig(36, 8, 8, (8, 8)), decoder, post_conv=True))


def _open_lite() -> OpenLiteVAE:
    config = published_open_config("S", 4)
    return OpenLiteVAE(replace(config, decoder_widths=(8, 8, 16, 16), decoder_blocks=1))


def _causal() -> CausalAutoencoder:
    half = Half(3, 8, (8, 16, 16), (), 1, 8)
    decoder = Half(4, 3, (8, 16, 16), (8, 8), 2, 16)
    return CausalAutoencoder(CausalConfig(half, decoder, 4, quant_conv=True, post_quant_conv=True))


SAMPLES: dict[KindName, Sample] = {
    "causal3d": Sample(_causal),
    "kl": Sample(lambda: small_vae((8, 16, 16), dtype=torch.float32)),
    "taesd": Sample(_tiny),
    "taehv": Sample(_taehv),
    "litevae": Sample(_lite, encoder_streams=False),
    "open-litevae": Sample(_open_lite, decoder_streams=False, encoder_streams=False),
}


@pytest.fixture(scope="module", params=sorted(SAMPLES))
def kind(request: pytest.FixtureRequest) -> KindName:
    return request.param


@pytest.fixture(scope="module")
def vae(kind: KindName) -> Any:
    vae = SAMPLES[kind].make().eval().requires_grad_(False)
    scaled_weights(vae, 3)
    return vae


@pytest.fixture(scope="module")
def path(kind: KindName, vae: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kinds") / "a.safetensors"
    save_file(stored(kind, vae), path, {"norm_num_groups": str(GROUPS)})
    return path


def stored(kind: KindName, vae: Any) -> dict[str, Tensor]:
    """The tensors as a file of the kind has them."""
    state = {name: tensor.contiguous() for name, tensor in vae.state_dict().items()}
    if kind == "causal3d":  # canonical names are nobody's here
        return {wan_name(name): tensor for name, tensor in state.items()}
    return state


def wan_name(name: str) -> str:
    """Of `_causal`'s tensors: the encoder has one block at each of its three levels, the decoder two."""
    for ours, theirs in (("quant_conv.", "conv1."), ("post_quant_conv.", "conv2.")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    name = re.sub(r"\.mid\.(block_1|attn_1|block_2)", lambda m: f".middle.{MIDDLE.index(m[1])}", name)
    name = re.sub(r"\.down\.(\d)\.block\.0", lambda m: f".downsamples.{2 * int(m[1])}", name)
    name = re.sub(r"\.down\.(\d)\.downsample\.conv", lambda m: f".downsamples.{2 * int(m[1]) + 1}.resample.1", name)
    name = re.sub(r"\.up\.(\d)\.block\.(\d)", lambda m: f".upsamples.{3 * (2 - int(m[1])) + int(m[2])}", name)
    name = re.sub(r"\.up\.(\d)\.upsample\.conv", lambda m: f".upsamples.{3 * (2 - int(m[1])) + 2}.resample.1", name)
    for ours, theirs in (("norm1", "0"), ("conv1", "2"), ("norm2", "3"), ("conv2", "6")):
        name = re.sub(rf"(\.\d)\.{ours}\.", rf"\1.residual.{theirs}.", name)
    return name.replace("conv_in", "conv1").replace("norm_out", "head.0").replace("conv_out", "head.2")


MIDDLE = ("block_1", "attn_1", "block_2")


def latent(vae: Any, dtype: torch.dtype = torch.float32, side: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, vae.config.latent_channels, side, side + 1, generator=generator, dtype=dtype)


def picture(vae: Any, dtype: torch.dtype = torch.float32, side: int = 3) -> Tensor:
    ratio, generator = vae.config.ratio, torch.Generator().manual_seed(6)
    shape = (1, vae.config.image_channels, side * ratio, (side + 1) * ratio)
    return torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1


def test_every_kind_has_a_sample():
    assert set(SAMPLES) == set(BY_NAME) and len(BY_NAME) == len(KINDS)


def test_a_saved_file_is_known_and_built_again(kind: KindName, vae: Any, path: Path):
    found = identify(vae_file(path))
    assert found.problems == () and found.latent_channels == vae.config.latent_channels
    if BY_NAME[kind].family:
        assert found.family == BY_NAME[kind].family
    state = load_state(vae_file(path))
    assert state.kind is BY_NAME[kind]
    again = state.kind.build(state.tensors, state.norm_groups)
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())
    z, x = latent(vae), picture(vae)
    assert torch.equal(again.decode(z), vae.decode(z)) and torch.equal(again.encode_moments(x), vae.encode_moments(x))
    ratio = vae.config.ratio
    assert decode(again, z).shape == (1, vae.config.image_channels, z.shape[2] * ratio, z.shape[3] * ratio)
    assert again.encode_moments(x).shape == (1, 2 * vae.config.latent_channels, *z.shape[2:])


def test_a_checkpoint_has_it_behind_a_prefix(kind: KindName, vae: Any, tmp_path: Path):
    state = {f"first_stage_model.{name}": tensor for name, tensor in stored(kind, vae).items()}
    path = tmp_path / "checkpoint.safetensors"
    save_file({**state, "model.diffusion_model.out.2.bias": torch.zeros(4)}, path, {"norm_num_groups": str(GROUPS)})
    loaded = load_state(vae_file(path))
    assert loaded.kind is BY_NAME[kind]
    assert loaded.tensors.keys() == vae.state_dict().keys()


def test_a_tensor_that_is_missing_is_named(kind: KindName, vae: Any, tmp_path: Path):
    state = stored(kind, vae)
    lost = next(name for name in sorted(state, reverse=True) if name.startswith("decoder.") and name.endswith("weight"))
    path = tmp_path / "broken.safetensors"
    save_file({name: t for name, t in state.items() if name != lost}, path, {"norm_num_groups": str(GROUPS)})
    with pytest.raises(VaeFileError):
        loaded = load_state(vae_file(path))
        loaded.kind.build(loaded.tensors, loaded.norm_groups)


def test_streamed_it_gives_the_numbers_of_the_whole(kind: KindName, vae: Any):
    sample, exact = SAMPLES[kind], SAMPLES[kind].make().eval().requires_grad_(False).double()
    exact.load_state_dict(vae.state_dict())
    z, x = latent(exact, torch.float64, 7), picture(exact, torch.float64, 5)
    for streams, plan, run, source, whole in (
        (sample.decoder_streams, plan_decode, stream_decode, z, exact.decode),
        (sample.encoder_streams, plan_encode, stream_encode, x, exact.encode_moments),
    ):
        if not streams:
            with pytest.raises(VaeFileError):
                plan(exact, source.shape)
            continue
        for pixels in (1, 200, None):
            found = run(exact, source, plan=plan(exact, source.shape, strip_pixels=pixels)).tensor
            torch.testing.assert_close(found, whole(source), rtol=0, atol=1e-11)


def test_the_plan_is_never_below_the_peak(kind: KindName, vae: Any):
    sample = SAMPLES[kind]
    for streams, plan, run, source in (
        (sample.decoder_streams, plan_decode, stream_decode, latent(vae, side=24)),
        (sample.encoder_streams, plan_encode, stream_encode, picture(vae, side=16)),
    ):
        if streams:
            for pixels in (256, 8192):
                found = plan(vae, source.shape, strip_pixels=pixels)
                assert peak_bytes(lambda run=run, source=source, found=found: run(vae, source, plan=found)) <= (
                    found.peak_bytes
                )


def test_swapped_in_it_computes_and_goes_again(kind: KindName, vae: Any, path: Path):
    state = load_state(vae_file(path)).tensors
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    host = SAMPLES["kl" if not BY_NAME[kind].stands_in else kind].make().eval()
    scaled_weights(host, 9)
    z = latent(vae)
    if not BY_NAME[kind].stands_in:
        with pytest.raises(VaeFileError):
            check_fits(host, shapes)
        return
    before = host.decode(z)
    installed = install(host, state)
    assert torch.equal(host.decode(z), vae.decode(z)) and not torch.equal(before, vae.decode(z))
    remove(installed)
    assert torch.equal(host.decode(z), before)
