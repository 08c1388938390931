"""What stands in the host's settings, what a job overrides, and what the panel's line promises of both."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import FLUX, make_state, make_vae
from tests.webui.fakes import Processing, WebUI
from tests.webui.test_hosts import KINDS, Z, picture, same
from tests.webui.test_pictures import decode_batch
from tests.webui.test_session import OneModel, start
from tests.webui.test_session import Z as ONE_Z
from vae_manager.codec.whole import decode
from vae_manager.selection.settings import PanelSettings
from vae_manager.webui.first_stage import left_alone
from vae_manager.webui.infotext import KEY
from vae_manager.webui.job import Job, as_host
from vae_manager.webui.options import Options
from vae_manager.webui.presets import save_preset
from vae_manager.webui.session import Session


@pytest.fixture(params=KINDS)
def webui(request, tmp_path: Path, write_vae, monkeypatch) -> WebUI:
    for seed, name in enumerate("bcd", 2):
        write_vae(f"VAE/{name}.safetensors", seed=seed)
    return WebUI(request.param, tmp_path, lambda name, module: monkeypatch.setitem(sys.modules, name, module))


@pytest.fixture
def fake(webui: WebUI) -> Iterator[Session]:
    session = Session(webui.host, Options(1 << 30))
    webui.host.install_guards(session.guards())
    yield session
    session.shut_down()


def stand(webui: WebUI, name: str | None) -> None:
    """The user sets a VAE in the host's own list, and the host loads it."""
    path = str(webui.folder / "VAE" / f"{name}.safetensors") if name else None
    webui.sd_vae.vae_dict = {f"{each}.safetensors": str(webui.folder / "VAE" / f"{each}.safetensors") for each in "bcd"}
    webui.module_list.update(webui.sd_vae.vae_dict)
    if webui.kind == "forge":
        webui.shared.opts.forge_additional_modules = [path] if path else []
        webui.sd_models.model_data.forge_loading_parameters = {"additional_modules": [path] if path else []}
    else:
        webui.shared.opts.sd_vae, webui.sd_vae.loaded_vae_file = f"{name}.safetensors" if name else "Automatic", path
    if name:
        webui.stage.load_state_dict(make_state(seed="bcd".index(name) + 2))


def rule(webui: WebUI, vae: str) -> None:
    folder = webui.host.data_folder()
    folder.mkdir(parents=True, exist_ok=True)
    written = {"version": 1, "rules": [{"when": {"name": "model*"}, "vae": vae}]}
    (folder / "rules.json").write_text(json.dumps(written))


def last(session: Session) -> Job:
    assert session.shelf.last is not None
    return session.shelf.last


def seed_of(done: Tensor) -> str:
    """Whose picture of the first latent it is: 'a' is the checkpoint's."""
    return next(name for seed, name in enumerate("abcd", 1) if same(done, picture(seed, 0)))


@pytest.mark.parametrize("standing", [None, "b"])
@pytest.mark.parametrize("by_rule", [None, "c"])
@pytest.mark.parametrize("vae", ["Automatic", "d"])
def test_the_panels_line_promises_what_the_job_gets(webui: WebUI, fake: Session, standing, by_rule, vae):
    """A VAE that stands in the host's settings comes behind the user's rules, on every host."""
    stand(webui, standing)
    if by_rule:
        rule(webui, f"{by_rule}.safetensors")
    wanted = PanelSettings(True, vae if vae == "Automatic" else f"{vae}.safetensors")
    promised = fake.shelf.preview(wanted)
    assert promised is not None
    (done,), _ = webui.generate(fake, Processing(["x"]), Z, wanted)
    given = last(fake).decision
    assert as_host(promised[1], last(fake).own) == given
    assert seed_of(done) == ("d" if vae == "d" else by_rule or standing or "a")
    assert given.source == ("panel" if vae == "d" else "rules" if by_rule else "preference" if standing else "baked")
    assert fake.shelf.preview(wanted) == promised


def test_a_preset_acts_where_a_vae_stands_in_the_settings(webui: WebUI, fake: Session):
    stand(webui, "b")
    assert save_preset(fake.shelf, PanelSettings(True, "c")).startswith("Saved")
    assert "c.safetensors" in fake.shelf.about("Automatic")[0]
    (done,), (text,) = webui.generate(fake, Processing(["x"]), Z, PanelSettings(True))
    assert seed_of(done) == "c" and text[KEY].startswith("vae=c.safetensors")


@pytest.mark.parametrize("webui", ["forge"], indirect=True)
@pytest.mark.parametrize("override", [{"forge_additional_modules": ["b.safetensors"]}, {"sd_vae": "b.safetensors"}])
def test_what_a_job_overrides_goes_before_the_users_rules(webui: WebUI, fake: Session, override: dict[str, Any]):
    stand(webui, "d")
    rule(webui, "c.safetensors")
    (done,), _ = webui.generate(fake, Processing(["x"], override_settings=override), Z, PanelSettings(True))
    assert seed_of(done) == "b" and last(fake).decision.source == "job"
    assert "c.safetensors" in fake.shelf.about("Automatic")[0]  # which was that one job's


