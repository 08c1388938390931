"""The adapters in small WebUIs of each kind: whole jobs, and what each host needs apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import FLUX, make_state, make_vae
from tests.webui.fakes import SCALE, VAE, Processing, WebUI
from vae_manager.codec import coder
from vae_manager.codec.streaming.plan import Plan
from vae_manager.codec.whole import decode
from vae_manager.latents.claims import LoadedFormat
from vae_manager.latents.spaces import SPACES
from vae_manager.library.hashing import sha256_of
from vae_manager.selection.settings import PanelSettings
from vae_manager.webui import job
from vae_manager.webui.hosts.base import Host
from vae_manager.webui.hosts.picture_job import PictureJob
from vae_manager.webui.infotext import KEY
from vae_manager.webui.options import Options
from vae_manager.webui.session import Session

KINDS = {"a1111": "AUTOMATIC1111", "reforge": "reForge", "forge": "Forge"}
Z = torch.linspace(-3, 3, 4 * 4 * 36).reshape(4, 4, 6, 6)


@pytest.fixture(params=KINDS)
def webui(request, tmp_path: Path, write_vae, monkeypatch) -> WebUI:
    write_vae("VAE/b.safetensors", seed=2)
    write_vae("VAE/c.safetensors", seed=3)
    import sys

    return WebUI(request.param, tmp_path, lambda name, module: monkeypatch.setitem(sys.modules, name, module))


@pytest.fixture
def session(webui: WebUI) -> Iterator[Session]:
    session = Session(webui.host, Options(1 << 30))
    webui.host.install_guards(session.guards())
    yield session
    session.shut_down()


only = {kind: pytest.mark.parametrize("webui", [kind], indirect=True) for kind in KINDS}
forges = pytest.mark.parametrize("webui", ["forge", "reforge"], indirect=True)


def picture(seed: int, row: int) -> Tensor:
    """What a host makes of one latent with the VAE of this seed: clamped, and truncated."""
    return (((decode(make_vae(seed=seed), Z[row : row + 1])[0] + 1) / 2).clamp(0, 1) * 255).to(torch.uint8)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two pictures are the same, but for values that lie on a step (a batch is not summed as a row is)."""
    off = (one.int() - other.int()).abs()
    return int(off.max()) <= 1 and float((off > 0).float().mean()) < 0.001


def test_it_is_told_by_what_it_can_do(webui: WebUI):
    assert webui.host.name == KINDS[webui.kind]
    assert webui.host.current_model() is webui.model and webui.host.first_stage(webui.model) is webui.stage
    assert webui.host.checkpoint(webui.model).name == "model.safetensors"
    assert webui.host.scale_factor(webui.model, webui.stage) == SCALE
    webui.sd_models.model_data.sd_model = object()  # Forge's, before the first picture
    assert webui.host.current_model() is None


def test_a_whole_job_with_a_vae_for_each_picture(webui: WebUI, session: Session):
    own = list(webui.stage.parameters())
    prompts = ["x <vae:b>", "x", "x <vae:c>", "x <vae:b>"]
    pictures, texts = webui.generate(session, Processing(prompts, batch_size=2), Z)
    for row, seed in enumerate((2, 1, 3, 2)):
        assert same(pictures[row], picture(seed, row)), row
    sha256 = {name: sha256_of(webui.folder / "VAE" / f"{name}.safetensors")[:10] for name in "bc"}
    named = [("b", sha256["b"]), None, ("c", sha256["c"]), ("b", sha256["b"])]
    for text, wanted in zip(texts, named, strict=True):
        assert (text.get(KEY) == f"vae={wanted[0]}.safetensors; hash={wanted[1]}") if wanted else KEY not in text
        if wanted:
            assert (text["VAE"], text["VAE hash"]) == (f"{wanted[0]}.safetensors", wanted[1])
        elif webui.kind != "forge":
            assert "VAE" not in text  # the baked one, and no line from the job before
    assert all(a is b for a, b in zip(own, webui.stage.parameters(), strict=True))
    assert not {"decode", "encode"} & vars(webui.stage).keys()


