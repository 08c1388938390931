"""3×4 maps on gamma RGB: algebra, gamut, banding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vae_manager.color.matrix import (
    LUMA,
    adjustment,
    affine,
    apply,
    blend,
    compose,
    identity,
    into_gamut_,
    invert,
    stretch,
)

small = st.floats(-0.2, 0.2)


def _matrix(gain: float, cross: list[float], offset: list[float]) -> torch.Tensor:
    a = gain * torch.eye(3).double() + torch.tensor(cross).double().reshape(3, 3) / 3
    return torch.cat([a, torch.tensor(offset).double()[:, None]], dim=1)


matrices = st.builds(
    _matrix,
    st.floats(0.5, 2.5),
    st.lists(small, min_size=9, max_size=9),
    st.lists(small, min_size=3, max_size=3),
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@given(matrices)
def test_inverse_undoes(m):
    assert torch.allclose(compose(invert(m), m), identity(), atol=1e-9)
    assert torch.allclose(compose(m, invert(m)), identity(), atol=1e-9)


@given(matrices, matrices)
def test_compose_is_one_after_the_other(outer, inner):
    v = noise(3, 4, 5).double()
    assert torch.allclose(affine(v, compose(outer, inner)), affine(affine(v, inner), outer), atol=1e-12)


@given(matrices)
def test_result_is_in_range_without_nan_and_batches_agree(m):
    v = noise(2, 3, 7, 5) * 1.4 - 0.2
    out = apply(v, m)
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1
    # a batch is its pictures one by one, and the input is left alone
    assert torch.equal(out[1], apply(v[1], m)) and torch.equal(v, noise(2, 3, 7, 5) * 1.4 - 0.2)


@given(matrices)
def test_strength_nought_is_the_same_object(m):
    v = noise(3, 4, 4)
    assert apply(v, blend(m, 0.0)) is v
    assert torch.allclose(blend(m, 1.0), m)


@given(st.floats(0.1, 3), st.floats(-0.5, 0.5), st.floats(0, 2))
def test_greys_stay_grey_and_in_order(contrast, brightness, saturation):
    ramp = torch.linspace(0, 1, 300).expand(3, 1, 300)
    out = apply(ramp, adjustment(contrast, brightness, saturation))
    assert (out - out[:1]).abs().max() < 1e-6
    assert (out.diff(dim=-1) >= -1e-6).all()


@given(st.integers(0, 10_000))
def test_gamut_step_keeps_luma_hue_and_what_fits(seed):
    v = noise(3, 50, seed=seed) * 2 - 0.5
    out = v.clone()
    into_gamut_(out.numpy())
    w = torch.tensor(LUMA)
    y = (w @ v).clamp(0, 1)
    fits = ((v >= 0) & (v <= 1)).all(0)
    assert torch.equal(out[:, fits], v[:, fits])
    assert torch.allclose(w @ out, y, atol=1e-5)
    wanted, got = v - w @ v, out - w @ out
    # same direction, never longer
    assert (torch.linalg.cross(wanted.T, got.T).norm(dim=1) < 1e-4).all()
    assert (got.norm(dim=0) <= wanted.norm(dim=0) + 1e-5).all()


@pytest.mark.parametrize("m", [stretch(-0.1, 1.1), stretch(0.01, 0.99), stretch(0.1, 0.8, 1.1), stretch(0.4, 0.6)])
def test_long_pictures_are_worked_on_in_pieces(m):
    """Whether none, few, many or most of the pixels leave the gamut."""
    v = noise(3, 300, 500)
    whole = affine(v, m).reshape(3, -1)
    into_gamut_(whole.numpy())
    assert torch.allclose(apply(v, m).reshape(3, -1), whole, atol=1e-6)


def test_views_and_half_precision():
    v = noise(6, 5, 3).permute(2, 0, 1)
    assert torch.allclose(apply(v, stretch(0.1, 0.9)), apply(v.contiguous(), stretch(0.1, 0.9)))
    assert apply(v.half(), stretch(0.1, 0.9)).dtype == torch.float32


def test_stretch_and_adjustment_say_what_they_do():
    v = torch.tensor([0.2, 0.7]).expand(3, 1, 2)
    assert torch.allclose(apply(v, stretch(0.2, 0.7))[0, 0], torch.tensor([0.0, 1.0]), atol=1e-6)
    assert torch.allclose(adjustment(), identity())
    red = torch.tensor([0.8, 0.2, 0.2]).reshape(3, 1, 1)
    grey = affine(red, adjustment(saturation=0))
    assert torch.allclose(grey, torch.tensor(0.2126 * 0.8 + 0.7874 * 0.2).expand(3, 1, 1))


def test_what_cannot_be_undone_is_refused():
    with pytest.raises(ValueError, match="cannot be undone"):
        invert(adjustment(saturation=0))


def test_no_empty_codes_on_a_ramp():
    """Contrast lost by .65 and given back in float: no 8-bit code between the ends is empty."""
    ramp = torch.linspace(0.1, 0.9, 4096).expand(3, 1, 4096)
    faded = affine(ramp, adjustment(contrast=0.65))
    codes = (apply(faded, adjustment(contrast=1 / 0.65)) * 255).round().int()[0, 0].unique()
    assert (codes.diff() == 1).all()
    eight_bit = (faded * 255).round() / 255
    codes = (apply(eight_bit, adjustment(contrast=1 / 0.65)) * 255).round().int()[0, 0].unique()
    assert (codes.diff() > 1).any()  # what the float path avoids


def test_whole_numbers_are_levels_too():
    assert torch.allclose(stretch(0, 1, 1.25), adjustment(saturation=1.25))
