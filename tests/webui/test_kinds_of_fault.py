"""Nothing is lost, blamed wrongly or said too early: what several jobs share, hooks in any order, late files."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import FLUX, make_state, make_vae
from tests.webui.test_pictures import Z, by, decode_batch, host_z
from tests.webui.test_session import Job, OneModel, start
from vae_manager.codec import swap
from vae_manager.codec.whole import decode
from vae_manager.errors import VaeFileError
from vae_manager.library.known import known_vaes
from vae_manager.selection.decision import AUTOMATIC
from vae_manager.selection.settings import PanelSettings
from vae_manager.webui.first_stage import ready
from vae_manager.webui.hosts.picture_job import PictureJob
from vae_manager.webui.infotext import KEY
from vae_manager.webui.job import Job as JobOfOurs
from vae_manager.webui.options import Options
from vae_manager.webui.presets import save_preset
from vae_manager.webui.session import Session
from vae_manager.webui.tenure import Tenure


class Hosted(Job):
    """A processing object with the hosts' `init`, which encodes in img2img."""

    batch_index: int

    def __init__(self, prompts: list[str], host: OneModel | None = None, **more: Any) -> None:
        super().__init__()
        vars(self).update(all_prompts=prompts, batch_size=len(prompts), iteration=0, **more)
        self.host, self.encoded = host, []

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        if self.host is not None:
            with torch.no_grad():
                self.encoded.append(self.host.model.first_stage_model.encode(PICTURE))


PICTURE = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def process(session: Session, job: Hosted, settings: PanelSettings | None = None, later: Any = None) -> Hosted:
    """As a host goes: our hook, then others' hooks, then `init`."""
    session.begin(job)
    session.prepare(job, settings or PanelSettings())
    if later is not None:
        later()
    job.init(job.all_prompts, [1], [1])
    return job


# --- putting back


def test_a_move_that_fails_is_tried_again_and_nothing_is_forgotten(session: Session, host: OneModel, monkeypatch):
    before, job = host.pixels(), start(session)
    host.model.first_stage_model.to(torch.float64)  # the host moves its module, and then memory is short
    with monkeypatch.context() as patch:
        patch.setattr(swap, "_like", lambda *a: 1 / 0)
        session.finish(job, SimpleNamespace())
    assert session.swapped  # ours are still in it, and that is known
    session.release()
    assert not session.swapped
    host.model.first_stage_model.to(torch.float32)
    assert torch.equal(host.pixels(), before)


# --- hooks in any order


@pytest.mark.parametrize("panel", [False, True])
def test_prompts_that_others_write_after_our_hook_count(session: Session, host: OneModel, panel: bool):
    """Dynamic Prompts with `<vae:{b|c}>`, whichever of us is called first."""
    job = Hosted(["a {cat|dog} <vae:{b|c}>"] * 2, host)
    process(session, job, PanelSettings(panel), lambda: vars(job).update(all_prompts=["x <vae:b>", "x <vae:c>"]))
    assert torch.equal(job.encoded[0], make_vae(seed=2).encode_moments(PICTURE))  # img2img encodes with the first's
    rows = decode_batch(session, host, Z[:2])
    assert torch.allclose(rows[0], by(2, 0)[0], atol=1e-5) and torch.allclose(rows[1], by(3, 1)[0], atol=1e-5)
    assert job.comments == [] and "init" not in vars(job)


def test_a_tag_that_a_later_hook_brings_in_counts_with_the_panel_closed(session: Session, host: OneModel):
    job = Hosted(["__a_wildcard__"])
    process(session, job, later=lambda: vars(job).update(all_prompts=["x <vae:b>"]))
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), host_z()))


def test_a_host_that_goes_past_init_is_caught_at_the_first_batch(session: Session, host: OneModel):
    job = Hosted(["x <vae:b>"])
    session.begin(job)
    session.prepare(job, PanelSettings())
    session.ensure(job)
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), host_z())) and "init" not in vars(job)