def test_off_is_the_hosts_own_to_the_last_byte(webui: WebUI, session: Session):
    p = Processing(["x", "x"])
    pictures, texts = webui.generate(session, p, Z)
    plain = [(255.0 * ((row + 1) / 2).clamp(0, 1)).to(torch.uint8) for row in webui.decode_latent_batch(Z[:2])]
    assert all(torch.equal(a, b) for a, b in zip(pictures, plain, strict=True))
    assert (
        texts == [{"VAE": "the host's", "VAE hash": "the host's"}] * 2 and vars(p).keys() == vars(Processing([])).keys()
    )


def test_streamed_it_is_the_whole_decodes_picture(webui: WebUI, session: Session):
    (done,), _ = webui.generate(session, Processing(["x"]), Z, PanelSettings(True, "b", decode="exact"))
    exact = ((decode(make_vae(seed=2), Z[:1])[0] + 1) / 2).clamp(0, 1) * 255
    away = (exact - exact.round()).abs() > 0.005
    assert (
        torch.equal(done[away], exact.to(torch.uint8)[away])
        and session.shelf.last
        and session.shelf.last.watch.streamed
    )


def test_another_job_inside_a_batch_gives_the_batch_its_vae_back(webui: WebUI, session: Session):
    """A script that runs a job between sampling and decoding: what decodes the batch is put in just before."""
    p, inner = Processing(["x <vae:b>"]), Processing(["x <vae:c>"])
    session.begin(p)
    session.prepare(p, PanelSettings())
    p.init([], [], [])
    session.ensure(p)
    webui.generate(session, inner, Z)
    session.ensure(p)
    session.release()  # as the host's own loading of a VAE does
    (row,) = webui.processing.decode_latent_batch(Z[:1])
    assert torch.allclose(row, decode(make_vae(seed=2), Z[:1])[0], atol=1e-5)


def test_what_the_host_writes_in_mid_job_is_its_own_and_stays(webui: WebUI, session: Session):
    loads = [webui.sd_vae.reload_vae_weights] if webui.kind == "forge" else [
        webui.sd_vae.load_vae, webui.sd_models.load_model_weights]  # fmt: skip
    if webui.kind == "reforge":  # its own function for a changed setting, which copies a VAE in
        loads.append(webui.sd_vae.reload_vae_weights)
    for seed, load in enumerate(loads, 5):
        (done,), _ = webui.generate(session, Processing(["x <vae:b>"]), Z, before_batch=lambda s=seed, f=load: f(s))
        assert same(done, picture(2, 0))
        wanted = make_state(seed=seed)
        assert all(torch.equal(value, wanted[name]) for name, value in webui.stage.state_dict().items())


def test_after_an_exception_closing_the_job_is_enough(webui: WebUI, session: Session):
    p = Processing(["x <vae:b>"])
    session.begin(p)
    session.prepare(p, PanelSettings())
    p.init([], [], [])
    assert session.swapped
    p.close()
    assert not session.swapped and p.closed == 1


@forges
@pytest.mark.parametrize("mode", ["exact", "auto"])
def test_the_hosts_tiling_is_switched_off_for_exact_and_on_again(webui: WebUI, session: Session, mode: str):
    webui.memory.VAE_ALWAYS_TILED = True
    webui.tiles = None if mode == "exact" else ()
    p = Processing(["x"])
    webui.generate(session, p, Z, PanelSettings(True, "b", decode=mode))
    assert webui.memory.VAE_ALWAYS_TILED is True
    assert "Never OOM) is switched on" in p.comments[0] and bool(
        session.shelf.last and session.shelf.last.watch.streamed
    ) == (mode == "exact")


