"""One job at a time: decide which VAE it gets, put it in place, record it, put the host's own back.

The session is the only owner of "which VAE is in the model now". It swaps in `process`, before img2img encodes,
and swaps back in `postprocess`; after an exception, where the host calls no `postprocess`, when the job is
closed; and, should both fail, before the next job begins.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae_manager.codec.cache import StateCache
from vae_manager.codec.swap import Installed, check_fits, in_place, install, remove, same_weights, was_written
from vae_manager.errors import VaeFileError, VaeManagerError
from vae_manager.library.families import family_title
from vae_manager.library.files import VaeFile, find_vaes, vae_file
from vae_manager.library.hashing import HashCache
from vae_manager.library.identify import checkpoint_family
from vae_manager.library.layouts import detect_layout
from vae_manager.library.report import report
from vae_manager.library.state import load_kl_state
from vae_manager.library.tensors import open_tensors
from vae_manager.selection.choose import Wishes, choose
from vae_manager.selection.decision import BAKED, Decision, Step
from vae_manager.webui.hosts.base import Host
from vae_manager.webui.infotext import KEY, SHORT_HASH, Recorded, write
from vae_manager.webui.settings import PanelSettings

log = logging.getLogger("vae_manager")

WARNING_KEY = "VAE Manager warning"
"""Under this key of the API's `info.extra_generation_params` stands what could not be done; never in a picture."""


@dataclass(frozen=True)
class Job:
    """What one picture job was given."""

    decision: Decision
    warnings: tuple[str, ...] = ()
    hash: str | None = None
    """sha256 of the VAE file that was used."""

    def document(self) -> dict[str, Any]:
        """For the REST interface."""
        return {
            "vae": self.decision.vae.name if self.decision.vae else None,
            "kind": self.decision.kind,
            "source": self.decision.source,
            "reason": self.decision.reason,
            "hash": self.hash and self.hash[:SHORT_HASH],
            "warnings": list(self.warnings),
            "trace": [{"step": s.step, "outcome": s.outcome, "detail": s.detail} for s in self.decision.trace],
        }


