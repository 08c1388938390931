"""Every picture of a job with its own VAE, in each of its passes; rules and presets; and nothing left behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import make_state, make_vae
from tests.webui.test_session import Job, OneModel
from vae_manager.codec.kinds.scaling import of_packed
from vae_manager.codec.kinds.tiny.network import TinyConfig, make_decoder, make_encoder
from vae_manager.codec.padding import set_padding
from vae_manager.codec.whole import decode
from vae_manager.color.calibration import measure
from vae_manager.color.statistics import own_ends
from vae_manager.library.files import vae_file
from vae_manager.library.hashing import sha256_of
from vae_manager.library.health import RoundTrip
from vae_manager.library.state import load_kl
from vae_manager.selection.decision import AUTOMATIC
from vae_manager.selection.settings import PanelSettings
from vae_manager.webui.calibration import calibrate
from vae_manager.webui.infotext import KEY
from vae_manager.webui.options import Options
from vae_manager.webui.presets import forget_preset, save_preset
from vae_manager.webui.record import COLOR_KEY
from vae_manager.webui.session import Session
from vae_manager.webui.tenure import Tenure

Z = torch.linspace(-3, 3, 3 * 4 * 36).reshape(3, 4, 6, 6)


def start(session: Session, prompts: list[str], settings: PanelSettings | None = None, **more: Any) -> Job:
    job = Job()
    vars(job).update(all_prompts=prompts, batch_size=len(prompts), iteration=0, **more)
    session.begin(job)
    session.start(job, settings or PanelSettings())
    return job


def decode_batch(session: Session, host: OneModel, z: Tensor = Z, at_once: bool = True) -> Tensor:
    """As the hosts do: all rows in one call (Forge), or one by one (A1111), inside the batch's guard."""
    guards, stage = session.guards(), host.model.first_stage_model
    guards.begin_batch()
    try:
        with torch.no_grad():
            return stage.decode(z) if at_once else torch.cat([stage.decode(row[None]) for row in z])
    finally:
        guards.end_batch()


def by(seed: int, row: int) -> Tensor:
    return decode(make_vae(seed=seed), Z[row : row + 1])


def test_what_goes_into_the_apis_answer_can_be_written_as_json(session, host):
    job = start(session, ["x <vae:b>", "x"], PanelSettings(True, color="auto"))
    mine = job.extra_generation_params
    assert callable(mine[KEY]) and callable(mine[COLOR_KEY])
    processed = SimpleNamespace(extra_generation_params=mine, all_prompts=job.all_prompts)
    session.finish(job, processed)
    assert json.loads(json.dumps(processed.extra_generation_params))[KEY].startswith("vae=b.safetensors")
    assert callable(mine[KEY])  # pictures that are saved later still have their own


@pytest.mark.parametrize("at_once", [True, False])
def test_each_picture_of_a_batch_is_decoded_by_its_own_vae(session, host, at_once: bool):
    before = host.pixels()
    job = start(session, ["x <vae:b>", "x", "x <vae:c>"])
    rows = decode_batch(session, host, at_once=at_once)
    for row, seed in enumerate((2, 1, 3)):
        assert torch.allclose(rows[row], by(seed, row)[0], atol=1e-5), row
    line, name = job.extra_generation_params[KEY], job.extra_generation_params["VAE"]
    assert line(all_prompts=job.all_prompts, index=0).startswith("vae=b.safetensors; hash=")
    assert line(all_prompts=job.all_prompts, index=1) is None
    assert name(all_prompts=job.all_prompts, index=2) == "c.safetensors"
    session.finish(job)
    assert torch.equal(host.pixels(), before)


def test_the_second_batch_of_a_job(session, host):
    job = start(session, ["x <vae:b>", "x <vae:b>", "x <vae:c>", "x <vae:b>"])
    job.batch_size, job.iteration = 2, 1
    rows = decode_batch(session, host, Z[:2])
    assert torch.allclose(rows[0], by(3, 0)[0], atol=1e-5) and torch.allclose(rows[1], by(2, 1)[0], atol=1e-5)


def test_a_tag_with_the_panel_closed_leaves_no_function_of_ours(session, host):
    stage = host.model.first_stage_model
    job = start(session, ["x <vae:b>"])
    assert "decode" in vars(stage) and "forward" in vars(stage.decoder)
    session.finish(job)
    for module in (stage, stage.decoder, stage.encoder):
        assert not {"decode", "encode", "forward"} & vars(module).keys()


def test_a_refused_tag_with_the_panel_closed_is_the_webuis_own_picture(session, host):
    before = host.pixels()
    job = start(session, ["x <vae:nope>"])
    assert torch.equal(host.pixels(), before)
    assert "There is no VAE 'nope'" in job.comments[0] and "WebUI's own VAE" in job.comments[0]
    assert KEY not in job.extra_generation_params


