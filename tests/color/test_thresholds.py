"""How much is done, and from where on nothing is: what the constants of the colour room stand for, in pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.color.test_diagnose import pale, picture
from vae_manager.color.blind import judge
from vae_manager.color.diagnose import diagnose, looks_fine
from vae_manager.color.drift import drift_map, hold
from vae_manager.color.evidence import Evidence
from vae_manager.color.matrix import adjustment, affine, is_identity
from vae_manager.color.pool import different, pooled_map, too_strong
from vae_manager.color.reference import fit_reference
from vae_manager.color.statistics import statistics
from vae_manager.library.probe import bundled_pictures


@pytest.fixture(scope="module")
def photos() -> list[torch.Tensor]:
    return [photo / 2 + 0.5 for photo in bundled_pictures(256)]


# --- drift


@pytest.mark.parametrize("shift", [0.02, 0.08, -0.08])
def test_a_shift_of_a_few_levels_is_drift_and_undone(shift: float):
    before = picture(0) * 0.5 + 0.25
    after = before + torch.tensor([shift, 0.0, -shift / 2])[:, None, None]
    assert (hold(after, before) - before).abs().max() < 1 / 255


@pytest.mark.parametrize("shift", [0.2, -0.2])
def test_a_shift_that_the_eye_takes_for_another_light_is_a_wish(shift: float):
    before = picture(0) * 0.5 + 0.25
    assert drift_map(before + torch.tensor([shift, 0.0, 0.0])[:, None, None], before) is None


def test_a_picture_that_was_half_painted_anew_is_not_held_to_the_old_one():
    """Light and contrast of the two are alike: only what they show tells that the wish was another picture."""
    before, other = picture(0) * 0.5 + 0.25, picture(4) * 0.5 + 0.25
    assert drift_map(torch.lerp(before, other, 0.1), before) is not None
    assert drift_map(torch.lerp(before, other, 0.5), before) is None


def test_what_a_mask_says_was_painted_has_no_say_in_the_colours():
    """Most of the picture is new, and in other colours: only the rest can tell what the VAE has done."""
    before = picture(3)
    changed = torch.zeros(192, 192)
    changed[:, :120] = 1
    new = before.clone()
    new[:, :, :120] = affine(picture(4), adjustment(0.6, 0.2))[:, :, :120]
    found = fit_reference(pale(new), before, changed)
    assert found.matrix is not None
    kept = affine(pale(new), found.matrix)[:, changed == 0]
    assert (kept - before[:, changed == 0]).abs().mean() < 0.005
    unmasked = fit_reference(pale(new), before)
    assert (
        unmasked.matrix is None
        or (affine(pale(new), unmasked.matrix)[:, changed == 0] - before[:, changed == 0]).abs().mean() > 0.01
    )


def test_other_pictures_are_no_references(photos: list[torch.Tensor]):
    for n, photo in enumerate(photos):
        for other in photos[n + 1 :]:
            found = fit_reference(photo * 0.2 + 0.4, other * 0.2 + 0.4)
            assert found.matrix is None


def test_the_same_sky_over_another_wood_is_no_reference():
    """Nearly the same colours in the same places: that the details are others tells that it is another picture."""
    ramp = torch.linspace(0.1, 0.9, 24)
    sky = torch.stack(
        [ramp.expand(24, 24), ramp[:, None].expand(24, 24), (1.8 - 2 * (ramp - 0.5).abs() - 0.9).expand(24, 24)]
    )

    def wood(seed: int) -> torch.Tensor:
        leaves = 0.025 * torch.randn(24, 24, generator=torch.Generator().manual_seed(seed))
        return (sky + leaves).repeat_interleave(8, 1).repeat_interleave(8, 2).clamp(0, 1)

    assert fit_reference(pale(wood(1)), wood(1)).matrix is not None
    other = fit_reference(pale(wood(1)), wood(2))
    assert other.residual < 0.07 and other.matrix is None


# --- one picture alone


def test_one_picture_alone_gets_nearly_all_of_its_contrast_back_and_never_more(photos: list[torch.Tensor]):
    """A stretch that goes too far clips what the VAE has kept; one that falls far short is no help."""
    sure = 0
    for photo in photos:
        bad = affine(photo, adjustment(0.7))
        score, matrix = judge(statistics(bad))
        if score > 0.9:
            sure += 1
            gained = float(matrix[:, :3].sum(1).mean())
            assert 0.9 < (gained - 1) / (1 / 0.7 - 1) <= 1.01
    assert sure >= 6


def test_a_grey_picture_is_left_alone_however_pale_it_is(photos: list[torch.Tensor]):
    """Its colours, which would tell, are not there."""
    for photo in photos:
        grey = affine(photo, adjustment(contrast=0.5, saturation=0.0))
        assert not diagnose(Evidence(grey)).corrects and not looks_fine(grey)


# --- several pictures


def test_a_few_pictures_without_black_or_white_correct_nothing_and_many_do():
    """Five may be one foggy walk; eight with nothing else in common are the VAE."""
    bad = [statistics(pale(picture(seed))) for seed in range(10)]
    assert len(different(bad)) == len(bad)
    assert diagnose(Evidence(pale(picture(11)), pool=bad[:5])).cause != "session"
    found = diagnose(Evidence(pale(picture(11)), pool=bad))
    assert found.cause == "session" and found.corrects


def test_the_same_picture_again_and_again_makes_no_pool():
    seen = statistics(pale(picture(0)))
    again = [replace(seen, mean=seen.mean + 0.001 * n) for n in range(12)]
    assert len(different(again)) == 1
    assert diagnose(Evidence(pale(picture(0)), pool=again)).cause != "session"


def test_the_map_of_a_pool_is_that_of_its_darkest_and_brightest_picture():
    """What none of the pictures has may be taken away; what one of them shows must not be clipped."""
    bad = [affine(picture(seed), adjustment(0.55 + 0.02 * seed)) for seed in range(10)]
    matrix = pooled_map([statistics(v) for v in bad])
    assert not is_identity(matrix)
    for v in bad:
        low, high = (affine(v, matrix).flatten().quantile(q) for q in (0.001, 0.999))
        assert low > -0.03 and high < 1.03


def test_most_pictures_must_be_driven_beyond_black_and_white():
    strong = [statistics(affine(picture(seed), adjustment(1.8)).clamp(0, 1)) for seed in range(10)]
    sound = [statistics(picture(seed) * 0.9 + 0.05) for seed in range(10)]
    assert too_strong(strong) and too_strong([*strong[:8], *sound[:5]])
    assert not too_strong(strong[:7]) and not too_strong([*strong[:4], *sound[:6]])
