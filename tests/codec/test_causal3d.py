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

from tests.codec.causal_reference import Wan22VAE, WanVAE, flattened, random_weights
from tests.codec.streaming_vaes import peak_bytes
from vae_manager.cli import main
from vae_manager.codec.kinds.causal3d import picture_tensor
from vae_manager.codec.kinds.causal3d.names import canonical
from vae_manager.codec.kinds.causal3d.network import CausalAutoencoder, build_causal
from vae_manager.codec.kinds.registry import chain_of
from vae_manager.codec.streaming import plan_decode, plan_encode, stream_decode, stream_encode
from vae_manager.codec.streaming.flow import Terms
from vae_manager.codec.streaming.passes import NAMED
from vae_manager.codec.streaming.plan import StagePrices
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
    theirs = reference()
    ours, z = loaded(saved(tmp_path / "a.safetensors", flattened(theirs.state_dict(), 1))), noise(1, 4, 3, 3)
    torch.testing.assert_close(ours.decode(z), theirs.decode(z[:, :, None])[:, :, 0], **EXACT)


def test_twelve_channels_are_a_picture_of_twice_the_size(tmp_path: Path):
    theirs = reference(out=12)
    ours, z = loaded(saved(tmp_path / "a.safetensors", theirs.state_dict())), noise(1, 4, 6, 5)
    whole = F.pixel_shuffle(theirs.decode(z[:, :, None])[:, :, 0], 2)
    assert whole.shape == (1, 3, 96, 80)
    torch.testing.assert_close(ours.decode(z), whole, **EXACT)
    torch.testing.assert_close(
        stream_decode(ours, z, plan=plan_decode(ours, z.shape, strip_pixels=64)).tensor, whole, **EXACT
    )


SHORTCUTS: dict[str, dict[str, Any]] = {
    "Wan 2.2": {"dims": (8, 16, 32, 32), "decoder_dims": (16, 32, 64, 64)},
    "Qwen-Image 2.1": {
        "dims": (8, 16, 32, 64, 64),
        "times": (False, True, True, True),
        "channels": 4,
        "patch": 1,
        "taps": 1,
    },
    "halved where frames meet": {"dims": (16, 16, 8, 8), "times": (True, True, False), "blocks": 2},
}
"""With the published proportions, so that a shortcut repeats, averages and drops as it does there."""


def with_shortcuts(name: str) -> Wan22VAE:
    vae = Wan22VAE(**SHORTCUTS[name]).double().eval().requires_grad_(False)
    random_weights(vae)
    return vae


