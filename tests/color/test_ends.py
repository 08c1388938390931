"""Black and white of a pool, each judged by itself, on what a decoder puts out before it is clipped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.color.test_diagnose import picture
from tools.real_faults import FAULTS, Case, Fault, case, draw, unclipped
from vae_manager.color.correct import correct
from vae_manager.color.diagnose import diagnose
from vae_manager.color.evidence import Evidence, Finding
from vae_manager.color.matrix import adjustment, affine, is_identity
from vae_manager.color.pool import both_gone, different, ends, pooled_map, verdict
from vae_manager.color.statistics import Statistics, own_ends, statistics

SEEDS = range(10)


def flat(v: Tensor) -> Tensor:
    return affine(v, adjustment(1 / 1.2))


def sound(v: Tensor) -> Tensor:
    return v


def session(fault: Fault, over: float = 0.25, seeds: range = SEEDS) -> list[Case]:
    rng = np.random.default_rng(1)
    return [case(picture(seed), fault, over, rng) for seed in seeds]


def pool_of(cases: list[Case]) -> list[Statistics]:
    return [statistics(one.bad) for one in cases]


def found_in(cases: list[Case]) -> Finding:
    return diagnose(Evidence(cases[0].bad, pool=pool_of(cases)))


def test_a_decoder_continues_beyond_white_and_black_and_leaves_the_middle():
    v = torch.linspace(0, 1, 101).expand(3, 1, 101)
    out = unclipped(v, 0.25, 0.04)[0, 0]
    assert torch.equal(out[20:81], v[0, 0, 20:81])
    assert out[0] == pytest.approx(-0.04) and out[100] == pytest.approx(1.25)
    assert (out.diff() > 0).all()


def test_a_flat_vae_that_overshoots_a_little_is_found_and_undone():
    cases = session(flat, over=0.05)  # as published ones do: all of their pictures stay short of black and of white
    seen = verdict(pool_of(cases))
    assert seen.black and seen.white and seen.ends.reached is None
    found = found_in(cases)
    assert found.cause == "session" and found.washed_out and "reaches black" in found.reason and found.clips
    before = sum(float((one.bad - one.truth).abs().mean()) for one in cases)
    after = sum(float((correct(one.bad, found.matrix) - one.truth).abs().mean()) for one in cases)
    assert after < 0.6 * before


def film(floor: float) -> Fault:
    """A film look: black is lifted on purpose, white left."""
    return lambda v: floor + (1 - floor) * v


@pytest.mark.parametrize("over", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("floor", [0.06, 0.1, 0.15])
def test_a_film_look_is_left_alone(floor: float, over: float):
    """Alike in all pictures, it is what a VAE does that lifts black alone: their own round trip tells them apart."""
    rng = np.random.default_rng(3)
    cases = [case(film(floor)(picture(seed)).clamp(0, 1), sound, over, rng) for seed in SEEDS]
    own = [ends.on(s) for one, s in zip(cases, pool_of(cases), strict=True) if (ends := own_ends(one.raw)) is not None]
    for pool in (pool_of(cases), own):
        assert is_identity(verdict(pool).matrix)


def test_a_pool_of_dim_pictures_is_dim_on_purpose():
    """Under water, say: no VAE that was met keeps all pictures so far from white."""
    dim = [statistics(0.08 + 0.01 * (seed % 4) + 0.6 * picture(seed)) for seed in SEEDS]
    assert both_gone(dim) and is_identity(verdict(dim).matrix)


def test_a_few_pictures_that_reach_white_clear_a_pool_of_faint_blacks():
    """Blacks that are hardly lifted count only where white is gone, too."""
    cases = session(lambda v: affine(v, adjustment(0.93)), over=0.0)
    pool = [replace(s, floors=(0.02, *s.floors[1:])) for s in pool_of(cases)]
    assert both_gone(pool)
    white = [replace(s, ceilings=(1.0, *s.ceilings[1:])) if n < 3 else s for n, s in enumerate(pool)]
    assert not both_gone(white) and is_identity(verdict(white).matrix)
    grey = [replace(s, chromas=(0.0, 0.01, 0.02)) for s in pool]
    assert not both_gone(grey)


def test_whites_alone_are_found_too():
    cases = session(lambda v: 0.85 * v, over=0.02, seeds=range(0, 30, 3))  # whose whites are white
    seen = verdict(pool_of(cases))
    assert seen.white and not seen.black
    matrix = pooled_map(pool_of(cases))
    assert not is_identity(matrix) and not matrix[:, 3].any()  # black stays where it is
    assert "reaches white" in found_in(cases).reason


def test_what_overshoots_is_no_fault():
    for over in (0.0, 0.1, 0.4):
        assert is_identity(pooled_map(pool_of(session(sound, over))))


@pytest.mark.parametrize("over", [0.1, 0.4])
@pytest.mark.parametrize("fault", [fault.__name__ for fault in FAULTS])
def test_no_faulty_vae_is_vouched_for(fault: str, over: float):
    """What may be said of a pool that shows nothing is that it is left alone: a flat VAE's may show as little."""
    cases = session(draw(fault, np.random.default_rng(2)), over)
    own = [ends.on(s) for one, s in zip(cases, pool_of(cases), strict=True) if (ends := own_ends(one.raw)) is not None]
    for pool in (pool_of(cases), own):
        found = diagnose(Evidence(cases[0].bad, pool=pool))
        assert found.cause == "session" or (found.reason.startswith("left alone: ") and "may" in found.reason)


