"""REST: who may ask, and that nothing in a folder of VAEs takes it down. FastAPI's own part is a small fake."""

from __future__ import annotations

import base64
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.conftest import make_state
from tests.webui.test_session import OneModel, start
from vae_manager.webui.hosts.base import Door, Host, logins_of
from vae_manager.webui.session import Session

PREFIX = "/vae-manager/v1"


class Refused(Exception):
    """FastAPI's HTTPException."""

    def __init__(self, status: int, detail: str, headers: dict[str, str]) -> None:
        super().__init__(detail)
        self.status, self.headers = status, headers


class App:
    """What our routes use of the WebUI's FastAPI application, asked without a network."""

    auth: Any = None
    tokens: dict[str, str] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.routes: dict[str, tuple[Callable[..., Any], list[Any]]] = {}

    def add_api_route(self, path: str, answer: Callable[..., Any], methods: list[str], dependencies: list[Any]) -> None:
        assert methods == ["GET"]
        self.routes[path] = answer, dependencies

    def get(self, path: str, login: str | None = None, cookies: dict[str, str] | None = None, **query: Any) -> Any:
        """The answer, through strict JSON in UTF-8."""
        answer, guards = self.routes[PREFIX + path]
        given = None
        if login is not None:
            user, _, password = base64.b64decode(base64.b64encode(login.encode())).decode().partition(":")
            given = SimpleNamespace(username=user, password=password)
        for guard in guards:
            guard(SimpleNamespace(cookies=cookies or {}), given)
        return json.loads(json.dumps(answer(**query), allow_nan=False, ensure_ascii=False).encode("utf-8"))


@pytest.fixture
def api(monkeypatch) -> Any:
    fastapi, security = ModuleType("fastapi"), ModuleType("fastapi.security")
    vars(fastapi).update(Depends=lambda call: call, FastAPI=App, HTTPException=Refused, Request=object)
    vars(security).update(HTTPBasic=lambda auto_error: None, HTTPBasicCredentials=object)
    monkeypatch.setitem(sys.modules, "fastapi", fastapi)
    monkeypatch.setitem(sys.modules, "fastapi.security", security)
    monkeypatch.delitem(sys.modules, "vae_manager.webui.api", raising=False)
    module = importlib.import_module("vae_manager.webui.api")
    yield module
    sys.modules.pop("vae_manager.webui.api", None)


@pytest.fixture
def served(api, session: Session, host: OneModel) -> Callable[..., App]:
    def serve(door: Door | None = None) -> App:
        host.door = lambda: door or Door(True)  # type: ignore[method-assign]
        app = App()
        api.add_routes(app, session)
        return app

    return serve


def test_what_the_routes_answer(served, session: Session, host: OneModel):
    app = served()
    assert set(app.routes) == {f"{PREFIX}/{name}" for name in ("status", "vaes", "match", "decision")}
    assert app.get("/decision") is None and app.get("/status")["swapped"] is False
    job = start(session)
    assert app.get("/status")["swapped"] is True
    found = app.get("/decision")
    assert (found["vae"], found["kind"], found["source"]) == ("b.safetensors", "file", "panel")
    session.finish(job)
    assert [row["name"] for row in app.get("/vaes")] == ["b.safetensors", "c.safetensors"]
    assert app.get("/match")["kind"] == "baked" and app.get("/match", vae="c")["vae"] == "c.safetensors"
    host.model = None
    assert app.get("/match", vae="c")["checkpoint"] is None


def test_without_the_webuis_api_there_is_none_of_ours(served):
    assert served(Door(False)).routes == {}


@pytest.mark.parametrize("login", [None, "", ":", "ann:", "ann:wrong", "bob:secret", "ann:secret:"])
def test_a_login_is_asked_for(served, login: str | None):
    app = served(Door(True, (("ann", "secret"), ("bob", "p:w"))))
    for path in app.routes:
        with pytest.raises(Refused) as refused:
            app.get(path.removeprefix(PREFIX), login)
        assert refused.value.status == 401 and refused.value.headers == {"WWW-Authenticate": "Basic"}
    assert app.get("/status", "ann:secret")["version"] and app.get("/status", "bob:p:w")["version"]


