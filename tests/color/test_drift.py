"""Ten loops through the demo VAE, held and not; pictures whose content was changed are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tests.color.test_diagnose import picture
from vae_manager.codec.build import build_kl
from vae_manager.codec.pictures import load_picture
from vae_manager.codec.whole import decode, encode, latent_of
from vae_manager.color.correct import to_levels
from vae_manager.color.difference import ciede2000, lab
from vae_manager.color.drift import drift_map, hold, low_drift
from vae_manager.color.matrix import adjustment, affine
from vae_manager.commands import open_file
from vae_manager.library.probe import bundled_pictures
from vae_manager.library.state import load_kl_state

DEMO = Path(__file__).parents[2] / "vae_manager" / "data" / "demo"
LOOPS = 10


@pytest.fixture(scope="module")
def vae():
    return build_kl(*load_kl_state(open_file(str(DEMO / "demo-kl-f8.safetensors")), torch.float32))


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> torch.Tensor:
    path = tmp_path_factory.mktemp("photo") / "small.png"
    with Image.open(DEMO / "photo.jpg") as image:
        image.resize((192, 128), Image.Resampling.LANCZOS).save(path)
    return load_picture(path)[0] / 2 + 0.5


def looped(vae, v: torch.Tensor, held: bool) -> torch.Tensor:
    for _ in range(LOOPS):
        new = (decode(vae, latent_of(encode(vae, v[None] * 2 - 1)))[0] / 2 + 0.5).clamp(0, 1)
        v = to_levels(hold(new, v) if held else new).float() / 255
    return v


def drift(v: torch.Tensor, start: torch.Tensor) -> tuple[float, float]:
    """Largest shift of a channel's mean in levels, and largest relative change of its deviation."""
    shift = (v.mean((1, 2)) - start.mean((1, 2))).abs().max() * 255
    return float(shift), float((v.std((1, 2)) / start.std((1, 2)) - 1).abs().max())


def test_ten_loops_keep_means_and_contrast(vae, photo):
    shift, contrast = drift(looped(vae, photo, held=True), photo)
    assert shift < 1 and contrast < 0.01
    shift, contrast = drift(looped(vae, photo, held=False), photo)
    assert shift > 2 and contrast > 0.05  # what it is held against


def test_ten_loops_keep_the_colours_of_every_place(vae, photo):
    """Means of the whole picture may stay while one half of it gets warmer and the other colder."""

    def blocks(v: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(v, 16).flatten(1)

    held, free = (looped(vae, photo, held) for held in (True, False))
    before = lab(blocks(photo))
    moved = [float(ciede2000(lab(blocks(v)), before).mean()) for v in (held, free)]
    assert moved[0] < 0.4 * moved[1]


def test_a_block_that_was_painted_anew_is_not_pulled_back():
    v = picture(0)
    new = affine(v, adjustment(0.97))
    new[:, 64:80, 64:80] = 1 - v[:, 64:80, 64:80].mean()
    field, share = low_drift(new, v)
    assert share[4, 4] == 0 and share[:3].min() > 0.5
    assert field[:, 70:74, 70:74].abs().max() < 0.01 < (v - new)[:, 64:80, 64:80].mean((1, 2)).abs().max()
    elsewhere = F.avg_pool2d((new + field - v)[:, :48], 16)
    assert elsewhere.abs().max() < 0.002 < F.avg_pool2d((new - v)[:, :48], 16).abs().max()
    masked = torch.zeros(192, 192)
    masked[:48] = 1
    assert not low_drift(new, v, masked)[1][:3].any()


@pytest.mark.parametrize("index", range(len(bundled_pictures())))
def test_ten_loops_of_every_bundled_picture(vae, index):
    """Among them one whose most saturated greens this VAE has not learnt: it takes the gamut step several rounds."""
    v = bundled_pictures()[index] / 2 + 0.5
    shift, contrast = drift(looped(vae, v, held=True), v)
    assert shift < 0.5 and contrast < 0.005


def test_another_picture_is_left_alone():
    v = picture(0)
    assert hold(v, picture(1)) is v
    assert hold(v, v[:, :50]) is v
    assert hold(v, torch.full_like(v, float("nan"))) is v
    quarter = v.clone()
    quarter[:, :96, :96] = picture(4)[:, :96, :96]
    assert hold(quarter, v) is quarter
    assert drift_map(affine(v, adjustment(0.5)), v) is None  # no drift goes that far


def test_what_was_meant_to_change_has_no_say():
    v, changed = picture(0), torch.zeros(192, 192)
    changed[:96, :96] = 1
    new = affine(v, adjustment(0.95, 0.01))
    new[:, :96, :96] = picture(4)[:, :96, :96]
    out = hold(new, v, changed)
    assert (out - v)[:, changed == 0].abs().mean() < 0.005 < (new - v)[:, changed == 0].abs().mean()
    other = new.clone()
    other[:, :96, :96] = 0.5
    assert torch.allclose(hold(other, v, changed)[:, 112:], out[:, 112:], atol=1e-3)


@pytest.mark.parametrize("side", [48, 112])
def test_what_was_painted_gets_back_what_its_surroundings_lost(side: int):
    """The surroundings are put back as they were; what was painted into them must not keep the VAE's cast, or a seam
    shows. Nothing pulls it toward what was there before."""
    v, changed = picture(2), torch.zeros(192, 192)
    place = slice(40, 40 + side)
    changed[place, place] = 1
    painted = v.clone()
    painted[:, place, place] = picture(5)[:, place, place] * 0.8 + 0.1
    cast = torch.tensor([0.03, -0.01, -0.02])[:, None, None]
    drifted = (painted + cast).clamp(0, 1)
    inside = changed > 0
    before, after = ((x - painted)[:, inside].mean(1).abs().max() for x in (drifted, hold(drifted, v, changed)))
    assert after < 0.3 * before


def test_an_outpainted_border_has_the_colours_of_the_old_picture():
    v, changed = picture(2), torch.zeros(192, 192)
    changed[:, 128:] = 1
    began = v.clone()
    began[:, :, 128:] = torch.rand(3, 192, 64, generator=torch.Generator().manual_seed(1))  # as outpainting begins
    drifted = (v * 0.96).clamp(0, 1)
    seam = (hold(drifted, began, changed) - v)[:, :, 120:144]
    assert seam.mean((1, 2)).abs().max() < 0.006 < (drifted - v)[:, :, 120:144].mean((1, 2)).abs().max()
