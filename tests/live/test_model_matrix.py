"""The models that people run, each through the same list: what the panel says, what decodes, what is refused.

One WebUI without us makes each model's pictures first: with its own VAE, and with a red one given the WebUI's own way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import IMG2IMG
from tests.live.harness import FAULTS, PROJECT, Pictures, WebUI, kind_of
from tests.live.test_jobs import identical, same
from tests.live.zoo import MODELS, Model, Zoo, write_zoo

SHALLOW = Path(__file__).parent / "shallow"
Equal = Callable[[Pictures, Pictures], bool]
JOBS: dict[str, tuple[str, dict[str, Any]]] = {"txt2img": ("txt2img", {}), "img2img": ("img2img", IMG2IMG)}


@dataclass
class Loaded:
    """A WebUI with one of the models chosen."""

    webui: WebUI
    zoo: Zoo
    model: Model

    def make(self, job: str = "txt2img", **more: Any) -> Pictures:
        endpoint, parameters = JOBS[job]
        return self.webui.generate(endpoint, **{**self.model.job, **parameters, **more})

    def match(self, vae: str = "Automatic") -> dict[str, Any]:
        """What the panel's line is made of."""
        return self.webui.get(f"/vae-manager/v1/match?vae={vae}")

    def warning(self, pictures: Pictures) -> str | None:
        return pictures.info["extra_generation_params"].get("VAE Manager warning")

    def native(self, tint: str) -> dict[str, Any]:
        """The WebUI's own way to this VAE, for one job."""
        file = self.model.vae_file(tint)
        if self.webui.kind not in ("forge", "neo"):
            return {"override_settings": {"sd_vae": file}}
        own = [path for path in self.zoo.modules(self.model) if Path(path).parent != self.zoo.vaes]
        return {"override_settings": {"forge_additional_modules": [str(self.zoo.vaes / file), *own]}}


def choose(webui: WebUI, zoo: Zoo, model: Model) -> Loaded:
    """What a user does on the page: checkpoint and modules."""
    options: dict[str, Any] = {"sd_model_checkpoint": model.file}
    if webui.kind in ("forge", "neo"):
        options["forge_additional_modules"] = zoo.modules(model)
    webui.post("/sdapi/v1/options", options)
    return Loaded(webui, zoo, model)


@pytest.fixture(scope="module")
def models(request: pytest.FixtureRequest, webui_dir: Path) -> tuple[Model, ...]:
    """Those of the tests that were chosen which this WebUI runs."""
    functions = [item for item in request.session.items if isinstance(item, pytest.Function)]
    chosen = [item.callspec.params.get("loaded") for item in functions if hasattr(item, "callspec")]
    return tuple(model for model in MODELS if model in chosen and kind_of(webui_dir) in model.hosts)


@pytest.fixture(scope="module")
def zoo(models: tuple[Model, ...], tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    kept = os.environ.get("WEBUI_ZOO")
    return write_zoo(Path(kept) if kept else tmp_path_factory.mktemp("zoo"), models)


def new_webui(webui_dir: Path, data: Path, zoo: Zoo, first: Model) -> WebUI:
    webui = WebUI(webui_dir, data, zoo.checkpoints, zoo.vaes, zoo.encoders)
    webui.config |= {"sd_model_checkpoint": first.file, "sd3_enable_t5": False}
    if webui.kind in ("forge", "neo"):
        webui.config["forge_additional_modules"] = zoo.modules(first)
    return webui


Without = dict[tuple[str, str, str], Pictures]
"""By model, job, and 'own', 'later' (than img2img) or 'red'."""


def is_own(
    without: Without, loaded: Loaded, pictures: Pictures, job: str = "txt2img", equal: Equal = identical
) -> bool:
    """Whether this is the WebUI's own picture. With FLUX.2, Neo's txt2img changes for good by up to 2 levels once three
    img2img jobs were done, with us and without."""
    own = [without.get((loaded.model.id, job, when)) for when in ("own", "later")]
    return any(one is not None and equal(pictures, one) for one in own)


@pytest.fixture(scope="module")
def without(webui_dir: Path, zoo: Zoo, models: tuple[Model, ...], tmp_path_factory: pytest.TempPathFactory) -> Without:
    webui = new_webui(webui_dir, tmp_path_factory.mktemp("zoo-without"), zoo, models[0])
    found: Without = {}
    try:
        webui.start(SHALLOW)
        for model in models:
            loaded = choose(webui, zoo, model)
            for job in JOBS:
                # A1111 draws the img2img posterior from the random state that the job before left
                found[model.id, job, "own"] = [loaded.make(job) for _ in range(3)][-1]
            found[model.id, "txt2img", "later"] = loaded.make()
            for job in JOBS:
                found[model.id, job, "red"] = loaded.make(job, **loaded.native("red"))
    finally:
        webui.stop()
    return found


@pytest.fixture(scope="module")
def zoo_webui(
    webui_dir: Path, zoo: Zoo, models: tuple[Model, ...], without: Without, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebUI]:
    webui = new_webui(webui_dir, tmp_path_factory.mktemp("zoo-with"), zoo, models[0])
    try:
        yield webui.start(PROJECT, FAULTS, SHALLOW)
    finally:
        webui.stop()


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: model.id)
def loaded(request: pytest.FixtureRequest, webui_dir: Path) -> Iterator[Loaded]:
    model, kind = request.param, kind_of(webui_dir)
    if kind not in model.hosts:
        pytest.skip(f"{model.id} is no model that {kind} can run")
    webui, zoo = request.getfixturevalue("zoo_webui"), request.getfixturevalue("zoo")
    found = choose(webui, zoo, model)
    found.make()  # some hosts load with the first picture
    yield found
    print(f"{model.id}: {webui.resident >> 20} MB resident")