def test_a_login_that_lets_nobody_in(served):
    app = served(Door(True, logins_of(",")))
    for login in (None, ":", ","):
        with pytest.raises(Refused):
            app.get("/status", login)


def test_a_page_that_went_through_gradios_login(served):
    app = served(Door(True, (("ann", "secret"),)))
    app.auth, app.tokens = {"ann": "secret"}, {"token": "ann"}
    for name in ("access-token", "access-token-unsecure-1x"):
        assert app.get("/status", cookies={name: "token"})["version"]
    for cookies in ({"access-token": "other"}, {"other": "token"}, {"access-token": ""}):
        with pytest.raises(Refused):
            app.get("/status", cookies=cookies)
    app.auth = None
    with pytest.raises(Refused):
        app.get("/status", cookies={"access-token": "token"})


@pytest.mark.parametrize(
    "flags,door",
    [
        ({}, Door(False)),
        ({"api": True}, Door(True)),
        ({"nowebui": True}, Door(True)),
        ({"api": True, "api_auth": "a:1,b:2"}, Door(True, (("a", "1"), ("b", "2")))),
        ({"api": True, "api_auth": "a:1", "gradio_auth": "c:3"}, Door(True, (("a", "1"),))),
        ({"api": True, "gradio_auth": "c:3"}, Door(True, (("c", "3"),))),
        ({"api": True, "gradio_auth": "c:3", "gradio_auth_path": "logins"}, Door(True, logins_of("c:3,d:4,e:5"))),
        ({"api": True, "api_auth": ","}, Door(True, ())),
    ],
)  # fmt: skip
def test_the_door_is_the_webuis_own(monkeypatch, tmp_path: Path, flags: dict[str, Any], door: Door):
    (tmp_path / "logins").write_text("d:4,\n\ne:5\n")
    monkeypatch.chdir(tmp_path)
    modules, shared = ModuleType("modules"), ModuleType("modules.shared")
    modules.shared, shared.cmd_opts = shared, SimpleNamespace(**flags)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modules", modules)
    monkeypatch.setitem(sys.modules, "modules.shared", shared)
    assert Host().door() == door


def test_strange_files_hide_neither_themselves_nor_others(served, session: Session, host: OneModel, monkeypatch):
    folder = host.folder / "VAE"
    (folder / "broken.safetensors").write_bytes(b"\x10")
    save_file(make_state(), str(folder / "nan.safetensors"), {"scale_factor": "nan", "title": "x"})
    save_file(make_state(), str(folder / "inf.safetensors"), {"scale_factor": "inf"})
    not_text = os.fsdecode(b"caf\xe9.safetensors")
    save_file(make_state(seed=4), str(folder / "x.safetensors"))
    try:
        os.rename(folder / "x.safetensors", folder / not_text)
    except OSError:
        not_text = ""  # a file system that takes Unicode alone
    from vae_manager.webui import api as module

    real = module.quick_report
    monkeypatch.setattr(module, "quick_report", lambda f, h: 1 / 0 if f.name == "c.safetensors" else real(f, h))
    rows = {row["name"]: row for row in served().get("/vaes", refresh=True)}
    assert rows.keys() >= {"b.safetensors", "broken.safetensors", "nan.safetensors", "inf.safetensors"}
    assert "division by zero" in rows["c.safetensors"]["problems"][0] and rows["broken.safetensors"]["problems"]
    assert len(rows) == 5 + bool(not_text) and all(name.isprintable() for name in rows)
    assert not_text not in session.shelf.names() and "b.safetensors" in session.shelf.names()


def test_strict_json(api):
    values = {"a": [1.5, float("nan"), float("-inf")], "b": ("x\udce9", None, True), "c": {"d": 2}}
    assert api.strict(values) == {"a": [1.5, None, None], "b": ["x?", None, True], "c": {"d": 2}}
