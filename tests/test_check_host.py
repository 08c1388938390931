"""`check-host`: made-up WebUIs that have everything, lack something, or are no WebUI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vae_manager.cli import main
from vae_manager.errors import BadInputError
from vae_manager.hostcheck.__main__ import tables
from vae_manager.hostcheck.ours import A1111, FORGE, REFORGE
from vae_manager.hostcheck.report import check_webui
from vae_manager.hostcheck.source import MAX_BYTES, Source

ROOT = Path(__file__).parents[1]

COMMON = {
    "modules/paths_internal.py": "models_path = data_path = where()",
    "modules/paths.py": "from modules.paths_internal import models_path, data_path",
    "modules/cmd_args.py": """
for flag in ('--vae-dir', '--ckpt-dir', '--vae-path', '--api', '--api-auth', '--gradio-auth'):
    add(flag)
""",
    "modules/options.py": """
class OptionInfo:
    def __init__(self, default=None, label="", component=None, component_args=None, section=None): ...

class Options:
    def add_option(self, key, info): ...
""",
    "modules/shared.py": """
from modules import options

OptionInfo = options.OptionInfo
opts = state = None
cmd_opts = f()
""",
    "modules/shared_options.py": "OptionInfo('sd_vae', infotext='VAE')\nOptionInfo('png', samples_format=1)",
    "modules/ui_extra_networks.py": """
def register_page(page): ...
def quote_js(s): ...

class ExtraNetworksPage:
    def refresh(self): ...
    def list_items(self): ...
    def create_item(self, name, index=None): ...
    def allowed_directories_for_previews(self): ...
    def create_item_html(self, tabname, item, template=None): ...
    def create_tree_file_item_html(self, tabname, file_path, item): ...
    def create_tree_dir_item_html(self, tabname, dir_path, content=None): ...
    def search_terms_from_path(self, filename): ...
    def find_preview(self, path): ...
    def find_description(self, path): ...
    def get_sort_keys(self, path): ...
    def read_user_metadata(self, item): ...
""",
    "modules/shared_state.py": "class State:\n    interrupted = skipped = textinfo = job = None\n",
    "modules/extra_networks.py": """
class ExtraNetwork:
    def activate(self, p, params_list): ...
    def deactivate(self, p): ...

def register_extra_network(extra_network): ...
""",
    "modules/scripts_postprocessing.py": """
class ScriptPostprocessing:
    name = None
    order = 1000

    def ui(self): ...
    def process(self, pp, **args): ...
""",
    "modules/scripts.py": """
AlwaysVisible = object()
scripts_data = []

class Script:
    infotext_fields = None
    paste_field_names = None

    def title(self): ...
    def show(self, is_img2img): ...
    def ui(self, is_img2img): ...
    def before_process(self, p, *args): ...
    def process(self, p, *args): ...
    def before_process_batch(self, p, *args, **kwargs): ...
    def process_before_every_sampling(self, p, *args, **kwargs): ...
    def postprocess_batch_list(self, p, pp, *args, **kwargs): ...
    def postprocess(self, p, processed, *args): ...

class ScriptRunner:
    def before_process(self, p):
        for script in self.all: script.before_process(p)
    def process(self, p):
        for script in self.all: script.process(p)
    def before_process_batch(self, p, **kwargs):
        for script in self.all: script.before_process_batch(p, **kwargs)
    def process_before_every_sampling(self, p, **kwargs):
        for script in self.all: script.process_before_every_sampling(p, **kwargs)
    def postprocess_batch_list(self, p, pp, **kwargs):
        for script in self.all: script.postprocess_batch_list(p, pp, **kwargs)
    def postprocess(self, p, processed):
        for script in self.all: script.postprocess(p, processed)
""",
    "modules/script_callbacks.py": "\n".join(
        f"def {name}(callback, *, name=None): ..."
        for name in (
            "on_after_component",
            "on_before_ui",
            "on_model_loaded",
            "on_script_unloaded",
            "on_infotext_pasted",
            "on_ui_settings",
            "on_ui_tabs",
            "on_app_started",
        )
    ),
    "modules/ui_components.py": """
import gradio as gr