def test_a_sound_pool_is_left_alone_in_the_same_words():
    cases = session(lambda v: 0.02 + 0.97 * v, over=0.01)
    assert "left alone: 10 pictures of this session reach black and white, as a mildly" in found_in(cases).reason


def test_fog_is_as_thick_as_it_pleases():
    """No picture of it reaches black, and nothing says that it is the VAE: each has a floor of its own."""
    foggy = [
        statistics(floor + (1 - floor) * picture(seed)) for seed, floor in enumerate(torch.linspace(0.05, 0.5, 10))
    ]
    assert ends(foggy).floor > 0.04 and is_identity(pooled_map(foggy))
    found = diagnose(Evidence(0.2 + 0.8 * picture(1), pool=foggy))
    assert not found.corrects and "only white" in found.reason and "look" in found.reason


def test_fog_that_also_lowers_white_is_still_fog():
    foggy = []
    for seed, thick in enumerate(torch.linspace(0.1, 0.6, 10)):
        foggy.append(statistics(0.5 * thick + (1 - thick) * picture(seed)))
    assert ends(foggy).reached is None and is_identity(pooled_map(foggy))
    assert "neither black nor white" in diagnose(Evidence(0.2 + 0.5 * picture(1), pool=foggy)).reason


def test_the_decoders_own_values_go_before_those_of_the_file():
    cases = session(lambda v: 0.03 + 0.97 * v, over=0.1)
    own = []
    for one in cases:
        values = own_ends(one.raw)
        assert values is not None
        own.append(values.on(statistics(one.bad)))
    below = [replace(s, own_floors=(-0.02,) * 3) for s in own]
    assert ends(below).floor == pytest.approx(-0.02) and is_identity(pooled_map(below))
    assert ends(own).ceiling > 1 and ends(pool_of(cases)).ceiling == 1
    assert len(different(own)) == len(own)


def test_own_values_that_are_not_finite_say_nothing():
    assert own_ends(torch.full((3, 8, 8), float("nan"))) is None
    values = own_ends(torch.linspace(-0.5, 1.5, 3 * 64 * 64).reshape(3, 64, 64))
    assert values is not None and values.floors[0] == pytest.approx(-0.5, abs=0.01)
    assert values.ceilings[2] == pytest.approx(1.5, abs=0.01)
