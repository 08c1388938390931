"""A folder of checkpoints and VAEs with true headers, as small as they can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import make_state
from vae_manager.codec.kinds.kl.config import KLConfig
from vae_manager.library.files import Folder, find_vaes
from vae_manager.library.hashing import HashCache
from vae_manager.selection.checkpoint import Checkpoint, FactsCache, open_checkpoint
from vae_manager.selection.choose import Wishes, choose
from vae_manager.selection.decision import Decision
from vae_manager.selection.names import VaeIndex

TINY = KLConfig(encoder_stem=32, encoder_channels=(32,), decoder_channels=(32,), encoder_blocks=1, decoder_blocks=1)
SIXTEEN = replace(TINY, latent_channels=16, hidden_latent_channels=16, quant_conv=False, post_quant_conv=False)

SD1, SDXL = {"scale_factor": "0.18215"}, {"scale_factor": "0.13025"}
MARKS = {"sd1": "cond_stage_model.x", "sdxl": "conditioner.embedders.0.x", "flux": "double_blocks.0.x"}


class World:
    """What lies on a user's disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashes = HashCache(None)
        for part in ("checkpoints", "VAE"):
            (folder / part).mkdir()

    def vae(self, name: str, config: KLConfig = TINY, metadata: dict[str, str] | None = None, seed: int = 0) -> Path:
        path = self.folder / "VAE" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file(make_state(config, seed), str(path), metadata)
        else:
            torch.save({"state_dict": make_state(config, seed)}, path)
        return path

    def checkpoint(self, name: str, family: str = "sd1", baked: bool = True, seed: int = 0, **metadata: str) -> Path:
        path = self.folder / "checkpoints" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {MARKS[family]: torch.full((4,), float(seed))}
        if baked:
            state |= {f"first_stage_model.{key}": value for key, value in make_state(TINY, seed).items()}
        save_file(state, str(path), metadata or None)
        return path

    def files(self) -> VaeIndex:
        folders = [Folder(self.folder / "VAE"), Folder(self.folder / "checkpoints", marked_only=True)]
        return VaeIndex(find_vaes(folders), self.hashes)

    def open(self, path: Path, thorough: bool = False, problems: tuple[str, ...] = ()) -> Checkpoint:
        name = path.relative_to(self.folder / "checkpoints").as_posix()
        checkpoint = open_checkpoint(path, name, self.hashes, FactsCache(), thorough)
        return replace(checkpoint, problems=problems)

    def choose(self, path: Path | None = None, **wishes) -> Decision:
        checkpoint = self.open(path) if path else None
        return choose(Wishes(checkpoint=checkpoint, **wishes), self.files())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def outcomes() -> Callable[[Decision], dict[str, str]]:
    """The trace as {step: outcome}."""
    return lambda decision: {step.step: step.outcome for step in decision.trace}
