"""Every model that people run, in every container: which latent space it paints in, and which VAE it gets.

The files have the true names and shapes and no numbers. `ROWS` × `CONTAINERS` is the matrix: each mark of the table in
the documentation is a file of `_FILES`, which is asked for its architecture, for the VAE that Automatic takes out of a
folder of fourteen, and for each of those whether it may be used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from tests.codec.causal_reference import WanVAE, qwen21, wan22
from tests.codec.taehv_reference import random_weights
from tests.latents.files import (
    Table,
    behind,
    fp4,
    fp8_scaled,
    halves,
    int8,
    mxfp8,
    nf4,
    nvfp4,
    of_a_later_type,
    write_gguf,
    write_pickle,
    write_safetensors,
)
from tests.latents.models import DIFFUSERS, MODELS, SVDQ, Shapes
from vae_manager.codec.kinds.kl.config import KLConfig, expected_shapes
from vae_manager.codec.kinds.tiny.network import TinyConfig, make_decoder
from vae_manager.latents.architectures import ARCHITECTURES, BY_ID
from vae_manager.latents.spaces import SPACES
from vae_manager.library.files import vae_file
from vae_manager.library.hashing import KIND, HashCache, stamp_of
from vae_manager.library.known import known_vaes
from vae_manager.selection.checkpoint import Checkpoint, FactsCache, open_checkpoint
from vae_manager.selection.choose import Wishes, choose
from vae_manager.selection.names import VaeIndex
from vae_manager.store import Store, file_key

DOCUMENT = Path(__file__).parent.parent / "docs" / "kinds.md"

# --- the folder of VAEs


def _kl(channels: int, quant: bool = True) -> Shapes:
    return dict(
        expected_shapes(
            KLConfig(
                latent_channels=channels,
                hidden_latent_channels=channels,
                quant_conv=quant,
                post_quant_conv=quant,
            )
        )
    )


def _module(module: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@lru_cache
def _wan21() -> Shapes:
    with torch.device("meta"):
        return _module(WanVAE((96, 192, 384, 384), latent=16, blocks=2))


def _tiny(channels: int) -> Shapes:
    with torch.device("meta"):
        return _module(make_decoder(TinyConfig(channels)))


@lru_cache
def _wan22() -> Shapes:
    with torch.device("meta"):
        return _module(wan22())


@lru_cache
def _qwen21() -> Shapes:
    with torch.device("meta"):
        return _module(qwen21())


@lru_cache
def _taehv(latent: int, square: int) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in random_weights(latent, square).items()}


_BN = {"bn.running_mean": (128,), "bn.running_var": (128,)}

VAES: dict[str, tuple[str, Callable[[], Shapes]]] = {
    "vae-ft-mse-840000-ema-pruned": ("vae-ft-mse-840000", lambda: _kl(4)),
    "kl-f8-anime2": ("kl-f8-anime2", lambda: _kl(4)),
    "sdxl_vae": ("sdxl-vae", lambda: _kl(4)),
    "EQ-SDXL-VAE": ("", lambda: _kl(4)),
    "sd3_vae": ("sd35-vae", lambda: _kl(16, quant=False)),
    "ae": ("flux1-ae", lambda: _kl(16, quant=False)),
    "flux2-vae": ("flux2-vae", lambda: _kl(32) | _BN),
    "wan_2.1_vae": ("wan2.1-vae", _wan21),
    "qwen_image_vae": ("qwen-image-vae", _wan21),
    "wan2.2_vae": ("wan2.2-vae", _wan22),
    "qwen_image_2.1_vae": ("", _qwen21),
    "taesd_decoder": ("taesd", lambda: _tiny(4)),
    "taesdxl_decoder": ("taesdxl", lambda: _tiny(4)),
    "taef1_decoder": ("taef1", lambda: _tiny(16)),
    "taew2_1": ("taew2.1", lambda: _taehv(16, 1)),
    "taew2_2": ("", lambda: _taehv(48, 2)),
}
"""Stem → the known VAE whose published hash it has, and its tensors. Of an EQ-VAE and of Qwen-Image 2.1's no hash was
published."""

FITS = {
    "sd1": {"vae-ft-mse-840000-ema-pruned", "kl-f8-anime2", "taesd_decoder", "EQ-SDXL-VAE"},
    "sdxl": {"sdxl_vae", "EQ-SDXL-VAE", "taesdxl_decoder"},
    "sd3": {"sd3_vae"},
    "flux1": {"ae", "taef1_decoder"},
    "flux2": {"flux2-vae"},
    "wan21": {"wan_2.1_vae", "qwen_image_vae", "taew2_1"},
    "wan22": {"wan2.2_vae", "taew2_2"},
    "qwen21": {"qwen_image_2.1_vae"},
}
"""Space → what a user who asks for it may have. Nothing but its name, which is a guess, says that an EQ-VAE is SDXL's:
its shape is SD 1's too."""

