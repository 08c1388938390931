"""A causal 3-D autoencoder of Wan's kind, written plainly over (N, C, T, H, W): the reference for single pictures.

Nothing of the package is used. Convolutions are of three axes with zeros in front of the first frame, names are Wan's
own, and one forward pass takes all frames at once. Temporal resampling is left out: the published networks pass a first
frame by it (they begin with it only from the second chunk of frames on).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv(nn.Conv3d):
    """Padded in front in time, on all sides in space."""

    def forward(self, x: Tensor) -> Tensor:
        t, h, w = self.kernel_size
        return F.conv3d(F.pad(x, (w // 2, w // 2, h // 2, h // 2, t - 1, 0)), self.weight, self.bias)


class Norm(nn.Module):
    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        length = x.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        return x / length * x.shape[1] ** 0.5 * self.gamma.reshape(-1, *[1] * (x.ndim - 2))


class Res(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            Norm(width, 3), nn.SiLU(), Conv(width, out, 3), Norm(out, 3), nn.SiLU(), nn.Dropout(0.0), Conv(out, out, 3)
        )
        self.shortcut = Conv(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, 2)
        self.to_qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = []
        for frame in x.unbind(2):
            n, c, h, w = frame.shape
            q, k, v = self.to_qkv(self.norm(frame)).reshape(n, 3, c, h * w).unbind(1)
            weights = torch.softmax(q.transpose(1, 2) @ k / c**0.5, dim=-1)
            frames.append(frame + self.proj((v @ weights.transpose(1, 2)).reshape(n, c, h, w)))
        return torch.stack(frames, dim=2)


class Resample(nn.Module):
    """With a temporal convolution, which a first frame never meets, where `time` says so."""

    def __init__(self, width: int, out: int, up: bool, time: bool) -> None:
        super().__init__()
        if up:
            self.resample = nn.Sequential(nn.Upsample(scale_factor=2.0), nn.Conv2d(width, out, 3, padding=1))
        else:
            self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, out, 3, stride=2))
        if time:
            self.time_conv = nn.Conv3d(width, 2 * width if up else width, (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.resample(frame) for frame in x.unbind(2)], dim=2)


class Half(nn.Module):
    """An encoder or a decoder; `layers` is called `downsamples` or `upsamples` in its state dict."""

    def __init__(
        self,
        first: int,
        mid: int,
        last: int,
        layers: list[nn.Module],
        out: int,
        decodes: bool,
        first_width: int | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = Conv(first, mid if decodes else first_width or layers_in(layers), 3)
        self.middle = nn.Sequential(Res(mid, mid), Attention(mid), Res(mid, mid))
        self.add_module("upsamples" if decodes else "downsamples", nn.Sequential(*layers))
        self.head = nn.Sequential(Norm(last, 3), nn.SiLU(), Conv(last, out, 3))
        self._order = (
            ("conv1", "middle", "upsamples", "head") if decodes else ("conv1", "downsamples", "middle", "head")
        )

    def forward(self, x: Tensor) -> Tensor:
        for name in self._order:
            x = getattr(self, name)(x)
        return x


def layers_in(layers: list[Any]) -> int:
    return layers[0].residual[2].in_channels


class WanVAE(nn.Module):
    def __init__(self, dims: tuple[int, ...] = (8, 16, 16, 16), latent: int = 4, blocks: int = 1, out: int = 3) -> None:
        """`dims`: widths from the full resolution down; `blocks` of the encoder's levels, one more in the decoder's."""
        super().__init__()
        down: list[nn.Module] = []
        width = dims[0]
        for i, dim in enumerate(dims):
            down += [Res(width if j == 0 else dim, dim) for j in range(blocks)]
            width = dim
            if i + 1 < len(dims):
                down.append(Resample(dim, dim, up=False, time=i > 0))
        up: list[nn.Module] = []
        width = dims[-1]
        for i, dim in enumerate(reversed(dims)):
            up += [Res(width if j == 0 else dim, dim) for j in range(blocks + 1)]
            if i + 1 < len(dims):
                up.append(Resample(dim, dim // 2, up=True, time=i < 2))
                width = dim // 2
        self.encoder = Half(3, dims[-1], dims[-1], down, 2 * latent, decodes=False)
        self.conv1, self.conv2 = Conv(2 * latent, 2 * latent, 1), Conv(latent, latent, 1)
        self.decoder = Half(latent, dims[-1], dims[0], up, out, decodes=True)

    def encode(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) → (N, 2·Z, T, h, w)."""
        return self.conv1(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.conv2(z))


