"""Small model files, latents, pictures and other things as public reports describe them, all made from seeds."""

from __future__ import annotations

import io
import json
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from vae_manager.codec.kinds.kl.config import KLConfig
from vae_manager.codec.kinds.kl.network import AutoencoderKL

State = dict[str, Tensor]

SMALL = KLConfig(encoder_stem=32, encoder_channels=(32, 64), decoder_channels=(32, 64))
"""Two levels are enough for every question of names."""

UNET = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}
CLIP = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)}
XL = {"conditioner.embedders.1.model.ln_final.weight": torch.ones(4)}


def small_state(seed: int = 0, config: KLConfig = SMALL) -> State:
    torch.manual_seed(seed)
    return {name: tensor.clone() for name, tensor in AutoencoderKL(config).state_dict().items()}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def as_diffusers(state: State, old: bool = False, linear: bool = True, levels: int = 2) -> State:
    new = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    attention = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"} if old else new
    out = {}
    for name, tensor in state.items():
        part = name.split(".")
        if len(part) > 3 and part[1] in ("down", "up"):
            level = part[2] if part[1] == "down" else str(levels - 1 - int(part[2]))
            inner = ["resnets", *part[4:]] if part[3] == "block" else [f"{part[1]}samplers", "0", *part[4:]]
            name = ".".join([part[0], f"{part[1]}_blocks", level, *inner])
        elif part[1] == "mid" and part[2] == "attn_1":
            kind = "group_norm" if part[3] == "norm" else attention[part[3]]
            name = f"{part[0]}.mid_block.attentions.0.{kind}.{part[-1]}"
            tensor = tensor[:, :, 0, 0].contiguous() if linear and tensor.ndim == 4 else tensor
        elif part[1] == "mid":
            name = ".".join([part[0], "mid_block", "resnets", str(int(part[2][-1]) - 1), *part[3:]])
        out[name.replace("nin_shortcut", "conv_shortcut").replace(".norm_out.", ".conv_norm_out.")] = tensor
    return out


def half_converted(state: State) -> State:
    """ldm's names, but attention under diffusers' new ones."""
    new = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    out = {}
    for name, tensor in state.items():
        part = name.split(".")
        if ".attn_1." in name and part[3] in new:
            name, tensor = (
                ".".join([*part[:3], new[part[3]], part[4]]),
                tensor.flatten(1) if tensor.ndim > 1 else tensor,
            )
        out[name] = tensor
    return out


def write_cases(folder: Path) -> list[Path]:
    """Write them all and return their paths, sorted."""
    folder.mkdir(parents=True, exist_ok=True)
    state = small_state()
    for name, tensors in {**_vaes(state), **_checkpoints(state), **_sick(state)}.items():
        save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    _pickles(folder, state)
    _headers(folder, state)
    _copies(folder)
    _texts(folder)
    _latents(folder)
    _pictures(folder)
    return sorted(path for path in folder.iterdir())


def _vaes(state: State) -> dict[str, State]:
    matrices = {n: t[:, :, 0, 0] if ".attn_1." in n and t.ndim == 4 else t for n, t in state.items()}
    in_levels = dict(state)
    for place in ("encoder.down.1.attn.0", "encoder.down.1.attn.1", *(f"decoder.up.1.attn.{i}" for i in range(3))):
        in_levels |= {f"{place}.norm.weight": torch.ones(64), f"{place}.norm.bias": torch.zeros(64)}
        for part in ("q", "k", "v", "proj_out"):
            in_levels |= {f"{place}.{part}.weight": torch.zeros(64, 64, 1, 1), f"{place}.{part}.bias": torch.zeros(64)}
    ema = {"model_ema.decay": torch.zeros(()), **{f"model_ema.{n.replace('.', '')}": t for n, t in state.items()}}
    grey = {
        n: t[:, :1] if n == "encoder.conv_in.weight" else t[:1] if "decoder.conv_out" in n else t
        for n, t in state.items()
    }
    prefixes = {f"a10-{p.strip('._')}": prefixed(state, p) for p in ("module.", "model.", "autoencoder.", "_orig_mod.")}
    return {
        "a01-ldm": state,
        "a02-linear-attention": matrices,
        "a03-diffusers": as_diffusers(state),
        "a04-diffusers-query": as_diffusers(state, old=True),
        "a05-diffusers-query-conv": as_diffusers(state, old=True, linear=False),
        "a06-half-converted": half_converted(state),
        "a07-prefix": prefixed(state, "first_stage_model."),
        "a08-prefix-twice": prefixed(state, "first_stage_model.first_stage_model."),
        "a09-prefix-vae-old": prefixed(as_diffusers(state, old=True), "vae."),
        **prefixes,
        "a11-decoder-only": {n: t for n, t in state.items() if n.startswith(("decoder.", "post_quant"))},
        "a12-no-quant-conv": {n: t for n, t in state.items() if "quant_conv" not in n},
        "a13-mixed-fp16": {n: t.half() if n.startswith("encoder") else t for n, t in state.items()},
        "a14-mixed-fp8": {n: t.to(torch.float8_e4m3fn) if t.ndim == 4 else t.bfloat16() for n, t in state.items()},
        "a14-e5m2": {n: t.to(torch.float8_e5m2) for n, t in state.items()},
        "a15-loss-and-ema": {**state, "loss.logvar": torch.zeros(()), **ema},
        "a25-attention-in-levels": in_levels,
        "a26-grey": grey,
    }