class ToolButton(gr.Button):
    def __init__(self, *args, **kwargs): ...

def InputAccordion(value=None, **kwargs): ...
""",
    "modules/infotext_utils.py": """
LABEL = 'VAE/TE'

def connect_paste(button):
    def paste(text):
        params = parse_generation_parameters(text)
        script_callbacks.infotext_pasted_callback(text, params)
""",
    "modules/processing.py": """
class StableDiffusionProcessing:
    sd_vae_name: str = None
    sd_vae_hash: str = None
    extra_generation_params: dict = None
    override_settings: dict = None
    all_prompts = all_negative_prompts = prompts = negative_prompts = None
    iteration = 0
    batch_size = 1

    def comment(self, text): ...
    def close(self): ...

    def sample(self):
        self.scripts.process_before_every_sampling(self)

class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    enable_hr = is_hr_pass = False
    all_hr_prompts = None

class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    init_images = image_mask = paste_to = None

def decode_latent_batch(model, batch): ...

class Processed:
    def __init__(self, p):
        self.extra_generation_params = p.extra_generation_params
        self.all_prompts = p.all_prompts

def create_infotext(p):
    return {"VAE": p.sd_vae_name, **p.extra_generation_params}

def process_images(p):
    p.scripts.before_process(p)
    manage_model_and_prompt_cache(p)
    return process_images_inner(p)

def process_images_inner(p):
    p.sd_vae_name = sd_vae.get_loaded_vae_name()
    p.scripts.process(p)
    p.init(p.all_prompts)
    p.scripts.before_process_batch(p)
    p.scripts.postprocess_batch_list(p)
    p.batch_index = 0
    res = Processed(p)
    p.scripts.postprocess(p, res)
    return res
""",
    "modules/txt2img.py": "with closing(p):\n    pass",
    "modules/img2img.py": "with contextlib.closing(p):\n    pass",
    "modules/api/api.py": "with lock, closing(make()) as p:\n    pass",
}
"""What is the same in every made-up WebUI. Written for these tests; only the names are the WebUIs'."""

SD_MODELS = """
model_path = find()

class CheckpointInfo:
    def __init__(self, filename):
        self.filename = filename
        self.name = name_of(filename)

class SdModelData:
    def __init__(self):
        self.sd_model = None
        self.forge_loading_parameters = {}

model_data = SdModelData()

def load_model_weights(model, checkpoint_info): ...

def reload_model_weights(sd_model=None, info=None): ...

def load_model(checkpoint_info=None, additional_modules=()):
    model.sd_checkpoint_info = checkpoint_info
    model.forge_objects = None
    model_data.set_sd_model(model)
    script_callbacks.model_loaded_callback(model)

forge_model_reload_is = "below"

def forge_model_reload():
    load_model(additional_modules=[])
    model_data.set_sd_model(model)
    script_callbacks.model_loaded_callback(model)
"""

VAE = """class VAE:
    def __init__(self):
        self.first_stage_model = None
        self.memory_used_decode = None
"""
KL = """
class Engine:
    def __init__(self):
        self.encoder, self.decoder = Encoder(), Decoder()

class AutoencoderKL(Engine):
    def __init__(self):
        self.quant_conv = self.post_quant_conv = None

class IntegratedAutoencoderKL(AutoencoderKL): ...

class AutoencoderKLInferenceWrapper(AutoencoderKL): ...
"""

ENDS = """
class Encoder:
    def __init__(self):
        self.conv_in = self.mid = self.norm_out = self.conv_out = None
        self.down = self.up = []

class Decoder(Encoder): ...
"""

SD_VAE = """
loaded_vae_file = None
vae_dict = {}

def load_vae(model, vae_file=None):
    model.first_stage_model.load_state_dict(read(vae_file))

def reload_vae_weights(sd_model=None): ...

def restore_vae_weights(): ...
"""

