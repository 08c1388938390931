"""What is printed fits every terminal and is no command to it; interruptions end quietly."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vae_manager import cli
from vae_manager.cli import main
from vae_manager.commands import Result
from vae_manager.commands.terminal import FAULT, printable, strict_json


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "latin-1", "ascii"])
def test_every_terminal(tmp_path: Path, encoding: str):
    (tmp_path / "bad 🐈 ✗.safetensors").touch()
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LANG": "C", "PYTHONUTF8": "0"}
    for flags in ([], ["--json"]):
        call = [sys.executable, "-m", "vae_manager", "list", str(tmp_path), *flags]
        done = subprocess.run(call, capture_output=True, env=environment, check=False)
        assert done.returncode == 0 and not done.stderr
        assert b"bad" in done.stdout
    assert json.loads(done.stdout)[0]["name"] == "bad 🐈 ✗.safetensors"


def test_control_characters_never_reach_a_terminal(tmp_path: Path, capsys):
    name = "a\x1b]0;owned\x07\x9b2J\u202egnp.safetensors"
    (tmp_path / name).touch()
    (tmp_path / "b\nc.safetensors").touch()
    assert main(["list", str(tmp_path)]) == 0
    assert main(["inspect", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out + err)
    assert "\\x1b]0;owned\\x07\\x9b2J\\u202e" in out and "\\x1b" in err
    assert len(out.splitlines()) == 2
    assert printable("plain – ✗ ü\tx\n") == "plain – ✗ ü\tx\n"


def test_json_has_no_nan():
    document = {"a": [float("nan"), float("inf"), 1.5], "b": (float("-inf"),), "c": "NaN"}
    assert json.loads(strict_json(document)) == {"a": [None, None, 1.5], "b": [None], "c": "NaN"}


def test_a_closed_pipe_is_quiet(tmp_path: Path):
    for number in range(3):
        (tmp_path / f"{number}.safetensors").touch()
    read, write = os.pipe()
    os.close(read)
    call = [sys.executable, "-m", "vae_manager", "list", str(tmp_path)]
    done = subprocess.run(call, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode == 0 and done.stderr == b""


def ended_by(monkeypatch, error: BaseException) -> None:
    def command(_: object) -> Result:
        raise error

    monkeypatch.setattr(cli, "_command", lambda name: command)


def test_an_interrupt_is_130(monkeypatch, capsys):
    ended_by(monkeypatch, KeyboardInterrupt())
    assert main(["list"]) == 130 and capsys.readouterr() == ("", "")


def test_what_was_not_foreseen_is_a_sentence_and_can_be_shown(monkeypatch, capsys):
    ended_by(monkeypatch, TypeError("x"))
    assert main(["list"]) == 2
    err = capsys.readouterr().err
    assert FAULT in err and err.count("\n") == 1
    monkeypatch.setenv("VAE_MANAGER_DEBUG", "1")
    with pytest.raises(TypeError):
        main(["list"])
    ended_by(monkeypatch, RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"))
    assert main(["list"]) == 2 and "not enough memory" in capsys.readouterr().err
    ended_by(monkeypatch, RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'"))
    assert main(["list"]) == 2 and "--dtype fp32" in capsys.readouterr().err


def test_wrong_options_are_one_sentence(capsys):
    for call in (
        [],
        ["no-such-command"],
        ["list", "--no-such-option"],
        ["encode", "x", "-o", "y.safetensors", "--vae", "v", "--seed", "9" * 5000],
        ["interpolate", "a", "b", "-o", "o", "--steps", "1e9"],
        ["interpolate", "a", "b", "-o", "o", "--steps", "-3"],
        ["color", "x.png", "--diagnose", "--strength", "nan"],
        ["merge", "a", "b", "-o", "c.safetensors", "--alpha", "much"],
        ["bake", "v", "-o", "c.safetensors", "--contrast", "1e400"],
    ):
        assert main(call) == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1 and len(err) < 600 and FAULT not in err


@pytest.mark.parametrize("options", [["--contrast", "0"], ["--contrast", "nan"], ["--brightness", "1e400"]])
def test_absurd_corrections_are_refused(write_vae, tmp_path: Path, capsys, options: list[str]):
    vae, out = str(write_vae("v.safetensors")), tmp_path / "o.safetensors"
    assert main(["bake", vae, "-o", str(out), *options, "--encoder"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and FAULT not in err and not out.exists()


def test_a_stream_without_an_encoding():
    from vae_manager.commands.terminal import say

    stream = io.StringIO()
    say("✗", stream)
    assert stream.getvalue() == "?\n"