def test_functions_that_somebody_else_put_there_stay(session, host):
    """medvram's wrapper stands on the instance before us; another tiler may come after."""
    stage = host.model.first_stage_model
    inner = stage.decode
    stage.decode = wrapper = lambda z: inner(z)
    job = start(session, ["x <vae:b>"])
    ours = vars(stage.decoder)["forward"]
    later = stage.decoder.forward = lambda z: ours(z)
    session.ensure(job)
    assert torch.allclose(decode_batch(session, host, Z[:1]), by(2, 0), atol=1e-5)
    session.finish(job)
    assert vars(stage)["decode"] is wrapper and vars(stage.decoder)["forward"] is later
    assert torch.equal(host.pixels(), decode(make_vae(seed=1), host_z()))


def host_z() -> Tensor:
    return torch.linspace(-3, 3, 4 * 36).reshape(1, 4, 6, 6)


def test_a_preview_in_another_thread_does_not_count(session, host):
    start(session, ["x <vae:b>", "x <vae:c>", "x <vae:b>"])
    stage, guards = host.model.first_stage_model, session.guards()
    guards.begin_batch()
    with torch.no_grad():
        first = stage.decode(Z[:1])
        preview = threading.Thread(target=lambda: stage.decode(Z[2:]))
        preview.start()
        preview.join()
        second = stage.decode(Z[1:2])
    guards.end_batch()
    assert torch.allclose(first, by(2, 0), atol=1e-5) and torch.allclose(second, by(3, 1), atol=1e-5)


def test_a_preview_waits_until_the_picture_is_decoded(session, host, monkeypatch):
    """It would swap the first picture's VAE in while the second picture is half way through the decoder."""
    job = start(session, ["x <vae:b>", "x <vae:c>"])
    stage = host.model.first_stage_model
    inside, real = threading.Event(), Tenure._decode_with

    def slow(tenure, choice, pictures, inner, z):
        def waiting(z):
            if pictures == [1] and not inside.is_set():
                inside.set()
                preview.join(0.5)  # for as long as it would take, were it let in
            return inner(z)

        return real(tenure, choice, pictures, waiting, z)

    preview = threading.Thread(target=lambda: (inside.wait(10), stage.decode(Z[2:])))
    monkeypatch.setattr(Tenure, "_decode_with", slow)
    preview.start()
    rows = decode_batch(session, host, Z[:2])
    preview.join()
    assert inside.is_set()
    assert torch.allclose(rows[0], by(2, 0)[0], atol=1e-5) and torch.allclose(rows[1], by(3, 1)[0], atol=1e-5)
    session.finish(job)


def test_encode_and_hires_vae_may_differ(session, host):
    picture = torch.rand(1, 3, 48, 48) * 2 - 1
    settings = PanelSettings(True, "b", encode_vae="c", hires_vae="Baked")
    job = start(session, ["x"], settings, is_hr_pass=False)
    with torch.no_grad():
        assert torch.equal(host.model.first_stage_model.encode(picture), make_vae(seed=3).encode_moments(picture))
        assert torch.allclose(decode_batch(session, host, Z[:1]), by(2, 0), atol=1e-5)
        job.is_hr_pass = True
        assert torch.equal(host.model.first_stage_model.encode(picture), make_vae(seed=3).encode_moments(picture))
        assert torch.allclose(decode_batch(session, host, Z[:1]), by(1, 0), atol=1e-5)
    line = job.extra_generation_params[KEY]
    assert "encode_vae=c.safetensors" in line and "hires_vae=Baked" in line


def test_a_rule_decides_and_off_stays_off(session, host):
    rules = host.data_folder() / "rules.json"
    rules.parent.mkdir(exist_ok=True)
    rules.write_text(json.dumps({"version": 1, "rules": [{"name": "mine", "when": {"name": "model*"}, "vae": "c"}]}))
    before = host.pixels()
    job = start(session, ["x"], PanelSettings(True))
    assert torch.equal(host.pixels(), decode(make_vae(seed=3), host_z()))
    assert session.shelf.last.document()["source"] == "rules" and "mine" in session.shelf.last.document()["reason"]
    session.finish(job)
    session.finish(start(session, ["x"], PanelSettings(False)))
    assert torch.equal(host.pixels(), before)
    session.shelf.obey(Options(1 << 30, always=True))
    start(session, ["x"], PanelSettings(False))
    assert torch.equal(host.pixels(), decode(make_vae(seed=3), host_z()))


