"""TAEHV on single pictures: the numbers of all frames, of which the last one is the picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.codec import taehv_reference as reference
from tests.codec.streaming_vaes import peak_bytes
from vae_manager.cli import main
from vae_manager.codec.kinds.scaling import of_model, to_model
from vae_manager.codec.kinds.taehv.network import TinyVideoAutoencoder
from vae_manager.codec.latents import Latent, save_latent
from vae_manager.codec.streaming import plan_decode, plan_encode, stream_decode, stream_encode
from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.latents.spaces import SPACES
from vae_manager.library.files import vae_file
from vae_manager.library.identify import identify
from vae_manager.library.state import load_state

EXACT = {"rtol": 0, "atol": 1e-10}

SMALL: dict[str, Any] = {"widths": (24, 16, 8, 8), "inside": 8, "latent": 4, "blocks": 2}

SHAPES: dict[str, dict[str, Any]] = {
    "taew2_1": SMALL,
    "taew2_2": {**SMALL, "square": 2},
    "taeltx": {**SMALL, "square": 4, "pools": (2, 2, 2), "growths": (2, 2, 2)},
    "no frames": {**SMALL, "pools": (1, 1, 1), "growths": (1, 1, 1)},
    "late pools": {**SMALL, "pools": (1, 2, 2), "growths": (2, 1, 2)},
}


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def loaded(path: Path) -> TinyVideoAutoencoder:
    vae = load_state(vae_file(path)).network()
    assert isinstance(vae, TinyVideoAutoencoder)
    return vae


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=SHAPES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Tensor], TinyVideoAutoencoder]:
    state = reference.random_weights(**SHAPES[request.param])
    return state, loaded(saved(tmp_path / "a.safetensors", state))


def test_a_picture_is_the_last_of_all_frames(pair: Any):
    state, ours = pair
    z, x = noise(2, 4, 5, 3), noise(2, 3, 4 * ours.config.ratio, 3 * ours.config.ratio)
    torch.testing.assert_close(ours.decode(z), reference.decode(state, z) * 2 - 1, **EXACT)
    torch.testing.assert_close(ours.encode(x), reference.encode(state, (x + 1) / 2), **EXACT)
    mean, logvar = ours.encode_moments(x).chunk(2, dim=1)
    assert torch.equal(mean, ours.encode(x)) and logvar.max() <= -30


def test_streamed_it_is_the_same_picture(pair: Any):
    state, ours = pair
    z, x = noise(1, 4, 13, 6), noise(1, 3, 9 * ours.config.ratio, 5 * ours.config.ratio)
    for pixels in (1, 300, None):
        found = stream_decode(ours, z, plan=plan_decode(ours, z.shape, strip_pixels=pixels)).tensor
        torch.testing.assert_close(found, reference.decode(state, z) * 2 - 1, **EXACT)
        found = stream_encode(ours, x, plan=plan_encode(ours, x.shape, strip_pixels=pixels)).tensor
        assert found is not None
        torch.testing.assert_close(found[:, :4], reference.encode(state, (x + 1) / 2), **EXACT)


def test_the_frames_before_do_act(tmp_path: Path):
    """What makes the tests above ones: the kernels' other halves have a part in the picture."""
    state = reference.random_weights(**SMALL)
    z, x = noise(1, 4, 3, 3), noise(1, 3, 16, 16)
    without = {
        name: torch.cat([t[:, : t.shape[0]], 0 * t[:, t.shape[0] :]], dim=1) if name.endswith("conv.0.weight") else t
        for name, t in state.items()
    }
    assert not torch.allclose(reference.decode(state, z), reference.decode(without, z), atol=1e-3)
    assert not torch.allclose(reference.encode(state, x), reference.encode(without, x), atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "space"),
    [
        ({}, "wan21"),
        ({"latent": 48, "square": 2}, "wan22"),
    ],
)
def test_published_shapes_are_read_from_the_header(shape: dict[str, Any], space: str, tmp_path: Path):
    """Sizes of taew2_1 and taew2_2, in half precision as published."""
    state = {name: tensor.half() for name, tensor in reference.random_weights(**shape).items()}
    identity = identify(vae_file(saved(tmp_path / "a.safetensors", state)))
    assert (identity.kind, identity.layout, identity.problems) == ("taehv", "taehv", ())
    assert identity.latent_channels == SPACES[space].channels
    config = loaded(tmp_path / "a.safetensors").config
    assert (config.ratio, config.image_channels) == (SPACES[space].ratio, 3)
    if space == "wan21":  # lighttaew2_1.safetensors has 45,274,004 bytes: these in fp32, and a header
        assert sum(tensor.numel() for tensor in state.values()) == 11_315_539


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_plan_is_not_below_the_peak(tmp_path: Path, dtype: torch.dtype):
    ours = loaded(saved(tmp_path / "a.safetensors", reference.random_weights())).to(dtype)
    z, x = noise(1, 16, 24, 24).to(dtype), noise(1, 3, 192, 192).to(dtype)
    for plan, run, source in ((plan_decode, stream_decode, z), (plan_encode, stream_encode, x)):
        found = plan(ours, source.shape, strip_pixels=1024)
        assert peak_bytes(lambda run=run, source=source, found=found: run(ours, source, plan=found)) <= found.peak_bytes


