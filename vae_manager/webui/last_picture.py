"""The picture that was made last, in a line: with which VAE, how it was decoded, what was done about its colours."""

from __future__ import annotations

from vae_manager.selection.decision import Decision
from vae_manager.webui.job import Job

SEPARATOR = " · "
"""Between the parts of the line, each of which says something by itself."""


def last_picture(job: Job) -> str:
    """The line for a job whose pictures are made; of several pictures, what holds for the last."""
    return SEPARATOR.join([f"Last picture: {_vae(job)}", _decoded(job), _colours(job), *dict.fromkeys(job.warnings)])


def _vae(job: Job) -> str:
    """What decoded it; a batch whose prompts ask for several has one answer each."""
    found = {name: decision for (path, name), decision in job.decisions.items() if path == job.checkpoint}
    made = dict.fromkeys(_called(found.get(name, job.decision)) for name in job.tags.names)
    return ", ".join(made)


def _called(decision: Decision) -> str:
    if decision.vae is not None:
        return decision.vae.name
    return "the VAE baked into the checkpoint" if decision.kind == "baked" else "the WebUI's own VAE"


def _decoded(job: Job) -> str:
    if job.failed:
        return "decoded with the WebUI's own VAE instead"
    runs = [report for report in job.watch.reports if report.plan.decodes]
    if not runs:
        return "decoded in one piece by the WebUI"
    last = runs[-1]
    return f"decoded exactly in {last.seconds:.1f} s within {last.peak_bytes / 1e9:.1f} GB"


def _colours(job: Job) -> str:
    if job.color.mode == "off":
        return "colours untouched"
    if job.color.mode == "manual":
        return "colours set by hand"
    return f"colours: {job.colors[max(job.colors)]}" if job.colors else "colours untouched, nothing to fix"
