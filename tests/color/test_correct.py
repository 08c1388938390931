"""Applying a map: masks, 8-bit pictures, nothing to do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vae_manager.color.correct import correct, correct_levels, to_levels, treat
from vae_manager.color.evidence import Finding
from vae_manager.color.matrix import identity, is_identity, stretch
from vae_manager.color.statistics import statistics

MAP = stretch(0.15, 0.85, 1.1)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_nothing_to_do_is_the_same_object():
    v = noise(3, 8, 8)
    levels = to_levels(v)
    assert correct(v, identity()) is v and correct(v, MAP, 0.0) is v
    assert correct_levels(levels, identity()) is levels
    v[0, 0, 0] = float("nan")
    assert correct(v, MAP) is v


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("matrix", [stretch(-0.1, 1.1), stretch(0.05, 0.95), stretch(0.3, 0.5)])
def test_one_value_that_is_not_finite_is_found_however_many_leave_the_gamut(matrix, value):
    v = noise(3, 190, 190)
    assert correct(v, matrix) is not v
    v[2, 189, 189] = value
    assert correct(v, matrix) is v


@pytest.mark.parametrize("matrix", [identity(), stretch(0.05, 0.95)])
def test_a_nan_that_the_sample_did_not_hit_is_found_when_the_picture_is_treated(matrix):
    v, found = noise(3, 800, 800), Finding("picture", 0.9, "pale", matrix)
    done, said = treat(v, found)
    assert said is found and (done is v) == is_identity(matrix)
    v[1, 799, 797] = float("nan")
    assert statistics(v, whole=False).finite and not statistics(v).finite
    done, said = treat(v, found)
    assert done is v and said.cause == "nan"


def test_levels_are_clipped_each_by_itself_where_it_is_the_vaes_fault():
    matrix, red = stretch(0.1, 0.9), torch.tensor([242, 76, 76], dtype=torch.uint8)[:, None, None].expand(3, 16, 16)
    clipped, pulled = (correct_levels(red, matrix, clip=clip).float().mean((1, 2)) for clip in (True, False))
    assert clipped[0] == 255 and pulled[0] == 255
    wanted = (76 / 255 - 0.1) / 0.8 * 255  # what of it goes beyond white takes nothing from the others
    assert clipped[1].item() == pytest.approx(wanted, abs=0.3) and pulled[1].item() > wanted + 2


def test_what_an_inpaint_left_alone_stays_bit_for_bit():
    v, changed = noise(3, 8, 8), torch.zeros(8, 8)
    changed[2:5] = 1
    changed[5] = 0.5
    out = correct(v, MAP, changed=changed)
    whole = correct(v, MAP)
    assert torch.equal(out[:, changed == 0], v[:, changed == 0])
    assert torch.equal(out[:, changed == 1], whole[:, changed == 1])
    assert torch.allclose(out[:, 5], (v[:, 5] + whole[:, 5]) / 2, atol=1e-6)


def test_dither_fills_the_gaps_is_seeded_and_keeps_greys_grey():
    ramp = torch.linspace(40, 210, 200 * 64).round().to(torch.uint8).reshape(200, 64).expand(3, -1, -1)
    out = correct_levels(ramp, MAP, seed=1)
    assert (out.unique().int().diff() == 1).all()
    assert torch.equal(out, correct_levels(ramp, MAP, seed=1))
    assert not torch.equal(out, correct_levels(ramp, MAP, seed=2))
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])
    assert (out.float().mean() - correct(ramp.float() / 255, MAP).mean() * 255).abs() < 0.1


@given(st.integers(0, 255))
def test_levels_survive_the_way_through_float(level):
    assert to_levels(torch.full((3, 1, 1), level / 255)).unique().tolist() == [level]