@pytest.mark.parametrize("webui", ["forge"], indirect=True)
def test_neo_takes_an_override_away_when_it_has_obeyed_it(webui: WebUI, fake: Session):
    rule(webui, "c.safetensors")
    p = Processing(["x"], override_settings={"sd_vae": "b.safetensors"})
    real = p.init
    fake.begin(p)
    p.override_settings.pop("sd_vae")  # before `process`
    fake.prepare(p, PanelSettings(True))
    assert p.init != real
    p.init([], [], [])
    assert last(fake).decision.source == "job" and last(fake).decision.reason.endswith("b.safetensors")
    fake.finish(p)


@pytest.mark.parametrize("webui", ["forge"], indirect=True)
def test_the_users_own_modules_are_shown_while_a_job_overrides_them(webui: WebUI, fake: Session):
    stand(webui, "b")
    p = Processing(["x"], override_settings={"forge_additional_modules": ["c.safetensors"]})
    fake.begin(p)
    stand(webui, "c")  # as the host does for the job
    assert "b.safetensors" in fake.shelf.about("Automatic")[0]
    fake.start(p, PanelSettings(True))
    assert last(fake).decision.source == "job" and last(fake).decision.kind == "host"
    fake.finish(p)
    stand(webui, "b")
    assert "b.safetensors" in fake.shelf.about("Automatic")[0]


def test_an_override_that_leaves_it_open_goes_before_the_setting(webui: WebUI, fake: Session):
    """'Automatic' for this job: the setting that stands has no say in it."""
    stand(webui, "b")
    override: dict[str, Any] = {"forge_additional_modules": []} if webui.kind == "forge" else {"sd_vae": "Automatic"}
    p = Processing(["x"], override_settings=override)
    fake.begin(p)
    stand(webui, None)
    fake.start(p, PanelSettings(True))
    assert last(fake).decision.source == "baked"
    fake.finish(p)


@pytest.mark.parametrize("webui", ["forge"], indirect=True)
@pytest.mark.parametrize("loaded", [False, True])
def test_the_line_is_about_the_checkpoint_that_was_chosen_last(webui: WebUI, fake: Session, loaded: bool, write_vae):
    """Forge loads it with the next picture: until then another is loaded, or none."""
    stand(webui, "b")
    path = write_vae("Stable-diffusion/sub/next.safetensors", prefix="first_stage_model.")
    info = SimpleNamespace(filename=str(path), name="sub\\next.safetensors")
    webui.sd_models.model_data.forge_loading_parameters["checkpoint_info"] = info
    if not loaded:
        webui.sd_models.model_data.sd_model = object()
    line = fake.shelf.about("Automatic")[0]
    assert "next.safetensors gets b.safetensors" in line
    assert save_preset(fake.shelf, PanelSettings(True, "c")).startswith("Saved: next.safetensors")
    ((owner, _),) = fake.shelf.chooser.presets.all()
    assert owner.name == "sub/next.safetensors"


@pytest.mark.parametrize("content", [None, b"\x10"])
def test_where_a_server_keeps_its_files_is_in_no_answer(webui: WebUI, fake: Session, content: bytes | None):
    """Hosts name files by their whole path; this one is gone, or broken."""
    stand(webui, "b")
    path = webui.folder / "VAE" / "b.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    fake.shelf.names(refresh=True)
    p = Processing(["x"])
    fake.begin(p)
    fake.start(p, PanelSettings(True))
    answer = json.dumps(last(fake).document()) + fake.shelf.about("Automatic")[0]
    assert str(webui.folder) not in answer
    if webui.kind != "forge":  # its list tells VAEs by what is in them
        assert "b.safetensors" in p.comments[0]
    fake.finish(p)


# --- every file is held against the model that is loaded, before anything is sampled


@pytest.mark.parametrize("name", ["sixteen", "Other/sixteen"])
def test_a_vae_of_other_channels_is_refused_every_time_in_one_sentence(
    session: Session, host: OneModel, write_vae, name
):
    """Not only when it is read for the first time: what another model has used lies in the cache."""
    path = write_vae(f"VAE/{name}.safetensors", FLUX)
    session.shelf.names(refresh=True)
    session.shelf.obey(Options(1 << 30, allow_other_family=True))
    before = host.pixels()
    for _ in range(3):
        job = start(session, name)
        assert torch.equal(host.pixels(), before) and not session.swapped
        (said,) = job.comments
        # selection knows it before anything is loaded; what the cache holds is checked as well (test_kinds_of_fault)
        assert "is made for 16-channel latents" in said and said.count("choose a VAE of that family") == 1
        assert str(path.parent) not in said
        session.finish(job)
        session.stage.cache.get((session.shelf.find(name).version, torch.float32), lambda: make_state(FLUX))


