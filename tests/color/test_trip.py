"""What a VAE's own round trip tells that its pictures cannot."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.color.test_diagnose import picture
from vae_manager.codec.build import build_kl
from vae_manager.color.bake import fold_decoder
from vae_manager.color.correct import correct
from vae_manager.color.diagnose import diagnose
from vae_manager.color.evidence import Evidence
from vae_manager.color.matrix import adjustment, affine, identity, is_identity, stretch
from vae_manager.color.statistics import statistics
from vae_manager.color.trip import levels, undoing
from vae_manager.library.files import vae_file
from vae_manager.library.health import RoundTrip, round_trip
from vae_manager.library.probe import PICTURES
from vae_manager.library.state import load_kl_state

DEMO = PICTURES.parent / "demo" / "demo-kl-f8.safetensors"
SOUND = RoundTrip(1.0, 0.0, 30.0, 1.0)

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
    matrix = undoing(round_trip(build_kl(*demo)))
    assert matrix is not None and is_identity(matrix)


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_of_a_vae_is_measured_and_undone(demo: tuple[dict[str, torch.Tensor], int], name: str):
    state, groups = demo
    matrix = undoing(round_trip(build_kl(fold_decoder(state, FAULTS[name]), groups)))
    assert matrix is not None
    v = picture(3) * 0.9 + 0.05
    bad = affine(v, FAULTS[name])
    before, after = ((x - v).abs().mean() for x in (bad, correct(bad, matrix)))
    assert after < 0.4 * before


def test_a_curve_that_flattens_the_ends_is_not_stretched(demo: tuple[dict[str, torch.Tensor], int]):
    """Its middle tones are as they should be."""
    vae = build_kl(*demo)
    sound, soft = vae.decode, lambda v: 0.87 * torch.tanh(0.8 * v) / math.tanh(0.8)
    vae.decode = lambda z: soft(sound(z))
    trip = round_trip(vae)
    assert (1 - trip.contrast) / 2 > 0.03 and trip.middle > 0.97
    matrix = undoing(trip)
    assert matrix is not None and is_identity(matrix)


def test_what_says_nothing_of_colours():
    assert undoing(replace(SOUND, psnr=12.0)) is None
    assert undoing(replace(SOUND, contrast=math.nan)) is None


def test_the_levels_are_those_of_black_and_white():
    black, white, chroma = levels(RoundTrip(0.8, 0.1, 30.0, 0.8))
    assert black == pytest.approx(0.15) and white == pytest.approx(0.95) and chroma == pytest.approx(0)
    matrix = undoing(RoundTrip(0.8, 0.1, 30.0, 0.8))
    assert matrix is not None and affine(torch.tensor([0.15, 0.95]).expand(3, 1, 2), matrix)[0, 0].tolist() == (
        pytest.approx([0, 1], abs=1e-5)
    )
    both = undoing(RoundTrip(0.942, 0.005, 30.0, 0.942))  # black lifted by .0315, white lowered by .0265
    assert both is not None and torch.allclose(both, stretch(0.0315, 1 - 0.0265))
    strong = undoing(RoundTrip(1.2, 0.0, 30.0, 1.2))
    assert strong is not None and is_identity(strong)  # what it clips cannot be brought back


def matte(seed: int) -> torch.Tensor:
    return 0.1 + 0.9 * picture(seed)


def test_a_film_look_of_a_sound_vae_is_left_alone_and_the_same_pictures_of_a_faulty_one_are_not():
    pool = [statistics(matte(seed)) for seed in range(10)]
    v = matte(3)
    sound = diagnose(Evidence(v, pool=pool, trip=identity()))
    assert not sound.corrects and "left alone" in sound.reason and "does what it should" not in sound.reason
    faulty = diagnose(Evidence(v, pool=pool, trip=stretch(0.1, 1)))
    assert faulty.cause == "round trip" and faulty.washed_out
    assert (correct(v, faulty.matrix) - picture(3)).abs().mean() < 0.01


def test_one_picture_is_enough_where_the_round_trip_is_known():
    bad = affine(picture(6), FAULTS["half"])
    assert not diagnose(Evidence(bad)).corrects
    assert diagnose(Evidence(bad, trip=stretch(0.04, 0.96))).cause == "round trip"


def test_a_latent_that_is_scaled_too_far_up_is_named_whatever_the_round_trip_says():
    strong = [affine(picture(seed), adjustment(1.8)).clamp(0, 1) for seed in range(10)]
    found = diagnose(Evidence(strong[0], pool=[statistics(v) for v in strong], trip=identity()))
    assert "too strong" in found.reason
