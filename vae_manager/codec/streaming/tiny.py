"""Stream the tiny autoencoders of the TAESD family, ours (`codec.taesd`) and diffusers' `AutoencoderTiny`.

They have no attention, and no norm but FLUX.2's in the lowest resolution, so that one pass of line buffers goes from
the latent to the pixels, or back, with no map in between: the mode that is D of the big autoencoders. Where a
GroupNorm needs the statistics of its whole input, that map is kept: 64 numbers per latent pixel.

Read from the top: the layers, how strips go through them, what that takes, and at the end how the layers are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_manager.codec.streaming.heap import Heap, with_slack
from vae_manager.codec.streaming.kernels import (
    SIDES,
    Kernel,
    Scratch,
    conv3x3,
    live_weight,
    transformed,
    upsampled_conv3x3,
    workspace,
)
from vae_manager.codec.streaming.moments import merge, norm_affine, strip_moments
from vae_manager.codec.streaming.passes import NAMED
from vae_manager.codec.streaming.plan import OVERHEAD_BYTES, Plan, Request, check_shape, fastest, strip_sizes
from vae_manager.codec.streaming.strips import Map, Rows, Strips, adder, convolve, copy, crop, split
from vae_manager.codec.streaming.structure import check_conv
from vae_manager.codec.taesd import LATENT_MAGNITUDE, NO_NOISE
from vae_manager.errors import BadInputError, VaeFileError


@dataclass(frozen=True, eq=False)
class Conv:
    """A 3×3 convolution, behind a nearest upsampling perhaps, before a ReLU perhaps; its stride may be 2."""

    conv: Any
    upsamples: bool = False
    relu: bool = False

    @property
    def convs(self) -> tuple[Any, ...]:
        return (self.conv,)

    @property
    def stride(self) -> int:
        return int(self.conv.stride[0])


@dataclass(frozen=True, eq=False)
class Pool:
    """x + out(relu(norm(widen(x)))), both 1×1 convolutions; the norm is over the whole picture."""

    widen: Any
    norm: Any
    out: Any


@dataclass(frozen=True, eq=False)
class Block:
    """relu(x + conv(relu(conv(relu(conv(x)))))), the pool before it where there is one."""

    convs: tuple[Any, ...]
    pool: Pool | None
    upsamples = False
    stride = 1


Layer = Conv | Block


@dataclass(frozen=True, eq=False)
class TinyCoder:
    """One half of a tiny autoencoder. See `api.Coder` for what its methods promise."""

    decodes: bool
    layers: tuple[Layer, ...]
    wraps: bool
    """Seamless tiling: the convolutions pad circularly, along both axes."""

    @staticmethod
    def of(vae: nn.Module, decodes: bool) -> TinyCoder:
        """Read the modules.

        Raises:
            VaeFileError: their structure is not understood.
        """
        modules = _sequential(vae, decodes)
        layers = _read(modules, decodes)
        used = {id(parameter) for layer in layers for module in _modules(layer) for parameter in module.parameters()}
        unused = [name for name, parameter in modules.named_parameters() if id(parameter) not in used]
        if unused:
            raise VaeFileError(f"its parameter {unused[0]!r} belongs to no layer that streaming knows")
        modes = {conv.padding_mode for layer in layers for conv in layer.convs}
        if len(modes) > 1:
            raise VaeFileError("some of its convolutions pad circularly and some do not: not supported by streaming")
        return TinyCoder(decodes, layers, modes == {"circular"})

    @property
    def weight(self) -> Tensor:
        return self.layers[-1].convs[-1].weight

    @property
    def ratio(self) -> int:
        """Pixels per latent pixel along one side."""
        return 2 ** sum(layer.upsamples or layer.stride == 2 for layer in self.layers)

    @property
    def segments(self) -> list[tuple[Layer, ...]]:
        """The layers, cut before every pool."""
        cuts = [i for i, layer in enumerate(self.layers) if isinstance(layer, Block) and layer.pool and i]
        return [self.layers[a:b] for a, b in zip([0, *cuts], [*cuts, len(self.layers)])]

    def result_shape(self, height: int, width: int) -> tuple[int, int, int]:
        height, width = _size_behind(self.layers, height, width)
        channels = int(self.weight.shape[0])
        return channels if self.decodes else 2 * channels, height, width

    # --- planning

    def best_plan(self, request: Request) -> Plan:
        check_shape(request, self.decodes, int(self.layers[0].convs[0].weight.shape[1]), self.ratio)
        if request.mode not in (None, "D"):
            raise BadInputError(f"a tiny VAE is streamed in mode D only, which keeps no map: not in {request.mode}")
        if self.wraps and not self.decodes and any(side % self.ratio for side in request.shape[2:]):
            raise BadInputError(f"to tile seamlessly, the sides of the picture must be multiples of {self.ratio}")
        return fastest([self._plan(request, pixels) for pixels in strip_sizes(request)])

    def _plan(self, request: Request, pixels: int) -> Plan:
        n, channels, height, width = request.shape
        scale = self.ratio if self.decodes else 1
        rows = max(1, min(height, pixels // (width * scale**2)))
        result = 0 if request.rows_only else n * _product(self.result_shape(height, width))
        fixed = OVERHEAD_BYTES + request.item * (result + channels * height * width)
        peak, kept = 0, 0
        for segment in self.segments:
            behind = _size_behind(segment, height, width)
            made = _width_behind(segment) * _product(behind) if segment[-1] is not self.layers[-1] else 0
            maps = max(kept, made) if request.storage == request.device else 0
            peak = max(peak, request.item * (maps + _strip_numbers(segment, request, height, width, rows, self.wraps)))
            (height, width), kept = behind, made
        work = sum(self._work(*request.shape[2:])) * n
        return Plan(
            self.decodes, request, (NAMED["D"],), (rows,), SIDES[:1], 0, with_slack(fixed + peak, request.device), work
        )

    def pass_work(self, plan: Plan) -> list[float]:
        return self._work(*plan.shape[2:])

    def _work(self, height: int, width: int) -> list[float]:
        """Multiplications of every segment."""
        work = []
        for segment in self.segments:
            work.append(0.0)
            for layer in segment:
                height, width = _size_behind((layer,), height, width)
                work[-1] += height * width * sum(conv.weight.numel() for conv in layer.convs)
        return work

    # --- streaming

    def stream(
        self,
        picture: Tensor,
        plan: Plan,
        emit: Callable[[Tensor], None],
        begin: Callable[[], None],
        tick: Callable[[float], None],
    ) -> None:
        x = picture.to(plan.device, plan.dtype).permute(1, 2, 0).contiguous()
        x = torch.tanh(x / LATENT_MAGNITUDE) * LATENT_MAGNITUDE if self.decodes else (x + 1) / 2
        source = Map(x.shape[0], plan.device)
        source.append(x)
        del x
        flow = _Flow(plan, plan.rows[0], self.wraps, Heap(plan.peak_bytes, plan.device))
        for segment in self.segments:
            begin()
            strips, height = flow.segment(segment, source)
            result = Map(height, plan.device, plan.storage)
            for strip in strips:
                tick(strip.shape[0] / height)
                if segment[-1] is self.layers[-1]:
                    emit(self._outside(strip))
                else:
                    result.append(strip)
                del strip
            source = result

    def _outside(self, strip: Tensor) -> Tensor:
        """Pixels in [-1, 1] for those in [0, 1]; a latent with the log-variance that makes no noise."""
        if self.decodes:
            return strip * 2 - 1
        return torch.cat([strip, torch.full_like(strip, NO_NOISE)], dim=-1)


@dataclass(frozen=True)
class _Flow:
    """How strips go through layers: `rows` high where they begin."""

    plan: Plan
    rows: int
    wraps: bool
    heap: Heap
    scratch: Scratch = field(default_factory=Scratch)

    def segment(self, layers: tuple[Layer, ...], source: Map) -> tuple[Strips, int]:
        """The lazily computed strips behind the layers, and the height of the map that they make up."""
        rows, height = self.rows, source.height
        margin = _margin(layers) if self.wraps else 0
        first = layers[0]
        if isinstance(first, Block) and first.pool:
            affine = self._measured(first.pool, source.read(rows))
            strips = map(partial(self._pooled, first.pool, *affine), source.read(rows, margin, free=True))
        else:
            strips = source.read(rows, margin, free=True)
        for layer in layers:
            if isinstance(layer, Block):
                strips, margin = self._block(layer, strips, height, margin), margin - 3
                continue
            if layer.upsamples:
                strips, height, rows, margin = split(strips, rows), 2 * height, 2 * rows, 2 * margin
            before = height // 2 if layer.upsamples else height
            strips = convolve(strips, self._kernel(layer), copy, before, self.wraps, layer.stride)
            margin -= 2 if layer.upsamples else 1
            if layer.stride == 2:
                height, margin = -(-height // 2), margin // 2
            if layer.relu:
                strips = map(torch.relu_, strips)
        return (crop(strips, margin, height) if self.wraps else strips), height

    def _block(self, block: Block, strips: Strips, height: int, margin: int) -> Strips:
        waiting = Rows()
        strips = map(waiting.put, strips)
        for n, conv in enumerate(block.convs):
            strips = convolve(strips, self._kernel(Conv(conv)), _relu if n else copy, height, self.wraps)
        return map(torch.relu_, map(adder(waiting, len(block.convs) if self.wraps else 0), strips))

    def _kernel(self, layer: Conv) -> Kernel:
        weight, bias = live_weight(layer.conv, self._like)
        if layer.upsamples:
            return self.heap.watched(upsampled_conv3x3, weight, bias, self.scratch)
        return self.heap.watched(conv3x3, weight, bias, self.scratch, layer.stride)

    def _measured(self, pool: Pool, strips: Strips) -> tuple[Tensor, Tensor]:
        """Scale and shift of the pool's norm."""
        widen, _ = live_weight(pool.widen, self._like)
        moments = merge([strip_moments(F.linear(strip, widen.flatten(1))) for strip in strips])
        dtype = torch.float64 if self._like.dtype == torch.float64 else torch.float32
        scale, shift = norm_affine(moments, pool.norm)
        return scale.to(self.plan.device, dtype), shift.to(self.plan.device, dtype)

    def _pooled(self, pool: Pool, scale: Tensor, shift: Tensor, x: Tensor) -> Tensor:
        widen, out = (live_weight(conv, self._like)[0].flatten(1) for conv in (pool.widen, pool.out))
        wide = torch.relu_(torch.addcmul(shift, F.linear(x, widen), scale)).to(x.dtype)
        return x + F.linear(wide, out)

    @property
    def _like(self) -> Tensor:
        return torch.empty(0, device=self.plan.device, dtype=self.plan.dtype)


