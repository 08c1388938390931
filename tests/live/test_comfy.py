"""A real ComfyUI on the CPU, driven by its API: our nodes beside its own.

    COMFY_DIR     the folder of an installed ComfyUI
    COMFY_PYTHON  its Python; default COMFY_DIR/venv/bin/python

Models, pictures and results lie in a folder of the test's own (`--base-directory`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.live.harness import PROJECT
from tests.live.models import write_checkpoint, write_flux_vae, write_vae
from tests.live.zoo import MODELS, write_zoo

LEVEL = 1 / 255
SIDE = (256, 192)
BIG = (1024, 1024)
MEASURED = (640, 640)
"""Of the picture whose decode is measured: larger than ComfyUI's tiles."""
SDXL = next(model for model in MODELS if model.vae == "sdxl")


class Comfy:
    """A running ComfyUI."""

    def __init__(self, folder: Path, python: str, base: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.base = base
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = base / "comfy.log"
        flags = ["--cpu", "--port", str(self.port), "--base-directory", str(base), "--disable-auto-launch"]
        environment = {**os.environ, "VAE_MANAGER_HOME": str(base / "home"), "PYTHONPATH": ""}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, "main.py", *flags], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        for _ in range(900):
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]
                time.sleep(1)
        raise AssertionError(self.log.read_text(errors="replace")[-3000:])

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=600) as answer:
            return json.loads(answer.read() or b"null")

    def post(self, path: str, document: Any) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(document).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def queue(self, graph: dict[str, Any]) -> str:
        return self.post("/prompt", {"prompt": graph})["prompt_id"]

    def result(self, prompt_id: str) -> dict[str, Any]:
        for _ in range(3600):
            found = self.get(f"/history/{prompt_id}")
            if prompt_id in found:
                return found[prompt_id]
            time.sleep(0.5)
        raise AssertionError("ComfyUI has not come to an end")

    def run(self, graph: dict[str, Any]) -> dict[str, Any]:
        """Do it; the texts that its nodes show."""
        found = self.result(self.queue(graph))
        assert found["status"]["status_str"] == "success", found["status"]
        return {node: output["text"][0] for node, output in found["outputs"].items() if "text" in output}

    def kept(self, name: str) -> Tensor:
        return torch.load(self.base / "output" / f"{name}.pt")

    def asked(self, name: str) -> dict[str, Any]:
        return json.loads((self.base / "output" / f"{name}.json").read_text())

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(60)


@pytest.fixture(scope="module")
def comfy(tmp_path_factory) -> Iterator[Comfy]:
    folder = os.environ.get("COMFY_DIR")
    if not folder:
        pytest.skip("these live tests need a ComfyUI: set COMFY_DIR to its folder (docs/live-tests.md)")
    python = os.environ.get("COMFY_PYTHON", f"{folder}/venv/bin/python")
    base = tmp_path_factory.mktemp("comfy")
    for name in ("custom_nodes", "input", "output", "models/checkpoints", "models/vae"):
        (base / name).mkdir(parents=True)
    (base / "custom_nodes" / "vae-manager").symlink_to(PROJECT)
    (base / "custom_nodes" / "spy").symlink_to(Path(__file__).parent / "comfy_spy")
    write_checkpoint(base / "models/checkpoints/tiny-a.safetensors", "tiny-a")
    zoo = write_zoo(base / "zoo", (SDXL,))
    (zoo.checkpoints / SDXL.file).rename(base / "models/checkpoints" / SDXL.file)
    (zoo.vaes / SDXL.vae_file("green")).rename(base / "models/vae" / SDXL.vae_file("green"))
    write_vae(base / "models/vae/tint-red.safetensors", "red")
    write_flux_vae(base / "models/vae/flux.safetensors")
    for name, size in (("noise", SIDE), ("big", BIG), ("measured", MEASURED)):
        pixels = np.random.default_rng(3).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(base / "input" / f"{name}.png")
    running = Comfy(Path(folder), python, base)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


