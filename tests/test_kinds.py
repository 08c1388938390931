"""Every kind of VAE that the field has: recognised, decoded, encoded and streamed, on files of the true topology.

The weights are random, the shapes are the published ones, and the pictures are small. `KINDS` is the table: each row
is one test, and `table()` writes the rows that stand in the documentation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.codec import taehv_reference
from tests.codec.causal_reference import WanVAE, flattened, qwen21, wan22
from vae_manager.codec.build import Autoencoder
from vae_manager.codec.kinds.kl.config import KLConfig
from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.codec.kinds.litevae.config import published_config, read_config, size_of
from vae_manager.codec.kinds.litevae.network import LiteVAE
from vae_manager.codec.kinds.open_litevae.network import OpenLiteVAE, published_open_config
from vae_manager.codec.kinds.tiny.network import TinyConfig, build_taesd, make_decoder, make_encoder, variants
from vae_manager.codec.streaming import stream_decode, stream_encode
from vae_manager.codec.whole import decode, encode, latent_of
from vae_manager.errors import VaeFileError
from vae_manager.library.files import vae_file
from vae_manager.library.hashing import KIND, HashCache, stamp_of
from vae_manager.library.identify import identify
from vae_manager.library.known import by_name, known_vaes
from vae_manager.library.report import report
from vae_manager.library.state import load_state
from vae_manager.selection.checkpoint import FactsCache
from vae_manager.store import Store, file_key

DOCUMENTS = [Path(__file__).parent.parent / name for name in ("docs/kinds.md", "README.md")]

KL4 = KLConfig()
KL16 = replace(KL4, latent_channels=16, hidden_latent_channels=16, quant_conv=False, post_quant_conv=False)
KL32 = replace(KL4, latent_channels=32, hidden_latent_channels=32)
SMALL_DECODER = replace(KL32, decoder_channels=(96, 192, 384, 384))

TAE8 = TinyConfig()
TINY: dict[str, tuple[TinyConfig, TinyConfig]] = {
    "taesd": (TAE8, TAE8),
    "taesd16": (replace(TAE8, latent_channels=16), replace(TAE8, latent_channels=16)),
    "taef2": (replace(TAE8, latent_channels=32, pool=True), replace(TAE8, latent_channels=32, pool=True)),
    "taesana": (
        TinyConfig(32, (64, 64, 64, 64), (1, 3, 3, 3), (32, 64)),
        TinyConfig(32, (64, 64, 64, 64, 128, 256), (1, 3, 3, 3, 3, 3)),
    ),
}


@dataclass(frozen=True)
class Kind:
    """One row: a kind of VAE and what can be done with it."""

    name: str
    topology: str
    """'KL-f8, 4 channels' …: rows of one topology share one file."""
    by: str
    """How it is recognised."""
    known: tuple[str, ...] = ()
    """Ids of the known VAEs that are of this kind."""
    family: str = "unknown"
    """What the tensors alone say."""
    decodes: bool = True
    encodes: bool = True
    tiled: bool = True


_HASH = "sha256, name"
_TINY = "shape, sha256, name"

KINDS = (
    Kind("EMA (vae-ft-ema-560000)", "kl4", _HASH, ("vae-ft-ema-560000",)),
    Kind("MSE (vae-ft-mse-840000)", "kl4", _HASH, ("vae-ft-mse-840000",)),
    Kind("Stable Diffusion 1.5 original", "kl4", _HASH, ("sd15-original",)),
    Kind("NAI, Anything, OrangeMixs", "kl4", _HASH, ("nai-anime",)),
    Kind("kl-f8-anime", "kl4", _HASH, ("kl-f8-anime",)),
    Kind("kl-f8-anime2", "kl4", _HASH, ("kl-f8-anime2",)),
    Kind("Color101, ClearVAE, blessed2", "kl4", _HASH, ("color101", "clearvae-v2.3", "blessed2")),
    Kind("SDXL", "kl4", _HASH + ", latents", ("sdxl-vae", "sdxl-vae-fp16-fix", "xlvaec-c9")),
    Kind("Stable Diffusion 3", "kl16", _HASH, ("sd35-vae",)),
    Kind("Flux.1", "kl16", _HASH, ("flux1-ae",)),
    Kind("Flux.2", "kl32", "shape, " + _HASH, ("flux2-vae",), "flux2"),
    Kind("Flux.2 with the small decoder", "small", "shape, " + _HASH, ("flux2-small-decoder",), "flux2"),
    Kind("your own KL-f8", "kl4", "shape, metadata, latents"),
    Kind("TAESD, TAESDXL", "taesd", _TINY, ("taesd", "taesdxl"), "taesd"),
    Kind("TAESD3, TAEF1", "taesd16", _TINY, ("taesd3", "taef1"), "taesd"),
    Kind("TAEF2", "taef2", _TINY, ("taef2",), "taesd"),
    Kind("TAESANA", "taesana", _TINY, ("taesana",), "taesd"),
    *(Kind(f"LiteVAE-{size}", f"litevae-{size}", "shape", (), "litevae", tiled=False) for size in "SBML"),
    *(
        Kind(
            f"open-litevae-{size}",
            f"open-litevae-{size}",
            "shape, name" if size == "B" else "shape",
            ("olitevae-b-f8c12",) if size == "B" else (),
            "litevae",
            tiled=False,
        )
        for size in "SBML"
    ),
    Kind(
        "Wan 2.1, Qwen-Image",
        "wan",
        "shape, sha256, name",
        ("wan2.1-vae", "qwen-image-vae"),
        "wan",
    ),
    Kind("Wan 2.1 upscalers (12 channels)", "wan-up", "shape, sha256, name", ("wan2.1-upscale2x",), "wan"),
    Kind("Qwen2D", "qwen2d", "shape, name", ("qwen2d-vae",), "wan"),
    Kind("Wan 2.2", "wan22", "shape, sha256, name", ("wan2.2-vae",), "wan"),
    Kind("Qwen-Image 2.1 (RGBA)", "qwen21", "shape, name", (), "qwen21"),
    Kind("TAEW2.1, LightTAE", "taew21", "shape, sha256, name", ("taew2.1", "lighttae-wan2.1"), "taesd"),
    Kind("TAEW2.2", "taew22", "shape, name", ("taew2.2",), "taesd"),
)

TITLE = "| kind | recognised by | decodes | encodes | tiled |"


def table() -> str:
    """The rows for the documentation."""
    mark = {True: "✓", False: "–"}
    lines = [TITLE, "|---|---|---|---|---|"]
    for kind in KINDS:
        lines.append(f"| {kind.name} | {kind.by} | " + " | ".join(mark[x] for x in _claims(kind)) + " |")
    return "\n".join(lines)


def _claims(kind: Kind) -> tuple[bool, bool, bool]:
    return kind.decodes, kind.encodes, kind.tiled


# --- files of the true topology


def _random(module: nn.Module) -> dict[str, Tensor]:
    """Random weights, small where a sum over many would overflow, gains about 1."""
    torch.manual_seed(0)
    state = {}
    for name, tensor in module.state_dict().items():
        if tensor.ndim > 1:
            state[name] = torch.empty(tensor.shape, device="cpu").normal_(0, tensor[0].numel() ** -0.5).half()
        else:
            state[name] = torch.full(tensor.shape, 1.0 if name.endswith("weight") else 0.01, dtype=torch.float16)
    return state


def _kl(config: KLConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        module = AutoencoderKL(config)
    return _random(module)


def _flux2(config: KLConfig) -> dict[str, Tensor]:
    """Flux.2 keeps the statistics of its latents, four of a 2×2 patch together, beside the autoencoder."""
    bn = {"running_mean": torch.zeros(128), "running_var": torch.ones(128), "num_batches_tracked": torch.tensor(0)}
    return {**_kl(config), **{f"bn.{name}": tensor for name, tensor in bn.items()}}


def _tiny(name: str) -> dict[str, Tensor]:
    encoder, decoder = TINY[name]
    with torch.device("meta"):
        halves = make_encoder(encoder), make_decoder(decoder)
    parts = [
        {f"{half}.{key}": t for key, t in _random(module).items()}
        for half, module in zip(("encoder", "decoder"), halves, strict=True)
    ]
    return parts[0] | parts[1]


def _lite(size: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        module = LiteVAE(published_config(size, 4))
    return _random(module)


def _open_lite(size: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        module = OpenLiteVAE(published_open_config(size))
    return _random(module)


def _causal(make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    with torch.device("meta"):
        module = make()
    state = _random(module)
    return {name: torch.ones_like(t) if name.endswith("gamma") else t for name, t in state.items()}


def _wan(out: int = 3) -> dict[str, Tensor]:
    return _causal(lambda: WanVAE((96, 192, 384, 384), latent=16, blocks=2, out=out))


def _taehv(latent: int, square: int) -> dict[str, Tensor]:
    return {name: tensor.half() for name, tensor in taehv_reference.random_weights(latent, square).items()}


TOPOLOGIES: dict[str, Callable[[], dict[str, Tensor]]] = {
    "kl4": lambda: _kl(KL4),
    "kl16": lambda: _kl(KL16),
    "kl32": lambda: _flux2(KL32),
    "small": lambda: _flux2(SMALL_DECODER),
    "wan": _wan,
    "wan-up": lambda: _wan(12),
    "qwen2d": lambda: flattened(_wan(), 2),
    "wan22": lambda: _causal(lambda: wan22(4)),
    "qwen21": lambda: _causal(lambda: qwen21(4)),
    "taew21": lambda: _taehv(16, 1),
    "taew22": lambda: _taehv(48, 2),
    **{name: lambda name=name: _tiny(name) for name in TINY},
    **{f"litevae-{size}": lambda size=size: _lite(size) for size in "SBML"},
    **{f"open-litevae-{size}": lambda size=size: _open_lite(size) for size in "SBML"},
}


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """The file of a topology. One at a time: all together they are gigabytes."""
    folder = tmp_path_factory.mktemp("kinds")

    def file(topology: str) -> Path:
        path = folder / f"{topology}.safetensors"
        if not path.exists():
            for old in folder.iterdir():
                old.unlink()
            save_file({name: tensor.contiguous() for name, tensor in TOPOLOGIES[topology]().items()}, str(path))
        return path

    yield file
    for path in folder.iterdir():
        path.unlink()
    _works.cache_clear()


@lru_cache(maxsize=1)
def _works(path: Path) -> tuple[bool, bool, bool]:
    """Whether the file decodes, encodes and is streamed: each to finite numbers of the right shape."""
    try:
        state = load_state(vae_file(path), torch.float32)
    except VaeFileError:
        return False, False, False
    vae = state.kind.build(state.tensors, state.norm_groups)
    ratio, channels = vae.config.ratio, vae.config.latent_channels
    shape, larger = (vae.config.image_channels, 2 * ratio, 4 * ratio), getattr(vae.config, "enlarges", 1)
    pixels = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    z = latent_of(encode(vae, pixels))
    out = decode(vae, torch.randn(1, channels, 2, 4, generator=torch.Generator().manual_seed(2)))
    decodes = out.shape == (1, shape[0], larger * shape[1], larger * shape[2])
    decodes = decodes and bool(out.isfinite().all()) and out.std().item() > 0
    encodes = z.shape == (1, channels, 2, 4) and bool(z.isfinite().all()) and z.std().item() > 0
    return decodes, encodes, _streams(vae, pixels, channels)


def _streams(vae: Autoencoder, pixels: Tensor, channels: int) -> bool:
    """Whether it is streamed both ways, to the same numbers as the whole picture."""
    z = torch.randn(1, channels, 2, 4, generator=torch.Generator().manual_seed(2))
    try:
        streamed = stream_decode(vae, z).tensor, stream_encode(vae, pixels).tensor
    except (VaeFileError, TypeError, AttributeError):  # a structure that the streaming code does not know
        return False
    for ours, whole in zip(streamed, (decode(vae, z), encode(vae, pixels)), strict=True):
        assert ours is not None
        torch.testing.assert_close(ours.float(), whole, atol=2e-4 * whole.abs().max().item(), rtol=1e-3)
    return True


# --- the tests


BY_FILE: list[Kind] = sorted(KINDS, key=lambda kind: kind.topology)


@pytest.mark.parametrize("kind", BY_FILE, ids=lambda kind: kind.name)
def test_a_kind_does_what_the_table_says(kind: Kind, file_of: Callable[[str], Path]):
    path = file_of(kind.topology)
    assert identify(vae_file(path)).family == kind.family
    assert _works(path) == _claims(kind)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.known], ids=lambda kind: kind.name)
def test_a_kind_is_recognised_by_hash_and_by_name(kind: Kind, tmp_path: Path):
    """The published weights are not here, so a small file stands where the cache knows a published file's hash."""
    known = {vae.id: vae for vae in known_vaes()}
    path = tmp_path / "renamed.safetensors"
    save_file(WanVAE((8, 8)).state_dict() if kind.topology == "wan" else _tiny("taesd"), str(path))
    file = vae_file(path)
    for id_ in kind.known:
        vae = known[id_]
        names = [vae.name, *vae.aliases, *(name for published in vae.files for name in published.names)]
        assert all(vae in by_name(name) for name in names)
        for published in vae.files:
            store = Store(None)
            store.put(KIND, file_key(path), stamp_of(file), published.sha256)
            found = report(file, HashCache(store), sha256=False, digest=False)
            assert found.known == vae and found.family == vae.family


