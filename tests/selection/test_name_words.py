"""What a checkpoint's name says of the VAE in it."""

from __future__ import annotations

import pytest

from vae_manager.selection.name_words import says_of_vae


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            "x_noVae xNoVAE x-NO-VAE x_v20NoVAE x_noBakedVae x_unbakedVae x_UnBakedVAE x-not-baked-vae x_withoutVAE "
            "x-without-a-vae x_wo_vae x-w-o-vae x_novae x-vae-less vaeFree_x x_noClipNoVae x_without_baked_in_vae",
            "none",
        ),
        ("x_bakedVae x-VAE-baked x_vaeIncluded xVAEFix x_withVAE x_with_clip_vae x_incl-vae x_bakedvae", "baked"),
        (
            "animeKinoVAE AnimeTwo_vae casinoVae supernovae_x cosmoVAE x_vae x_vae_v2 vae-ft-mse x novaesthetic "
            "twoVAEs unbaked bakedGoods_v1 withMe x_nova",
            None,
        ),
    ],
)
def test_names(names: str, said: str | None) -> None:
    assert {name: says_of_vae(name) for name in names.split()} == dict.fromkeys(names.split(), said)
