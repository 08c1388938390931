"""What a GPU does in one pass, proven without one: in Triton's interpreter, by its compiler, and with torch's own
operations on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.codec.pretended import DEVICE, Watch, moved, pretended
from tests.codec.streaming_vaes import scaled_weights, small_vae
from tests.codec.test_devices import causal
from vae_manager.codec.kinds.registry import chain_of
from vae_manager.codec.streaming import (
    MODES,
    fused,
    kernels,
    plan_decode,
    plan_encode,
    run,
    steps,
    stream_decode,
    stream_encode,
)
from vae_manager.codec.streaming.kernels import Scratch, upsampled_conv3x3
from vae_manager.codec.streaming.moments import strip_moments
from vae_manager.codec.streaming.pixel_norm import LEAST, pixel_normed
from vae_manager.codec.streaming.strips import normed

pytest.importorskip("triton", minversion="3.0", reason="no Triton whose interpreter needs no GPU")

pytestmark = pytest.mark.filterwarnings(
    "ignore:(overflow|invalid value) encountered:RuntimeWarning"
)  # its interpreter's

CPU = torch.device("cpu")
UNIT = {torch.float32: 1e-6, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
DTYPES = tuple(UNIT)
SHAPES = ((1, 1, 4), (3, 37, 96), (2, 5, 130), (9, 16, 512))
"""Strips (rows, W, C): one pixel, and channels that are no powers of two, fewer and more than a tile has."""

LEVEL = 0.005 / 127.5
"""What a picture may differ by, as everywhere."""


def strip(shape: tuple[int, int, int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(3).to(dtype)


def lines(x: Tensor) -> Tensor:
    """A line buffer whose border says whether it was written to."""
    rows, width, channels = x.shape
    return x.new_full((rows + 2, width + 2, channels), 7.0)


def untouched(buffer: Tensor) -> bool:
    inside = torch.zeros_like(buffer, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    return bool((buffer[~inside] == 7.0).all())


ACTIVATE = {"silu": F.silu, "relu": torch.relu, "none": lambda x: x}


@pytest.mark.parametrize("activation", ACTIVATE)
@pytest.mark.parametrize(("shape", "dtype"), [*product(SHAPES, DTYPES)], ids=str)
def test_a_norm_and_its_activation(shape: tuple[int, int, int], dtype: torch.dtype, activation):
    x, scale, shift = strip(shape, dtype), *strip((1, 2, shape[2]), seed=1)[0]
    found, plain = lines(x), lines(x)
    fused.normed(scale, shift, activation)(x, found[1:-1, 1:-1])
    normed(scale, shift, ACTIVATE[activation])(x, plain[1:-1, 1:-1])
    if activation != "none" and dtype == torch.float32:  # there the plain way activates in place
        plain[1:-1, 1:-1] = ACTIVATE[activation](x * scale + shift)
    assert untouched(found)
    torch.testing.assert_close(found, plain, rtol=UNIT[dtype], atol=UNIT[dtype])


@pytest.mark.parametrize("activation", ["silu", "relu"])
@pytest.mark.parametrize(("shape", "dtype"), [*product(SHAPES, DTYPES)], ids=str)
def test_a_norm_of_each_pixel(shape: tuple[int, int, int], dtype: torch.dtype, activation):
    x, gain = strip(shape, dtype), strip((1, 1, shape[2]), seed=1)[0, 0]
    x[0, 0] = 0.0  # of no length
    found, plain = lines(x), lines(x)
    fused.pixel_normed(gain, activation, LEAST)(x, found[1:-1, 1:-1])
    in_place = {"silu": lambda y: F.silu(y, inplace=True), "relu": torch.relu_}[activation]
    pixel_normed(gain, in_place)(x, plain[1:-1, 1:-1])
    assert untouched(found)
    torch.testing.assert_close(found, plain, rtol=UNIT[dtype], atol=UNIT[dtype])


def test_large_numbers_of_half_precision_do_not_overflow_on_the_way():
    x, gain = torch.full((1, 3, 512), 60000.0, dtype=torch.float16), torch.full((512,), 2.0)
    out = torch.empty_like(x)
    fused.pixel_normed(gain, "silu", LEAST)(x, out)
    torch.testing.assert_close(out.float(), F.silu(torch.full(x.shape, 2.0 / 512**0.5)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("activation", ACTIVATE)
def test_what_is_not_finite_stays_so(activation):
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0]).view(1, 1, 4)
    out, one = torch.empty_like(x), torch.ones(4)
    fused.normed(one, torch.zeros(4), activation)(x, out)
    torch.testing.assert_close(out, ACTIVATE[activation](x), equal_nan=True)


@pytest.mark.parametrize("numbers", [1024, fused.NUMBERS])
@pytest.mark.parametrize("pieces", [2, 5, fused.PIECES])
@pytest.mark.parametrize("shape", SHAPES)
def test_moments(shape: tuple[int, int, int], pieces: int, numbers: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fused, "PIECES", pieces)
    monkeypatch.setattr(fused, "NUMBERS", numbers)
    x = strip(shape)
    count, mean, var = fused.moments(x)
    exact = x.double().flatten(0, 1)
    assert count == len(exact)
    torch.testing.assert_close(mean.double(), exact.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var.double(), exact.var(0, correction=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_moments_of_half_precision(dtype: torch.dtype):
    x = strip((4, 33, 48), dtype)
    _, mean, var = fused.moments(x)
    _, plain_mean, plain_var = strip_moments(x.float())
    torch.testing.assert_close(mean.double(), plain_mean.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var.double(), plain_var.double(), rtol=1e-5, atol=1e-6)


def test_moments_at_a_mean_of_a_thousand_deviations(monkeypatch: pytest.MonkeyPatch):
    """Where E[x²] − E[x]² is wrong by 14 %."""
    monkeypatch.setattr(fused, "PIECES", 7)
    x = strip((16, 128, 8)).mul_(1 / 3) + 1000.0
    _, _, var = fused.moments(x)
    exact = x.double().flatten(0, 1).var(0, correction=0)
    torch.testing.assert_close(var.double(), exact, rtol=1e-4, atol=0.0)


def test_a_spike_does_not_swallow_the_other_pixels():
    x = strip((4, 1024, 8)) * 1e-3
    x[0, 0] = 1000.0
    _, _, var = fused.moments(x)
    torch.testing.assert_close(var.double(), x.double().flatten(0, 1).var(0, correction=0), rtol=1e-5, atol=0.0)


def test_a_strip_that_lies_otherwise_is_refused_before_anything_is_written():
    x = strip((2, 3, 8))
    with pytest.raises(AssertionError):
        fused.normed(torch.ones(8), torch.zeros(8), "silu")(x, torch.empty(8, 2, 3).permute(1, 2, 0))


# --- whether they are used


def test_the_trial_passes_and_notices_other_numbers(monkeypatch: pytest.MonkeyPatch):
    assert all(fused.tried(CPU, dtype) for dtype in DTYPES)
    real = fused.moments
    monkeypatch.setattr(fused, "moments", lambda x: (real(x)[0], real(x)[1], real(x)[2] * 1.001))
    assert not fused.tried(CPU, torch.float32)
    monkeypatch.setattr(fused, "moments", real)
    wrong = fused.normed
    monkeypatch.setattr(fused, "normed", lambda scale, shift, activation: wrong(scale, shift + 1e-3, activation))
    assert not fused.tried(CPU, torch.float32)


@pytest.mark.parametrize("trouble", [ImportError("no module named triton"), RuntimeError("ptxas failed")])
def test_without_triton_strips_take_the_plain_way(trouble: Exception, monkeypatch: pytest.MonkeyPatch):
    def fails(device, dtype):
        raise trouble

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for answer, right in ((fails, False), (lambda *_: False, False), (lambda *_: True, True)):
        fused.fuses.cache_clear()
        monkeypatch.setattr(fused, "tried", answer)
        assert fused.fuses(torch.device("cuda"), torch.float16) is right
    assert not fused.fuses(torch.device("cuda"), torch.float64)  # they compute in float32
    assert not any(fused.fuses(torch.device(name), torch.float16) for name in ("cpu", "mps", "xpu"))
    fused.fuses.cache_clear()


# --- a doubling that is folded into its convolution


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 4)])
def test_a_folded_doubling(size: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "transformed", lambda *a, **k: False)
    rows, columns = size
    weight, bias = strip((10, 12 * 9, 1)).view(10, 12, 3, 3).to(dtype), strip((1, 1, 10))[0, 0].to(dtype)
    buffer = strip((rows + 2, columns + 2, 12), dtype)
    plain = upsampled_conv3x3(weight.double(), bias.double(), Scratch())(buffer.double())
    monkeypatch.setattr(kernels, "folds", lambda device: True)
    found = upsampled_conv3x3(weight, bias, Scratch())(buffer)
    assert found.shape == (2 * rows, 2 * columns, 10) and found.is_contiguous() and found.dtype == dtype
    loss = (found.double() - plain).norm() / plain.norm()
    assert loss < {torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, UNIT.get(dtype, 0.0))


# --- all of it together


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run on the CPU takes the GPU's ways; what is called is noted."""
    called: list[str] = []
    for name in ("normed", "pixel_normed", "moments"):
        real = getattr(fused, name)

        def noted(*args, real=real, name=name):
            called.append(name)
            return real(*args)

        monkeypatch.setattr(fused, name, noted)
    monkeypatch.setattr(fused, "fuses", lambda device, dtype: dtype in fused.DTYPES)
    monkeypatch.setattr(run, "home", lambda device, dtype: device)
    for module in (kernels, steps):
        monkeypatch.setattr(module, "folds", lambda device: True)
        monkeypatch.setattr(module, "transformed", lambda *a, **k: False)
    return called


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_is_that_of_the_whole(mode: str, as_on_a_gpu: list[str]):
    vae = small_vae((8, 16), dtype=torch.float32)
    z, x = strip((1, 4 * 12, 8)).view(1, 4, 12, 8), strip((1, 3 * 24, 16)).view(1, 3, 24, 16) / 3
    with torch.no_grad():
        picture, latent = vae.decode(z), vae.encode_moments(x)
    decoded = stream_decode(vae, z, plan=plan_decode(vae, z.shape, mode=mode, strip_pixels=128)).tensor
    encoded = stream_encode(vae, x, plan=plan_encode(vae, x.shape, mode=mode, strip_pixels=128)).tensor
    assert (decoded - picture).abs().max() <= LEVEL * picture.abs().max()
    assert (encoded - latent).abs().max() <= LEVEL * latent.abs().max()
    assert {"normed", "moments"} == set(as_on_a_gpu)


