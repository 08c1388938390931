"""The host's first stage while a job of ours runs: our weights in it, our functions around its own.

The module stays where it is. Its `Parameter` objects are exchanged (`codec.swap`), and four of its functions are
wrapped: `decode` and `encode`, where the VAE of each picture is chosen, and the `forward` of its decoder and encoder,
where a picture may be streamed instead. Everything around them (autocast, moving to the GPU and back, clamping) stays
the host's. `release` takes all of it out again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vae_manager.codec.cache import StateCache
from vae_manager.codec.hook import Around, Hook
from vae_manager.codec.kinds.shapes import Padding
from vae_manager.codec.padding import Padded, restore_padding, set_padding
from vae_manager.codec.swap import STATISTICS, Installed, check_fits, in_place, install, remove, was_written
from vae_manager.library.files import VaeFile
from vae_manager.library.padding import padding_of_file
from vae_manager.library.state import load_kl_state, load_statistics
from vae_manager.webui.frames import causal_config

Version = tuple[str, int, int]


def ready(cache: StateCache, file: VaeFile, module: nn.Module) -> Mapping[str, Tensor]:
    """A VAE's tensors as this module needs them, from the cache or the file.

    Raises:
        VaeFileError: it cannot be loaded, or does not fit.
    """
    dtype = next(module.parameters()).dtype

    def load() -> Mapping[str, Tensor]:
        with torch.inference_mode(False):
            state, _ = load_kl_state(file, dtype)
            return {**state, **load_statistics(file, STATISTICS, dtype)}

    state = cache.get((file.version, dtype), load)
    # not in `load`: what is in the cache may have been loaded for another model
    check_fits(module, {name: tuple(tensor.shape) for name, tensor in state.items()})
    return state


def left_alone(module: nn.Module) -> str | None:
    """What a host's first stage is, in words, where no file of ours could stand in for its weights; None: one could."""
    if causal_config(module) is not None:
        return None  # single pictures are computed beside it
    kernels = {name: weight.ndim for name, weight in module.named_parameters() if name.startswith("decoder.")}
    if kernels.get("decoder.conv_in.weight") == 4:
        return None
    return "a video VAE" if 5 in kernels.values() else "a VAE of another build"


class FirstStage:
    """Owner of what is in the host's first stage."""

    def __init__(self, cache: StateCache) -> None:
        self.cache = cache
        self.module: nn.Module | None = None
        """The module that our functions are in; None where nothing of ours is anywhere."""
        self._hooks: list[Hook] = []
        self._installed: Installed | None = None
        self.version: Version | None = None
        """Which version of which file is in it; None: the host's own."""
        self._padding: Padding | None = None
        """The user's word for what is in it."""
        self._padded: Padded = ()
        """The convolutions of the host's own VAE that pad otherwise by themselves."""

    @property
    def swapped(self) -> bool:
        """Whether the host computes with weights of ours at this moment."""
        return self._installed is not None

    def hold(self, module: nn.Module, hooks: Mapping[str, Around]) -> None:
        """Wrap functions of the module, by their path ("decode", "decoder.forward"), once.

        Where somebody else has wrapped one since, such as another tiler, ours goes around it anew.
        """
        if self.module is not module:
            self.release()
        elif all(hook.is_outermost for hook in self._hooks):
            return
        self._unhook()
        self.module = module
        for path, around in hooks.items():
            parent, _, name = path.rpartition(".")
            target = module.get_submodule(parent)
            if callable(getattr(target, name, None)):
                self._hooks.append(Hook(target, name, around))

    def use(self, file: VaeFile | None, padding: Padding | None = None) -> None:
        """Have the module compute with the VAE of this file; with None, with the host's own.

        `padding` is the user's word for it; None: what the file tells, and for the host's own as it is.

        Raises:
            VaeFileError: it cannot be loaded, or does not fit; the host's own is in the module then.
        """
        assert self.module is not None, "hold() first"
        if file is not None and (self.version, self._padding) == (file.version, padding) and self._is_in_place():
            return
        self.put_back()
        if file is not None:
            state = ready(self.cache, file, self.module)
            self._installed = install(self.module, state, padding or padding_of_file(file))
            self.version = file.version
        elif padding is not None:
            self._padded = set_padding(self.module, padding)
        self._padding = padding

    def put_back(self) -> None:
        """The host's own weights and edges again; our functions stay.

        Where that fails, for want of memory perhaps, the host's own are still known, and the next call tries again.
        """
        installed = self._installed
        if installed is not None:
            if was_written(installed):
                self.cache.drop(installed.state)
            remove(installed)
        if self._padding is not None:
            restore_padding(self._padded, self._padding)
        self._installed = self.version = self._padding = None
        self._padded = ()

    def release(self) -> None:
        """Take everything of ours out. Nothing happens where there is nothing."""
        try:
            self.put_back()
        finally:
            self._unhook()
            self.module = None

    def _unhook(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _is_in_place(self) -> bool:
        return self._installed is not None and self.module is not None and in_place(self._installed, self.module)
