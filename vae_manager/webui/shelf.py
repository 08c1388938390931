"""What lives as long as the WebUI: files, hashes, rules and presets, the examiner, what is known of colours."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vae_manager.codec.cache import StateCache
from vae_manager.color.trip import undoing
from vae_manager.errors import VaeFileError
from vae_manager.library.files import VaeFile, find_vaes, vae_file
from vae_manager.library.hashing import HashCache
from vae_manager.library.known import on_purpose
from vae_manager.selection.checkpoint import Checkpoint
from vae_manager.selection.decision import BAKED, Decision, Part, Step
from vae_manager.selection.examiner import Examiner
from vae_manager.selection.names import VaeIndex
from vae_manager.selection.preset_file import Preset, VaeWish
from vae_manager.selection.settings import PanelSettings
from vae_manager.store import open_store
from vae_manager.webui.chooser import Asked, Chooser
from vae_manager.webui.coloring import Colors, Made, vae_fault
from vae_manager.webui.describe import describe_choice
from vae_manager.webui.first_stage import left_alone
from vae_manager.webui.frames import Frames
from vae_manager.webui.hosts.base import Host
from vae_manager.webui.hosts.picture_job import PictureJob
from vae_manager.webui.job import Job, files_of
from vae_manager.webui.looking import Looking
from vae_manager.webui.offers import Offer, offers_of
from vae_manager.webui.options import Options
from vae_manager.webui.tiny import Tinies

log = logging.getLogger("vae_manager")

KEPT_LATENTS = 4

OFFERED_ANEW = 1.0
"""Seconds for which a list of offers is good: a page asks a dozen times while it is built."""

EXAMINER_SHARE = 0.2
"""The part of its time that the background examiner works: the next picture goes before."""


@dataclass(frozen=True)
class _Overridden:
    """A job that overrides the host's setting, for as long as it runs."""

    by: PictureJob
    wanted: str | None
    setting: str | None
    """The user's own."""


