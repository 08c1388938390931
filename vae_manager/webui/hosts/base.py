"""What the session needs from a WebUI, whichever it is.

All five hosts keep their VAE in one `torch.nn.Module` with ldm's parameter names, and `codec.swap` exchanges the
weights inside it, so a host's file says only where that module is and what else may touch it.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from vae_manager.latents.claims import LoadedFormat
from vae_manager.library.files import Folder
from vae_manager.webui.hosts.latent_format import format_of_stage
from vae_manager.webui.hosts.picture_job import PictureJob, Said
from vae_manager.webui.hosts.promise import Foreseen

log = logging.getLogger("vae_manager")


class Host:
    """A WebUI. Subclasses override where theirs differs; the defaults are A1111's."""

    name = "WebUI"
    translates_sd_vae = False
    """Whether an `sd_vae` for one job means nothing to the host itself, so that we have to see to it."""

    def current_model(self) -> Any | None:
        """The model that is loaded now, or None. Never loads one."""
        from modules import sd_models

        model = sd_models.model_data.sd_model
        return model if getattr(model, "sd_checkpoint_info", None) is not None else None

    def first_stage(self, model: Any) -> nn.Module | None:
        """The module that decodes and encodes for this model."""
        return getattr(model, "first_stage_model", None)

    def latent_format(self, model: Any) -> LoadedFormat | None:
        """What the model that is loaded says of its own latents; None where it says nothing.

        The numbers in A1111's configurations may be those of another model (`scale_factor` tells them, and colours are
        held against it), so here only what its VAE takes counts.
        """
        return format_of_stage(self.first_stage(model))

    def checkpoint(self, model: Any) -> Path:
        """The file that the model was loaded from."""
        return Path(model.sd_checkpoint_info.filename)

    def loaded_vae(self, model: Any) -> Path | None:
        """The VAE file that the host itself has put into this model; None for the baked one."""
        from modules import sd_vae

        return Path(sd_vae.loaded_vae_file) if sd_vae.loaded_vae_file else None

    def checkpoint_name(self, model: Any) -> str:
        """The checkpoint's path below the checkpoint folder."""
        return str(model.sd_checkpoint_info.name).replace("\\", "/")

    def next_checkpoint(self) -> tuple[Path, str] | None:
        """The checkpoint that the next picture is made with, and its name: the one that is loaded; None: none is."""
        model = self.current_model()
        return None if model is None else (self.checkpoint(model), self.checkpoint_name(model))

    def job_vae(self, job: PictureJob) -> str | None:
        """The VAE that this job overrides the host's settings with: a path, a name, 'None' (the baked one) or
        'Automatic'. None: the job overrides nothing. What stands in the settings is never the job's."""
        return None if job.override is None else self.path_of(job.override)

    def standing_vae(self) -> str | None:
        """The VAE of the host's settings as they are now, in the same words; a job's overrides are among them while it
        runs. None where it has no such setting."""
        from modules import shared

        by_flag = getattr(shared.cmd_opts, "vae_path", None)
        return by_flag or self.path_of(str(getattr(shared.opts, "sd_vae", None) or "Automatic"))

    @staticmethod
    def path_of(name: str) -> str:
        """The file that the host itself means by a name of its list: its list keeps one of several of that name."""
        from modules import sd_vae

        return str(sd_vae.vae_dict.get(name, name))

    def free_memory(self, device: torch.device) -> int | None:
        """Bytes that the host's own memory manager would give; None: it has none, ask the driver."""
        return None

    def tell(self, model: Any, foreseen: Foreseen) -> Callable[[], None]:
        """Have the host's memory manager hear what runs take, where it asks; returns the undoing."""
        return lambda: None

    def scale_factor(self, model: Any, stage: nn.Module) -> float | None:
        """What the host divides latents by before it decodes them."""
        found = getattr(model, "scale_factor", None)
        return None if found is None else float(found)

    def interrupted(self) -> bool:
        """Whether the user has asked to stop or skip."""
        from modules import shared

        return bool(shared.state.interrupted or shared.state.skipped)

    def busy(self) -> bool:
        """Whether a job runs."""
        from modules import shared

        return bool(shared.state.job)

    def say(self, line: str | None) -> None:
        """Show a line in the page's progress bar; None takes it away."""
        from modules import shared

        shared.state.textinfo = line

    def tiler(self, stage: nn.Module) -> str | None:
        """Another tiler that is at work in this job, by name."""
        forward = vars(getattr(stage, "decoder", stage)).get("forward")
        forward = getattr(forward, "own", forward)  # below ours
        kind = type(forward).__name__
        return "Tiled VAE" if kind == "VAEHook" else None

    def suspend_tiler(self) -> Callable[[], None]:
        """Switch the host's own tiling off, where it would cut latents up before they reach us; returns the undoing."""
        return lambda: None

    def vae_folders(self) -> tuple[Folder, ...]:
        """Where this WebUI's users keep VAEs: its VAE folder, `--vae-dir`, and beside the checkpoints."""
        from modules import paths, sd_models, shared

        options = shared.cmd_opts
        folders = [Folder(Path(paths.models_path, "VAE"))]
        for option in ("vae_dir", "vae_dirs"):
            folders += [Folder(Path(path)) for path in _paths(getattr(options, option, None))]
        checkpoints = [sd_models.model_path]
        for option in ("ckpt_dir", "ckpt_dirs"):
            checkpoints += _paths(getattr(options, option, None))
        return (*folders, *(Folder(Path(path), marked_only=True) for path in checkpoints))

    def own_settings(self) -> Mapping[str, object]:
        """The WebUI's own settings by their names, as its file holds them."""
        from modules import shared

        return dict(vars(shared.opts).get("data") or {})  # all of them, whatever their names; it is no option itself

    def data_folder(self) -> Path:
        """Where our own files of the user's go."""
        from modules import paths

        return Path(paths.data_path) / "vae-manager"

    def record(self, job: PictureJob, name: Said, short_hash: Said) -> None:
        """Have the infotext say which VAE file was used (None: the baked one)."""
        if callable(name) or callable(short_hash):
            job.record({"VAE": name, "VAE hash": short_hash})  # over the host's own two, and into the API's answer
        else:
            job.record_vae(name, short_hash)

    def clean_pasted(self, params: dict[str, Any]) -> None:
        """Take out of pasted values what the host would apply beside our own panel's choice."""
        params.pop("VAE", None)
        params.pop("VAE hash", None)

    def foreign_vae(self, params: dict[str, Any], is_vae: Callable[[str], bool]) -> str | None:
        """The VAE named by another host's infotext that this host would not apply by itself.

        `is_vae` tells a VAE's name from a text encoder's.
        """
        modules = (str(value) for key, value in params.items() if key.startswith("Module "))
        return next((name for name in modules if is_vae(name)), None)

    def door(self) -> Door:
        """Who may ask our routes: whom the WebUI itself lets in."""
        from modules import shared

        options = shared.cmd_opts
        is_open = bool(getattr(options, "api", False) or getattr(options, "nowebui", False))
        of_api, of_page = getattr(options, "api_auth", None), getattr(options, "gradio_auth", None)
        file = getattr(options, "gradio_auth_path", None)
        if of_api:
            return Door(is_open, logins_of(of_api))
        if of_page or file:
            kept = Path(file).read_text(encoding="utf-8") if file else ""
            return Door(is_open, (*logins_of(of_page or ""), *logins_of(kept)))
        return Door(is_open)

    def install_guards(self, guards: Guards) -> None:
        """Wrap the host's functions that write into its first stage, and the one that decodes a batch."""
        from modules import processing, sd_models, sd_vae

        around(processing, "decode_latent_batch", before=guards.begin_batch, after=guards.end_batch)
        release, ensure = guards.release, guards.ensure

        for module, function in ((sd_vae, "load_vae"), (sd_models, "load_model_weights")):
            around(module, function, before=release)
        around(sd_models, "reload_model_weights", after=ensure)