HOW = {"mode": "exact", "memory": "auto"}


def start(vae: str = "tint-red.safetensors", picture: str = "noise") -> dict[str, Any]:
    """A picture as a latent of ComfyUI's own making."""
    return {
        "picture": node("LoadImage", image=f"{picture}.png"),
        "vae": node("VAELoader", vae_name=vae),
        "latent": node("VAEEncode", pixels=["picture", 0], vae=["vae", 0]),
    }


def decoded(comfy: Comfy, name: str, graph: dict[str, Any], last: str = "out") -> tuple[Tensor, dict[str, Any]]:
    texts = comfy.run({**graph, "keep": node("TestKeep", name=name, image=[last, 0])})
    return comfy.kept(name), texts


def own(comfy: Comfy, vae: str = "tint-red.safetensors") -> Tensor:
    """ComfyUI's own decode, in one piece."""
    graph = {**start(vae), "out": node("VAEDecode", samples=["latent", 0], vae=["vae", 0])}
    return decoded(comfy, f"own-{vae}", graph)[0]


def test_the_nodes_are_there(comfy: Comfy):
    kinds = comfy.get("/object_info")
    names = {kind: entry["display_name"] for kind, entry in kinds.items() if kind.startswith("VAEManager")}
    assert sorted(names.values()) == [
        "Colour fix", "VAE (exact)", "VAE Decode (exact)", "VAE Encode (exact)", "VAE for this checkpoint",
    ]  # fmt: skip
    assert kinds["VAEManagerForCheckpoint"]["input"]["required"]["ckpt_name"][0] == ["tiny-a.safetensors", SDXL.file]


@pytest.mark.parametrize("vae", ["tint-red.safetensors", "flux.safetensors"])
def test_decode_exact_is_the_whole_decode(comfy: Comfy, vae: str):
    whole = own(comfy, vae)
    graph = {**start(vae), "out": node("VAEManagerDecode", samples=["latent", 0], vae=["vae", 0], **HOW)}
    exact, texts = decoded(comfy, "exact", graph)
    assert exact.shape == whole.shape == (1, SIDE[1], SIDE[0], 3)
    worst = float((exact - whole).abs().max() / LEVEL)
    print(f"{vae}: {worst:.5f} levels")
    assert worst < 0.005 and texts["out"].startswith("decode: exact, mode")
    assert comfy.asked("exact")["shown"] > 5


def test_the_memory_manager_hears_the_plan(comfy: Comfy):
    own(comfy)
    whole = max(comfy.asked("own-tint-red.safetensors")["asked"])
    how = {"mode": "exact", "memory": "96MiB"}
    graph = {**start(), "out": node("VAEManagerDecode", samples=["latent", 0], vae=["vae", 0], **how)}
    _, texts = decoded(comfy, "promise", graph)
    asked = comfy.asked("promise")["asked"][-1]
    print(f"asked for {asked / 1e6:.0f} MB, whole {whole / 1e6:.0f} MB: {texts['out']}")
    assert 0 < asked <= 96 * 2**20 < whole


def test_encode_exact_is_the_whole_encode(comfy: Comfy):
    graph = {**start(), "out": node("VAEManagerEncode", pixels=["picture", 0], vae=["vae", 0], **HOW)}
    for name, last in (("latent-own", "latent"), ("latent-exact", "out")):
        texts = comfy.run({**graph, "keep": node("TestKeep", name=name, samples=[last, 0])})
    whole, exact = comfy.kept("latent-own"), comfy.kept("latent-exact")
    assert exact.shape == whole.shape and (exact - whole).abs().max() < 1e-4 * whole.abs().max()
    assert texts["out"].startswith("encode: exact")


