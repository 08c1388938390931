"""The robust fit."""

from __future__ import annotations

import pytest
import torch

from vae_manager.color.fit import box_down, fit_map
from vae_manager.color.matrix import adjustment, affine, identity


def colours(seed: int, count: int = 2000) -> torch.Tensor:
    """Grey-ish colours, as most pictures have."""
    generator = torch.Generator().manual_seed(seed)
    grey = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return grey + 0.05 * torch.randn(count, 3, generator=generator, dtype=torch.float64)


def mapped(v: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return v @ matrix[:, :3].T + matrix[:, 3]


def test_exact_map_is_found():
    v, wanted = colours(0), adjustment(1.4, -0.05, 1.2)
    found, residuals = fit_map(v, mapped(v, wanted))
    assert (found - wanted).abs().max() < 0.01
    assert residuals.max() < 0.005


def test_a_third_of_outliers_has_no_say():
    v, wanted = colours(0, 3000), adjustment(1.4, -0.05, 1.2)
    target = mapped(v, wanted) + 0.003 * torch.randn(3000, 3, generator=torch.Generator().manual_seed(2)).double()
    target[:1000] = colours(9, 1000)
    found, _ = fit_map(v, target)
    assert (mapped(v, found) - mapped(v, wanted)).abs().mean() < 0.005


def test_colours_that_say_nothing_give_the_identity():
    v = torch.full((100, 3), 0.5, dtype=torch.float64)
    found, _ = fit_map(v, v)
    assert torch.allclose(found, identity(), atol=1e-6)


def test_box_filter_is_the_mean_of_its_part():
    picture = torch.rand(3, 16, 24)
    colours = box_down(picture, 2, 3)
    assert torch.allclose(colours[0], picture[:, :8, :8].double().mean((1, 2)))
    assert torch.allclose(box_down(affine(picture, adjustment(1.2)), 2, 3), mapped(colours, adjustment(1.2)), atol=1e-6)


@pytest.mark.parametrize("count", [16, 60, 400])
def test_a_few_colours_of_a_sky_say_nothing_of_the_other_colours(count: int):
    """What an inpaint leaves may be a strip of sky: its shift is to be found, its noise not to be followed."""
    generator = torch.Generator().manual_seed(count)

    def noise() -> torch.Tensor:
        return 0.005 * torch.randn(count, 3, generator=generator, dtype=torch.float64)

    sky = torch.tensor([0.55, 0.7, 0.9], dtype=torch.float64) + noise()
    shift = torch.tensor([-0.02, -0.01, 0.02], dtype=torch.float64)
    found, _ = fit_map(sky + noise(), sky + shift + noise(), wary=True)
    assert (mapped(sky, found) - sky - shift).mean(0).abs().max() < 0.004
    everywhere = torch.cartesian_prod(*[torch.linspace(0, 1, 5, dtype=torch.float64)] * 3)
    assert (mapped(everywhere, found) - everywhere).abs().max() < 0.08