def test_a_norm_of_each_pixel_in_a_causal_vae(as_on_a_gpu: list[str]):
    vae = causal()
    scaled_weights(vae, 3)
    z = strip((1, 4 * 8, 8)).view(1, 4, 8, 8)
    with torch.no_grad():
        picture = vae.decode(z)
    decoded = stream_decode(vae, z, plan=plan_decode(vae, z.shape, strip_pixels=128)).tensor
    assert (decoded - picture).abs().max() <= LEVEL * picture.abs().max()
    assert "pixel_normed" in as_on_a_gpu


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_more_than_the_whole(dtype: torch.dtype, as_on_a_gpu: list[str]):
    """And with V and the projection of the attention, and taps of a doubling, rounded once together."""
    vae = small_vae((8, 16), dtype=torch.float32)
    z = strip((1, 4 * 12, 8), dtype).float().view(1, 4, 12, 8)
    with torch.no_grad():
        exact, low = vae.double().decode(z.double()), vae.to(dtype)
        whole = low.decode(z.to(dtype)).double()
    done = stream_decode(low, z.to(dtype), plan=plan_decode(low, z.shape, mode="C", strip_pixels=128))
    assert done.report.retries == () and done.tensor.dtype == dtype
    assert (done.tensor.double() - exact).norm() <= 1.1 * (whole - exact).norm()


