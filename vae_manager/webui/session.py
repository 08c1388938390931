"""One job at a time: decide which VAE its pictures get, put it in place, record it, put the host's own back.

The session is the only owner of "which VAE is in the model now". It takes hold of the first stage in `process`,
before img2img encodes, and lets go in `postprocess`; after an exception, where the host calls no `postprocess`, when
the job is closed; and, should both fail, before the next job begins.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae_manager.codec.cache import StateCache
from vae_manager.codec.swap import same_weights
from vae_manager.errors import VaeFileError, VaeManagerError
from vae_manager.library.files import VaeFile, find_vaes, vae_file
from vae_manager.library.hashing import HashCache
from vae_manager.library.layouts import detect_layout
from vae_manager.library.tensors import open_tensors
from vae_manager.selection.checkpoint import Checkpoint
from vae_manager.selection.decision import BAKED, Decision, Part, Step
from vae_manager.selection.examiner import Examiner
from vae_manager.selection.names import VaeIndex
from vae_manager.selection.preset_file import Preset, VaeWish
from vae_manager.store import open_store
from vae_manager.webui import coder
from vae_manager.webui.chooser import Asked, Chooser
from vae_manager.webui.coloring import Colors, FirstPass, Made, rescaled, vae_fault
from vae_manager.webui.describe import describe_choice
from vae_manager.webui.first_stage import FirstStage
from vae_manager.webui.hosts.base import Guards, Host, quietly
from vae_manager.webui.hosts.processing import arm, close_with, start_now
from vae_manager.webui.job import Job, Name, Tags, as_host, files_of, first_picture, overruled, read_tags, told
from vae_manager.webui.looking import Looking
from vae_manager.webui.options import Options
from vae_manager.webui.record import forget_recorded, record, settle
from vae_manager.webui.settings import PanelSettings
from vae_manager.webui.tiny import Tinies, decode_tiny

log = logging.getLogger("vae_manager")

KEPT_LATENTS = 4

EXAMINER_SHARE = 0.2
"""The part of its time that the background examiner works: the next picture goes before."""

WARNING_KEY = "VAE Manager warning"
"""Under this key of the API's `info.extra_generation_params` stands what could not be done; never in a picture."""


