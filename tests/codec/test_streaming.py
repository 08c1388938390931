"""Streaming decode and encode: the pixels of the whole one, in the memory that the plan promises."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.codec.streaming_vaes import pad_circularly, peak_bytes, scaled_weights, small_vae
from vae_manager.codec.kinds.kl.chain import decoder_chain
from vae_manager.codec.pictures import load_picture
from vae_manager.codec.streaming import MODES, heap, plan_decode, plan_encode, stream_decode, stream_encode
from vae_manager.codec.streaming.moments import merge, norm_affine, strip_moments
from vae_manager.codec.streaming.passes import POLICIES, passes
from vae_manager.codec.whole import encode, latent_of
from vae_manager.commands.demo import DATA, GOOD
from vae_manager.errors import BadInputError, Interrupted, MemoryLimitError, VaeFileError
from vae_manager.library.files import vae_file
from vae_manager.library.probe import PICTURES
from vae_manager.library.state import load_state

LEVEL = 2 / 255
"""One 8-bit level of pixels in [-1, 1]."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are faster on one thread, the more so when other processes are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


VAES: dict[tuple[int, bool, bool], nn.Module] = {}


def cached_vae(latent: int, quant: bool, wraps: bool) -> Any:
    key = (latent, quant, wraps)
    if key not in VAES:
        VAES[key] = small_vae((8, 16), latent=latent, quant=quant, wraps=wraps)
    return VAES[key]


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    n=st.integers(1, 2),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    mode=st.sampled_from(MODES),
    pixels=st.sampled_from((1, 16, 64, 16384)),
    latent=st.sampled_from((4, 16, 32)),
    quant=st.booleans(),
    wraps=st.booleans(),
    odd=st.integers(0, 1),
)
def test_equals_the_whole_in_float64(
    n: int, h: int, w: int, mode: str, pixels: int, latent: int, quant: bool, wraps: bool, odd: int
) -> None:
    vae = cached_vae(latent, quant, wraps)
    generator = torch.Generator().manual_seed(h * 100 + w)
    z = torch.randn(n, latent, h, w, generator=generator, dtype=torch.float64)
    decoded = stream_decode(vae, z, plan=plan_decode(vae, z.shape, mode=mode, strip_pixels=pixels))
    assert decoded.report.mode == mode
    torch.testing.assert_close(decoded.tensor, vae.decode(z), rtol=0, atol=1e-11)
    x = torch.randn(n, 3, 2 * h + odd, 2 * w + odd, generator=generator, dtype=torch.float64)
    encoded = stream_encode(vae, x, plan=plan_encode(vae, x.shape, mode=mode, strip_pixels=pixels))
    torch.testing.assert_close(encoded.tensor, vae.encode_moments(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
def test_float32_is_as_near_to_float64_as_the_whole_is(mode: str) -> None:
    vae = small_vae((32, 96, 128), dtype=torch.float64)  # wide enough for the transformed kernels
    z = torch.randn(1, 4, 11, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = vae.decode(z)
    vae.float()
    whole = (vae.decode(z.float()).double() - exact).abs().max()
    plan = plan_decode(vae, z.shape, mode=mode, strip_pixels=512)
    ours = (stream_decode(vae, z.float(), plan=plan).tensor.double() - exact).abs().max()
    assert ours < 0.005 * LEVEL
    assert ours < 2 * whole


HALF = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_no_worse_than_the_whole(dtype: torch.dtype) -> None:
    vae = small_vae((16, 32), dtype=torch.float32)
    z = torch.randn(1, 4, 12, 10, generator=torch.Generator().manual_seed(2))
    exact = vae.decode(z)
    vae.to(dtype)
    whole = (vae.decode(z.to(dtype)).float() - exact).square().mean().sqrt()
    for mode in MODES:
        result = stream_decode(vae, z, plan=plan_decode(vae, z.shape, mode=mode, strip_pixels=256))
        assert result.tensor.dtype == dtype and not result.report.retries
        assert (result.tensor.float() - exact).square().mean().sqrt() <= 1.05 * whole


DTYPES: dict[torch.dtype, tuple[Any, Any]] = {}


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.float16)),
    h=st.integers(8, 14),
    w=st.integers(8, 14),
    mode=st.sampled_from(MODES),
    pixels=st.sampled_from((16, 64, 16384)),
    seed=st.integers(0, 10**6),
)
def test_no_dtype_shape_mode_or_strip_adds_error(
    dtype: torch.dtype, h: int, w: int, mode: str, pixels: int, seed: int
) -> None:
    """Root mean square to float64, over that of the whole decode in the same dtype; float32 within .005 level."""
    if dtype not in DTYPES:
        vae = small_vae((16, 32, 96), dtype=torch.float32).to(dtype)
        DTYPES[dtype] = vae, deepcopy(vae).double()  # the same weights, rounded as they are
    vae, wide = DTYPES[dtype]
    z = torch.randn(1, 4, h, w, generator=torch.Generator().manual_seed(seed)).to(dtype)
    exact = wide.decode(z.double())
    error = stream_decode(vae, z, plan=plan_decode(vae, z.shape, mode=mode, strip_pixels=pixels)).tensor - exact
    whole = vae.decode(z) - exact
    if dtype == torch.float32:
        assert float(error.abs().max()) < 0.005 * LEVEL
    else:
        assert float(error.square().mean()) ** 0.5 <= 1.05 * float(whole.square().mean()) ** 0.5


