"""The decisions of one job, with files that can be used; and what its infotext says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vae_manager.errors import VaeFileError, os_reason
from vae_manager.selection.decision import Decision
from vae_manager.webui.first_stage import ready
from vae_manager.webui.frames import causal_config
from vae_manager.webui.hosts.picture_job import PictureJob
from vae_manager.webui.job import Job, Name, as_host, files_of, told
from vae_manager.webui.record import record
from vae_manager.webui.shelf import Shelf


def decide_all(shelf: Shelf, job: Job, model: Any) -> dict[Name, Decision]:
    """The decisions for all pictures with this model, by what their prompts ask for; the job's own is set."""
    job.checkpoint = shelf.host.checkpoint(model)
    decisions = {name: decide(shelf, job, model, name) for name in dict.fromkeys(job.tags.names)}
    job.decision = decisions[job.tags.of(0)]
    return decisions


def decide_again(shelf: Shelf, view: PictureJob, job: Job, model: Any) -> None:
    """The same for another model or other prompts in mid-job, and the infotext says what is true of what follows."""
    decisions = decide_all(shelf, job, model)
    for warning in told(decisions.values()):
        job.watch.warn(warning)
    write_down(shelf, view, job, decisions, again=True)


def follow(shelf: Shelf, view: PictureJob, job: Job, model: Any) -> None:
    """A refiner's or a hires pass's checkpoint has come in: decide for it."""
    job.asked = shelf.asked(job.asked.settings, model, view)
    decide_again(shelf, view, job, model)


def decide(shelf: Shelf, job: Job, model: Any, name: Name) -> Decision:
    """The decision for what one prompt asks for; kept for the job."""
    path = shelf.host.checkpoint(model)
    if (path, name) not in job.decisions:
        checkpoint, files = shelf.checkpoint(model), shelf.looking(job.asked)
        unusable: dict[str, str] = {}
        while True:
            asked = replace(job.asked, unusable=unusable)
            decision = shelf.chooser.decide(asked, name, checkpoint, files)
            refused, learnt = _hashed(shelf, job, decision)
            # a hash may tell that a file is of another family: then decide again, before anything is loaded
            refused = refused or ({} if learnt else _refused(shelf, decision, model))
            if not refused and not learnt:
                break
            unusable.update(refused)
        job.decisions[path, name] = as_host(decision, job.own)
    return job.decisions[path, name]


def write_down(shelf: Shelf, view: PictureJob, job: Job, decisions: dict[Name, Decision], again: bool = False) -> None:
    """Have the infotext say what decodes the job's pictures, the host's own VAE included."""
    if job.own is not None:
        job.hashes.setdefault(job.own, shelf.hash_of(job.own) or "")
    record(shelf.host, view, job, decisions, again)


def _hashed(shelf: Shelf, job: Job, decision: Decision) -> tuple[dict[str, str], bool]:
    """Have the hashes of the decision's files. Returns what cannot be read, and whether one was new."""
    learnt = False
    for file in files_of(decision):
        if file.path in job.hashes:
            continue
        learnt = learnt or shelf.hashes.peek(file) is None
        try:
            job.hashes[file.path] = shelf.hashes.sha256(file)
        except VaeFileError as error:
            return {str(file.path): str(error)}, learnt
        except OSError as error:
            return {str(file.path): f"it cannot be read: {os_reason(error)}"}, learnt
    return {}, learnt


def _refused(shelf: Shelf, decision: Decision, model: Any) -> dict[str, str]:
    """What loading the decision's files says against them, by path; empty where all is well."""
    stage = shelf.host.first_stage(model)
    for file in files_of(decision):
        try:
            if stage is None or shelf.tinies.of(file, stage) is not None:
                continue
            if causal_config(stage) is not None:
                shelf.frames.check(file, stage)
            else:
                ready(shelf.cache, file, stage)
        except VaeFileError as error:
            return {str(file.path): str(error)}
        except OSError as error:
            return {str(file.path): f"it cannot be read: {os_reason(error)}"}
    return {}