class Session:
    """The state of the extension in a running WebUI."""

    def __init__(self, host: Host, cache_bytes: int) -> None:
        self.host = host
        self.hashes = HashCache(host.data_folder() / "hashes.json")
        self.cache = StateCache(cache_bytes)
        self.allow_other_family = False
        self.last: Job | None = None
        """The decision for the last picture, for the panel and the REST interface."""
        self._files: tuple[VaeFile, ...] | None = None
        self._installed: Installed | None = None
        self._installed_file: tuple[str, int, int] | None = None
        """Which version of which file `_installed` came from."""
        self._job: tuple[Any, Job] | None = None
        """The processing object whose weights are wanted now, and what it was given."""
        self._lock = threading.RLock()  # previews and API threads

    # --- the files

    def files(self, refresh: bool = False) -> tuple[VaeFile, ...]:
        """The VAE files that there are, as of the last refresh."""
        if refresh or self._files is None:
            self._files = find_vaes(self.host.vae_folders())
        return self._files

    @property
    def swapped(self) -> bool:
        """Whether the model computes with a VAE of ours at this moment."""
        return self._installed is not None

    # --- one job, in the order of the host's hooks

    def begin(self, p: Any) -> None:
        """`before_process`: put back what a failed job may have left, whatever this one wants."""
        with self._lock:
            vars(p).pop("vae_manager_job", None)  # the same object may have failed before
            self._job = None
            self.release()

    def start(self, p: Any, settings: PanelSettings) -> None:
        """`process`: decide and swap. Whatever fails here leaves the host's VAE in place and says so."""
        if not settings.enabled:
            return
        with self._lock:
            try:
                self._start(p, settings)
            except Exception as error:
                log.exception("VAE Manager failed; the picture is made with the WebUI's own VAE")
                self._fall_back(p, f"VAE Manager failed ({error}); the picture was made with the WebUI's own VAE.")

    def ensure(self, p: Any = None) -> None:
        """Between the passes: the model may be another now, or another job may have run inside this one."""
        with self._lock:
            if p is not None and (job := getattr(p, "vae_manager_job", None)) is not None:
                self._job = (p, job)
            if self._job is None:
                return
            p, job = self._job
            try:
                self._apply(job.decision)
            except Exception as error:
                message = error.sentence(_name(job.decision)) if isinstance(error, VaeFileError) else str(error)
                log.warning("%s The WebUI's own VAE is used from here on.", message)
                self._fall_back(p, f"{message} The WebUI's own VAE was used.")

    def finish(self, p: Any, processed: Any = None) -> None:
        """`postprocess`, or the job's end after an exception: give the host its VAE back."""
        with self._lock:
            job: Job | None = getattr(p, "vae_manager_job", None)
            if job is None:
                return
            del p.vae_manager_job
            self._job = None
            self.release()
            if processed is not None and job.warnings:
                # a copy: the original belongs to pictures that are saved already
                params = dict(getattr(processed, "extra_generation_params", None) or {})
                processed.extra_generation_params = {**params, WARNING_KEY: " ".join(job.warnings)}

    def release(self) -> None:
        """Give the host its own VAE back now. Nothing happens when it has it."""
        with self._lock:
            installed, self._installed = self._installed, None
            if installed is None:
                return
            if was_written(installed):
                self.cache.drop(installed.state)
            remove(installed)

    # --- what happens inside

    def _start(self, p: Any, settings: PanelSettings) -> None:
        self.release()
        model = self.host.current_model()
        if model is None:
            raise VaeManagerError("no model is loaded yet")
        own = self.host.loaded_vae(model)
        wishes = Wishes(settings.vae, f"the WebUI's own choice: {own.name if own else 'the baked VAE'}")
        decision = choose(wishes, self.files())
        warnings = [*settings.warnings, *decision.warnings]
        sha256 = None
        try:
            if decision.vae is not None:
                file = self._current(decision.vae)
                decision, sha256 = replace(decision, vae=file), self._check(file, model)
            self._apply(decision)
        except VaeFileError as error:
            message = f"{error.sentence(_name(decision))} The picture was made with the WebUI's own VAE."
            log.warning(message)
            warnings.append(message)
            decision, sha256 = _refused(decision, message, wishes.host), None
        if decision.kind == "host" and own is not None:
            sha256 = self._hash_of(own)
        job = Job(decision, tuple(warnings), sha256)
        self._adopt(p, job)
        self._record(p, job, own)

    def _adopt(self, p: Any, job: Job) -> None:
        """From here on p is the job whose VAE must be in place, until it is closed."""
        p.vae_manager_job = job
        self._job, self.last = (p, job), job
        for warning in job.warnings:
            p.comment(warning)
        if not hasattr(p, "vae_manager_close"):
            p.vae_manager_close = close = p.close

            def close_and_finish() -> None:
                self.finish(p)
                close()

            # txt2img, img2img and the API all close their job, also after an exception
            p.close = close_and_finish

    def _fall_back(self, p: Any, message: str) -> None:
        """Something broke: the host's VAE, a comment, and no claim in the infotext."""
        self.release()
        p.extra_generation_params.pop(KEY, None)
        old: Job | None = getattr(p, "vae_manager_job", None)
        if old is not None and old.decision.kind != "host":
            model = self.host.current_model()
            own = self.host.loaded_vae(model) if model is not None else None
            self.host.record(p, own.name if own else None, None)
        reason = "something failed"
        decision = Decision("host", "host", reason, trace=(Step("host", "chosen", reason),))
        job = Job(decision, (*(old.warnings if old else ()), message))
        if old is None:
            self._adopt(p, job)
        else:
            p.vae_manager_job, self._job, self.last = job, (p, job), job
            p.comment(message)

    @staticmethod
    def _current(file: VaeFile) -> VaeFile:
        """The file as it is now: it may have been replaced or deleted since it was listed."""
        try:
            return vae_file(file.path, file.name)
        except OSError as error:
            raise VaeFileError("it is not there any more; refresh the list") from error

    def _hash_of(self, own: Path) -> str | None:
        """The sha256 of the host's own VAE, or None where its file cannot be read: then its line is left alone."""
        try:
            return self.hashes.sha256(vae_file(own))
        except (OSError, VaeFileError):
            return None

    def _check(self, file: VaeFile, model: Any) -> str:
        """The file's sha256, once it is known to be of the model's family.

        Raises:
            VaeFileError: it is broken, or of another family.
        """
        found = report(file, self.hashes, digest=False)
        family = self._family(self.host.checkpoint(model))
        if not self.allow_other_family and "unknown" not in (family, found.family) and found.family != family:
            raise VaeFileError(
                f"it is made for {family_title(found.family)} ({found.evidence}), but the checkpoint "
                f"{self.host.checkpoint(model).name} is {family_title(family)}"
            )
        assert found.sha256 is not None
        return found.sha256

    def _family(self, checkpoint: Path) -> str:
        try:
            return checkpoint_family(open_tensors(checkpoint).header)
        except VaeFileError:
            return "unknown"

    def _apply(self, decision: Decision) -> None:
        """Have the model that is loaded now compute with the VAE decided on."""
        model = self.host.current_model()
        module = self.host.first_stage(model) if model is not None else None
        if module is None or decision.kind == "host":
            self.release()
            return
        file = decision.vae or vae_file(self.host.checkpoint(model))
        if self._installed is not None and self._installed_file == file.version and in_place(self._installed, module):
            return
        self.release()
        if decision.vae is None and self._has_baked(module, file.path):
            return
        self._installed = install(module, self._state(file, module))
        self._installed_file = file.version

    def _state(self, file: VaeFile, module: nn.Module) -> Mapping[str, Tensor]:
        dtype = next(module.parameters()).dtype

        def load() -> Mapping[str, Tensor]:
            with torch.inference_mode(False):
                state, _ = load_kl_state(file, dtype)
            check_fits(module, {name: tuple(tensor.shape) for name, tensor in state.items()})
            return state

        return self.cache.get((file.version, dtype), load)

    def _has_baked(self, module: nn.Module, checkpoint: Path) -> bool:
        """Whether the model holds the VAE that its checkpoint file holds.

        The host's own books are not asked: some hosts lose the baked VAE without noticing.

        Raises:
            VaeFileError: the checkpoint has no VAE in it.
        """
        opened = open_tensors(checkpoint)
        keys = detect_layout(opened.header).keys
        return same_weights(module, lambda name: opened.fetch(keys[name]) if name in keys else None)

    def _record(self, p: Any, job: Job, own: Path | None) -> None:
        """Write into the infotext what decodes the picture."""
        decision, short = job.decision, job.hash and job.hash[:SHORT_HASH]
        if decision.kind == "host":
            if own is not None and short:  # the host's own line may hold another file's hash
                self.host.record(p, own.name, short)
            return
        self.host.record(p, decision.vae.path.name if decision.vae else None, short)
        name = decision.vae.name if decision.vae else BAKED
        p.extra_generation_params[KEY] = write(Recorded(name, short))


def _name(decision: Decision) -> str:
    return decision.vae.name if decision.vae else "The baked VAE"


def _refused(decision: Decision, message: str, host: str) -> Decision:
    """The same decision with its choice refused: the host's own VAE is left in place."""
    trace = tuple(replace(s, outcome="refused", detail=message) if s.outcome == "chosen" else s for s in decision.trace)
    return Decision("host", "host", host, trace=(*trace, Step("host", "chosen", host)), warnings=decision.warnings)