def test_a_preset_is_saved_used_renamed_and_forgotten(session, host):
    assert "Saved" in save_preset(session.shelf, PanelSettings(True, "b", decode="exact"))
    assert "b.safetensors" in session.shelf.about(AUTOMATIC)[0]
    job = start(session, ["x"], PanelSettings(True))
    assert (host.pixels() - decode(make_vae(seed=2), host_z())).abs().max() < 0.005 * 2 / 255
    assert "decode=exact" in job.extra_generation_params[KEY]
    session.finish(job)
    assert "There is no VAE" in save_preset(session.shelf, PanelSettings(True, "nope"))
    assert "Forgotten" in forget_preset(session.shelf) and "Nothing is saved" in forget_preset(session.shelf)
    assert "baked" in session.shelf.about(AUTOMATIC)[0]


def test_what_was_used_on_request_is_remembered_where_the_user_wants_that(session, host):
    session.finish(start(session, ["x"], PanelSettings(True, "b")), SimpleNamespace(extra_generation_params={}))
    assert "its baked VAE" in session.shelf.about(AUTOMATIC)[0]
    session.shelf.obey(Options(1 << 30, remember=True))
    session.finish(start(session, ["x"], PanelSettings(True, "c")), SimpleNamespace(extra_generation_params={}))
    assert "c.safetensors" in session.shelf.about(AUTOMATIC)[0]


def test_the_webuis_setting_counts_unless_it_is_of_another_family(session, host, write_vae):
    host.setting = str(host.folder / "VAE" / "c.safetensors")
    job = start(session, ["x"], PanelSettings(True))
    assert torch.equal(host.pixels(), decode(make_vae(seed=3), host_z()))
    session.finish(job)
    write_vae("VAE/xl.safetensors", seed=4, scale_factor="0.13025")
    session.shelf.files(refresh=True)
    host.setting = str(host.folder / "VAE" / "xl.safetensors")
    job = start(session, ["x"], PanelSettings(True))
    assert torch.equal(host.pixels(), decode(make_vae(seed=1), host_z()))
    assert "made for SDXL" in job.comments[0]


def test_an_override_for_one_job_where_the_host_does_nothing_with_it(session, host):
    job = start(session, ["x"], override_settings={"sd_vae": "c.safetensors"})
    assert not session.swapped  # this host sees to it itself
    session.finish(job)
    host.translates_sd_vae = True
    job = start(session, ["x"], override_settings={"sd_vae": "c.safetensors"})
    assert torch.equal(host.pixels(), decode(make_vae(seed=3), host_z()))
    session.finish(job)
    start(session, ["x"], override_settings={"sd_vae": "Automatic"})
    assert not session.swapped


def test_another_checkpoint_in_mid_job_is_decided_afresh(session, host):
    rules = host.data_folder() / "rules.json"
    rules.parent.mkdir(exist_ok=True)
    rules.write_text(json.dumps({"version": 1, "rules": [{"when": {"name": "second*"}, "vae": "c"}]}))
    start(session, ["x"], PanelSettings(True))
    assert not session.swapped
    path = host.folder / "second.safetensors"
    state = {f"first_stage_model.{name}": tensor for name, tensor in make_state(seed=7).items()}
    save_file({**state, "cond_stage_model.transformer.x": torch.zeros(1)}, str(path))
    info = SimpleNamespace(filename=str(path), name=path.name)
    host.model = SimpleNamespace(first_stage_model=make_vae(seed=7), sd_checkpoint_info=info)
    session.ensure()
    assert torch.equal(host.pixels(), decode(make_vae(seed=3), host_z()))


def test_a_tiny_autoencoder_decodes_and_the_hosts_own_encodes(session, host):
    torch.manual_seed(0)
    tiny = make_decoder(TinyConfig())
    save_file(
        {k: v.contiguous() for k, v in tiny.state_dict().items()},
        str(host.folder / "VAE" / "taesd_decoder.safetensors"),
    )
    session.shelf.files(refresh=True)
    job = start(session, ["x <vae:taesd_decoder>", "x <vae:b>"])
    rows = decode_batch(session, host, Z[:2])
    with torch.no_grad():
        assert torch.allclose(rows[:1], tiny(Z[:1] * 0.18215) * 2 - 1, atol=1e-4)
    assert torch.allclose(rows[1:], by(2, 1), atol=1e-5)
    picture = torch.rand(1, 3, 48, 48) * 2 - 1
    with torch.no_grad():
        assert torch.equal(host.model.first_stage_model.encode(picture), make_vae(seed=1).encode_moments(picture))
    assert job.sd_vae_hash == "host's"  # per picture, in the infotext's own parameters
    sha256 = sha256_of(host.folder / "VAE" / "taesd_decoder.safetensors")
    assert job.extra_generation_params["VAE hash"](all_prompts=job.all_prompts, index=0) == sha256[:10]