def inflated(vae: Any, factor: float) -> Any:
    """The same function with residual and inner streams `factor` times larger (GroupNorm undoes it)."""
    for name, parameter in vae.decoder.named_parameters():
        layer = name.rsplit(".", 2)[-2]
        if (layer in ("conv1", "conv2", "proj_out", "conv_in") and parameter.dtype.is_floating_point) or name.endswith(
            ("upsample.conv.bias", "nin_shortcut.bias")
        ):
            parameter.mul_(factor)
    return vae


def test_float16_does_not_overflow_where_the_whole_does() -> None:
    vae = inflated(small_vae((16, 32), dtype=torch.float32), 2.0**14)
    z = torch.randn(1, 4, 12, 10, generator=torch.Generator().manual_seed(3))
    exact = vae.decode(z)
    vae.half()
    assert not vae.decode(z.half()).isfinite().all()
    for mode in MODES:
        result = stream_decode(vae, z, plan=plan_decode(vae, z.shape, mode=mode))
        assert result.report.dtype == torch.float16
        assert (result.tensor.float() - exact).abs().mean() < LEVEL


def test_a_picture_that_overflows_all_the_same_is_computed_in_float32() -> None:
    vae = small_vae((8, 16), dtype=torch.float16)
    vae.decoder.conv_out.weight.mul_(1e4)
    z = torch.randn(1, 4, 6, 6)
    result = stream_decode(vae, z * 30)
    assert result.report.dtype in (torch.float16, torch.float32)
    vae.decoder.conv_out.bias.fill_(60000.0)
    vae.decoder.conv_out.weight.fill_(60000.0)
    rows: list[Tensor] = []
    result = stream_decode(vae, z, on_rows=lambda index, y, strip: rows.append(strip))
    assert result.report.dtype == torch.float32
    assert "overflowed float16" in result.report.retries[0]
    assert rows[-1].isfinite().all()


def test_the_result_holds_what_a_wider_dtype_has_computed() -> None:
    """The last layer overflows float16: the tensor that was made for float16 must not make that infinite again."""
    vae = small_vae((8, 16), dtype=torch.float16, quant=False)
    z = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(4)).half()
    vae.decoder.conv_out.weight.mul_(1000.0)
    vae.decoder.conv_out.bias.fill_(65000.0)
    result = stream_decode(vae, z)
    assert result.report.dtype == result.tensor.dtype == torch.float32
    assert len(result.report.retries) == 1 and result.tensor.isfinite().all()
    assert result.tensor.max() > torch.finfo(torch.float16).max
    wide = vae.float().decode(z.float())
    assert (result.tensor - wide).abs().max() / wide.abs().max() < 1e-2


# --- the hosts' module trees


def test_diffusers_modules() -> None:
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()
    scaled_weights(vae, 5)
    vae = vae.double()
    for wraps in (False, True):
        if wraps:
            pad_circularly(vae)
        z = torch.randn(1, 4, 7, 5, dtype=torch.float64)
        torch.testing.assert_close(stream_decode(vae, z).tensor, vae.decode(z).sample, rtol=0, atol=1e-11)
        x = torch.randn(1, 3, 30, 25, dtype=torch.float64)
        moments = vae.encode(x).latent_dist.parameters
        torch.testing.assert_close(stream_encode(vae, x).tensor, moments, rtol=0, atol=1e-11)


def test_ldm_modules_with_their_extras() -> None:
    """ldm's blocks carry a dropout and an activation, its levels an empty `attn`, and the decoder a `tanh_out`."""
    vae = small_vae((8, 16))
    for module in vae.modules():
        if hasattr(module, "norm1"):
            module.dropout, module.swish = nn.Dropout(0.0), nn.SiLU(inplace=True)
    for level in [*vae.decoder.up, *vae.encoder.down]:
        level.attn = nn.ModuleList()
    z = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(stream_decode(vae, z).tensor, vae.decode(z), rtol=0, atol=1e-11)
    vae.decoder.tanh_out = True
    torch.testing.assert_close(stream_decode(vae, z).tensor, vae.decode(z).tanh(), rtol=0, atol=1e-11)


