"""Single pictures from causal 3-D autoencoders: the 3-D network's numbers, from Wan's files and diffusers'."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from tests.codec.causal_reference import WanVAE, random_weights
from tests.codec.streaming_vaes import peak_bytes
from vae_manager.cli import main
from vae_manager.codec.kinds.causal3d.network import CausalAutoencoder
from vae_manager.codec.streaming import plan_decode, plan_encode, stream_decode, stream_encode
from vae_manager.errors import VaeFileError
from vae_manager.library.files import vae_file
from vae_manager.library.identify import identify
from vae_manager.library.state import load_kl_state, load_state

EXACT = {"rtol": 0, "atol": 1e-10}


def reference(**shape: Any) -> WanVAE:
    vae = WanVAE(**shape).double().eval().requires_grad_(False)
    random_weights(vae)
    return vae


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def loaded(path: Path) -> CausalAutoencoder:
    state = load_state(vae_file(path))
    vae = state.kind.build(state.tensors, state.norm_groups)
    assert isinstance(vae, CausalAutoencoder)
    return vae


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_wans_own_files_give_the_3d_networks_numbers(tmp_path: Path):
    theirs = reference(blocks=2)
    path = saved(tmp_path / "wan.safetensors", theirs.state_dict())
    identity = identify(vae_file(path))
    assert (identity.family, identity.latent_channels, identity.problems) == ("wan", 4, ())
    ours, z, x = loaded(path), noise(2, 4, 5, 3), noise(2, 3, 40, 24)
    torch.testing.assert_close(ours.decode(z), theirs.decode(z[:, :, None])[:, :, 0], **EXACT)
    torch.testing.assert_close(ours.encode_moments(x), theirs.encode(x[:, :, None])[:, :, 0], **EXACT)


def test_a_later_frame_would_need_the_other_taps():
    """What makes the test above one: the taps that are left out do act as soon as there is a second frame."""
    theirs, z = reference(), noise(1, 4, 2, 3, 3)
    assert not torch.allclose(theirs.decode(z)[:, :, 1], theirs.decode(z[:, :, 1:])[:, :, 0], atol=1e-3)


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae."])
def test_all_in_one_files_have_it_behind_a_prefix(tmp_path: Path, prefix: str):
    theirs = reference()
    state = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    ours, z = loaded(saved(tmp_path / "a.safetensors", state)), noise(1, 4, 2, 3)
    torch.testing.assert_close(ours.decode(z), theirs.decode(z[:, :, None])[:, :, 0], **EXACT)


def test_streamed_it_is_the_3d_networks_picture(tmp_path: Path):
    theirs = reference()
    ours, z, x = loaded(saved(tmp_path / "a.safetensors", theirs.state_dict())), noise(1, 4, 13, 6), noise(1, 3, 72, 40)
    for pixels in (1, 300, None):
        decoded = stream_decode(ours, z, plan=plan_decode(ours, z.shape, strip_pixels=pixels)).tensor
        torch.testing.assert_close(decoded, theirs.decode(z[:, :, None])[:, :, 0], **EXACT)
        encoded = stream_encode(ours, x, plan=plan_encode(ours, x.shape, strip_pixels=pixels)).tensor
        torch.testing.assert_close(encoded, theirs.encode(x[:, :, None])[:, :, 0], **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_plan_is_not_below_the_peak(tmp_path: Path, dtype: torch.dtype):
    path = saved(tmp_path / "a.safetensors", reference(dims=(32, 64, 64, 64)).state_dict())
    ours = loaded(path).to(dtype)
    z, x = noise(1, 4, 24, 24).to(dtype), noise(1, 3, 128, 128).to(dtype)
    for plan, run, source in ((plan_decode, stream_decode, z), (plan_encode, stream_encode, x)):
        found = plan(ours, source.shape, strip_pixels=1024)
        assert peak_bytes(lambda run=run, source=source, found=found: run(ours, source, plan=found)) <= found.peak_bytes


def test_2d_files_with_diffusers_names(tmp_path: Path):
    """Qwen2D: the kernels' last taps saved by themselves."""
    theirs, flat = reference(), {}
    for name, tensor in theirs.state_dict().items():
        if "time_conv" not in name:
            flat[diffusers_name(name)] = tensor[:, :, -1] if tensor.ndim == 5 else tensor
    ours, z = loaded(saved(tmp_path / "a.safetensors", flat)), noise(1, 4, 3, 3)
    torch.testing.assert_close(ours.decode(z), theirs.decode(z[:, :, None])[:, :, 0], **EXACT)


def diffusers_name(name: str) -> str:
    """Of the small network: four levels, one block in the encoder's and two in the decoder's."""
    parts = {"conv1.": "quant_conv.", "conv2.": "post_quant_conv."}
    for ours, theirs in parts.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    half, place, *rest = name.split(".")
    tail = ".".join(rest)
    blocks = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}
    for old, new in {**blocks, "shortcut": "conv_shortcut"}.items():
        tail = tail.replace(old, new)
    if place == "conv1":
        return f"{half}.conv_in.{tail}"
    if place == "head":
        return f"{half}.norm_out.gamma" if tail.startswith("0") else f"{half}.conv_out.{tail[2:]}"
    number, tail = tail.split(".", 1)
    if place == "middle":
        return f"{half}.mid_block.{('resnets.0', 'attentions.0', 'resnets.1')[int(number)]}.{tail}"
    if place == "downsamples":
        return f"{half}.down_blocks.{number}.{tail}"
    level, layer = divmod(int(number), 3)
    return f"{half}.up_blocks.{level}." + (f"resnets.{layer}.{tail}" if layer < 2 else f"upsamplers.0.{tail}")