def test_a_patched_vae_is_exact_where_a_node_asks_for_tiles(comfy: Comfy):
    whole = own(comfy)
    tiles = {"tile_size": 128, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    graph = {
        **start(),
        "exact": node("VAEManagerExact", vae=["vae", 0], **HOW),
        "tiled": node("VAEDecodeTiled", samples=["latent", 0], vae=["vae", 0], **tiles),
        "out": node("VAEDecodeTiled", samples=["latent", 0], vae=["exact", 0], **tiles),
    }
    tiled, _ = decoded(comfy, "tiled", graph, "tiled")
    exact, _ = decoded(comfy, "patched", graph)
    print(f"ComfyUI's tiles: {float((tiled - whole).abs().max() / LEVEL):.2f} levels")
    assert (tiled - whole).abs().max() > LEVEL and (exact - whole).abs().max() < 0.005 * LEVEL
    assert torch.equal(own(comfy), whole)  # the VAE itself is as it was


def test_what_cannot_be_is_comfys_own_with_the_reason(comfy: Comfy):
    how = {"mode": "exact", "memory": "10KB"}
    graph = {**start(), "out": node("VAEManagerDecode", samples=["latent", 0], vae=["vae", 0], **how)}
    found, texts = decoded(comfy, "fallback", graph)
    assert torch.equal(found, own(comfy))
    assert "at least" in texts["out"] and "ComfyUI's own way was used." in texts["out"]


def test_interrupted(comfy: Comfy):
    graph = {
        "empty": node("EmptyLatentImage", width=BIG[0], height=BIG[1], batch_size=1),
        "vae": node("VAELoader", vae_name="tint-red.safetensors"),
        "out": node("VAEManagerDecode", samples=["empty", 0], vae=["vae", 0], **HOW),
        "keep": node("TestKeep", name="interrupted", image=["out", 0]),
    }
    prompt_id = comfy.queue(graph)
    while not comfy.get("/queue")["queue_running"]:
        time.sleep(0.2)
    time.sleep(3)
    comfy.post("/interrupt", {})
    status = comfy.result(prompt_id)["status"]
    assert "execution_interrupted" in [message[0] for message in status["messages"]]
    assert not (comfy.base / "output" / "interrupted.pt").exists()


def test_the_vae_for_a_checkpoint_and_why(comfy: Comfy):
    whole = own(comfy)
    graph = {
        **start(),
        "choice": node("VAEManagerForCheckpoint", ckpt_name="tiny-a.safetensors", prompt="a fox <vae:tint-red>"),
        "out": node("VAEDecode", samples=["latent", 0], vae=["choice", 0]),
    }
    found, texts = decoded(comfy, "chosen", graph)
    assert torch.equal(found, whole) and texts["choice"].startswith("tint-red.safetensors: ")
    graph["choice"] = node("VAEManagerForCheckpoint", ckpt_name="tiny-a.safetensors", prompt="")
    found, texts = decoded(comfy, "baked", graph)
    print(texts["choice"])
    assert not torch.equal(found, whole) and ": " in texts["choice"]


def test_an_sdxl_checkpoint(comfy: Comfy):
    """Its own VAE by ComfyUI's loader and by our node, decoded exactly; and a VAE of its latent space by name."""
    loader = {**start(picture="noise"), "loader": node("CheckpointLoaderSimple", ckpt_name=SDXL.file)}
    loader["latent"] = node("VAEEncode", pixels=["picture", 0], vae=["loader", 2])
    whole, _ = decoded(
        comfy, "sdxl-own", {**loader, "out": node("VAEDecode", samples=["latent", 0], vae=["loader", 2])}
    )
    exact = {**loader, "out": node("VAEManagerDecode", samples=["latent", 0], vae=["loader", 2], **HOW)}
    found, texts = decoded(comfy, "sdxl-exact", exact)
    worst = float((found - whole).abs().max() / LEVEL)
    print(f"SDXL: {worst:.5f} levels; {texts['out']}")
    assert worst < 0.005 and texts["out"].startswith("decode: exact")
    exact["choice"] = node("VAEManagerForCheckpoint", ckpt_name=SDXL.file, prompt="")
    exact["out"] = node("VAEManagerDecode", samples=["latent", 0], vae=["choice", 0], **HOW)
    chosen, texts = decoded(comfy, "sdxl-chosen", exact)
    print(texts["choice"])
    assert torch.equal(chosen, found)
    exact["choice"] = node("VAEManagerForCheckpoint", ckpt_name=SDXL.file, prompt="<vae:sdxl-green>")
    green, texts = decoded(comfy, "sdxl-green", exact)
    assert texts["choice"].startswith("sdxl-green.safetensors: ") and not torch.equal(green, found)
    exact["choice"] = node("VAEManagerForCheckpoint", ckpt_name=SDXL.file, prompt="<vae:flux>")
    refused, texts = decoded(comfy, "sdxl-refused", exact)
    print(texts["choice"])
    assert torch.equal(refused, found) and "flux" in texts["choice"]


def test_time_memory_and_difference_beside_comfys_own(comfy: Comfy):
    """The figures of docs/comfyui.md. What is asserted is not how fast it is, but that the promise is kept."""
    tiles = {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    graph = {**start(picture="measured"), "begin": node("TestBegin", samples=["latent", 0])}
    ways = {
        "whole": ("VAEDecode", {}),
        "its tiles": ("VAEDecodeTiled", tiles),
        "exact": ("VAEManagerDecode", HOW),
        "exact in 300MB": ("VAEManagerDecode", {**HOW, "memory": "300MB"}),
    }
    pictures, took = {}, {}
    for again in range(2):  # the first time, memory is still being made
        for name, (kind, how) in ways.items():
            run = {**graph, "out": node(kind, samples=["begin", 0], vae=["vae", 0], **how)}
            pictures[name], _ = decoded(comfy, f"measured-{again}-{name}", run)
            took[name] = comfy.asked(f"measured-{again}-{name}")
    whole = took["whole"]
    for name, found in took.items():
        worst = float((pictures[name] - pictures["whole"]).abs().max() / LEVEL)
        ratios = found["seconds"] / whole["seconds"], found["grown"] / whole["grown"]
        print(f"{name}: time {ratios[0]:.2f}, memory {ratios[1]:.3f} ({found['grown'] / 1e6:.0f} MB, "
              f"asked for {found['asked'][-1] / 1e6:.0f} MB), {worst:.4f} levels")  # fmt: skip
        if name.startswith("exact"):
            assert worst < 0.005 and found["grown"] <= 1.1 * found["asked"][-1] and ratios[1] < 0.6


def test_colours(comfy: Comfy):
    graph = {
        "picture": node("LoadImage", image="noise.png"),
        "out": node("VAEManagerColourFix", image=["picture", 0], mode="diagnose", strength=1.0, session=True),
    }
    found, texts = decoded(comfy, "colours", graph)
    assert found.shape == (1, SIDE[1], SIDE[0], 3) and texts["out"].startswith("picture 1: ")
    own = {**graph, "keep": node("TestKeep", name="as-it-was", image=["picture", 0])}
    comfy.run(own)
    assert torch.equal(found, comfy.kept("as-it-was"))
    pale = {
        **graph,
        "out": node(
            "VAEManagerColourFix", image=["pale", 0], mode="auto", strength=1.0, session=True, reference=["picture", 0]
        ),
        "pale": node("ImageBlend", image1=["picture", 0], image2=["grey", 0], blend_factor=0.4, blend_mode="normal"),
        "grey": node("EmptyImage", width=SIDE[0], height=SIDE[1], batch_size=1, color=0x808080),
    }
    mended, texts = decoded(comfy, "mended", pale)
    print(texts["out"])
    assert (mended - found).abs().mean() < 0.02 and "corrected" in texts["out"]
