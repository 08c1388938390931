"""Write into a job's infotext what decodes each of its pictures, and what was found of their colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from vae_manager.selection.decision import AUTOMATIC, Decision
from vae_manager.selection.settings import PanelSettings
from vae_manager.webui.hosts.base import Host
from vae_manager.webui.hosts.picture_job import PictureJob, Said
from vae_manager.webui.hosts.processed import Processed
from vae_manager.webui.infotext import KEY, Recorded, write
from vae_manager.webui.job import Job, Name, differing

COLOR_KEY = "VAE Manager color"
"""The infotext's key for what was found wrong with a picture's colours, and what was done."""

OURS = (KEY, COLOR_KEY, "VAE", "VAE hash")
"""What we may write of the infotext. The last two are the host's own words, which it leaves to others to overrule."""


_FAILED = Decision("host", "host", "it could not be decoded with what was chosen")


def record(host: Host, view: PictureJob, job: Job, decisions: Mapping[Name, Decision], again: bool = False) -> None:
    """Fill the job's generation parameters.

    Args:
        decisions: by what a prompt asks for.
        again: what was recorded for the model before, in the same job, holds no more.
    """
    prompts = view.prompts

    def said(say: Callable[[Decision], str | None]) -> Said:
        value = differing(job.tags, decisions, say, prompts)
        return _done(view, job.failed, value, say(_FAILED)) if job.failed else value

    view.unrecord()
    line = said(lambda decision: write(job.recorded(decision)))
    if job.inexact:
        line = _done(view, job.inexact, line, said(lambda decision: write(_inexact(job.recorded(decision)))))
    view.record({} if line is None else {KEY: line})
    if job.color.mode in ("auto", "match"):
        view.record({COLOR_KEY: lambda **known: job.colors.get(view.picture_of(known))})
    claims = any(job.recorded(decision).settings.vae != AUTOMATIC for decision in decisions.values())
    if not claims and not again and not (job.own and job.hashes.get(job.own)):
        return  # the host's own lines are right, or as right as anybody knows
    host.record(view, said(lambda decision: job.named(decision)[0]), said(lambda decision: job.named(decision)[1]))


def _inexact(recorded: Recorded) -> Recorded:
    """What is said of a picture that the host decoded in its own way: nothing of how."""
    return replace(recorded, settings=replace(recorded.settings, decode=PanelSettings.decode))


def _done(view: PictureJob, others: AbstractSet[int], value: Said, instead: Said) -> Said:
    """The value for pictures that were decoded as decided, and another for those that could not be."""

    def for_picture(**known: Any) -> str | None:
        said = instead if view.picture_of(known) in others else value
        return said(**known) if callable(said) else said

    return for_picture


def settle(answer: Processed) -> None:
    """Once the pictures are written, put the first picture's values in place of functions: they go into the API's
    answer, and not every host can write a function as JSON."""
    params = answer.parameters
    ours = [key for key in OURS if callable(params.get(key))]
    for key in ours:
        value = params[key](all_prompts=answer.prompts, index=0)
        params.pop(key) if value is None else params.update({key: value})
    if ours:
        answer.write(params)
