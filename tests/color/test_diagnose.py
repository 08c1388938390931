"""Causes in their order of trust, references, pools and what is kept of them."""

from __future__ import annotations

import json

import pytest
import torch

from vae_manager.color.correct import correct
from vae_manager.color.diagnose import diagnose
from vae_manager.color.evidence import Evidence, Reference
from vae_manager.color.faults import examined_fault, known_fault, scale_fault
from vae_manager.color.matrix import adjustment, affine, invert, is_identity, stretch
from vae_manager.color.pool import different, pooled_map, too_strong
from vae_manager.color.session import KEPT, ColorSession
from vae_manager.color.statistics import statistics
from vae_manager.store import open_store

PALE = adjustment(contrast=0.7)
VERSIONS = (("model.safetensors", 10, 1), ("own.vae.pt", 20, 2))


def picture(seed: int, size: int = 192) -> torch.Tensor:
    """Smooth coloured shapes with fine grain, from black to white, some dark, some bright, some pale in colour only."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 7, 7, generator=generator)
    v = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[0]
    v = v + 0.05 * torch.randn(3, size, size, generator=generator)
    v = ((v - v.quantile(0.01)) / (v.quantile(0.99) - v.quantile(0.01))).clamp(0, 1)
    v = v.mean(0) + (1 - 0.25 * (seed % 3)) * (v - v.mean(0))
    return v ** (0.5 * 1.25 ** (seed % 10))


def pale(v: torch.Tensor) -> torch.Tensor:
    return affine(v, PALE)


def test_nan_and_black_are_named_and_left_alone():
    v = picture(0)
    assert diagnose(Evidence(torch.zeros(3, 64, 64))).cause == "black"
    v[1, 2, 3] = float("nan")  # one is enough, wherever it is
    found = diagnose(Evidence(v))
    assert found.cause == "nan" and found.remedy and not found.corrects


def test_good_picture_is_left_alone():
    assert diagnose(Evidence(picture(1))).cause == "none"
    assert is_identity(diagnose(Evidence(picture(1))).matrix)


def test_flat_art_is_left_alone_and_says_so():
    found = diagnose(Evidence(torch.full((3, 64, 64), 0.5)))
    assert found.cause == "none" and "nothing can be said" in found.reason


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 50), (3, 2, 3), (3, 700, 300)])
def test_any_size(shape):
    assert diagnose(Evidence(torch.rand(shape))).confidence >= 0


def test_known_fault_comes_first_and_touches_no_pixel():
    fault = scale_fault(0.18215, 0.13025, "SDXL")
    found = diagnose(
        Evidence(pale(picture(0)), fault=fault, calibration=stretch(0.1, 0.9), reference=Reference(picture(0)))
    )
    assert found.cause == "wrong latent scale" and found.washed_out and not found.corrects
    assert "0.13025" in found.remedy


def test_order_of_trust():
    v = picture(0)
    bad = pale(v)
    pool = [statistics(pale(picture(seed))) for seed in range(10)]
    calibration = stretch(0.15, 0.85)
    assert diagnose(Evidence(bad, calibration=calibration, reference=Reference(v), pool=pool)).cause == "calibration"
    assert diagnose(Evidence(bad, reference=Reference(v), pool=pool)).cause == "reference"
    assert diagnose(Evidence(bad, reference=Reference(picture(9)), pool=pool)).cause == "session"
    assert "not used" in diagnose(Evidence(bad, reference=Reference(picture(9)), pool=pool)).reason


def test_reference_with_a_repainted_quarter():
    v = picture(3)
    new = v.clone()
    new[:, :96, :96] = picture(4)[:, :96, :96]
    found = diagnose(Evidence(pale(new), reference=Reference(v)))
    assert found.cause == "reference" and found.washed_out
    assert (correct(pale(new), found.matrix) - new).abs().mean() < 0.01
    # the same where a mask says what was repainted
    changed = torch.zeros(192, 192)
    changed[:96, :96] = 1
    assert diagnose(Evidence(pale(new), reference=Reference(v, changed))).cause == "reference"
    # over-saturated pictures come back too
    strong = affine(v * 0.5 + 0.25, adjustment(1.4, 0, 1.2))
    found = diagnose(Evidence(strong, reference=Reference(v * 0.5 + 0.25)))
    assert found.cause == "reference" and not found.washed_out
    assert (correct(strong, found.matrix) - (v * 0.5 + 0.25)).abs().mean() < 0.01


def test_good_picture_agrees_with_its_reference_at_another_size():
    v = picture(5)
    small = torch.nn.functional.avg_pool2d(v, 2)
    found = diagnose(Evidence(v, reference=Reference(small)))
    assert found.cause == "none" and "agree" in found.reason


def test_flat_reference_proves_nothing():
    assert diagnose(Evidence(picture(6), reference=Reference(torch.full((3, 192, 192), 0.5)))).cause != "reference"
    assert diagnose(Evidence(picture(6), reference=Reference(picture(6)[:, :50]))).cause != "reference"  # another shape
    assert (
        diagnose(Evidence(picture(6), reference=Reference(torch.full((3, 192, 192), float("nan"))))).cause
        != "reference"
    )


def test_pool_finds_what_is_common_and_vetoes():
    bad = [statistics(pale(picture(seed))) for seed in range(10)]
    good = [statistics(picture(seed)) for seed in range(10)]
    fixed = correct(pale(picture(20)), pooled_map(bad))
    assert (fixed - picture(20)).abs().mean() < 0.3 * (pale(picture(20)) - picture(20)).abs().mean()
    assert is_identity(pooled_map(good))
    assert diagnose(Evidence(pale(picture(1)), pool=good[:5])).cause == "none"
    # eight seeds of one picture are one picture
    assert len(different([statistics(pale(picture(0)))] * 8)) == 1


def strong(v: torch.Tensor) -> torch.Tensor:
    """A latent decoded at 1.4 times its scale: contrast and chroma around .41, clipped."""
    return affine(v, stretch(0.41 - 0.41 / 1.4, 0.41 + 0.59 / 1.4)).clamp(0, 1)


def test_too_strong_is_named_and_undone_where_something_shows_how():
    v = picture(5) * 0.6 + 0.2
    found = diagnose(Evidence(strong(v), reference=Reference(v)))
    assert found.cause == "reference" and found.reason.startswith("too strong") and not found.washed_out
    assert (correct(strong(v), found.matrix) - v).abs().mean() < 0.01
    undo = invert(stretch(0.41 - 0.41 / 1.4, 0.41 + 0.59 / 1.4))
    found = diagnose(Evidence(strong(v), calibration=undo))
    assert found.reason.startswith("too strong") and not found.washed_out
    assert (correct(strong(v), found.matrix) - v).abs().max() < 1e-5
    found = diagnose(Evidence(strong(v), fault=scale_fault(0.13025, 0.18215, "SD1")))
    assert found.cause == "wrong latent scale" and not found.corrects and "0.18215" in (found.remedy or "")


def test_a_session_driven_beyond_black_and_white_is_named_and_not_touched():
    pool = [statistics(strong(strong(picture(seed)))) for seed in range(10)]
    found = diagnose(Evidence(strong(strong(picture(0))), pool=pool))
    assert found.cause == "session" and found.reason.startswith("too strong") and "scale" in (found.remedy or "")
    assert not found.corrects and not found.washed_out
    assert not too_strong([statistics(picture(seed)) for seed in range(10)])
    assert not too_strong(pool[:7])  # too few


def test_chroma_gain_comes_from_the_edge_of_the_gamut():
    """Colours that touched the edge before the fault took a fifth of their chroma touch it again afterwards."""

    def vivid(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.rand(3, 24, 24, generator=generator) * (torch.rand(3, 24, 24, generator=generator) > 0.3)
        return blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)

    faded = affine(vivid(30), stretch(-0.2, 1.1, 0.8))
    fixed = correct(faded, pooled_map([statistics(affine(vivid(s), stretch(-0.2, 1.1, 0.8))) for s in range(9)]))
    assert (fixed - vivid(30)).abs().mean() < 0.25 * (faded - vivid(30)).abs().mean()


def test_session_is_kept_bounded_and_forgotten_with_its_files(tmp_path):
    store = open_store(tmp_path / "color")
    session = ColorSession(store)
    for seed in range(KEPT + 3):
        kept = session.add(*VERSIONS, statistics(picture(seed % 4, 32)))
    assert len(kept) == KEPT and ColorSession(store).pictures(*VERSIONS) == kept
    changed = (VERSIONS[0], ("own.vae.pt", 21, 3))
    assert session.pictures(*changed) == ()
    assert len(session.add(*changed, statistics(picture(0, 32)))) == 1
    assert session.pictures(*VERSIONS) == ()
    assert len(ColorSession(None).add(*VERSIONS, statistics(picture(0, 32)))) == 1


def test_pictures_of_a_checkpoint_that_was_replaced_are_forgotten_like_those_of_a_vae():
    session, seen = ColorSession(), statistics(picture(0))
    (checkpoint, size, _), vae = VERSIONS
    assert session.add(*VERSIONS, seen) == (seen,)
    assert session.pictures((checkpoint, size, 9), vae) == ()
    assert session.pictures(*VERSIONS) == (seen,)


def test_a_failed_picture_is_not_remembered(tmp_path):
    session = ColorSession(open_store(tmp_path))
    assert session.add(*VERSIONS, statistics(torch.full((3, 8, 8), float("nan")))) == ()


def test_faults():
    assert scale_fault(0.13025, 0.13, "SDXL") is None
    assert scale_fault(0.13025, 0.18215, "SD1").sentence.startswith("too strong")
    pale_vae = examined_fault(("it washes pictures out: of their contrast 70% comes back",))
    assert pale_vae is not None and pale_vae.cause == "damaged VAE" and "70%" in pale_vae.sentence
    assert examined_fault(()) is None
    assert known_fault("x", ["low-contrast"]).cause == "flat VAE" and known_fault("x", []) is None


def test_document_is_json():
    document = diagnose(Evidence(pale(picture(0)), reference=Reference(picture(0)))).document()
    assert json.loads(json.dumps(document)) == document and len(document["matrix"]) == 3


def test_eight_bit_levels_are_counted_exactly():
    """Every level of an 8-bit picture is the level that its edges say, from black and from white."""
    for level in range(256):
        s = statistics(torch.full((3, 40, 40), level / 255))
        assert [*s.tile_floors, *s.tile_ceilings] == pytest.approx([level / 255] * 32)
        assert s.clipped == (level in (0, 255))
