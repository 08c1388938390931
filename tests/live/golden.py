"""What a WebUI with the extension makes of a fixed list of jobs, as JSON, to compare before and after a change.

    WEBUI_DIR=… python -m tests.live.golden record before.json
    WEBUI_DIR=… python -m tests.live.golden record after.json
    python -m tests.live.golden compare before.json after.json

Kept of each job: the pictures' SHA-256, the infotexts, the API's `info`, the decision's document; and what the REST
interface and the panel say of each choice. Names of temporary folders, times, free memory and
subseeds are left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.live.conftest import HIRES, IMG2IMG
from tests.live.harness import FAULTS, PROJECT, Pictures, WebUI, half_mask
from tests.live.models import write_models

INPAINT = {**IMG2IMG, "mask": half_mask(), "inpainting_fill": 1, "mask_blur": 0}
OTHER = {"override_settings": {"sd_model_checkpoint": "tiny-b.safetensors"}}
PIXEL, LATENT = {**HIRES, "hr_upscaler": "Lanczos"}, {**HIRES, "hr_upscaler": "Latent"}
RED = {"vae": "tint-red"}

JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "off": ("txt2img", {}),
    "off img2img": ("img2img", IMG2IMG),
    "red": ("txt2img", {"ours": [RED]}),
    "red img2img": ("img2img", {"ours": [RED], **IMG2IMG}),
    "red inpaint": ("img2img", {"ours": [RED], **INPAINT}),
    "baked": ("txt2img", {"ours": [{"vae": "Baked"}]}),
    "automatic": ("txt2img", {"ours": [True, "Automatic"]}),
    "unknown": ("txt2img", {"ours": [True, "nope"]}),
    "encode and decode": ("img2img", {"ours": [{**RED, "encode_vae": "tint-green"}], **IMG2IMG}),
    "hires pixel": ("txt2img", {"ours": [{**RED, "hires_vae": "tint-green"}], **PIXEL}),
    "hires latent": ("txt2img", {"ours": [RED], **LATENT}),
    "tag": ("txt2img", {"prompt": "a cat <vae:tint-blue>"}),
    "tags of a batch": ("txt2img", {"batch_size": 3, "fault": "prompts:a <vae:tint-red>|b <vae:tint-green>|c"}),
    "negative tag": ("txt2img", {"negative_prompt": "<vae:tint-red>", "ours": [True, "Automatic"]}),
    "exact": ("txt2img", {"ours": [{**RED, "decode": "exact"}]}),
    "host": ("txt2img", {"ours": [{**RED, "decode": "host"}]}),
    "by hand": ("txt2img", {"ours": [{**RED, "color": "manual", "contrast": 0.8, "saturation": 0.5}]}),
    "auto colour": ("txt2img", {"ours": [{**RED, "color": "auto"}]}),
    "match colour": ("img2img", {"ours": [{**RED, "color": "match"}], **IMG2IMG}),
    "batches": ("txt2img", {"ours": [RED], "batch_size": 2, "n_iter": 2}),
    "another checkpoint": ("txt2img", {"ours": [RED], **OTHER}),
    "raise": ("txt2img", {"ours": [RED], "fault": "raise"}),
    "off again": ("txt2img", {}),
}
CHOICES = ("Automatic", "Baked", "tint-red", "nope", "")


def record(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_models(root / "Stable-diffusion", root / "VAE")
        webui = WebUI(Path(os.environ["WEBUI_DIR"]).resolve(), root / "data", root / "Stable-diffusion", root / "VAE")
        webui.data.mkdir()
        try:
            webui.start(PROJECT, FAULTS)
            found = {name: _job(webui, *job) for name, job in JOBS.items()}
            found["choices"] = {choice: webui.get(f"/vae-manager/v1/match?vae={choice}") for choice in CHOICES}
            found["files"] = webui.get("/vae-manager/v1/vaes?refresh=true")
            found["panel"] = _panel(webui)
        finally:
            webui.stop()
        text = json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True)
        path.write_text(text.replace(str(root), "ROOT"), encoding="utf-8")


def _job(webui: WebUI, kind: str, parameters: dict[str, Any]) -> Any:
    if not webui.has_upscaler(parameters.get("hr_upscaler")):
        return "this host has no such upscaler"
    try:
        pictures = webui.generate(kind, **parameters)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {**_pictures(pictures), "decision": webui.get("/vae-manager/v1/decision")}


def _pictures(pictures: Pictures) -> dict[str, Any]:
    # the host draws the subseeds, which nothing uses here
    info = {k: v for k, v in pictures.info.items() if k not in ("job_timestamp", "subseed", "all_subseeds")}
    hashes = [hashlib.sha256(p.astype("uint8").tobytes()).hexdigest() for p in pictures.pixels]
    return {"pictures": hashes, "infotexts": pictures.infotexts, "info": info}


def _panel(webui: WebUI) -> Any:
    from tests.live.browser import CHROMIUM, open_page

    if CHROMIUM is None:
        return "Chromium is not installed"
    lines = {}
    with open_page(webui) as page:
        page.switch_on()
        for choice in ("tint-red.safetensors", "Baked", "nope", "Automatic"):
            before = page.about()
            page.choose(choice)
            for _ in range(60):  # a busy machine takes its time; each choice has another line than the one before
                page.page.wait_for_timeout(500)
                if page.about() != before:
                    break
            lines[choice] = page.about()
    return lines


def compare(one: Path, other: Path) -> int:
    """Print what differs; 1 where anything does."""
    before, after = (_flat(json.loads(path.read_text(encoding="utf-8"))) for path in (one, other))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    for key in keys:
        print(f"{key}\n  - {before.get(key)!r:.1500}\n  + {after.get(key)!r:.1500}")
    print(f"{len(keys)} of {len({**before, **after})} values differ")
    return int(bool(keys))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {name: re.sub(r"\d+(\.\d+)? (s|ms|GB free)\b", "N", value) if isinstance(value, str) else value}
    return {key: leaf for part, item in items for key, leaf in _flat(item, f"{name}/{part}").items()}


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    sys.exit(record(Path(paths[0])) if command == "record" else compare(Path(paths[0]), Path(paths[1])))
