"""The smallest host, and a session in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.webui.test_session import OneModel
from vae_manager.webui.options import Options
from vae_manager.webui.session import Session


@pytest.fixture
def host(tmp_path: Path, write_vae) -> OneModel:
    write_vae("VAE/b.safetensors", seed=2)
    write_vae("VAE/c.safetensors", seed=3)
    return OneModel(tmp_path)


@pytest.fixture
def session(host: OneModel) -> Iterator[Session]:
    session = Session(host, Options(1 << 30))
    yield session
    session.shut_down()
