"""Every command on every case: it works, or refuses with one sentence; and nothing of the user's is touched."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cases import write_cases
from vae_manager.cli import main
from vae_manager.commands.terminal import FAULT
from vae_manager.library import health, probe

GUARD = 120
"""Seconds after which a call hangs, on any machine."""

COMMANDS = {
    "inspect": "inspect F",
    "health": "inspect F --health",
    "list": "list F",
    "convert": "convert F -o OUT/o.safetensors",
    "convert to diffusers": "convert F -o OUT/o.safetensors --dtype fp16 --layout diffusers",
    "convert in place": "convert F -o F",
    "match": "match F",
    "match with all": "match F --vae-dir DIR --prompt <vae:a01-ldm>",
    "match by rules": "match a16-checkpoint-fp16.safetensors --rules F",
    "match by presets": "match a16-checkpoint-fp16.safetensors --presets F",
    "presets": "presets --presets F",
    "presets exported": "presets --export F",
    "presets imported": "presets --import F",
    "cards": "presets --import-cards F",
    "encode": "encode F -o OUT/o.safetensors --vae a01-ldm.safetensors",
    "encode in place": "encode F -o F --vae a01-ldm.safetensors",
    "encode by": "encode p01.png -o OUT/o.safetensors --vae F --sample --mode exact",
    "decode": "decode F -o OUT/o.png --vae a01-ldm.safetensors",
    "decode by": "decode g00-latent.safetensors -o OUT/o.npy --vae F --memory-limit 1GB",
    "decode by, whole": "decode g00-latent.safetensors -o OUT/o.png --bits 16 --vae F --mode whole --dtype bf16",
    "decode over": "decode g00-latent.safetensors -o F --vae F",
    "interpolate": "interpolate F g00-latent.safetensors -o OUT/o --steps 3",
    "interpolate over": "interpolate g00-latent.safetensors F -o F --method spherical",
    "merge": "merge F e04-sd1.safetensors -o OUT/o.safetensors",
    "merge second": "merge e04-sd1.safetensors F -o OUT/o.safetensors --alpha 1",
    "bake": "bake F -o OUT/o.safetensors --contrast 0.9 --encoder",
    "bake by": "bake a01-ldm.safetensors -o OUT/o.safetensors --calibration F --encoder",
    "calibrate": "calibrate F --vae a01-ldm.safetensors --reference-vae a03-diffusers.safetensors -o OUT/o.json",
    "calibrate by": "calibrate g00-latent.safetensors --vae F --reference-vae a01-ldm.safetensors -o F",
    "diagnose": "color F --diagnose",
    "color": "color F -o OUT/o --reference p01.png",
    "color by": "color p01.png -o OUT/o --reference F",
    "check-host": "check-host F",
}

NAMELESS = ("decode over", "list")
"""Where the sentence may be about something else than the file."""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch) -> None:
    """What looks at pictures looks at two small ones: here it counts how a command ends, not what a verdict is."""
    pictures = probe.bundled_pictures(16)[:2]
    for module in (probe, health):
        monkeypatch.setattr(module, "bundled_pictures", lambda: pictures)


@pytest.fixture
def guard() -> Iterator[Callable[[int], None]]:
    """What has not ended after `GUARD` seconds is ended (a test of hanging, not of speed)."""

    def hangs(*_: object) -> None:
        raise AssertionError("it hangs")

    if not hasattr(signal, "SIGALRM"):
        yield lambda seconds: None
        return
    before = signal.signal(signal.SIGALRM, hangs)
    yield lambda seconds: signal.alarm(seconds) and None
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def state_of(folder: Path, content: bool) -> dict[str, object]:
    """Names, modes and times of the files; with their hashes if wanted."""
    found: dict[str, object] = {}
    for path in folder.iterdir():
        stat = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if content else ""
        found[path.name] = (stat.st_mode, stat.st_mtime_ns, stat.st_size, digest)
    return found


def faults(call: list[str], path: Path, out: Path, code: int, printed: str, err: str, as_json: bool) -> list[str]:
    """What is wrong with the answer of one call."""
    found = []
    lines = err.strip().splitlines()
    if code not in (0, 2):
        found.append(f"exit {code}")
    if "Traceback" in err or FAULT in err or "\x1b" in err + printed:
        found.append("no sentence of ours")
    if code == 2 and not (lines and lines[-1].startswith("vae-manager: ")):
        found.append("no sentence")
    if code == 2 and any(out.rglob("*.*")):
        found.append(f"left {[p.name for p in out.rglob('*.*')]}")
    if any(p.name.startswith(".") for p in out.rglob("*")):
        found.append("left a temporary file")
    if code == 0 and as_json:
        try:
            json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
        except ValueError:
            found.append("no JSON")
    return [f"{' '.join(call)!a}: {what}: {err[-600:]!a}" for what in found]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_case(name: str, cases: list[Path], tmp_path: Path, capsys, monkeypatch, guard):
    folder = cases[0].parent
    monkeypatch.chdir(folder)
    monkeypatch.setattr("torch.load", lambda *a, **k: pytest.fail("a pickle was run"))
    before, wrong = state_of(folder, content=True), []
    shallow = state_of(folder, content=False)
    for number, path in enumerate(cases):
        if name == "presets exported" and path.name == "j01-presets.json":
            continue  # an earlier export, which may be replaced
        out, as_json = tmp_path / str(number), number % 2 == 0
        out.mkdir()
        words = {"F": path.name, "DIR": str(folder)}
        call = [words.get(word, word.replace("OUT", str(out))) for word in COMMANDS[name].split(" ")]
        guard(GUARD)
        code = main([*call, "--json"] if as_json else call)
        guard(0)
        printed, err = capsys.readouterr()
        wrong += faults(call, path, out, code, printed, err, as_json)
        if state_of(folder, content=False) != shallow:
            wrong.append(f"{call!a} touched the folder")
            shallow = state_of(folder, content=False)
        if code == 2 and name not in NAMELESS and os.path.basename(path.stem)[:3] not in err:
            wrong.append(f"{call!a} does not name the file: {err!a}")
    assert not wrong, "\n".join(wrong)
    assert state_of(folder, content=True) == before


def test_folders_of_all_of_them(cases: list[Path], capsys, guard):
    folder = str(cases[0].parent)
    for call in (["list", folder], ["match", "--all", folder, "--vae-dir", folder]):
        guard(GUARD)
        assert main([*call, "--json"]) == 0
        guard(0)
        printed, err = capsys.readouterr()
        assert len(json.loads(printed)) > 5 and FAULT not in err
        assert main(call) == 0 and "\x1b" not in capsys.readouterr().out
