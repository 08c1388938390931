"""The weights digest: the same for the same weights however they are kept, another for any changed value."""

from __future__ import annotations

import hashlib
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from vae_manager.codec.kinds.kl.names import as_matrix, to_diffusers
from vae_manager.errors import VaeFileError
from vae_manager.library.digest import WeightsDigest, half_bits, weights_digest
from vae_manager.library.headers import Header, TensorInfo, TensorTable
from vae_manager.library.layouts import detect_layout
from vae_manager.library.tensors import TensorFile, open_tensors

NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
}  # fmt: skip
WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

SHAPES = {
    "encoder.conv_in.weight": (2, 3, 3, 3),
    "encoder.down.0.block.0.conv1.bias": (3,),
    "encoder.mid.attn_1.k.weight": (2, 2, 1, 1),
    "decoder.conv_in.weight": (2, 4, 3, 3),
    "decoder.conv_out.bias": (3,),
    "decoder.mid.attn_1.q.weight": (2, 2, 1, 1),
    "decoder.mid.attn_1.proj_out.bias": (2,),
    "decoder.mid.block_1.norm1.weight": (2,),
    "decoder.up.0.block.1.nin_shortcut.weight": (2, 3, 1, 1),
    "decoder.up.1.upsample.conv.weight": (2, 2, 3, 3),
    "decoder.norm_out.bias": (2,),
    "quant_conv.weight": (2, 2, 1, 1),
    "post_quant_conv.bias": (4,),
}  # fmt: skip

State = dict[str, torch.Tensor]


def random_state(seed: int, dtype: torch.dtype = torch.float32) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def in_memory(state: State) -> TensorFile:
    header = Header(TensorTable((name, TensorInfo(NAMES[t.dtype], tuple(t.shape))) for name, t in state.items()))
    return TensorFile(Path("memory"), "pickle", header, lambda name: bits_of(state[name]))


def bits_of(tensor: torch.Tensor) -> np.ndarray:
    whole = tensor.view(WHOLE[tensor.element_size()]).numpy()
    return whole.view(f"u{tensor.element_size()}")


def digest(state: State) -> WeightsDigest:
    return weights_digest(in_memory(state))


def as_diffusers(state: State) -> State:
    return {to_diffusers(name, levels=2): as_matrix(name, tensor) for name, tensor in state.items()}


def in_checkpoint(state: State, prefix: str) -> State:
    foreign = {"model.diffusion_model.out.0.weight": torch.ones(3), "model_ema.decay": torch.ones(1)}
    return foreign | {prefix + name: tensor for name, tensor in state.items()}


def with_discriminator(state: State) -> State:
    return {"loss.logvar": torch.zeros(1), "model_ema.decoderconv_inweight": torch.ones(2)} | state


def shuffled(state: State) -> State:
    items = list(state.items())
    random.Random(1).shuffle(items)
    return dict(items)


LAYOUTS = {
    "diffusers": as_diffusers,
    "checkpoint": lambda state: in_checkpoint(state, "first_stage_model."),
    "checkpoint, vae.": lambda state: in_checkpoint(state, "vae."),
    "diffusers in checkpoint": lambda state: in_checkpoint(as_diffusers(state), "vae."),
    "with discriminator": with_discriminator,
    "other order": shuffled,
    "not contiguous": lambda state: {k: t.transpose(0, -1).contiguous().transpose(0, -1) for k, t in state.items()},
}


@pytest.mark.parametrize("arrange", LAYOUTS.values(), ids=LAYOUTS.keys())
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_layout_does_not_matter(arrange, seed):
    state = random_state(seed)
    assert digest(arrange(state)) == digest(state)