def test_encode_and_decode_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    state = {name: tensor.float() for name, tensor in reference.random_weights(**{**SMALL, "latent": 16}).items()}
    vae = saved(tmp_path / "taew2_1.safetensors", state)
    Image.effect_noise((30, 20), 90).convert("RGB").save(tmp_path / "a.png")
    latent, out = tmp_path / "a.safetensors", tmp_path / "b.png"
    assert main(["encode", str(tmp_path / "a.png"), "-o", str(latent), "--vae", str(vae), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["latent_shape"] == [1, 16, 3, 4]
    assert load_file(latent)["latent"].shape == (1, 16, 3, 4)
    assert main(["decode", str(latent), "-o", str(out), "--vae", str(vae), "--json"]) == 0
    assert Image.open(out).size == (30, 20)


def test_latents_of_the_full_vae_are_normalised_for_it(tmp_path: Path):
    """Wan's latents on disk are the full VAE's; a tiny one takes the diffusion model's, (z - mean) / std."""
    state = {name: tensor.float() for name, tensor in reference.random_weights(**{**SMALL, "latent": 16}).items()}
    vae, space, z = saved(tmp_path / "vae.safetensors", state), SPACES["wan21"], noise(1, 16, 2, 2).float()
    save_latent(tmp_path / "z.safetensors", Latent(z, "wan"))
    out = tmp_path / "out.npy"
    assert main(["decode", str(tmp_path / "z.safetensors"), "-o", str(out), "--vae", str(vae), "--mode", "whole"]) == 0
    import numpy as np

    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (space.mean, space.std))
    expected = reference.decode(state, (z - mean) / std) * 2 - 1
    torch.testing.assert_close(torch.from_numpy(np.load(out)), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(of_model(to_model(z, space), space), z)


def test_a_decoder_alone_decodes(tmp_path: Path):
    state = reference.random_weights(**SMALL)
    ours = loaded(saved(tmp_path / "a.safetensors", {n: t for n, t in state.items() if n.startswith("decoder.")}))
    z = noise(1, 4, 3, 3)
    torch.testing.assert_close(ours.decode(z), reference.decode(state, z) * 2 - 1, **EXACT)
    with pytest.raises(BadInputError, match="only its decoder"):
        ours.encode(noise(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("decoder.4.conv.2.weight"), r"'4\.conv\.2\.weight' is missing"),
        (lambda state: state.pop("decoder.20.weight"), "do not follow each other"),
        (lambda state: state.update({"decoder.0.weight": torch.zeros(8, 4, 1, 1)}), "Super"),
        (lambda state: state.update({"encoder.90.weight": torch.zeros(8, 4, 3, 3)}), "do not follow each other"),
        (lambda state: state.update({"decoder.1.weight": torch.zeros(24, 5, 3, 3)}), "halves of different VAEs"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path: Path, change: Any, message: str):
    state = reference.random_weights(**{**SMALL, "blocks": 3})
    change(state)
    with pytest.raises(VaeFileError, match=message):
        load_state(vae_file(saved(tmp_path / "a.safetensors", state)))


def test_h3s_is_refused(tmp_path: Path):
    path = saved(tmp_path / "a.safetensors", reference.random_weights(**{**SMALL, "latent": 24, "square": 2}))
    with pytest.raises(VaeFileError, match="MiniMax"):
        load_state(vae_file(path))


def test_a_header_is_judged_without_torch(tmp_path: Path):
    path = saved(tmp_path / "a.safetensors", reference.random_weights(**SMALL))
    program = (
        "import sys; from pathlib import Path; from vae_manager.library.identify import identify; "
        "from vae_manager.library.files import vae_file; "
        "print(identify(vae_file(Path(sys.argv[1]))).problems, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "() False"
