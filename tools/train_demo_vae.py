"""Train the small demo VAE of `vae_manager/data/demo/` from scratch, on a CPU, in about an hour and a half.

The network is the project's own `AutoencoderKL`, with the topology of Stable Diffusion's first stage (KL-f8:
four levels, four latent channels) at an eighth of its width: 1.3 million parameters instead of 84 million.

    python tools/collect_photos.py --out photos
    python tools/train_demo_vae.py --photos photos --minutes 90 --out demo-kl-f8.safetensors
    python tools/train_demo_vae.py --photos photos --measure demo-kl-f8.safetensors

How: the model does not begin at random but as a picture pyramid (`begin_as_pyramid`): its latent holds each block's
mean brightness, both of its chromas and a slope, and its decoder interpolates between them. From random weights
the four channels collapse to two numbers and green is never learnt. Then crops of the photographs, each scaled down
to one of several sizes (a photograph of
512 pixels has far denser detail than a crop of the full size, and the model is judged on both); small crops
first, large ones at the end, because GroupNorm and the attention see the whole picture when the model is
used. Colours are varied at random: strong ones are rare in these photographs and would be learnt last. The
loss is taken in opponent colours, of pixels and of block means, and
turns from the squared error to its logarithm, whose optimum is the best mean PSNR. Hidden convolutions
are trained with Muon (momentum whose update matrix is orthogonalised), all else with Adam; the weights that
are kept are an exponential moving average. Afterwards the latent is centred and rescaled to a standard
deviation of 1/0.18215 by exact changes of the two 1×1 convolutions around it.

A run is resumed from `OUT.state.pt` where that file exists. Licence of this script and of the weights it
makes: MIT; the photographs' own licences are in tools/collect_photos.py.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vae_manager.codec.kinds.kl.config import KLConfig
from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.color.difference import ciede2000, lab

SCALE_FACTOR = 0.18215
"""SD1's scale factor: its latents have about unit variance after multiplication by it."""

NORM_GROUPS = 4
"""So that the sixteen channels of the last level leave room in each group for a signal and a constant."""

SIZES = {448: 0.10, 512: 0.32, 640: 0.12, 768: 0.12, 1024: 0.22, 1448: 0.07, 2048: 0.05}
"""Longer side of a training photograph, in pixels: how often. Weighted towards the sizes it is judged at."""

STAGES = [(0.00, 160, 1), (0.30, 256, 1), (0.70, 384, 1)]
"""(from this share of the time on, side of the crops, crops a step)."""

TRAIN_SPLITS = ("train", "color-tune")
HELDOUT_SPLITS = ("heldout", "color-test")
HELDOUT_EVERY = 3
"""Of the held-out photographs, how many are measured when the training ends: `--measure` measures all."""
"""Of tools/collect_photos.py: no photographer is in both."""

OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (0.5, -0.5, 0.0), (0.25, 0.25, -0.5))
"""Brightness, red - green and yellow - blue of RGB in [-1, 1], each in [-1, 1]."""

CHROMA_WEIGHT = 1.6
"""How much more an error of a chroma weighs than one of brightness, both in an orthonormal basis."""

BLOCK, BLOCK_WEIGHT = 8, 4.0
"""The means of blocks of so many pixels a side are compared as well, and weigh so much: an eye sees a wrong colour of
an area before it misses a detail."""

FLOORS = (0.3, 0.008)
"""Squared error (of values in [-1, 1]) below which a crop counts for less, at the beginning and at the end.

The loss is log(error + floor). A high floor makes it nearly the squared error itself, which is ruled by the
worst crops: strong colours, which a new model gets badly wrong. A low one makes it the mean PSNR.
"""

KL_WEIGHT = 1e-5


def demo_config(width: int) -> KLConfig:
    """KL-f8 at `width` base channels (Stable Diffusion: 128)."""
    channels = (width, 2 * width, 4 * width, 4 * width)
    return KLConfig(encoder_stem=width, encoder_channels=channels, decoder_channels=channels, norm_groups=NORM_GROUPS)


# --- Photographs -------------------------------------------------------------------------------------------