@forges
def test_the_hosts_tiling_is_on_again_after_a_job_that_failed(webui: WebUI, session: Session):
    webui.memory.VAE_ALWAYS_TILED = True
    p = Processing(["x"])
    session.begin(p)
    session.prepare(p, PanelSettings(True, "b", decode="exact"))
    p.init([], [], [])
    assert webui.memory.VAE_ALWAYS_TILED is False
    session.begin(Processing(["x"]))
    assert webui.memory.VAE_ALWAYS_TILED is True


@forges
def test_free_memory_is_what_the_hosts_manager_gives(webui: WebUI):
    webui.memory.get_free_memory = lambda device: 123
    assert webui.host.free_memory(torch.device("cpu")) == 123


def test_what_the_page_shows_and_the_user_stops(webui: WebUI):
    assert not webui.host.interrupted()
    webui.shared.state.skipped = True
    assert webui.host.interrupted()
    webui.host.say("half way")
    assert webui.shared.state.textinfo == "half way"


def test_folders_of_the_webuis_own_and_of_its_flags(webui: WebUI):
    webui.shared.cmd_opts.vae_dir, webui.shared.cmd_opts.ckpt_dirs = "/vaes", ["/a", "/b"]
    found = {str(folder.path): folder.marked_only for folder in webui.host.vae_folders()}
    own = {str(webui.folder / "VAE"): False, str(webui.folder / "Stable-diffusion"): True}
    assert found == {**own, "/vaes": False, "/a": True, "/b": True}
    assert webui.host.data_folder() == webui.folder / "data" / "vae-manager"


# --- AUTOMATIC1111 and its `sd_vae`, which Classic and reForge share


@pytest.mark.parametrize("webui", ["a1111", "reforge"], indirect=True)
def test_the_hosts_own_vae_setting(webui: WebUI, session: Session):
    b = str(webui.folder / "VAE" / "b.safetensors")
    webui.sd_vae.vae_dict = {"b.safetensors": b}
    host, model = webui.host, webui.model
    assert host.standing_vae() == "Automatic" and host.loaded_vae(model) is None
    webui.shared.opts.sd_vae = "b.safetensors"
    assert host.standing_vae() == b
    webui.shared.cmd_opts.vae_path = "/flag.pt"
    assert host.standing_vae() == "/flag.pt"
    p = Processing(["x"], override_settings={"sd_vae": "b.safetensors"})
    assert host.job_vae(PictureJob.of(p)) == b and host.job_vae(PictureJob.of(Processing(["x"]))) is None
    webui.sd_vae.loaded_vae_file = b
    assert host.loaded_vae(model) == Path(b)


@pytest.mark.parametrize("webui", ["a1111", "reforge"], indirect=True)
def test_pasting_leaves_the_hosts_vae_setting_alone(webui: WebUI):
    params = {"VAE": "a", "VAE hash": "b", "Steps": "1", "Module 1": "clip_l", "Module 2": "b"}
    assert webui.host.foreign_vae(params, lambda name: name == "b") == "b"  # a Forge picture
    webui.host.clean_pasted(params)
    assert "VAE" not in params and "VAE hash" not in params and params["Steps"] == "1"


@only["a1111"]
def test_another_extensions_tiled_vae_is_seen_below_our_own_hook(webui: WebUI, session: Session):
    class VAEHook:
        def __call__(self, z: Tensor) -> Tensor:
            return torch.zeros(1)

    assert webui.host.tiler(webui.stage) is None
    webui.stage.decoder.forward = VAEHook()  # type: ignore[union-attr]
    assert webui.host.tiler(webui.stage) == "Tiled VAE"
    session.begin(p := Processing(["x"]))
    session.start(p, PanelSettings(True, "b"))
    assert webui.host.tiler(webui.stage) == "Tiled VAE" and "Tiled VAE is switched on" in p.comments[0]


