"""However a VAE's tensors are called, wrapped or kept, they load to the same network; what cannot be is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import SD1, make_state, make_vae
from vae_manager.cli import main
from vae_manager.codec.build import build_kl
from vae_manager.codec.kinds.kl.config import KLConfig
from vae_manager.codec.kinds.kl.names import to_diffusers, to_ldm
from vae_manager.codec.whole import decode, encode
from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.library.files import vae_file
from vae_manager.library.health import examine
from vae_manager.library.identify import identify
from vae_manager.library.merge import merge_states
from vae_manager.library.numbers import wider
from vae_manager.library.state import load_kl_state, load_state
from vae_manager.selection.checkpoint import FactsCache

KL_F16 = replace(SD1, encoder_attention=(3,), decoder_attention=(3,))
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def half_converted(state: dict[str, Tensor], matrices: bool) -> dict[str, Tensor]:
    """ldm's names, but attention's under diffusers' new ones."""
    found = {}
    for name, tensor in state.items():
        for old, new in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
            name = name.replace(f".attn_1.{old}.", f".attn_1.{new}.")
        found[name] = tensor[:, :, 0, 0].clone() if matrices and ".attn_1." in name and tensor.ndim == 4 else tensor
    return found


def saved(path: Path, content: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in content.items()}, str(path), metadata)
    return path


def behind(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("matrices", [False, True])
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_attention_half_converted(tmp_path: Path, matrices: bool, prefix: str):
    state = make_state(SD1, seed=5)
    file = vae_file(saved(tmp_path / "a.safetensors", behind(prefix, half_converted(state, matrices))))
    assert identify(file).problems == ()
    loaded, _ = load_kl_state(file)
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "model.", "autoencoder.", "_orig_mod.", "vae.", "first_stage_model.first_stage_model.",
     "model.first_stage_model.", "state_dict.module."],
)  # fmt: skip
def test_prefixes(tmp_path: Path, prefix: str):
    state = make_state(SD1, seed=5)
    loaded, _ = load_kl_state(vae_file(saved(tmp_path / "a.safetensors", behind(prefix, state))))
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "keys", [["vae"], ["ema"], ["model_state_dict"], ["state_dict", "state_dict"], ["model", "module"], ["state_dict"]]
)
def test_nested_pickles(tmp_path: Path, keys: list[str]):
    state = make_state(SD1, seed=5)
    document: dict = behind("module.", state)
    for key in keys:
        document = {"step": 3, key: document}
    torch.save(document, tmp_path / "a.pt")
    loaded, _ = load_kl_state(vae_file(tmp_path / "a.pt"))
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("first", ["first_stage_model.", "vae."])
def test_of_two_vaes_the_hosts_one(tmp_path: Path, first: str):
    state, other = make_state(SD1, seed=5), make_state(SD1, seed=6)
    both = behind("first_stage_model.", state) | behind("vae.", other) | behind("model_ema.", other)
    both = dict(sorted(both.items(), key=lambda row: not row[0].startswith(first)))
    torch.save(both, tmp_path / "a.ckpt")
    assert torch.equal(
        load_kl_state(vae_file(tmp_path / "a.ckpt"))[0]["decoder.conv_in.weight"], state["decoder.conv_in.weight"]
    )