def test_a_tiny_encoder_alone_is_refused_and_the_next_choice_decodes(session, host):
    torch.manual_seed(0)
    state = {k: v.contiguous() for k, v in make_encoder(TinyConfig()).state_dict().items()}
    save_file(state, str(host.folder / "VAE" / "taesd_encoder.safetensors"))
    session.shelf.files(refresh=True)
    job = start(session, ["x <vae:taesd_encoder>"])
    assert torch.allclose(decode_batch(session, host, Z[:1]), by(1, 0), atol=1e-5)
    assert any("the encoder of a TAESD alone" in comment for comment in job.comments), job.comments


@pytest.mark.parametrize("mode", ["auto", "exact"])
def test_what_is_not_recoloured_is_left_to_the_hosts_own_rounding(session, host, mode: str):
    """A1111 truncates: were a streamed picture rounded, half of its values would not be the whole decode's."""
    job = start(session, ["x"], PanelSettings(True, "b", decode=mode))
    row = decode_batch(session, host, Z[:1])[0]
    picture = (row / 2 + 0.5).clamp(0, 1)
    assert session.finish_pictures(job, [picture])[0] is picture
    exact = (by(2, 0)[0] / 2 + 0.5).clamp(0, 1) * 255
    away = (exact - exact.round()).abs() > 0.005
    assert torch.equal((picture * 255).to(torch.uint8)[away], exact.to(torch.uint8)[away])


def test_what_is_recoloured_comes_out_rounded_also_where_the_host_truncates(session, host):
    good = pixels() * 0.5 + 0.25
    done, _ = finished(session, good, PanelSettings(True, "b", color="manual", contrast=1.5))
    wanted = (((good - 0.5) * 1.5 + 0.5) * 255).round()
    assert ((done * 255).to(torch.uint8) - wanted).abs().max() == 0


def test_an_init_picture_that_shows_the_same_corrects_the_colours(session, host, tmp_path):
    good = torch.from_numpy(photo()).permute(2, 0, 1).float() / 255
    pale = good * 0.7 + 0.15
    job = start(session, ["x"], PanelSettings(True, "b", color="match"), init_images=[Image.fromarray(photo())])
    (done,) = session.finish_pictures(job, [pale])
    assert (done - good).abs().mean() < 0.25 * (pale - good).abs().mean()
    said = job.extra_generation_params[COLOR_KEY](all_prompts=job.all_prompts, index=0)
    assert "washed out" in said and "corrected" in said
    assert "color=match" in job.extra_generation_params[KEY]
    (same,) = session.finish_pictures(job, [good])
    assert (same - good).abs().max() <= 1 / 255


def test_latents_that_the_host_divides_by_another_familys_number_are_scaled_right(session, host):
    """An SD1 checkpoint behind SDXL's scale: what arrives is 1.4 times too large."""
    host.model.scale_factor = 0.13025
    z = Z[:1] * 0.18215 / 0.13025
    job = start(session, ["x"], PanelSettings(True, "b", color="auto"))
    row = decode_batch(session, host, z)
    assert torch.allclose(row, by(2, 0), atol=1e-5)
    assert "latents have 0.18215" in job.comments[0] and "decoded at the right one" in job.comments[0]
    session.finish(job)
    start(session, ["x"], PanelSettings(True, "b"))  # without colours the host's own way is a wish
    assert torch.allclose(decode_batch(session, host, z), decode(make_vae(seed=2), z), atol=1e-5)


def test_calibrating_on_the_last_pictures(session, host):
    """b and b with its contrast halved: the map that is measured gives the contrast back."""
    state = make_state(seed=2)
    state["decoder.conv_out.weight"] *= 0.5
    state["decoder.conv_out.bias"] *= 0.5
    save_file(state, str(host.folder / "VAE" / "flat.safetensors"))
    session.shelf.files(refresh=True)
    assert "generate one" in calibrate(session.shelf, PanelSettings(True, "flat"), "b")
    job = start(session, ["x"], PanelSettings(True, "flat", color="auto"))
    pale = decode_batch(session, host, Z[:1])[0] / 2 + 0.5
    said = calibrate(session.shelf, PanelSettings(True, "flat"), "b")
    assert said.startswith("Calibrated on 1 pictures") and "residual 0." in said
    (done,) = session.finish_pictures(job, [pale.clamp(0, 1)])
    good = by(2, 0)[0] / 2 + 0.5
    inside = ((good > 0.01) & (good < 0.99)).all(0)  # outside, the gamut step has its say
    assert inside.sum() > 1000 and (done - good)[:, inside].abs().max() < 5 / 255
    assert "There is no VAE" in calibrate(session.shelf, PanelSettings(True, "flat"), "nope")
    assert "choose another" in calibrate(session.shelf, PanelSettings(True, "flat"), "flat")