def test_container_does_not_matter(tmp_path):
    state = random_state(0)
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": with_discriminator(state), "epoch": 3}, tmp_path / "a.ckpt")
    torch.save(in_checkpoint(state, "first_stage_model."), tmp_path / "model.ckpt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    digests = {weights_digest(open_tensors(path)) for path in tmp_path.iterdir()}
    assert digests == {digest(state)}


@pytest.mark.parametrize("stored", [torch.float16, torch.float64])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_precision_matters_to_stored_only(stored, seed):
    state = random_state(seed)
    other = {name: tensor.to(stored) for name, tensor in state.items()}
    assert digest(other).stored != digest(state).stored
    assert digest(other).fp16 == digest(state).fp16


def test_half_precision_widened_again_is_recognised():
    half = random_state(3, torch.float16)
    assert digest({name: tensor.float() for name, tensor in half.items()}).fp16 == digest(half).fp16


def test_bfloat16_is_its_own():
    brain = random_state(3, torch.bfloat16)
    widened = {name: tensor.float() for name, tensor in brain.items()}
    assert digest(brain).fp16 == digest(widened).fp16 != digest(random_state(3)).fp16
    assert digest(brain).stored != digest(widened).stored


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    index=st.integers(0, 10**6),
    value=st.floats(-100, 100, width=16, allow_subnormal=False),
)
def test_one_changed_value_changes_both(name, dtype, index, value):
    state = random_state(7, dtype)
    changed = dict(state)
    changed[name] = state[name].clone()
    flat = changed[name].view(-1)
    flat[index % flat.numel()] = value
    same = torch.equal(changed[name].half(), state[name].half())
    before, after = digest(state), digest(changed)
    assert (after.fp16 == before.fp16) == same
    assert after.stored != before.stored or same


@settings(max_examples=30)
@given(name=st.sampled_from(sorted(SHAPES)), index=st.integers(0, 10**6))
def test_change_below_half_precision_changes_stored_only(name, index):
    state = random_state(7, torch.float16)
    state = {key: tensor.float() for key, tensor in state.items()}
    changed = {key: tensor.clone() for key, tensor in state.items()}
    flat = changed[name].view(-1)
    flat[index % flat.numel()] = torch.nextafter(flat[index % flat.numel()], torch.tensor(1e9))
    assert digest(changed).stored != digest(state).stored
    assert digest(changed).fp16 == digest(state).fp16


def test_name_and_shape_matter():
    state = random_state(0)
    renamed = dict(state)
    renamed["decoder.norm_out.weight"] = renamed.pop("decoder.norm_out.bias")
    reshaped = dict(state) | {"post_quant_conv.bias": state["post_quant_conv.bias"].reshape(2, 2)}
    missing = {name: tensor for name, tensor in state.items() if name != "quant_conv.weight"}
    digests = [digest(s) for s in (state, renamed, reshaped, missing)]
    assert len({d.stored for d in digests}) == len({d.fp16 for d in digests}) == 4


@pytest.mark.parametrize(("dtype", "integer"), [(torch.float32, torch.int32), (torch.bfloat16, torch.int16)])
def test_nans_are_all_the_same(dtype, integer):
    bits = 8 * torch.empty(0, dtype=dtype).element_size()
    results = set()
    for nan in (-1, 2 ** (bits - 1) - 1):  # the sign and every payload bit set; every payload bit without the sign
        state = random_state(0, dtype)
        state["decoder.conv_out.bias"] = torch.tensor([1, nan, 2], dtype=integer).view(dtype)
        assert state["decoder.conv_out.bias"].isnan().any()
        results.add(digest(state))
    assert len(results) == 1
    assert results != {digest(random_state(0, dtype))}


def test_minus_zero_and_overflow():
    state = random_state(0)
    values = {}
    for key, value in {"zero": 0.0, "minus": -0.0, "large": 1e6, "inf": float("inf")}.items():
        state["decoder.conv_out.bias"] = torch.full((3,), value)
        values[key] = digest(state)
    assert values["zero"].fp16 != values["minus"].fp16
    assert values["large"].fp16 == values["inf"].fp16
    assert values["large"].stored != values["inf"].stored


def independent(state: State, kind: str, dtype: str, code: str) -> str:
    """The documented format, written a second time with struct only."""

    def text(s: str) -> bytes:
        return struct.pack("<I", len(s.encode())) + s.encode()

    out = text("vae-manager weights digest 1") + text(kind)
    for name in sorted(state):
        shape = state[name].shape
        out += text(name) + text(dtype) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in shape)
        out += b"".join(struct.pack("<" + code, value) for value in state[name].flatten().tolist())
    return hashlib.sha256(out).hexdigest()


def test_format_is_the_documented_one():
    state = random_state(11)
    assert digest(state) == WeightsDigest(
        independent(state, "stored", "F32", "f"), independent(state, "fp16", "F16", "e")
    )


def test_format_never_changes():
    """Digests are kept in users' presets: a change of the format needs a new version, not a new number here."""
    state = {"decoder.conv_in.weight": torch.arange(-8, 8, dtype=torch.float32).reshape(1, 4, 2, 2) / 3}
    assert digest(state).stored == "0cd0f3cc23cb6400d957fce5a2cea23e455b35cfae6b8512d68f50cfc1e07a14"
    assert digest(state).fp16 == "e7ad9958b470c3e48239ae082c9c0a493577cd65987a97813bd2c812301e29ab"