USUAL = {
    "sd1": "vae-ft-mse-840000-ema-pruned",
    "sdxl": "sdxl_vae",
    "sd3": "sd3_vae",
    "flux1": "ae",
    "flux2": "flux2-vae",
    "wan21": "qwen_image_vae",
    "wan22": "wan2.2_vae",
    "qwen21": "qwen_image_2.1_vae",
}
"""Space → what Automatic takes of them."""


@pytest.fixture(scope="module")
def vaes(tmp_path_factory: pytest.TempPathFactory) -> VaeIndex:
    folder, store, files = tmp_path_factory.mktemp("VAE"), Store(None), []
    published = {vae.id: vae.files[0].sha256 for vae in known_vaes() if vae.files}
    for stem, (id_, shapes) in VAES.items():
        path = write_safetensors(folder / f"{stem}.safetensors", halves(shapes()))
        file = vae_file(path)
        files.append(file)
        store.put(KIND, file_key(path), stamp_of(file), published.get(id_, "0" * 63 + str(len(files) % 10)))
    return VaeIndex(tuple(files), HashCache(store))


# --- the files of models


@dataclass(frozen=True)
class File:
    """One file of a model."""

    model: str
    container: str
    write: Callable[[Path], Path]
    baked: bool = False
    packed: bool = False
    """Whether several numbers lie in one, so that shapes are not the layers' own."""

    @property
    def architecture(self) -> str:
        return self.model.split()[0]

    @property
    def vae(self) -> str | None:
        """What Automatic must take: a stem, 'baked', or None: it is left to the WebUI."""
        if self.baked:
            return "baked"
        return "wan_2.1_vae" if self.architecture == "wan21" else USUAL.get(BY_ID[self.architecture].space)


CONTAINERS = {
    "bare": "safetensors of the model alone, fp16",
    "prefixed": "the same behind `model.diffusion_model.`, `diffusion_model.`, `transformer.`, `net.` …",
    "all-in-one": "with text encoders and a VAE",
    "fp8": "fp8 with scales; mxfp8 (F8_E8M0 scales)",
    "4 bits": "NF4, NVFP4, F4, int8, SVDQ",
    "GGUF": "Q4_K",
    "pickle": "a zip of a pickle, `.ckpt`",
    "diffusers": "a folder's `unet/` or `transformer/diffusion_pytorch_model.safetensors`",
    "later type": "a number type that came after this program",
}

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "unet.", "model.", "net.", "_orig_mod.")

_QUANTISERS = {"fp8": (fp8_scaled, mxfp8), "4 bits": (nf4, nvfp4, fp4, int8), "later type": (of_a_later_type,)}

_TEXT = {
    "sd1": "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    "sdxl": "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight",
}
"""Where all-in-one files keep their text encoders."""

