"""Pasting a picture's parameters, and "Send to": what each of our fields makes of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.webui.test_session import OneModel, start
from vae_manager.library.hashing import sha256_of
from vae_manager.selection.settings import TABLE, PanelSettings
from vae_manager.webui import paste
from vae_manager.webui.infotext import KEY
from vae_manager.webui.session import Session

NAMES = [name for name in TABLE if name != "reference"]


def pasted(session: Session, params: dict[str, Any]) -> dict[str, Any]:
    """What the panel holds after a paste, by the names of its settings; `params` is changed as the host's is."""
    paste.on_pasted(params, session.shelf)
    panel = SimpleNamespace(settings={name: name for name in TABLE})
    found = paste.fields(panel, session.shelf)  # type: ignore[arg-type]
    assert all(isinstance(key, str) and key.startswith(f"{KEY} ") for _, key in found)  # "Send to" compares names
    assert len({str(key) for _, key in found}) == len(NAMES)
    return {component: key(params) for component, key in found}


def test_a_picture_of_ours_switches_the_panel_on_and_another_one_off(session: Session):
    default = {name: getattr(PanelSettings(), name) for name in NAMES}
    assert pasted(session, {"Steps": "1"}) == default
    assert pasted(session, {KEY: "", "Steps": "1"})["enabled"] is False
    line = "vae=b.safetensors; encode_vae=Baked; hires_vae=c.safetensors; decode=exact; color=manual; "
    line += "color_strength=0.5; contrast=1.25; brightness=-0.1; saturation=0; padding=reflect"
    assert pasted(session, {KEY: line}) == {
        "enabled": True, "vae": "b.safetensors", "encode_vae": "Baked", "hires_vae": "c.safetensors",
        "decode": "exact", "color": "manual", "color_strength": 0.5, "contrast": 1.25, "brightness": -0.1,
        "saturation": 0.0, "padding": "reflect",
    }  # fmt: skip


def test_the_hosts_own_lines_go_with_a_picture_of_ours_only(session: Session):
    params = {KEY: "vae=b.safetensors", "VAE": "b.safetensors", "VAE hash": "1234567890"}
    pasted(session, params)
    assert params == {KEY: "vae=b.safetensors"}
    foreign = {"VAE": "b.safetensors", "VAE hash": "1234567890"}
    pasted(session, foreign)
    assert foreign == {"VAE": "b.safetensors", "VAE hash": "1234567890"}  # the host applies it itself


def test_a_renamed_file_is_found_by_the_hash_that_we_wrote(session: Session, host: OneModel):
    job = start(session, "b")
    line = job.extra_generation_params[KEY]
    session.finish(job)
    (host.folder / "VAE" / "b.safetensors").rename(host.folder / "VAE" / "renamed.safetensors")
    session.shelf.files(refresh=True)
    assert pasted(session, {KEY: line})["vae"] == "b.safetensors"  # its hash is not known: generating says so
    file = session.shelf.find("renamed")
    session.shelf.hashes.sha256(file)
    assert pasted(session, {KEY: line})["vae"] == "renamed.safetensors"


def test_a_hash_that_another_webui_wrote_is_no_evidence(session: Session, host: OneModel):
    """A1111 prints an earlier file's hash; the name is what its user chose."""
    other = sha256_of(host.folder / "VAE" / "c.safetensors")
    for file in session.shelf.files():
        session.shelf.hashes.sha256(file)
    host.foreign_vae = lambda params, is_vae: "b" if is_vae("b") else None  # type: ignore[method-assign]
    found = pasted(session, {"VAE": "b", "VAE hash": other[:10], "VAE/TE": ["b"]})
    assert (found["enabled"], found["vae"]) == (True, "b")


@pytest.mark.parametrize("name", ["nope", "clip_l", "\ud800"])
def test_what_is_no_vae_here_is_left_to_the_host(session: Session, host: OneModel, name: str):
    host.foreign_vae = lambda params, is_vae: name if is_vae(name) else None  # type: ignore[method-assign]
    params = {"VAE": name}
    assert pasted(session, params)["enabled"] is False and params == {"VAE": name}