@only["a1111"]
@pytest.mark.parametrize("first", ["theirs", "ours"])
@pytest.mark.parametrize("decode", ["auto", "exact"])
def test_a_tiler_takes_itself_out_whoever_is_first_after_the_job(
    webui: WebUI, session: Session, first: str, decode: str
):
    """Tiled VAE looks whether its own function is still there; ours stands around it while the job is finished."""

    class VAEHook:
        def __init__(self, net: torch.nn.Module) -> None:
            self.net: torch.nn.Module | None = net
            self.inner = net.forward

        def __call__(self, z: Tensor) -> Tensor:
            return self.inner(z)

    decoder: Any = webui.stage.decoder
    decoder.original_forward = decoder.forward

    def their_postprocess() -> None:
        if isinstance(decoder.forward, VAEHook):
            decoder.forward.net = None
            decoder.forward = decoder.original_forward

    before = webui.decode_latent_batch(Z[:1])[0]
    session.begin(p := Processing(["x"]))
    decoder.forward = VAEHook(decoder)
    session.start(p, PanelSettings(True, "b", decode=decode))
    hooks = [their_postprocess, lambda: session.finish(p)]
    for hook in hooks if first == "theirs" else reversed(hooks):
        hook()
    assert decoder.forward == decoder.original_forward and webui.host.tiler(webui.stage) is None
    assert torch.equal(webui.decode_latent_batch(Z[:1])[0], before)


# --- the host's memory manager


@forges
@pytest.mark.parametrize("decode", ["exact", "auto", "host", "whole"])
def test_the_memory_manager_hears_the_plan_and_only_where_it_is_streamed(
    webui: WebUI, session: Session, decode: str, monkeypatch
):
    """Else it puts the model away for a whole decode that never comes."""
    z = torch.randn(1, 4, 24, 24)
    webui.memory.get_free_memory = lambda device: 40 << 20  # too little for the whole one
    own = webui.model.forge_objects.vae.memory_used_decode(z.shape, torch.float16)
    before = dict(vars(webui.model.forge_objects.vae))
    plans: list[Plan] = []
    real = coder.stream_decode
    monkeypatch.setattr(coder, "stream_decode", lambda *a, plan, **k: (plans.append(plan), real(*a, plan=plan, **k))[1])
    webui.generate(session, Processing(["x"]), z, PanelSettings(True, "b", decode=decode))
    (asked,) = webui.asked
    if decode in ("exact", "auto"):
        assert asked == plans[0].peak_bytes < own / 2
    else:
        assert asked == own and not plans
    assert vars(webui.model.forge_objects.vae) == before
    webui.decode_latent_batch(z)  # off: the host's own number
    assert webui.asked[1] == own


@forges
def test_estimates_go_back_whatever_others_have_done_meanwhile(webui: WebUI, session: Session):
    """A clone that an extension keeps, as Forge's own clones copy the function; and one that was put over ours."""
    vae, other = webui.model.forge_objects.vae, VAE(webui.stage)
    webui.model.forge_objects_after_applying_lora = SimpleNamespace(vae=other)
    own, encode = vae.memory_used_decode, vae.memory_used_encode
    session.begin(p := Processing(["x"]))
    session.start(p, PanelSettings(True, "b", decode="exact"))
    shape = (1, 4, 8, 8), torch.float16
    assert vae.memory_used_decode(*shape) != own(*shape) and other.memory_used_decode(*shape) != own(*shape)
    assert vae.memory_used_encode((1, 3, 64, 64), torch.float16) != encode((1, 3, 64, 64), torch.float16)
    assert vae.memory_used_decode((1, 4, 1, 8, 8), torch.float16) == own((1, 4, 1, 8, 8), torch.float16)  # a video
    clone = SimpleNamespace(memory_used_decode=vae.memory_used_decode)
    theirs = other.memory_used_decode = lambda shape, dtype: 1.0
    session.finish(p)
    assert vae.memory_used_decode is own and vae.memory_used_encode is encode
    assert other.memory_used_decode is theirs and clone.memory_used_decode(*shape) == own(*shape)