def test_calibrating_on_packed_latents(session, host, monkeypatch):
    """FLUX.2's models hand over four latent pixels as one, normalised by numbers of the VAE that decodes."""
    generator, files = torch.Generator().manual_seed(3), {}
    for name, gain in (("pale", 0.5), ("whole", 1.0)):
        mean, variance = torch.randn(16, generator=generator), torch.rand(16, generator=generator) + 0.5
        state = {**make_state(seed=2), "bn.running_mean": mean, "bn.running_var": variance}
        state["decoder.conv_out.weight"] *= gain
        state["decoder.conv_out.bias"] *= gain
        save_file(state, str(host.folder / "VAE" / f"{name}.safetensors"))
        files[name] = mean, variance
    session.shelf.files(refresh=True)
    packed = torch.randn(1, 16, 8, 8, generator=generator)
    start(session, ["x"], PanelSettings(True, "pale"))
    session.shelf.latents.append((session.shelf.host.checkpoint(host.model), packed))
    kept: list[Tensor] = []
    monkeypatch.setattr(session.shelf.colors, "calibrate", lambda made, matrix: kept.append(matrix))
    said = calibrate(session.shelf, PanelSettings(True, "pale"), "whole")
    assert said.startswith("Calibrated on 1 pictures")
    # each VAE has its own numbers, as written out here
    n, c, h, w = 1, 4, 8, 8
    unpacked = {
        name: (packed * (variance + 1e-4).sqrt().view(1, -1, 1, 1) + mean.view(1, -1, 1, 1))
        .view(n, c, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c, 2 * h, 2 * w)
        for name, (mean, variance) in files.items()
    }  # fmt: skip
    for name, z in unpacked.items():
        torch.testing.assert_close(of_packed(packed, *files[name]), z)
    pale, whole = (load_kl(vae_file(host.folder / "VAE" / f"{name}.safetensors")) for name in files)
    expected, _ = measure(pale, whole, [unpacked["pale"]], [unpacked["whole"]])
    torch.testing.assert_close(kept[0], expected, rtol=0, atol=1e-4)
    # a file without the numbers cannot be asked
    assert "packed latents are normalised by" in calibrate(session.shelf, PanelSettings(True, "pale"), "b")


def test_a_fault_in_the_colours_leaves_the_picture(session, host, monkeypatch):
    real, calls = session.shelf.colors.finish, itertools.count()
    monkeypatch.setattr(session.shelf.colors, "finish", lambda *a: 1 / 0 if next(calls) == 1 else real(*a))
    began = [Image.fromarray(photo())] * 3
    job = start(session, ["x"] * 3, PanelSettings(True, "b", color="match"), init_images=began)
    pale = [pixels() * 0.7 + 0.15 for _ in range(3)]
    done = session.finish_pictures(job, pale)
    # each picture stands for itself, and so does what its infotext says
    assert done[1] is pale[1] and torch.equal(done[0], done[2]) and (done[0] - pale[0]).abs().max() > 0.02
    said = [job.extra_generation_params[COLOR_KEY](all_prompts=job.all_prompts, index=i) for i in range(3)]
    assert said[1] is None and "corrected" in str(said[0]) and "corrected" in str(said[2])
    assert len(job.comments) == 1 and "it was left as it is" in job.comments[0]


def test_the_parts_that_adetailer_paints_are_left_alone(session, host):
    pale, began = pixels() * 0.7 + 0.15, [Image.fromarray(photo())]
    for inner in (False, True):
        job = start(session, ["x"], PanelSettings(True, "b", color="match"), init_images=began, _ad_inner=inner)
        kept = len(session.shelf.latents)
        decode_batch(session, host, Z[:1])
        assert len(session.shelf.latents) == kept + (not inner)
        (done,) = session.finish_pictures(job, [pale])
        assert (done is pale) == inner  # it would have been corrected
        assert bool(job.extra_generation_params[COLOR_KEY](all_prompts=job.all_prompts, index=0)) != inner
        session.finish(job)


def photo(which: int = 0):
    import numpy as np

    from vae_manager.library.probe import PICTURES

    path = sorted(PICTURES.glob("*.*"))[which]
    return np.array(Image.open(path).convert("RGB").resize((256, 256)))


def finished(session, picture: Tensor, settings: PanelSettings, **more: Any) -> tuple[Tensor, Job]:
    job = start(session, ["x"], settings, **more)
    (done,) = session.finish_pictures(job, [picture])
    return done, job


