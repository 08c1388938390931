"""Padding is the VAE's: EQ-VAEs, trained with reflected edges, are decoded, encoded, streamed and swapped in so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tests.codec.streaming_vaes import pad_circularly, peak_bytes, scaled_weights, small_vae
from vae_manager.cli import main
from vae_manager.codec.cache import StateCache
from vae_manager.codec.kinds.causal3d.config import CausalConfig, Half
from vae_manager.codec.kinds.causal3d.network import CausalAutoencoder
from vae_manager.codec.kinds.tiny.network import TinyAutoencoder, TinyConfig
from vae_manager.codec.padding import set_padding
from vae_manager.codec.streaming import plan_decode, plan_encode, stream_decode, stream_encode
from vae_manager.codec.swap import install, remove
from vae_manager.errors import BadInputError
from vae_manager.library.files import vae_file
from vae_manager.library.health import examine, round_trip
from vae_manager.library.padding import KEY, padding_of
from vae_manager.library.probe import probe_file
from vae_manager.library.state import load_kl, load_state
from vae_manager.webui.first_stage import FirstStage


def reflecting(kind: str) -> Any:
    if kind == "kl":
        vae = small_vae((8, 16, 16))
    elif kind == "tiny":
        vae = TinyAutoencoder(*[TinyConfig(4, (8, 8, 8), (1, 2, 2))] * 2).double().eval()
        scaled_weights(vae, 1)
    else:
        halves = Half(3, 8, (8, 16, 16), (), 1, 8), Half(4, 3, (8, 16, 16), (8, 8), 2, 16)
        vae = CausalAutoencoder(CausalConfig(*halves, 4, quant_conv=True, post_quant_conv=True)).double().eval()
        scaled_weights(vae, 1)
    set_padding(vae, "reflect")
    return vae


@settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    kind=st.sampled_from(("kl", "tiny", "causal")),
    h=st.integers(2, 11),
    w=st.integers(2, 7),
    pixels=st.sampled_from((1, 64, 300, 16384)),
)
def test_streamed_it_is_the_whole_reflected_picture(kind: str, h: int, w: int, pixels: int):
    vae, generator = reflecting(kind), torch.Generator().manual_seed(h * 10 + w)
    z = torch.randn(1, 4, h, w, generator=generator, dtype=torch.float64)
    decoded = stream_decode(vae, z, plan=plan_decode(vae, z.shape, strip_pixels=pixels)).tensor
    with torch.no_grad():
        torch.testing.assert_close(decoded, vae.decode(z), rtol=0, atol=1e-11)
    x = torch.randn(1, 3, 4 * h, 4 * w, generator=generator, dtype=torch.float64)
    encoded = stream_encode(vae, x, plan=plan_encode(vae, x.shape, strip_pixels=pixels)).tensor
    with torch.no_grad():
        torch.testing.assert_close(encoded, vae.encode_moments(x), rtol=0, atol=1e-11)


def test_the_plan_is_not_below_the_peak():
    vae, z = reflecting("kl").float(), torch.randn(1, 4, 32, 32)
    for mode in ("A", "D"):
        plan = plan_decode(vae, z.shape, mode=mode, strip_pixels=256)
        assert peak_bytes(lambda plan=plan: stream_decode(vae, z, plan=plan)) <= plan.peak_bytes


def test_one_pixel_has_no_mirror_image():
    with pytest.raises(BadInputError, match="each side must have 2 pixels at least"):
        plan_decode(reflecting("kl"), (1, 4, 1, 5))


def test_torchs_reflected_convolution_is_meant():
    """Against a convolution of a picture that was mirrored by hand."""
    conv = nn.Conv2d(2, 3, 3, padding=1)
    set_padding(conv, "reflect")
    x = torch.randn(1, 2, 5, 4)
    rows = torch.cat([x[:, :, 1:2], x, x[:, :, -2:-1]], dim=2)
    mirrored = torch.cat([rows[..., 1:2], rows, rows[..., -2:-1]], dim=3)
    torch.testing.assert_close(conv(x), F.conv2d(mirrored, conv.weight, conv.bias))


# --- how it is known


@pytest.mark.parametrize(
    ("name", "metadata", "padding"),
    [
        ("EQ-SDXL-VAE", {}, "reflect"),
        ("MS-LC-EQ-D-VR VAE B7", {}, "reflect"),
        ("sdxl_eq_vae", {}, "reflect"),
        ("eqvae-sdxl", {}, "reflect"),
        ("sequoia_vae", {}, None),
        ("EQB7", {}, "reflect"),
        ("Noobai11EQB7", {}, "reflect"),
        ("Pad Flux EQ v2 B1", {}, "reflect"),
        ("EquinoxVAE", {}, None),
        ("vae-ft-mse-840000-ema-pruned", {}, None),
        ("plain", {KEY: "reflect"}, "reflect"),
        ("plain", {"padding_mode": "reflect"}, "reflect"),
        ("EQ-SDXL-VAE", {KEY: "zeros"}, "zeros"),
        ("plain", {KEY: "sideways"}, None),
    ],
)
def test_names_and_metadata_tell_it(name: str, metadata: dict[str, str], padding: str | None):
    assert padding_of(name, metadata) == padding


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {
        name: tensor.contiguous() for name, tensor in small_vae((8, 16, 16), dtype=torch.float32).state_dict().items()
    }


def whole(state: dict[str, Tensor], z: Tensor, padding: str) -> Tensor:
    vae = small_vae((8, 16, 16), dtype=torch.float32)
    vae.load_state_dict(state)
    for conv in vae.modules():
        if isinstance(conv, nn.Conv2d):
            conv.padding_mode = padding  # type: ignore[assignment]
    with torch.no_grad():
        return vae.decode(z)


def test_a_file_is_decoded_as_its_name_metadata_or_config_say(tmp_path: Path, state: dict[str, Tensor]):
    groups, z = {"norm_num_groups": "4"}, torch.randn(1, 4, 5, 6)
    folder = tmp_path / "diffusers"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", "padding_mode": "reflect"}))
    files = {
        tmp_path / "EQ-SDXL-VAE.safetensors": groups,
        tmp_path / "other.safetensors": {**groups, KEY: "reflect"},
        folder / "diffusion_pytorch_model.safetensors": groups,
    }
    for path, metadata in files.items():
        save_file(state, path, metadata)
        with torch.no_grad():
            assert torch.equal(load_state(vae_file(path)).network().decode(z), whole(state, z, "reflect"))
    plain = tmp_path / "plain.safetensors"
    save_file(state, plain, groups)
    with torch.no_grad():
        assert torch.equal(load_state(vae_file(plain)).network().decode(z), whole(state, z, "zeros"))


def test_the_users_word_goes_before_the_files(tmp_path: Path, state: dict[str, Tensor]):
    z, pixels = torch.randn(1, 4, 5, 6), {}
    save_file({"latent": z}, tmp_path / "z.safetensors")
    save_file(state, tmp_path / "eq.safetensors", {"norm_num_groups": "4"})
    for padding in (None, "zeros", "reflect"):
        out = tmp_path / f"{padding}.npy"
        word = ["--padding", padding] if padding else []
        arguments = [
            "decode",
            str(tmp_path / "z.safetensors"),
            "-o",
            str(out),
            "--vae",
            str(tmp_path / "eq.safetensors"),
        ]
        assert main([*arguments, "--mode", "whole", *word]) == 0
        pixels[padding] = out.read_bytes()
    assert pixels[None] == pixels["reflect"] != pixels["zeros"]


def test_the_users_word_is_written_into_a_converted_file(tmp_path: Path, state: dict[str, Tensor]):
    """And goes before its name."""
    for name, word in (("plain", "reflect"), ("my eq vae", "zeros")):
        source, out = tmp_path / f"{name}.safetensors", tmp_path / f"{word}.safetensors"
        save_file(state, source, {"norm_num_groups": "4"})
        assert main(["convert", str(source), "-o", str(out), "--padding", word]) == 0
        assert load_state(vae_file(out)).padding == word


def test_health_and_latents_are_looked_at_with_the_right_edges(tmp_path: Path, state: dict[str, Tensor]):
    """What an EQ-VAE does to pictures is judged as it is meant."""
    plain, eq = tmp_path / "plain.safetensors", tmp_path / "eq.safetensors"
    for path in (plain, eq):
        save_file(state, path, {"norm_num_groups": "4"})
    z = torch.randn(1, 4, 5, 6)
    with torch.no_grad():
        for path, word, padding in (
            (plain, None, "zeros"), (plain, "reflect", "reflect"), (eq, None, "reflect"), (eq, "zeros", "zeros"),
        ):  # fmt: skip
            assert torch.equal(load_kl(vae_file(path), word).decode(z), whole(state, z, padding))
    zeros, reflect = (probe_file(vae_file(path)).std for path in (plain, eq))
    assert zeros is not None and reflect is not None and zeros != reflect
    told = [examine(vae_file(path), padding=word) for path, word in ((plain, None), (plain, "reflect"), (eq, None))]
    assert all(told)  # random weights give no picture back, and how badly depends on the edges
    trips = [round_trip(load_kl(vae_file(plain), word)) for word in (None, "reflect")]
    assert trips[0] != trips[1]


def test_calibrate_takes_the_users_word(tmp_path: Path, state: dict[str, Tensor], capsys):
    """Held against itself with other edges, a VAE has other colours; with the same edges, the same."""
    for name in ("a", "eq b"):
        save_file(state, tmp_path / f"{name}.safetensors", {"norm_num_groups": "4"})
    save_file({"latent": torch.randn(1, 4, 16, 16)}, tmp_path / "z.safetensors")
    residuals = []
    for word in ([], ["--padding", "reflect"]):
        files = ["--vae", str(tmp_path / "a.safetensors"), "--reference-vae", str(tmp_path / "eq b.safetensors")]
        assert main(["calibrate", str(tmp_path / "z.safetensors"), *files, *word, "--json"]) == 0
        residuals.append(json.loads(capsys.readouterr().out)["residual"])
    assert residuals[0] > 0 and residuals[1] == pytest.approx(0, abs=1e-6)


def test_a_converted_file_says_it_itself(tmp_path: Path, state: dict[str, Tensor]):
    save_file(state, tmp_path / "my eq vae.safetensors", {"norm_num_groups": "4"})
    out = tmp_path / "renamed.safetensors"
    assert main(["convert", str(tmp_path / "my eq vae.safetensors"), "-o", str(out), "--layout", "ldm"]) == 0
    assert load_state(vae_file(out)).padding == "reflect"
    assert load_file(out).keys() == state.keys()


# --- in a WebUI's module


def paddings(module: nn.Module) -> list[str]:
    return [conv.padding_mode for conv in module.modules() if isinstance(conv, nn.Conv2d)]


def test_a_swap_brings_its_padding_and_takes_it_away(state: dict[str, Tensor]):
    host, z = small_vae((8, 16, 16), dtype=torch.float32, seed=5), torch.randn(1, 4, 5, 6)
    before = paddings(host)
    with torch.no_grad():
        own = host.decode(z)
        installed = install(host, state, "reflect")
        assert torch.equal(host.decode(z), whole(state, z, "reflect"))
        remove(installed)
        assert torch.equal(host.decode(z), own) and paddings(host) == before


def test_a_zero_padded_vae_in_a_host_that_reflects(state: dict[str, Tensor]):
    """reForge has a switch; a VAE that is known to want zeros gets them, one that is not known is left to it."""
    host, z = small_vae((8, 16, 16), dtype=torch.float32, seed=5), torch.randn(1, 4, 5, 6)
    set_padding(host, "reflect")
    before = paddings(host)
    with torch.no_grad():
        for padding, looks in (("zeros", "zeros"), (None, "reflect")):
            installed = install(host, state, padding)
            assert torch.allclose(host.decode(z), whole(state, z, looks), atol=1e-6)
            remove(installed)
            assert paddings(host) == before


def test_seamless_tiling_stays(state: dict[str, Tensor]):
    host = small_vae((8, 16, 16), dtype=torch.float32)
    pad_circularly(host)
    before = paddings(host)
    installed = install(host, state, "reflect")
    assert paddings(host) == before
    remove(installed)
    assert paddings(host) == before


def test_the_first_stage_of_a_webui_pads_as_the_file_says(tmp_path: Path, state: dict[str, Tensor]):
    host, z = small_vae((8, 16, 16), dtype=torch.float32, seed=5), torch.randn(1, 4, 5, 6)
    save_file(state, tmp_path / "EQ-SDXL-VAE.safetensors", {"norm_num_groups": "4"})
    save_file(state, tmp_path / "plain.safetensors", {"norm_num_groups": "4"})
    stage = FirstStage(StateCache(2**30))
    stage.hold(host, {})
    with torch.no_grad():
        for name, padding in (("EQ-SDXL-VAE", "reflect"), ("plain", "zeros"), ("EQ-SDXL-VAE", "reflect")):
            stage.use(vae_file(tmp_path / f"{name}.safetensors"))
            assert torch.equal(host.decode(z), whole(state, z, padding))
    stage.release()
    assert set(paddings(host)) == {"zeros"}


def test_what_the_host_sets_meanwhile_stays(state: dict[str, Tensor]):
    host = small_vae((8, 16, 16), dtype=torch.float32)
    installed = install(host, state, "reflect")
    pad_circularly(host)
    remove(installed)
    assert set(paddings(host)) == {"circular"}


def test_the_users_word_in_a_webui_goes_before_the_file_and_holds_for_the_hosts_own(
    tmp_path: Path, state: dict[str, Tensor]
):
    host, z = small_vae((8, 16, 16), dtype=torch.float32, seed=5), torch.randn(1, 4, 5, 6)
    own = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    file = tmp_path / "EQ-SDXL-VAE.safetensors"
    save_file(state, file, {"norm_num_groups": "4"})
    stage = FirstStage(StateCache(2**30))
    stage.hold(host, {})
    with torch.no_grad():
        for path, word, weights, padding in (
            (file, None, state, "reflect"), (file, "zeros", state, "zeros"), (file, None, state, "reflect"),
            (None, "reflect", own, "reflect"), (file, "zeros", state, "zeros"), (None, "reflect", own, "reflect"),
            (None, None, own, "zeros"),
        ):  # fmt: skip
            stage.use(vae_file(path) if path else None, word)  # type: ignore[arg-type]
            assert torch.equal(host.decode(z), whole(weights, z, padding))
    stage.use(None, "reflect")
    stage.release()
    assert set(paddings(host)) == {"zeros"}