def _checkpoints(state: State) -> dict[str, State]:
    sd, baked = {**UNET, **CLIP}, prefixed(state, "first_stage_model.")
    fp8 = {n: t.to(torch.float8_e4m3fn) for n, t in baked.items()}
    return {
        "a16-checkpoint-fp16": {**sd, **{n: t.half() for n, t in baked.items()}},
        "a17-checkpoint-half-converted": {**sd, **prefixed(half_converted(state), "first_stage_model.")},
        "a18-checkpoint-diffusers": {**sd, **prefixed(as_diffusers(state), "vae.")},
        "a19-checkpoint-two-vaes": {**sd, **baked, **prefixed(small_state(9), "vae.")},
        "a20-checkpoint-no-vae": sd,
        "a21-checkpoint-xl-fp8": {**UNET, **XL, **fp8},
        "a22-checkpoint-no-prefix": {**sd, **state},
        "a23-checkpoint-decoder": {**sd, **{n: t for n, t in baked.items() if "decoder" in n}},
        "a24-checkpoint-cut": {**sd, "first_stage_model.encoder.conv_in.weight": state["encoder.conv_in.weight"]},
    }


def _sick(state: State) -> dict[str, State]:
    large, nan, hot = ({n: t.clone() for n, t in state.items()} for _ in range(3))
    large["decoder.mid.block_2.conv2.weight"][0, 0, 0, 0] = 70000.0
    nan["decoder.up.0.block.0.conv1.weight"][3, 3, 1, 1] = torch.nan
    for name in ("decoder.up.1.block.2.conv2", "decoder.up.1.block.1.conv2"):
        hot[f"{name}.weight"] *= 3e4
    zeros = {n: torch.zeros_like(t) for n, t in prefixed(state, "first_stage_model.").items()}
    return {
        "d01-too-large-for-fp16": large,
        "d02-nan": {n: t.half() for n, t in nan.items()},
        "d03-zeroed": {**UNET, **CLIP, **zeros},
        "d04-activations": hot,
    }


