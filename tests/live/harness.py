"""Start a real WebUI with or without the extension, drive its API, stop it by its process id.

    WEBUI_DIR         the WebUI's folder (with everything that it needs installed)
    WEBUI_PYTHON      its Python; default WEBUI_DIR/venv/bin/python
    WEBUI_ARGS        more command line flags
    WEBUI_EXTENSIONS  a folder with other people's extensions, for the tests that have them beside ours

Everything that the run writes lies in a data folder of its own (`--data-dir`): the WebUI itself is not touched.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROJECT = Path(__file__).parents[2]
FAULTS = Path(__file__).parent / "faults"
DETECTOR = Path(__file__).parent / "detector"
TIMEOUT = 600

COMMON_FLAGS = [
    "--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-python-version-check", "--skip-version-check",
    "--skip-install", "--api", "--disable-console-progressbars",
]  # fmt: skip
FULL_PRECISION = ["--no-half", "--precision", "full", "--no-download-sd-model", "--do-not-download-clip"]
FLAGS = {
    "a1111": ["--use-cpu", "all", *FULL_PRECISION],
    "forge": ["--always-cpu"],
    "neo": ["--cpu"],
    "reforge": ["--always-cpu", *FULL_PRECISION],
    "classic": ["--always-cpu", "--no-half", "--no-download-sd-model"],
}
CONFIG = {
    # overrides of keys that are not in the file stick, on every host
    "sd_model_checkpoint": "tiny-a.safetensors", "sd_vae": "Automatic", "sd_checkpoints_limit": 1,
    "samples_save": False, "grid_save": False, "live_previews_enable": False, "auto_launch_browser": "Disable",
    "randn_source": "CPU", "img2img_color_correction": False, "VERSION_UID": "PY313", "tiling": False,
    "sd_vae_overrides_per_model_preferences": True, "forge_additional_modules": [], "CLIP_stop_at_last_layers": 1,
    "upscaler_for_img2img": "Lanczos",
}  # fmt: skip


def kind_of(webui: Path) -> str:
    """Which of the five hosts lies in this folder."""
    if (webui / "ldm_patched").is_dir():
        return (
            "classic" if not (webui / "modules_forge" / "forge_version.py").read_text().count("1.0.0v2") else "reforge"
        )
    if (webui / "backend").is_dir():
        return "forge" if "decode_inner" in (webui / "backend" / "patcher" / "vae.py").read_text() else "neo"
    return "a1111"


@dataclass(frozen=True)
class Pictures:
    """The API's answer: pictures, their infotexts, and the `info` document."""

    pixels: list[np.ndarray]
    infotexts: list[str]
    info: dict[str, Any]
    seconds: float

    def tint(self, index: int = 0) -> str:
        """The colour that a tinting VAE gave this picture."""
        means = self.pixels[index].mean(axis=(0, 1))
        return ("red", "green", "blue")[int(means.argmax())] if means.max() - means.min() > 60 else "none"