BAKED = {
    "sd1": lambda: _kl(4),
    "sdxl": lambda: _kl(4),
    "sd3": lambda: _kl(16, quant=False),
    "flux1": lambda: _kl(16, quant=False),
    "flux2": lambda: _kl(32) | _BN,
    "wan21": _wan21,
    "wan22": _wan22,
    "qwen21": _qwen21,
}


def _beside(model: str) -> Table:
    """What all-in-one files hold beside the model: a text encoder and a VAE, in the places that are usual."""
    space = BY_ID[model.split()[0]].space
    text = _TEXT.get(space, "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight")
    inner = BAKED[space]() if space in BAKED else {"decoder.somewhere.weight": (8, 8, 3, 3, 3)}
    place = "vae." if space not in _TEXT else "first_stage_model."
    return {text: ("F16", (64, 64)), **behind(place, halves(inner))}


def _all_in_one(model: str, shapes: Shapes) -> Table:
    return behind("model.diffusion_model.", halves(shapes)) | _beside(model)


def _another_whole(model: str, shapes: Shapes, turn: int) -> File:
    """An all-in-one file that is no plain safetensors file: quantised, a pickle, or stable-diffusion.cpp's."""
    beside = _beside(model)
    if turn % 4 == 0:
        whole = _all_in_one(model, shapes)
        return File(model, "all-in-one", lambda path: write_pickle(path.with_suffix(".ckpt"), whole))
    if turn % 4 == 1:
        names = behind("model.diffusion_model.", halves(shapes)) | beside
        inner = {name: shape for name, (_, shape) in names.items()}
        return File(model, "all-in-one", lambda path: write_gguf(path.with_suffix(".gguf"), inner, flat=False))
    quantise = (fp8_scaled, nf4)[turn % 4 - 2]
    file = _file(model, "all-in-one", behind("model.diffusion_model.", quantise(shapes)) | beside)
    return replace(file, packed=quantise is nf4)


def _file(model: str, container: str, table: Table) -> File:
    return File(model, container, lambda path: write_safetensors(path.with_suffix(".safetensors"), table))


def _files_of(model: str, shapes: Shapes, turn: int) -> list[File]:
    """The files of one model; which prefix and which quantiser goes round, so that each is met by many models."""
    if model in DIFFUSERS:

        def folder(path: Path) -> Path:
            return write_safetensors(
                path / DIFFUSERS[model] / "diffusion_pytorch_model.safetensors", halves(shapes, "BF16")
            )

        return [File(model, "diffusers", folder)]
    if model in SVDQ:
        return [_file(model, "4 bits", halves(shapes))]
    whole = _all_in_one(model, shapes)
    found = [
        _file(model, "bare", halves(shapes)),
        _file(model, "prefixed", behind(PREFIXES[turn % len(PREFIXES)], halves(shapes, "BF16"))),
        replace(_file(model, "all-in-one", whole), baked=True),
        replace(_another_whole(model, shapes, turn), baked=True),
        File(model, "GGUF", lambda path: write_gguf(path.with_name(f"{path.name}-Q4_K_S.gguf"), shapes)),
        File(
            model,
            "pickle",
            lambda path: write_pickle(
                path.with_suffix(".ckpt"), behind("model.diffusion_model." if turn % 2 else "", halves(shapes))
            ),
        ),
    ]
    for container, ways in _QUANTISERS.items():
        quantise = ways[turn % len(ways)]
        prefix = ("", "model.diffusion_model.")[turn // 2 % 2]
        file = _file(model, container, behind(prefix, quantise(shapes)))
        found.append(replace(file, packed=quantise in (nf4, nvfp4)))
    return found


FILES = [file for turn, (model, shapes) in enumerate(MODELS.items()) for file in _files_of(model, shapes, turn)]


@pytest.fixture(scope="module")
def cache() -> FactsCache:
    """What the headers of the VAEs say, read once."""
    return FactsCache()


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.model}, {file.container}")
def test_a_file_is_known_and_gets_its_vae(file: File, tmp_path: Path, vaes: VaeIndex, cache: FactsCache) -> None:
    path = file.write(tmp_path / "a model")  # its name tells nothing
    checkpoint = open_checkpoint(path, hashes=vaes.hashes, cache=cache)
    _knows(file, checkpoint)
    _chooses(file, checkpoint, vaes)
    _passes_and_refuses(file, checkpoint, vaes)


