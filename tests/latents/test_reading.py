"""Which architecture a header is of."""

from __future__ import annotations

import pytest

from tests.latents.models import MODELS, Shapes
from vae_manager.latents.architectures import ARCHITECTURES, BY_ID
from vae_manager.latents.evidence import Evidence
from vae_manager.latents.reading import architecture_of
from vae_manager.latents.spaces import SPACES
from vae_manager.library.headers import TensorInfo


def table(shapes: Shapes, dtype: str = "F16", prefix: str = "") -> dict[str, TensorInfo]:
    return {prefix + name: TensorInfo(dtype, shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_known(name: str, prefix: str) -> None:
    found = architecture_of(table(MODELS[name], prefix=prefix))
    assert found is not None and found.architecture.id == name.split()[0]
    assert found.prefix == prefix


def packed(shapes: Shapes) -> dict[str, TensorInfo]:
    """As bitsandbytes leaves a model: every matrix a column of bytes, two numbers in each."""
    tensors = table(shapes)
    for name, info in tensors.copy().items():
        if len(info.shape) == 2 and name.endswith(".weight"):
            tensors[name] = TensorInfo("U8", (info.count // 2, 1))
            tensors[f"{name}.absmax"] = TensorInfo("F32", (info.count // 64,))
            tensors[f"{name}.quant_state.bitsandbytes__nf4"] = TensorInfo("U8", (100,))
    return tensors


@pytest.mark.parametrize("name", [name for name in MODELS if "diffusers" not in name])
def test_a_packed_model_is_of_the_same_space(name: str) -> None:
    found = architecture_of(packed(MODELS[name]))
    assert found is not None and found.architecture.space == BY_ID[name.split()[0]].space


def test_what_only_names_tell_is_told_so() -> None:
    whole = architecture_of(table(MODELS["sdxl"]))
    names = architecture_of(packed(MODELS["sdxl"]))
    assert whole is not None and whole.evidence is Evidence.SHAPES
    assert names is not None and names.evidence is Evidence.NAMES


def test_shapes_that_contradict_the_names_leave_a_model_unknown() -> None:
    later = MODELS["flux1"] | {"img_in.weight": (3072, 256), "final_layer.linear.weight": (256, 3072)}
    assert architecture_of(table(later)) is None


def test_a_lora_is_no_model() -> None:
    shapes = {f"diffusion_model.{name[:-7]}.lora_A.weight": (16, 64) for name in MODELS["flux1"] if "blocks" in name}
    assert architecture_of(table(shapes)) is None


def test_no_text_encoder_is_a_model() -> None:
    shapes = {"model.layers.0.mlp.down_proj.weight": (2560, 9728), "model.embed_tokens.weight": (151936, 2560)}
    assert architecture_of(table(shapes)) is None


def test_every_architecture_paints_in_a_space_that_there_is() -> None:
    assert {row.space for row in ARCHITECTURES} <= set(SPACES)
    assert len(BY_ID) == len(ARCHITECTURES)


def test_mugen_paints_on_the_channels_that_flux2_packs() -> None:
    assert BY_ID["flux2"].model_channels == 128
    assert BY_ID["mugen"].model_channels == 32


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("cond_stage_model.transformer.x", "sd1"),
        ("conditioner.embedders.0.x", "sdxl"),
        ("model.diffusion_model.joint_blocks.0.x", "sd3"),
        ("double_blocks.0.x", "flux1"),
    ],
)
def test_one_name_is_enough_where_nothing_contradicts_it(name: str, architecture: str) -> None:
    found = architecture_of(table({name: (1,), "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)}))
    assert found is not None and found.architecture.id == architecture
    assert found.evidence is Evidence.NAMES