class Around(nn.Module):
    """A level of Wan 2.2's kind, with the shortcut around it; its layers are `downsamples` or `upsamples`."""

    def __init__(self, width: int, out: int, layers: list[nn.Module], up: bool, time: bool, plain: bool) -> None:
        super().__init__()
        self.layers = "upsamples" if up else "downsamples"
        self.add_module(self.layers, nn.Sequential(*layers))
        self.width, self.out, self.up = width, out, up
        self.frames, self.side = (2 if time else 1), (1 if plain else 2)

    def forward(self, x: Tensor) -> Tensor:
        h = getattr(self, self.layers)(x)
        if self.up:
            return h if self.side == 1 else h + self._repeated(x)
        return h + self._averaged(x)

    def _averaged(self, x: Tensor) -> Tensor:
        """Pixel by pixel of a square, frame by frame of a pair, in turn the numbers of a channel; means of groups."""
        before = [torch.zeros_like(x)] * (self.frames - 1)  # in front of the first frame
        numbers = [
            frame[..., i :: self.side, j :: self.side]
            for frame in (*before, x)
            for i in range(self.side)
            for j in range(self.side)
        ]
        per_channel = torch.stack(numbers, dim=2).flatten(1, 2)
        return torch.stack([group.mean(dim=1) for group in per_channel.chunk(self.out, dim=1)], dim=1)

    def _repeated(self, x: Tensor) -> Tensor:
        count = self.frames * 4
        numbers = torch.repeat_interleave(x, self.out * count // self.width, dim=1)
        squares = numbers[:, [c * count + count - 4 + k for c in range(self.out) for k in range(4)]]
        found = x.new_zeros(x.shape[0], self.out, *x.shape[2:3], 2 * x.shape[3], 2 * x.shape[4])
        for k in range(4):
            found[..., k // 2 :: 2, k % 2 :: 2] = squares[:, k::4]
        return found


class Wan22VAE(nn.Module):
    """Wan 2.2's (patch 2) and Qwen-Image 2.1's (patch 1, kernels of one frame, five levels, RGBA)."""

    def __init__(
        self,
        dims: tuple[int, ...] = (8, 16, 16, 16),
        decoder_dims: tuple[int, ...] | None = None,
        latent: int = 4,
        blocks: int = 1,
        channels: int = 3,
        patch: int = 2,
        times: tuple[bool, ...] = (False, True, True),
        taps: int = 3,
    ) -> None:
        """`times`: of each downsampling, from the full resolution down, whether it takes frames together."""
        super().__init__()
        self.patch, last = patch, len(dims) - 1
        down: list[nn.Module] = []
        for i, (width, dim) in enumerate(zip((dims[0], *dims), dims)):
            layers: list[nn.Module] = [Res(width if j == 0 else dim, dim) for j in range(blocks)]
            if i < last:
                layers.append(Resample(dim, dim, up=False, time=times[i]))
            down.append(Around(width, dim, layers, up=False, time=i < last and times[i], plain=i == last))
        wide = (decoder_dims or dims)[::-1]
        up: list[nn.Module] = []
        for i, (width, dim) in enumerate(zip((wide[0], *wide), wide)):
            layers = [Res(width if j == 0 else dim, dim) for j in range(blocks + 1)]
            if i < last:
                layers.append(Resample(dim, dim, up=True, time=times[::-1][i]))
            up.append(Around(width, dim, layers, up=True, time=i < last and times[::-1][i], plain=i == last))
        inside = channels * patch**2
        self.encoder = Half(inside, dims[-1], dims[-1], down, 2 * latent, decodes=False, first_width=dims[0])
        self.conv1, self.conv2 = Conv(2 * latent, 2 * latent, 1), Conv(latent, latent, 1)
        self.decoder = Half(latent, wide[0], wide[-1], up, inside, decodes=True)
        if taps == 1:
            _shorten(self)

    def encode(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) → (N, 2·Z, T, h, w)."""
        p = self.patch
        squares = [x[..., j::p, i::p] for i in range(p) for j in range(p)]  # down the columns first
        return self.conv1(self.encoder(torch.stack(squares, dim=2).flatten(1, 2)))

    def decode(self, z: Tensor) -> Tensor:
        x, p = self.decoder(self.conv2(z)), self.patch
        n, c, t, height, width = x.shape
        found = x.new_zeros(n, c // p**2, t, p * height, p * width)
        for k in range(p * p):
            found[..., k % p :: p, k // p :: p] = x[:, k :: p * p]
        return found


def wan22(thinner: int = 1) -> Wan22VAE:
    """Of the published size; `thinner`: its widths are divided by that."""
    encoder, decoder = ((dim, 2 * dim, 4 * dim, 4 * dim) for dim in (160 // thinner, 256 // thinner))
    return Wan22VAE(encoder, decoder, latent=48, blocks=2)


def qwen21(thinner: int = 1) -> Wan22VAE:
    """Of the published size; `thinner`: its widths are divided by that."""
    encoder, decoder = ((dim, 2 * dim, 4 * dim, 8 * dim, 8 * dim) for dim in (96 // thinner, 144 // thinner))
    times = (False, True, True, True)
    return Wan22VAE(encoder, decoder, latent=64, blocks=2, channels=4, patch=1, times=times, taps=1)


def _shorten(module: nn.Module) -> None:
    """Kernels of a single frame."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv3d) and conv.kernel_size[0] > 1:
            conv.weight = nn.Parameter(conv.weight[:, :, -1:].clone())
            conv.kernel_size = (1, *conv.kernel_size[1:])


def flattened(state: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """A `WanVAE`'s tensors as Qwen2D files have them: the last taps alone, under diffusers' names.

    Args:
        blocks: of each of the encoder's levels.
    """
    return {
        _diffusers_name(name, blocks): tensor[:, :, -1] if tensor.ndim == 5 else tensor
        for name, tensor in state.items()
        if "time_conv" not in name
    }


def _diffusers_name(name: str, blocks: int) -> str:
    parts = {"conv1.": "quant_conv.", "conv2.": "post_quant_conv."}
    for ours, theirs in parts.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    half, place, *rest = name.split(".")
    tail = ".".join(rest)
    renamed = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}
    for old, new in {**renamed, "shortcut": "conv_shortcut"}.items():
        tail = tail.replace(old, new)
    if place == "conv1":
        return f"{half}.conv_in.{tail}"
    if place == "head":
        return f"{half}.norm_out.gamma" if tail.startswith("0") else f"{half}.conv_out.{tail[2:]}"
    number, tail = tail.split(".", 1)
    if place == "middle":
        return f"{half}.mid_block.{('resnets.0', 'attentions.0', 'resnets.1')[int(number)]}.{tail}"
    if place == "downsamples":
        return f"{half}.down_blocks.{number}.{tail}"
    level, layer = divmod(int(number), blocks + 2)
    return f"{half}.up_blocks.{level}." + (f"resnets.{layer}.{tail}" if layer <= blocks else f"upsamplers.0.{tail}")


def random_weights(module: nn.Module, seed: int = 0) -> None:
    """Every tap of every kernel is random: a wrong one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = 1.3 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(1 + 0.2 * noise if name.endswith("gamma") else noise * scale)
