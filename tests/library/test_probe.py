"""SD1's and SDXL's scales are told apart, and nothing is claimed where nobody can tell."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from tests.conftest import FLUX, make_vae
from vae_manager.codec.build import build_kl
from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.library.files import vae_file
from vae_manager.library.probe import PICTURES, RANGES, UNSURE, bundled_pictures, probe, probe_file
from vae_manager.library.state import load_kl_state

DEMO = PICTURES.parent / "demo" / "demo-kl-f8.safetensors"
SD1, SDXL = 1 / 0.18215, 1 / 0.13025

pytestmark = pytest.mark.skipif(not DEMO.exists(), reason="the demo VAE is not here")


@pytest.fixture(scope="module")
def demo() -> tuple[dict, int]:
    return load_kl_state(vae_file(DEMO), torch.float32)


def variant(demo: tuple[dict, int], scale: float, seed: int, kind: str = "plain") -> AutoencoderKL:
    """The demo VAE as somebody else might have trained it: another scale, latents turned and shifted, other noise in
    the weights, rounded to half precision or not; and what people make of VAEs (`MADE`)."""
    state, groups = demo
    rng, torch_rng = random.Random(seed), torch.Generator().manual_seed(seed)
    state = {name: tensor.clone() for name, tensor in state.items()}
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch_rng))
    weight, bias = state["quant_conv.weight"], state["quant_conv.bias"]
    weight[:4] = scale * (turn @ weight[:4, :, 0, 0])[..., None, None]
    bias[:4] = scale * (turn @ bias[:4]) + torch.randn(4, generator=torch_rng)
    noise = 0.06 if kind == "noisy" else 0.02
    for name, tensor in state.items():
        if name.startswith("encoder.") and tensor.ndim == 4:
            tensor += noise * tensor.std() * torch.randn(tensor.shape, generator=torch_rng)
        if kind == "half" or rng.random() < 0.5:
            state[name] = tensor.half().float()
    MADE[kind](state)
    return build_kl(state, groups)


def wash_out(state: dict[str, torch.Tensor]) -> None:
    """A decoder of seven tenths of the contrast: its latents are what they were."""
    state["decoder.conv_out.weight"] *= 0.7
    state["decoder.conv_out.bias"] += 0.1


def merge_in(state: dict[str, torch.Tensor]) -> None:
    """A quarter of a VAE that was trained on from the same beginning: its weights are others by a little."""
    torch_rng = torch.Generator().manual_seed(99)
    for name, tensor in state.items():
        if tensor.ndim == 4 and not name.startswith("quant_conv"):
            other = tensor + 0.08 * tensor.std() * torch.randn(tensor.shape, generator=torch_rng)
            state[name] = torch.lerp(tensor, other, 0.25)


MADE = {
    "plain": lambda state: None,
    "half": lambda state: None,
    "noisy": lambda state: None,
    "washed out": wash_out,
    "merged": merge_in,
}


def test_the_demo_vae_is_of_the_scale_that_it_was_trained_to():
    assert probe_file(vae_file(DEMO)).family == "sd1"


def test_at_least_95_percent_of_vaes_of_known_scale_are_told_and_none_wrongly(demo):
    answers = []
    for seed in range(50):
        family, target = (("sd1", SD1), ("sdxl", SDXL))[seed % 2]
        scale = target / SD1 * random.Random(seed).uniform(0.97, 1.03)  # training reaches its scale not exactly
        kind = list(MADE)[seed // 2 % len(MADE)]
        answers.append((family, probe(variant(demo, scale, seed, kind)).family))
    told = sum(told == true for true, told in answers)
    print(f"told {told} of {len(answers)}, wrongly {sum(told not in (true, UNSURE) for true, told in answers)}")
    assert sum(told == true for true, told in answers) >= 0.95 * len(answers)
    assert all(told in (true, UNSURE) for true, told in answers)


@pytest.mark.parametrize("std", [0.1, 1.0, 2.7, 6.5, 12.0, 100.0])
def test_other_scales_are_nobodys(demo, std: float):
    own = probe(variant(demo, 1.0, 0)).std
    assert own
    found = probe(variant(demo, std / own, 0))
    assert found.family == UNSURE and "neither SD1's nor SDXL's" in found.evidence


def test_what_cannot_be_either_is_not_even_encoded():
    found = probe(make_vae(FLUX))
    assert (found.family, found.std) == (UNSURE, None) and "16 latent channels" in found.evidence


def test_random_weights_are_unsure_until_rescaled():
    vae = make_vae(seed=3)
    assert probe(vae).family == UNSURE
    own = probe(vae).std
    assert own
    vae.quant_conv.weight.data[:4] *= SDXL / own
    vae.quant_conv.bias.data[:4] *= SDXL / own
    assert probe(vae).family == "sdxl"


def test_nan_is_unsure():
    vae = make_vae()
    vae.encoder.conv_in.weight.data.fill_(float("nan"))
    assert probe(vae).family == UNSURE


def test_the_ranges_leave_room_between_them():
    assert RANGES["sd1"][1] * 1.05 < RANGES["sdxl"][0]
    assert bundled_pictures().shape[0] >= 4 and Path(PICTURES).is_dir()