def break_temb(vae: Any) -> None:
    vae.decoder.mid.block_1.temb_proj = nn.Linear(4, 16)


def break_attention(vae: Any) -> None:
    vae.decoder.up[0].attn = nn.ModuleList([nn.Conv2d(8, 8, 1)])


def break_extra(vae: Any) -> None:
    vae.decoder.up[0].extra = nn.Conv2d(8, 8, 1)


def break_padding(vae: Any) -> None:
    vae.decoder.conv_in.padding_mode = "reflect"


def break_dropout(vae: Any) -> None:
    vae.train()
    vae.decoder.mid.block_1.dropout = nn.Dropout(0.5)


def break_patch(vae: Any) -> None:
    vae.decoder.conv_in.weight_function = [lambda weight: 2 * weight]


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (break_temb, "time embedding"),
        (break_attention, "another resolution"),
        (break_extra, "extra.weight"),
        (break_padding, "reflect"),
        (break_dropout, "dropout"),
        (break_patch, "patched"),
    ],
)
def test_refuses_what_it_does_not_understand(breaks: Callable[[Any], None], says: str) -> None:
    vae = small_vae((8, 16))
    breaks(vae)
    with pytest.raises(VaeFileError, match=says):
        plan_decode(vae, (1, 4, 4, 4))


def test_refuses_other_modules_and_inputs() -> None:
    with pytest.raises(VaeFileError):
        plan_decode(nn.Linear(2, 2), (1, 4, 4, 4))
    vae = small_vae((8, 16))
    for shape in ((1, 5, 4, 4), (4, 4, 4), (1, 4, 0, 4)):
        with pytest.raises(BadInputError):
            plan_decode(vae, shape)
    with pytest.raises(BadInputError):
        plan_decode(vae, (1, 4, 4, 4), mode="Z")
    with pytest.raises(BadInputError):
        stream_decode(vae, torch.zeros(1, 4, 4, 5), plan=plan_decode(vae, (1, 4, 4, 4)))
    with pytest.raises(BadInputError):
        plan_encode(vae, (1, 3, 1, 8))


# --- statistics


@pytest.mark.parametrize("mode", MODES)
def test_the_demo_vae_whose_activations_spike(mode: str) -> None:
    """On white some are two thousand times the mean, as in many trained decoders: the streamed pixels stay right."""
    vae = load_state(vae_file(DATA / GOOD), torch.float32).network()
    z = latent_of(encode(vae, load_picture(PICTURES / "high-key.jpg")[..., 128:, 128:]))
    plan = plan_decode(vae, tuple(z.shape), mode=mode, strip_pixels=16384)
    found = stream_decode(vae, z, plan=plan).tensor
    expected = deepcopy(vae).double().decode(z.double())
    assert (found.double() - expected).abs().max() < 0.001 * LEVEL


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_moments_at_a_mean_of_a_thousand_deviations(rows: int) -> None:
    x = (torch.randn(64, 40, 8, dtype=torch.float64) + 1000).float()
    moments = merge([strip_moments(strip) for strip in x.split(rows)])
    flat = x.double().reshape(-1, 8)
    assert (moments.var / flat.var(0, correction=0) - 1).abs().max() < 1e-3
    assert (moments.mean - flat.mean(0)).abs().max() < 2e-4
    naive = x.square().mean((0, 1)) - x.mean((0, 1)).square()
    assert (naive / flat.var(0, correction=0) - 1).abs().max() > 1e-2


@pytest.mark.parametrize("shape", [(4, 1024, 8), (1, 5, 8), (3, 37, 8)])
def test_a_spike_does_not_swallow_the_other_pixels(shape: tuple[int, int, int]) -> None:
    """Real decoders have some: a plain float32 sum of squares loses what is thousands of times smaller."""
    x = torch.randn(shape) * 0.1 + 0.5
    x[0, 3] = 400.0
    moments = merge([strip_moments(x)])
    flat = x.double().reshape(-1, 8)
    assert (moments.var / flat.var(0, correction=0) - 1).abs().max() < 2e-6
    assert ((moments.mean - flat.mean(0)) / flat.std(0)).abs().max() < 1e-7


