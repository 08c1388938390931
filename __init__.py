"""ComfyUI's entry: the nodes of `vae_manager/comfy`. Nothing else needs this file."""

import importlib.util
import sys
from pathlib import Path

NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = {}, {}

if importlib.util.find_spec("folder_paths"):  # pytest takes this folder for a package too, where no ComfyUI is
    if "vae_manager" not in sys.modules:  # found here, without putting this folder's other ones on the path
        _folder = Path(__file__).parent / "vae_manager"
        _spec = importlib.util.spec_from_file_location(
            "vae_manager", _folder / "__init__.py", submodule_search_locations=[str(_folder)]
        )
        assert _spec is not None and _spec.loader is not None
        sys.modules["vae_manager"] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules["vae_manager"])

    from vae_manager.comfy import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