def test_attention_in_levels(tmp_path: Path):
    """As kl-f16 has it: the file's own attention takes part, under both libraries' names."""
    vae = make_vae(KL_F16, seed=2)
    state = dict(vae.state_dict())
    assert {name for name in state if ".attn." in name} >= {
        "encoder.down.3.attn.1.q.weight",
        "decoder.up.3.attn.2.norm.bias",
    }
    names = {name: to_diffusers(name, 4) for name in state}
    assert names["decoder.up.3.attn.2.norm.bias"] == "decoder.up_blocks.0.attentions.2.group_norm.bias"
    assert names["encoder.down.3.attn.1.q.weight"] == "encoder.down_blocks.3.attentions.1.to_q.weight"
    assert [to_ldm(name, 4) for name in names.values()] == list(names)
    for file in ("ldm.safetensors", "diffusers.safetensors"):
        content = {names[name] if file == "diffusers.safetensors" else name: state[name] for name in state}
        loaded, groups = load_kl_state(vae_file(saved(tmp_path / file, content)))
        built = build_kl(loaded, groups)
        assert built.config.decoder_attention == (3,) and built.config.encoder_attention == (3,)
        z = torch.randn(1, 4, 4, 4)
        assert torch.equal(decode(built, z), decode(vae, z))
    state = {name: tensor.clone() for name, tensor in state.items()}
    state["decoder.up.3.attn.0.proj_out.bias"] += 1
    assert not torch.allclose(decode(build_kl(state, 32), z), decode(vae, z))


def test_a_decoder_alone_decodes(tmp_path: Path):
    vae = make_vae(SD1, seed=3)
    half = {name: tensor for name, tensor in vae.state_dict().items() if name.startswith(("decoder.", "post_quant"))}
    file = vae_file(saved(tmp_path / "half.safetensors", half))
    built = build_kl(*load_kl_state(file))
    z = torch.randn(1, 4, 4, 4)
    assert torch.equal(decode(built, z), decode(vae, z))
    assert not identify(file).encodes and identify(file).problems == ()
    assert examine(file) == ()
    with pytest.raises(BadInputError, match="decoder only"):
        encode(built, torch.zeros(1, 3, 32, 32))
    with pytest.raises(VaeFileError, match="decoder only"):  # which a WebUI's whole VAE cannot take in
        FactsCache().vae(file)


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_eight_bit_floats(tmp_path: Path, dtype: torch.dtype):
    state = {name: tensor.to(dtype) for name, tensor in make_state(SD1, seed=4).items()}
    path = saved(tmp_path / "fp8.safetensors", state)
    assert identify(vae_file(path)).dtype == {E4M3: "fp8_e4m3fn", E5M2: "fp8_e5m2"}[dtype]
    assert examine(vae_file(path), thorough=False) == ()
    loaded, groups = load_kl_state(vae_file(path), torch.float32)
    assert all(torch.equal(loaded[name], state[name].float()) for name in state)
    assert decode(build_kl(loaded, groups), torch.randn(1, 4, 4, 4)).isfinite().all()
    assert main(["convert", str(path), "-o", str(tmp_path / "same.safetensors")]) == 0
    again = load_file(tmp_path / "same.safetensors")
    assert all(t.dtype == dtype and torch.equal(t.float(), state[name].float()) for name, t in again.items())
    one = load_state(vae_file(path))
    merged = merge_states(one, one, 0.5)
    assert all(t.dtype == dtype and torch.equal(t.float(), state[name].float()) for name, t in merged.items())


def test_damaged_eight_bit_floats(tmp_path: Path):
    state = {name: tensor.to(E4M3) for name, tensor in make_state(SD1, seed=4).items()}
    state["decoder.conv_in.bias"] = torch.full_like(state["decoder.conv_in.bias"].float(), float("nan")).to(E4M3)
    file = vae_file(saved(tmp_path / "fp8.safetensors", state))
    assert examine(file, thorough=False) == ("its tensor 'decoder.conv_in.bias' holds NaN or infinite values",)
    with pytest.raises(VaeFileError, match="NaN"):
        load_state(file)


def test_which_precision_holds_both():
    assert wider(E4M3, E4M3) == E4M3
    assert wider(E4M3, E5M2) == torch.float16
    assert wider(E5M2, torch.bfloat16) == torch.float32
    assert wider(torch.float16, E4M3) == torch.float16


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_what_cannot_be_is_never_loaded(tmp_path: Path, value: float):
    state = make_state(SD1)
    state["decoder.conv_out.weight"] = torch.full_like(state["decoder.conv_out.weight"], value)
    with pytest.raises(VaeFileError, match=r"'decoder.conv_out.weight' holds"):
        load_state(vae_file(saved(tmp_path / "a.safetensors", state)))