HOSTS: dict[str, dict[str, str]] = {
    A1111: {
        **COMMON,
        "modules/sd_models.py": SD_MODELS,
        "modules/sd_vae.py": SD_VAE,
        "CHANGELOG.md": "# 9.8.7\n\n* made up\n",
        "repositories/stable-diffusion-stability-ai/ldm/models/autoencoder.py": KL,
        "repositories/stable-diffusion-stability-ai/ldm/modules/diffusionmodules/model.py": ENDS,
        "repositories/stable-diffusion-stability-ai/ldm/models/diffusion/ddpm.py": "class DDPM: ...",
        "repositories/generative-models/sgm/models/autoencoder.py": KL,
    },
    REFORGE: {
        **COMMON,
        "modules/sd_models.py": SD_MODELS,
        "modules/sd_vae.py": SD_VAE,
        "modules_forge/forge_version.py": "version = '1.2.3'",
        "modules_forge/forge_loader.py": "class ForgeSD:\n    def __init__(self, vae):\n        self.vae = vae\n"
        "        x = model.latent_format\n",
        "ldm_patched/modules/model_management.py": "VAE_ALWAYS_TILED = False\n\ndef get_free_memory(dev=None): ...",
        "ldm_patched/modules/sd.py": VAE,
        "ldm_patched/ldm/models/autoencoder.py": KL,
        "ldm_patched/ldm/modules/diffusionmodules/model.py": ENDS,
    },
    FORGE: {
        **COMMON,
        "modules/sd_models.py": SD_MODELS,
        "modules/sd_vae.py": SD_VAE,
        "modules_forge/forge_version.py": "version = 'neo'\nrelease = '7.7'",
        "modules_forge/shared_options.py": "OPTIONS = {'forge_additional_modules': []}",
        "modules_forge/main_entry.py": "module_list = {}\nparameters = dict(checkpoint_info=None)",
        "backend/diffusion_engine/base.py": "class ForgeObjects:\n    def __init__(self, vae):\n        self.vae = vae"
        "\nclass ForgeDiffusionEngine:\n    def __init__(self, config):\n        self.model_config = config\n",
        "backend/patcher/vae.py": VAE,
        "backend/nn/vae.py": KL + ENDS,
        "backend/memory_management.py": "VAE_ALWAYS_TILED = False\n\ndef get_free_memory(dev=None): ...",
    },
}