def pixels(image: Any = None) -> Tensor:
    return torch.from_numpy(photo() if image is None else image).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_colours_by_hand(session, host, strength: float):
    good = pixels() * 0.5 + 0.25  # nothing leaves the gamut
    settings = PanelSettings(True, "b", color="manual", color_strength=strength, contrast=1.5, brightness=-0.1)
    done, job = finished(session, good, settings)
    expected = torch.lerp(good, (good - 0.5) * 1.5 + 0.4, strength)
    assert (done - expected).abs().max() < 1 / 255
    assert job.extra_generation_params[KEY].endswith(
        "color=manual; " + ("color_strength=0.5; " if strength < 1 else "") + "contrast=1.5; brightness=-0.1"
    )
    assert COLOR_KEY not in job.extra_generation_params and not job.comments


def test_manual_that_changes_nothing_is_the_very_same_picture(session, host):
    good = pixels()
    assert finished(session, good, PanelSettings(True, "b", color="manual"))[0] is good
    assert finished(session, good, PanelSettings(True, "b", color="off", contrast=2.0))[0] is good


def test_a_preset_keeps_the_values_by_hand(session, host):
    save_preset(session.shelf, PanelSettings(True, "b", color="manual", color_strength=0.5, saturation=0.0))
    grey, job = finished(session, pixels(), PanelSettings(True))
    assert "color=manual; color_strength=0.5; saturation=0" in job.extra_generation_params[KEY]
    spread = pixels().amax(0) - pixels().amin(0)
    assert ((grey.amax(0) - grey.amin(0)) - 0.5 * spread).abs().max() < 2 / 255


def test_a_reference_picture_is_matched_and_another_one_is_not(session, host):
    good, pale = pixels(), pixels() * 0.7 + 0.15
    settings = PanelSettings(True, "b", color="match", reference=Image.fromarray(photo()).resize((200, 200)))
    done, job = finished(session, pale, settings)
    assert (done - good).abs().mean() < 0.25 * (pale - good).abs().mean()
    said = job.extra_generation_params[COLOR_KEY](all_prompts=job.all_prompts, index=0)
    assert said == "washed out, held against the reference picture; corrected" and not job.comments
    session.finish(job)
    other, job = finished(session, pixels(photo(1)) * 0.7 + 0.15, settings)
    assert torch.equal(other, pixels(photo(1)) * 0.7 + 0.15)
    assert job.comments == [
        "Colour: the reference picture shows something else, or in another shape; nothing was changed."
    ]


def test_match_without_a_picture_says_so_and_does_nothing(session, host):
    pale = pixels() * 0.5 + 0.25
    done, job = finished(session, pale, PanelSettings(True, "b", color="match"))
    assert done is pale and "there is no picture to match" in job.comments[0]


@pytest.mark.parametrize("decode_mode", ["auto", "exact"])
@pytest.mark.parametrize("at_once", [True, False])
def test_what_the_decoder_put_out_beyond_black_and_white_is_remembered(session, host, decode_mode: str, at_once: bool):
    job = start(session, ["x <vae:b>", "x", "x <vae:c>"], PanelSettings(True, color="auto", decode=decode_mode))
    raw = decode_batch(session, host, at_once=at_once) / 2 + 0.5
    wanted = [own_ends(by(seed, row)[0] / 2 + 0.5) for row, seed in enumerate((2, 1, 3))]
    shown = [picture.clamp(0, 1) for picture in raw]
    shown[1] = shown[1][:, :-8]  # somebody has cropped it
    session.finish_pictures(job, shown)
    made, pools = session.shelf.last.made, session.shelf.colors.session
    seen = [pools.pictures(made[row].checkpoint, made[row].vae)[-1] for row in range(3)]
    for row in (0, 2):
        assert seen[row].own_floors == pytest.approx(wanted[row].floors, abs=1e-5), row
        assert seen[row].own_ceilings == pytest.approx(wanted[row].ceilings, abs=1e-5), row
    assert seen[1].own_floors == seen[1].own_ceilings == ()
    assert not session.shelf.last.own_ends


@pytest.mark.parametrize("color", ["off", "match", "manual"])
def test_the_decoders_values_are_looked_at_for_auto_alone(session, host, color: str, monkeypatch):
    asked: list[Tensor] = []
    monkeypatch.setattr("vae_manager.webui.job.own_ends", asked.append)
    start(session, ["x"], PanelSettings(True, "b", color=color))
    decode_batch(session, host, Z[:1])
    assert not asked


