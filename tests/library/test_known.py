"""The list of known VAEs: its shape, what must never be in it, and how it is asked."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from vae_manager.library.known import FAMILIES, QUIRKS, by_name, by_sha256, known_vaes, on_purpose

MSE = "735e4c3a447a3255760d7f86845f09f937809baa529c17370d83e4c3758f3c75"
FILES = [file for vae in known_vaes() for file in vae.files]

WRONG_PAIRS = [
    # seen in generation parameters, proven wrong: A1111 writes the hash of the VAE used before
    ("79e225b92f", "blessed2.vae.pt"),
    ("ab33ad55c6", "Counterfeit-V2.5.vae.pt"),
    ("b4958602ab", "xlVAEC_c1"),
    ("735e4c3a44", "sdxl_vae.safetensors"),
    ("63aeecb90f", "Anything-V3.0.pt"),
    ("63aeecb90f", "vae-ft-mse-840000"),
    ("235745af8d", "kl-f8-anime2.ckpt"),
    ("f921fb3f29", "kl-f8-anime2.ckpt"),
    ("551eac7037", "vae-ft-mse-840000"),
]

RIGHT_PAIRS = [
    ("735e4c3a44", "vae-ft-mse-840000-ema-pruned.safetensors"),
    ("95f26a5ab0", "vae-ft-ema-560000-ema-pruned.safetensors"),
    ("f921fb3f29", "Counterfeit-V2.5.vae.pt"),
    ("df3c506e51", "kl-f8-anime2.ckpt"),
    ("df3c506e51", "MoistMixV2.vae.pt"),
    ("ab33ad55c6", "clearvaeSD15_v23.safetensors"),
    ("15e96204c9", "blessed2.vae.pt"),
    ("63aeecb90f", "sdxl_vae.safetensors"),
    ("235745af8d", "sdxl_vae.safetensors"),
    ("b33734d475", "xlVAEC_c1"),
    ("79e225b92f", "xlVAEC_c9"),
    ("afc8e28272", "ae.safetensors"),
    ("2bf9ad6856", "ultrafluxVAEImproved_v10.safetensors"),
    ("38071ab59b", "Wan2.1_VAE.pth"),
    ("20eb789667", "Wan2.2_VAE.pth"),
    ("2413554bbe", "Wan2.1_VAE_upscale2x_imageonly_real_v1.safetensors"),
    ("f986092baa", "taew2_1.pth"),
    ("8666e769f4", "lighttaew2_1.safetensors"),
]


def ids_by_short_hash(short: str) -> set[str]:
    return {vae.id for vae in known_vaes() for file in vae.files if file.sha256.startswith(short)}


@pytest.mark.parametrize(("short", "name"), WRONG_PAIRS)
def test_wrong_pair_is_absent(short, name):
    assert not ids_by_short_hash(short) & {vae.id for vae in by_name(name)}


def test_wrong_hash_without_an_owner_is_absent():
    assert not ids_by_short_hash("b4958602ab")


@pytest.mark.parametrize(("short", "name"), RIGHT_PAIRS)
def test_right_pair_is_present(short, name):
    assert ids_by_short_hash(short) & {vae.id for vae in by_name(name)}


def test_hashes_are_whole_and_of_one_vae_each():
    hashes = [file.sha256 for file in FILES]
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in hashes)
    assert len(set(hashes)) == len(hashes)


def test_hash_of_the_empty_file_is_absent():
    assert not any(file.sha256.startswith("e3b0c442") for file in FILES)


def test_ids_are_unique_and_simple():
    ids = [vae.id for vae in known_vaes()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", value) for value in ids)


def test_entries_say_what_they_must():
    for vae in known_vaes():
        assert vae.family in FAMILIES
        assert set(vae.quirks) <= set(QUIRKS), vae.id
        assert vae.purpose.endswith(".") and len(vae.purpose) > 20
        assert vae.licence is None or re.fullmatch(r"[A-Za-z0-9.-]+", vae.licence)
        assert vae.files or vae.aliases, f"{vae.id} cannot be recognised by anything"


def test_files_say_what_they_must():
    for file in FILES:
        assert file.format in ("safetensors", "pickle", None)
        assert file.dtype in ("F32", "F16", "BF16", None)
        assert file.layout in ("ldm", "diffusers", "taesd", "wan", None)
        assert file.bytes is None or file.bytes > 1 << 20
        assert isinstance(file.confirmed, bool)
        assert all("/" not in name for name in file.names)


def test_both_kinds_of_certainty_are_there():
    assert sum(file.confirmed for file in FILES) >= 35
    assert not all(file.confirmed for file in FILES)


def test_every_family_and_every_quirk_is_used():
    assert {vae.family for vae in known_vaes()} == set(FAMILIES)
    assert {quirk for vae in known_vaes() for quirk in vae.quirks} == set(QUIRKS)


def test_data_names_no_addresses():
    for vae in known_vaes():
        assert not re.search(r"https?:|listing|huggingface|civitai|HF:", repr(vae), re.IGNORECASE)


def test_by_sha256_takes_any_case():
    vae = by_sha256(MSE.upper())
    assert vae is not None and vae.id == "vae-ft-mse-840000"
    assert vae.files[0].names[0] == "vae-ft-mse-840000-ema-pruned.safetensors"


@pytest.mark.parametrize("unknown", ["", "0" * 64, MSE[:10]])
def test_by_sha256_unknown(unknown):
    assert by_sha256(unknown) is None


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("vae-ft-mse-840000", "vae-ft-mse-840000"),
        ("VAE-FT-MSE-840000-EMA-PRUNED.CKPT", "vae-ft-mse-840000"),
        ("anime/orangemix.vae.pt", "nai-anime"),
        ("C:\\models\\VAE\\anything-v4.0.vae.pt", "nai-anime"),
        ("anything-v4.0", "nai-anime"),
        ("kl-f2-anime2", "kl-f8-anime2"),
        ("Color101", "color101"),
        ("Berry's Mix.vae.safetensors", "berrys-mix"),
        ("taef2_encoder.pth", "taef2"),
        ("SDXL VAE fp16-fix", "sdxl-vae-fp16-fix"),
        ("EQB7.safetensors", "eqb7"),
        ("Qwen2D_VAE.safetensors", "qwen2d-vae"),
        ("SDXL Anime VAE Dec-only B3.safetensors", "sdxl-anime-vae-b3"),
        ("qwen_image_2.1_vae_bf16.safetensors", "qwen-image-2.1-vae"),
    ],
)
def test_by_name(name, id):
    assert [vae.id for vae in by_name(name)] == [id]


def test_by_name_gives_all_where_a_name_is_shared():
    assert {"sdxl-vae", "sdxl-vae-fp16-fix"} <= {vae.id for vae in by_name("sdxl_vae.safetensors")}


def test_unproven_entries_are_found_by_id_only():
    assert [vae.id for vae in by_name("vae-ft-ema-560000-ema-pruned.ckpt")] == ["vae-ft-ema-560000"]
    assert [vae.id for vae in by_name("vae-ft-ema-560000-other")] == ["vae-ft-ema-560000-other"]


@pytest.mark.parametrize("unknown", ["", ".pt", "no such vae", "diffusion_pytorch_model.safetensors"])
def test_by_name_unknown(unknown):
    assert by_name(unknown) == ()


def test_tiny_vaes_say_whose_latents_they_decode():
    tiny = {vae.id: vae.latents_of for vae in known_vaes() if vae.family == "taesd"}
    assert tiny["taesd"] == "sd1" and tiny["taesdxl"] == "sdxl" and tiny["taef2"] == "flux2"
    assert tiny["taew2.1"] == "wan21" and tiny["taew2.2"] == "wan22"
    assert all(vae.latents_of == vae.family for vae in known_vaes() if vae.family not in ("taesd", "litevae"))
    assert by_name("olitevaeB_im_f8c12")[0].latents_of is None


def test_every_known_vae_is_of_the_space_that_it_is_for():
    spaces = {vae.id: vae.space for vae in known_vaes()}
    assert spaces["ultraflux-v1"] == spaces["flux-eq-vae"] == "flux1"
    assert spaces["qwen2d-vae"] == spaces["wan2.1-upscale2x"] == spaces["taew2.1"] == "wan21"
    assert spaces["wan2.2-vae"] == spaces["taew2.2"] == "wan22" and spaces["eqb7"] == "sdxl"


@pytest.mark.parametrize(
    ("name", "sha256", "what"),
    [
        ("renamed.safetensors", "2bf9ad685686b480b03651a8d8595951e4a5578016b8ead4af5e22d3dc9b3409", "sharper"),
        ("Dark VAE.safetensors", MSE, None),  # a hash that is known says what it is
        ("Dark Medium VAE.safetensors", None, "darker"),
        ("lastpieceVAE_contrast.safetensors", "0" * 64, "stronger in contrast"),
        ("sdxl_vibrantVAE_v2.safetensors", None, "more vivid"),
        ("SDXL Sharp Hard VAE.safetensors", None, "sharper"),
        ("darkSushiMix.vae.pt", None, None),  # named after its model
        ("sdxl_vae.safetensors", None, None),
        ("ultrafluxVAEImproved_v10.safetensors", "0" * 64, None),  # its published hash is another one
    ],
)
def test_what_a_vae_is_on_purpose(name: str, sha256: str | None, what: str | None):
    said = on_purpose(name, sha256)
    assert (said and said.endswith(f" is made {what} on purpose")) == (what and True)


def test_importing_reads_nothing_and_needs_no_torch():
    code = (
        "import sys; from vae_manager.library import known; "
        "assert known.known_vaes.cache_info().currsize == 0 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
