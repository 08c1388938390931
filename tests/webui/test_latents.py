"""What a loaded model says of its own latents is believed before its file's header, in the line and in the job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.latents.files import halves, write_safetensors
from tests.latents.models import MODELS
from tests.test_models import VAES
from tests.webui.test_session import OneModel, Z
from vae_manager.codec.kinds.tiny.network import TinyAutoencoder, TinyConfig
from vae_manager.errors import VaeFileError
from vae_manager.latents.claims import LoadedFormat
from vae_manager.latents.spaces import SPACES
from vae_manager.selection.checkpoint import open_checkpoint
from vae_manager.webui.hosts.latent_format import format_of, format_of_stage
from vae_manager.webui.options import Options
from vae_manager.webui.session import Session
from vae_manager.webui.tiny import decode_tiny


def test_only_numbers_that_a_latent_can_have_are_taken():
    assert format_of(None) is None and format_of_stage(None) is None and format_of_stage(nn.Linear(2, 2)) is None
    assert format_of(SimpleNamespace(latent_channels=10**9, latents_mean=torch.zeros(0))) is None


# --- the line


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("ltx", "a video VAE"),
        ("chroma-radiance", "pixels without a VAE"),
        ("sana", "a VAE of another build"),
    ],
)
def test_a_model_that_is_to_be_loaded_and_whose_vae_is_the_hosts_is_promised_nothing(
    host: OneModel, write_vae, model: str, what: str
):
    """As a job then finds, when the model is there and its first stage is none of ours."""
    write_vae("VAE/qwen_image_vae.safetensors")
    path = write_safetensors(host.folder / "next.safetensors", halves(MODELS[model]))
    host.next_checkpoint = lambda: (path, path.name)  # type: ignore[method-assign]
    session = Session(host, Options(1 << 30))
    line = session.shelf.about("Automatic")[0]
    assert line.startswith("Automatic: next.safetensors gets the WebUI's own VAE") and f", {what}, which VAE" in line
    for choice in ("b", "qwen_image_vae"):
        assert session.shelf.about(choice)[0] == (
            f"{choice} was not used: this model has {what}, which VAE Manager leaves to the WebUI."
        )
    session.shut_down()


def test_a_model_that_is_to_be_loaded_is_promised_its_causal_vae(host: OneModel):
    """Its single pictures are computed beside the host's module."""
    write_safetensors(host.folder / "VAE" / "qwen_image_vae.safetensors", halves(VAES["qwen_image_vae"][1]()))
    path = write_safetensors(host.folder / "next.safetensors", halves(MODELS["qwen-image"]))
    host.next_checkpoint = lambda: (path, path.name)  # type: ignore[method-assign]
    session = Session(host, Options(1 << 30))
    assert session.shelf.about("Automatic")[0].startswith("Automatic: next.safetensors gets qwen_image_vae.safetensors")
    against = {offer.file.stem: offer.against for offer in session.shelf.offers()}
    assert not against["qwen_image_vae"] and against["b"]
    session.shut_down()


def test_lists_and_cards_go_by_the_loaded_model(host: OneModel):
    """The header of what is loaded tells nothing here; its first stage takes four channels."""
    folder = host.folder / "VAE"
    for stem in ("ae", "qwen_image_vae", "wan2.2_vae", "sdxl_vae"):
        write_safetensors(folder / f"{stem}.safetensors", halves(VAES[stem][1]()))
    write_safetensors(host.folder / "model.safetensors", {"something.new": ("F16", (1,))})
    session = Session(host, Options(1 << 30))
    against = {offer.file.stem: offer.against for offer in session.shelf.offers()}
    assert not against["b"] and not against["sdxl_vae"]
    assert against["ae"].endswith("is one with 4-channel latents; choose a VAE of that family.")
    assert all(against[stem].endswith("choose a VAE of that family.") for stem in ("qwen_image_vae", "wan2.2_vae"))
    session.shut_down()


# --- the latent that arrives


def test_a_latent_of_other_channels_than_the_header_promises_is_of_no_space_by_it(tmp_path: Path):
    """So that nothing is multiplied by a guess: FLUX.2's latents were decoded 75 levels off."""
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "x.safetensors", halves(MODELS["flux1"])))
    for scaled in (True, False):
        assert checkpoint.space_for(16, scaled) is SPACES["flux1"]
        assert checkpoint.space_for(128, scaled) is None and checkpoint.space_for(4, scaled) is None
    other = replace(checkpoint, loaded=LoadedFormat(16, 1.5305, 0.0609))
    assert other.space is SPACES["sd3"] is other.space_for(16, scaled=True)
    # a scale that belongs to another space is told as a fault, not believed
    assert other.space_for(16, scaled=False) is SPACES["flux1"]


def test_a_tiny_vae_does_not_decode_latents_of_other_channels():
    tiny = TinyAutoencoder(None, TinyConfig(latent_channels=16, channels=(8,), blocks=(1,)))
    with pytest.raises(VaeFileError, match="it decodes latents of 16 channels, and this model's have 4"):
        decode_tiny(tiny, Z, SPACES["sd1"])
