"""The session's promises, on real models behind the smallest host: what a running WebUI shows in `tests/live`."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import FLUX, make_state, make_vae
from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.codec.whole import decode
from vae_manager.library.files import Folder
from vae_manager.library.hashing import sha256_of
from vae_manager.selection.settings import PanelSettings
from vae_manager.webui.hosts.base import Host, around
from vae_manager.webui.infotext import KEY
from vae_manager.webui.options import Options
from vae_manager.webui.session import WARNING_KEY, Session

Z = torch.linspace(-3, 3, 4 * 36).reshape(1, 4, 6, 6)


class OneModel(Host):
    """A host that holds one model and keeps no books."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model: Any = load_model(folder / "model.safetensors", seed=1)
        self.own_vae: Path | None = None
        self.setting: str | None = None
        self.stop = False
        self.said: list[str | None] = []

    def current_model(self):
        return self.model

    def loaded_vae(self, model):
        return self.own_vae

    def vae_folders(self):
        return (Folder(self.folder / "VAE"),)

    def data_folder(self):
        return self.folder / "data"

    def standing_vae(self):
        return self.setting

    @staticmethod
    def path_of(name):
        return name

    def interrupted(self):
        return self.stop

    def busy(self):
        return False

    def say(self, line):
        self.said.append(line)

    def pixels(self):
        return decode(self.model.first_stage_model, Z)


class FirstStage(AutoencoderKL):
    """A host's: ours has another name for `encode`."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.encode_moments(x)


def load_model(path: Path, seed: int) -> SimpleNamespace:
    if not path.exists():
        state = {f"first_stage_model.{name}": tensor for name, tensor in make_state(seed=seed).items()}
        save_file({**state, "cond_stage_model.transformer.x": torch.zeros(1)}, str(path))
    first_stage = make_vae(seed=seed)
    first_stage.__class__ = FirstStage
    return SimpleNamespace(
        first_stage_model=first_stage, sd_checkpoint_info=SimpleNamespace(filename=str(path), name=path.name)
    )


class Job:
    """What the session uses of a WebUI's processing object."""

    all_prompts: list[str]
    batch_size: int
    iteration: int
    is_hr_pass: bool

    def __init__(self) -> None:
        self.extra_generation_params: dict[str, Any] = {}
        self.comments: list[str] = []
        self.sd_vae_name: str | None = "host's"
        self.sd_vae_hash: str | None = "host's"
        self.closed = 0

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def close(self) -> None:
        self.closed += 1


def start(session: Session, vae: str = "b", job: Job | None = None, enabled: bool = True) -> Job:
    job = job or Job()
    session.begin(job)
    session.start(job, PanelSettings(enabled, vae))
    return job


def test_the_job_decodes_with_the_vae_asked_for_and_the_next_one_does_not(session: Session, host: OneModel):
    before = host.pixels()
    job = start(session)
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), Z))
    session.finish(job, SimpleNamespace())
    assert torch.equal(host.pixels(), before)
    assert not session.swapped


def test_the_infotext_tells_the_files_own_hash(session: Session, host: OneModel):
    job = start(session)
    sha256 = sha256_of(host.folder / "VAE" / "b.safetensors")
    assert (job.sd_vae_name, job.sd_vae_hash) == ("b.safetensors", sha256[:10])
    assert job.extra_generation_params == {KEY: f"vae=b.safetensors; hash={sha256[:10]}"}


def test_off_touches_nothing(session: Session, host: OneModel):
    before, fresh = host.pixels(), vars(Job())
    job = start(session, enabled=False)
    session.ensure(job)
    assert torch.equal(host.pixels(), before)
    session.finish(job, SimpleNamespace())
    assert vars(job) == fresh


def test_automatic_leaves_the_hosts_vae_and_corrects_only_its_hash(session: Session, host: OneModel):
    before = host.pixels()
    job = start(session, "Automatic")
    assert torch.equal(host.pixels(), before)
    assert job.extra_generation_params == {} and job.sd_vae_hash == "host's"
    session.finish(job)
    host.own_vae = host.folder / "VAE" / "c.safetensors"
    host.setting = str(host.own_vae)
    job = start(session, "Automatic")
    assert job.sd_vae_hash == sha256_of(host.own_vae)[:10]


def test_baked_is_the_checkpoints_own_even_when_the_host_has_lost_it(session: Session, host: OneModel):
    baked = host.pixels()
    host.model.first_stage_model.load_state_dict(make_state(seed=9))
    lost = host.pixels()
    job = start(session, "Baked")
    assert torch.equal(host.pixels(), baked)
    assert (job.sd_vae_name, job.sd_vae_hash) == (None, None)
    session.finish(job)
    assert torch.equal(host.pixels(), lost)


def test_baked_is_the_checkpoints_own_also_where_that_is_a_pickle(session: Session, host: OneModel):
    """Automatic takes the host at its word there; who asks for the baked VAE gets it."""
    path = host.folder / "old.ckpt"
    state = {f"first_stage_model.{name}": tensor for name, tensor in make_state(seed=1).items()}
    torch.save({"state_dict": {**state, "cond_stage_model.transformer.x": torch.zeros(1)}}, path)
    host.model.sd_checkpoint_info = SimpleNamespace(filename=str(path), name=path.name)
    baked = host.pixels()
    host.model.first_stage_model.load_state_dict(make_state(seed=9))
    start(session, "Baked")
    assert torch.equal(host.pixels(), baked)


