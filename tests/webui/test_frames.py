"""A model with a causal 3-D VAE: its single pictures beside the host's module, which stays as it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.codec.causal_reference import WanVAE, random_weights
from tests.webui.fakes import Processing
from tests.webui.test_pictures import decode_batch
from tests.webui.test_session import OneModel
from vae_manager.errors import VaeFileError
from vae_manager.library.files import vae_file
from vae_manager.selection.settings import PanelSettings
from vae_manager.webui.first_stage import left_alone
from vae_manager.webui.frames import causal_config
from vae_manager.webui.session import Session

DIMS, LATENT = (8, 16, 16, 16), 16
Z = torch.linspace(-2, 2, LATENT * 36).reshape(1, LATENT, 1, 6, 6)
PICTURE = torch.linspace(-1, 1, 3 * 48 * 48).reshape(1, 3, 1, 48, 48)


class Stage(WanVAE):
    """Neo's: it encodes to the mean."""

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x).chunk(2, dim=1)[0]


def stage(seed: int, **shape: int) -> Stage:
    vae = Stage(DIMS, **{"latent": LATENT, **shape}).eval().requires_grad_(False)
    random_weights(vae, seed)
    return vae


def write(path: Path, seed: int, **shape: int) -> None:
    path.parent.mkdir(exist_ok=True)
    save_file({name: tensor.clone() for name, tensor in stage(seed, **shape).state_dict().items()}, str(path))


@pytest.fixture
def wan(session: Session, host: OneModel) -> Stage:
    """The host holds a Wan model, whose own VAE is a module, and has two VAEs of that kind in its folder."""
    for name, seed in (("wan_own", 1), ("wan_red", 2), ("wan_green", 3)):
        write(host.folder / "VAE" / f"{name}.safetensors", seed)
    transformer = {"head.modulation": torch.zeros(1, 2, 8), "head.head.weight": torch.zeros(64, 8)}
    transformer["patch_embedding.weight"] = torch.zeros(8, 16, 1, 2, 2)
    save_file(transformer, str(host.folder / "model.safetensors"))
    host.own_vae = host.folder / "VAE" / "wan_own.safetensors"
    host.setting = str(host.own_vae)
    host.model.first_stage_model = stage(1)
    session.shelf.files(refresh=True)
    return host.model.first_stage_model


def begin(session: Session, prompts: list[str], **settings: Any) -> Processing:
    job = Processing(prompts)
    session.begin(job)
    session.start(job, PanelSettings(True, **settings))
    return job


def near(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() < 1e-4)


def test_its_build_is_one_of_ours():
    assert left_alone(stage(1)) is None and causal_config(stage(1)) is not None


@pytest.mark.parametrize("decode", ["auto", "host", "exact"])
def test_a_picture_with_a_vae_of_ours(session: Session, host: OneModel, wan: Stage, decode: str):
    before = {name: tensor.clone() for name, tensor in wan.state_dict().items()}
    job = begin(session, ["x"], vae="wan_red", decode=decode)
    assert job.comments == []
    assert near(decode_batch(session, host, Z), stage(2).decode(Z))
    assert near(wan.encode(PICTURE), stage(2).encode(PICTURE))
    streamed = session.shelf.last and session.shelf.last.watch.streamed
    assert [line.split(":")[0] for line in streamed or ()] == (["decode", "encode"] if decode == "exact" else [])
    session.finish(job, SimpleNamespace())
    assert torch.equal(wan.decode(Z), stage(1).decode(Z))
    assert all(torch.equal(tensor, before[name]) for name, tensor in wan.state_dict().items())


def test_each_picture_of_a_batch_with_its_own(session: Session, host: OneModel, wan: Stage):
    begin(session, ["x <vae:wan_red>", "x", "x <vae:wan_green>"])
    z = torch.cat([Z, 0.5 * Z, -Z])
    done = decode_batch(session, host, z)
    for row, seed in enumerate((2, 1, 3)):
        assert near(done[row : row + 1], stage(seed).decode(z[row : row + 1]))


def test_the_hosts_own_vae_exactly(session: Session, host: OneModel, wan: Stage):
    job = begin(session, ["x"], decode="exact")
    assert near(decode_batch(session, host, Z), stage(1).decode(Z)) and job.comments == []
    assert session.shelf.last is not None and session.shelf.last.watch.streamed[0].startswith("decode: exact, mode")


def test_a_video_stays_the_hosts_and_that_is_said(session: Session, host: OneModel, wan: Stage):
    job = begin(session, ["x"], vae="wan_red")
    video = torch.cat([Z, -Z], dim=2)
    assert torch.equal(decode_batch(session, host, video), stage(1).decode(video))
    assert job.comments == ["A video of several frames is made with the WebUI's own VAE."]
    assert not session.shelf.latents  # nothing to calibrate on


def test_automatic_is_the_hosts_module(session: Session, host: OneModel, wan: Stage):
    begin(session, ["x"])
    assert torch.equal(decode_batch(session, host, Z), stage(1).decode(Z))
    assert "wan_own.safetensors" in session.shelf.about("Automatic")[0]


def test_others_are_refused_before_a_picture_is_made(session: Session, host: OneModel, wan: Stage):
    write(host.folder / "VAE" / "wan_large.safetensors", 4, out=12)
    write(host.folder / "VAE" / "wan_narrow.safetensors", 5, latent=8)
    session.shelf.files(refresh=True)
    for name, why in (
        ("b", "4-channel latents"),
        ("wan_large", "it has 16 pixels for each latent pixel, where the model that is loaded needs 8"),
        ("wan_narrow", "8"),
    ):
        job = begin(session, ["x"], vae=name)
        assert len(job.comments) == 1 and name in job.comments[0] and why in job.comments[0], job.comments
        assert torch.equal(decode_batch(session, host, Z), stage(1).decode(Z))
        session.finish(job, SimpleNamespace())
    with pytest.raises(VaeFileError, match="KL autoencoder, and the model that is loaded has a WAN autoencoder"):
        session.shelf.frames.check(vae_file(host.folder / "VAE" / "b.safetensors"), wan)


def test_a_video_vae_is_refused_for_a_kl_model(session: Session, host: OneModel):
    write(host.folder / "VAE" / "wan_red.safetensors", 2)
    session.shelf.files(refresh=True)
    before = host.pixels()
    job = begin(session, ["x"], vae="wan_red")
    assert len(job.comments) == 1 and "wan_red.safetensors" in job.comments[0]
    assert torch.equal(host.pixels(), before)


def test_the_network_is_kept_while_the_job_runs_and_no_longer(session: Session, host: OneModel, wan: Stage):
    job = begin(session, ["x"], vae="wan_red")
    frames, file = session.shelf.frames, vae_file(host.folder / "VAE" / "wan_red.safetensors")
    decode_batch(session, host, Z)
    kept = frames.of(file, wan)
    decode_batch(session, host, Z)
    assert frames.of(file, wan) is kept
    session.finish(job, SimpleNamespace())
    assert frames.of(file, wan) is not kept