def test_large_tensors_go_through_in_chunks(monkeypatch):
    state = random_state(2)
    whole = digest(state)
    monkeypatch.setattr("vae_manager.library.digest.CHUNK", 5)
    assert digest(state) == whole


@pytest.mark.parametrize(
    "names",
    [
        ("decoder.1.weight", "decoder.3.conv.0.weight", "decoder.3.conv.0.bias"),
        ("encoder.extractors.0.init_conv.weight", "decoder.conv_in.conv.weight", "decoder.conv_in.scales"),
    ],
    ids=["taesd", "litevae"],
)
def test_other_autoencoders_have_digests_by_their_canonical_names(names):
    state = {name: torch.randn(2, 2, 3, 3) for name in names}
    assert digest(state) == digest(shuffled(state)) == digest({"loss.logvar": torch.zeros(1)} | state)
    assert digest(state) != digest(state | {names[0]: torch.zeros(2, 2, 3, 3)})


def test_integers_and_one_byte_floats():
    plain = random_state(0)
    eight = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in plain.items()}
    assert digest(eight).fp16 == digest({name: tensor.half() for name, tensor in eight.items()}).fp16
    counter = {"decoder.number": torch.tensor(3)}
    assert len({digest(plain), digest(plain | counter), digest(plain | {"decoder.number": torch.tensor(4)})}) == 3
    assert digest(plain | {"decoder.empty": torch.empty(0, 3)}) != digest(plain)


EVERY_BYTE = torch.arange(256, dtype=torch.int16).to(torch.uint8)
EVERY_TWO = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
CASES = {
    "F8_E4M3": EVERY_BYTE.view(torch.float8_e4m3fn),
    "F8_E5M2": EVERY_BYTE.view(torch.float8_e5m2),
    "BF16": EVERY_TWO.view(torch.bfloat16),
    "F16": EVERY_TWO.view(torch.float16),
    # every half, what lies beside it, and the ties between two
    "F32": torch.cat([EVERY_TWO.view(torch.float16).float().view(torch.int32) + i for i in (-1, 0, 1, 4096)]).view(
        torch.float32
    ),
    "F64": torch.cat([EVERY_TWO.view(torch.float16).double(), torch.tensor([1e300, -1e-300, 65520.0, 65519.9])]),
}


@pytest.mark.parametrize("dtype", CASES)
def test_numbers_are_rounded_as_torch_rounds_them(dtype: str):
    values = CASES[dtype]
    ours = torch.from_numpy(half_bits(bits_of(values), dtype).view(np.int16)).view(torch.float16)
    assert torch.equal(ours.isnan(), values.float().isnan())
    known = ~ours.isnan()
    theirs = values.float().half()[known]
    assert torch.equal(ours[known].view(torch.int16), theirs.view(torch.int16))
    assert set(ours[~known].view(torch.int16).tolist()) <= {0x7E00}


def test_only_the_vae_is_fetched_and_progress_is_told():
    state = in_checkpoint(random_state(0), "first_stage_model.")
    file, fetched, told = in_memory(state), [], []
    counting = TensorFile(
        file.path, file.format, file.header, lambda name: fetched.append(name) or bits_of(state[name])
    )
    weights_digest(counting, detect_layout(file.header), lambda done, total: told.append((done, total)))
    assert len(fetched) == len(SHAPES)
    assert all(name.startswith("first_stage_model.") for name in fetched)
    assert told == [(i + 1, len(SHAPES)) for i in range(len(SHAPES))]


def test_progress_can_stop_it():
    class StoppedError(Exception):
        pass

    def stop(done, total):
        raise StoppedError

    with pytest.raises(StoppedError):
        weights_digest(in_memory(random_state(0)), progress=stop)


def test_strange_types_are_refused():
    with pytest.raises(VaeFileError, match="C64"):
        digest({"decoder.conv_in.weight": torch.zeros(1, dtype=torch.complex64)})


def test_a_tiny_autoencoder_has_one_digest_in_every_layout():
    state = {name: torch.randn(2, 2, 3, 3) for name in ("1.weight", "3.conv.0.weight", "3.conv.0.bias")}
    expected = digest({f"decoder.{name}": tensor for name, tensor in state.items()})
    assert digest({f"taesd_decoder.{name}": tensor for name, tensor in state.items()}) == expected
