"""Pieces of HTML for the page. Every text that comes in is escaped; what comes out is whole elements."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

SHOWN_SIDE = 768
"""Pixels of the longer side of a picture inside the page."""


def line(text: str, kind: str = "about") -> str:
    """One line of plain text."""
    return f'<p class="vae-manager-{kind}">{html.escape(text)}</p>'


def problems(texts: Sequence[str]) -> str:
    """What is wrong, one line each, announced to screen readers."""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f'<ul class="vae-manager-problems" role="alert">{items}</ul>' if texts else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table that scrolls by itself where the page is narrow."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    titles = f"<thead>{row(head, 'th')}</thead>" if any(head) else ""
    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="vae-manager-table" tabindex="0"><table>{title}{titles}<tbody>{body}</tbody></table></div>'


def picture(image: Image.Image, text: str) -> str:
    """A picture inside the page, no larger than it is looked at."""
    image = image.convert("RGB")
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    with io.BytesIO() as file:
        image.save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'  # the page does not jump when it comes
    return f'<img src="data:image/png;base64,{data}" {size} alt="{html.escape(text)}">'


def before_after(before: Image.Image, after: Image.Image, names: tuple[str, str]) -> str:
    """Two pictures of one size under one another, with a handle that uncovers the second (`vae_manager_page.js`)."""
    left, right = map(html.escape, names)
    return (
        f'<div class="vae-manager-slider" style="--at: 50%"><div class="vae-manager-stack">'
        f'{picture(after, names[1])}<div class="vae-manager-over">{picture(before, names[0])}</div></div>'
        f'<label><span>{left}</span><input type="range" min="0" max="100" value="50" '
        f'aria-label="{left} on the left, {right} on the right"><span>{right}</span></label></div>'
    )


def difference(one: np.ndarray, other: np.ndarray, gain: float = 8.0) -> Image.Image:
    """Where two pictures differ: (H, W, 3) in [0, 1] each. Black: nowhere; yellow: by 1/gain or more."""
    off = np.clip(np.abs(one - other).mean(axis=2) * gain, 0, 1)
    stops = np.array([0.0, 0.35, 0.7, 1.0])
    ramp = np.array([(0, 0, 0), (86, 24, 120), (224, 82, 56), (252, 240, 120)], dtype=float)
    channels = [np.interp(off, stops, ramp[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def histogram(image: Image.Image, text: str) -> str:
    """How often each brightness occurs in red, green and blue, as a small drawing."""
    pixels = np.asarray(image.convert("RGB"))
    counts = [np.bincount(pixels[..., channel].ravel() // 4, minlength=64) for channel in range(3)]
    top = max(1, max(int(np.sort(count)[-3]) for count in counts))  # one full level must not hide the rest
    paths = "".join(
        f'<path class="vae-manager-{name}" d="M0 64 '
        + " ".join(f"L{at * 4 + 2} {64 - 62 * min(1.0, n / top):.1f}" for at, n in enumerate(count))
        + ' L256 64 Z"/>'
        for name, count in zip(("red", "green", "blue"), counts)
    )
    named = f'role="img" aria-label="{html.escape(text)}"'
    return f'<svg class="vae-manager-histogram" viewBox="0 0 256 66" {named}>{paths}</svg>'


def bars(rows: Sequence[tuple[str, float, str, bool]], limit: tuple[str, float, str]) -> str:
    """Amounts beside one another, the limit the last.

    Args:
        rows: (name, amount, amount in words, whether it is the chosen one).
        limit: the same of the limit.
    """
    most = max([limit[1], *(amount for _, amount, _, _ in rows)]) or 1.0
    drawn = "".join(
        f'<div class="vae-manager-bar{" vae-manager-chosen" if chosen else ""}"><span>{html.escape(name)}</span>'
        f'<div><div style="width: {100 * amount / most:.1f}%"></div></div><span>{html.escape(words)}</span></div>'
        for name, amount, words, chosen in [*rows, (*limit, False)]
    )
    return f'<div class="vae-manager-bars">{drawn}</div>'
