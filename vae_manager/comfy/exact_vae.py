"""A VAE of ComfyUI's whose decode and encode are exact in bounded memory, wherever a workflow uses it.

The VAE that was given is not changed: only while a call of ours runs, the `forward` of its decoder and encoder are
wrapped, and its estimates of memory are the plan's, so that ComfyUI's memory manager makes room for what will really
be taken. What cannot be streamed goes ComfyUI's own way, and the report says why.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as manager
import comfy.utils
import torch
from torch import Tensor

from vae_manager.codec.coder import Watch
from vae_manager.codec.memory import read_bytes
from vae_manager.codec.wrapped import Wrapped, is_video
from vae_manager.errors import BadInputError, Interrupted, VaeFileError

log = logging.getLogger("vae_manager")

OWN = "ComfyUI's own way"

MODES = ("auto", "exact", "whole")


def limit_of(memory: str) -> int | None:
    """A node's `memory` in bytes; None for what is free.

    Raises:
        ValueError: it is no amount, in a sentence.
    """
    if memory.strip().lower() in ("", "auto"):
        return None
    try:
        return read_bytes(memory)
    except BadInputError as error:
        raise ValueError(str(error)) from error


def exact_vae(vae: Any, mode: str, limit: int | None) -> Any:
    """A copy of the VAE (its weights are shared) whose four ways to decode and encode are exact."""
    patched = copy.copy(vae)
    for name in ("decode", "encode"):
        for tiled in ("", "_tiled"):
            setattr(patched, name + tiled, _Call(vae, name, tiled, mode, limit))
    return patched


@dataclass
class Told:
    """What a call has to say."""

    streamed: list[str]
    warnings: list[str] = field(default_factory=list)

    @property
    def report(self) -> str:
        """For the user, in a line each."""
        return "\n".join([*self.warnings, *self.streamed]) or "in one piece: it fits comfortably"


@dataclass
class _Call:
    """One of the four functions of a patched VAE."""

    vae: Any
    name: str
    tiled: str
    mode: str
    limit: int | None

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return run(self.vae, self.name, self.mode, self.limit, x, *args, tiled=self.tiled, **kwargs)[0]


@torch.no_grad()
def run(
    vae: Any, name: str, mode: str, limit: int | None, x: Tensor, *args: Any, tiled: str = "", **kwargs: Any
) -> tuple[Tensor, Told]:
    """Decode latents or encode pictures as ComfyUI hands them over.

    Args:
        name: 'decode' or 'encode'.
        tiled: "_tiled" where the workflow asks for ComfyUI's tiles, which then do what cannot be streamed; the
            arguments are those of that function.
    """
    told = Told([])

    def own() -> Tensor:
        return getattr(vae, name + tiled)(x, *args, **kwargs)

    try:
        held = _Held(vae, told, mode, limit)
    except VaeFileError as error:
        told.warnings.append(f"Not exact: {error}. {OWN} was used.")
        return _logged(own(), told)
    told.streamed = held.watch.streamed
    try:
        with held.at_work():
            if not _is_picture(held, name, x):
                return _logged(own(), told)
            in_one_piece = (lambda: getattr(vae, name)(x)) if tiled else own
            return _logged(held.run(in_one_piece, own if tiled else None), told)
    except Interrupted as error:  # ComfyUI forgets the wish to stop as it throws this itself, in its progress bar
        raise manager.InterruptProcessingException from error


def _logged(result: Tensor, told: Told) -> tuple[Tensor, Told]:
    for warning in told.warnings:
        log.warning(warning)
    return result, told


def _is_picture(held: Wrapped, name: str, x: Tensor) -> bool:
    """Whether there is no more than one frame: ComfyUI makes a video of several pictures for a video VAE."""
    if not held.is_causal:
        return True
    if name == "encode":
        return x.ndim == 4 and x.shape[0] == 1
    return not is_video(x)


class _Held(Wrapped):
    """A VAE while a call of ours runs."""

    def __init__(self, vae: Any, told: Told, mode: str, limit: int | None) -> None:
        self._comfy = vae
        self._bar: Any = None
        watch = Watch(
            interrupted=manager.processing_interrupted,
            say=lambda line: None,
            warn=told.warnings.append,
            free_memory=_free,
            memory_limit=limit,
            own=OWN,
            progress=self._progress,
            approximates=False,
        )
        super().__init__(vae.first_stage_model, watch, mode)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Wrapped, with estimates of memory that are the plan's while runs are streamed."""
        estimates = {f"memory_used_{name}": getattr(self._comfy, f"memory_used_{name}", None) for name in _BOTH}
        try:
            for decodes, (name, estimate) in zip((True, False), estimates.items()):
                if callable(estimate):
                    setattr(self._comfy, name, self._estimate(decodes, estimate))
            yield
        finally:
            self.remove()
            for name, estimate in estimates.items():
                if estimate is not None:
                    setattr(self._comfy, name, estimate)

    def _estimate(self, decodes: bool, own: Callable[..., Any]) -> Callable[..., float]:
        """What ComfyUI's memory manager is told that a run takes."""

        def estimate(shape: Any, *args: Any) -> float:
            device = torch.device(self._comfy.device)
            taken = self.foreseen(tuple(shape), device, decodes) if self.streams else None
            return own(shape, *args) if taken is None else float(taken)

        return estimate

    def _progress(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(total)
        try:
            self._bar.update_absolute(done, total)
        except manager.InterruptProcessingException as error:
            raise Interrupted("the decode or encode was stopped") from error


_BOTH = ("decode", "encode")


def _free(device: torch.device) -> int | None:
    """What ComfyUI calls free on a device; of main memory we know more ourselves, such as a container's limit."""
    return None if device.type == "cpu" else int(manager.get_free_memory(device))
