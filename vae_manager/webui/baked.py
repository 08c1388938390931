"""Whether the model of the moment holds the VAE that is baked into its checkpoint."""

from __future__ import annotations

from pathlib import Path

from vae_manager.codec.swap import same_weights
from vae_manager.library.layouts import detect_layout
from vae_manager.library.tensors import open_tensors
from vae_manager.webui.first_stage import FirstStage
from vae_manager.webui.job import Job


def has_baked(stage: FirstStage, job: Job, checkpoint: Path) -> bool:
    """Whether the host's first stage holds the VAE that the checkpoint's file holds; remembered in the job.

    The host's own books are not asked: some hosts lose the baked VAE without noticing. Only a pickle is taken at the
    host's word, unless the baked VAE was asked for: looking into it means reading all of it.

    Raises:
        VaeFileError: the checkpoint has no VAE in it.
    """
    if checkpoint not in job.has_baked:
        stage.put_back()
        assert stage.module is not None
        automatic = job.decision.source not in ("prompt", "panel", "job")
        if job.own is None and automatic and checkpoint.suffix.lower() != ".safetensors":
            job.has_baked[checkpoint] = True
        else:
            opened = open_tensors(checkpoint)
            keys = detect_layout(opened.header).keys
            found = same_weights(stage.module, lambda name: opened.fetch(keys[name]) if name in keys else None)
            job.has_baked[checkpoint] = found
    return job.has_baked[checkpoint]
