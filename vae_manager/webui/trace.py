"""How a decision came about, as a table that opens below the panel's line."""

from __future__ import annotations

import html
from collections.abc import Sequence

from vae_manager.selection.decision import Step


def trace_html(steps: Sequence[Step]) -> str:
    """Each step of the precedence, what it came to and why; empty where nothing was decided."""
    if not steps:
        return ""
    head = ("Step", "Outcome", "Why")
    title = "How this was decided"
    return (
        f'<details class="vae-manager-trace"><summary>{title}</summary>'
        f"{table(head, [(step.step, step.outcome, step.detail) for step in steps])}</details>"
    )


def line(text: str) -> str:
    """One line of plain text, as the panel shows it."""
    return f'<p class="vae-manager-about">{html.escape(text)}</p>'


def told(text: str) -> str:
    """The same where there is something to say; else nothing, which `style.css` hides."""
    return line(text) if text else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table that scrolls by itself where the page is narrow (`style.css`); every text is escaped."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="vae-manager-table"><table><thead>{row(head, "th")}</thead><tbody>{body}</tbody></table></div>'
