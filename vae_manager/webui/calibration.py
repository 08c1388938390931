"""The panel's "Calibrate": hold the VAE of the last pictures against a reference VAE, on those pictures' latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vae_manager.codec.build import Autoencoder
from vae_manager.codec.kinds.scaling import of_packed
from vae_manager.codec.kinds.shapes import Padding
from vae_manager.codec.swap import STATISTICS
from vae_manager.color.calibration import measure
from vae_manager.errors import BadInputError, VaeFileError, os_reason
from vae_manager.library.files import VaeFile
from vae_manager.library.state import load_state, load_statistics
from vae_manager.selection.decision import BAKED, Decision
from vae_manager.selection.settings import PanelSettings, with_said
from vae_manager.webui.coloring import Made
from vae_manager.webui.shelf import Shelf


def calibrate(shelf: Shelf, settings: PanelSettings, reference: str) -> str:
    """Measure and keep the map for the checkpoint that is loaded and the VAE of these settings; what was done."""
    found = shelf.preview(settings)
    if found is None:
        return "No checkpoint is loaded yet; generate a picture first."
    checkpoint, decision = found
    latents = [z for path, z in shelf.latents if path == checkpoint.file.path]
    if not latents:
        return f"There is no picture of {checkpoint.file.path.name} to measure on yet; generate one with the panel on."
    vae = decision.vae or checkpoint.file
    try:
        other = checkpoint.file if reference == BAKED else shelf.find(reference)
        if other.path == vae.path:
            return f"{other.name} is the VAE that decodes; choose another one as the reference."
        own, theirs = _load(vae, _padding(settings, decision)), _load(other)
        matrix, residual = measure(own, theirs, _unpacked(vae, own, latents), _unpacked(other, theirs, latents))
        shelf.colors.calibrate(Made(checkpoint.file.version, vae.version), matrix)
    except (BadInputError, VaeFileError) as error:
        return str(error)
    except OSError as error:
        return f"The calibration could not be saved ({os_reason(error)})."
    return (
        f"Calibrated on {len(latents)} pictures: with Colour on auto, {checkpoint.file.path.name} gets the colours of "
        f"{other.name} (median residual {residual * 255:.1f} of 255)."
    )


def _padding(settings: PanelSettings, decision: Decision) -> Padding | None:
    """The user's word for how the VAE that decodes pads."""
    padding = with_said(settings, decision.said).padding
    return None if padding == "auto" else padding


def _unpacked(file: VaeFile, vae: Autoencoder, latents: Sequence[Tensor]) -> list[Tensor]:
    """The latents as this VAE has them: FLUX.2's come packed, and normalised by numbers that lie in its file."""
    channels = vae.config.latent_channels
    if all(z.shape[1] != 4 * channels for z in latents):
        return list(latents)
    found = load_statistics(file, STATISTICS, torch.float32)
    if set(found) != set(STATISTICS):
        raise BadInputError(f"{file.name} does not say what its packed latents are normalised by (bn.running_mean).")
    return [of_packed(z, *(found[name] for name in STATISTICS)) if z.shape[1] == 4 * channels else z for z in latents]


def _load(file: VaeFile, padding: Padding | None = None) -> Autoencoder:
    try:
        with torch.inference_mode(False):
            state = load_state(file, torch.float32)
            if not state.kind.stands_in:
                raise VaeFileError("it is no KL autoencoder, with which alone colours can be compared")
            return replace(state, padding=padding or state.padding).network()
    except VaeFileError as error:
        raise BadInputError(error.sentence(file.name)) from error