def test_an_overflow_is_seen_though_nobody_asks_after_each_map(as_on_a_gpu: list[str]):
    vae = small_vae((8, 16), dtype=torch.float32)
    with torch.no_grad():
        chain_of(vae, True).steps[0].conv.weight.mul_(1e38)
        vae.to(torch.bfloat16)
    z = strip((1, 4 * 12, 8), torch.bfloat16).view(1, 4, 12, 8)
    done = stream_decode(vae, z, plan=plan_decode(vae, z.shape, mode="A", strip_pixels=128))
    assert done.report.dtype == torch.float32 and "overflowed bfloat16" in done.report.retries[0]


# --- what it saves


def test_nobody_waits_for_moments_that_stay_on_the_device(monkeypatch: pytest.MonkeyPatch):
    vae = small_vae((8, 16))
    counts = {}
    for stays in (False, True):
        monkeypatch.setattr(run, "home", lambda device, dtype, stays=stays: device if stays else CPU)
        with pretended():
            moved(vae, torch.float32)
            plan = plan_decode(vae, (1, 4, 16, 16), device=DEVICE, memory_limit=1 << 40, mode="D", strip_pixels=512)
            with Watch() as watch:
                stream_decode(vae, torch.empty((1, 4, 16, 16), device=DEVICE), plan=plan)
        counts[stays] = len(watch.to_cpu) + watch.asked
    norms = sum(step.norm is not None for step in chain_of(vae, True).steps)
    assert counts[False] >= norms and counts[True] == 0


