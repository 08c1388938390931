"""What a plan promises, and what is done when memory or the range of a dtype runs out all the same.

Only the public functions of `codec.streaming` are called here: how a picture is streamed inside is free to change.
"""

from __future__ import annotations

import contextlib
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.codec.streaming_vaes import small_vae
from vae_manager.codec.streaming import MODES, plan_decode, plan_encode, stream_decode
from vae_manager.errors import BadInputError, Interrupted, MemoryLimitError

LEVEL = 2 / 255


@pytest.fixture(scope="module")
def vae() -> Any:
    return small_vae((8, 16, 16), dtype=torch.float32)


def latent(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- promises


@pytest.mark.parametrize("pictures", [1, 6])
def test_the_result_is_part_of_the_promise(vae: Any, pictures: int) -> None:
    shape = (pictures, 4, 32, 24)
    whole, rows = (plan_decode(vae, shape, mode="D", strip_pixels=1024, rows_only=only) for only in (False, True))
    result = pictures * 3 * (4 * 32) * (4 * 24) * 4
    assert result <= whole.peak_bytes - rows.peak_bytes < 1.1 * result + 4096
    moments = (pictures, 3, 128, 96)
    whole, rows = (plan_encode(vae, moments, mode="D", strip_pixels=1024, rows_only=only) for only in (False, True))
    result = pictures * 8 * 32 * 24 * 4
    assert result <= whole.peak_bytes - rows.peak_bytes < 1.1 * result + 4096


def test_a_plan_never_promises_more_than_may_be_taken_and_the_fastest_that_fits_is_taken(vae: Any) -> None:
    shape = (1, 4, 128, 96)
    plans = {mode: plan_decode(vae, shape, mode=mode) for mode in MODES}
    for mode, plan in plans.items():
        found = plan_decode(vae, shape, memory_limit=plan.peak_bytes)
        assert found.peak_bytes <= plan.peak_bytes and found.work <= plan.work, mode
    assert plan_decode(vae, shape, memory_limit=1 << 40).work == min(plan.work for plan in plans.values())
    for limit in range(1_000_000, plans["A"].peak_bytes, plans["A"].peak_bytes // 24):
        with contextlib.suppress(MemoryLimitError):
            assert plan_decode(vae, shape, memory_limit=limit).peak_bytes <= limit
    with pytest.raises(MemoryLimitError):
        plan_decode(vae, shape, memory_limit=3 * (4 * 128) * (4 * 96) * 4)  # the result alone


def test_without_a_limit_what_is_free_is_the_limit(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vae_manager.codec.streaming.api.free_bytes", lambda device: 8_000_000)
    assert plan_decode(vae, (1, 4, 64, 48)).peak_bytes <= 8_000_000
    with pytest.raises(MemoryLimitError, match="8 MB may be taken"):
        plan_decode(vae, (1, 4, 2000, 2000))


# --- when memory runs out


class Short:
    """A machine whose memory is short: the largest buffers cannot be had, as often as is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left, self.asked = times, 0
        original = torch.Tensor.new_empty

        def new_empty(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.asked += 1
            if self.left:
                self.left -= 1
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return original(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)


@pytest.mark.parametrize("mode", ["A", "B", "P", "C"])
def test_after_out_of_memory_less_is_promised_than_what_could_not_be_had(
    vae: Any, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for any mode, as far as anybody knows: only the failure tells that there is not."""
    z = latent(1, 4, 64, 48)
    plan = plan_decode(vae, z.shape, mode=mode, memory_limit=1 << 40)
    expected = stream_decode(vae, z, plan=plan).tensor
    Short(monkeypatch, 1)
    done = stream_decode(vae, z, plan=plan)
    assert done.report.peak_bytes < plan.peak_bytes and MODES.index(done.report.mode) > MODES.index(mode)
    assert done.report.retries == (f"out of memory in mode {mode}, went on in mode {done.report.mode}",)
    torch.testing.assert_close(done.tensor, expected, rtol=0, atol=1e-5)


def test_a_mode_that_would_take_more_is_passed_over_after_out_of_memory(
    vae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of small pictures the modes are not in order: what is kept is little, what is computed with is not."""
    z = latent(1, 4, 12, 12)
    plans = [plan_decode(vae, z.shape, mode=mode, memory_limit=1 << 40) for mode in "AB"]
    assert plans[0].peak_bytes < plans[1].peak_bytes
    Short(monkeypatch, 1)
    assert stream_decode(vae, z, plan=plans[0]).report.peak_bytes < plans[0].peak_bytes


def test_every_retry_promises_less_until_nothing_smaller_is_left(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    z, short = latent(1, 4, 64, 48), Short(monkeypatch, 1000)
    with pytest.raises(MemoryLimitError):
        stream_decode(vae, z, memory_limit=1 << 40)
    assert 2 <= short.asked <= len(MODES)


def test_the_pictures_that_are_done_stay_when_memory_runs_out(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    z = latent(3, 4, 20, 16)
    expected = stream_decode(vae, z).tensor
    short = Short(monkeypatch, 0)

    def progress(done: int, total: int) -> None:
        if done == 1000 and not short.left:  # the first picture is done
            short.left = 1

    done = stream_decode(vae, z, on_progress=progress)
    assert len(done.report.retries) == 1
    torch.testing.assert_close(done.tensor, expected, rtol=0, atol=1e-5)


def test_rows_begin_again_from_the_top_after_a_retry(vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    z = latent(1, 4, 64, 48)
    expected, short, seen = stream_decode(vae, z).tensor, Short(monkeypatch, 0), torch.empty(1, 3, 256, 192)
    tops: list[int] = []

    def take(index: int, y: int, rows: Tensor) -> None:
        tops.append(y)
        seen[index, :, y : y + rows.shape[1]] = rows
        if len(tops) == 2:
            short.left = 1

    plan = plan_decode(vae, z.shape, mode="A", strip_pixels=1024, memory_limit=1 << 40, rows_only=True)
    assert stream_decode(vae, z, plan=plan, on_rows=take).report.retries
    assert tops.count(0) == 2
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


# --- float16


@pytest.mark.parametrize("mode", MODES)
def test_a_norms_eps_is_that_of_the_true_map_also_where_the_map_is_stored_divided(mode: str) -> None:
    """Large weights that cancel: the map is small, but its bound is not, so that float16 stores it divided. Next to a
    large eps of the norm that shows, unless the eps is divided as the variance is."""
    vae = small_vae((8, 16), dtype=torch.float32, quant=False)
    for norm in vae.modules():
        if isinstance(norm, nn.GroupNorm):
            norm.eps = 0.5
    z = latent(1, 4, 10, 8)
    z[:, 1] = z[:, 0]
    with torch.no_grad():
        weight = vae.decoder.conv_in.weight
        weight[:, 1] = -weight[:, 0]
        weight[:, :2] *= 2.0**13
    vae, z = vae.half(), z.half()
    exact = deepcopy(vae).double().decode(z.double())
    found = stream_decode(vae, z, plan=plan_decode(vae, z.shape, mode=mode))
    assert found.report.dtype == torch.float16 and found.report.retries == ()
    assert found.tensor is not None
    assert (found.tensor.double() - exact).abs().mean() < 0.01 * exact.abs().mean()


def test_after_an_overflow_the_dtype_is_wider_and_the_other_pictures_keep_theirs(vae: Any) -> None:
    half = small_vae((8, 16), dtype=torch.float16, quant=False)
    with torch.no_grad():
        half.decoder.conv_out.weight.mul_(1000.0)
        half.decoder.conv_out.bias.fill_(65000.0)
    done = stream_decode(half, latent(2, 4, 6, 6, seed=4).half())
    assert done.report.dtype == torch.float32
    assert done.report.retries == ("picture 1 overflowed float16 and was computed in float32",)
    assert done.tensor is not None and done.tensor.isfinite().all() and done.tensor.max() > 65504


# --- the user's wishes


def test_a_wish_to_stop_is_heard_after_the_strip_at_hand(vae: Any) -> None:
    z, strips = latent(1, 4, 64, 48), [0]

    def stop() -> bool:
        strips[0] += 1
        return strips[0] == 3

    with pytest.raises(Interrupted):
        stream_decode(vae, z, should_stop=stop)
    assert strips[0] == 3


def test_a_plan_of_another_shape_or_direction_is_refused(vae: Any) -> None:
    plan = plan_decode(vae, (1, 4, 8, 8))
    for z in (latent(2, 4, 8, 8), latent(1, 4, 8, 9)):
        with pytest.raises(BadInputError, match="the plan is for"):
            stream_decode(vae, z, plan=plan)
    with pytest.raises(BadInputError, match="the plan is for"):
        stream_decode(vae, latent(1, 3, 8, 8), plan=plan_encode(vae, (1, 3, 8, 8)))