def test_only_wan_is_called_wan(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kernel = torch.zeros(4, 4, 3, 3, 3)
    other = saved(tmp_path / "other.safetensors", {"decoder.conv_in.conv.weight": kernel, "encoder.x": kernel.clone()})
    with pytest.raises(VaeFileError, match="video autoencoder of a kind that is not known"):
        identify(vae_file(other))
    wan = saved(
        tmp_path / "wan.safetensors",
        {"decoder.conv1.weight": kernel, "decoder.middle.0.residual.0.gamma": kernel.clone()},
    )
    assert identify(vae_file(wan)).family == "wan"
    assert "no whole VAE of the Wan and Qwen kind" in identify(vae_file(wan)).problems[0]
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("✗") == 2


def test_a_list_shows_what_cannot_be_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    state = make_state(SD1)
    state["decoder.mid.attn_2.q.weight"] = torch.zeros(4)
    saved(tmp_path / "odd.safetensors", state)
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("✗ odd.safetensors cannot be used: it has a layer that is not known")


def test_a_checkpoint_with_an_odd_vae_is_not_approved(tmp_path: Path):
    state = make_state(SD1)
    del state["decoder.up.0.block.2.conv2.bias"]
    path = saved(tmp_path / "a.safetensors", behind("first_stage_model.", state))
    problem = FactsCache().checkpoint(vae_file(path)).problem
    assert problem is not None and "'decoder.up.0.block.2.conv2.bias' is missing" in problem


@pytest.mark.parametrize("rows", [[(level, 0) for level in range(100)] + [(0, block) for block in range(100)]])
def test_a_huge_claim_costs_nothing(tmp_path: Path, rows: list[tuple[int, int]]):
    """A hundred levels of a hundred blocks, in a few names."""
    state = {f"{half}.{levels}.{level}.block.{block}.conv1.weight": torch.zeros(32, 32, 1, 1)
             for half, levels in (("encoder", "down"), ("decoder", "up")) for level, block in rows}  # fmt: skip
    for half in ("encoder", "decoder"):
        state |= {
            f"{half}.conv_in.weight": torch.zeros(32, 3, 3, 3),
            f"{half}.conv_out.weight": torch.zeros(3, 32, 3, 3),
        }
    state |= {"decoder.conv_in.weight": torch.zeros(32, 4, 3, 3), "encoder.conv_out.weight": torch.zeros(8, 32, 3, 3)}
    file = vae_file(saved(tmp_path / "a.safetensors", state))
    with pytest.raises(VaeFileError, match=r"need more|no autoencoder has more"):  # before anything is built
        identify(file)


def test_odd_diffusers_names_are_our_errors(tmp_path: Path):
    for name in ("decoder.mid_block.x", "decoder.up_blocks.x", f"decoder.up_blocks.{'9' * 900}.resnets.0.conv1.weight"):
        file = vae_file(saved(tmp_path / "a.safetensors", {name: torch.zeros(1)}))
        with pytest.raises(VaeFileError):
            identify(file)


@pytest.mark.parametrize("key,shape", [("post_quant_conv.weight", ()), ("decoder.conv_in.weight", (4,))])
def test_odd_shapes_are_our_errors(key: str, shape: tuple[int, ...]):
    shapes = {name: tuple(tensor.shape) for name, tensor in make_state(SD1).items()}
    with pytest.raises(VaeFileError, match="impossible shape"):
        KLConfig.from_shapes({**shapes, key: shape})


def test_eight_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    state = make_state(replace(SD1, norm_groups=8), seed=1)
    path = saved(tmp_path / "a.safetensors", state, {"norm_num_groups": "8"})
    assert load_state(vae_file(path)).norm_groups == 8
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["norm_groups"] == 8
