"""Which of the user's own VAE files holds the same weights as the VAE baked into a checkpoint.

Told by the weights digest (`library.digest`), which costs about a second per file: what the background examiner has
found out is looked up, and only a thorough look computes what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from vae_manager.errors import VaeFileError
from vae_manager.library.dtypes import is_float
from vae_manager.library.files import VaeFile, vae_file
from vae_manager.library.layouts import detect_layout
from vae_manager.library.tensors import open_tensors
from vae_manager.selection.checkpoint import Checkpoint

_SAMPLE = "decoder.conv_out.weight"
"""A small tensor in which trained VAEs differ: files that have another one need no digest."""


def baked_twin(checkpoint: Checkpoint, files: Sequence[VaeFile]) -> VaeFile | None:
    """The first file, as it is on the disk now, whose weights are the baked VAE's up to half precision.

    None where there is none, where it is not known yet (and the checkpoint is not looked at thoroughly), or where no
    VAE is baked in.
    """
    if not files or (baked := checkpoint.baked_digest()) is None:
        return None
    sample = _sample(checkpoint.file) if checkpoint.thorough else None
    for file in files:
        try:
            compute = sample is not None and sample == _sample(file)
            if checkpoint.cache.digest(file, compute) == baked and vae_file(file.path).version == file.version:
                return file
        except (VaeFileError, OSError):
            continue  # it is no VAE, or went away: that is told where it is asked for
    return None


@lru_cache(maxsize=1024)
def _sample(file: VaeFile) -> bytes | None:
    """The sample rounded to half precision, as the digest rounds; None where the file has none. Some 7 KB: kept, for
    every checkpoint is held against every VAE."""
    from vae_manager.library.digest import half_bits  # with numpy: what is known starts without it

    opened = open_tensors(file.path)
    own = detect_layout(opened.header).keys.get(_SAMPLE)
    dtype = opened.header.tensors[own].dtype if own else ""
    return half_bits(opened.bits(own), dtype).tobytes() if own and is_float(dtype) else None