def _knows(file: File, checkpoint: Checkpoint) -> None:
    architecture = BY_ID[file.architecture]
    found = checkpoint.facts.architecture
    # what tells a variant may lie in a layer that is packed; the space is what has to match
    assert found == architecture.id or (file.packed and BY_ID[found].space == architecture.space)
    assert checkpoint.space is SPACES[architecture.space]
    assert checkpoint.facts.has_vae is file.baked


def _chooses(file: File, checkpoint: Checkpoint, vaes: VaeIndex) -> None:
    decision = choose(Wishes(checkpoint=checkpoint), vaes)
    got = decision.vae.stem if decision.vae else "baked" if decision.kind == "baked" else None
    assert got == file.vae, decision.reason
    assert not decision.warnings


def _passes_and_refuses(file: File, checkpoint: Checkpoint, vaes: VaeIndex) -> None:
    fits = FITS.get(BY_ID[file.architecture].space, set())
    assert {vae.stem for vae in vaes.files if checkpoint.misfit(vae) is None} == fits
    # also for whom other families' are allowed, as long as nothing can come of it
    assert checkpoint.space is not None
    channels, topology = checkpoint.space.channels, checkpoint.space.topology
    for vae in vaes.files:
        facts = checkpoint.vae_facts(vae)
        kinds = {SPACES[space].topology for space in facts.latents.firm}
        possible = facts.channels == channels and topology in kinds
        assert (checkpoint.misfit(vae, allow_other=True) is None) == possible, vae.name


def test_automatic_takes_no_vae_that_is_for_models_of_its_own(tmp_path: Path) -> None:
    """An EQ-VAE whose metadata say that it is SDXL's is no VAE for whichever SDXL model."""
    files = []
    for stem in ("An EQ VAE", "some VAE"):
        path = write_safetensors(tmp_path / f"{stem}.safetensors", halves(_kl(4)), {"scale_factor": "0.13025"})
        files.append(vae_file(path))
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "x.safetensors", halves(MODELS["sdxl"])))
    assert choose(Wishes(checkpoint=checkpoint), files).vae == files[1]
    assert choose(Wishes(checkpoint=checkpoint), files[:1]).vae is None
    assert choose(Wishes(checkpoint=checkpoint, panel="An EQ VAE"), files).vae == files[0]


# --- the documentation


TITLE = "| model | latent space | Automatic | " + " | ".join(CONTAINERS) + " |"


def table() -> str:
    """The rows for the documentation."""
    lines = [TITLE, "|" + "---|" * (3 + len(CONTAINERS))]
    for architecture in ARCHITECTURES[::-1]:
        files = [file for file in FILES if file.architecture == architecture.id]
        vae = next((file.vae for file in files if not file.baked), None) or "left to the WebUI"
        there = {file.container for file in files}
        marks = ("✓" if container in there else "–" for container in CONTAINERS)
        lines.append(f"| {architecture.title} | {architecture.space} | {vae} | " + " | ".join(marks) + " |")
    return "\n".join(lines)


def counted() -> str:
    return f"{len(FILES)} files of {len({file.architecture for file in FILES})} architectures, {len(VAES)} VAEs"


def test_every_architecture_is_asked() -> None:
    assert {file.architecture for file in FILES} == set(BY_ID)


def test_the_documentation_has_this_table() -> None:
    """`python -m tests.test_models` prints it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert table() in text and counted() in text, "docs/kinds.md differs from the tests"
    assert all(f"*{name}*: {what}" in " ".join(text.split()) for name, what in CONTAINERS.items())


if __name__ == "__main__":
    print(table(), counted(), sep="\n")