@pytest.mark.parametrize("name", TINY)
def test_the_published_halves_of_a_tiny_vae_belong_together(name: str, tmp_path: Path):
    state, halves = _tiny(name), []
    for half in ("encoder", "decoder"):
        path = tmp_path / f"{name}_{half}.pth"
        torch.save({key.removeprefix(f"{half}."): t for key, t in state.items() if key.startswith(half)}, path)
        identity = identify(vae_file(path))
        assert (identity.family, identity.format, identity.problems) == ("taesd", "pickle", ())
        assert identity.latent_channels == TINY[name][0].latent_channels
        facts = FactsCache().vae(vae_file(path))
        assert facts.channels == identity.latent_channels
        halves.append(load_state(vae_file(path), torch.float32).tensors)
    vae = build_taesd(*halves)
    assert (vae.encoder_config, vae.decoder_config) == TINY[name] and variants(vae.config)


@pytest.mark.parametrize("size", "SBML")
def test_the_size_of_a_litevae_is_told(size: str):
    with torch.device("meta"):
        module = LiteVAE(published_config(size, 12))
    assert size_of(read_config({name: tuple(t.shape) for name, t in module.state_dict().items()})) == size


def test_the_documentation_has_this_table():
    """`python -m tests.test_kinds` prints it."""
    shown = [path for path in DOCUMENTS if path.exists() and TITLE in path.read_text(encoding="utf-8")]
    assert shown, "no document has the table"
    for path in shown:
        assert table() in path.read_text(encoding="utf-8"), f"{path.name} differs from the tests"
    assert len({os.path.realpath(path) for path in shown}) == len(shown)


if __name__ == "__main__":
    print(table())