@pytest.mark.parametrize("name", SHORTCUTS)
def test_shortcuts_around_levels(name: str, tmp_path: Path):
    theirs = with_shortcuts(name)
    path = saved(tmp_path / "a.safetensors", theirs.state_dict())
    assert identify(vae_file(path)).problems == ()
    ours, z = loaded(path), noise(2, 4, 5, 3)
    x = noise(2, ours.config.image_channels, 3 * ours.config.ratio, 2 * ours.config.ratio)
    decoded, encoded = theirs.decode(z[:, :, None])[:, :, 0], theirs.encode(x[:, :, None])[:, :, 0]
    assert decoded.shape[2:] == (5 * ours.config.ratio, 3 * ours.config.ratio) and ours.config.ratio == 16
    torch.testing.assert_close(ours.decode(z), decoded, **EXACT)
    torch.testing.assert_close(ours.encode_moments(x), encoded, **EXACT)
    for pixels in (1, 300, None):
        found = stream_decode(ours, z, plan=plan_decode(ours, z.shape, strip_pixels=pixels)).tensor
        torch.testing.assert_close(found, decoded, **EXACT)
        found = stream_encode(ours, x, plan=plan_encode(ours, x.shape, strip_pixels=pixels)).tensor
        torch.testing.assert_close(found, encoded, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_with_shortcuts_the_plan_is_not_below_the_peak(tmp_path: Path, dtype: torch.dtype):
    theirs = Wan22VAE(dims=(32, 64, 128, 128), decoder_dims=(48, 96, 192, 192))
    random_weights(theirs)
    ours = loaded(saved(tmp_path / "a.safetensors", theirs.state_dict())).to(dtype)
    for side, pixels in ((32, 128), (12, 4096)):
        z, x = noise(1, 4, side, side).to(dtype), noise(1, 3, 16 * side, 16 * side).to(dtype)
        for plan, run, source in ((plan_decode, stream_decode, z), (plan_encode, stream_encode, x)):
            found = plan(ours, source.shape, strip_pixels=pixels)
            peak = peak_bytes(lambda run=run, source=source, found=found: run(ours, source, plan=found))
            assert peak <= found.peak_bytes


def test_what_waits_for_the_end_of_a_level_is_counted(tmp_path: Path):
    """Of two equal blocks at one resolution, the one inside a level costs the level's input more."""
    theirs = Wan22VAE(dims=(32, 64, 128, 128), decoder_dims=(48, 96, 192, 192))
    ours = loaded(saved(tmp_path / "a.safetensors", theirs.state_dict()))
    chain = chain_of(ours, True)
    assert chain.beside == (None, None, None, None, 4, 4, 4, 7, 7, 7)
    plan = plan_decode(ours, (1, 4, 24, 20), strip_pixels=128)
    terms, grids = Terms(plan.device, plan.dtype, plan.attention_bytes, 4, False), chain.grids(24, 20)
    outside, inside = (StagePrices(chain, n, grids[n], plan.rows[n], terms).of_passes(NAMED["D"], True) for n in (3, 5))
    assert inside[0][0] - outside[0][0] == 4 * 192 * 24 * 20


def test_a_picture_of_512_takes_a_tenth_of_what_the_3d_network_takes():
    """That was measured by `bench causal` in the process's resident size: 1038 MB to decode, 1027 to encode."""
    with torch.device("meta"):
        state = WanVAE((96, 192, 384, 384), latent=16, blocks=2).state_dict()
        ours = build_causal({name: picture_tensor(name, state[own]) for name, own in canonical(state).items()})
    for plan, shape, measured in ((plan_decode, (1, 16, 64, 64), 1038e6), (plan_encode, (1, 3, 512, 512), 1027e6)):
        assert plan(ours, shape, device="cpu", memory_limit=1 << 40).peak_bytes <= 0.1 * measured


def test_shortcuts_without_their_frames_are_refused(tmp_path: Path):
    """What a shortcut does is told by the layers between frames alone: without them the picture might be wrong."""
    state = {name: t for name, t in with_shortcuts("Wan 2.2").state_dict().items() if "time_conv" not in name}
    with pytest.raises(VaeFileError, match="layers between frames"):
        load_state(vae_file(saved(tmp_path / "a.safetensors", state)))


def test_levels_of_an_unknown_width_are_refused(tmp_path: Path):
    state = reference().state_dict()
    wide = state["decoder.upsamples.2.resample.1.weight"]
    state["decoder.upsamples.2.resample.1.weight"] = torch.cat([wide, wide])
    state["decoder.upsamples.2.resample.1.bias"] = torch.zeros(16, dtype=torch.float64)
    path = saved(tmp_path / "a.safetensors", state)
    with pytest.raises(VaeFileError, match=r"neither as Wan 2\.1's nor as Wan 2\.2's"):
        load_state(vae_file(path))


def test_pictures_with_opacity_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Qwen-Image 2.1's: an opaque picture goes in, RGBA comes out; on white where a format has no opacity."""
    import numpy as np
    from PIL import Image

    theirs = with_shortcuts("Qwen-Image 2.1").float()
    vae = saved(tmp_path / "vae.safetensors", theirs.state_dict())
    Image.effect_noise((30, 20), 90).convert("RGB").save(tmp_path / "a.png")
    latent = tmp_path / "a.safetensors"
    assert main(["encode", str(tmp_path / "a.png"), "-o", str(latent), "--vae", str(vae), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["latent_shape"] == [1, 4, 2, 2]
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "a.png"))).permute(2, 0, 1)[None] / 127.5 - 1
    opaque = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
    moments = theirs.encode(F.pad(opaque, (0, 2, 0, 12), mode="replicate")[:, :, None])[:, :4, 0]
    torch.testing.assert_close(load_file(latent)["latent"], moments, rtol=0, atol=1e-4)
    whole = theirs.decode(load_file(latent)["latent"][:, :, None])[:, :, 0, :20, :30].clamp(-1, 1)
    rgba, opacity = (whole / 2 + 0.5)[0].permute(1, 2, 0).numpy() * 255, (whole[0, 3:] / 2 + 0.5).permute(1, 2, 0)
    for name, bits in (("b.png", "8"), ("c.png", "16"), ("d.webp", "8"), ("e.bmp", "8")):
        arguments = ["decode", str(latent), "-o", str(tmp_path / name), "--vae", str(vae), "--bits", bits]
        assert main(arguments) == 0
        found = np.asarray(Image.open(tmp_path / name)).astype(float)
        expected = rgba
        if name == "e.bmp":
            expected = rgba[..., :3] * opacity.numpy() + 255 * (1 - opacity.numpy())
        if name != "d.webp":
            assert np.abs(found - expected).max() <= 1
        assert found.shape[2] == (3 if name == "e.bmp" else 4)


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