def load_photo(path: Path, longer_side: int | None = None) -> Image.Image:
    """A photograph as RGB, scaled down (Lanczos) to a longer side of `longer_side` pixels."""
    with Image.open(path) as opened:
        if longer_side:
            opened.draft("RGB", (longer_side * 2, longer_side * 2))  # JPEG: decode no more than needed
        image = opened.convert("RGB")
    if longer_side and longer_side < max(image.size):
        factor = longer_side / max(image.size)
        width, height = (round(side * factor) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return image


def cut_to_multiple(image: Image.Image, multiple: int = 8) -> Image.Image:
    """Cut the few pixels at the right and bottom that do not fill a latent pixel."""
    width, height = (side // multiple * multiple for side in image.size)
    return image.crop((0, 0, width, height))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(..., H, W, 3) bytes → (..., 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels.copy()).movedim(-1, -3).float() / 127.5 - 1.0


def photo_files(photos: Path, splits: tuple[str, ...]) -> list[Path]:
    """The photographs of some splits, in a fixed order."""
    files = [path for split in splits for path in sorted((photos / split).glob("*.*"))]
    files = [path for path in files if path.suffix.lower() in {".jpg", ".png", ".webp"}]
    if not files:
        raise SystemExit(f"no photographs in {photos}; run tools/collect_photos.py first")
    return files


class Crops:
    """Random crops of random photographs at random sizes, mirrored at random."""

    def __init__(self, photos: Path, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.by_size: dict[int, list[np.ndarray]] = {size: [] for size in SIZES}
        for path in photo_files(photos, TRAIN_SPLITS):
            for size in sorted(SIZES, reverse=True):
                with Image.open(path) as opened:
                    longer = max(opened.size)
                if size <= longer:
                    self.by_size[size].append(np.asarray(load_photo(path, size)))

    def batch(self, side: int, count: int) -> Tensor:
        """(count, 3, side, side) in [-1, 1]."""
        there = [size for size in SIZES if self.by_size[size]]
        sizes = self.random.choices(there, weights=[SIZES[size] for size in there], k=count)
        chosen = [self.random.choice(self.by_size[size]) for size in sizes]
        return torch.stack([self._vary_colours(to_tensor(self._crop(pixels, side))) for pixels in chosen])

    def _crop(self, pixels: np.ndarray, side: int) -> np.ndarray:
        height, width = pixels.shape[:2]
        # A panorama can be lower than the crop: then mirror it downwards.
        if min(height, width) < side:
            pad = ((0, max(0, side - height)), (0, max(0, side - width)), (0, 0))
            pixels = np.pad(pixels, pad, mode="symmetric")
            height, width = pixels.shape[:2]
        top, left = self.random.randint(0, height - side), self.random.randint(0, width - side)
        crop = pixels[top : top + side, left : left + side]
        if self.random.random() < 0.5:
            crop = crop[:, ::-1]
        if self.random.random() < 0.15:
            crop = crop.transpose(1, 0, 2)
        return crop

    def _vary_colours(self, x: Tensor) -> Tensor:
        """Swap the channels, change saturation, change gain and level: each sometimes, clipped to [-1, 1]."""
        if self.random.random() < 0.3:
            x = x[self.random.sample(range(3), 3)]
        if self.random.random() < 0.4:
            grey = x.mean(dim=0, keepdim=True)
            x = grey + (x - grey) * self.random.uniform(0.6, 2.5)
        if self.random.random() < 0.3:
            gains = torch.tensor([self.random.uniform(0.7, 1.3) for _ in range(3)])
            x = x * gains[:, None, None] + self.random.uniform(-0.3, 0.3)
        return x.clamp(-1, 1)


# --- Optimisation ------------------------------------------------------------------------------------------


def orthogonalise(update: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, by Newton-Schulz iteration (Jordan et al., Muon, 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update / (update.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalised updates, for convolution kernels seen as matrices."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
                rows, columns = update.shape
                update = orthogonalise(update if rows <= columns else update.T)
                update = update if rows <= columns else update.T
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                parameter.add_(update.reshape(parameter.shape), alpha=-rate)


def weight_and_bias(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """A convolution's parameters, the bias known to be there."""
    if conv.bias is None:
        raise ValueError("every convolution of a KL autoencoder has a bias")
    return conv.weight, conv.bias


def build(width: int) -> AutoencoderKL:
    """A new model: a pyramid whose residual branches are silent and whose posterior is narrow."""
    model = AutoencoderKL(demo_config(width))
    begin_as_pyramid(model)
    return model


HOLD = 3.0
"""The constant beside each signal before a norm: large, so that a picture's own mean and contrast hardly change by
what the group is divided, and both survive the norm."""


@torch.no_grad()
def begin_as_pyramid(model: AutoencoderKL) -> None:
    """Set the weights so that the model encodes block means and decodes them by linear interpolation.

    Group g of every width carries signal g (the three of `OPPONENT`, then the slope of brightness across the block)
    in its channel 0 and minus it in channel 1. Before the last norm of each half, channels 2 and 3 hold plus and minus
    `HOLD`. SiLU(v) - SiLU(-v) = v undoes the activation.
    """
    encoder, decoder = model.encoder, model.decoder
    box, slope, centre, tent = (torch.zeros(3, 3) for _ in range(4))
    box[:2, :2] = 0.25
    slope[:2, 0], slope[:2, 1] = 0.5, -0.5
    centre[1, 1] = 1
    tent[:] = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            weight, bias = weight_and_bias(module)
            bias.zero_()
            if name.endswith(("conv2", "proj_out")):
                weight.zero_()  # the residual branches begin silent
            elif name.endswith("nin_shortcut"):
                _carry(module, torch.ones(1, 1))
            elif "upsample" in name:
                _carry(module, tent)
            elif "downsample" in name:
                _carry(module, box)
    rows = torch.tensor([*OPPONENT, OPPONENT[0]])
    for group, sign, channel in _signals(encoder.conv_in):
        encoder.conv_in.weight[channel] = sign * rows[group][:, None, None] * centre
    last = _layer(model, f"encoder.down.{len(encoder.down) - 2}.downsample.conv")
    for group, _, channel in _signals(last):
        if group == NORM_GROUPS - 1:
            last.weight[channel, channel] = slope
    _hold(last, encoder.norm_out)
    encoder.conv_out.weight.zero_()
    for group, sign, channel in _signals(last):
        encoder.conv_out.weight[group, channel] = sign * centre
    weight, bias = weight_and_bias(model.quant_conv)
    count = model.config.latent_channels
    weight.zero_()
    weight[:count, :count, 0, 0] = torch.eye(count) / 0.25
    bias[count:].fill_(-6.0)  # the logarithm of the posterior's variance
    model.post_quant_conv.weight[:, :, 0, 0] = torch.eye(count) * 0.25

    decoder.conv_in.weight.zero_()
    for group, sign, channel in _signals(decoder.conv_in):
        decoder.conv_in.weight[channel, group] = sign * centre
    narrowing = _layer(model, "decoder.up.0.block.0.nin_shortcut")
    _hold(narrowing, decoder.norm_out)
    colours = torch.linalg.inv(torch.tensor(OPPONENT))
    decoder.conv_out.weight.zero_()
    for group, sign, channel in _signals(narrowing):
        if group < len(OPPONENT):
            decoder.conv_out.weight[:, channel] = sign * colours[:, group, None, None] * centre


def _layer(model: nn.Module, path: str) -> nn.Conv2d:
    found = model.get_submodule(path)
    assert isinstance(found, nn.Conv2d)
    return found


def _signals(conv: nn.Conv2d) -> list[tuple[int, int, int]]:
    """(group, sign, channel) of what a layer puts out."""
    width = conv.out_channels // NORM_GROUPS
    return [(group, sign, group * width + slot) for group in range(NORM_GROUPS) for slot, sign in ((0, 1), (1, -1))]


def _carry(conv: nn.Conv2d, kernel: Tensor) -> None:
    """Have a layer hand on every signal through this kernel, and nothing else."""
    conv.weight.zero_()
    width = conv.in_channels // NORM_GROUPS
    for group, sign, channel in _signals(conv):
        conv.weight[channel, group * width + (sign < 0)] = kernel


def _hold(conv: nn.Conv2d, norm: nn.GroupNorm) -> None:
    """Put the constants into each group of a layer's output, and let the norm that follows keep the signals' size."""
    bias = weight_and_bias(conv)[1]
    width = conv.out_channels // NORM_GROUPS
    for _, sign, channel in _signals(conv):
        conv.weight[channel + 2] = 0
        bias[channel + 2] = sign * HOLD
        norm.weight[channel] = HOLD * (2 / width) ** 0.5


def optimisers(model: AutoencoderKL, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden convolutions, Adam for norms, biases and the layers at pixels and latent."""
    outer = ("conv_in", "conv_out", "quant_conv")
    hidden, rest = [], []
    for name, parameter in model.named_parameters():
        is_hidden = parameter.ndim == 4 and not any(part in name for part in outer)
        (hidden if is_hidden and muon_lr else rest).append(parameter)
    chosen: list[torch.optim.Optimizer] = [torch.optim.Adam(rest, lr=adam_lr, betas=(0.9, 0.98), eps=1e-10)]
    return [Muon(hidden, muon_lr), *chosen] if hidden else chosen


def learning_rate_factor(share: float) -> float:
    """Warm-up over the first percent of the time, constant, from half time on a fall to nearly nothing."""
    if share < 0.01:
        return 0.1 + 90 * share
    return min(1.0, max(0.0, (1 - share) / 0.5)) * 0.995 + 0.005


def error_floor(share: float) -> float:
    """From the first of `FLOORS` to the second, geometrically, between 40 % and 90 % of the time."""
    first, last = FLOORS
    return first * (last / first) ** min(1.0, max(0.0, (share - 0.4) / 0.5))


def weighted_error(difference: Tensor) -> Tensor:
    """(N, 3, H, W) → (N,): mean squared error in opponent colours, of the pixels and of the block means."""
    basis = torch.tensor(OPPONENT)
    basis = basis / basis.norm(dim=1, keepdim=True) * torch.tensor([1.0, CHROMA_WEIGHT, CHROMA_WEIGHT])[:, None]
    opponent = torch.einsum("ij,njhw->nihw", basis, difference)
    blocks = nn.functional.avg_pool2d(opponent, BLOCK)
    pixels, means = (v.square().mean(dim=(1, 2, 3)) for v in (opponent, blocks))
    return (pixels + BLOCK_WEIGHT * means) / (1 + BLOCK_WEIGHT / 2)


def training_loss(model: AutoencoderKL, x: Tensor, floor: float) -> Tensor:
    """Mean log squared error of the reconstruction from a posterior sample, and a very small KL term."""
    mean, log_variance = model.encode_moments(x).chunk(2, dim=1)
    log_variance = log_variance.clamp(-20, 10)
    z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    error = weighted_error(model.decode(z) - x)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return torch.log(error + floor).mean() + KL_WEIGHT * kl


# --- Measuring ---------------------------------------------------------------------------------------------


@torch.no_grad()
def reconstruct(model: AutoencoderKL, image: Image.Image) -> Image.Image:
    """Encode (the posterior's mean) and decode a picture whose sides are multiples of 8."""
    x = to_tensor(np.asarray(image))[None]
    y = model.decode(model.encode_moments(x).chunk(2, dim=1)[0])
    pixels = ((y[0].movedim(0, -1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return Image.fromarray(pixels)


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures, over all pixels and channels, in dB."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return 10 * math.log10(255**2 / max(float(np.mean(difference**2)), 1e-12))


def measure(model: AutoencoderKL, files: list[Path], longer_side: int) -> dict[str, float]:
    """{file name: PSNR} of the photographs that have `longer_side` pixels; no photograph is enlarged."""
    results: dict[str, float] = {}
    for path in files:
        with Image.open(path) as opened:
            large_enough = max(opened.size) >= longer_side
        if large_enough:
            image = cut_to_multiple(load_photo(path, longer_side))
            results[path.name] = psnr(image, reconstruct(model, image))
    return results


SECTORS = ("red", "yellow", "green", "cyan", "blue", "magenta")
"""Of 60° of CIELAB's hue each, from 0°; which colours they hold is only roughly what they are called."""

MEAN_BLOCK, COLOURFUL = 16, 10.0
"""Pixels a side of the blocks whose means are compared, and the chroma from which a block has a hue."""


@torch.no_grad()
def colours(model: AutoencoderKL, files: list[Path], longer_side: int) -> dict[str, float]:
    """How right the colours come back: mean CIEDE2000 of the means of blocks, of all and of each hue sector, R² of the
    decoded means of brightness, red - green and yellow - blue, and the latent's effective rank.

    The rank is exp of the entropy of the normalised eigenvalues of the latent channels' correlations (Roy and Vetterli,
    2007): 4 where none follows from the others.
    """
    originals, decoded, latents = [], [], []
    for path in files:
        x = to_tensor(np.asarray(cut_to_multiple(load_photo(path, longer_side), MEAN_BLOCK)))[None]
        z = model.encode_moments(x).chunk(2, dim=1)[0]
        latents.append(z[0].flatten(1))
        for kept, picture in ((originals, x), (decoded, model.decode(z).clamp(-1, 1))):
            kept.append(nn.functional.avg_pool2d(picture, MEAN_BLOCK)[0].flatten(1))
    before, after = (torch.cat(kept, dim=1).double() for kept in (originals, decoded))
    seen, made = lab(before / 2 + 0.5), lab(after / 2 + 0.5)
    distance = ciede2000(seen, made)
    hue = torch.rad2deg(torch.atan2(seen[2], seen[1])) % 360
    colourful = torch.hypot(seen[1], seen[2]) > COLOURFUL
    found = {"CIEDE2000": float(distance.mean())}
    for number, name in enumerate(SECTORS):
        inside = colourful & (hue // 60 == number)
        found[f"CIEDE2000 {name}"] = float(distance[inside].mean())
    basis = torch.tensor(OPPONENT, dtype=torch.float64)
    truth, missed = basis @ before, basis @ (after - before)
    for name, share in zip(("brightness", "red - green", "yellow - blue"), missed.square().mean(1) / truth.var(1)):
        found[f"R² {name}"] = 1 - float(share)
    spread = torch.linalg.eigvalsh(torch.corrcoef(torch.cat(latents, dim=1).double())).clamp(min=1e-12)
    spread = spread / spread.sum()
    return found | {"latent rank": float(torch.exp(-(spread * spread.log()).sum()))}


def in_a_line(found: dict[str, float]) -> str:
    """What `colours` found, for people."""
    return ", ".join(f"{name} {value:.2f}" for name, value in found.items())


# --- Finishing ---------------------------------------------------------------------------------------------


@torch.no_grad()
def normalise_latent(model: AutoencoderKL, files: list[Path]) -> None:
    """Centre each latent channel and bring the whole latent to a standard deviation of 1 / SCALE_FACTOR.

    With z' = s (z - m): quant_conv's mean half becomes s W, s (b - m) and its log-variance half gains 2 ln s
    in the bias; post_quant_conv, which must see z = z' / s + m, becomes W / s and b + W m. Nothing that the
    model computes changes but the latent.
    """
    latents = []
    for path in files:
        x = to_tensor(np.asarray(cut_to_multiple(load_photo(path, 512))))[None]
        latents.append(model.encode_moments(x).chunk(2, dim=1)[0].double().flatten(2)[0])
    z = torch.cat(latents, dim=1)
    mean = z.mean(dim=1)
    scale = 1 / SCALE_FACTOR / (z - mean[:, None]).square().mean().sqrt().item()
    mean = mean.float()
    count = model.config.latent_channels
    post_weight, post_bias = weight_and_bias(model.post_quant_conv)
    post_bias.add_(post_weight[:, :, 0, 0] @ mean)
    post_weight.div_(scale)
    quant_weight, quant_bias = weight_and_bias(model.quant_conv)
    quant_weight[:count].mul_(scale)
    quant_bias[:count].sub_(mean).mul_(scale)
    quant_bias[count:].add_(2 * math.log(scale))


def save(model: AutoencoderKL, path: Path, metadata: dict[str, str]) -> None:
    """Write the model as fp16 safetensors in ldm's key layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"format": "pt", **metadata})
    partial.replace(path)  # readers see the old file or the new one, never half of one


def load(path: Path) -> AutoencoderKL:
    """The model of a safetensors file written by `save`, in fp32."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        groups = int((file.metadata() or {}).get("norm_num_groups", "32"))
    config = KLConfig.from_shapes({key: tuple(value.shape) for key, value in tensors.items()}, groups)
    model = AutoencoderKL(config)
    model.load_state_dict(tensors)
    return model.eval()


def finish(model: AutoencoderKL, out: Path, photos: Path, minutes: float) -> None:
    """Normalise the latent, save as fp16, measure what was saved, and write the figures into the file."""
    heldout = photo_files(photos, HELDOUT_SPLITS)[::HELDOUT_EVERY]
    normalise_latent(model, heldout)
    metadata = {
        "norm_num_groups": str(NORM_GROUPS),
        "scale_factor": str(SCALE_FACTOR),
        "title": "VAE Manager demo KL-f8",
        "licence": "MIT",
        "license": "MIT",
    }
    save(model, out, metadata)
    saved = load(out)
    figures = {size: list(measure(saved, heldout, size).values()) for size in (512, 1024)}
    text = ", ".join(f"{np.mean(values):.2f} dB at {size} px" for size, values in figures.items())
    trained_on = len(photo_files(photos, TRAIN_SPLITS))
    metadata["description"] = (
        "A small KL-f8 autoencoder (the topology of Stable Diffusion's first stage at an eighth of its "
        f"width), trained for {minutes:.0f} minutes on one CPU core on {trained_on} freely licensed "
        f"photographs from Debian and PyPI packages; mean PSNR on held-out photographs {text} (longer side). "
        "For demonstrations and tests of VAE Manager only: its latent space is its own, so it cannot decode "
        "what a Stable Diffusion model makes."
    )
    save(model, out, metadata)
    print(f"{out}: {text}", flush=True)


# --- Training ----------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """What a run needs to go on where it stopped, besides weights and optimiser states."""

    step: int = 0
    seconds: float = 0.0
    best: float = 0.0


Rules = list[torch.optim.Optimizer]


def one_step(model: AutoencoderKL, rules: Rules, crops: Crops, share: float) -> float:
    """One update of the weights at this share of the training time; returns the loss."""
    side, count = next((side, count) for begin, side, count in reversed(STAGES) if share >= begin)
    for rule in rules:
        for group in rule.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_factor(share)
    loss = training_loss(model, crops.batch(side, count), error_floor(share))
    model.zero_grad(set_to_none=True)
    loss.backward()
    for rule in rules:
        rule.step()
    return loss.item()


def help_training(number: int, model: AutoencoderKL, rules: Rules, crops: Crops, begun: float, total: float) -> None:
    """A further process: update the same shared weights, without waiting for anybody (Hogwild)."""
    torch.set_num_threads(1)
    torch.manual_seed(crops.seed + number)
    crops.random.seed(crops.seed + number)
    while (share := (begun + time.process_time()) / total) < 1:
        one_step(model, rules, crops, share)


def train(arguments: argparse.Namespace) -> None:
    """Train for `--minutes` of processor time of each process in all; measure and save the average every `--every`.

    Each of `--workers` processes runs on one thread and changes the same weights in shared memory as soon as
    it has a gradient. Without any waiting this loses next to nothing on a machine that others use too, where
    threads that wait for each other after every operation can cost more than half of the time.
    """
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    crops = Crops(arguments.photos, arguments.seed)
    # A quick look at some held-out photographs picks the weights to keep; `finish` measures them all.
    watched = photo_files(arguments.photos, HELDOUT_SPLITS)[:: arguments.watch]
    model, average = build(arguments.width), build(arguments.width)
    average.load_state_dict(model.state_dict())
    rules = optimisers(model, arguments.muon_lr, arguments.adam_lr)
    progress = Progress()
    state_file = arguments.out.with_suffix(".state.pt")
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for rule, saved in zip(rules, state["optimisers"], strict=True):
            rule.load_state_dict(saved)
        progress = Progress(**state["progress"])
        torch.manual_seed(arguments.seed + 1000 * progress.step)
        crops.seed += 1000 * progress.step
        crops.random.seed(crops.seed)
        print(f"resumed at step {progress.step}, {progress.seconds / 60:.1f} minutes", flush=True)
    for rule, rate in zip(rules, [arguments.muon_lr, arguments.adam_lr][-len(rules) :], strict=True):
        for group in rule.param_groups:
            group["initial_lr"] = rate

    model.share_memory()
    total = arguments.minutes * 60
    resumed, started = progress.seconds, time.process_time()
    next_report = progress.seconds + arguments.every * 60
    fork = multiprocessing.get_context("fork")  # the photographs are not copied
    helpers = [
        fork.Process(target=help_training, args=(number, model, rules, crops, resumed, total), daemon=True)
        for number in range(1, arguments.workers)
    ]
    for helper in helpers:
        helper.start()
    losses: list[float] = []
    while progress.seconds < total:
        losses.append(one_step(model, rules, crops, progress.seconds / total))
        progress.step += 1
        progress.seconds = resumed + time.process_time() - started
        decay = min(arguments.ema, progress.step / (progress.step + 20))
        with torch.no_grad():
            for kept, current in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(current, 1 - decay)
        if progress.seconds < next_report and progress.seconds < total:
            continue

        found = float(np.mean(list(measure(average, watched, 512).values())))
        better = found > progress.best
        progress.best = max(progress.best, found)
        print(
            f"{time.strftime('%H:%M:%S')} minute {progress.seconds / 60:.1f} step {progress.step} of the "
            f"first process, loss {np.mean(losses):.4f}, held-out {found:.2f} dB at 512"
            f"{' (best)' if better else ''}; {in_a_line(colours(average, watched, 512))}",
            flush=True,
        )
        losses.clear()
        torch.save(
            {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimisers": [rule.state_dict() for rule in rules],
                "progress": vars(progress),
            },
            state_file,
        )
        if better:
            torch.save(average.state_dict(), arguments.out.with_suffix(".best.pt"))
        progress.seconds = resumed + time.process_time() - started
        next_report = progress.seconds + arguments.every * 60
    average.load_state_dict(torch.load(arguments.out.with_suffix(".best.pt"), weights_only=True))
    for helper in helpers:
        helper.join()
    torch.set_num_threads(arguments.workers)
    finish(average, arguments.out, arguments.photos, progress.seconds / 60)


def report(arguments: argparse.Namespace) -> None:
    """Print the PSNR of a finished file on every held-out photograph, and the latent's statistics."""
    model = load(arguments.measure)
    files = photo_files(arguments.photos, HELDOUT_SPLITS)
    for size in arguments.sizes:
        results = measure(model, files, size)
        for name, value in sorted(results.items(), key=lambda item: item[1]):
            print(f"  {value:6.2f} dB  {name}")
        values = list(results.values())
        mean, median = np.mean(values), np.median(values)
        print(f"{size} px: mean {mean:.2f} dB, median {median:.2f} dB, {len(values)} pictures")
    print(f"512 px, {MEAN_BLOCK}×{MEAN_BLOCK} block means: {in_a_line(colours(model, files, 512))}")


def main() -> None:
    """Parse the command line; train, finish or measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("--photos", type=Path, required=True, help="folder that tools/collect_photos.py filled")
    add("--minutes", type=float, default=90, help="processor time of each process in all, resumed runs included")
    add("--out", type=Path, default=Path("demo-kl-f8.safetensors"))
    add("--width", type=int, default=16, help="base channels (Stable Diffusion: 128)")
    add("--seed", type=int, default=1)
    add("--workers", type=int, default=2, help="processes that train, one thread each")
    add("--every", type=float, default=4, help="minutes between two measurements")
    add("--watch", type=int, default=2, help="measure every n-th held-out photograph meanwhile")
    add("--muon-lr", type=float, default=0.002, help="0: Adam for everything; ten times as much undoes the pyramid")
    add("--adam-lr", type=float, default=3e-4)
    add("--ema", type=float, default=0.997)
    add("--finish", type=Path, help="do not train: turn this .best.pt into OUT")
    add("--measure", type=Path, help="do not train: measure this safetensors file")
    add("--sizes", type=int, nargs="+", default=[512, 1024], help="for --measure")
    arguments = parser.parse_args()
    if arguments.measure:
        report(arguments)
    elif arguments.finish:
        model = AutoencoderKL(demo_config(arguments.width))
        model.load_state_dict(torch.load(arguments.finish, weights_only=True))
        finish(model.eval(), arguments.out, arguments.photos, arguments.minutes)
    else:
        train(arguments)


if __name__ == "__main__":
    main()