class Passes:
    """Hires fix as the hosts do it: the first pass decoded, then the second, then the pictures finished."""

    def __init__(self, session: Session, host: OneModel, monkeypatch, vaes: dict[str, Tensor]) -> None:
        self.session, self.host, self.patch, self.vaes = session, host, monkeypatch, vaes

    def run(self, settings: PanelSettings, **more: Any) -> tuple[Tensor, str | None, Tensor]:
        """`vaes`: what each pass's decoder returns, in [0, 1]."""
        job = start(self.session, ["x"], settings, enable_hr=True, is_hr_pass=False, **more)
        decoded = iter((self.vaes["first"], self.vaes["second"]))
        self.patch.setattr(Tenure, "_decode_with", lambda *a, **k: next(decoded)[None] * 2 - 1)
        decode_batch(self.session, self.host, Z[:1])
        job.is_hr_pass = True
        second = decode_batch(self.session, self.host, Z[:1])[0] / 2 + 0.5
        job.is_hr_pass = False
        (done,) = self.session.finish_pictures(job, [second])
        said = job.extra_generation_params[COLOR_KEY](all_prompts=job.all_prompts, index=0)
        self.session.finish(job)
        return done, said, second


def test_a_pale_hires_vae_is_held_against_the_first_pass(session, host, monkeypatch):
    good = pixels()
    passes = {"first": good[:, ::2, ::2], "second": good * 0.7 + 0.15}
    done, said, pale = Passes(session, host, monkeypatch, passes).run(
        PanelSettings(True, "b", hires_vae="c", color="auto")
    )
    assert said == "washed out, held against the first pass; corrected"
    assert (done - good).abs().mean() < 0.25 * (pale - good).abs().mean()
    assert not session.shelf.last.first_passes


def test_a_more_vivid_hires_vae_was_chosen_and_stays(session, host, monkeypatch):
    passes = {"first": (pixels() * 0.85 + 0.08)[:, ::2, ::2], "second": pixels()}
    done, said, second = Passes(session, host, monkeypatch, passes).run(
        PanelSettings(True, "b", hires_vae="c", color="auto")
    )
    assert done is second and "first pass" not in (said or "")


@pytest.mark.parametrize("sound", [True, False])
def test_a_shift_of_the_second_pass_by_the_same_vae(session, host, monkeypatch, sound: bool):
    """Undone only where the first pass looks right by itself."""
    good, shift = pixels(), torch.tensor([0.05, -0.04, 0.03])[:, None, None]
    first = good if sound else good * 0.6 + 0.2
    passes = {"first": first[:, ::2, ::2], "second": first * 0.9 + 0.05 + shift}
    done, said, second = Passes(session, host, monkeypatch, passes).run(PanelSettings(True, "b", color="auto"))
    if sound:
        assert (done - good).abs().mean() < 0.25 * (second - good).abs().mean()
    assert ("held against the first pass" in (said or "")) == sound


def test_a_second_pass_that_agrees_with_the_first_stays_bit_for_bit(session, host, monkeypatch):
    passes = {"first": pixels()[:, ::2, ::2], "second": pixels()}
    for hires in ("same", "c"):
        done, said, second = Passes(session, host, monkeypatch, passes).run(
            PanelSettings(True, "b", hires_vae=hires, color="auto")
        )
        assert done is second and said is None


def test_a_first_pass_of_a_vae_that_is_known_to_be_at_fault_is_not_gone_by(session, host, monkeypatch):
    from vae_manager.color.faults import Fault

    fault, sha256 = Fault("flat VAE", "washed out", "another"), sha256_of(host.folder / "VAE" / "b.safetensors")
    known = lambda sha, problems=(): fault if sha == sha256 else None  # noqa: E731
    monkeypatch.setattr("vae_manager.webui.shelf.vae_fault", known)
    passes = {"first": pixels()[:, ::2, ::2] * 0.6 + 0.2, "second": pixels()}
    done, said, second = Passes(session, host, monkeypatch, passes).run(
        PanelSettings(True, "b", hires_vae="c", color="auto")
    )
    assert done is second and said is None
    # nor where the second pass looks pale beside it: that may be what is wrong with the first
    passes = {"first": pixels()[:, ::2, ::2], "second": pixels() * 0.7 + 0.15}
    _, said, _ = Passes(session, host, monkeypatch, passes).run(PanelSettings(True, "b", hires_vae="c", color="auto"))
    assert "first pass" not in (said or "")


def test_hires_colours_are_those_of_the_vae_that_decoded_the_second_pass(session, host, monkeypatch):
    passes = {"first": pixels()[:, ::2, ::2], "second": pixels()}
    Passes(session, host, monkeypatch, passes).run(PanelSettings(True, "b", hires_vae="c", color="auto"))
    with contextlib.closing(sqlite3.connect(host.data_folder() / "store.sqlite")) as database:
        ((key,),) = database.execute("SELECT key FROM entries WHERE kind = 'colours'").fetchall()
    assert key.endswith(b"c.safetensors")


