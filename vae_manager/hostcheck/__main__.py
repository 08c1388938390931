"""`python -m vae_manager.hostcheck WEBUI_DIR…`: the tables of docs/hosts.md, for these WebUIs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vae_manager.errors import BadInputError
from vae_manager.hostcheck.checks import Answer
from vae_manager.hostcheck.derive import requirements
from vae_manager.hostcheck.report import HostReport, check_webui


def tables(reports: Sequence[HostReport]) -> str:
    """One row per WebUI, then one row per requirement."""
    lines = ["| WebUI | adapter | result | found | notes |", "|---|---|---|---|---|"]
    for report in reports:
        found = sum(answer.found is not None for _, answer in report.answers)
        result = "everything required is there" if report.ok else "; ".join(part.where for part in report.missing)
        notes = " ".join(report.notes) or "–"
        lines.append(
            f"| {report.title} | `{report.adapter}.py` | {result} | {found} of {len(report.answers)} | {notes} |"
        )
    names = " | ".join(report.title for report in reports)
    lines += ["", f"| what | used by | {names} |", "|---|---|" + "---|" * len(reports)]
    for row in requirements():
        cells = [next((_cell(answer) for asked, answer in report.answers if asked is row), "") for report in reports]
        needed = "" if row.without is None else " (optional)"
        lines.append(f"| {row.check}{needed} | `{row.needed_by}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(answer: Answer) -> str:
    if answer.found:
        return answer.found.rpartition("/")[2] if ":" in answer.found else "yes"
    return "not checked" if answer.unknown else "**no**"


if __name__ == "__main__":
    try:
        print(tables([check_webui(Path(folder)) for folder in sys.argv[1:]]))
    except BadInputError as error:
        sys.exit(str(error))