def _relu(x: Tensor, out: Tensor) -> None:
    torch.clamp_min(x, 0, out=out)


def _margin(layers: tuple[Layer, ...]) -> int:
    """How many extra rows a wrapped stream needs at each end so that none is missing behind the layers."""
    needed = 0
    for layer in reversed(layers):
        needed = (needed + 1) // 2 + 1 if layer.upsamples else layer.stride * needed + len(layer.convs)
    return needed


# --- what it takes


def _strip_numbers(layers: tuple[Layer, ...], request: Request, height: int, width: int, rows: int, wraps: bool) -> int:
    """Numbers that a segment holds besides whole maps: line buffers, one strip on its way, weights made ready."""
    carried = weights = busiest = scratch = held_back = 0
    margin = 2 * _margin(layers) if wraps else 0
    busiest = 2 * int(layers[0].convs[0].weight.shape[1]) * (rows + margin) * width
    for layer in layers:
        c_out, c_in = (int(size) for size in layer.convs[0].weight.shape[:2])
        line, area = c_in * (width + 2), c_in * min(rows + held_back + margin, height + margin) * width
        # the last strip of a stream is longer by a row per convolution
        held_back += len(layer.convs)
        carried += 2 * line * len(layer.convs) + (3 * line if isinstance(layer, Block) else 0)
        weights += sum(conv.weight.numel() for conv in layer.convs)
        pool = layer.pool if isinstance(layer, Block) else None
        widened = 6 * int(pool.widen.weight.shape[0]) * rows * width if pool else 0
        up = layer.upsamples
        if transformed(request.device, request.dtype, c_in, c_out, up) and layer.stride == 1:
            ready, needed, _ = workspace(c_in, c_out, up, SIDES[0], area // c_in // width + 1, width)
            weights += ready
            scratch = max(scratch, needed)
        if up:
            # `split` hands on what was held back in strips of the usual height
            area, rows, held_back, height = c_in * (rows + 2) * width, 2 * rows, 2, 2 * height
        made = (area // c_in) * c_out * (4 if up else 1) // layer.stride**2
        # x, x waiting in a block, the line buffer, the result and a copy of it in another memory format
        busiest = max(busiest, 3 * area + 4 * line + 2 * made + widened)
        height, width = (height, 2 * width) if up else _size_behind((layer,), height, width)
        rows = -(-rows // layer.stride)
        held_back = -(-held_back // layer.stride)
    return carried + weights + busiest + scratch


def _size_behind(layers: tuple[Layer, ...], height: int, width: int) -> tuple[int, int]:
    for layer in layers:
        if layer.upsamples:
            height, width = 2 * height, 2 * width
        elif layer.stride == 2:
            height, width = -(-height // 2), -(-width // 2)
    return height, width


def _width_behind(layers: tuple[Layer, ...]) -> int:
    return int(layers[-1].convs[-1].weight.shape[0])


def _product(sizes: tuple[int, ...]) -> int:
    return int(torch.Size(sizes).numel())


# --- the layers in their module trees


def is_tiny(vae: nn.Module, decodes: bool) -> bool:
    """Whether that half of `vae` is a plain list of layers, as only tiny autoencoders are."""
    return _sequential(vae, decodes) is not None


def _sequential(vae: nn.Module, decodes: bool) -> Any:
    half = getattr(vae, "decoder" if decodes else "encoder", None)
    found = getattr(half, "layers", half)
    return found if isinstance(found, nn.Sequential) else None


def _read(modules: Any, decodes: bool) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    rest: Iterator[Any] = iter(modules)
    for module in rest:
        if isinstance(module, nn.Conv2d):
            layers.append(Conv(_checked(module)))
        elif isinstance(module, nn.ReLU) and layers and isinstance(layers[-1], Conv):
            layers[-1] = Conv(layers[-1].conv, layers[-1].upsamples, relu=True)
        elif isinstance(module, nn.Upsample) and (module.scale_factor, module.mode) == (2.0, "nearest"):
            layers.append(Conv(_checked(next(rest, None)), upsamples=True))
        elif hasattr(module, "conv") and hasattr(module, "fuse"):
            layers.append(_block(module))
        elif not (decodes and not layers and type(module).__name__ == "Clamp"):  # of the latent: always there
            raise VaeFileError(
                f"its layer {type(module).__name__!r} is none of a tiny VAE's: not supported by streaming"
            )
    if not layers or not isinstance(layers[-1], Conv):
        raise VaeFileError("it has no last convolution: not a tiny VAE")
    return tuple(layers)


def _modules(layer: Layer) -> tuple[Any, ...]:
    """Every module of a layer that holds parameters."""
    pool = layer.pool if isinstance(layer, Block) else None
    return (*layer.convs, pool.widen, pool.norm, pool.out) if pool else layer.convs


def _block(module: Any) -> Block:
    convs = tuple(module.conv[::2])
    if not all(isinstance(layer, nn.ReLU) for layer in (*module.conv[1::2], module.fuse)):
        raise VaeFileError("its blocks have another activation than ReLU: not supported by streaming")
    if not isinstance(getattr(module, "skip", nn.Identity()), nn.Identity):
        raise VaeFileError("its blocks change their width: not supported by streaming")
    pool = None
    if hasattr(module, "pool"):
        widen, norm, relu, out = module.pool
        if not (isinstance(norm, nn.GroupNorm) and isinstance(relu, nn.ReLU)):
            raise VaeFileError("its blocks have a pool that is not GroupNorm and ReLU: not supported by streaming")
        pool = Pool(_checked(widen, 1), norm, _checked(out, 1))
    return Block(tuple(_checked(conv) for conv in convs), pool)


def _checked(conv: Any, kernel: int = 3) -> Any:
    if not isinstance(conv, nn.Conv2d):
        raise VaeFileError("it has an upsampling without a convolution: not supported by streaming")
    stride = 2 if conv.stride == (2, 2) and kernel == 3 else 1
    check_conv(conv, kernel, stride)
    if kernel == 1 and conv.bias is not None:
        raise VaeFileError("its pool's convolutions have a bias: not supported by streaming")
    return conv