def test_an_exception_in_the_job_is_cleaned_up_when_the_job_is_closed(session: Session, host: OneModel):
    before = host.pixels()
    job = start(session)
    job.close()  # no postprocess after an exception
    assert torch.equal(host.pixels(), before) and job.closed == 1


def test_a_job_that_was_never_closed_is_cleaned_up_before_the_next(session: Session, host: OneModel):
    before = host.pixels()
    start(session)
    start(session, enabled=False)
    assert torch.equal(host.pixels(), before)


def test_one_processing_object_run_again_and_again_is_closed_once(session: Session):
    job = Job()
    for _ in range(3):
        session.finish(start(session, job=job))
    job.close()
    assert job.closed == 1


def test_a_job_inside_a_job(session: Session, host: OneModel):
    """ADetailer runs img2img inside postprocess_image; the outer job has more batches to come."""
    outer = start(session, "b")
    inner = start(session, "c")
    assert torch.equal(host.pixels(), decode(make_vae(seed=3), Z))
    session.finish(inner)
    session.ensure(outer)
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), Z))


def test_a_model_loaded_in_mid_job_gets_the_vae_too_and_keeps_its_own(session: Session, host: OneModel):
    """A hires checkpoint or a refiner."""
    job, first = start(session), host.model
    host.model = load_model(host.folder / "second.safetensors", seed=7)
    own = host.pixels()
    session.ensure()
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), Z))
    session.finish(job)
    assert torch.equal(host.pixels(), own)
    assert torch.equal(decode(first.first_stage_model, Z), decode(make_vae(seed=1), Z))


def test_a_model_loaded_in_mid_job_is_decided_for_afresh_and_the_infotext_says_so(session: Session, host: OneModel):
    rules = [{"when": {"name": "second*"}, "vae": "c"}, {"when": {"name": "model*"}, "vae": "b"}]
    session.shelf.chooser.rules_file.parent.mkdir(exist_ok=True, parents=True)
    session.shelf.chooser.rules_file.write_text(json.dumps({"version": 1, "rules": rules}))
    job, first = start(session, "Automatic"), host.model
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), Z))
    host.model = load_model(host.folder / "second.safetensors", seed=7)
    session.ensure()
    assert torch.equal(host.pixels(), decode(make_vae(seed=3), Z))
    assert "vae=c.safetensors" in job.extra_generation_params[KEY] and job.sd_vae_name == "c.safetensors"
    assert session.shelf.last is not None and "second*" in str(session.shelf.last.document()["trace"])
    host.model = load_model(host.folder / "third.safetensors", seed=8)  # no rule: its own baked VAE, no claim left
    session.ensure()
    assert KEY not in job.extra_generation_params and job.sd_vae_name is None
    host.model = first  # the next batch begins with the first model again
    session.ensure(job)
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), Z))
    assert "vae=b.safetensors" in job.extra_generation_params[KEY] and job.comments == []


def test_baked_follows_the_model_of_the_moment(session: Session, host: OneModel):
    start(session, "Baked")
    host.model = load_model(host.folder / "second.safetensors", seed=7)
    host.model.first_stage_model.load_state_dict(make_state(seed=9))
    session.ensure()
    assert torch.equal(host.pixels(), decode(make_vae(seed=7), Z))


def test_weights_that_the_host_copies_in_reach_neither_our_cache_nor_get_lost(session: Session, host: OneModel):
    """A1111 loads a VAE or a checkpoint by copying into the module: the guard releases first."""
    job = start(session)
    session.release()
    host.model.first_stage_model.load_state_dict(make_state(seed=5))
    session.ensure()
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), Z))
    session.finish(job)
    assert torch.equal(host.pixels(), decode(make_vae(seed=5), Z))


def test_a_host_that_takes_the_old_model_apart(session: Session, host: OneModel):
    """reForge empties the first stage of a model that it unloads, in the middle of a job with a hires checkpoint."""
    job, old = start(session), host.model.first_stage_model
    del old.encoder
    session.release()
    assert torch.equal(old.decoder.conv_in.weight, make_state(seed=1)["decoder.conv_in.weight"])
    host.model = load_model(host.folder / "second.safetensors", seed=7)
    session.ensure()
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), Z))
    session.finish(job)
    assert torch.equal(host.pixels(), decode(make_vae(seed=7), Z))


def test_a_guard_of_ours_that_fails_leaves_the_hosts_function_its_result():
    module = ModuleType("of_the_host")
    module.load = lambda name: f"loaded {name}"  # type: ignore[attr-defined]
    around(module, "load", before=lambda: 1 / 0, after=lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert module.load("a model") == "loaded a model"


def test_a_cached_vae_that_somebody_wrote_into_is_read_anew(session: Session, host: OneModel):
    job = start(session)
    host.model.first_stage_model.load_state_dict(make_state(seed=8))  # past the guards
    session.finish(job)
    start(session)
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), Z))


