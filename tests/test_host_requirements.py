"""What `check-host` asks a WebUI: a question for every name that our sources use, and what is written down besides."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vae_manager.hostcheck.checks import Hook, Member, Symbol, Text
from vae_manager.hostcheck.derive import derived, requirements
from vae_manager.hostcheck.ours import A1111, ADAPTERS, FORGE, PACKAGES, REFORGE, our_files, our_uses, uses_in
from vae_manager.hostcheck.requirements import CLASSES, COPES, WRITTEN, Requirement

ROOT = Path(__file__).parents[1]
BASE = "webui/hosts/base.py"


def rows_of(text: str, file: str = "webui/other.py", **overridden: set[str]) -> list[Requirement]:
    return derived(uses_in(ast.parse(text), file, {adapter: overridden.get(adapter, set()) for adapter in ADAPTERS}))


def asked(text: str, file: str = "webui/other.py") -> set[str]:
    return {str(row.check) for row in rows_of(text, file)}


P = "modules.processing.StableDiffusionProcessing"


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("from modules import sd_samplers", "modules.sd_samplers"),
        ("import backend.loader as loader", "backend.loader"),
        ("import backend.loader\nbackend.loader.f(1)", "backend.loader.f(1 argument)"),
        ("from modules.processing import process_images as run\nrun(1, b=2)",
         "modules.processing.process_images(1 argument, b=)"),
        ("from modules import shared\nshared.opts.something_new", "the name something_new"),
        ("from modules import shared\ngetattr(shared.cmd_opts, 'no_half_vae', 0)", "the name --no-half-vae"),
        ("def f(shared): shared.opts.add_option(1, 2)", "modules.options.Options.add_option(2 arguments)"),
        ("from modules import sd_vae\naround(sd_vae, 'clear_loaded_vae', before=x)", "modules.sd_vae.clear_loaded_vae"),
        ("from modules import sd_vae\nfor f in ('a', 'b'): around(sd_vae, f)", "modules.sd_vae.b"),
        ("from modules import sd_vae\nfor m, f in ((sd_vae, 'find_vae'),): around(m, f)", "modules.sd_vae.find_vae"),
        ("def f(p): p.n_iter", f"{P}.n_iter"),
        ("class A:\n    def f(self): return getattr(self._p, 'all_seeds', None)", f"{P}.all_seeds"),
        ("def f(model): model.sd_checkpoint_info.metadata", "modules.sd_models.CheckpointInfo.metadata"),
        ("def f(model): model.forge_objects.clip", "backend.diffusion_engine.base.ForgeObjects.clip"),
        ("from modules import sd_models as s\ndef f():\n    data = s.model_data\n    return data.loaded_sd_models",
         "modules.sd_models.model_data.loaded_sd_models"),
        ("from modules import sd_models as s\ndef f():\n    i = s.model_data.forge_loading_parameters.get("
         "'checkpoint_info')\n    return i.sha256", "modules.sd_models.CheckpointInfo.sha256"),
        ("from modules import scripts\nclass A(scripts.Script):\n    def postprocess_batch(self, p): ...",
         "the script hook postprocess_batch(p, *args)"),
        ("from modules import scripts\nclass A(scripts.Script):\n    def describe(self): ...",
         "modules.scripts.Script.describe"),
        ("from modules import scripts_postprocessing as s\nclass A(s.ScriptPostprocessing):\n    order = 1",
         "modules.scripts_postprocessing.ScriptPostprocessing.order"),
        ("def f():\n    from modules.a import Page\n    class A(Page):\n        def g(self): super().h(1, 2)",
         "modules.a.Page.h(2 arguments)"),
        ("from modules.a import Page\nclass A(Page):\n    def g(self): self.seek(self._own)",
         "modules.a.Page.seek(1 argument)"),
    ],
)  # fmt: skip
def test_a_name_that_our_sources_use_becomes_a_question(text: str, question: str):
    assert question in asked(text)


@pytest.mark.parametrize(
    "text",
    [
        "x = {}\nx.get('a')",
        "def f(p): g(p)",
        "import torch\ntorch.zeros(1)",
        "import vae_manager.webui.hosts",
        "class A:\n    def describe(self): self.name = 1",
        "from modules import sd_vae\nsd_vae.vae_dict.get(x, x)\nsd_vae.vae_dict.items()",
    ],
)
def test_nothing_is_asked_for_what_is_no_webuis(text: str):
    assert asked(text) <= {"modules.sd_vae.vae_dict"}


def test_the_longer_name_is_asked_for():
    assert asked("from modules import sd_vae\nsd_vae.loaded_vae_file") == {"modules.sd_vae.loaded_vae_file"}


def test_a_method_is_asked_of_the_webuis_whose_adapter_has_it():
    text = "from modules import a\nclass Host:\n    def f(self): a.x\n    def g(self): a.y"
    hosts = {row.id: row.hosts for row in rows_of(text, BASE, **{FORGE: {"f"}, A1111: {"g"}})}
    assert hosts == {"modules.a.x": (A1111, REFORGE), "modules.a.y": (REFORGE, FORGE), "modules.a": ADAPTERS}
    assert {row.hosts for row in rows_of(text, "webui/hosts/forge.py")} == {(FORGE,)}


def test_an_adapter_that_calls_what_it_overrides_needs_both():
    guards = {row.id: row.hosts for row in requirements()}
    assert guards["modules.sd_vae.load_vae"] == (A1111, REFORGE)  # reForge's `install_guards` calls the base's
    assert guards["modules.sd_vae.loaded_vae_file"] == (A1111, REFORGE)  # Forge has a way of its own


def test_every_name_of_ours_has_a_question_that_can_be_answered():
    """Fails for what hangs on an object whose class is not known: say in CLASSES what it is, or write a row."""
    for row in requirements():
        name = getattr(row.check, "name", "")
        if isinstance(row.check, Symbol):
            assert name.startswith(PACKAGES) and "?" not in name, f"{row.needed_by} uses {name}"
        elif isinstance(row.check, Member):
            assert "?" not in name


def test_of_an_object_of_unknown_class_nothing_is_believed():
    (row,) = (row for row in rows_of("def f(p): p.scripts.run()") if row.id == "p.scripts.run")
    assert isinstance(row.check, Symbol) and not row.check.name.startswith(PACKAGES)


def test_what_is_written_down_is_used():
    names = {use.name for use in our_uses()}
    for row in WRITTEN:
        assert (ROOT / row.needed_by).is_file() or (ROOT / "vae_manager" / row.needed_by).is_file(), row.needed_by
        assert {*row.uses} <= names, f"nothing uses {row.uses} ({row.id})"
    for name in (*CLASSES, *COPES):
        assert any(use == name or use.startswith(f"{name}.") for use in names), f"nothing uses {name}"


def test_every_line_of_ours_that_may_fail_in_a_webui_is_read():
    names = our_files()
    assert {f"webui/hosts/{adapter}.py" for adapter in ADAPTERS} <= {*names}
    assert {"scripts/vae_manager_webui.py", "scripts/vae_manager_extras.py"} <= {*names}
    asked_for = {row.needed_by for row in derived(our_uses())}
    assert {BASE, "webui/hosts/picture_job.py", "webui/options.py", "scripts/vae_manager_webui.py"} <= asked_for


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_no_row_hides_another(adapter: str):
    rows = [row for row in requirements() if adapter in row.hosts]
    assert len({row.id for row in rows}) == len(rows)
    assert len({row.check for row in rows}) == len(rows)
    kinds = {type(row.check) for row in rows}
    assert {Hook, Member, Symbol, Text} <= kinds


def test_without_the_extensions_scripts_it_is_said_what_was_not_checked(tmp_path: Path):
    shutil.copytree(ROOT / "vae_manager", tmp_path / "vae_manager", ignore=shutil.ignore_patterns("__pycache__"))
    webui = tmp_path / "webui" / "modules"
    webui.mkdir(parents=True)
    (webui / "processing.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]);"
         "from vae_manager.cli import main; main(['check-host', sys.argv[2]])", str(tmp_path), str(webui.parent)],
        cwd=tmp_path, capture_output=True, text=True, env={"VAE_MANAGER_HOME": str(tmp_path)},
    )  # fmt: skip
    assert "they are not beside this package" in done.stdout, done.stderr
    assert "scripts.Script.title" not in done.stdout
