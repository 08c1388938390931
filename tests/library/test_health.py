"""Damage is found and named; what is healthy is left in peace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import make_state
from vae_manager.codec.build import build_kl
from vae_manager.codec.kinds.tiny.network import TinyAutoencoder, TinyConfig
from vae_manager.errors import VaeFileError
from vae_manager.library.files import vae_file
from vae_manager.library.health import RoundTrip, examine, round_trip, suspicions, trip_problems, weight_problems
from vae_manager.library.probe import PICTURES
from vae_manager.library.state import load_kl_state

DEMO = PICTURES.parent / "demo" / "demo-kl-f8.safetensors"
WASHED_OUT = DEMO.with_name("demo-kl-f8-washed-out.safetensors")

needs_demo = pytest.mark.skipif(not WASHED_OUT.exists(), reason="the demo VAEs are not here")


def test_healthy_weights():
    assert weight_problems(make_state().items()) == ()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("decoder.conv_in.weight", float("nan"), "holds NaN or infinite values"),
        ("encoder.conv_in.bias", float("inf"), "holds NaN or infinite values"),
        ("decoder.mid.block_1.conv1.weight", 0.0, "holds nothing but zeros"),
        ("decoder.norm_out.weight", 0.0, "holds nothing but zeros"),
        ("decoder.mid.block_1.conv1.weight", 0.5, "holds one number only, 0.5, everywhere"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_damaged_weights(name: str, value: float, said: str, dtype: torch.dtype):
    state = {key: tensor.to(dtype) for key, tensor in make_state().items()}
    state[name].fill_(value)
    assert weight_problems(state.items()) == (f"its tensor {name!r} {said}",)


def test_what_an_untrained_vae_has_is_no_damage():
    state = make_state()
    state["decoder.norm_out.weight"].fill_(1)
    state["decoder.conv_in.bias"].zero_()
    assert weight_problems(state.items()) == ()


def test_many_damaged_tensors_are_counted():
    state = {name: torch.full_like(tensor, float("nan")) for name, tensor in make_state().items()}
    (problem,) = weight_problems(state.items())
    assert f"(and {len(state) - 1} more) holds NaN" in problem


def test_a_baked_vae_is_examined_without_the_rest(tmp_path: Path):
    state = {f"first_stage_model.{name}": tensor for name, tensor in make_state().items()}
    state["first_stage_model.decoder.conv_out.weight"].fill_(float("nan"))
    state["model.diffusion_model.x"] = torch.full((3,), float("nan"))
    save_file(state, str(tmp_path / "model.safetensors"))
    (problem,) = examine(vae_file(tmp_path / "model.safetensors"))
    assert problem == "its tensor 'decoder.conv_out.weight' holds NaN or infinite values"


def test_random_weights_do_not_give_pictures_back(tmp_path: Path):
    save_file(make_state(), str(tmp_path / "vae.safetensors"))
    (problem,) = examine(vae_file(tmp_path / "vae.safetensors"))
    assert "does not give pictures back as they were" in problem
    assert examine(vae_file(tmp_path / "vae.safetensors"), thorough=False) == ()


def test_of_other_autoencoders_the_weights_are_looked_at(tmp_path: Path):
    tiny = TinyAutoencoder(TinyConfig(), TinyConfig())
    save_file({f"taesd_{name}": tensor for name, tensor in tiny.state_dict().items()}, str(tmp_path / "t.safetensors"))
    assert examine(vae_file(tmp_path / "t.safetensors")) == ()
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(VaeFileError):
        examine(vae_file(tmp_path / "junk.safetensors"))


@needs_demo
def test_the_demo_vae_is_healthy_and_its_washed_out_twin_is_not():
    assert examine(vae_file(DEMO), "sd1") == ()
    (problem,) = examine(vae_file(WASHED_OUT), "sd1")
    assert problem.startswith("it washes pictures out: of their contrast ")


@needs_demo
@pytest.mark.parametrize("gain", [0.6, 0.8])
def test_contrast_is_measured(gain: float):
    state, groups = load_kl_state(vae_file(DEMO), torch.float32)
    whole = round_trip(build_kl(state, groups))
    for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        state[name] = state[name] * gain
    paler = round_trip(build_kl(state, groups))
    assert paler.contrast == pytest.approx(gain * whole.contrast, abs=0.02)
    assert paler.psnr == pytest.approx(whole.psnr, abs=1.5)


@needs_demo
def test_a_merge_of_two_vaes_that_do_not_fit_is_damage():
    state, groups = load_kl_state(vae_file(DEMO), torch.float32)
    for name, tensor in state.items():
        if name.startswith("decoder.up.") and tensor.ndim == 4:
            # the same network with its channels in another order: as good by itself, useless in an average
            state[name] = (tensor + tensor[torch.randperm(len(tensor))]) / 2
    problems = trip_problems(round_trip(build_kl(state, groups)), "sd1")
    assert len(problems) == 1


@needs_demo
def test_what_only_looks_unusual_refuses_nothing(trained: dict[str, torch.Tensor], tmp_path: Path):
    """A block that most of the picture goes past may be noise in a VAE that gives every picture back."""
    name = "decoder.up.2.block.2.conv2.weight"
    noise = torch.randn(trained[name].shape, generator=torch.Generator().manual_seed(3))
    state = {**trained, name: noise * 0.02 * trained[name].std()}
    assert suspicions(state.items())
    groups = load_kl_state(vae_file(DEMO), torch.float32)[1]
    save_file(state, str(tmp_path / "v.safetensors"), {"norm_num_groups": str(groups)})
    assert examine(vae_file(tmp_path / "v.safetensors"), "sd1") == ()


def test_what_a_round_trip_says():
    assert trip_problems(RoundTrip(1.0, 0.0, 30.0), "sd1") == ()
    assert "washes pictures out: of their contrast 70%" in trip_problems(RoundTrip(0.7, 0.1, 30.0), "sdxl")[0]
    assert trip_problems(RoundTrip(0.9, 0.0, 30.0), "sd1") == ()  # soft, as some good VAEs are
    assert trip_problems(RoundTrip(0.8, 0.0, 30.0), "sd1")
    assert "(20 dB where 24 dB is the least)" in trip_problems(RoundTrip(1.0, 0.0, 20.0), "flux")[0]
    assert "no picture" in trip_problems(RoundTrip(float("nan"), 0.0, 0.0))[0]


@pytest.fixture(scope="module")
def trained() -> dict[str, torch.Tensor]:
    """The first demo VAE, trained from random weights for long: each layer has learnt what stands before and behind it.
    Its successor begins as a pyramid and is not trained long enough for that."""
    return load_kl_state(vae_file(Path(__file__).with_name("long-trained.safetensors")), torch.float32)[0]


BLOCKS = ("decoder.up.0.block.1.", "decoder.up.2.block.0.", "decoder.mid.block_1.", "encoder.down.3.block.0.")


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("distribution", [torch.randn, torch.rand])
def test_a_layer_of_noise_is_suspected(trained: dict[str, torch.Tensor], block: str, distribution):
    torch.manual_seed(1)
    name, weight = f"{block}conv2.weight", trained[f"{block}conv2.weight"]
    noise = distribution(weight.shape)
    noise = (noise - noise.mean()) / noise.std() * weight.std()
    assert weight_problems({**trained, name: noise}.items()) == ()
    (problem,) = suspicions({**trained, name: noise}.items())
    assert problem == f"its tensor {name!r} holds noise where the others hold what was learnt"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("decoder.up.0.block.1.conv1.weight", "decoder.up.0.block.2.conv1.weight"),
        ("decoder.up.2.block.0.conv2.weight", "decoder.up.3.block.1.conv1.weight"),
        ("encoder.mid.block_1.conv1.weight", "decoder.mid.block_2.conv2.weight"),
    ],
)
def test_layers_that_changed_places_are_named(trained: dict[str, torch.Tensor], one: str, other: str):
    exchanged = {**trained, one: trained[other], other: trained[one]}
    (problem,) = suspicions(exchanged.items())
    assert problem.endswith("seem to have changed places") and repr(one) in problem and repr(other) in problem
    # what rests on one VAE's training has no say in what is chosen automatically
    assert weight_problems(exchanged.items()) == ()


@pytest.mark.parametrize("block", BLOCKS[1:])
def test_a_layer_with_its_channels_in_another_order_does_not_belong_there(trained: dict[str, torch.Tensor], block: str):
    name = f"{block}conv1.weight"
    (problem,) = suspicions({**trained, name: trained[name].flip(0)}.items())
    assert "do not belong together" in problem and repr(name) in problem


def test_what_is_done_to_healthy_vaes_is_no_damage(trained: dict[str, torch.Tensor]):
    torch.manual_seed(2)
    near = {name: t + 0.1 * t.std() * torch.randn(t.shape) if t.ndim == 4 else t for name, t in trained.items()}
    merged = {name: (t + near[name]) / 2 for name, t in trained.items()}
    halved = {name: t.half() for name, t in trained.items()}
    for state in (trained, merged, halved, near):
        assert suspicions(state.items()) == ()
    assert suspicions({n: t for n, t in trained.items() if n.startswith("decoder.")}.items()) == ()