def test_norm_affine_is_group_norm() -> None:
    norm = nn.GroupNorm(4, 16).double()
    norm.weight.normal_()
    norm.bias.normal_()
    x = torch.randn(5, 6, 16, dtype=torch.float64) * 3 + 1
    scale, shift = norm_affine(merge([strip_moments(x)]), norm)
    expected = norm(x.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    torch.testing.assert_close(x * scale + shift, expected)
    # stored as x/8, the same function
    scale, shift = norm_affine(merge([strip_moments(x / 8)]), norm, 3)
    torch.testing.assert_close(x / 8 * scale + shift, expected)


# --- plans


def test_every_policy_computes_every_norms_statistics_before_it_is_needed() -> None:
    steps = decoder_chain(small_vae((8, 16))).stages[-1].steps  # up, two blocks of two steps each, out
    for keep in POLICIES:
        todo = passes(steps, keep)
        assert [p.last for p in todo] == list(range(6))
        assert all(p.first == 0 for p in todo) == (keep.mode == "D")
        assert todo[-1].frees


def test_modes_take_less_memory_and_more_work_from_a_to_d() -> None:
    vae = small_vae((32, 64, 64), dtype=torch.float32)
    plans = [plan_decode(vae, (1, 4, 256, 256), mode=mode) for mode in MODES]
    assert [plan.mode for plan in plans] == list(MODES)
    assert all(a.peak_bytes > b.peak_bytes and a.work < b.work for a, b in pairwise(plans)), [
        (plan.mode, plan.peak_bytes, plan.work) for plan in plans
    ]
    limited = plan_decode(vae, (1, 4, 256, 256), memory_limit=plans[3].peak_bytes)
    assert limited.peak_bytes <= plans[3].peak_bytes
    assert "exact, mode" in limited.describe() and "GB free" in limited.describe()


def test_refuses_what_does_not_fit_and_names_the_least() -> None:
    vae = small_vae((8, 16))
    with pytest.raises(MemoryLimitError, match=r"takes .* at least, and 1 MB may be taken"):
        plan_decode(vae, (1, 4, 2000, 2000), memory_limit=1_000_000)


def test_the_peak_stays_within_the_plans_promise() -> None:
    pick = random.Random(7)
    vaes = [small_vae(c, dtype=torch.float32) for c in ((8, 16, 16), (32, 64, 96), (96, 128))]
    for _ in range(50):
        vae = pick.choice(vaes)
        ratio = vae.config.ratio
        h, w, n = pick.randint(1, 9), pick.randint(1, 9), pick.choice((1, 1, 2))
        mode, pixels = pick.choice(MODES), pick.choice((None, 64, 512))
        dtype = pick.choice((torch.float32, torch.float32, torch.bfloat16))
        if pick.random() < 0.6:
            x, plan_it, stream = torch.randn(n, 4, h, w), plan_decode, stream_decode
        else:
            x, plan_it, stream = torch.randn(n, 3, h * ratio + 1, w * ratio), plan_encode, stream_encode
        plan = plan_it(vae, x.shape, mode=mode, strip_pixels=pixels, dtype=dtype)
        measured = peak_bytes(lambda: stream(vae, x, plan=plan))  # noqa: B023
        assert measured <= 1.1 * plan.peak_bytes + 65536, (x.shape, plan)


def test_freed_memory_is_given_back_when_a_run_passes_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, trims = [1000], []

    def trim() -> None:
        trims.append(resident[0])
        resident[0] -= 500

    monkeypatch.setattr(heap, "resident_bytes", lambda: resident[0])
    monkeypatch.setattr(heap, "trim", trim)
    kept = heap.Heap(1700, torch.device("cpu"))  # 1600 and the slack
    elsewhere = heap.Heap(1700, torch.device("cuda"))  # its allocator is not glibc's
    for now, trimmed in ((2500, []), (2501, [2501]), (2500, [2501]), (4000, [2501, 4000])):
        resident[0] = now
        kept.look(100)
        elsewhere.look(100)
        assert trims == trimmed
    resident[0] = 3600  # something else in the process has grown: 3500 were left after the last trim
    kept.look(0)
    assert trims == [2501, 4000]


@pytest.mark.skipif(heap.resident_bytes() == 0, reason="only glibc's heap is trimmed")
def test_a_run_looks_at_the_heap_and_leaves_nothing_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(heap.Heap, "look", lambda self, coming: looks.append(coming))
    vae = small_vae((8, 16), dtype=torch.float32)
    plan = plan_decode(vae, (1, 4, 12, 12), mode="A")
    strips = stream_decode(vae, torch.randn(1, 4, 12, 12), plan=plan).report.strips
    assert len(looks) > strips  # one before each convolution of a strip
    trims: list[int] = []
    monkeypatch.setattr(heap, "trim", lambda: trims.append(1))
    stream_decode(vae, torch.randn(2, 4, 3, 4))
    assert len(trims) == 2  # one behind each picture


def test_many_decodes_leave_nothing_behind() -> None:
    vae = small_vae((8, 16), dtype=torch.float32)
    z = torch.randn(1, 4, 3, 4)
    stream_decode(vae, z)

    def soak() -> None:
        for n in range(60):
            stream_decode(vae, z, plan=plan_decode(vae, z.shape, mode=MODES[n % 5]))

    import gc

    def live() -> int:
        return sum(t.numel() for t in gc.get_objects() if isinstance(t, Tensor))

    gc.collect()
    gc.disable()  # nothing may wait for the garbage collector: maps are gigabytes
    try:
        before = live()
        soak()
        assert live() <= before + 1000
    finally:
        gc.enable()


# --- while it runs


def test_out_of_memory_goes_on_in_the_next_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocator with a budget: the line buffers' own allocations fail where too much is alive."""
    vae = small_vae((32, 64), dtype=torch.float32, blocks=2)
    z = torch.randn(1, 4, 96, 32)
    expected = stream_decode(vae, z).tensor
    failures = [2]
    original = torch.Tensor.new_empty

    def new_empty(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if failures[0]:
            failures[0] -= 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    result = stream_decode(vae, z)
    assert len(result.report.retries) == 2
    assert "out of memory in mode A" in result.report.retries[0]
    torch.testing.assert_close(result.tensor, expected, rtol=0, atol=1e-4)
    failures[0] = 100
    with pytest.raises(MemoryLimitError, match="smallest"):
        stream_decode(vae, z)


OUT_OF_ADDRESS_SPACE = """
import json, resource, sys
import torch
from tests.codec.streaming_vaes import small_vae
from vae_manager.codec.streaming import plan_decode, stream_decode
torch.set_num_threads(1)
vae = small_vae((32, 32, 32, 32), dtype=torch.float32, attention=False)
z = torch.randn(1, 4, 96, 96, generator=torch.Generator().manual_seed(5))
stream_decode(vae, z[..., :8, :8])
plan = plan_decode(vae, z.shape, mode="A")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + plan.peak_bytes * 9 // 16, resource.RLIM_INFINITY))
result = stream_decode(vae, z, plan=plan)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
error = float((result.tensor - stream_decode(vae, z, plan=plan).tensor).abs().max())
print(json.dumps([result.report.retries, result.report.mode, error]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_real_allocation_failure_goes_on_in_a_smaller_mode() -> None:
    done = subprocess.run([sys.executable, "-c", OUT_OF_ADDRESS_SPACE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    retries, mode, error = json.loads(done.stdout)
    assert retries and retries[0].startswith("out of memory in mode A") and mode != "A"
    assert error < 1e-4


def test_other_errors_are_not_taken_for_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = small_vae((8, 16))
    monkeypatch.setattr(torch, "batch_norm_update_stats", lambda *_: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        stream_decode(vae, torch.randn(1, 4, 4, 4, dtype=torch.float64))


def test_interrupt_and_progress() -> None:
    vae = small_vae((8, 16))
    z = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    seen: list[tuple[int, int]] = []
    stream_decode(vae, z, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (2000, 2000)
    with pytest.raises(Interrupted):
        stream_decode(vae, z, should_stop=lambda: True)


def test_rows_come_from_top_to_bottom_and_are_the_picture() -> None:
    vae = small_vae((8, 16))
    z = torch.randn(2, 4, 9, 5, dtype=torch.float64)
    got = torch.full((2, 3, 18, 10), float("nan"), dtype=torch.float64)
    ends = [0, 0]

    def take(index: int, y: int, rows: Tensor) -> None:
        assert y == ends[index]
        ends[index] = y + rows.shape[1]
        got[index, :, y : ends[index]] = rows

    plan = plan_decode(vae, z.shape, strip_pixels=16, rows_only=True)
    assert stream_decode(vae, z, plan=plan, on_rows=take).tensor is None
    torch.testing.assert_close(got, vae.decode(z), rtol=0, atol=1e-11)


def test_maps_may_wait_on_another_device() -> None:
    vae = small_vae((8, 16))
    z = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    plan = plan_decode(vae, z.shape, storage="cpu", mode="C")
    torch.testing.assert_close(stream_decode(vae, z, plan=plan).tensor, vae.decode(z), rtol=0, atol=1e-11)


def test_leaves_the_modules_as_they_were() -> None:
    vae = small_vae((8, 16))
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    stream_decode(vae, torch.randn(1, 4, 6, 6, dtype=torch.float64))
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())
