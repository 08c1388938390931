"""A TAEHV written plainly over frames (N, T, C, H, W) from a file's tensors: the reference for single pictures.

Nothing of the package is used. All frames go through all layers, the first one's past is a frame of zeros, and what
stands before the video is cut off at the end (the published `TAEHV.encode_video` and `decode_video`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


def random_weights(
    latent: int = 16,
    square: int = 1,
    widths: tuple[int, ...] = (256, 128, 64, 64),
    inside: int = 64,
    pools: tuple[int, ...] = (2, 2, 1),
    growths: tuple[int, ...] = (1, 2, 2),
    blocks: int = 3,
) -> dict[str, Tensor]:
    """Of the published layout, which these are the sizes of (taew2_1), in float64."""
    generator, state = torch.Generator().manual_seed(0), dict[str, Tensor]()

    def conv(name: str, width: int, out: int, side: int = 3, bias: bool = True) -> None:
        noise = torch.randn(out, width, side, side, generator=generator, dtype=torch.float64)
        state[f"{name}.weight"] = noise * (1.4 / (width * side * side) ** 0.5)
        if bias:
            state[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator, dtype=torch.float64)

    def memory(name: str, width: int) -> None:
        for layer, channels in ((0, 2 * width), (2, width), (4, width)):
            conv(f"{name}.conv.{layer}", channels, width)

    conv("encoder.0", 3 * square**2, inside)
    n = 2
    for frames in pools:
        conv(f"encoder.{n}.conv", inside * frames, inside, 1, bias=False)
        conv(f"encoder.{n + 1}", inside, inside, bias=False)
        for block in range(blocks):
            memory(f"encoder.{n + 2 + block}", inside)
        n += 2 + blocks
    conv(f"encoder.{n}", inside, latent)
    conv("decoder.1", latent, widths[0])
    n = 3
    for width, out, frames in zip(widths[:-1], widths[1:], growths, strict=True):
        for block in range(blocks):
            memory(f"decoder.{n + block}", width)
        conv(f"decoder.{n + blocks + 1}.conv", width, width * frames, 1, bias=False)
        conv(f"decoder.{n + blocks + 2}", width, out, bias=False)
        n += blocks + 3
    conv(f"decoder.{n + 1}", widths[-1], 3 * square**2)
    return state


def encode(state: Weights, picture: Tensor) -> Tensor:
    """One picture (N, 3, H, W) in [0, 1] → (N, C, h, w)."""
    square = round((state["encoder.0.weight"].shape[1] / 3) ** 0.5)
    pools = [name for name in state if name.startswith("encoder.") and _is_time(name)]
    count = 1
    for name in pools:
        count *= state[name].shape[1] // state[name].shape[0]
    x = F.pixel_unshuffle(picture, square)
    return _run(state, "encoder", torch.stack([x] * count, dim=1))[:, -1]


def decode(state: Weights, latent: Tensor) -> Tensor:
    """One latent (N, C, h, w) → (N, 3, H, W), about [0, 1]."""
    x = _run(state, "decoder", torch.tanh(latent / 3)[:, None] * 3)[:, -1]
    return F.pixel_shuffle(x, round((x.shape[1] / 3) ** 0.5))


def _is_time(name: str) -> bool:
    return name.split(".")[2:] == ["conv", "weight"]


def _run(state: Weights, half: str, x: Tensor) -> Tensor:
    numbers = sorted({int(name.split(".")[1]) for name in state if name.startswith(f"{half}.")})
    for number in numbers:
        name = f"{half}.{number}"
        after_time = f"{half}.{number - 1}.conv.weight" in state and f"{name}.conv.0.weight" not in state
        if f"{name}.conv.0.weight" in state:
            past = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
            h = torch.cat([x, past], dim=2)
            for layer in (0, 2, 4):
                h = _conv(state, f"{name}.conv.{layer}", h)
                h = torch.relu(h) if layer < 4 else h
            x = torch.relu(h + x)
        elif f"{name}.conv.weight" in state:
            n, _, c, height, width = x.shape
            if half == "decoder":  # enlarged before the frames grow
                x = x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
                x = _conv(state, f"{name}.conv", x).reshape(n, -1, c, 2 * height, 2 * width)
            else:
                x = _conv(state, f"{name}.conv", x.reshape(n, -1, state[f"{name}.conv.weight"].shape[1], height, width))
        elif after_time:
            x = _conv(state, name, x, 2 if half == "encoder" else 1)
        else:
            # the decoder's last convolution has a ReLU before it, the first ones have one behind them
            x = _conv(state, name, torch.relu(x) if half == "decoder" and number == numbers[-1] else x)
            x = x if number == numbers[-1] else torch.relu(x)
    return x


def _conv(state: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight, n = state[f"{name}.weight"], x.shape[0]
    y = F.conv2d(x.flatten(0, 1), weight, state.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)
    return y.unflatten(0, (n, -1))
