"""Half precision at 64 to 128 pixels: what every kind loses against float32, whole and streamed.

Each layer rounds its weights and its result once, relatively by u at most: 2⁻⁸ in bfloat16, 2⁻¹¹ in float16. Roundings
of different layers are independent, so that they add up like the root of their number: with L layers to u · √(2L / 3)
at most, a rounding being evenly spread. Limits are `SPREAD` times that, for the last layers of some kinds take
differences of what is larger. Measured were a seventh of a limit (open-litevae) to three fifths (TAEHV).
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.codec.streaming_vaes import scaled_weights
from tests.codec.test_kinds import SAMPLES, latent, picture
from vae_manager.codec.kinds.kind import KindName
from vae_manager.codec.kinds.registry import BY_NAME
from vae_manager.codec.streaming import plan_decode, plan_encode, stream_decode, stream_encode

UNIT = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
SPREAD = 1.5


def _layers(half: nn.Module) -> int:
    return sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in half.modules())


def _loss(found: Tensor, exact: Tensor) -> float:
    """Root of the mean square of what is off, over that of the whole."""
    return ((found.double() - exact).square().mean() / exact.square().mean()).sqrt().item()


def losses(kind: KindName, dtype: torch.dtype) -> dict[str, tuple[float, float]]:
    """What each way loses, and its limit."""
    sample, found = SAMPLES[kind], dict[str, tuple[float, float]]()
    vae = sample.make().eval().requires_grad_(False)
    scaled_weights(vae, 3)
    low = copy.deepcopy(vae).to(dtype)
    side = 96 // vae.config.ratio
    ways: tuple[tuple[str, bool, Any, Any, Any], ...] = (
        ("decode", sample.decoder_streams, latent(vae, side=side), plan_decode, stream_decode),
        ("encode", sample.encoder_streams, picture(vae, side=side), plan_encode, stream_encode),
    )
    for name, streams, source, plan, stream in ways:
        source = source.to(dtype)  # what arrives is rounded before
        whole = "decode" if name == "decode" else "encode_moments"
        exact = getattr(vae.double(), whole)(source.double())
        limit = SPREAD * UNIT[dtype] * (2 * _layers(vae.get_submodule(f"{name}r")) / 3) ** 0.5
        # a tiny VAE's log-variance is a constant
        channels = vae.config.latent_channels if name == "encode" and BY_NAME[kind].latents_scaled else exact.shape[1]
        exact = exact[:, :channels]
        found[f"{name}, whole"] = _loss(getattr(low, whole)(source)[:, :channels], exact), limit
        if streams:
            done = stream(low, source, plan=plan(low, source.shape, strip_pixels=1024))
            assert done.report.dtype == dtype and done.report.retries == ()
            found[f"{name}, streamed"] = _loss(done.tensor[:, :channels], exact), limit
    return found


@pytest.mark.parametrize("dtype", UNIT, ids=str)
@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_half_precision_loses_no_more_than_its_roundings(kind: KindName, dtype: torch.dtype):
    for way, (loss, limit) in losses(kind, dtype).items():
        assert 0 < loss <= limit, f"{way}: {loss:.2e} of {limit:.2e}"


if __name__ == "__main__":
    for each in UNIT:
        for one in sorted(SAMPLES):
            print(each, one, {way: f"{a:.1e} of {b:.1e}" for way, (a, b) in losses(one, each).items()})
