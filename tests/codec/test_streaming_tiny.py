"""Tiny autoencoders in strips: the pixels of the whole decode, in the memory that the plan promises."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.codec.streaming_vaes import pad_circularly, peak_bytes, scaled_weights
from vae_manager.codec.kinds.tiny.network import TinyConfig, build_taesd, make_decoder, make_encoder
from vae_manager.codec.streaming import plan_decode, plan_encode, stream_decode, stream_encode
from vae_manager.errors import BadInputError, MemoryLimitError, VaeFileError

PLAIN = TinyConfig(4, (8, 8, 8), (1, 2, 2))
SHAPES = {
    "taesd": (PLAIN, PLAIN),
    "taef2": (TinyConfig(32, (8, 8, 8), (1, 2, 2), pool=True),) * 2,
    "taesana": (TinyConfig(8, (8, 8, 8), (1, 2, 2), stem=(8, 8)), TinyConfig(8, (8, 8, 8, 8, 16), (1, 2, 2, 1, 1))),
}


@cache
def tiny_vae(name: str, wraps: bool = False, dtype: torch.dtype = torch.float64) -> Any:
    encoder, decoder = SHAPES[name]
    vae = build_taesd(make_encoder(encoder).state_dict(), make_decoder(decoder).state_dict()).double()
    scaled_weights(vae, 1)
    if wraps:
        pad_circularly(vae)
    return vae.to(dtype)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(SHAPES)),
    n=st.integers(1, 2),
    h=st.integers(1, 11),
    w=st.integers(1, 7),
    odd=st.integers(0, 3),
    pixels=st.sampled_from((1, 64, 300, 16384)),
    wraps=st.booleans(),
)
def test_equals_the_whole_in_float64(name: str, n: int, h: int, w: int, odd: int, pixels: int, wraps: bool) -> None:
    vae = tiny_vae(name, wraps)
    generator = torch.Generator().manual_seed(h * 100 + w)
    z = torch.randn(n, vae.config.latent_channels, h, w, generator=generator, dtype=torch.float64)
    decoded = stream_decode(vae, z, plan=plan_decode(vae, z.shape, strip_pixels=pixels)).tensor
    torch.testing.assert_close(decoded, vae.decode(z), rtol=0, atol=1e-11)
    size = [side * vae.config.ratio + (0 if wraps else odd) for side in (h, w)]
    x = torch.randn(n, 3, *size, generator=generator, dtype=torch.float64)
    encoded = stream_encode(vae, x, plan=plan_encode(vae, x.shape, strip_pixels=pixels)).tensor
    torch.testing.assert_close(encoded, vae.encode_moments(x), rtol=0, atol=1e-11)


def test_rows_come_from_top_to_bottom() -> None:
    vae, z = tiny_vae("taef2"), torch.randn(1, 32, 9, 5, dtype=torch.float64)
    rows: list[Tensor] = []
    seen: list[int] = []

    def take(_index: int, y: int, strip: Tensor) -> None:
        assert y == sum(piece.shape[1] for piece in rows)
        rows.append(strip)

    plan = plan_decode(vae, z.shape, strip_pixels=32, rows_only=True)
    stream_decode(vae, z, plan=plan, on_rows=take, on_progress=lambda done, total: seen.append(done))
    assert len(rows) > 3 and seen == sorted(seen) and seen[-1] == 1000
    torch.testing.assert_close(torch.cat(rows, 1), vae.decode(z)[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_no_worse_than_the_whole(dtype: torch.dtype) -> None:
    exact = tiny_vae("taef2", dtype=torch.float32)
    vae = tiny_vae("taef2", dtype=torch.float64).to(dtype)
    tiny_vae.cache_clear()  # `to` changed the cached one
    z = torch.randn(1, 32, 9, 7, generator=torch.Generator().manual_seed(4)).to(dtype)
    expected = exact.decode(z.float())
    whole = (vae.decode(z).float() - expected).square().mean().sqrt()
    found = stream_decode(vae, z).tensor
    assert found is not None and found.dtype == dtype
    assert (found.float() - expected).square().mean().sqrt() <= 1.05 * whole


def test_memory_stays_within_the_plans_promise_and_does_not_grow_with_the_height() -> None:
    pick = random.Random(3)
    vaes = [tiny_vae(name, dtype=torch.float32) for name in SHAPES]
    for _ in range(20):
        vae, n = pick.choice(vaes), pick.choice((1, 2))
        h, w, pixels = pick.randint(1, 24), pick.randint(1, 24), pick.choice((None, 64, 1024))
        if pick.random() < 0.6:
            x, plan_it, stream = torch.randn(n, vae.config.latent_channels, h, w), plan_decode, stream_decode
        else:
            size = (h * vae.config.ratio + 1, w * vae.config.ratio)
            x, plan_it, stream = torch.randn(n, 3, *size), plan_encode, stream_encode
        plan = plan_it(vae, x.shape, strip_pixels=pixels)
        measured = peak_bytes(lambda: stream(vae, x, plan=plan))  # noqa: B023
        assert measured <= 1.1 * plan.peak_bytes + 65536, (x.shape, plan)
    vae = tiny_vae("taesd", dtype=torch.float32)
    low, high = (plan_decode(vae, (1, 4, side, 64), rows_only=True, strip_pixels=1024) for side in (256, 2048))
    assert high.peak_bytes - low.peak_bytes < 2 * 4 * 4 * 64 * (2048 - 256)  # the latent's own copy and no more


def test_diffusers_modules() -> None:
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(2, 2, 1),
    ).eval()
    scaled_weights(vae, 2)
    vae = vae.double()
    z = torch.randn(1, 4, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(stream_decode(vae, z).tensor, vae.decode(z).sample, rtol=0, atol=1e-11)
    x = torch.randn(1, 3, 30, 25, dtype=torch.float64)
    mean = stream_encode(vae, x).tensor[:, :4]
    torch.testing.assert_close(mean, vae.encode(x).latents, rtol=0, atol=1e-11)


def break_activation(vae: Any) -> None:
    vae.decoder[3].fuse = nn.GELU()


def break_layer(vae: Any) -> None:
    vae.decoder.insert(4, nn.Dropout())


def break_padding(vae: Any) -> None:
    vae.decoder[1].padding_mode = "reflect"


def break_extra(vae: Any) -> None:
    vae.decoder[3].extra = nn.Conv2d(8, 8, 1)


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (break_activation, "activation"),
        (break_layer, "Dropout"),
        (break_padding, "reflect"),
        (break_extra, "extra.weight"),
    ],
)
def test_refuses_what_it_does_not_understand(breaks: Any, says: str) -> None:
    vae = build_taesd(make_decoder(PLAIN).state_dict())
    breaks(vae)
    with pytest.raises(VaeFileError, match=says):
        plan_decode(vae, (1, 4, 4, 4))


def test_refuses_other_inputs() -> None:
    vae = tiny_vae("taesd")
    for options in ({"mode": "A"}, {"mode": "Z"}):
        with pytest.raises(BadInputError):
            plan_decode(vae, (1, 4, 4, 4), **options)
    with pytest.raises(BadInputError):
        plan_decode(vae, (1, 5, 4, 4))
    with pytest.raises(BadInputError, match="seamless"):
        plan_encode(tiny_vae("taesd", wraps=True), (1, 3, 9, 8))
    with pytest.raises(MemoryLimitError, match="at least"):
        plan_decode(vae, (1, 4, 4000, 4000), memory_limit=10**6)