@dataclass(frozen=True)
class Door:
    """Who may ask our routes."""

    open: bool
    """Whether the WebUI has its API switched on."""
    logins: tuple[tuple[str, str], ...] | None = None
    """User and password of those who may; None: everybody; empty: nobody."""


def logins_of(text: str) -> tuple[tuple[str, str], ...]:
    """Every "user:password" of a text, behind commas or on lines; what lacks either lets nobody in."""
    pairs = (login.strip().partition(":") for line in text.splitlines() for login in line.split(","))
    return tuple((user, password) for user, _, password in pairs if user and password)


@dataclass(frozen=True)
class Guards:
    """What the session wants to be called around the host's functions."""

    release: Callable[[], None]
    """Puts the host's own VAE back before it writes, so that neither its weights nor ours are written over."""
    ensure: Callable[[], None]
    """Puts ours in again when the model may be another."""
    begin_batch: Callable[[], None]
    """The pictures of the current batch are decoded next, in their order."""
    end_batch: Callable[[], None]


GUARDS = "_vae_manager_guards"
"""The host module's own record of what we call around its functions: it outlives a "Reload UI" of ours."""


def around(
    module: ModuleType,
    function: str,
    before: Callable[[], None] | None = None,
    after: Callable[[], None] | None = None,
) -> None:
    """Call something of ours before or after a module's function, wherever the host calls it from.

    "Reload UI" imports us anew while the host's modules stay, and others may have wrapped our wrapper by then: a
    function that is wrapped already only gets the new calls. Functions that a host does not have are passed over.
    """
    original = getattr(module, function, None)
    if original is None:
        return
    calls: dict[str, tuple[Callable[[], None] | None, ...]] = module.__dict__.setdefault(GUARDS, {})
    wrapped = function in calls
    calls[function] = (before, after)
    if wrapped:
        return

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        first, last = calls[function]
        quietly(first)
        try:
            return original(*args, **kwargs)
        finally:
            quietly(last)

    setattr(module, function, wrapper)


def quietly(call: Callable[[], None] | None) -> None:
    """Call something of ours inside a function of the host's, which must not fail for our sake."""
    try:
        if call:
            call()
    except Exception:
        log.exception("VAE Manager failed inside a function of the WebUI's")


def switched_off(module: ModuleType, name: str) -> Callable[[], None]:
    """Set a module's switch to False; returns what sets it back."""
    before = getattr(module, name, None)
    if not before:
        return lambda: None
    setattr(module, name, False)
    return lambda: setattr(module, name, before)


def _paths(value: object) -> list[str]:
    """An option's folders: unset, one, or several."""
    if not value:
        return []
    values: Iterable[object] = [value] if isinstance(value, (str, os.PathLike)) else value  # type: ignore[assignment]
    return [str(path) for path in values if path]
