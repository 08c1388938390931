"""Write into a job's infotext what decodes each of its pictures, and what was found of their colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vae_manager.selection.decision import AUTOMATIC, Decision
from vae_manager.webui.hosts.base import Host
from vae_manager.webui.infotext import KEY, write
from vae_manager.webui.job import Job, Name, differing, first_picture

COLOR_KEY = "VAE Manager color"
"""The infotext's key for what was found wrong with a picture's colours, and what was done."""

OURS = (KEY, COLOR_KEY, "VAE", "VAE hash")
"""What we may write of the infotext. The last two are the host's own words, which it leaves to others to overrule."""


WROTE = "vae_manager_wrote"
"""Under this name `p` keeps which of the infotext's keys are ours."""

_FAILED = Decision("host", "host", "it could not be decoded with what was chosen")


def record(host: Host, p: Any, job: Job, decisions: Mapping[Name, Decision], again: bool = False) -> None:
    """Fill the job's generation parameters.

    Args:
        decisions: by what a prompt asks for.
        again: what was recorded for the model before, in the same job, holds no more.
    """
    prompts = list(getattr(p, "all_prompts", None) or [""])

    def said(say: Any) -> Any:
        value = differing(job.tags, decisions, say, prompts)
        return _done(p, job, value, say(_FAILED)) if job.failed else value

    forget_recorded(p)
    # a dict of this job's own: hosts copy `p` for several jobs, which go on sharing the dict of the original
    p.extra_generation_params = dict(p.extra_generation_params)
    setattr(p, WROTE, OURS)
    line = said(lambda decision: write(job.recorded(decision)))
    if line is not None:
        p.extra_generation_params[KEY] = line
    if job.color.mode in ("auto", "match"):
        p.extra_generation_params[COLOR_KEY] = lambda **known: job.colors.get(_picture(p, known))
    claims = any(job.recorded(decision).vae != AUTOMATIC for decision in decisions.values())
    if not claims and not again and not (job.own and job.hashes.get(job.own)):
        return  # the host's own lines are right, or as right as anybody knows
    host.record(p, said(lambda decision: job.named(decision)[0]), said(lambda decision: job.named(decision)[1]))


def forget_recorded(p: Any) -> None:
    """Take out of a job's parameters what an earlier run of it, or of the one that it is a copy of, has written."""
    ours = vars(p).pop(WROTE, ())
    if ours:
        p.extra_generation_params = {k: v for k, v in p.extra_generation_params.items() if k not in ours}


def _done(p: Any, job: Job, value: Any, instead: str | None) -> Any:
    """The value for pictures that were decoded as decided, and another for those that could not be."""

    def for_picture(**known: Any) -> Any:
        if _picture(p, known) in job.failed:
            return instead
        return value(**known) if callable(value) else value

    return for_picture


def settle(processed: Any) -> None:
    """Once the pictures are written, put the first picture's values in place of functions: they go into the API's
    answer, and not every host can write a function as JSON."""
    params = dict(getattr(processed, "extra_generation_params", None) or {})
    ours = [key for key in OURS if callable(params.get(key))]
    for key in ours:
        value = params[key](all_prompts=getattr(processed, "all_prompts", None), index=0)
        params.pop(key) if value is None else params.update({key: value})
    if ours:
        # a copy: the original belongs to pictures that are saved already
        processed.extra_generation_params = params


def _picture(p: Any, known: Mapping[str, Any]) -> int:
    """Which picture an infotext is for: while a batch is saved hosts count within it, afterwards over the job."""
    index = int(known.get("index") or 0)
    return first_picture(p) + index if known.get("all_prompts") is getattr(p, "prompts", None) else index
