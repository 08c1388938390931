"""For tests: Forge and Neo build models as deep as their files are.

Some of their tables hold the depth of the published models alone: FLUX.1's blocks in Forge, Anima's in Neo, and every
text encoder's. A file with fewer blocks would get the missing ones as uninitialised memory. Nothing in here comes near
a VAE.
"""

import functools
import importlib
import re

from torch import nn


def depth_of(names, pattern):
    """One more than the highest number that stands at the group of `pattern` in any of the names; 0: there is none."""
    return max((int(match[1]) + 1 for name in names if (match := re.search(pattern, name))), default=0)


def counted(detect):
    """The host's look at a checkpoint, with blocks counted instead of known."""

    @functools.wraps(detect)
    def detect_and_count(state_dict, key_prefix, *args, **kwargs):
        config = detect(state_dict, key_prefix, *args, **kwargs)
        if config and config.get("image_model") in ("flux", "anima"):
            for key, blocks in (("depth", "double_blocks"), ("depth_single_blocks", "single_blocks"),
                                ("num_blocks", "blocks")):  # fmt: skip
                if key in config:
                    config[key] = depth_of(state_dict, rf"^{re.escape(key_prefix)}{blocks}\.(\d+)\.")
        return config

    return detect_and_count


class Passage(nn.Module):
    """A block of a language model that is not in the file: it hands on what it is given."""

    def forward(self, x, *args, **kwargs):
        return x, None


def as_deep_as_its_file(loader, load):
    """The host's loading of one component, with text encoders built as deep as the file is."""
    read = loader.read_arbitrary_config

    @functools.wraps(load)
    def load_component(guess, component_name, lib_name, cls_name, repo_path, state_dict):
        names = list(state_dict) if isinstance(state_dict, dict) else []
        blocks, layers = depth_of(names, r"\.block\.(\d+)\.layer\."), depth_of(names, r"model\.layers\.(\d+)\.")

        def read_and_cut(directory):
            config = read(directory)
            return {**config, "num_layers": blocks} if blocks else config

        loader.read_arbitrary_config = read_and_cut
        llama = importlib.import_module("backend.nn.llm.llama") if layers else None
        block = llama and llama.TransformerBlock
        if llama:
            llama.TransformerBlock = lambda config, index: block(config, index) if index < layers else Passage()
        try:
            return load(guess, component_name, lib_name, cls_name, repo_path, state_dict)
        finally:
            loader.read_arbitrary_config = read
            if llama:
                llama.TransformerBlock = block

    return load_component


def install():
    try:
        from backend import loader
    except ImportError:  # A1111, reForge and Classic build what the file or the configuration beside it says
        return
    from huggingface_guess import detection

    detection.detect_unet_config = counted(detection.detect_unet_config)
    loader.load_huggingface_component = as_deep_as_its_file(loader, loader.load_huggingface_component)


install()
