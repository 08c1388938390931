"""What a VAE's own round trip tells that its pictures cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.color.test_diagnose import picture
from vae_manager.codec.build import build_kl
from vae_manager.color.bake import fold_decoder
from vae_manager.color.correct import correct, treat
from vae_manager.color.diagnose import diagnose
from vae_manager.color.evidence import Evidence
from vae_manager.color.matrix import STRAIGHT, adjustment, affine, identity, stretch
from vae_manager.color.statistics import statistics
from vae_manager.color.trip import SOUND_CHROMA, Undoing, bent, levels, undoing
from vae_manager.library.files import vae_file
from vae_manager.library.health import RoundTrip, round_trip
from vae_manager.library.probe import PICTURES
from vae_manager.library.state import load_kl_state

DEMO = PICTURES.parent / "demo" / "demo-kl-f8.safetensors"
SOUND = RoundTrip(1.0, 0.0, 30.0)

FAULTS = {
    "contrast": adjustment(1 / 1.2),
    "half": adjustment(0.92),
    "black": stretch(-0.1 / 0.9, 1),
    "white": stretch(0, 1 / 0.88),
    "chroma": adjustment(saturation=0.8),
}


@pytest.fixture(scope="module")
def demo():
    return load_kl_state(vae_file(DEMO), torch.float32)


def test_a_sound_vae_has_nothing_to_undo(demo: tuple[dict[str, torch.Tensor], int]):
    undone = undoing(round_trip(build_kl(*demo)))
    assert undone is not None and undone.nothing


def with_fault(demo: tuple[dict[str, torch.Tensor], int], fault: Callable[[torch.Tensor], torch.Tensor]) -> RoundTrip:
    """The round trip of the demo VAE with a fault of levels, from 0 to 1, behind its decoder."""
    vae = build_kl(*demo)
    sound = vae.decode
    vae.decode = lambda z: fault(sound(z)[0] / 2 + 0.5)[None] * 2 - 1
    return round_trip(vae)


def left_of(fault: Callable[[torch.Tensor], torch.Tensor], undone: Undoing, v: torch.Tensor) -> float:
    """The share of the distance from v that is left of a fault; the WebUI clips what the VAE puts out."""
    bad = fault(v).clamp(0, 1)
    out = correct(bad, undone.matrix, curve=undone.curve, clip=True)
    return float((out - v).abs().mean() / (bad - v).abs().mean())


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_of_a_vae_is_measured_and_undone(demo: tuple[dict[str, torch.Tensor], int], name: str):
    state, groups = demo
    undone = undoing(round_trip(build_kl(fold_decoder(state, FAULTS[name]), groups)))
    assert undone is not None and undone.curve == STRAIGHT
    assert left_of(lambda v: affine(v, FAULTS[name]), undone, picture(3) * 0.9 + 0.05) < 0.12


BENDS = {
    "black lifted by a bend": (lambda v: 0.08 + 0.92 * v.clamp(min=1e-6) ** 0.85, 0.15),
    "a milder one": (lambda v: 0.05 + 0.95 * v.clamp(min=1e-6) ** 0.92, 0.2),
    "ends flattened": (lambda v: 0.5 + 0.45 * torch.tanh(1.8 * (v - 0.5)) / math.tanh(0.9), 0.45),
}


@pytest.mark.parametrize("name", BENDS)
def test_a_curve_is_undone_by_one(demo: tuple[dict[str, torch.Tensor], int], name: str):
    fault, least = BENDS[name]
    undone = undoing(with_fault(demo, fault))
    assert undone is not None and undone.curve != STRAIGHT
    assert left_of(fault, undone, picture(3) * 0.9 + 0.05) < least


def test_a_curve_and_pale_colours_are_undone_together(demo: tuple[dict[str, torch.Tensor], int]):
    def fault(v: torch.Tensor) -> torch.Tensor:
        return affine(0.08 + 0.92 * v.clamp(min=1e-6) ** 0.85, adjustment(saturation=0.8))

    undone = undoing(with_fault(demo, fault))
    assert undone is not None and undone.curve != STRAIGHT
    assert left_of(fault, undone, picture(3) * 0.9 + 0.05) < 0.2


def test_a_curve_that_cannot_be_turned_around_says_nothing():
    assert bent(falling := replace(SOUND, curve=(0.1, 2.2, -1.5, 0.0)))  # from .73 on brighter is darker
    assert undoing(falling) is None
    assert bent(far := replace(SOUND, curve=(0.5, 0.1, 0.6, -0.3)))  # black at half
    assert undoing(far) is None


def test_a_bend_that_takes_neither_black_nor_white_is_no_fault():
    trip = replace(SOUND, curve=(0.0, 0.75, 0.75, -0.5))  # more contrast in the middle
    assert not bent(trip) and (undone := undoing(trip)) is not None and undone.nothing


def test_a_vae_that_gives_back_every_level_as_it_was_is_sound():
    """The yardstick is what two VAEs do, and one that does better is not at fault."""
    assert not bent(SOUND) and (undone := undoing(SOUND)) is not None and undone.nothing


def test_what_says_nothing_of_colours():
    assert undoing(replace(SOUND, psnr=12.0)) is None
    assert undoing(replace(SOUND, contrast=math.nan)) is None
    assert undoing(replace(SOUND, curve=(0.0, math.nan, 0.0, 0.0))) is None


def test_the_levels_are_those_of_black_and_white():
    trip = RoundTrip(0.8, 0.1, 30.0, 1.0, (0.15, 0.8, 0.0, 0.0))
    black, white = levels(trip)
    assert black == pytest.approx(0.15) and white == pytest.approx(0.95)
    undone = undoing(trip)
    assert undone is not None and affine(torch.tensor([0.15, 0.95]).expand(3, 1, 2), undone.matrix)[0, 0].tolist() == (
        pytest.approx([0, 1], abs=1e-5)
    )
    both = undoing(RoundTrip(0.942, 0.005, 30.0))  # black lifted by .0315, white lowered by .0265
    assert both is not None and torch.allclose(both.matrix, stretch(0.0315, 1 - 0.0265))
    strong = undoing(RoundTrip(1.2, 0.0, 30.0))
    assert strong is not None and strong.nothing  # what it clips cannot be brought back


def test_colours_count_from_less_on_where_levels_are_at_fault():
    pale = math.exp(SOUND_CHROMA - 0.04)
    alone, beside = undoing(RoundTrip(1.0, 0.0, 30.0, pale)), undoing(RoundTrip(0.9, 0.0, 30.0, pale))
    assert alone is not None and alone.nothing
    assert beside is not None and torch.allclose(beside.matrix, stretch(0.05, 0.95, math.exp(0.04)))


def test_half_the_strength_is_half_the_curve():
    v, curve = torch.linspace(0, 1, 48).reshape(3, 4, 4), (0.05, 1.1, -0.2, 0.1)
    whole = 0.05 + 1.1 * v - 0.2 * v**2 + 0.1 * v**3
    assert torch.allclose(correct(v, identity(), 0.5, curve=curve, clip=True), ((v + whole) / 2).clamp(0, 1), atol=1e-6)
    assert correct(v, identity(), 0.0, curve=curve, clip=True) is v


def test_what_is_not_finite_is_left_alone_whatever_is_done():
    for value in (math.nan, math.inf, -math.inf):
        v = picture(3)
        v[1, 5, 7] = value
        assert correct(v, stretch(0.1, 0.9), curve=(0.0, 0.9, 0.1, 0.0), clip=True) is v


def test_a_known_vaes_colours_are_clipped_and_others_pulled_toward_luma():
    """What a sound VAE puts out beyond [0, 1] the host clips, each channel by itself."""
    v = torch.tensor([0.95, 0.3, 0.3])[:, None, None].expand(3, 8, 8).contiguous()
    wanted = affine(v, stretch(0.1, 0.9)).clamp(0, 1)
    found = diagnose(Evidence(v, trip=Undoing(stretch(0.1, 0.9))))
    assert found.clips and torch.equal(treat(v, found)[0], wanted)
    assert diagnose(Evidence(v, calibration=stretch(0.1, 0.9))).clips
    assert not torch.equal(correct(v, stretch(0.1, 0.9)), wanted)


def matte(seed: int) -> torch.Tensor:
    return 0.1 + 0.9 * picture(seed)


def test_a_film_look_of_a_sound_vae_is_left_alone_and_the_same_pictures_of_a_faulty_one_are_not():
    pool = [statistics(matte(seed)) for seed in range(10)]
    v = matte(3)
    sound = diagnose(Evidence(v, pool=pool, trip=Undoing()))
    assert not sound.corrects and "left alone" in sound.reason and "does what it should" not in sound.reason
    faulty = diagnose(Evidence(v, pool=pool, trip=Undoing(stretch(0.1, 1))))
    assert faulty.cause == "round trip" and faulty.washed_out
    assert (correct(v, faulty.matrix) - picture(3)).abs().mean() < 0.01


def test_one_picture_is_enough_where_the_round_trip_is_known():
    bad = affine(picture(6), FAULTS["half"])
    assert not diagnose(Evidence(bad)).corrects
    assert diagnose(Evidence(bad, trip=Undoing(stretch(0.04, 0.96)))).cause == "round trip"


def test_a_latent_that_is_scaled_too_far_up_is_named_whatever_the_round_trip_says():
    strong = [affine(picture(seed), adjustment(1.8)).clamp(0, 1) for seed in range(10)]
    found = diagnose(Evidence(strong[0], pool=[statistics(v) for v in strong], trip=Undoing()))
    assert "too strong" in found.reason