class Session:
    """The state of the extension in a running WebUI."""

    def __init__(self, host: Host, options: Options | None = None) -> None:
        self.host = host
        self.options = options or Options()
        """The settings as they were at the last job."""
        self.hashes = HashCache(open_store(host.data_folder()))
        self.chooser = Chooser(host.data_folder(), self.hashes)
        self.examiner = Examiner(self.hashes, self.chooser.facts, share=EXAMINER_SHARE)
        self.colors = Colors(host.data_folder())
        self.latents: deque[tuple[Path, Tensor]] = deque(maxlen=KEPT_LATENTS)
        """The last latents that were decoded, unscaled, with their checkpoint: for calibrating, never on disk."""
        self.stage = FirstStage(StateCache(self.options.cache_bytes))
        self.last: Job | None = None
        """The last job that was ours, for the panel and the REST interface."""
        self._index: VaeIndex | None = None
        self.tinies = Tinies()
        self._wide: set[Any] = set()
        """The VAEs whose activations have overflowed half precision in this run of the WebUI."""
        self._job: tuple[Any, Job] | None = None
        """The processing object whose weights are wanted now, and its job."""
        self._batch: tuple[int, int] | None = None
        """While a batch is decoded: the thread that does it, and how many of its pictures are decoded already."""
        self._overridden: tuple[str | None, str | None] | None = None
        """While a job overrides the host's setting: what it overrides it with, and what the setting is."""
        self._lock = threading.RLock()  # previews and API threads

    # --- the files

    def files(self, refresh: bool = False) -> tuple[VaeFile, ...]:
        """The VAE files that there are, as of the last refresh."""
        return self.index(refresh).files

    def index(self, refresh: bool = False) -> VaeIndex:
        """The same, ready to be looked up by name."""
        if refresh or self._index is None:
            self._index = VaeIndex.of(find_vaes(self.host.vae_folders()), self.hashes)
        return self._index

    @property
    def swapped(self) -> bool:
        """Whether the model computes with a VAE of ours at this moment."""
        return self.stage.swapped

    def preview(self, settings: PanelSettings) -> tuple[Checkpoint, Decision] | None:
        """What the checkpoint that is loaded would get with these settings; None while no model is loaded."""
        model = self.host.current_model()  # without the lock: a panel must not wait for a decode
        checkpoint = self._checkpoint(model) if model is not None else None
        if model is None or checkpoint is None:
            return None
        own = self.host.loaded_vae(model)
        asked = self._asked(settings, model, own)
        files = self._looking(asked, own)
        decision = self.chooser.decide(asked, None, checkpoint, files)
        # a chosen file's hash may tell that it is of another family; the automatic choice waits for the examiner
        learnt = [self._newly_hashed(file) for file in files_of(decision)] if settings.names_a_file else []
        if any(learnt):
            decision = self.chooser.decide(asked, None, checkpoint, files)
        return checkpoint, decision

    def about(self, choice: str) -> tuple[str, tuple[Step, ...]]:
        """What a choice of the panel's VAE means, in a line, and how it is decided just now: no steps while no model
        is loaded. Never raises: one strange file must not take the panel down."""
        try:
            found = self.preview(PanelSettings(True, choice))
            line = describe_choice(choice, self.find, self.hashes, found)
            return line, found[1].trace if found else ()
        except Exception as error:
            log.exception("VAE Manager could not say what %r means", choice)
            return f"What this choice means could not be found out ({error}).", ()

    def find(self, name: str) -> VaeFile:
        """The file that a name means, after another look at the disk where there seems to be none.

        Raises:
            BadInputError: there is none, or there are several.
        """
        return Looking.over(self.index(), (), lambda: self.index(refresh=True)).find(name)

    def names(self, refresh: bool = False) -> list[str]:
        """What the panel lists. Never raises; a name that is no Unicode text could not be sent to the page."""
        try:
            return [file.name for file in self.files(refresh) if _is_text(file.name)]
        except Exception:
            log.exception("VAE Manager could not list the VAE files")
            return []

    def _newly_hashed(self, file: VaeFile) -> bool:
        """Have the hash of a file that was chosen by name; whether it was not known before."""
        if self.hashes.peek(file) is not None:
            return False
        return self._hash_of(file.path) is not None

    def obey(self, options: Options) -> None:
        """The settings as they are for the next job."""
        self.options, self.stage.cache.limit = options, options.cache_bytes

    def guards(self) -> Guards:
        """What the host's functions are to call."""
        return Guards(self.release, self.ensure, self._begin_batch, self._end_batch)

    # --- one job, in the order of the host's hooks

    def begin(self, p: Any) -> None:
        """`before_process`: put back what a failed job may have left, whatever this one wants."""
        with self._lock:
            left: Job | None = vars(p).pop("vae_manager_job", None)  # the same object may have failed before
            forget_recorded(p)
            for job in (left, self._job and self._job[1]):
                self._undo(job)
            self._job, self._batch = None, None
            self.release()
            self._remember_standing(p)

    def prepare(self, p: Any, settings: PanelSettings) -> None:
        """`process`: have the job started when its prompts are final, before the first picture is encoded.

        Others' `process` hooks, such as those of wildcard extensions, may run after ours and write the prompts anew.
        """
        arm(p, lambda: self.start(p, settings))

    def start(self, p: Any, settings: PanelSettings) -> None:
        """Decide and swap. Whatever fails here leaves the host's VAE in place and says so."""
        with self._lock:
            try:
                self._start(p, settings)
            except Exception as error:
                log.exception("VAE Manager failed; the picture is made with the WebUI's own VAE")
                self._fall_back(p, f"VAE Manager failed ({error}); the picture was made with the WebUI's own VAE.")

    def ensure(self, p: Any = None) -> None:
        """Between the passes: the model may be another now, or another job may have run inside this one."""
        with self._lock:
            if p is not None:
                start_now(p)  # where the host goes another way than through `init`
            if p is not None and (job := getattr(p, "vae_manager_job", None)) is not None:
                self._job = (p, job)
            if self._job is None:
                return
            of_batch, (p, job) = p is not None, self._job
            try:
                if of_batch:
                    self._read_again(p, job)
                self._hold(p, job)
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
            job.first_passes.clear()
            self._job, self._batch, self._overridden = None, None, None
            self._undo(job)
            self.release()
            if processed is None:
                return
            settle(processed)
            try:
                if self.options.remember:
                    self._remember(job)
                self._examine()
            except Exception:
                log.exception("VAE Manager could not look after what the job has used")
            if job.warnings:
                # a copy: the original belongs to pictures that are saved already
                params = dict(getattr(processed, "extra_generation_params", None) or {})
                processed.extra_generation_params = {**params, WARNING_KEY: " ".join(job.warnings)}

    def finish_pictures(self, p: Any, pictures: list[Tensor]) -> list[Tensor]:
        """`postprocess_batch_list`: the batch's pictures, float (3, H, W) in [0, 1], on their way to 8 bits."""
        job: Job | None = getattr(p, "vae_manager_job", None)
        if job is None:
            return pictures
        return [self._finished_or_left(p, job, picture, index) for index, picture in enumerate(pictures)]

    def release(self) -> None:
        """Give the host its own VAE and functions back now. Nothing happens when it has them.

        What cannot be given back just now, for want of memory perhaps, is tried again the next time.
        """
        with self._lock:
            try:
                self.stage.release()
            except Exception:
                log.exception("VAE Manager could not put the WebUI's own VAE back; it will try again")

    # --- the decision

    def _start(self, p: Any, settings: PanelSettings) -> None:
        tags, on = read_tags(p), settings.enabled or self.options.always
        told_host = self.host.override(p) is not None and self.host.translates_sd_vae
        if not (on or tags.asks or told_host):
            for warning in tags.warnings:
                p.comment(warning)
            return
        self.release()
        model = self.host.current_model()
        if model is None:
            raise VaeManagerError("no model is loaded yet")
        own = self.host.loaded_vae(model)
        asker = "the X/Y/Z cell" if getattr(p, "vae_manager_cell", None) else "the panel"
        asked = replace(self._asked(settings, model, own), on=on, asker=asker, job=self.host.job_vae(p, model))
        job = Job(asked, self._watch(p), tags, own=own)
        decisions = self._decide_all(job, model)
        for name in filter(None, tags.hires):
            self._decide(job, model, name)
        unheard = overruled(self.host.override(p), decisions.values(), self.host.path_of)
        job.warnings += dict.fromkeys([*settings.warnings, *tags.warnings, *told(decisions.values()), *unheard])
        self._adopt(p, job)
        self._hold(p, job)
        self._record(p, job, decisions)
        self.chooser.save()

    def _follow(self, p: Any, job: Job, model: Any) -> None:
        """A refiner's or a hires pass's checkpoint has come in: decide for it, and say what is true of it."""
        job.own = self.host.loaded_vae(model)
        told_host, host = self.host.job_vae(p, model), self._asked(job.asked.settings, model, job.own).host
        job.asked = replace(job.asked, job=told_host, host=host)
        decisions = self._decide_all(job, model)
        for warning in told(decisions.values()):
            job.watch.warn(warning)
        self._record(p, job, decisions, again=True)

    def _read_again(self, p: Any, job: Job) -> None:
        """Before a batch: the prompts may have been written anew since the last one."""
        tags = read_tags(p)
        if tags.names != job.tags.names or tags.hires != job.tags.hires:
            job.tags = tags
            decisions = self._decide_all(job, self.host.current_model())
            for warning in (*tags.warnings, *told(decisions.values())):
                job.watch.warn(warning)
            self._record(p, job, decisions, again=True)

    def _remember_standing(self, p: Any) -> None:
        """Before a job's overrides are applied: what the user's own setting is."""
        model = self.host.current_model()
        if self.host.override(p) is None or model is None:
            self._overridden = None
        else:
            self._overridden = self.host.job_vae(p, model), self._standing(model)

    def _standing(self, model: Any) -> str | None:
        """The user's own setting, also while another job overrides it."""
        now = self.host.standing_vae(model)
        return self._overridden[1] if self._overridden and self._overridden[0] == now else now

    def _asked(self, settings: PanelSettings, model: Any, own: Path | None) -> Asked:
        """What these settings ask for with the panel on, outside any job."""
        return Asked(
            settings,
            on=True,
            standing=self._standing(model),
            host=f"the WebUI's own choice: {own.name if own else 'the baked VAE'}",
            allow_other_family=self.options.allow_other_family,
        )

    def _decide_all(self, job: Job, model: Any) -> dict[Name, Decision]:
        """The decisions for all pictures with this model, by what their prompts ask for; the job's own is set."""
        job.checkpoint = self.host.checkpoint(model)
        decisions = {name: self._decide(job, model, name) for name in dict.fromkeys(job.tags.names)}
        job.decision = decisions[job.tags.of(0)]
        return decisions

    def _record(self, p: Any, job: Job, decisions: dict[Name, Decision], again: bool = False) -> None:
        if job.own is not None:
            job.hashes.setdefault(job.own, self._hash_of(job.own) or "")
        record(self.host, p, job, decisions, again)

    def _decide(self, job: Job, model: Any, name: Name) -> Decision:
        """The decision for one name, with files that can be used; kept for the job."""
        path = self.host.checkpoint(model)
        if (path, name) not in job.decisions:
            checkpoint, files = self._checkpoint(model), self._looking(job.asked, job.own)
            unusable: dict[str, str] = {}
            while True:
                asked = replace(job.asked, unusable=unusable)
                decision = self.chooser.decide(asked, name, checkpoint, files)
                refused, learnt = self._hashed(job, decision)
                # a hash may tell that a file is of another family: then decide again, before anything is loaded
                refused = refused or ({} if learnt else self._refused(decision, model))
                if not refused and not learnt:
                    break
                unusable.update(refused)
            job.decisions[path, name] = as_host(decision, job.own)
        return job.decisions[path, name]

    def _checkpoint(self, model: Any) -> Checkpoint | None:
        return self.chooser.checkpoint(self.host.checkpoint(model), self.host.checkpoint_name(model))

    def _looking(self, asked: Asked, own: Path | None) -> VaeIndex:
        """The files for a decision: the list, what the host itself names, and another look at the disk at need."""
        return Looking.over(self.index(), (asked.standing, asked.job, own), lambda: self.index(refresh=True))

    def _hashed(self, job: Job, decision: Decision) -> tuple[dict[str, str], bool]:
        """Have the hashes of the decision's files. Returns what cannot be read, and whether one was new."""
        learnt = False
        for file in files_of(decision):
            if file.path in job.hashes:
                continue
            learnt = learnt or self.hashes.peek(file) is None
            try:
                job.hashes[file.path] = self.hashes.sha256(file)
            except VaeFileError as error:
                return {str(file.path): str(error)}, learnt
            except OSError as error:
                return {str(file.path): f"it cannot be read: {error.strerror}"}, learnt
        return {}, learnt

    def _refused(self, decision: Decision, model: Any) -> dict[str, str]:
        """What loading the decision's files says against them, by path; empty where all is well."""
        stage = self.host.first_stage(model)
        for file in files_of(decision):
            try:
                if stage is not None and self.tinies.of(file, stage) is None:
                    self.stage.ready(file, stage)
            except VaeFileError as error:
                return {str(file.path): str(error)}
            except OSError as error:
                return {str(file.path): f"it cannot be read: {error.strerror}"}
        return {}

    def _hash_of(self, own: Path) -> str | None:
        """The sha256 of the host's own VAE, or None where its file cannot be read: then its line is left alone."""
        try:
            return self.hashes.sha256(vae_file(own))
        except (OSError, VaeFileError):
            return None

    def _watch(self, p: Any) -> coder.Watch:
        def warn(text: str) -> None:
            job: Job | None = getattr(p, "vae_manager_job", None)
            if job is not None and text not in job.warnings:
                job.warnings.append(text)
                p.comment(text)

        host = self.host
        limit = self.options.memory_limit
        return coder.Watch(host.interrupted, host.say, warn, host.free_memory, limit, wide=self._wide)

    def _adopt(self, p: Any, job: Job) -> None:
        """From here on p is the job whose VAE must be in place, until it is closed."""
        p.vae_manager_job = job
        self._job, self.last = (p, job), job
        for warning in job.warnings:
            log.warning(warning)
            p.comment(warning)
        # txt2img, img2img and the API all close their job, also after an exception
        close_with(p, lambda: self.finish(p))

    def _fall_back(self, p: Any, message: str) -> None:
        """Something broke: the host's VAE, a comment, and no claim in the infotext."""
        self.release()
        old: Job | None = getattr(p, "vae_manager_job", None)
        forget_recorded(p)
        if old is not None:
            self._undo(old)
            if old.decision.kind != "host":
                self.host.record(p, old.own.name if old.own else None, None)
        reason = "something failed"
        decision = Decision("host", "host", reason, trace=(Step("host", "chosen", reason),))
        job = Job(Asked(host=reason), self._watch(p), Tags(), decision=decision)
        job.warnings += old.warnings if old else ()
        if old is None:
            self._adopt(p, job)
        else:
            p.vae_manager_job, self._job, self.last = job, (p, job), job
        job.watch.warn(message)

    def _examine(self) -> None:
        """Find out in the background what the next decision may need: hashes, digests, the baked VAE's health."""
        model = self.host.current_model()
        checkpoint = self._checkpoint(model) if model is not None else None
        self.examiner.add(self.files(), [checkpoint.file] if checkpoint else [])

    def shut_down(self) -> None:
        """The WebUI unloads its scripts: nothing of ours stays."""
        self.release()
        self.examiner.cancel()

    def _remember(self, job: Job) -> None:
        """Keep the VAE that was used on request as the checkpoint's preset, unless the user saved another."""
        model, decision = self.host.current_model(), job.decision
        checkpoint = self._checkpoint(model) if model is not None else None
        if checkpoint is None or decision.source != "panel" or decision.kind == "host":
            return
        name = decision.vae.name if decision.vae else BAKED
        wish = VaeWish(name, job.hashes.get(decision.vae.path) if decision.vae else None)
        try:
            self.chooser.presets.remember(checkpoint, Preset(wish))
        except OSError as error:
            log.warning("What was used with %s could not be remembered: %s", checkpoint.name, error)

    def _finished_or_left(self, p: Any, job: Job, picture: Tensor, index: int) -> Tensor:
        """Each picture stands for itself: one that fails leaves the others their colours, and what is said of them."""
        try:
            return self._finished(p, job, picture, index)
        except Exception as error:
            log.exception("VAE Manager could not finish a picture; it is left as it is")
            job.watch.warn(f"VAE Manager could not finish the picture ({error}); it was left as it is.")
            return picture

    def _finished(self, p: Any, job: Job, picture: Tensor, index: int) -> Tensor:
        done, place = picture, first_picture(p) + index
        if self._colors(p, job):
            made = job.made.get(place) or self._made_by(job, self._choice(p, job, "decode", place))
            found = self.colors.finish(picture, made, job.color, p, index, job.first_passes.pop(place, None))
            # what was not recoloured goes through the host's own conversion to 8 bits, whichever that is
            done = found.pixels if found.pixels is picture else rounded(found.pixels)
            if found.warning:
                job.watch.warn(found.warning)
            if found.said:
                job.colors[place] = found.said
                log.info("Picture %d: %s", place + 1, found.said)
        return done

    @staticmethod
    def _colors(p: Any, job: Job) -> bool:
        """Whether colours are looked at: ADetailer's parts are pasted into a finished whole."""
        return job.color.mode != "off" and not vars(p).get("_ad_inner")

    def _made_by(self, job: Job, choice: Decision | Part) -> Made:
        checkpoint = vae_file(self.host.checkpoint(self.host.current_model()))
        own = vae_file(job.own) if choice.kind == "host" and job.own else None
        vae = choice.vae or own or checkpoint
        problems = self.chooser.facts.health(vae)  # as far as it was looked at in the background
        return Made(checkpoint.version, vae.version, vae_fault(job.hashes.get(vae.path), problems))

    def _undo(self, job: Job | None) -> None:
        while job and job.undo:
            quietly(job.undo.pop())

    # --- the first stage

    def _hold(self, p: Any, job: Job) -> None:
        """Put our functions, and the VAE of the batch's first picture, into the model that is loaded now."""
        model = self.host.current_model()
        stage = self.host.first_stage(model) if model is not None else None
        idle = not job.asked.on and all(d.kind == "host" for d in job.decisions.values())
        if stage is None or (idle and not job.tags.asks):
            self.release()
            return
        if self.host.checkpoint(model) != job.checkpoint:
            self._follow(p, job, model)
        job.watch.tiler = self.host.tiler(stage)
        if job.watch.tiler and (job.mode == "exact" or len(job.decisions) > 1):
            job.undo.append(self.host.suspend_tiler())
        if job.watch.tiler and job.mode in ("auto", "exact"):
            what = "your choice 'exact' goes before it" if job.mode == "exact" else "its tiles decode this picture"
            job.watch.warn(
                f"{job.watch.tiler} is switched on: {what}. For exact pixels in little memory, switch it off."
            )
        self.stage.hold(
            stage,
            {
                "decode": lambda inner, *a, **k: self._decode(inner, *a, **k),
                "encode": lambda inner, *a, **k: self._encode(inner, *a, **k),
                "decoder.forward": lambda inner, *a, **k: self._forward(True, inner, *a, **k),
                "encoder.forward": lambda inner, *a, **k: self._forward(False, inner, *a, **k),
            },
        )
        self._put(job, self._choice(p, job, "decode", first_picture(p)))

    def _choice(self, p: Any, job: Job, part: str, picture: int) -> Decision | Part:
        model = self.host.current_model()
        hires = bool(getattr(p, "is_hr_pass", False))
        return job.choice(part, picture, hires, lambda name: self._decide(job, model, name))

    def _put(self, job: Job, choice: Decision | Part) -> None:
        """Have the first stage compute with the VAE chosen."""
        if choice.kind == "host":
            self.stage.put_back()
        elif choice.vae is not None:
            tiny = self.tinies.of(choice.vae, self.stage.module)
            self.stage.put_back() if tiny else self.stage.use(choice.vae)
        elif not self._has_baked(job, checkpoint := self.host.checkpoint(self.host.current_model())):
            self.stage.use(vae_file(checkpoint))
        else:
            self.stage.put_back()

    def _has_baked(self, job: Job, checkpoint: Path) -> bool:
        """Whether the model holds the VAE that its checkpoint file holds.

        The host's own books are not asked: some hosts lose the baked VAE without noticing. Only a pickle is taken at
        the host's word, unless the baked VAE was asked for: looking into it means reading all of it.

        Raises:
            VaeFileError: the checkpoint has no VAE in it.
        """
        if checkpoint not in job.has_baked:
            self.stage.put_back()
            stage = self.stage.module
            assert stage is not None
            automatic = job.decision.source not in ("prompt", "panel", "job")
            if job.own is None and automatic and checkpoint.suffix.lower() != ".safetensors":
                job.has_baked[checkpoint] = True
            else:
                opened = open_tensors(checkpoint)
                keys = detect_layout(opened.header).keys
                found = same_weights(stage, lambda name: opened.fetch(keys[name]) if name in keys else None)
                job.has_baked[checkpoint] = found
        return job.has_baked[checkpoint]

    # --- inside the host's decode and encode

    def _begin_batch(self) -> None:
        """The host begins to decode the current batch, in this thread."""
        with self._lock:
            if self._job is not None:
                self.ensure()
                self._batch = (threading.get_ident(), 0)

    def _in_batch(self) -> bool:
        """Whether this thread decodes the job's batch: a preview does not."""
        return self._batch is not None and self._batch[0] == threading.get_ident()

    def _end_batch(self) -> None:
        with self._lock:
            self._batch = None

    def _pictures(self, p: Any, count: int) -> list[int]:
        """Which pictures the next `count` rows are. Previews, in their own thread, are shown as the first."""
        first, last = first_picture(p), first_picture(p) + int(getattr(p, "batch_size", 1) or 1) - 1
        if self._batch is None or not self._in_batch():
            return [first] * count
        done = self._batch[1]
        self._batch = (self._batch[0], done + count)
        return [min(first + done + row, last) for row in range(count)]

    def _decode(self, inner: Any, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around the host's `first_stage.decode`: every picture with its own VAE."""
        with self._lock:
            if self._job is None:
                return inner(z, *args, **kwargs)
            p, job = self._job
            try:
                self._keep(p, z)
                z = self._scaled_right(job, z)
                pictures = self._pictures(p, z.shape[0])
                choices = [self._choice(p, job, "decode", picture) for picture in pictures]
            except Exception as error:
                self._own_from_here(job, error)
                return inner(z, *args, **kwargs)
            if all(_same(choice, choices[0]) for choice in choices):
                found = self._decode_with(p, job, choices[0], pictures, inner, z, *args, **kwargs)
            else:
                rows = [
                    self._decode_with(p, job, choice, pictures[i : i + 1], inner, z[i : i + 1], *args, **kwargs)
                    for i, choice in enumerate(choices)
                ]
                found = torch.cat(rows)
            self._note(p, job, pictures, choices, found)
            return found

    def _note(self, p: Any, job: Job, pictures: list[int], choices: list[Decision | Part], found: Any) -> None:
        """Remember what decoded the pictures of this batch, and the first pass of hires fix, for their colours."""
        if not self._in_batch() or not self._colors(p, job):
            return  # a preview; or nobody will ask
        first = bool(getattr(p, "enable_hr", False)) and not getattr(p, "is_hr_pass", True)
        try:
            for row, (picture, choice) in enumerate(zip(pictures, choices, strict=True)):
                made = job.made[picture] = self._made_by(job, choice)
                if first and job.color.mode == "auto" and not job.watch.tiler:  # another tiler hands over tiles
                    pixels = (found[row].detach().float() / 2 + 0.5).clamp(0, 1).to("cpu", torch.float16)
                    job.first_passes[picture] = FirstPass(pixels, made)
        except Exception:
            log.exception("VAE Manager could not note what decoded a picture; its colours are judged without that")

    def _keep(self, p: Any, z: Tensor) -> None:
        """Keep a latent for calibrating."""
        if not vars(p).get("_ad_inner"):
            kept = z[:1].detach().to("cpu", torch.float32, copy=True)
            self.latents.append((self.host.checkpoint(self.host.current_model()), kept))

    def _own_from_here(self, job: Job, error: Exception, choice: Decision | Part | None = None) -> None:
        """Something of ours failed inside the host's decode or encode: its own VAE does it, and that is told."""
        if isinstance(error, VaeFileError):
            message = error.sentence(_name(choice or job.decision))
        else:
            log.error("VAE Manager failed", exc_info=error)
            message = f"VAE Manager failed ({error})."
        job.watch.warn(f"{message} The WebUI's own VAE was used.")
        quietly(self.stage.put_back)

    def _scaled_right(self, job: Job, z: Tensor) -> Tensor:
        """Unscaled latents as the family's models mean them, where the host divides by another family's number."""
        model, stage = self.host.current_model(), self.stage.module
        if job.color.mode == "off" or stage is None:
            return z
        found = rescaled(self.host.scale_factor(model, stage), self._family())
        if found is None:
            return z
        factor, fault = found
        job.watch.warn(f"{fault.sentence}; it was decoded at the right one instead.")
        return z * factor

    def _decode_with(
        self,
        p: Any,
        job: Job,
        choice: Decision | Part,
        pictures: list[int],
        inner: Any,
        z: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Decode pictures that have one choice in common."""
        try:
            self._put(job, choice)
            if choice.vae is not None and (tiny := self.tinies.of(choice.vae, self.stage.module)):
                return decode_tiny(tiny, z, self._family())
        except Exception as error:
            self._own_from_here(job, error, choice)
            if self._in_batch():
                self._failed(p, job, pictures)
        return inner(z, *args, **kwargs)

    def _failed(self, p: Any, job: Job, pictures: list[int]) -> None:
        """What the infotext of these pictures claims is not what was done: the host's own VAE decodes them."""
        job.failed.update(pictures)
        path = self.host.checkpoint(self.host.current_model())
        self._record(p, job, {name: found for (of, name), found in job.decisions.items() if of == path}, again=True)

    def _encode(self, inner: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around the host's `first_stage.encode`."""
        with self._lock:
            if self._job is not None:
                p, job = self._job
                choice = None
                try:
                    choice = self._choice(p, job, "encode", first_picture(p))
                    self._put(job, choice)
                except Exception as error:
                    self._own_from_here(job, error, choice)
            return inner(x, *args, **kwargs)

    def _forward(self, decodes: bool, inner: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around the `forward` of the decoder or encoder: in one piece or streamed."""
        with self._lock:
            stage = self.stage.module
            if self._job is None or stage is None or args or kwargs or x.ndim != 4 or self._job[1].mode == "host":
                return inner(x, *args, **kwargs)
            job = self._job[1]
            part = stage.get_submodule("decoder" if decodes else "encoder")
            weights = self.stage.version or str(self.host.checkpoint(self.host.current_model()))
            return coder.run(inner, part, x, decodes, job.mode, weights, job.watch)

    def _family(self) -> str:
        found = self._checkpoint(self.host.current_model())
        return found.family if found else "unknown"


def rounded(picture: Tensor) -> Tensor:
    """The nearest 8-bit level of every value, as a float that comes out as that level also where a host truncates."""
    return ((picture.float().clamp(0, 1) * 255).round() + 0.25) / 255


def _is_text(name: str) -> bool:
    return name.isprintable() or name.encode("utf-8", "ignore").decode() == name


def _same(one: Decision | Part, other: Decision | Part) -> bool:
    return one.kind == other.kind and one.vae == other.vae


def _name(choice: Decision | Part) -> str:
    return choice.vae.name if choice.vae else "The baked VAE"
