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

    def __init__(self, first: int, mid: int, last: int, layers: list[nn.Module], out: int, decodes: bool) -> None:
        super().__init__()
        self.conv1 = Conv(first, mid if decodes else layers_in(layers), 3)
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


def random_weights(module: nn.Module, seed: int = 0) -> None:
    """Every tap of every kernel is random: a wrong one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = 1.3 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(1 + 0.2 * noise if name.endswith("gamma") else noise * scale)