class WebUI:
    """One run of a WebUI on its own data folder."""

    def __init__(self, webui: Path, data: Path, checkpoints: Path, vaes: Path, encoders: Path | None = None) -> None:
        self.webui, self.data, self.checkpoints, self.vaes, self.encoders = webui, data, checkpoints, vaes, encoders
        self.kind = kind_of(webui)
        self.config: dict[str, Any] = dict(CONFIG)
        self.process: subprocess.Popen[bytes] | None = None
        self.startup_seconds = 0.0
        self._upscalers: set[str] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    @property
    def log(self) -> str:
        return (self.data / "log.txt").read_text(encoding="utf-8", errors="replace")

    def start(self, *extensions: Path) -> WebUI:
        """Start and wait until the API answers. The project's own folder counts as the extension to install."""
        folder = self.data / "extensions"
        for extension in extensions:
            if extension in (PROJECT, FAULTS):
                install(extension, folder / ("vae-manager" if extension == PROJECT else extension.name))
            else:  # somebody else's
                shutil.copytree(extension, folder / extension.name, ignore=shutil.ignore_patterns(".git"))
        (self.data / "tmp").mkdir(exist_ok=True)  # Neo's temporary files go there, and it does not make the folder
        (self.data / "config.json").write_text(json.dumps(self.config, indent=4))
        python = os.environ.get("WEBUI_PYTHON") or str(self.webui / "venv" / "bin" / "python")
        command = [
            python, "launch.py", *COMMON_FLAGS, *FLAGS[self.kind], "--port", str(self.port),
            "--data-dir", str(self.data), "--ckpt-dir", str(self.checkpoints), "--gradio-allowed-path", str(self.webui),
            "--vae-dirs" if self.kind == "neo" else "--vae-dir", str(self.vaes), *self._encoder_flags(),
            *os.environ.get("WEBUI_ARGS", "").split(),
        ]  # fmt: skip
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "SD_WEBUI_RESTARTING": "1",
                       "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1",
                       "PYTHONPATH": str(DETECTOR)}  # fmt: skip
        with open(self.data / "log.txt", "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.webui, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._wait()
        return self

    def _encoder_flags(self) -> list[str]:
        flag = {"forge": "--text-encoder-dir", "neo": "--text-encoder-dirs"}.get(self.kind)
        return [flag, str(self.encoders)] if flag and self.encoders else []

    @property
    def resident(self) -> int:
        """Bytes of memory that the server holds just now (Linux)."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.kill(self.process.pid, signal.SIGKILL)
                self.process.wait(10)

    def _wait(self) -> None:
        begin = time.monotonic()
        while "Startup time: " not in self.log:
            if self.process is None or self.process.poll() is not None or time.monotonic() - begin > 300:
                raise RuntimeError(f"the WebUI did not start:\n{self.log[-3000:]}")
            time.sleep(0.3)
        self.startup_seconds = float(self.log.split("Startup time: ")[1].split("s")[0])

    # --- the API

    @property
    def alive(self) -> bool:
        """Whether the server's process still runs."""
        return self.process is not None and self.process.poll() is None

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=TIMEOUT) as answer:
            return json.load(answer)

    def post(self, path: str, document: Any) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(document).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return json.load(answer)

    def generate(
        self,
        kind: str = "txt2img",
        ours: Any = None,
        fault: str | None = None,
        others: Mapping[str, list[Any]] | None = None,
        **parameters: Any,
    ) -> Pictures:
        """One job.

        Args:
            ours: the arguments of our script.
            fault: what the faults extension shall do to the job.
            others: the arguments of other people's scripts, by title.
        """
        document: dict[str, Any] = {
            "prompt": "a cat", "seed": 1, "steps": 2, "width": 64, "height": 64, "cfg_scale": 5,
            "sampler_name": "Euler a", "scheduler": "Automatic", **parameters,
        }  # fmt: skip
        if document.get("enable_hr") and self.kind in ("forge", "neo"):
            document["hr_additional_modules"] = ["Use same choices"]
        scripts = {title: {"args": args} for title, args in (others or {}).items()}
        if ours is not None:
            scripts["VAE Manager"] = {"args": ours}
        if fault is not None:
            scripts["VAE Manager faults"] = {"args": [fault]}
        if scripts:
            document["alwayson_scripts"] = scripts
        begin = time.monotonic()
        answer = self.post(f"/sdapi/v1/{kind}", document)
        seconds = time.monotonic() - begin
        images = [Image.open(io.BytesIO(base64.b64decode(image))) for image in answer["images"]]
        info = json.loads(answer["info"])
        return Pictures([np.asarray(i.convert("RGB")).astype(int) for i in images], info["infotexts"], info, seconds)

    def has_upscaler(self, name: str | None) -> bool:
        """Whether hires fix can be done with this upscaler here; None needs none."""
        if self._upscalers is None:
            listed = self.get("/sdapi/v1/upscalers") + self.get("/sdapi/v1/latent-upscale-modes")
            self._upscalers = {entry["name"] for entry in listed}
        return name is None or name in self._upscalers

    def dropdown_choices(self, element: str) -> list[str]:
        """The choices of a dropdown of the host's page, by its element's id."""
        components = self.get("/config")["components"]
        props = next(c["props"] for c in components if c["props"].get("elem_id") == element)
        return [choice if isinstance(choice, str) else choice[0] for choice in props["choices"]]

    def native(self, vae: str) -> dict[str, Any]:
        """The host's own way to ask for a VAE in one job."""
        if self.kind in ("forge", "neo"):
            return {"override_settings": {"forge_additional_modules": [str(self.vaes / vae)]}}
        return {"override_settings": {"sd_vae": vae}}


def install(extension: Path, target: Path) -> None:
    """Copy an extension's files as a git clone would lay them, without tests, tools or environments."""
    shutil.rmtree(target, ignore_errors=True)
    for name in ("scripts", "vae_manager", "javascript", "localizations", "metadata.ini", "install.py", "style.css"):
        source = extension / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)


def picture(color: tuple[int, int, int] = (90, 140, 60), size: int = 64) -> str:
    """A picture for img2img: a gradient around a colour, as the API takes it."""
    ramp = np.linspace(-40, 40, size)[None, :, None] + np.zeros((size, 1, 3)) + np.array(color)
    return encoded(Image.fromarray(ramp.clip(0, 255).astype(np.uint8)))


def half_mask(size: int = 64) -> str:
    """An inpainting mask: the right half."""
    mask = np.zeros((size, size), np.uint8)
    mask[:, size // 2 :] = 255
    return encoded(Image.fromarray(mask))


def encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
