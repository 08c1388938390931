"""A decoder or an encoder as stages of steps: each kind of autoencoder has its own; from here on all are alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from torch import Tensor, nn

from vae_manager.codec.streaming.flow import Padding, Size
from vae_manager.codec.streaming.passes import MODES, Mode
from vae_manager.codec.streaming.steps import Convolve, Step
from vae_manager.errors import VaeFileError

MIN_STRIP_ROWS = 4


@dataclass(frozen=True, eq=False)
class Stage:
    """Steps between two maps that are kept whole: those of one resolution, or of several that need no statistics."""

    steps: tuple[Step, ...]

    def sizes(self, size: Size) -> list[Size]:
        """The size that enters each step, and at the end the size that leaves, for a map that enters the stage."""
        found = [size]
        for step in self.steps:
            found.append(step.behind(found[-1]))
        return found

    @cached_property
    def zoom(self) -> int:
        """How much larger than the map that enters its largest one is, along one side."""
        widths = [size.width for size in self.sizes(Size(2**16, 2**16, 1))]
        return max(widths) // widths[0]

    def strip_rows(self, height: int, width: int, pixels: int) -> int:
        """Rows of a strip of about `pixels` pixels in the stage's largest map, which is entered by height × width.

        In a stage of one resolution: the whole map, or a power of two, so that strips of one divide into the next's.
        """
        height, width, zoom = self.zoom * height, self.zoom * width, self.zoom
        rows = max(1, pixels // width)
        if rows >= height:
            return height
        if any(step.resample != "none" for step in self.steps[1:-1]):
            return max(zoom, rows)
        return max(min(MIN_STRIP_ROWS, height), 2 ** (rows.bit_length() - 1))


@dataclass(frozen=True, eq=False)
class Chain:
    """A decoder or an encoder."""

    decodes: bool
    stages: tuple[Stage, ...]
    padding: Padding
    """That of the convolutions, along both axes."""
    pre: Any = None
    """A 1×1 convolution before the first step."""
    post: Any = None
    """A 1×1 convolution behind the last one."""
    enter: Callable[[Tensor], Tensor] | None = None
    """What becomes of the input (rows, W, C) before that; it keeps the shape."""
    leave: Callable[[Tensor], Tensor] | None = None
    """What becomes of a strip of the result behind that."""
    leaves_channels: int | None = None
    """Channels of the result, where `leave` changes them."""
    square: int = 1
    """Squares of so many pixels a side are the channels of one pixel inside: gathered before a picture is encoded, and
    pixels again behind the last step of a decoder."""
    columns_first: bool = False
    """Channels of a square go down its columns, as Wan 2.2 has them, not along its rows (`pixel_shuffle`)."""
    modes: tuple[Mode, ...] = MODES
    """Those in which it can be streamed."""
    rescales: bool = True
    """float16 is kept from overflowing by powers of two (`precision`), which takes statistics of nearly every map."""

    frugal: bool = False
    """On a CPU the way with the least memory is taken of those with about the same work, not that with the least work
    and the largest strips."""

    @cached_property
    def beside(self) -> tuple[int | None, ...]:
        """For each stage, the stage whose input waits beside it for the end of a level that no stage holds whole."""
        found, since = list[int | None](), None
        for n, stage in enumerate(self.stages):
            begins, ends = (sum(bool(of(step)) for step in stage.steps) for of in (_begins, _ends))
            if begins > ends:
                assert since is None and stage.steps[0].begins, "a level of several stages begins with one of them"
                since = n
            found.append(since)
            since = None if ends > begins else since
        return tuple(found)

    @property
    def wraps(self) -> bool:
        """Seamless tiling."""
        return self.padding == "circular"

    @property
    def least_side(self) -> int:
        """Pixels, or latent pixels, that a side of the input must have: nothing can be mirrored in a single one."""
        return (2 if self.padding == "reflect" else 1) * (1 if self.decodes else self.ratio)

    @property
    def steps(self) -> list[Step]:
        return [step for stage in self.stages for step in stage.steps]

    @property
    def weight(self) -> Tensor:
        """A weight, for the dtype and device that the others are taken to have too."""
        return self._last.weight

    @property
    def _last(self) -> Any:
        last = self.stages[-1].steps[-1]
        assert isinstance(last, Convolve)
        return last.conv

    @property
    def channels_in(self) -> int:
        """Channels of the input."""
        inside = int(self.pre.weight.shape[1]) if self.pre is not None else self.stages[0].steps[0].c_in
        return inside if self.decodes else inside // self.square**2

    @property
    def channels_out(self) -> int:
        """Channels of the result."""
        last = self.post if self.post is not None else self._last
        return self.leaves_channels or int(last.weight.shape[0])

    @property
    def ratio(self) -> int:
        """Pixels per latent pixel along one side."""
        return 2 ** sum(step.resample != "none" for step in self.steps) * self.square

    @property
    def needs_multiples(self) -> bool:
        """Do the sides of the input have to be multiples of the ratio?"""
        if self.square > 1 and not self.decodes:
            return True
        return self.wraps and any(
            isinstance(step, Convolve) and step.resample == "down" and step.border for step in self.steps
        )

    def grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of the map that enters each stage, and of the result, for an input of height × width."""
        found = [(height, width) if self.decodes else (height // self.square, width // self.square)]
        for stage in self.stages:
            last = stage.sizes(Size(*found[-1], 1))[-1]
            found.append((last.height, last.width))
        return found

    def result_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Of one picture or latent, (C, H, W), for an input of height × width."""
        rows, columns = self.grids(height, width)[-1]
        side = self.square if self.decodes else 1
        return self.channels_out // side**2, rows * side, columns * side


def _begins(step: Step) -> bool:
    return step.begins


def _ends(step: Step) -> bool:
    return isinstance(step, Convolve) and step.ends is not None


# --- what every kind checks of the modules that it describes


def check_conv(conv: Any, kernel: int, stride: int = 1, padding: int | None = None) -> Any:
    """The convolution, if it is one that streaming computes.

    Raises:
        VaeFileError: it is not.
    """
    padding = kernel // 2 if padding is None else padding
    try:
        facts = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    except AttributeError:
        raise VaeFileError(
            f"its layer {type(conv).__name__!r} is no plain convolution: not supported by streaming"
        ) from None
    if facts != ((kernel,) * 2, (stride,) * 2, (padding,) * 2, (1, 1), 1):
        raise VaeFileError(
            f"a convolution of it has kernel, stride, padding, dilation, groups {facts}: not supported by streaming"
        )
    if conv.padding_mode not in get_args(Padding):
        raise VaeFileError(f"a convolution of it pads with {conv.padding_mode!r}: not supported by streaming")
    for name in ("weight_function", "bias_function", "forge_online_loras"):
        if getattr(conv, name, None):
            raise VaeFileError(f"a convolution of it is patched at call time ({name}): bake the patch first")
    return conv


def check_complete(coder: nn.Module, steps: Iterable[Step]) -> Padding:
    """Check that the steps use every parameter of the coder: nothing can be left out silently.

    Returns:
        how its convolutions pad.

    Raises:
        VaeFileError: a parameter belongs to no step, or its convolutions do not all pad alike.
    """
    used: set[int] = set()
    modes: set[Padding] = set()
    for step in steps:
        for module in step.modules():
            used.update(id(parameter) for parameter in module.parameters())
            if getattr(module, "kernel_size", None) == (3, 3) and getattr(module, "padding", None) == (1, 1):
                modes.add(module.padding_mode)  # type: ignore[arg-type]
    unused = [name for name, parameter in coder.named_parameters() if id(parameter) not in used]
    if unused:
        raise VaeFileError(f"its parameter {unused[0]!r} belongs to no layer that streaming knows")
    if len(modes) > 1:
        raise VaeFileError(
            f"its convolutions do not all pad alike ({' and '.join(sorted(modes))}): not supported by streaming"
        )
    return modes.pop() if modes else "zeros"