def _pickles(folder: Path, state: State) -> None:
    lightning = {"epoch": 3, "pytorch-lightning_version": "1.4.2", "optimizer_states": [{"state": {}}]}
    documents = {
        "b01-state_dict.ckpt": {"state_dict": state, **lightning},
        "b02-model-and-optimizer.pt": {"model": state, "optimizer": {"state": {}, "param_groups": []}},
        **{f"b03-{key}.pt": {key: state, "step": 3} for key in ("vae", "ema", "model_state_dict")},
        "b04-twice.ckpt": {"state_dict": {"state_dict": state}},
        "b06-parameters.pt": {name: torch.nn.Parameter(tensor) for name, tensor in state.items()},
        "b07-half.bin": {name: tensor.half() for name, tensor in as_diffusers(state).items()},
        "b08-fp8.pt": {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()},
        "b09-module.pt": {"state_dict": prefixed(state, "module.")},
        "b14-sparse.pt": {**state, "decoder.conv_in.weight": torch.eye(3).to_sparse()},
        "b15-meta.pt": {**state, "decoder.conv_in.weight": torch.empty(3, device="meta")},
        "b16-nothing.pt": {},
        "b17-list.pt": [1, 2, 3],
    }
    for name, document in documents.items():
        torch.save(document, folder / name)
    torch.save(state, folder / "b05-legacy.pt", _use_new_zipfile_serialization=False)
    (folder / "b10-class-and-scalar.ckpt").write_bytes(_lightning(state, by_class=True))
    (folder / "b12-scalar.ckpt").write_bytes(_lightning(state, by_class=False))
    cuda = (b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
    (folder / "b13-on-cuda.ckpt").write_bytes(_repacked((folder / "b01-state_dict.ckpt").read_bytes(), *cuda))


def _repacked(data: bytes, old: bytes, new: bytes) -> bytes:
    """A checkpoint's zip with something else in its pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            content = source.read(entry)
            is_pickle = entry.filename.endswith("data.pkl")
            target.writestr(entry.filename, content.replace(old, new) if is_pickle else content)
    return out.getvalue()


def _lightning(state: State, by_class: bool) -> bytes:
    """What Lightning 1.4 left in Stable Diffusion's and its VAEs' pickles: a callback's class, and a numpy number."""
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint")
    modules = {name: types.ModuleType(name) for name in names}
    callback = type("ModelCheckpoint", (), {"__module__": names[-1]})
    modules[names[-1]].ModelCheckpoint = callback  # type: ignore[attr-defined]
    kept = {name: sys.modules.get(name) for name in names}
    sys.modules.update(modules)
    try:
        score = {"best_model_score": np.float64(0.5), "best_model_path": "x.ckpt"}
        buffer = io.BytesIO()
        torch.save({"callbacks": {callback if by_class else "ModelCheckpoint": score}, "state_dict": state}, buffer)
    finally:
        for name, module in kept.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})
    return _repacked(buffer.getvalue(), b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")


def _headers(folder: Path, state: State) -> None:
    head, data = {}, b""
    for name, tensor in state.items():
        piece = tensor.contiguous().numpy().tobytes()
        head[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    first = next(iter(head.values()))["data_offsets"][1]
    hole = {
        n: {**e, "data_offsets": [x + 64 * (i > 0) for x in e["data_offsets"]]} for i, (n, e) in enumerate(head.items())
    }
    scale = {"te.w.scale": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [len(data), len(data) + 4]}}
    spaced = {"__metadata__": {"modelspec.title": "x\x1b[2J", "format": "pt"}, **head}
    many = {
        f"decoder.up.{i}.block.{j}.conv1.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        for i in range(20)
        for j in range(20)
    }

    def raw(name: str, header: object, body: bytes = b"", pad: int = 0) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
        text += b" " * pad
        (folder / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)

    raw("c01-metadata-numbers", {"__metadata__": {"step": 12, "nested": {"a": 1}}, **head}, data)
    raw("c02-metadata-last", {**head, "__metadata__": {"format": "pt"}}, data)
    raw("c03-metadata-null", {"__metadata__": None, **head}, data)
    raw("c04-padded-odd", head, data, pad=3)
    raw("c05-padded-much", head, data, pad=100_001)
    raw("c06-trailing-bytes", head, data + b"\0" * 1000)
    raw("c07-hole", hole, data[:first] + b"\0" * 64 + data[first:])
    raw("c08-unknown-dtype", {**head, **scale}, data + b"\0" * 4)
    raw("c09-metadata-only", b'{},"__metadata__":{"key":"value"}}')
    raw("c22-many-levels", many)
    raw(
        "c23-huge-numbers",
        b'{"decoder.conv_in.weight":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}',
        b"\0" * 4,
    )
    raw("c24-deep", b"[" * 50_000)
    raw("c25-scale-nan", {"__metadata__": {"scale_factor": "nan", "shift_factor": "inf"}, **head}, data)
    raw(
        "c26-five-sides",
        {"decoder.conv1.weight": {"dtype": "F32", "shape": [1, 1, 1, 1, 1], "data_offsets": [0, 4]}},
        b"\0" * 4,
    )
    raw("e01-spaces", json.dumps(spaced).encode(), data)
    raw("e02-indented", json.dumps(spaced, indent=1).encode(), data)
    raw("e03-compact", spaced, data)
    raw("e04-sd1", {"__metadata__": {"scale_factor": "0.18215"}, **head}, data)


def _copies(folder: Path) -> None:
    ldm = (folder / "a01-ldm.safetensors").read_bytes()
    half = list(as_diffusers(small_state()).items())
    save_file(dict(half[:60]), folder / "c15-00001-of-00002.safetensors")
    save_file(dict(half[60:]), folder / "c15-00002-of-00002.safetensors")
    for name, data in {
        "c13-truncated.safetensors": ldm[:-1000],
        "c14-empty.safetensors": b"",
        "c16-gguf.safetensors": b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
        "c16-vae.gguf": b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
        "c17-ae.sft": ldm,
        "c18-safetensors-named.ckpt": ldm,
        "c19-safetensors-named.vae.pt": (folder / "a03-diffusers.safetensors").read_bytes(),
        "c20-pickle-named.safetensors": (folder / "b01-state_dict.ckpt").read_bytes(),
        "c21-partial.safetensors.crdownload": ldm[:5000],
        "c27-ends-in-the-header.safetensors": ldm[:500],
        "f05-gguf-named.pt": b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
        "f06-cut.ckpt": (folder / "b01-state_dict.ckpt").read_bytes()[:5000],
        "f07-code.pt": b"cos\nsystem\n(S'exit 3'\ntR.",
        "h01-\x1b[31mred.safetensors": ldm,
        "h02-\udcff.safetensors": ldm,
    }.items():
        (folder / name).write_bytes(data)


def _texts(folder: Path) -> None:
    page = "<!DOCTYPE html><html><body>Sign in</body></html>"
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 334641190\n"
    for name, text in {
        "c10-lfs.safetensors": pointer,
        "c11-html.safetensors": page,
        "c12-json-error.safetensors": '{"error":"Unauthorized","message":"log in"}',
        "c15-index.safetensors.index.json": '{"weight_map": {"a": "c15-00001-of-00002.safetensors"}}',
        "f01-html.vae.pt": page,
        "f02-lfs.ckpt": pointer,
        "f03-json-error.pt": '{"error":"Unauthorized"}',
        "j01-presets.json": '{"version": 1, "presets": [{"checkpoint": {"name": "x"}, "color_strength": 1e999}, 7]}',
        "j02-rules.json": '{"rules": [{"vae": 7}]}',
        "j03-half.json": '{"presets": [',
        "j04-nan.json": '{"matrix": [[NaN, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}',
        "j05-deep.json": "[" * 100_000,
        "j06-map.json": '{"matrix": [[0.9, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0.9, 0.01]]}',
    }.items():
        (folder / name).write_text(text)


def _latents(folder: Path) -> None:
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    save_file({"latent": z}, folder / "g00-latent.safetensors")
    save_file({"latent_tensor": z, "latent_format_version_0": torch.tensor([])}, folder / "g01-comfyui.latent")
    np.savez(folder / "g02-sd-scripts.npz", latents=z[0].numpy(), original_size=np.array([32, 32]))
    np.save(folder / "g03-latent.npy", z.numpy())
    save_file({"latent": z}, folder / "g04-scale.safetensors", {"scale_factor": "nan"})
    save_file({"latent": z}, folder / "g05-sdxl.safetensors", {"family": "sdxl", "scale_factor": "0.13025"})
    save_file({"latent": z[0, 0]}, folder / "g06-flat.safetensors")
    save_file({"latent": torch.full_like(z, torch.nan)}, folder / "g07-nan.safetensors")


def _pictures(folder: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 24).astype(np.uint8), (16, 1))
    color = Image.fromarray(np.stack([ramp, ramp[:, ::-1], ramp // 2], -1))
    color.save(folder / "p01.png")
    color.save(folder / "p02.jpg")
    color.save(folder / "p03.webp", lossless=True)
    Image.fromarray(ramp.astype(np.uint16) * 257).save(folder / "p04-sixteen.png")
    Image.fromarray(ramp.astype(np.float32)).save(folder / "p05-float.tif")
    color.convert("CMYK").save(folder / "p06-cmyk.jpg")
    color.save(folder / "p07.gif", save_all=True, append_images=[color.rotate(180)])
    color.convert("RGBA").save(folder / "p08-profile.png", icc_profile=b"no profile")
    (folder / "p09-eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    (folder / "p10-cut.png").write_bytes((folder / "p01.png").read_bytes()[:80])
    Image.new("1", (1, 1)).save(folder / "p11-dot.png")
