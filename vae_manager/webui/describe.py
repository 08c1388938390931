"""What one choice of the panel means, in a line of plain text."""

from __future__ import annotations

from collections.abc import Callable

from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.library.files import VaeFile
from vae_manager.library.hashing import HashCache
from vae_manager.library.report import quick_report
from vae_manager.selection.checkpoint import Checkpoint
from vae_manager.selection.decision import AUTOMATIC, BAKED, Decision

Found = tuple[Checkpoint, Decision] | None
"""The checkpoint that is loaded, and what it would get; None while none is loaded."""


def describe_choice(choice: str, find: Callable[[str], VaeFile], hashes: HashCache, found: Found) -> str:
    """Say what the choice is, or what is wrong with it: a choice that would be refused is called so beforehand.

    Reads a file's header at most.

    Args:
        find: the file of a name; raises BadInputError.
        found: what the checkpoint gets with this choice.
    """
    if choice == AUTOMATIC:
        return describe_automatic(found)
    if found is not None and (refusal := refusal_of(found[1])):
        return refusal
    if choice == BAKED:
        return "Baked: the VAE inside the checkpoint, whatever the WebUI has set."
    try:
        file = find(choice)
    except BadInputError as error:
        return str(error)
    return describe_file(file, hashes)


def refusal_of(decision: Decision) -> str | None:
    """Why the panel's own choice would not be used; None where it would, or where it made none."""
    refused = (step.detail for step in decision.trace if step.step == "panel" and step.outcome == "refused")
    return next(refused, None)


def describe_automatic(found: Found) -> str:
    """What the loaded checkpoint gets and why, and what would make it better; None while none is loaded."""
    if found is None:
        return "Automatic: the VAE that suits the checkpoint; none is loaded yet."
    checkpoint, decision = found
    what = {"baked": "its baked VAE", "host": "the WebUI's own VAE"}.get(decision.kind) or (
        decision.vae.name if decision.vae else ""
    )
    more = [*decision.warnings, *decision.advice]
    return " ".join([f"Automatic: {checkpoint.file.path.name} gets {what} — {decision.reason}.", *more])


def describe_file(file: VaeFile, hashes: HashCache) -> str:
    """One VAE file: family, precision, size and what it is good for, or why it cannot be used."""
    found = quick_report(file, hashes)
    if isinstance(found, VaeFileError):
        return found.sentence(file.name)
    if found.identity.problems:
        return VaeFileError(found.identity.problems[0]).sentence(file.name)
    parts = [
        found.known.name if found.known else found.identity.title,
        found.evidence if found.space == "unknown" else f"for {found.title}",
        found.identity.dtype,
        f"{file.size / 1e6:.0f} MB",
        found.known.purpose if found.known else None,
    ]
    return " · ".join(part for part in parts if part)