@forges
def test_an_estimate_that_fails_is_the_hosts_own(webui: WebUI, session: Session, monkeypatch, caplog):
    monkeypatch.setattr(job, "foreseen", lambda *a: 1 / 0)
    session.begin(p := Processing(["x"]))
    session.start(p, PanelSettings(True, "b", decode="exact"))
    vae = webui.model.forge_objects.vae
    assert vae.memory_used_decode((1, 4, 8, 8), torch.float16) == 2178 * 64 * 64 * 2
    assert "own estimate counts" in caplog.text
    session.finish(p)


# --- Forge and its modules


def told(host: Host, **override: Any) -> str | None:
    """What a job with this override tells the host."""
    return host.job_vae(PictureJob.of(Processing(["x"], override_settings=override)))


@only["forge"]
def test_a_vae_among_forges_modules(webui: WebUI, tmp_path: Path, write_vae):
    host, model = webui.host, webui.model
    text, vae = write_vae("text_encoder/clip.safetensors"), str(webui.folder / "VAE" / "b.safetensors")
    nothing = tmp_path / "t5.safetensors"
    nothing.write_bytes(b"\x10")
    loading = webui.sd_models.model_data.forge_loading_parameters
    loading["additional_modules"] = [str(text), str(nothing)]
    webui.shared.opts.forge_additional_modules = loading["additional_modules"]
    assert host.loaded_vae(model) is None and host.standing_vae() == "Automatic"
    loading["additional_modules"].append(vae)
    assert host.loaded_vae(model) == Path(vae) and host.standing_vae() == vae
    assert told(host) is None  # what stands in the list is nobody's wish for this job
    assert told(host, sd_vae="c") == "c"
    webui.shared.opts.vae_manager_forge_sd_vae = False
    assert told(host, sd_vae="c") is None
    webui.module_list["b.safetensors"] = vae
    assert told(host, forge_additional_modules=["clip.safetensors", "b.safetensors"]) == vae
    assert told(host, forge_additional_modules=[vae]) == vae
    assert told(host, forge_additional_modules=[str(text)]) == told(host, forge_additional_modules=[]) == "Automatic"


@only["forge"]
def test_forges_sd_vae_chooses_again(webui: WebUI, session: Session):
    p = Processing(["x"], override_settings={"sd_vae": "c.safetensors"})
    (done,), (text,) = webui.generate(session, p, Z)
    assert same(done, picture(3, 0)) and text["VAE"] == "c.safetensors"


@only["forge"]
def test_forges_infotext_has_no_vae_line_beside_modules(webui: WebUI):
    """Pasted, it would replace the whole list of modules, text encoders included."""
    p = Processing(["x"])
    webui.host.record(PictureJob.of(p), "b.safetensors", "1234567890")
    assert p.extra_generation_params == {"VAE": "b.safetensors", "VAE hash": "1234567890"}
    webui.shared.opts.forge_additional_modules = ["clip_l"]
    webui.host.record(PictureJob.of(p), "b.safetensors", "1234567890")
    assert p.extra_generation_params == {}


@only["forge"]
def test_an_a1111_picture_pasted_into_forge(webui: WebUI):
    is_vae = lambda name: name == "b"  # noqa: E731
    assert webui.host.foreign_vae({"VAE/TE": ["b"]}, is_vae) == "b"
    for params in (
        {"VAE/TE": ["b"], "Module 1": "b"},
        {"VAE/TE": ["b", "clip"]},
        {"VAE/TE": ["clip"]},
        {"VAE/TE": "b"},
        {},
    ):
        assert webui.host.foreign_vae(params, is_vae) is None
    params = {"VAE": "b", "VAE/TE": ["b"], "Steps": "1"}
    webui.host.clean_pasted(params)
    assert params == {"Steps": "1"}