# --- a VAE that is none of ours


class VideoStage(nn.Module):
    """A causal 3-D autoencoder as Neo holds one: latents (N, C, T, h, w), and Wan's names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.decoder.conv1 = nn.Conv3d(16, 3, 1)
        self.encoder.conv1 = nn.Conv3d(3, 16, 1)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder.conv1(z)  # type: ignore[operator]


@pytest.fixture
def video(session: Session, host: OneModel, write_vae) -> Path:
    """A video model is loaded, with its VAE among the modules."""
    path = write_vae("modules/wan_2.1_vae.safetensors", seed=4)
    host.own_vae, host.setting = path, str(path)
    host.model.first_stage_model = VideoStage()
    return path


def test_a_build_is_told_by_its_tensors():
    assert left_alone(make_vae()) is None and left_alone(make_vae(FLUX)) is None
    assert left_alone(VideoStage()) == "a video VAE"
    assert left_alone(nn.Linear(2, 2)) == "a VAE of another build"


@pytest.mark.parametrize("settings", [PanelSettings(True), PanelSettings(True, color="auto")])
def test_a_video_models_own_vae_is_left_alone_without_a_word(session: Session, host: OneModel, video: Path, settings):
    z = torch.rand(1, 16, 2, 4, 4)
    wanted = host.model.first_stage_model.decode(z)
    job = start(session, "Automatic")
    assert torch.equal(decode_batch(session, host, z), wanted) and not session.shelf.latents
    assert job.comments == [] and KEY not in job.extra_generation_params
    session.finish(job, SimpleNamespace(extra_generation_params={}))
    answer = json.dumps(last(session).document())
    assert str(video.parent) not in answer and "No VAE was found" not in answer
    line = session.shelf.about("Automatic")[0]
    assert "wan_2.1_vae.safetensors, a video VAE, which VAE Manager leaves to the WebUI" in line
    assert last(session).decision == session.shelf.preview(PanelSettings(True))[1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (PanelSettings(True, "b"), "b"),
        (PanelSettings(True, "Baked"), "Baked"),
        (PanelSettings(True, encode_vae="b"), "b"),
        (PanelSettings(True, decode="exact"), "The exact decode"),
    ],
)
def test_who_asks_for_more_of_a_video_model_is_told_in_one_sentence(session, host, video, settings, what):
    job = Processing(["x"])
    session.begin(job)
    session.start(job, settings)
    rest = "was not used: this model has a video VAE, which VAE Manager leaves to the WebUI."
    assert job.comments == [f"{what} {rest} The picture was made with the WebUI's own VAE."]
    assert KEY not in job.extra_generation_params  # least of all that it was decoded exactly
    session.finish(job)
    if settings.vae == "b":
        assert session.shelf.about("b")[0] == f"b {rest}"
        assert save_preset(session.shelf, settings) == f"Not saved: b {rest}"


def test_a_hires_pass_with_another_model_is_decided_for_that_model(session: Session, host: OneModel, video: Path):
    job = start(session, "b")
    assert len(job.comments) == 1
    host.model = SimpleNamespace(
        first_stage_model=OneModel(host.folder).model.first_stage_model,
        sd_checkpoint_info=SimpleNamespace(filename=str(host.folder / "other.safetensors"), name="other"),
    )
    (host.folder / "model.safetensors").rename(host.folder / "other.safetensors")
    host.own_vae = host.setting = None
    session.ensure(job)
    assert session.swapped and torch.equal(host.pixels(), decode(make_vae(seed=2), ONE_Z))


# --- what the infotext says of the decode is what was done


def test_an_exact_decode_that_was_not_possible_is_not_claimed(session: Session, host: OneModel, monkeypatch):
    """Of two pictures the second one's stream fails."""
    from vae_manager.codec import coder

    job = Processing(["x", "x <vae:b>"])
    session.begin(job)
    session.start(job, PanelSettings(True, decode="exact"))
    real, calls = coder.stream_decode, []
    failing = lambda *a, **k: (calls.append(0), 1 / 0 if len(calls) == 2 else None, real(*a, **k))[2]  # noqa: E731
    monkeypatch.setattr(coder, "stream_decode", failing)
    z = torch.linspace(-3, 3, 2 * 4 * 36).reshape(2, 4, 6, 6)
    decode_batch(session, host, z)
    said = [job.extra_generation_params[KEY](all_prompts=job.all_prompts, index=index) for index in range(2)]
    assert said[0] == "decode=exact" and said[1].startswith("vae=b.safetensors") and "decode" not in said[1]
    decode_batch(session, host, z)  # a hires pass decodes them once more, and this time it works
    said = [job.extra_generation_params[KEY](all_prompts=job.all_prompts, index=index) for index in range(2)]
    assert all("decode=exact" in text for text in said)
