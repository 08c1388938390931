"""Exact streaming decode and encode: the pixels of the whole decode in bounded memory.

Read in this order: `structure` (what layers are there), `passes` (which maps are kept), `strips` and `kernels` (how
a strip goes through a layer), `moments` (exact GroupNorm), `run` (the interpreter), `plan` (what fits), `api`.
"""

from vae_manager.codec.streaming.api import (
    Report,
    StreamResult,
    plan_decode,
    plan_encode,
    stream_decode,
    stream_encode,
)
from vae_manager.codec.streaming.plan import MODES, Plan

__all__ = [
    "MODES",
    "Plan",
    "Report",
    "StreamResult",
    "plan_decode",
    "plan_encode",
    "stream_decode",
    "stream_encode",
]
