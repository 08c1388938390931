"""Make a VAE whose pictures look washed out by a known amount, to demonstrate and test the repair.

A picture y in [0, 1] becomes 0.5 + k·(y − 0.5): contrast falls to k about middle grey, so black turns grey
and white turns light grey. The decoder's output lies in [-1, 1], where that is a plain multiplication by k,
so it folds exactly into the last convolution (weight and bias times k) and the file remains an ordinary VAE.
The true inverse is therefore known: contrast 1/k about 0.5.

    python tools/wash_out.py demo-kl-f8.safetensors demo-kl-f8-washed-out.safetensors --contrast 0.7
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

LAST_LAYER = ("decoder.conv_out.weight", "decoder.conv_out.bias")


def wash_out(source: Path, target: Path, contrast: float) -> None:
    """Write `source` to `target` with its output contrast multiplied by `contrast` about 0.5."""
    with safe_open(source, framework="pt") as file:
        tensors: dict[str, torch.Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata: dict[str, str] = dict(file.metadata() or {})
    for key in LAST_LAYER:
        # In fp32, so that rounding back to the file's precision is the only error.
        tensors[key] = (tensors[key].float() * contrast).to(tensors[key].dtype)
    metadata["title"] = f"{metadata.get('title', source.stem)}, washed out"
    metadata["description"] = (
        f"Contrast deliberately reduced to {contrast:g} about middle grey, folded into decoder.conv_out, to "
        "show what a washed-out VAE looks like and how it is repaired. Otherwise: "
        + metadata.get("description", source.name)
    )
    metadata["washed_out_contrast"] = f"{contrast:g}"
    metadata["washed_out_pivot"] = "0.5"
    save_file(tensors, target, metadata=metadata)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--contrast", type=float, default=0.7)
    arguments = parser.parse_args()
    wash_out(arguments.source, arguments.target, arguments.contrast)


if __name__ == "__main__":
    main()
