"""The jobs of a running WebUI, in the order of the host's hooks: decide, hold, record, let go.

Which job is in the model now is one question with one answer, `_tenure`. It begins when the job's prompts are final,
before img2img encodes, and ends in `postprocess`; after an exception, where the host calls no `postprocess`, when the
job is closed; and, should both fail, before the next job begins.
"""

from __future__ import annotations

import logging
import threading

from torch import Tensor

from vae_manager.codec import coder
from vae_manager.errors import VaeFileError, VaeManagerError
from vae_manager.selection.decision import Decision, Step
from vae_manager.selection.settings import PanelSettings
from vae_manager.webui.chooser import Asked
from vae_manager.webui.coloring import reference_of, rounded
from vae_manager.webui.deciding import decide, decide_again, decide_all, write_down
from vae_manager.webui.first_stage import FirstStage
from vae_manager.webui.hosts.base import Guards, Host
from vae_manager.webui.hosts.picture_job import PictureJob
from vae_manager.webui.hosts.processed import Processed
from vae_manager.webui.job import Job, Tags, name_of, overruled, read_tags, strip_tags, told
from vae_manager.webui.last_picture import last_picture
from vae_manager.webui.options import Options
from vae_manager.webui.record import settle
from vae_manager.webui.shelf import Shelf
from vae_manager.webui.tenure import Tenure

log = logging.getLogger("vae_manager")

WARNING_KEY = "VAE Manager warning"
"""Under this key of the API's `info.extra_generation_params` stands what could not be done; never in a picture."""


