"""The kernels of `fused`, in Triton. A strip is contiguous, (pixels, channels); everything is computed in float32.

`TRITON_INTERPRET=1` in the environment, before this is imported, has them run on a CPU.
"""

# pyright: basic
# A kernel is not Python, but a language that is written like it.
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _activated(y, activation: tl.constexpr):
    """0: y; 1: y · sigmoid(y), which is y / (1 + e⁻ʸ); 2: max(y, 0), and NaN stays NaN."""
    if activation == 1:
        y = y / (1.0 + tl.exp(-y))
    if activation == 2:
        y = tl.where(y < 0.0, 0.0, y)
    return y


@triton.jit
def _place(pixel, width, out_row, channels):
    """Where a pixel of a strip begins in a result whose rows begin `out_row` numbers behind one another."""
    row = pixel // width
    return row * out_row + (pixel - row * width) * channels


@triton.jit
def normed_strip(
    x, scale, shift, out, pixels, channels, width, out_row,
    activation: tl.constexpr, tile_pixels: tl.constexpr, tile_channels: tl.constexpr,
):  # fmt: skip
    """out = activation(x · scale + shift)."""
    pixel = tl.program_id(0).to(tl.int64) * tile_pixels + tl.arange(0, tile_pixels)
    channel = tl.program_id(1) * tile_channels + tl.arange(0, tile_channels)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    times = tl.load(scale + channel, mask=channel < channels, other=0.0)
    plus = tl.load(shift + channel, mask=channel < channels, other=0.0)
    y = tl.load(x + pixel[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    y = _activated(y * times[None, :] + plus[None, :], activation)
    tl.store(
        out + _place(pixel, width, out_row, channels)[:, None] + channel[None, :],
        y.to(out.dtype.element_ty),
        mask=inside,
    )


@triton.jit
def pixel_normed_strip(
    x, gain, out, pixels, channels, width, out_row, least,
    activation: tl.constexpr, tile_pixels: tl.constexpr, tile_channels: tl.constexpr,
):  # fmt: skip
    """out = activation(x / max(‖x‖, least) · gain), where a tile has all channels of its pixels."""
    pixel = tl.program_id(0).to(tl.int64) * tile_pixels + tl.arange(0, tile_pixels)
    channel = tl.arange(0, tile_channels)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    times = tl.load(gain + channel, mask=channel < channels, other=0.0)
    y = tl.load(x + pixel[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(y * y, axis=1)), least)
    y = _activated(y / length[:, None] * times[None, :], activation)
    tl.store(
        out + _place(pixel, width, out_row, channels)[:, None] + channel[None, :],
        y.to(out.dtype.element_ty),
        mask=inside,
    )


@triton.jit
def piece_moments(
    x, parts, pixels, channels, piece_tiles: tl.constexpr, tile_pixels: tl.constexpr, tile_channels: tl.constexpr
):  # fmt: skip
    """Mean and Σ(x − mean)² of each channel in a piece of tiles → parts[0] and parts[1], (pieces, channels)."""
    piece = tl.program_id(0)
    channel = tl.program_id(1) * tile_channels + tl.arange(0, tile_channels)
    there = channel < channels
    mean = tl.zeros([tile_channels], tl.float32)
    squares = tl.zeros([tile_channels], tl.float32)
    for tile in range(piece_tiles):
        count = tile * tile_pixels * 1.0  # a tile that holds anything has only full ones before it
        pixel = (piece.to(tl.int64) * piece_tiles + tile) * tile_pixels + tl.arange(0, tile_pixels)
        inside = (pixel < pixels)[:, None] & there[None, :]
        y = tl.load(x + pixel[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        more = tl.sum((pixel < pixels).to(tl.float32), axis=0)
        here = tl.sum(y, axis=0) / tl.maximum(more, 1.0)
        off = tl.where(inside, y - here[None, :], 0.0)
        delta, share = here - mean, more / tl.maximum(count + more, 1.0)
        squares += tl.sum(off * off, axis=0) + delta * delta * count * share
        mean += delta * share
    at = piece * channels + channel
    tl.store(parts + at, mean, mask=there)
    tl.store(parts + tl.num_programs(0) * channels + at, squares, mask=there)


@triton.jit
def merged_moments(
    parts, found, pixels, channels, pieces, piece_pixels, most_pieces: tl.constexpr, tile_channels: tl.constexpr
):  # fmt: skip
    """The pieces' moments → mean and variance (biased) of the strip, found[0] and found[1], (channels,)."""
    channel = tl.program_id(0) * tile_channels + tl.arange(0, tile_channels)
    piece = tl.arange(0, most_pieces)
    inside = (piece < pieces)[:, None] & (channel < channels)[None, :]
    at = piece[:, None] * channels + channel[None, :]
    means = tl.load(parts + at, mask=inside, other=0.0)
    squares = tl.load(parts + pieces * channels + at, mask=inside, other=0.0)
    # the last piece may be shorter, and the pieces that fill up a power of two are none
    count = tl.minimum(tl.maximum(pixels - piece * piece_pixels, 0), piece_pixels).to(tl.float32)[:, None]
    mean = tl.sum(means * count, axis=0) / pixels
    off = tl.where(inside, means - mean[None, :], 0.0)
    var = tl.sum(squares + off * off * count, axis=0) / pixels
    tl.store(found + channel, mean, mask=channel < channels)
    tl.store(found + channels + channel, var, mask=channel < channels)