def test_twelve_channels_are_a_picture_of_twice_the_size(tmp_path: Path):
    theirs = reference(out=12)
    ours, z = loaded(saved(tmp_path / "a.safetensors", theirs.state_dict())), noise(1, 4, 6, 5)
    whole = F.pixel_shuffle(theirs.decode(z[:, :, None])[:, :, 0], 2)
    assert whole.shape == (1, 3, 96, 80)
    torch.testing.assert_close(ours.decode(z), whole, **EXACT)
    torch.testing.assert_close(
        stream_decode(ours, z, plan=plan_decode(ours, z.shape, strip_pixels=64)).tensor, whole, **EXACT
    )


def test_wan_2_2_and_qwen_image_2_1_are_told_and_refused(tmp_path: Path):
    """Their levels have shortcuts without weights: taken for Wan 2.1's, the picture would be wrong."""
    state = reference().state_dict()
    wide = state["decoder.upsamples.2.resample.1.weight"]
    state["decoder.upsamples.2.resample.1.weight"] = torch.cat([wide, wide])
    state["decoder.upsamples.2.resample.1.bias"] = torch.zeros(16, dtype=torch.float64)
    path = saved(tmp_path / "a.safetensors", state)
    assert "Wan 2.2" in identify(vae_file(path)).problems[0]
    with pytest.raises(VaeFileError, match=r"Wan 2\.2"):
        load_state(vae_file(path))


def test_encode_and_decode_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    theirs = reference().float()
    vae = saved(tmp_path / "wan.safetensors", theirs.state_dict())
    Image.effect_noise((30, 20), 90).convert("RGB").save(tmp_path / "a.png")
    latent, out = tmp_path / "a.safetensors", tmp_path / "b.png"
    assert main(["encode", str(tmp_path / "a.png"), "-o", str(latent), "--vae", str(vae), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["latent_shape"] == [1, 4, 3, 4]
    assert load_file(latent)["latent"].shape == (1, 4, 3, 4)
    assert main(["decode", str(latent), "-o", str(out), "--vae", str(vae), "--json"]) == 0
    assert Image.open(out).size == (30, 20)


def test_it_cannot_be_put_into_another_networks_place(tmp_path: Path):
    path = saved(tmp_path / "a.safetensors", reference().state_dict())
    with pytest.raises(VaeFileError, match="WAN autoencoder"):
        load_kl_state(vae_file(path))


def test_no_half_of_it_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What mixes frames is not read, so that a file made of what is read would be of no use to anybody."""
    vae, out = str(saved(tmp_path / "a.safetensors", reference().state_dict())), str(tmp_path / "out.safetensors")
    assert main(["merge", vae, vae, "--alpha", "0.5", "-o", out]) == 2
    assert "only what single pictures need is read" in capsys.readouterr().err
    assert main(["convert", vae, "-o", out]) == 2
    assert not Path(out).exists()


def test_a_lost_tensor_is_named(tmp_path: Path):
    state = reference().state_dict()
    del state["decoder.upsamples.4.residual.2.weight"]
    path = saved(tmp_path / "a.safetensors", state)
    with pytest.raises(VaeFileError, match=r"decoder\.up\.2\.block\.1\.conv1\.weight"):
        load_state(vae_file(path))


@pytest.mark.parametrize("name", ["AutoencoderKLWan", "AutoencoderKLQwenImage"])
def test_diffusers_gives_the_same(name: str, tmp_path: Path):
    """The second reference, where diffusers is new enough to have it."""
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, name):
        pytest.skip(f"this diffusers has no {name}")
    torch.manual_seed(0)
    shape = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1}
    theirs = getattr(diffusers, name)(**shape).double().eval()
    random_weights(theirs)
    ours = loaded(saved(tmp_path / "a.safetensors", theirs.state_dict()))
    z, x = noise(1, 4, 5, 3), noise(1, 3, 40, 24).clamp(-1, 1)
    with torch.no_grad():
        decoded = theirs.decode(z[:, :, None]).sample[:, :, 0]
        moments = theirs.encode(x[:, :, None]).latent_dist.parameters[:, :, 0]
    # its upsampling goes by way of float32, whatever the dtype: 2^-24 of numbers about 1, over four levels
    torch.testing.assert_close(ours.decode(z).clamp(-1, 1), decoded, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.encode_moments(x), moments, **EXACT)


def test_a_header_is_judged_without_torch(tmp_path: Path):
    import subprocess

    path = saved(tmp_path / "a.safetensors", reference().state_dict())
    program = (
        "import sys; from pathlib import Path; from vae_manager.library.identify import identify; "
        "from vae_manager.library.files import vae_file; "
        "print(identify(vae_file(Path(sys.argv[1]))).problems, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "() False"
