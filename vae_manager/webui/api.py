"""REST under /vae-manager/v1/: what is there, and what the last picture was given. Reads only."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from vae_manager import __version__
from vae_manager.errors import VaeFileError
from vae_manager.library.report import quick_report
from vae_manager.selection.choose import Wishes, choose
from vae_manager.selection.decision import AUTOMATIC
from vae_manager.selection.twins import baked_twin
from vae_manager.webui.session import Session
from vae_manager.webui.settings import PanelSettings

PREFIX = "/vae-manager/v1"


def add_routes(app: FastAPI, session: Session, logins: str | None = None) -> None:
    """Add the routes to the WebUI's server.

    `logins`: the WebUI's `--api-auth` ("user:password,user2:…"); when it is set, these routes ask for it too.
    """

    def route(path: str, answer: Callable[..., Any]) -> None:
        app.add_api_route(PREFIX + path, answer, methods=["GET"], dependencies=_guard(logins))

    def status() -> dict[str, Any]:
        return {
            "version": __version__,
            "host": session.host.name,
            "cached_bytes": session.stage.cache.bytes,
            "cache_limit": session.stage.cache.limit,
            "swapped": session.swapped,
            "examining": vars(session.examiner.progress),
        }

    def vaes(refresh: bool = False) -> list[dict[str, Any]]:
        return [_entry(file, session) for file in session.files(refresh)]

    def match(vae: str = AUTOMATIC) -> dict[str, Any]:
        found = session.preview(PanelSettings(True, vae or AUTOMATIC))
        decision = found[1] if found else choose(Wishes(vae), session.index())
        twin = baked_twin(found[0], session.index().files) if found else None
        return {
            "checkpoint": found[0].name if found else None,
            "baked_same_as": twin.name if twin else None,
            "kind": decision.kind,
            "vae": decision.vae.name if decision.vae else None,
            "source": decision.source,
            "reason": decision.reason,
            "warnings": list(decision.warnings),
            "advice": list(decision.advice),
            "trace": [vars(step) for step in decision.trace],
        }

    def decision() -> dict[str, Any] | None:
        return session.last.document() if session.last else None

    route("/status", status)
    route("/vaes", vaes)
    route("/match", match)
    route("/decision", decision)


def _entry(file, session: Session) -> dict[str, Any]:
    found = quick_report(file, session.hashes)
    if isinstance(found, VaeFileError):
        return {"name": file.name, "bytes": file.size, "problems": [str(found)]}
    return {"name": file.name, **{k: v for k, v in found.document().items() if k != "path"}}


def _guard(logins: str | None) -> list[Any]:
    if not logins:
        return []
    pairs = [login.strip().partition(":")[::2] for login in logins.split(",")]

    def check(given: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008 - FastAPI's way
        for user, password in pairs:
            if _same(given.username, user) and _same(given.password, password):
                return
        raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    return [Depends(check)]


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())
