"""Commands that compute no tensors start without what takes seconds to load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.conftest import make_state

PROGRAM = """
import sys
from vae_manager.cli import main
status = main(sys.argv[1:])
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(status)
"""


def loaded(home: Path, *arguments: str | Path) -> tuple[set[str], str]:
    """The modules that a command loaded, and what it printed; each in a process of its own."""
    environment = {**os.environ, "VAE_MANAGER_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split()), done.stdout


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    state = make_state()
    save_file(state, folder / "a.safetensors", {"norm_num_groups": "8"})
    save_file({f"first_stage_model.{name}": tensor for name, tensor in state.items()}, folder / "model.safetensors")
    (folder / "broken.safetensors").write_bytes(b"\0" * 100)
    return folder


HEAVY = ("torch", "numpy", "PIL", "gradio", "filelock", "psutil", "tqdm", "asyncio")


@pytest.mark.parametrize("command", ["--help", "list --help", "list", "presets", "match --all", "check-host -h"])
def test_loads_nothing_heavy(tmp_path: Path, files: Path, command: str):
    arguments = [*command.split(), *([files] if command in ("list", "match --all") else [])]
    modules, printed = loaded(tmp_path / "home", *arguments)
    assert not modules.intersection(HEAVY)
    if command == "list":
        assert "a.safetensors" in printed and "broken" in printed


def test_inspect_of_safetensors_takes_no_torch(tmp_path: Path, files: Path):
    modules, printed = loaded(tmp_path / "home", "inspect", files / "a.safetensors", "--json")
    document = json.loads(printed)
    assert len(document["weights_digest"]) == len(document["sha256"]) == 64
    assert not modules.intersection(("torch", "PIL", "gradio"))


def test_match_of_what_is_known_takes_no_torch(tmp_path: Path, files: Path):
    home, arguments = tmp_path / "home", ("match", files / "model.safetensors", "--vae-dir", files, "--json")
    first, printed = loaded(home, *arguments)
    assert "torch" in first  # it looked for damage in the weights
    again, same = loaded(home, *arguments)
    assert not again.intersection(("torch", "PIL", "gradio")) and json.loads(same) == json.loads(printed)
