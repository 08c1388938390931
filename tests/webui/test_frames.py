"""A model with a causal 3-D VAE: its single pictures beside the host's module, which stays as it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.codec import taehv_reference
from tests.codec.causal_reference import Wan22VAE, WanVAE, random_weights
from tests.latents.files import halves, write_safetensors
from tests.latents.models import MODELS
from tests.webui.fakes import Processing
from tests.webui.test_pictures import decode_batch
from tests.webui.test_session import OneModel
from vae_manager.errors import VaeFileError
from vae_manager.latents.spaces import SPACES
from vae_manager.library.files import vae_file
from vae_manager.selection.settings import PanelSettings
from vae_manager.webui.first_stage import left_alone
from vae_manager.webui.frames import NO_EDGES, causal_config
from vae_manager.webui.session import Session

DIMS, LATENT = (8, 16, 16, 16), 16
TINY: dict[str, Any] = {"widths": (24, 16, 8, 8), "inside": 8, "blocks": 2}
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


class NewStage(Wan22VAE):
    """Wan 2.2's and Qwen-Image 2.1's: single pictures come without an axis for frames as well."""

    def encode(self, x: Tensor) -> Tensor:
        moments = super().encode(x if x.ndim == 5 else x[:, :, None]).chunk(2, dim=1)[0]
        return moments if x.ndim == 5 else moments[:, :, 0]

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z) if z.ndim == 5 else super().decode(z[:, :, None])[:, :, 0]


NEW: dict[str, dict[str, Any]] = {
    "wan22": {"dims": (8, 16, 16, 16), "latent": 48},
    "qwen-image21": {
        "dims": (8, 16, 32, 32, 32),
        "latent": 64,
        "channels": 4,
        "patch": 1,
        "times": (False, True, True, True),
        "taps": 1,
    },
}


@pytest.mark.parametrize("model", NEW)
def test_builds_with_shortcuts(session: Session, host: OneModel, model: str):
    def build(seed: int) -> NewStage:
        vae = NewStage(**NEW[model]).eval().requires_grad_(False)
        random_weights(vae, seed)
        return vae

    folder = host.folder / "VAE"
    folder.mkdir(exist_ok=True)
    for name, seed in (("own", 1), ("red", 2)):
        save_file(
            {key: tensor.clone() for key, tensor in build(seed).state_dict().items()}, folder / f"{name}.safetensors"
        )
    write_safetensors(host.folder / "model.safetensors", halves(MODELS[model]))
    host.own_vae = folder / "own.safetensors"
    host.setting, host.model.first_stage_model = str(host.own_vae), build(1)
    session.shelf.files(refresh=True)
    assert left_alone(build(1)) is None
    z = torch.randn(1, NEW[model]["latent"], 2, 3, generator=torch.Generator().manual_seed(4))
    x = torch.rand(1, NEW[model].get("channels", 3), 32, 48, generator=torch.Generator().manual_seed(5)) * 2 - 1
    z, x = (z[:, :, None], x[:, :, None]) if model == "wan22" else (z, x)
    for decode in ("auto", "exact"):
        job = begin(session, ["x"], vae="red", decode=decode)
        assert job.comments == []
        assert near(decode_batch(session, host, z), build(2).decode(z))
        assert near(host.model.first_stage_model.encode(x), build(2).encode(x))
        session.finish(job, SimpleNamespace())
    assert torch.equal(decode_batch(session, host, z), build(1).decode(z))


def test_edges_set_by_hand_do_not_apply_and_that_is_said(session: Session, host: OneModel, wan: Stage):
    for vae, decode in (("wan_red", "exact"), ("Automatic", "auto")):
        job = begin(session, ["x"], vae=vae, decode=decode, padding="reflect")
        found = decode_batch(session, host, Z)
        assert near(found, stage(2 if vae == "wan_red" else 1).decode(Z))
        assert job.comments == [NO_EDGES]
        session.finish(job, SimpleNamespace())


def test_a_tiny_vae_decodes_pictures_beside_it(session: Session, host: OneModel, wan: Stage):
    """TAEHV takes the diffusion model's latents: (z - mean) / std of what the host's first stage is given."""
    state = {name: tensor.float() for name, tensor in taehv_reference.random_weights(**TINY).items()}
    save_file(state, str(host.folder / "VAE" / "taew2_1.safetensors"))
    session.shelf.files(refresh=True)
    job = begin(session, ["x"], vae="taew2_1")
    space = SPACES["wan21"]
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (space.mean, space.std))
    expected = taehv_reference.decode(state, (Z[:, :, 0] - mean) / std) * 2 - 1
    torch.testing.assert_close(decode_batch(session, host, Z), expected[:, :, None], rtol=1e-4, atol=1e-3)
    assert job.comments == []
    assert near(wan.encode(PICTURE), stage(1).encode(PICTURE))  # the host's own encodes
    video = torch.cat([Z, -Z], dim=2)
    assert torch.equal(decode_batch(session, host, video), stage(1).decode(video))
    assert len(job.comments) == 1 and "a video of several frames" in job.comments[0]


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