class Shelf:
    """What is known, whichever job runs. Nothing here waits for a job."""

    def __init__(self, host: Host, options: Options) -> None:
        self.host = host
        self.options = options
        """The settings as they were at the last job."""
        self.hashes = HashCache(open_store(host.data_folder()))
        self.chooser = Chooser(host.data_folder(), self.hashes)
        self.examiner = Examiner(self.hashes, self.chooser.facts, share=EXAMINER_SHARE)
        self.colors = Colors(host.data_folder())
        self.latents: deque[tuple[Path, Tensor]] = deque(maxlen=KEPT_LATENTS)
        """The last latents that were decoded, unscaled, with their checkpoint: for calibrating, never on disk."""
        self.cache = StateCache(options.cache_bytes)
        """VAEs that are ready to be swapped in."""
        self.tinies = Tinies()
        self.frames = Frames(self.cache)
        self.wide: set[Any] = set()
        """The VAEs whose activations have overflowed half precision in this run of the WebUI."""
        self.last: Job | None = None
        """The last job that was ours, for the panel and the REST interface."""
        self.told = ""
        """The line about the last picture; empty where nothing of ours made it."""
        self.pasted = float("-inf")
        """When a picture's parameters were pasted last, by `time.monotonic`."""
        self._index: VaeIndex | None = None
        self._overridden: _Overridden | None = None
        self._offered: tuple[float, tuple[Offer, ...]] = (0.0, ())

    def obey(self, options: Options) -> None:
        """The settings as they are for the next job."""
        self.options, self.cache.limit = options, options.cache_bytes

    # --- the files

    def files(self, refresh: bool = False) -> tuple[VaeFile, ...]:
        """The VAE files that there are, as of the last refresh."""
        return self.index(refresh).files

    def index(self, refresh: bool = False) -> VaeIndex:
        """The same, ready to be looked up by name."""
        if refresh or self._index is None:
            self._index = VaeIndex.of(find_vaes(self.host.vae_folders()), self.hashes)
        return self._index

    def names(self, refresh: bool = False) -> list[str]:
        """What the panel lists. Never raises; a name that is no Unicode text could not be sent to the page."""
        try:
            return [file.name for file in self.files(refresh) if _is_text(file.name)]
        except Exception:
            log.exception("VAE Manager could not list the VAE files")
            return []

    def offers(self, refresh: bool = False) -> tuple[Offer, ...]:
        """The same for lists and cards: those first that fit the checkpoint that comes next. Never raises."""
        if refresh or time.monotonic() > self._offered[0]:
            files = [file for file in self.files() if _is_text(file.name)] if self.names(refresh) else []
            try:
                offers = offers_of(files, self.chooser.facts, self.hashes, self._next()[1])
                self.chooser.save()
            except Exception:
                log.exception("VAE Manager could not say which VAEs fit")
                offers = tuple(Offer(file) for file in files)
            self._offered = time.monotonic() + OFFERED_ANEW, offers
        return self._offered[1]

    def find(self, name: str) -> VaeFile:
        """The file that a name means, after another look at the disk where there seems to be none.

        Raises:
            BadInputError: there is none, or there are several.
        """
        return Looking.over(self.index(), (), lambda: self.index(refresh=True)).find(name)

    def looking(self, asked: Asked) -> VaeIndex:
        """The files for a decision: the list, what the host itself names, and another look at the disk at need."""
        return Looking.over(self.index(), (asked.standing, asked.job, asked.own), lambda: self.index(refresh=True))

    def hash_of(self, path: Path) -> str | None:
        """A file's sha256, computed if need be; None where it cannot be read."""
        try:
            return self.hashes.sha256(vae_file(path))
        except (OSError, VaeFileError):
            return None

    # --- what is decided: for a job, or were one to begin now

    def checkpoint(self, model: Any) -> Checkpoint | None:
        """What is known of a model's checkpoint."""
        path, name = self.host.checkpoint(model), self.host.checkpoint_name(model)
        return self.chooser.checkpoint(path, name, self.host.latent_format(model))

    def _next(self) -> tuple[Any | None, Checkpoint | None]:
        """The checkpoint that the next picture is made with, None where there is none; and its model, where that is
        the one that is loaded."""
        model, place = self.host.current_model(), self.host.next_checkpoint()
        if place is None:
            return None, None
        if model is None or self.host.checkpoint(model) != place[0]:
            return None, self.chooser.checkpoint(*place)
        return model, self.checkpoint(model)

    def asked(self, settings: PanelSettings, model: Any | None, view: PictureJob | None = None) -> Asked:
        """What is asked for with this model loaded. The panel's line and a job both decide by this and nothing else, so
        that what the line promises is what the job gets.

        Args:
            model: None: the one that comes next is not loaded yet.
            view: the job; None: the panel is on, and nothing is overridden.
        """
        own, stage = self.host.loaded_vae(model), None if model is None else self.host.first_stage(model)
        job = None if view is None else self._overriding(view)
        standing = self._standing() if view is None else self.host.standing_vae()
        return Asked(
            settings,
            on=view is None or settings.enabled or self.options.always,
            asker="the X/Y/Z cell" if view is not None and view.cell else "the panel",
            job=job,
            standing=None if standing == job else standing,  # an override is asked for once
            own=own,
            left_alone=None if stage is None else left_alone(stage),
            host=f"the WebUI's own choice: {own.name if own else 'the baked VAE'}",
            allow_other_family=self.options.allow_other_family,
        )

    def preview(self, settings: PanelSettings) -> tuple[Checkpoint, Decision] | None:
        """What the next picture's checkpoint would get with these settings; None while there is none."""
        model, checkpoint = self._next()
        if checkpoint is None:
            return None
        asked = self.asked(settings, model)
        if model is None:
            asked = replace(asked, left_alone=checkpoint.hosts_own)
        files = self.looking(asked)
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

    def remember_standing(self, view: PictureJob) -> None:
        """Before a job's overrides are applied: what they are, and what the user's own setting is."""
        wanted = self.host.job_vae(view)
        if wanted is not None:
            self._overridden = _Overridden(view, wanted, self._standing())

    def forget_standing(self, view: PictureJob) -> None:
        """This job's overrides end with it."""
        if self._overridden is not None and self._overridden.by.is_of(view):
            self._overridden = None

    def _overriding(self, view: PictureJob) -> str | None:
        """What a job overrides the host's setting with. Neo takes the override away when it has obeyed it."""
        before = self._overridden
        return before.wanted if before is not None and before.by.is_of(view) else self.host.job_vae(view)

    def _standing(self) -> str | None:
        """The user's own setting, also while a job overrides it."""
        now, other = self.host.standing_vae(), self._overridden
        # after an exception nobody tells us that the job is over, but the host has restored its setting
        return other.setting if other is not None and other.wanted == now else now

    def _newly_hashed(self, file: VaeFile) -> bool:
        """Have the hash of a file that was chosen by name; whether it was not known before."""
        return self.hashes.peek(file) is None and self.hash_of(file.path) is not None

    # --- after a job

    def made_by(self, job: Job, choice: Decision | Part) -> Made:
        """What a picture was made by, and what is known against it."""
        checkpoint = vae_file(self.host.checkpoint(self.host.current_model()))
        own = vae_file(job.own) if choice.kind == "host" and job.own else None
        vae = choice.vae or own or checkpoint
        problems = self.chooser.facts.health(vae)  # as far as it was looked at in the background
        sha256 = job.hashes.get(vae.path)
        intended = None if vae is checkpoint else on_purpose(vae.path.name, sha256)
        trip = self.chooser.facts.trip(vae)
        undone = None if trip is None else undoing(trip)
        return Made(checkpoint.version, vae.version, vae_fault(sha256, problems), undone, intended)

    def look_after(self, job: Job) -> None:
        """Keep what the job has used, where the user wants that, and find out what the next decision may need."""
        try:
            if self.options.remember:
                self._remember(job)
            model = self.host.current_model()
            checkpoint = self.checkpoint(model) if model is not None else None
            # hashes, digests, the baked VAE's health: in the background
            doubted = {made.vae[0] for made in job.made.values() if self.colors.doubts(made)}
            files = [vae_file(Path(path)) for path in doubted]
            self.examiner.add(self.files(), [checkpoint.file] if checkpoint else [], files)
        except Exception:
            log.exception("VAE Manager could not look after what the job has used")

    def _remember(self, job: Job) -> None:
        """Keep the VAE that was used on request as the checkpoint's preset, unless the user saved another."""
        model, decision = self.host.current_model(), job.decision
        checkpoint = self.checkpoint(model) if model is not None else None
        if checkpoint is None or decision.source != "panel" or decision.kind == "host":
            return
        name = decision.vae.name if decision.vae else BAKED
        wish = VaeWish(name, job.hashes.get(decision.vae.path) if decision.vae else None)
        try:
            self.chooser.presets.remember(checkpoint, Preset(wish))
        except OSError as error:
            log.warning("What was used with %s could not be remembered: %s", checkpoint.name, error)


def _is_text(name: str) -> bool:
    return name.encode("utf-8", "ignore").decode() == name
