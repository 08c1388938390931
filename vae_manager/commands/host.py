"""`check-host`: does a WebUI have every symbol that the adapters use? Its source is read, nothing of it is run."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae_manager.commands import Result
from vae_manager.hostcheck.report import HostReport, check_webui


def check_host(args: argparse.Namespace) -> Result:
    """Check one WebUI. What is missing refuses it; what is optional is only noted."""
    found = check_webui(Path(args.webui))
    return Result(found.document(), _text(found, args.webui), refusal=None if found.ok else refusal(found))


def refusal(found: HostReport) -> str:
    """What is missing, in one sentence."""
    parts = [part.where for part in found.missing]
    more = f"; and {len(parts) - 5} more, see --json" if len(parts) > 5 else ""
    return f"VAE Manager cannot work in this {found.host}: {'; '.join(parts[:5])}{more}."


def _text(found: HostReport, folder: str) -> str:
    there = sum(answer.found is not None for _, answer in found.answers)
    lines = [f"{found.title} in {folder}, served by webui/hosts/{found.adapter}.py"]
    if found.ok:
        lines.append(f"Everything that is required is there ({there} of {len(found.answers)} things found).")
    for part in found.missing:
        lines.append(f"✗ {part.where} (needed by {part.needed_by})")
    lines += [f"– {note}" for note in found.notes]
    return "\n".join(lines)