@pytest.mark.parametrize(("name", "left"), [("My Dark VAE", True), ("plain", False)])
def test_a_vae_that_is_dark_on_purpose_keeps_its_colours(session, host, write_vae, name: str, left: bool):
    """Also where the picture that img2img began with says that they are others: that is what was wanted."""
    write_vae(f"VAE/{name}.safetensors", seed=2)
    session.shelf.index(refresh=True)
    pale = pixels() * 0.7 + 0.15
    job = start(session, ["x"], PanelSettings(True, name, color="auto"), init_images=[Image.fromarray(photo())])
    (done,) = session.finish_pictures(job, [pale])
    assert (done is pale) is left
    said = job.extra_generation_params[COLOR_KEY](all_prompts=job.all_prompts, index=0)
    assert said == (f"{name}.safetensors is made darker on purpose; left as it is" if left else said)
    assert left or "corrected" in said
    # by hand everything goes
    session.finish(job)
    by_hand = PanelSettings(True, name, color="manual", contrast=1.4)
    job = start(session, ["x"], by_hand)
    assert session.finish_pictures(job, [pale])[0] is not pale


def test_the_users_word_for_the_edges_holds_while_the_job_does(session, host, write_vae):
    """Of a VAE that says nothing, of one whose name says otherwise, and of the one that is baked in."""
    write_vae("VAE/an eq one.safetensors", seed=2)
    session.shelf.index(refresh=True)
    stage = host.model.first_stage_model

    def edges() -> set[str]:
        return {conv.padding_mode for conv in stage.modules() if isinstance(conv, torch.nn.Conv2d)} - {"zeros"}

    for vae, padding, wanted in (
        ("b", "reflect", {"reflect"}), ("b", "auto", set()), ("an eq one", "auto", {"reflect"}),
        ("an eq one", "zeros", set()), (AUTOMATIC, "reflect", {"reflect"}), (AUTOMATIC, "auto", set()),
    ):  # fmt: skip
        job = start(session, ["x"], PanelSettings(True, vae, padding=padding))
        assert edges() == wanted, (vae, padding)
        assert (f"padding={padding}" in job.extra_generation_params.get(KEY, "")) is (padding != "auto")
        session.finish(job)
        assert edges() == set()
    save_preset(session.shelf, PanelSettings(True, "b", padding="reflect"))
    job = start(session, ["x"], PanelSettings(True))
    assert edges() == {"reflect"} and torch.equal(decode_batch(session, host), decode_reflected(2))
    session.finish(job)


def decode_reflected(seed: int) -> Tensor:
    vae = make_vae(seed=seed)
    set_padding(vae, "reflect")
    return decode(vae, Z)


def test_a_vae_whose_pictures_reach_no_black_is_asked_for_a_round_trip(session, host, monkeypatch):
    """Only it can tell a VAE that lifts black from a film look, and from four pictures on any other fault."""
    asked: list[str] = []
    shelf = session.shelf
    monkeypatch.setattr(shelf.examiner, "add", lambda vaes, own, doubted: asked.extend(file.name for file in doubted))
    for count, raised in enumerate((0.1, 0.0, 0.0, 0.0), 1):  # black has been reached from the second on
        job = start(session, ["x <vae:b>"], PanelSettings(True, color="auto"))
        decode_batch(session, host, Z[:1])
        shelf.last.own_ends.clear()
        session.finish_pictures(job, [raised + (1 - raised) * pixels()])
        session.finish(job, SimpleNamespace())
        assert asked == ["b.safetensors"] * (2 if count == 4 else 1)


def test_what_a_round_trip_told_decides_on_black(session, host, monkeypatch):
    facts = session.shelf.chooser.facts
    raised = [0.1 + 0.9 * pixels(photo(1))]
    for contrast, brightness in ((1.0, 0.0), (0.9, 0.1)):
        trip = RoundTrip(contrast, brightness, 30)
        monkeypatch.setattr(facts, "trip", lambda file, trip=trip: trip)
        job = start(session, ["x <vae:b>"], PanelSettings(True, color="auto"))
        decode_batch(session, host, Z[:1])
        (done,) = session.finish_pictures(job, raised)
        said = job.extra_generation_params[COLOR_KEY](all_prompts=job.all_prompts, index=0)
        session.finish(job)
        assert (done is raised[0]) == (contrast == 1) == (said is None)
    assert said == "washed out: its VAE gives pictures back paler than they were; corrected"
    assert (done - pixels(photo(1))).abs().mean() < 0.005
