"""From the names that our sources use to the questions that a WebUI is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from vae_manager.hostcheck.checks import Check, Hook, Member, Shape, Symbol, Text
from vae_manager.hostcheck.ours import ADAPTERS, Use, our_uses
from vae_manager.hostcheck.requirements import (
    ARGUMENTS,
    CLASSES,
    CMD_OPTS,
    COPES,
    OPTIONS,
    OPTS,
    WRITTEN,
    Requirement,
)


@cache
def requirements() -> tuple[Requirement, ...]:
    """Every row: one for each name that our sources use, then those that are written down."""
    return (*derived(our_uses()), *WRITTEN)


def derived(uses: Iterable[Use]) -> list[Requirement]:
    """A row for each name that no written row answers for, and that no longer name asks for as well."""
    rows = [*_rows(uses)]
    return [row for row in rows if not _asked_by_another(row, rows)]


def _rows(uses: Iterable[Use]) -> Iterator[Requirement]:
    answered = {(name, host) for row in WRITTEN for name in row.uses for host in row.hosts}
    by_name: dict[str, list[Use]] = {}
    for use in uses:
        by_name.setdefault(use.name, []).append(use)
    checks: dict[Check, list[tuple[Use, str]]] = {}
    for name, found in by_name.items():
        for host in ADAPTERS:
            of_host = [use for use in found if host in use.hosts]
            if of_host and (name, host) not in answered and (check := _question(name, host, of_host)) is not None:
                checks.setdefault(check, []).append((of_host[0], host))
    for check, asked in checks.items():
        first, hosts = asked[0][0], {host for _, host in asked}
        in_order = tuple(host for host in ADAPTERS if host in hosts)
        yield Requirement(first.name, check, first.file, (first.name,), in_order, _how_we_cope(first.name))


def _question(name: str, host: str, uses: list[Use]) -> Check | None:
    """What to ask of a WebUI for a name; None: nothing."""
    calls: tuple[Shape, ...] = tuple(dict.fromkeys(use.call for use in uses if use.call is not None))
    owner, _, member = name.rpartition(".")
    if owner == CMD_OPTS:
        return Text((f"--{member.replace('_', '-')}",), ARGUMENTS)
    if owner == OPTS and not calls:
        return Text((member,), OPTIONS)
    if hook := next((use for use in uses if use.is_hook), None):
        return Hook(member, hook.keywords)
    if classes := CLASSES.get(owner, {}).get(host):
        return Member(classes, member, calls)
    if not owner:  # the object itself, which we are given
        return None
    return Symbol(name, calls)


def _asked_by_another(row: Requirement, rows: list[Requirement]) -> bool:
    """Whether to ask for a longer name asks for this one as well."""
    plain = isinstance(row.check, Symbol) and not row.check.calls
    return plain and any(
        isinstance(other.check, Symbol) and other.check.name.startswith(f"{row.id}.") and {*row.hosts} <= {*other.hosts}
        for other in (*rows, *WRITTEN)
    )


def _how_we_cope(name: str) -> str | None:
    parts = name.split(".")
    beginnings = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((COPES[beginning] for beginning in beginnings if beginning in COPES), None)