def write(folder: Path, files: dict[str, str], **changes: str | None) -> Path:
    """Write the files; `changes` replace some, by name without suffix and folder, or leave them out."""
    for path, text in files.items():
        text = changes.get(Path(path).stem, text)
        if text is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["check-host", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("adapter", HOSTS)
def test_a_webui_with_everything_passes(tmp_path, adapter, capsys):
    status, out, err = run(capsys, str(write(tmp_path, HOSTS[adapter])), "--json")
    found = json.loads(out)
    assert (status, err, found["missing"], found["notes"]) == (0, "", [], [])
    assert found["ok"] is True
    assert (found["host"], found["version"]) == {
        A1111: ("AUTOMATIC1111", "9.8.7"),
        REFORGE: ("reForge", "1.2.3"),
        FORGE: ("Forge Neo", "7.7"),
    }[adapter]


@pytest.mark.parametrize(
    ("adapter", "name", "old", "new", "says"),
    [
        (A1111, "processing", "def comment", "def remark", "StableDiffusionProcessing.comment is not there"),
        (A1111, "processing", "comment(self, text)", "comment(self, text, level)", "does not take (1 argument)"),
        (A1111, "sd_models", "self.sd_model = None", "pass", "model_data.sd_model is not there"),
        (A1111, "sd_vae", "loaded_vae_file = None", "", "modules.sd_vae.loaded_vae_file is not there"),
        (A1111, "sd_vae", "first_stage_model", "vae", "the attribute first_stage_model is not in modules/sd_vae.py"),
        (A1111, "paths_internal", "= data_path", "", "modules.paths.data_path is not there"),
        (A1111, "processing", "    p.scripts.process(p)\n", "", "does not call scripts.process()"),
        (A1111, "processing", "    p.init(p.all_prompts)\n", "", "does not call init()"),
        (A1111, "autoencoder", "self.quant_conv = ", "", "has no quant_conv"),
        (A1111, "model", "self.conv_in = ", "", "has no conv_in"),
        (A1111, "shared", "OptionInfo = options.OptionInfo", "", "modules.shared.OptionInfo is not there"),
        (A1111, "options", ", section=None", "", "does not take (4 arguments, section=)"),
        (A1111, "scripts", "script.postprocess(p", "script.other(p", "does not call the scripts' postprocess()"),
        (A1111, "script_callbacks", "def on_app_started", "def on_start", "on_app_started is not there"),
        (A1111, "txt2img", "with closing", "from modules.sd_vae import load_vae\nwith closing", "load_vae by name"),
        (A1111, "txt2img", "with closing", "from .sd_vae import load_vae as x\nwith closing", "load_vae by name"),
        (A1111, "infotext_utils", "infotext_pasted_", "x_", "does not call infotext_pasted_callback()"),
        (REFORGE, "forge_loader", "self.vae = vae", "pass", ".vae is not there"),
        (REFORGE, "sd", "self.first_stage_model = None", "pass", "VAE.first_stage_model is not there"),
        (FORGE, "base", "self.vae = vae", "pass", ".vae is not there"),
        (FORGE, "main_entry", "module_list", "list_of_modules", "modules_forge.main_entry.module_list is not there"),
        (FORGE, "shared_options", "forge_additional_modules", "other", "forge_additional_modules is not in"),
        (FORGE, "sd_models", "self.forge_loading_parameters = {}", "pass", "forge_loading_parameters is not there"),
    ],
)
def test_what_is_missing_is_named_in_one_sentence(tmp_path, capsys, adapter, name, old, new, says):
    files = {path: text.replace(old, new) if Path(path).stem == name else text for path, text in HOSTS[adapter].items()}
    assert files != HOSTS[adapter]
    status, out, err = run(capsys, str(write(tmp_path, files)), "--json")
    found = json.loads(out)
    assert (status, found["ok"]) == (2, False)
    assert any(says in part["where"] for part in found["missing"]), found["missing"]
    assert says in err and err.count("\n") == 1 and "Traceback" not in err


def test_the_order_of_a_job_matters(tmp_path):
    late = COMMON["modules/processing.py"].replace("    p.scripts.process(p)\n    p.init(p.all_prompts)\n",
                                                   "    p.init(p.all_prompts)\n    p.scripts.process(p)\n")  # fmt: skip
    found = check_webui(write(tmp_path / "late", HOSTS[A1111], processing=late))
    assert [part.id for part in found.missing] == ["process-before-encode"]
    assert "calls init() before scripts.process()" in found.missing[0].where

    after = COMMON["modules/processing.py"].replace(
        "    return res\n", "    p.scripts.postprocess_image(p, res)\n    return res\n"
    )
    found = check_webui(write(tmp_path / "after", HOSTS[A1111], processing=after))
    assert "after scripts.postprocess()" in found.missing[0].where


def test_what_is_optional_is_noted_with_the_way_we_cope(tmp_path, capsys):
    folder = write(tmp_path, HOSTS[FORGE], img2img=None, cmd_args="", sd_vae="vae_dict = {}")
    status, out, err = run(capsys, str(folder))
    assert (status, err) == (0, "")
    assert "nothing to guard" in out and "only the models folder is searched" in out and "img2img" in out
    assert len(json.loads(run(capsys, str(folder), "--json")[1])["notes"]) == 8


def test_repositories_that_are_not_fetched_yet_are_not_held_against_it(tmp_path):
    files = {path: text for path, text in HOSTS[A1111].items() if not path.startswith("repositories")}
    found = check_webui(write(tmp_path, files))
    assert found.ok and len(found.notes) == 5 and all("fetches it at its first start" in note for note in found.notes)


def test_broken_sources_are_one_sentence_each(tmp_path, capsys):
    folder = write(tmp_path, HOSTS[A1111], sd_vae="def load_vae(:\n", processing="x = '\0'", scripts="(" * 10_000)
    status, out, err = run(capsys, str(folder), "--json")
    found = json.loads(out)
    assert (status, found["ok"]) == (2, False)
    reasons = [part["where"] for part in found["missing"] if part["id"] == "unreadable"]
    assert sorted(reason.partition(" ")[0] for reason in reasons) == [
        "modules/processing.py", "modules/scripts.py", "modules/sd_vae.py",
    ]  # fmt: skip
    assert any("line 1" in reason for reason in reasons)
    assert err.count("\n") == 1 and "Traceback" not in err


CHAINS = {
    "sums": "1" + "+1" * 200_000,
    "signs": "-" * 200_000 + "1",
    "dots": "x" + ".y" * 19_000,
    "calls": "x" + "()" * 19_000,
    "branches": "if a: b\n" + "elif a: b\n" * 5000,
    "powers": "1" + "**1" * 9000,
}


@pytest.mark.parametrize("text", CHAINS.values(), ids=CHAINS)
def test_sources_that_are_nested_very_deeply(tmp_path, text):
    """In a process of its own: a parser that overflows its stack would take ours with it."""
    folder = write(tmp_path, HOSTS[A1111], sd_vae=text)
    done = subprocess.run(
        [sys.executable, "-m", "vae_manager", "check-host", str(folder), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 2 and json.loads(done.stdout)["ok"] is False, done.stderr[-500:]
    assert done.stderr.count("\n") == 1


def test_a_huge_file_is_not_read(tmp_path):
    found = check_webui(write(tmp_path, HOSTS[A1111], sd_vae="#" * (MAX_BYTES + 1)))
    assert [part.where for part in found.missing] == ["modules/sd_vae.py is larger than 2 MB and was not read"]


def test_links_that_run_in_circles(tmp_path, capsys):
    folder = write(tmp_path / "webui", HOSTS[A1111], sd_vae=None)
    os.symlink(folder, folder / "modules" / "loop")
    os.symlink("sd_vae.py", folder / "modules" / "sd_vae.py")
    assert run(capsys, str(folder))[0] == 2
    os.symlink("self", tmp_path / "self")
    assert run(capsys, str(tmp_path / "self"))[0] == 2


def test_sources_that_run_in_circles_end(tmp_path):
    write(tmp_path, {
        "modules/a.py": "from modules.b import *\nfrom modules.b import x\nC = C\nclass D(D): ...\nclass E(F): ...\n"
                        "class F(E): ...\nv = v()\nw: 'w' = 1",
        "modules/b.py": "from modules.a import x\n" + "from modules.a import *\nfrom modules.b import *\n" * 50,
    })  # fmt: skip
    source = Source(tmp_path)
    for name in ("a.x", "a.C.y", "a.D.y", "a.E.y", "a.v.y", "a.w.y", "a.nothing"):
        source.find(f"modules.{name}")
    assert source.find("modules.a.nothing") is None


@pytest.mark.parametrize("case", ["empty", "file", "nothing", "long", "null", "nested", "extension"])
def test_other_folders_are_refused_with_a_sentence(tmp_path, capsys, case):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "extension" / "scripts").mkdir(parents=True)
    write(tmp_path / "nested" / "webui", HOSTS[FORGE])
    name = {"long": "x" * 10_000, "null": "a\0b"}.get(case, str(tmp_path / case))
    status, out, err = run(capsys, name, "--json")
    assert (status, out) == (2, "")
    assert err.startswith("vae-manager: ") and err.count("\n") == 1 and len(err) < 700
    if case == "nested":
        assert str(tmp_path / "nested" / "webui") in err


def test_nothing_of_the_webui_runs_and_torch_is_not_loaded(tmp_path):
    bomb = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n"
    files = {path: bomb + text if path.endswith(".py") else text for path, text in HOSTS[A1111].items()}
    write(tmp_path, files)
    code = (
        "import sys; from vae_manager.cli import main; status = main(['check-host', sys.argv[1]]);"
        "assert not {'torch', 'numpy', 'gradio', 'modules'} & set(sys.modules), 'loaded too much'; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.ran"))


@pytest.mark.live
@pytest.mark.skipif("WEBUI_DIR" not in os.environ, reason="WEBUI_DIR names no WebUI")
def test_a_real_webui():
    found = check_webui(Path(os.environ["WEBUI_DIR"]))
    assert found.ok, found.missing


def test_the_tables_of_the_documentation(tmp_path):
    text = tables([check_webui(write(tmp_path / name, files)) for name, files in HOSTS.items()])
    assert "AUTOMATIC1111 9.8.7" in text and "**no**" not in text
    with pytest.raises(BadInputError):
        check_webui(tmp_path)