def test_prompts_that_change_between_two_batches(session: Session, host: OneModel):
    job = process(session, Hosted(["x <vae:b>"]))
    job.all_prompts = ["x <vae:c>"]
    session.ensure(job)
    assert torch.equal(host.pixels(), decode(make_vae(seed=3), host_z()))
    assert "vae=c.safetensors" in job.extra_generation_params[KEY]


def test_off_leaves_nothing_on_the_processing_object(session: Session, host: OneModel):
    job = Hosted(["x"])
    fresh = dict(vars(job))
    process(session, job)
    session.ensure(job)
    session.finish(job, SimpleNamespace())
    assert vars(job) == fresh


# --- what several jobs share


def test_jobs_that_are_copies_of_one_another_leave_each_other_nothing(session: Session, host: OneModel):
    """Prompts from file and X/Y/Z: every line's job is a shallow copy, and shares the dict of parameters."""
    original = Hosted(["x"])
    shared = original.extra_generation_params
    for prompts, panel in ((["x <vae:b>"], False), (["x"], False), (["x"], True), (["x"], False)):
        job = copy(original)
        job.all_prompts = prompts
        before = dict(vars(job))
        process(session, job, PanelSettings(panel, "c"))
        mine = dict(job.extra_generation_params)
        session.finish(job, SimpleNamespace(extra_generation_params=mine))
        assert (KEY in mine) == (panel or "vae" in prompts[0])
        if KEY not in mine:
            assert vars(job) == before
        assert original.extra_generation_params is shared and shared == {}


def test_a_copy_of_a_job_that_is_over_is_a_job_of_its_own(session: Session, host: OneModel):
    first = process(session, Hosted(["x <vae:b>"]))
    session.finish(first, SimpleNamespace())
    second = copy(first)
    second.all_prompts = ["x"]
    process(session, second)
    assert second.extra_generation_params == {} and KEY in first.extra_generation_params
    second.all_prompts = ["x <vae:c>"]
    process(session, second)
    before = first.closed
    second.close()  # after an exception: this one is finished, not the one that it is a copy of
    assert not session.swapped and (first.closed, second.closed) == (before, 1)


def test_a_script_may_run_a_copy_before_the_job_itself_has_begun(session: Session, host: OneModel):
    """From its own `process` hook: what waits for the original's `init` is none of the copy's business."""
    original = Hosted(["x <vae:b>"])
    copies: list[Hosted] = []

    def run_a_copy() -> None:
        copies.append(copy(original))
        copies[0].all_prompts = ["x"]
        process(session, copies[0])
        assert not session.swapped
        session.finish(copies[0], SimpleNamespace())
        session.ensure(copy(original))  # and one that comes in in the middle
        assert not session.swapped

    process(session, original, later=run_a_copy)
    assert session.swapped and "vae=b" in original.extra_generation_params[KEY]
    assert copies[0].extra_generation_params == {} and "init" not in vars(copies[0])


def test_one_object_run_again_without_a_tag_says_nothing(session: Session, host: OneModel):
    job = process(session, Hosted(["x <vae:b>"]))
    session.finish(job, SimpleNamespace())
    job.all_prompts = ["x"]
    process(session, job)
    assert job.extra_generation_params == {}


# --- what is known before it is used


@pytest.fixture
def of_another_family(monkeypatch, host: OneModel) -> None:
    """c's hash is that of a VAE for SDXL, and only its hash says so."""
    from vae_manager.library.hashing import sha256_of

    sha256 = sha256_of(host.folder / "VAE" / "c.safetensors")
    (any_known, *_) = known_vaes()
    known = replace(any_known, id="other", name="The Other", family="sdxl", latents_of="sdxl", quirks=())
    find = lambda given: known if given == sha256 else None  # noqa: E731
    for module in ("vae_manager.selection.checkpoint", "vae_manager.library.report", "vae_manager.webui.coloring"):
        monkeypatch.setattr(f"{module}.by_sha256", find)


def test_a_file_that_its_hash_gives_away_is_refused_at_its_first_use(session: Session, host, of_another_family):
    before, job = host.pixels(), start(session, "c")
    assert torch.equal(host.pixels(), before)
    assert "c.safetensors is made for SDXL" in job.comments[0] and job.extra_generation_params == {}


