"""Small WebUIs of `modules.*` objects, shaped like the hosts' own where our adapters touch them.

AUTOMATIC1111 decodes one latent after another, Forge and reForge a batch at once; all of them truncate to 8 bits. What
they hold is a real KL autoencoder with a host's `encode` and `decode`, on a checkpoint file that holds the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.conftest import make_state
from tests.webui.test_session import load_model
from vae_manager.selection.settings import PanelSettings
from vae_manager.webui.hosts import current_host
from vae_manager.webui.session import Session

SCALE = 0.18215


class Processing:
    """A processing object: its attributes are set by the host, and copied shallowly by scripts."""

    def __init__(self, prompts: list[str], **more: Any) -> None:
        self.all_prompts, self.all_negative_prompts = prompts, [""] * len(prompts)
        self.prompts, self.negative_prompts = list(prompts), [""] * len(prompts)
        self.batch_size, self.iteration = len(prompts), 0
        self.extra_generation_params: dict[str, Any] = {}
        self.override_settings: dict[str, Any] = {}
        self.sd_vae_name = self.sd_vae_hash = None
        self.comments: list[str] = []
        self.closed = 0
        vars(self).update(more)

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        """Encodes, in img2img."""

    def close(self) -> None:
        self.closed += 1


def infotext(p: Processing, index: int, all_prompts: list[str] | None = None) -> dict[str, str]:
    """What a host writes under one picture: `index` counts within these prompts."""
    prompts = p.prompts if all_prompts is None else all_prompts
    said = {"VAE": p.sd_vae_name, "VAE hash": p.sd_vae_hash, **p.extra_generation_params}
    known = {"p": p, "all_prompts": prompts, "index": index}
    values = {key: value(**known) if callable(value) else value for key, value in said.items()}
    return {key: value for key, value in values.items() if value is not None}


class VAE:
    """Forge's and reForge's object around a first stage."""

    def __init__(self, stage: nn.Module) -> None:
        self.first_stage_model, self.device = stage, torch.device("cpu")
        self.memory_used_decode = lambda shape, dtype: 2178 * 64 * shape[2] * shape[3] * dtype.itemsize
        self.memory_used_encode = lambda shape, dtype: 1767 * shape[2] * shape[3] * dtype.itemsize


class WebUI:
    """A WebUI of one kind ('a1111', 'forge' or 'reforge') with one model loaded."""

    def __init__(self, kind: str, folder: Path, patch: Callable[[str, ModuleType], None]) -> None:
        self.kind, self.folder, self._patch = kind, folder, patch
        self.asked: list[float] = []
        """What the memory manager was asked for, before each decode."""
        self.module_list: dict[str, str] = {}
        """Forge's: the modules that it lists, file name → path."""
        self.options: dict[str, Any] = {"sd_vae": "Automatic", "forge_additional_modules": []}
        self.shared = self._module("modules.shared")
        self.shared.cmd_opts = SimpleNamespace(api=True, vae_dir=None, ckpt_dir=None, vae_path=None)
        self.shared.opts = SimpleNamespace(**self.options)
        self.shared.state = SimpleNamespace(interrupted=False, skipped=False, textinfo=None)
        paths = self._module("modules.paths")
        paths.models_path, paths.data_path = str(folder), str(folder / "data")
        self.sd_models = self._module("modules.sd_models")
        self.sd_models.model_path = str(folder / "Stable-diffusion")
        self.sd_models.model_data = SimpleNamespace(sd_model=None, forge_loading_parameters={"additional_modules": []})
        self.sd_vae = self._module("modules.sd_vae")
        self.sd_vae.loaded_vae_file, self.sd_vae.vae_dict = None, {}
        self.processing = self._module("modules.processing")
        self.memory = self._backend()
        self.load("model.safetensors", seed=1)
        self.sd_vae.load_vae = self.sd_vae.reload_vae_weights = self.sd_vae.restore_vae_weights = self.write
        self.sd_models.load_model_weights, self.sd_models.reload_model_weights = self.write, lambda: None
        self.processing.decode_latent_batch = self.decode_latent_batch
        self.host = current_host()

    def _module(self, name: str) -> Any:
        parent, _, leaf = name.rpartition(".")
        if parent and parent not in sys.modules:
            self._module(parent)
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        self._patch(name, module)
        if parent:
            setattr(sys.modules[parent], leaf, module)
        return module

    def _backend(self) -> Any:
        if self.kind == "a1111":
            return None
        self._module("modules_forge.main_entry").module_list = self.module_list
        memory = self._module(
            "backend.memory_management" if self.kind == "forge" else "ldm_patched.modules.model_management"
        )
        memory.VAE_ALWAYS_TILED, memory.get_free_memory = False, lambda device: 8 << 30
        return memory

    # --- what a host does

    @property
    def model(self) -> Any:
        return self.sd_models.model_data.sd_model

    @property
    def stage(self) -> nn.Module:
        return self.model.first_stage_model if self.kind == "a1111" else self.model.forge_objects.vae.first_stage_model

    def load(self, name: str, seed: int) -> None:
        """Load a checkpoint."""
        model = load_model(self.folder / name, seed)
        model.scale_factor = SCALE
        if self.kind != "a1111":
            stage, model.first_stage_model = model.first_stage_model, None
            stage.scaling_factor = SCALE
            config = SimpleNamespace(latent_format=SimpleNamespace(scale_factor=SCALE, latent_channels=4))
            if self.kind == "forge":
                model.model_config = config
            unet = SimpleNamespace(model=SimpleNamespace(model_config=config))
            model.forge_objects = SimpleNamespace(vae=VAE(stage), unet=unet)
            model.forge_objects_original = SimpleNamespace(vae=model.forge_objects.vae)
        self.sd_models.model_data.sd_model = model

    def write(self, seed: int) -> None:
        """Copy other weights into the first stage, as a host's own VAE loading does."""
        self.stage.load_state_dict(make_state(seed=seed))

    def decode_latent_batch(self, z: Tensor) -> list[Tensor]:
        """(N, 4, h, w), unscaled → pictures (3, H, W) in about [-1, 1]."""
        tiled = getattr(self.memory, "VAE_ALWAYS_TILED", False)
        assert not tiled or self.tiles is not None, "tiled"
        with torch.no_grad():
            if self.kind == "a1111":
                return [self.stage.decode(z[i : i + 1])[0] for i in range(len(z))]  # type: ignore[operator]
            vae = self.model.forge_objects.vae
            self.asked.append(vae.memory_used_decode(z.shape, torch.float16))
            return list(self.stage.decode(z))  # type: ignore[operator]

    tiles: object = ()
    """None: tiled decoding is a fault here."""

    def generate(
        self,
        session: Session,
        p: Processing,
        z: Tensor,
        settings: PanelSettings | None = None,
        before_batch: Any = None,
    ) -> tuple[list[Tensor], list[dict[str, str]]]:
        """One job, in the hosts' order. Returns its pictures in 8 bits (3, H, W), and their infotexts."""
        session.begin(p)
        p.sd_vae_name = p.sd_vae_hash = "the host's"
        session.prepare(p, settings or PanelSettings())
        p.init(p.all_prompts, [1], [1])
        pictures, texts, size = [], [], p.batch_size
        for number in range(len(p.all_prompts) // size):
            p.iteration, part = number, slice(number * size, (number + 1) * size)
            p.prompts = p.all_prompts[part]
            session.next_batch(p)
            if before_batch is not None:
                before_batch()
            batch = self.processing.decode_latent_batch(z[part])
            p.prompts = p.all_prompts[part]  # with their tags again, for the infotext
            batch = [((picture + 1) / 2).clamp(0, 1) for picture in batch]
            for index, picture in enumerate(session.finish_pictures(p, batch)):
                pictures.append((255.0 * picture).to(torch.uint8))
                texts.append(infotext(p, index))
        session.finish(p, SimpleNamespace(extra_generation_params=p.extra_generation_params, all_prompts=p.all_prompts))
        p.close()
        return pictures, texts
