"""What a WebUI waits for at its start: the panel is built without a look at any file, in the hosts' two Gradios."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.webui.test_panel import ROOT, VERSIONS
from vae_manager.webui.with_the_page import WithThePage

PROGRAM = """
import contextlib
from pathlib import Path

import gradio as gr

from vae_manager.selection.presets import Presets
from vae_manager.webui.panel import Actions, Parts, build_panel


def looks(*_):
    raise AssertionError("the page was waited with")


@contextlib.contextmanager
def accordion(value, label, elem_id):
    checkbox = gr.Checkbox(value, label=label)
    with gr.Accordion(label, open=True, elem_id=elem_id):
        yield checkbox


with gr.Blocks(analytics_enabled=False) as page:
    actions = Actions(looks, looks, looks, looks, looks, looks, Presets(Path("none.json")), looks, looks, looks)
    panel = build_panel("txt2img", Parts(accordion, lambda text, elem_id: gr.Button(text, elem_id=elem_id)), actions)
    panel.connect({})
print(panel.settings["vae"].choices, page.config["dependencies"] != [])
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_panel_is_built_without_a_look_at_any_file(version: str, tmp_path: Path):
    python = VERSIONS[version] / "bin" / "python"
    if not python.exists():
        pytest.skip(f"Gradio {version} is not set up; `make test` does it")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run([python, "-c", PROGRAM], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Automatic" in done.stdout and "Baked" in done.stdout and done.stdout.strip().endswith("True")


def test_the_first_one_to_ask_is_the_page_that_is_being_built():
    read = iter(("one", "two"))
    value = WithThePage(lambda: next(read), "meanwhile")
    assert [value(), value(), value()] == ["meanwhile", "one", "two"]