@pytest.mark.parametrize("job", JOBS)
def test_off_is_byte_identical(loaded: Loaded, without: Without, job: str):
    assert is_own(without, loaded, (loaded.make(job), loaded.make(job))[1], job)
    assert is_own(without, loaded, loaded.make(job, ours=[False, loaded.model.vae_file("red")]), job)


def test_automatic_is_what_the_line_says(loaded: Loaded, without: Without):
    line = loaded.match()
    pictures = loaded.make(ours=[True, "Automatic"])
    decision = loaded.webui.get("/vae-manager/v1/decision")
    assert loaded.warning(pictures) is None and line["warnings"] == decision["warnings"] == []
    assert line["checkpoint"] == loaded.model.file
    assert line["vae"] == (None if loaded.model.baked else loaded.model.vae_file("default"))
    assert (line["source"], line["reason"]) == (decision["source"], decision["reason"])
    assert is_own(without, loaded, pictures, equal=same)


def test_baked(loaded: Loaded, without: Without):
    """Where nothing is baked in, that is said, and the picture is the host's."""
    loaded.make(ours=[True, loaded.model.vae_file("green")])
    pictures = loaded.make(ours=[True, "Baked"])
    assert is_own(without, loaded, pictures, equal=same)
    if loaded.model.baked:
        assert loaded.warning(pictures) is None and "vae=Baked" in pictures.infotexts[0]
    else:
        assert "There is no VAE baked into" in (loaded.warning(pictures) or "")


@pytest.mark.parametrize("job", JOBS)
def test_a_vae_of_its_space_is_the_hosts_way_with_it(loaded: Loaded, without: Without, job: str):
    red = loaded.model.vae_file("red")
    line = loaded.match(red)
    assert (line["vae"], line["warnings"]) == (red, [])
    pictures = loaded.make(job, ours=[True, red])
    assert loaded.warning(pictures) is None and f"vae={red}" in pictures.infotexts[0]
    # Neo's way loads the model anew, which takes back what `is_own` tells of
    levels = 2 if loaded.model.id == "zoo-flux2-klein" else 1
    assert pictures.tint() == "red" and same(pictures, without[loaded.model.id, job, "red"], levels=levels)
    assert loaded.webui.get("/vae-manager/v1/status")["swapped"] is False
    assert is_own(without, loaded, (loaded.make(job), loaded.make(job))[1], job)


def test_a_vae_of_another_space_is_refused_before_sampling(loaded: Loaded, without: Without):
    for space in loaded.model.refused:
        name = f"{space}-red.safetensors"
        assert loaded.match(name)["warnings"] != []
        before = len(loaded.webui.log)
        pictures = loaded.make(ours=[True, name], fault="sampling")
        sentence = loaded.warning(pictures) or ""
        assert name.removesuffix(".safetensors") in sentence and "\n" not in sentence
        assert is_own(without, loaded, pictures)
        added = loaded.webui.log[before:]
        assert "Traceback" not in added
        refusal = sentence.split(" The picture was made with")[0]
        assert refusal in added[added.find("sampling begins") :].splitlines()[0]


@pytest.mark.parametrize("job", JOBS)
def test_exact_is_the_hosts_picture(loaded: Loaded, job: str):
    red = loaded.model.vae_file("red")
    whole = loaded.make(job, ours=[{"vae": red, "decode": "host"}])
    exact = loaded.make(job, ours=[{"vae": red, "decode": "exact"}])
    decision = loaded.webui.get("/vae-manager/v1/decision")
    assert decision["warnings"] == [] and same(exact, whole, levels=1)
    assert any(line.startswith("decode: exact, mode") for line in decision["streamed"])
    assert job == "txt2img" or any(line.startswith("encode: exact, mode") for line in decision["streamed"])


def test_a_vae_for_each_picture_of_a_batch(loaded: Loaded):
    names = [loaded.model.vae_file(tint) for tint in ("red", "green")]
    prompts = [f"a cat <vae:{name}>" for name in (*names, names[0])]
    pictures = loaded.make(batch_size=3, fault="prompts:" + "|".join(prompts))
    tints = [pictures.tint(index) for index in range(len(pictures.pixels))][-3:]
    assert tints == ["red", "green", "red"]
    for text, name in zip(pictures.infotexts[-3:], (*names, names[0]), strict=True):
        assert f"vae={name}" in text