def refused(session: Session, host: OneModel, vae: str) -> str:
    """Start with something that cannot be had: the host's VAE is used, nothing is claimed, one sentence says why."""
    before = host.pixels()
    job = start(session, vae)
    assert torch.equal(host.pixels(), before)
    assert job.extra_generation_params == {} and job.sd_vae_name == "host's"
    assert len(job.comments) == 1 and "\n" not in job.comments[0]
    processed = SimpleNamespace(extra_generation_params={"a": 1})
    session.finish(job, processed)
    assert processed.extra_generation_params == {"a": 1, WARNING_KEY: job.comments[0]}
    assert job.extra_generation_params == {}
    assert session.shelf.last and session.shelf.last.document()["kind"] in ("host", "baked")
    return job.comments[0]


def test_unknown_name(session: Session, host: OneModel):
    assert "There is no VAE 'nope'" in refused(session, host, "nope")


@pytest.mark.parametrize("name", ['"; DROP', "<script>alert(1)</script>", "🎨" * 300, "a\x00b"])
def test_strange_names(session: Session, host: OneModel, name: str):
    assert len(refused(session, host, name)) < 700


def test_other_channels(session: Session, host: OneModel, write_vae):
    write_vae("VAE/flux.safetensors", FLUX)
    assert "16-channel latents" in refused(session, host, "flux")


def test_other_family_of_the_same_shapes(session: Session, host: OneModel, write_vae):
    write_vae("VAE/xl.safetensors", seed=4, scale_factor="0.13025")
    assert "made for SDXL" in refused(session, host, "xl")
    session.shelf.obey(Options(1 << 30, allow_other_family=True))
    start(session, "xl")
    assert torch.equal(host.pixels(), decode(make_vae(seed=4), Z))


def test_broken_file(session: Session, host: OneModel):
    (host.folder / "VAE" / "half.safetensors").write_bytes(b"\x10")
    assert "half cannot be used" in refused(session, host, "half")


def test_file_deleted_after_it_was_listed(session: Session, host: OneModel):
    session.shelf.files()
    (host.folder / "VAE" / "b.safetensors").unlink()
    assert "not there any more" in refused(session, host, "b")


def test_file_deleted_in_mid_job_is_not_missed(session: Session, host: OneModel):
    job = start(session)
    (host.folder / "VAE" / "b.safetensors").unlink()
    session.release()
    session.ensure(job)
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), Z))


def test_file_replaced_between_two_jobs(session: Session, host: OneModel, write_vae):
    session.finish(start(session))
    write_vae("VAE/b.safetensors", seed=6)
    job = start(session)
    assert torch.equal(host.pixels(), decode(make_vae(seed=6), Z))
    assert job.sd_vae_hash == sha256_of(host.folder / "VAE" / "b.safetensors")[:10]


def test_a_fault_of_our_own_leaves_the_hosts_result(session: Session, host: OneModel, monkeypatch):
    monkeypatch.setattr(session.shelf, "index", lambda: 1 / 0)
    assert "VAE Manager failed" in refused(session, host, "b")


def test_checkpoint_without_a_vae_of_its_own(session: Session, host: OneModel):
    path = host.folder / "novae.safetensors"
    save_file({"model.diffusion_model.x": torch.zeros(1)}, str(path))
    host.model.sd_checkpoint_info.filename = str(path)
    job = start(session, "Baked")
    assert "There is no VAE baked into novae.safetensors" in job.comments[0]
    assert not session.swapped and job.extra_generation_params == {}


def test_swapping_back_and_forth_reads_each_file_once(session: Session, host: OneModel, monkeypatch):
    from vae_manager.webui import first_stage as module

    loads = []
    monkeypatch.setattr(module, "load_kl_state", lambda *a, real=module.load_kl_state: (loads.append(a), real(*a))[1])
    for name in "bcbcb":
        session.finish(start(session, name))
    assert len(loads) == 2


def test_a_vae_that_was_read_for_a_model_in_half_precision_is_read_again_for_one_in_full(
    session: Session, host: OneModel
):
    host.model.first_stage_model.half()
    session.finish(start(session))
    host.model.first_stage_model.float()
    start(session)
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), Z))


def test_a_file_full_of_nan_is_not_let_in(session: Session, host: OneModel):
    state = make_state(seed=2)
    state["decoder.mid.attn_1.q.weight"][3] = torch.nan
    save_file(state, str(host.folder / "VAE" / "nan.safetensors"))
    assert "holds NaN" in refused(session, host, "nan")


def test_a_model_in_mid_job_that_the_vae_does_not_fit(session: Session, host: OneModel):
    """A refiner of another family: its own VAE decodes, and the infotext of what follows claims nothing."""
    job = start(session)
    host.model = SimpleNamespace(first_stage_model=make_vae(FLUX), sd_checkpoint_info=host.model.sd_checkpoint_info)
    session.ensure()
    assert not session.swapped and KEY not in job.extra_generation_params
    assert job.sd_vae_name is None and "16" in job.comments[0]