def test_frames_are_told_only_where_there_are_shortcuts():
    """Under diffusers' names Wan 2.1's decoder has levels of their own as well."""
    plain = ("decoder.up_blocks.0.resnets.0.norm1.gamma", "decoder.up_blocks.0.upsamplers.0.time_conv.bias")
    around = ("decoder.up_blocks.0.resnets.0.norm1.gamma", "decoder.up_blocks.0.upsampler.time_conv.bias")
    assert [name for name in canonical(plain) if "time" in name] == []
    assert [name for name in canonical(around) if "time" in name] == ["decoder.up.0.upsample.time_bias"]


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
    assert (
        ours.state_dict().keys()
        == loaded(saved(tmp_path / "b.safetensors", reference().state_dict())).state_dict().keys()
    )
    z, x = noise(1, 4, 5, 3), noise(1, 3, 40, 24).clamp(-1, 1)
    with torch.no_grad():
        decoded = theirs.decode(z[:, :, None]).sample[:, :, 0]
        moments = theirs.encode(x[:, :, None]).latent_dist.parameters[:, :, 0]
    # its upsampling goes by way of float32, whatever the dtype: 2^-24 of numbers about 1, over four levels
    torch.testing.assert_close(ours.decode(z).clamp(-1, 1), decoded, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.encode_moments(x), moments, **EXACT)


def test_diffusers_wan_2_2_gives_the_same(tmp_path: Path):
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "AutoencoderKLWan"):
        pytest.skip("this diffusers has no AutoencoderKLWan")
    shape = {"base_dim": 8, "decoder_base_dim": 16, "z_dim": 4, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    wan22 = {"is_residual": True, "patch_size": 2, "in_channels": 3, "out_channels": 3}
    try:
        theirs = diffusers.AutoencoderKLWan(**shape, **wan22, temperal_downsample=[False, True, True])
    except TypeError:
        pytest.skip("this diffusers knows Wan 2.1 only")
    theirs = theirs.double().eval()
    if theirs.encoder.conv_in.weight.shape[1] == 3:  # versions that take the channels inside
        wan22.update(in_channels=12, out_channels=12)
        theirs = diffusers.AutoencoderKLWan(**shape, **wan22, temperal_downsample=[False, True, True]).double().eval()
    random_weights(theirs)
    ours = loaded(saved(tmp_path / "a.safetensors", theirs.state_dict()))
    z, x = noise(1, 4, 5, 3), noise(1, 3, 64, 32).clamp(-1, 1)
    with torch.no_grad():
        decoded = theirs.decode(z[:, :, None]).sample[:, :, 0]
        moments = theirs.encode(x[:, :, None]).latent_dist.parameters[:, :, 0]
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
