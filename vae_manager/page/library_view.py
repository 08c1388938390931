"""Every VAE in a table that can be searched and sorted, and everything of one of them."""

from __future__ import annotations

import html
import logging
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vae_manager.errors import Interrupted, VaeFileError, VaeManagerError, os_reason
from vae_manager.library.files import VaeFile, vae_file
from vae_manager.library.report import Report, quick_report, report
from vae_manager.page.house import House
from vae_manager.page.markup import line, problems, table
from vae_manager.page.work import Tell, part_of, silent

log = logging.getLogger("vae_manager")

HEAD = ("Name", "What it is", "Made for", "Size", "Precision", "Same weights as", "Health")


TOLD_OF = 50
"""Files of which a list's progress is told once: most take less time than the telling."""


@dataclass(frozen=True)
class Row:
    """One VAE."""

    name: str
    size: int
    what: str = ""
    space: str = ""
    precision: str = ""
    same: str = ""
    health: str = ""

    def cells(self) -> tuple[str, ...]:
        size = f"{self.size / 1e6:,.1f} MB" if self.size >= 1e5 else f"{self.size:,} bytes"
        return (self.what, self.space, size, self.precision, self.same, self.health)


def quick_rows(files: Iterable[VaeFile]) -> list[Row]:
    """The names alone, for the first paint."""
    return [Row(file.name, file.size) for file in files if file.name.isprintable()]


def rows(house: House, files: Sequence[VaeFile], tell: Tell = silent) -> list[Row]:
    """What headers say of each, and what is known beside.

    Raises:
        Interrupted: `tell` did.
    """
    same, found = _twins(house, files), []
    for at, file in enumerate(files):
        if at % TOLD_OF == 0:
            tell((at, len(files)), desc=file.name)
        if not file.name.isprintable():  # no page could show it, and no prompt ask for it
            continue
        try:
            found.append(_row(house, file, same))
        except Exception as error:  # one strange file must not hide the others
            log.exception("VAE Manager could not look at %s", file.path)
            found.append(Row(file.name, file.size, health=f"it could not be looked at ({type(error).__name__})"))
    return found


def library_html(found: Sequence[Row]) -> str:
    """The table. `vae_manager_page.js` searches and sorts it; a name is a button that shows everything of it. Roles are
    said, for `style.css` lays its rows out by themselves."""
    if not found:
        return line("There is no VAE in these folders yet.")
    head = "".join(
        f'<th role="columnheader"><button type="button" data-sort="{index}">{html.escape(name)}</button></th>'
        for index, name in enumerate(HEAD)
    )
    body = "".join(map(_tr, found))
    return (
        f'<p class="vae-manager-count" role="status">{len(found)} VAEs</p>'
        f'<div class="vae-manager-table" tabindex="0"><table class="vae-manager-library" role="table">'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead><tbody role="rowgroup">{body}</tbody></table></div>'
    )


def details_html(house: House, name: str, tell: Tell = silent) -> str:
    """Everything that is known of one VAE of the list, its hash included: seconds for a large file.

    Raises:
        Interrupted: `tell` did.
    """
    file = next((file for file in house.vaes() if file.name == name), None)
    return line(f"There is no VAE {name!r} any more.") if file is None else _details(house, file, tell)


def dropped_html(house: House, path: str, tell: Tell = silent) -> str:
    """The same of a file that was dropped onto the page."""
    try:
        return _details(house, vae_file(Path(path)), tell)
    except OSError as error:
        return line(f"The file cannot be read ({os_reason(error)}).")


def _details(house: House, file: VaeFile, tell: Tell) -> str:
    try:
        found = report(file, house.hashes, digest=False, progress=part_of(tell, 0, 1, file.name))
    except VaeFileError as error:
        return problems([error.sentence(file.name)])
    except Interrupted:
        raise
    except (VaeManagerError, OSError) as error:
        return problems([str(error)])
    pairs = [
        ("File", file.name),
        ("Name", found.known.name if found.known else found.identity.title or ""),
        ("Good for", found.known.purpose if found.known else ""),
        ("Made for", found.made_for or "not known"),
        ("How that is known", found.evidence),
        ("Precision", found.identity.dtype),
        ("Size", f"{file.size:,} bytes"),
        ("Latent channels", str(found.identity.latent_channels or "")),
        ("sha256", found.sha256 or ""),
    ]
    quoted = shlex.quote(file.path.name)
    commands = [
        ("Look for damage", f"vae-manager inspect {quoted} --health"),
        ("Half the size", f"vae-manager convert {quoted} -o half.safetensors --dtype fp16"),
    ]
    return (
        problems([VaeFileError(text).sentence(file.name) for text in found.identity.problems])
        + table(("", ""), [pair for pair in pairs if pair[1]], file.name)
        + table(("To do", "Command"), commands)
    )


def _row(house: House, file: VaeFile, same: Mapping[str, str]) -> Row:
    found = _report(house, file)
    if isinstance(found, VaeFileError):
        return Row(file.name, file.size, health=str(found))
    damage = next(iter([*found.identity.problems, *house.facts.health(file)]), "")
    what = found.known.name if found.known else found.identity.title or ""
    channels = found.identity.latent_channels
    space = found.made_for or (f"{channels} latent channels" if channels else "")
    return Row(file.name, file.size, what, space, found.identity.dtype, same.get(file.name, ""), damage)


def _report(house: House, file: VaeFile) -> Report | VaeFileError:
    return _looked(house.hashes, file, house.hashes.peek(file))


@lru_cache(maxsize=8192)
def _looked(hashes: object, file: VaeFile, sha256: str | None) -> Report | VaeFileError:
    """A header's report, kept until the file or what is known of it changes."""
    return quick_report(file, hashes)  # type: ignore[arg-type]


def _twins(house: House, files: Sequence[VaeFile]) -> dict[str, str]:
    """Name → another name of the same weights, as far as digests are known."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        if digest := house.facts.digest(file, compute=False):
            groups[digest].append(file.name)
    return {
        name: ", ".join(other for other in names if other != name)
        for names in groups.values() if len(names) > 1 for name in names
    }  # fmt: skip


def _tr(row: Row) -> str:
    name, what = html.escape(row.name), row.cells()
    tds = "".join(
        f'<td role="cell"{f" data-value={row.size}" if HEAD[at] == "Size" else ""}>{html.escape(cell)}</td>'
        for at, cell in enumerate(what, start=1)
    )
    mark = ' class="vae-manager-damaged"' if row.health else ""
    button = f'<button type="button" data-vae="{name}">{name}</button>'
    return f'<tr role="row"{mark}><td role="cell">{button}</td>{tds}</tr>'
