"""REST under /vae-manager/v1/: what is there, and what the last picture was given. Reads only."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from vae_manager import __version__
from vae_manager.errors import VaeFileError
from vae_manager.library.files import VaeFile
from vae_manager.library.report import quick_report
from vae_manager.selection.choose import Wishes, choose
from vae_manager.selection.decision import AUTOMATIC
from vae_manager.selection.settings import PanelSettings
from vae_manager.selection.twins import baked_twin
from vae_manager.webui.session import Session
from vae_manager.webui.shelf import Shelf

log = logging.getLogger("vae_manager")

PREFIX = "/vae-manager/v1"


def add_routes(app: FastAPI, session: Session) -> None:
    """Add the routes to the WebUI's server, behind the door that the WebUI itself has: none of them without its API,
    and none without its login."""
    door, shelf = session.host.door(), session.shelf
    if not door.open:
        return

    def route(path: str, answer: Callable[..., Any]) -> None:
        app.add_api_route(PREFIX + path, answer, methods=["GET"], dependencies=_guard(app, door.logins))

    def status() -> dict[str, Any]:
        return {
            "version": __version__,
            "host": session.host.name,
            "cached_bytes": shelf.cache.bytes,
            "cache_limit": shelf.cache.limit,
            "swapped": session.swapped,
            "examining": vars(shelf.examiner.progress),
        }

    def vaes(refresh: bool = False) -> Any:
        return strict([_entry(file, shelf) for file in shelf.files(refresh)])

    def match(vae: str = AUTOMATIC) -> Any:
        found = shelf.preview(PanelSettings(True, vae or AUTOMATIC))
        decision = found[1] if found else choose(Wishes(vae), shelf.index())
        twin = baked_twin(found[0], shelf.index().files) if found else None
        answer = {
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
        return strict(answer)

    def decision() -> Any:
        return strict(shelf.last.document()) if shelf.last else None

    route("/status", status)
    route("/vaes", vaes)
    route("/match", match)
    route("/decision", decision)


def strict(value: Any) -> Any:
    """A value as strict JSON in UTF-8 can say it: what is no number becomes null, what is no text gets a mark."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):  # a file name need not be Unicode text
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {strict(key): strict(item) for key, item in value.items()}
    return [strict(item) for item in value] if isinstance(value, (list, tuple)) else value


def _entry(file: VaeFile, shelf: Shelf) -> dict[str, Any]:
    """One file; a strange one never hides the others."""
    try:
        found = quick_report(file, shelf.hashes)
    except Exception as error:
        log.exception("VAE Manager could not look at %s", file.path)
        found = VaeFileError(f"it could not be looked at ({type(error).__name__}: {error})")
    if isinstance(found, VaeFileError):
        return {"name": file.name, "bytes": file.size, "problems": [str(found)]}
    return {"name": file.name, **{k: v for k, v in found.document().items() if k != "path"}}


def _guard(app: FastAPI, logins: tuple[tuple[str, str], ...] | None) -> list[Any]:
    """What lets a request in: one of these logins, or the page's own, with its cookie."""
    if logins is None:
        return []
    basic = HTTPBasic(auto_error=False)

    def check(request: Request, given: HTTPBasicCredentials | None = Depends(basic)) -> None:  # noqa: B008 - FastAPI's
        if given is not None:
            for user, password in logins:
                if _same(given.username, user) and _same(given.password, password):
                    return
        if _is_logged_in(app, request):
            return
        raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    return [Depends(check)]


def _is_logged_in(app: FastAPI, request: Request) -> bool:
    """Whether the request comes from a page of somebody who went through Gradio's own login."""
    tokens = getattr(app, "tokens", None) if getattr(app, "auth", None) else None
    cookies = (value for name, value in request.cookies.items() if name.startswith("access-token"))
    return bool(tokens) and any(cookie in tokens for cookie in cookies)


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())