class Session:
    """The extension in a running WebUI. Every method that is given a `p` takes the host's own processing object."""

    def __init__(self, host: Host, options: Options | None = None) -> None:
        self.host = host
        self.shelf = Shelf(host, options or Options())
        self.stage = FirstStage(self.shelf.cache)
        self._tenure: Tenure | None = None
        """The job whose VAE is wanted in the model now."""
        self._lock = threading.RLock()  # previews and API threads

    @property
    def swapped(self) -> bool:
        """Whether the model computes with a VAE of ours at this moment."""
        return self.stage.swapped

    def guards(self) -> Guards:
        """What the host's functions are to call."""
        return Guards(self.release, self.ensure, self._begin_batch, self._end_batch)

    # --- one job, in the order of the host's hooks

    def begin(self, p: object) -> None:
        """`before_process`: put back what a failed job may have left, whatever this one wants."""
        with self._lock:
            self._leave()
            view = PictureJob.of(p)
            view.forget()  # the same object may have failed before
            self.shelf.told = ""
            self.shelf.remember_standing(view)

    def prepare(self, p: object, settings: PanelSettings) -> None:
        """`process`: have the job started when its prompts are final, before the first picture is encoded.

        Others' `process` hooks, such as those of wildcard extensions, may run after ours and write the prompts anew.
        """
        PictureJob.of(p).when_final(lambda: self.start(p, settings))

    def start(self, p: object, settings: PanelSettings) -> None:
        """Decide and swap. Whatever fails here leaves the host's VAE in place and says so."""
        with self._lock:
            view = PictureJob.of(p)
            try:
                self._start(view, settings)
            except Exception as error:
                log.exception("VAE Manager failed; the picture is made with the WebUI's own VAE")
                self._fail(view, f"VAE Manager failed ({error}); the picture was made with the WebUI's own VAE.")

    def next_batch(self, p: object) -> None:
        """`before_process_batch`: the job's VAE in place, and no tag of ours in the prompts that the model sees."""
        view = PictureJob.of(p)
        with self._lock:
            self.ensure(p)
            strip_tags(view)
            if self._tenure is not None and self._tenure.view is view:
                self._tenure.finish_batch(False)

    def ensure(self, p: object = None) -> None:
        """Between the passes: the model may be another now, or another job may have run inside this one."""
        with self._lock:
            view = None if p is None else PictureJob.of(p)
            if view is not None:
                view.begin_now()  # where the host goes another way than through `init`
            if view is not None and view.job is not None:
                self._enter(view, view.job)
            if (tenure := self._tenure) is None:
                return
            try:
                if view is not None:
                    self._read_again(tenure)
                tenure.hold()
            except Exception as error:
                job = tenure.job
                message = error.sentence(name_of(job.decision)) if isinstance(error, VaeFileError) else str(error)
                log.warning("%s The WebUI's own VAE is used from here on.", message)
                self._fail(tenure.view, f"{message} The WebUI's own VAE was used.")

    def finish_pictures(self, p: object, pictures: list[Tensor]) -> list[Tensor]:
        """`postprocess_batch_list`: the batch's pictures, float (3, H, W) in [0, 1], on their way to 8 bits."""
        view = PictureJob.of(p)
        if view.job is None:
            return pictures
        if self._tenure is not None and self._tenure.view is view:
            self._tenure.finish_batch(True)
        return [self._finished_or_left(view, view.job, picture, index) for index, picture in enumerate(pictures)]

    def finish(self, p: object, processed: object = None) -> None:
        """`postprocess`, or the job's end after an exception: give the host its VAE back."""
        with self._lock:
            view = PictureJob.of(p)
            self.shelf.forget_standing(view)
            if (job := view.job) is None:
                return
            job.first_passes.clear()
            job.own_ends.clear()
            self._leave()
            view.job = None
            if processed is None:
                return
            answer = Processed(processed)
            settle(answer)
            self.shelf.look_after(job)
            self.shelf.told = last_picture(job)
            if job.warnings:
                answer.write({**answer.parameters, WARNING_KEY: " ".join(job.warnings)})

    def release(self) -> None:
        """Give the host its own VAE and functions back now. Nothing happens when it has them.

        What cannot be given back just now, for want of memory perhaps, is tried again the next time.
        """
        with self._lock:
            try:
                if self._tenure is not None:
                    self._tenure.let_go()
                self.stage.release()
            except Exception:
                log.exception("VAE Manager could not put the WebUI's own VAE back; it will try again")

    def shut_down(self) -> None:
        """The WebUI unloads its scripts: nothing of ours stays."""
        self.release()
        self.shelf.examiner.cancel()

    # --- which job is in the model

    def _enter(self, view: PictureJob, job: Job) -> None:
        if self._tenure is None or self._tenure.job is not job:
            self._leave()
            self._tenure = Tenure(self.shelf, self.stage, view, job, self._lock)

    def _leave(self) -> None:
        self.release()
        self._tenure = None

    def _begin_batch(self) -> None:
        """The host begins to decode the current batch, in this thread."""
        with self._lock:
            self.ensure()
            if self._tenure is not None:
                self._tenure.begin_batch()

    def _end_batch(self) -> None:
        with self._lock:
            if self._tenure is not None:
                self._tenure.end_batch()

    # --- its decision

    def _start(self, view: PictureJob, settings: PanelSettings) -> None:
        host, shelf = self.host, self.shelf
        tags, overridden = read_tags(view), view.override is not None and host.translates_sd_vae
        if not (settings.enabled or shelf.options.always or tags.asks or overridden):
            for warning in tags.warnings:
                view.comment(warning)
            return
        self.release()
        model = host.current_model()
        if model is None:
            raise VaeManagerError("no model is loaded yet")
        job = Job(shelf.asked(settings, model, view), self._watch(view), tags)
        decisions = decide_all(shelf, job, model)
        for name in filter(None, tags.hires):
            decide(shelf, job, model, name)
        unheard = overruled(view.override, decisions.values(), host.path_of)
        job.warnings += dict.fromkeys([*settings.warnings, *tags.warnings, *told(decisions.values()), *unheard])
        self._adopt(view, job).hold()
        write_down(shelf, view, job, decisions)
        shelf.chooser.save()

    def _read_again(self, tenure: Tenure) -> None:
        """Before a batch: the prompts may have been written anew since the last one."""
        view, job = tenure.view, tenure.job
        if job.given_up:
            return
        tags = read_tags(view)
        if (tags.names, tags.hires) != (job.tags.names, job.tags.hires):
            job.tags = tags
            for warning in tags.warnings:
                job.watch.warn(warning)
            decide_again(self.shelf, view, job, self.host.current_model())

    def _adopt(self, view: PictureJob, job: Job) -> Tenure:
        """From here on this is the job whose VAE must be in place, until it is closed."""
        view.job = self.shelf.last = job
        for warning in job.warnings:
            log.warning(warning)
            view.comment(warning)
        # txt2img, img2img and the API all close their job, also after an exception
        view.close_with(lambda: self.finish(view))
        self._enter(view, job)
        assert self._tenure is not None
        return self._tenure

    def _fail(self, view: PictureJob, message: str) -> None:
        """Something broke: the host's VAE, a comment, and no claim in the infotext."""
        self._leave()
        view.unrecord()
        old, reason = view.job, "something failed"
        decision = Decision("host", "host", reason, trace=(Step("host", "chosen", reason),))
        job = Job(Asked(host=reason), self._watch(view), Tags(), decision=decision, given_up=True)
        if old is None:
            self._adopt(view, job)
        else:
            if old.decision.kind != "host":
                self.host.record(view, old.own.name if old.own else None, None)
            job.warnings += old.warnings
            view.job = self.shelf.last = job
            self._enter(view, job)
        job.watch.warn(message)

    def _watch(self, view: PictureJob) -> coder.Watch:
        def warn(text: str) -> None:
            if view.job is not None and text not in view.job.warnings:
                view.job.warnings.append(text)
                view.comment(text)

        host, limit = self.host, self.shelf.options.memory_limit
        return coder.Watch(host.interrupted, host.say, warn, host.free_memory, limit, wide=self.shelf.wide)

    # --- its pictures

    def _finished_or_left(self, view: PictureJob, job: Job, picture: Tensor, index: int) -> Tensor:
        """Each picture stands for itself: one that fails leaves the others their colours, and what is said of them."""
        try:
            return self._finished(view, job, picture, index)
        except Exception as error:
            log.exception("VAE Manager could not finish a picture; it is left as it is")
            job.watch.warn(f"VAE Manager could not finish the picture ({error}); it was left as it is.")
            return picture

    def _finished(self, view: PictureJob, job: Job, picture: Tensor, index: int) -> Tensor:
        if not job.looks_at_colors(view):
            return picture
        place, shelf = view.first + index, self.shelf
        made = job.made.get(place)
        if made is None:
            model = self.host.current_model()
            choice = job.choice("decode", place, view.in_hires_pass, lambda name: decide(shelf, job, model, name))
            made = shelf.made_by(job, choice)
        began = reference_of(view.began_with(index), view.mask, picture)
        first, own = job.first_passes.pop(place, None), job.own_ends.pop(place, None)
        found = shelf.colors.finish(picture, made, job.color, began, first, own)
        if found.warning:
            job.watch.warn(found.warning)
        if found.said:
            job.colors[place] = found.said
            log.info("Picture %d: %s", place + 1, found.said)
        # what was not recoloured goes through the host's own conversion to 8 bits, whichever that is
        return picture if found.pixels is picture else rounded(found.pixels)