def test_what_is_in_the_cache_is_held_against_each_model(session: Session, host: OneModel):
    session.finish(start(session))
    other = make_vae(FLUX)
    with pytest.raises(VaeFileError, match="4 channels"):
        ready(session.shelf.cache, session.shelf.find("b"), other)


def test_the_panel_says_beforehand_what_will_be_refused_and_does_not_save_it(session: Session, host, of_another_family):
    line, steps = session.shelf.about("c")
    assert "made for SDXL" in line and "refused" in {step.outcome for step in steps}
    for settings in (PanelSettings(True, "c"), PanelSettings(True, "b", encode_vae="c")):
        assert save_preset(session.shelf, settings).startswith("Not saved: c.safetensors is made for SDXL")
    assert session.shelf.chooser.presets.all() == ()
    session.shelf.obey(Options(1 << 30, allow_other_family=True))
    assert save_preset(session.shelf, PanelSettings(True, "c")).startswith("Saved")


def test_the_setting_is_the_users_own_while_a_job_overrides_it(session: Session, host: OneModel):
    """A line that says what an X/Y/Z cell asks for would stay on the page."""
    b, c = (str(host.folder / "VAE" / f"{name}.safetensors") for name in "bc")
    host.setting = b
    for finished in (True, False):  # an exception: the host restores the setting, and no hook is called
        job = Job()
        vars(job)["override_settings"] = {"sd_vae": c}
        session.begin(job)
        host.setting = c
        assert "b.safetensors" in session.shelf.about(AUTOMATIC)[0]
        if finished:
            session.finish(job)
        host.setting = b
        assert "b.safetensors" in session.shelf.about(AUTOMATIC)[0]
        host.setting = None  # now the user changes it
        assert "its baked VAE" in session.shelf.about(AUTOMATIC)[0]
        host.setting = b


def test_what_the_hosts_own_setting_of_a_job_does_not_decide_is_said(session: Session, host: OneModel):
    def comments(vae: str, wanted: str) -> list[str]:
        job = Job()
        vars(job)["override_settings"] = {"sd_vae": wanted}
        return start(session, vae, job).comments

    (said,) = comments("b", "c.safetensors")
    assert "'c.safetensors', does not decide" in said and "b.safetensors" in said
    assert comments("b", "b.safetensors") == comments("b", "Automatic") == comments(AUTOMATIC, "c.safetensors") == []
    assert comments("Baked", "None") == []


# --- files that came after us


def test_a_file_that_came_in_later_is_found_by_its_name(session: Session, host: OneModel, write_vae):
    session.shelf.files()
    write_vae("VAE/mine.safetensors", seed=5)
    job = process(session, Hosted(["x <vae:mine>"]))
    assert torch.equal(host.pixels(), decode(make_vae(seed=5), host_z())) and job.comments == []
    session.finish(job)
    write_vae("VAE/other.safetensors", seed=6)
    assert "other" not in session.shelf.about("other")[0].partition("There is no VAE")[1]
    assert session.shelf.find("other").name == "other.safetensors"


def test_what_the_host_has_loaded_is_true_whatever_our_list_says(session: Session, host: OneModel, write_vae):
    session.shelf.files()
    for place in ("VAE/late.safetensors", "elsewhere/late.safetensors"):  # in none of our folders
        host.own_vae = write_vae(place, seed=5)
        host.setting = str(host.own_vae)
        host.model.first_stage_model.load_state_dict(make_state(seed=5))
        own = host.pixels()
        job = start(session, AUTOMATIC)
        assert torch.equal(host.pixels(), own) and job.comments == []
        assert session.shelf.last is not None and session.shelf.last.decision.source == "preference"
        session.finish(job)


# --- broken latents, failed decodes


