"""The transformed convolutions, in blocks of every size, against torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vae_manager.codec.streaming import kernels
from vae_manager.codec.streaming.kernels import SIDES, Scratch, conv3x3, tiles_at_a_time, upsampled_conv3x3


@pytest.mark.parametrize("numbers", [1, 20_000, 36 * 2**17])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 4), (8, 13)])
@pytest.mark.parametrize("side", SIDES)
def test_equal_torchs_convolution(
    numbers: int, size: tuple[int, int], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "BLOCK_NUMBERS", numbers)
    generator = torch.Generator().manual_seed(numbers)
    rows, columns = size
    weight = torch.randn(100, 96, 3, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(100, generator=generator, dtype=torch.float64)
    buffer = torch.randn(rows + 2, columns + 2, 96, generator=generator, dtype=torch.float64)
    x = buffer.permute(2, 0, 1)[None]
    plain = conv3x3(weight, bias, Scratch(), side=side)(buffer)
    torch.testing.assert_close(plain.permute(2, 0, 1)[None], F.conv2d(x, weight, bias))
    # its border is of input pixels: the doubled picture has two pixels of it, of which the convolution takes one
    doubled = F.interpolate(x, scale_factor=2.0)[..., 1:-1, 1:-1]
    upsampled = upsampled_conv3x3(weight, bias, Scratch())(buffer)
    torch.testing.assert_close(upsampled.permute(2, 0, 1)[None], F.conv2d(doubled, weight, bias))


def test_blocks_cover_every_tile_once_and_keep_to_their_size() -> None:
    for rows, columns, most in (
        (1, 1, 1),
        (5, 7, 3),
        (5, 7, 14),
        (3, 4000, 1024),
        (40, 40, 10**6),
        (0, 5, 3),
        (5, 0, 3),
    ):
        covered = torch.zeros(rows, columns)
        for i, j in kernels._blocks(rows, columns, most):
            covered[i, j] += 1
            assert (i.stop - i.start) * (j.stop - j.start) <= most
        assert bool((covered == 1).all())
    assert tiles_at_a_time(36, 128, 128) > tiles_at_a_time(36, 128, 512) >= 1


def test_a_transform_errs_as_the_direct_sum_does() -> None:
    """In float32, at SD's widths: root mean square within thrice of torch's own convolution (seen: .3 to 1.7)."""
    generator = torch.Generator().manual_seed(0)
    for channels in (128, 512):
        weight = torch.randn(channels, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
        buffer = F.silu(torch.randn(18, 34, channels, generator=generator))
        exact = F.conv2d(buffer.double().permute(2, 0, 1)[None], weight.double())[0].permute(1, 2, 0)

        def error(result: torch.Tensor, exact: torch.Tensor = exact) -> float:
            return float((result - exact).square().mean().sqrt())

        direct = error(kernels._direct(weight, None, 1)(buffer))
        for side in SIDES:
            assert error(conv3x3(weight, None, Scratch(), side=side)(buffer)) < 3 * direct
