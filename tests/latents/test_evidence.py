"""Stronger evidence first; weaker evidence may choose among what it leaves, and nothing more."""

from __future__ import annotations

import pytest

from vae_manager.latents.claims import (
    LoadedFormat,
    of_file_name,
    of_latent,
    of_loaded,
    of_metadata,
    of_vae_scale,
    of_vae_shape,
)
from vae_manager.latents.evidence import Claim, Evidence, Known, conflict, settle
from vae_manager.latents.spaces import SPACES, space_of, spaces_of_latent, spaces_of_vae, title_of


def shapes(*spaces: str) -> Claim:
    return Claim(frozenset(spaces), Evidence.SHAPES)


def test_the_latent_that_arrives_overrules_everything() -> None:
    assert settle([of_file_name("my_sdxl"), shapes("sdxl"), of_latent(128)]).spaces == {"flux2", "ltx"}


def test_weaker_evidence_chooses_among_what_stronger_leaves() -> None:
    known = settle([of_latent(16), shapes("flux1")])
    assert known.space == "flux1" and known.certain


def test_a_guess_chooses_but_is_not_certain() -> None:
    known = settle([of_vae_shape("kl", 16), of_file_name("flux-vae")])
    assert known.space == "flux1" and not known.certain
    assert known.firm == {"sd3", "flux1"}


def test_weaker_evidence_that_contradicts_says_nothing() -> None:
    known = settle([of_file_name("ponyXL"), shapes("sd1")])
    assert known.space == "sd1" and known.certain and known.evidence is Evidence.SHAPES


def test_without_evidence_nothing_is_known() -> None:
    assert settle([]).space == "unknown"
    assert not settle([of_file_name("nice picture")]).certain


@pytest.mark.parametrize(
    ("model", "vae", "refused"),
    [
        (shapes("sdxl"), of_vae_shape("kl", 4), False),
        (shapes("sdxl"), of_vae_shape("kl", 16), True),
        (shapes("flux1"), of_vae_shape("causal3d", 16), True),
        (shapes("sdxl"), Claim(frozenset({"sd1"}), Evidence.HOST), True),
        (of_file_name("sdxl"), of_vae_shape("kl", 16), False),
        (shapes("sdxl"), of_file_name("flux ae"), False),
        (Claim(frozenset(), Evidence.NONE), of_vae_shape("kl", 16), False),
    ],
)
def test_only_what_is_known_of_both_is_a_conflict(model: Claim, vae: Claim, refused: bool) -> None:
    assert conflict(settle([model]), settle([vae])) is refused


def test_nothing_known_is_no_conflict() -> None:
    assert not conflict(Known(), Known())


@pytest.mark.parametrize(
    ("loaded", "expected"),
    [
        (LoadedFormat(4, 0.18215), {"sd1", "svd"}),
        (LoadedFormat(4, 0.13025), {"sdxl"}),
        (LoadedFormat(16, 0.3611, 0.1159), {"flux1"}),
        (LoadedFormat(16, 1.5305, 0.0609), {"sd3"}),
        (LoadedFormat(128, 1.0), {"flux2", "ltx"}),
        (LoadedFormat(32, 1.0), {"flux2"}),
        (LoadedFormat(16, 1.0, mean=SPACES["wan21"].mean), {"wan21"}),
        (LoadedFormat(scale=0.13025), {"sdxl"}),
        (LoadedFormat(), set()),
        (LoadedFormat(4, 0.5), set()),
    ],
)
def test_the_loaded_models_own_format(loaded: LoadedFormat, expected: set[str]) -> None:
    assert of_loaded(loaded).spaces == expected


@pytest.mark.parametrize(
    ("metadata", "space"),
    [
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base"}, "sdxl"),
        ({"modelspec.architecture": "Flux.1-dev"}, "flux1"),
        ({"modelspec.architecture": "flux-2-klein"}, "flux2"),
        ({"general.architecture": "wan"}, "wan21"),
        ({"general.architecture": "wanderer"}, None),
        ({"title": "flux"}, None),
    ],
)
def test_metadata(metadata: dict[str, str], space: str | None) -> None:
    assert of_metadata(metadata).spaces == (frozenset({space}) if space else frozenset())


def test_a_scale_in_a_vaes_metadata() -> None:
    assert settle([of_vae_shape("kl", 4), of_vae_scale(0.13025, 4)]).space == "sdxl"
    assert settle([of_vae_shape("kl", 16), of_vae_scale(0.13025, 16)]).space == "unknown"


def test_spaces_by_shape() -> None:
    assert spaces_of_vae("kl", 4, 8) == {"sd1", "sdxl"}
    assert spaces_of_vae("causal3d", 48) == {"wan22"}
    assert spaces_of_vae("kl", 12) == frozenset()
    assert "flux2" in spaces_of_latent(32) & spaces_of_latent(128)


def test_older_names_are_still_known() -> None:
    assert space_of("flux") is SPACES["flux1"]
    assert space_of("wan") is SPACES["wan21"]
    assert space_of("taesd") is None
    assert title_of("flux1") == "Flux.1" and title_of("taesd") == "taesd"