@only["forge"]
def test_neos_latent_format_tells_the_scale(webui: WebUI):

    webui.stage.latent_format = SimpleNamespace(scale_factor=0.3611)  # type: ignore[assignment]
    assert webui.host.scale_factor(webui.model, webui.stage) == 0.3611
    webui.stage.latent_format = SimpleNamespace(scale_factor="?")  # type: ignore[assignment]
    assert webui.host.scale_factor(webui.model, webui.stage) is None


# --- what a loaded model says of its own latents


def format_object(webui: WebUI) -> Any:
    """Where a host of the Forge family keeps it."""
    if webui.kind == "forge":
        return webui.model.model_config.latent_format
    return webui.model.forge_objects.unet.model.model_config.latent_format


def test_every_host_says_something(webui: WebUI):
    scale = None if webui.kind == "a1111" else SCALE
    assert webui.host.latent_format(webui.model) == LoadedFormat(4, scale)


@forges
def test_what_formats_of_the_forge_family_hold(webui: WebUI):
    held = format_object(webui)
    held.latent_channels, held.scale_factor, held.shift_factor = 16, 0.3611, 0.1159
    assert webui.host.latent_format(webui.model) == LoadedFormat(16, 0.3611, 0.1159)
    held.scale_factor, held.shift_factor = 1.0, None
    held.latents_mean = torch.tensor(SPACES["wan21"].mean).view(1, 16, 1, 1, 1)
    said = webui.host.latent_format(webui.model)
    assert said is not None and said.mean == pytest.approx(SPACES["wan21"].mean) and said.scale == 1.0


@forges
def test_a_format_that_is_not_understood_leaves_the_tensors_to_tell(webui: WebUI):
    held = format_object(webui)
    vars(held).clear()
    assert webui.host.latent_format(webui.model) == LoadedFormat(4)
    held.latent_channels, held.scale_factor, held.latents_mean = "four", None, "none"
    assert webui.host.latent_format(webui.model) == LoadedFormat(4)


@only["forge"]
def test_a_model_without_a_format_is_no_fault(webui: WebUI):
    del webui.model.model_config
    assert webui.host.latent_format(webui.model) == LoadedFormat(4)
    webui.model.forge_objects.vae = None
    assert webui.host.latent_format(webui.model) is None


@forges
@pytest.mark.parametrize(("scale", "fits"), [(SCALE, False), (0.13025, True)])
def test_the_line_and_the_job_believe_the_loaded_model(
    webui: WebUI,
    session: Session,
    write_vae,
    scale: float,
    fits: bool,
):
    """The header says SD 1, by one name; the model that was loaded from it says what it is."""
    write_vae("VAE/xl.safetensors", seed=4, scale_factor="0.13025")
    format_object(webui).scale_factor = scale
    wanted = PanelSettings(True, "xl")
    session.shelf.index(refresh=True)
    promised = session.shelf.preview(wanted)
    assert promised is not None and (promised[1].kind == "file") is fits
    job = Processing(["x"])
    session.begin(job)
    session.start(job, wanted)
    assert session.swapped is fits and len(job.comments) == (not fits)
    assert all("is made for SDXL" in said and "is Stable Diffusion 1.x and 2.x" in said for said in job.comments)
    assert session.shelf.last is not None and session.shelf.last.decision == promised[1]
    session.finish(job)


@only["a1111"]
def test_without_a_word_in_the_header_the_channels_of_the_loaded_vae_refuse_another(
    webui: WebUI,
    session: Session,
    write_vae,
):
    path = webui.host.checkpoint(webui.model)
    save_file({"something.new": torch.zeros(1)}, str(path))
    write_vae("VAE/sixteen.safetensors", FLUX)
    session.shelf.index(refresh=True)
    line = session.shelf.about("sixteen")[0]
    assert line == (
        "sixteen.safetensors is made for 16-channel latents (16 latent channels: Stable Diffusion 3 or Flux.1, whose "
        "VAEs have the same shapes), but the checkpoint model.safetensors is one with 4-channel latents; choose a VAE "
        "of that family."
    )
