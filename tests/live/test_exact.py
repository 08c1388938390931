"""Exact means the host's own pixels: what we did not recolour goes through the host's conversion."""

from __future__ import annotations

import numpy as np
import pytest

from tests.live.conftest import JOBS
from tests.live.harness import WebUI


@pytest.mark.parametrize("job", ["txt2img", "batches"])
@pytest.mark.parametrize("mode", ["exact", "auto"])
def test_a_streamed_picture_is_the_whole_decodes(house: WebUI, job: str, mode: str):
    """Only values that lie within .005 level of a step may come out one level off: of even values that is 1 in 100."""
    endpoint, parameters = JOBS[job]
    whole = house.generate(endpoint, ours=[{"vae": "tint-red", "decode": "host"}], **parameters)
    streamed = house.generate(endpoint, ours=[{"vae": "tint-red", "decode": mode}], **parameters)
    off = np.stack([np.abs(a - b) for a, b in zip(streamed.pixels, whole.pixels, strict=True)])
    assert off.max() <= 1
    assert (off > 0).mean() < 0.02
