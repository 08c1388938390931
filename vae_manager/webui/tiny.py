"""Tiny VAEs (TAESD, TAEHV) in a WebUI: they decode beside the host's first stage, which goes on encoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vae_manager.codec.kinds.network import Autoencoder
from vae_manager.codec.kinds.scaling import to_model
from vae_manager.errors import VaeFileError
from vae_manager.latents.spaces import LatentSpace
from vae_manager.library.files import VaeFile
from vae_manager.library.layouts import detect_layout
from vae_manager.library.state import load_state
from vae_manager.library.tensors import open_tensors
from vae_manager.webui.frames import is_video, one_picture


class Tinies:
    """The tiny autoencoder that was used last, ready; and which files are none."""

    def __init__(self) -> None:
        self._held: dict[Any, Autoencoder | None] = {}
        """By file version: None for a file that is no tiny VAE; at most one autoencoder is kept."""

    def of(self, file: VaeFile | None, stage: nn.Module | None) -> Autoencoder | None:
        """The tiny autoencoder of a file, on the first stage's device; None where there is no file, or of another kind.

        Raises:
            VaeFileError: it is a tiny VAE that cannot be loaded.
        """
        if file is None:
            return None
        if file.version not in self._held:
            is_tiny = detect_layout(open_tensors(file.path).header).kind.latents_scaled
            self._held = {version: None for version, held in self._held.items() if held is None}
            self._held[file.version] = _load(file) if is_tiny else None
        tiny = self._held[file.version]
        return tiny.to(next(stage.parameters()).device) if tiny is not None and stage is not None else tiny


def decode_tiny(tiny: Autoencoder, z: Tensor, space: LatentSpace | None) -> Tensor:
    """Decode unscaled latents (N, C, h, w) of a space, or (N, C, 1, h, w) of one frame, to pixels in about [-1, 1].

    A tiny VAE takes the latents that the diffusion model works on, so they are scaled again.

    Raises:
        VaeFileError: the scale of the space is not known, or these are the frames of a video.
    """
    if is_video(z):
        raise VaeFileError("it is used for single pictures, and this is a video of several frames")
    if z.shape[1] != (takes := tiny.config.latent_channels):
        raise VaeFileError(f"it decodes latents of {takes} channels, and this model's have {z.shape[1]}")
    if space is None or not space.scalable:
        raise VaeFileError("it needs to know how the checkpoint's latents are scaled, and its family is not known")
    with torch.no_grad():
        found = tiny.decode(to_model(one_picture(z).float(), space)).to(z.dtype)
    return found[:, :, None] if z.ndim == 5 else found


def _load(file: VaeFile) -> Autoencoder:
    with torch.inference_mode(False):
        state = load_state(file, torch.float32)
        tiny = state.network()
    if not hasattr(tiny, "decoder"):
        raise VaeFileError("it is the encoder of a TAESD alone; choose the file with its decoder")
    return tiny
