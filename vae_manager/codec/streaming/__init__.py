"""Exact streaming decode and encode: the pixels of the whole decode in bounded memory.

Read in this order: `steps` (what a layer does, and what that takes), `chain` (a decoder or encoder made of them),
`strips` and `kernels` (how a strip goes through a layer), `moments` (exact GroupNorm), `passes` (which maps are kept),
`plan` (what fits), `run` (the interpreter), `api`.
"""

from vae_manager.codec.streaming.api import (
    Report,
    StreamResult,
    plan_decode,
    plan_encode,
    stream_decode,
    stream_encode,
)
from vae_manager.codec.streaming.passes import MODES, Mode
from vae_manager.codec.streaming.plan import Plan

__all__ = [
    "MODES",
    "Mode",
    "Plan",
    "Report",
    "StreamResult",
    "plan_decode",
    "plan_encode",
    "stream_decode",
    "stream_encode",
]