def test_a_plan_knows_what_is_not_needed(monkeypatch: pytest.MonkeyPatch):
    """Nothing is turned into float32 and nothing is doubled on the way, so that more fits."""
    vae, peaks = small_vae((8, 16), dtype=torch.float16, attention=False), []
    for fuses, folds in ((False, False), (True, False), (True, True)):
        monkeypatch.setattr(fused, "fuses", lambda device, dtype, fuses=fuses: fuses)
        monkeypatch.setattr(steps, "folds", lambda device, folds=folds: folds)
        peaks.append(plan_decode(vae, (1, 4, 64, 64), device="cuda", memory_limit=1 << 40, mode="D").peak_bytes)
    assert peaks[2] < peaks[1] < peaks[0]


def test_triton_compiles_the_kernels_for_the_cards_that_are_used(tmp_path: Path):
    """NVIDIA's from Turing to Blackwell and one of AMD's: its compiler needs none of them."""
    script = textwrap.dedent(
        """
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from vae_manager.codec.streaming import fused_kernels as k

        many = {name: "i32" for name in "pixels channels width out_row pieces piece_pixels".split()}
        cards = {"fp32": [("cuda", 90, 32)], "fp16": [("cuda", 75, 32), ("cuda", 90, 32)],
                 "bf16": [("cuda", 86, 32), ("cuda", 90, 32), ("cuda", 100, 32), ("hip", "gfx942", 64)]}
        for kind, targets in cards.items():
            kinds = {**many, "x": f"*{kind}", "out": f"*{kind}", "least": "fp32"}
            kinds.update({name: "*fp32" for name in ("scale", "shift", "gain", "parts", "found")})
            for target in (GPUTarget(*card) for card in targets):
                for kernel in (k.normed_strip, k.pixel_normed_strip, k.piece_moments, k.merged_moments):
                    sizes = dict(activation=1, tile_pixels=32, tile_channels=128, piece_tiles=4, most_pieces=64)
                    fixed = {name: sizes[name] for name in kernel.arg_names if name in sizes}
                    signature = {name: "constexpr" if name in fixed else kinds[name] for name in kernel.arg_names}
                    made = triton.compile(ASTSource(kernel, signature, fixed), target=target)
                    print(kernel.__name__, kind, target.arch, max(map(len, made.asm.values())))
        """
    )
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 7 * 4