def test_what_could_not_be_decoded_as_chosen_is_not_said_to_be(session: Session, host: OneModel, monkeypatch):
    """The second picture's VAE cannot be put in at the moment of decoding."""
    job = process(session, Hosted(["x <vae:b>", "x <vae:c>"]))
    real = Tenure._put
    broken = lambda self, choice: 1 / 0 if "c.saf" in str(choice.vae) else real(self, choice)  # noqa: E731
    monkeypatch.setattr(Tenure, "_put", broken)
    rows = decode_batch(session, host, Z[:2])
    assert torch.allclose(rows[0], by(2, 0)[0], atol=1e-5) and torch.allclose(rows[1], by(1, 1)[0], atol=1e-5)
    said = [job.extra_generation_params[KEY](all_prompts=job.all_prompts, index=i) for i in range(2)]
    assert said[0].startswith("vae=b.safetensors") and said[1] is None
    assert "The WebUI's own VAE was used" in job.comments[0]


def test_a_strange_file_takes_neither_the_panel_nor_the_list_down(session: Session, host: OneModel, monkeypatch):
    save_file(make_state(), str(host.folder / "VAE" / "odd.safetensors"))
    monkeypatch.setattr("vae_manager.selection.checkpoint.FactsCache.vae", lambda *a: 1 / 0)
    assert "could not be found out" in session.shelf.about("odd")[0]
    monkeypatch.setattr(session.shelf, "index", lambda *a: 1 / 0)
    assert session.shelf.names() == []


def test_what_overflowed_is_remembered_for_the_next_job_and_for_that_vae_alone(session: Session, host: OneModel):
    host.model.first_stage_model.to(torch.bfloat16)
    version = {name: session.shelf.find(name).version for name in "bc"}
    calls: list[str] = []

    def decode_with(vae: str, broken: bool) -> bool:
        """Whether the host's own way was taken, with what comes out of it."""
        job, before = start(session, vae), len(calls)
        stage = host.model.first_stage_model
        hook = vars(stage.decoder)["forward"]
        real = hook.inner
        hook.inner = lambda z: (calls.append(vae), real(z) * (torch.nan if broken else 1))[1]
        with torch.no_grad():
            assert stage.decode(Z.bfloat16()[:1]).isfinite().all()
        session.finish(job, SimpleNamespace())
        return len(calls) > before

    assert decode_with("b", broken=True) and session.shelf.wide == {version["b"]}
    assert not decode_with("b", broken=False)  # streamed in float32 at once, in the next job too
    assert decode_with("c", broken=False) and session.shelf.wide == {version["b"]}


def test_what_repaints_a_part_of_a_picture_has_that_pictures_vae(session: Session, host: OneModel):
    """ADetailer runs a job without our hooks while the pictures of a batch are finished, one by one."""
    job = process(session, Hosted(["x <vae:b>", "x <vae:c>"]))
    session.next_batch(job)
    rows = decode_batch(session, host, Z[:2])
    made, kept = dict(view_of(job).made), len(session.shelf.latents)
    session.finish_pictures(job, list(rows))
    session.finish(copy(job), SimpleNamespace())  # ADetailer tells every script so, before its first part
    for index, seed in enumerate((2, 3)):
        job.batch_index = index
        with torch.no_grad():
            encoded = host.model.first_stage_model.encode(PICTURE)
        assert torch.equal(encoded, make_vae(seed=seed).encode_moments(PICTURE))
        assert torch.allclose(decode_batch(session, host, Z[2:])[0], by(seed, 2)[0], atol=1e-5)
    assert view_of(job).made == made and len(session.shelf.latents) == kept
    stray = copy(job)  # and after its last one, it sends a copy through the first hooks and no further
    session.begin(stray)
    session.prepare(stray, PanelSettings())
    line = job.extra_generation_params[KEY]
    assert [str(line(all_prompts=job.all_prompts, index=i))[:5] for i in range(2)] == ["vae=b", "vae=c"]
    session.next_batch(job)
    assert torch.equal(host.pixels(), decode(make_vae(seed=2), host_z()))
    session.finish(job, SimpleNamespace(extra_generation_params=job.extra_generation_params))
    assert torch.equal(host.pixels(), decode(make_vae(seed=1), host_z()))


def view_of(job: Hosted) -> JobOfOurs:
    found = PictureJob.of(job).job
    assert found is not None
    return found
