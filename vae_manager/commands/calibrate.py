"""`calibrate` and `bake`: hold a VAE against another one, and put a colour correction into a VAE."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from vae_manager import __version__
from vae_manager.codec.build import build_kl
from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.codec.kinds.shapes import Padding
from vae_manager.codec.latents import load_latent
from vae_manager.codec.whole import check_latent, decode
from vae_manager.color.bake import fold_decoder, fold_encoder
from vae_manager.color.calibration import measure
from vae_manager.color.matrix import adjustment, affine, compose, identity, invert, is_identity
from vae_manager.commands import Result, about, open_file
from vae_manager.commands.outputs import check_output, check_vae_output, save_vae
from vae_manager.errors import BadInputError, VaeFileError
from vae_manager.json_text import read_json_text
from vae_manager.library.files import VaeFile
from vae_manager.library.hashing import HashCache
from vae_manager.library.identify import Identity, identify
from vae_manager.library.padding import KEY, padding_of_file
from vae_manager.library.state import load_kl, load_kl_state
from vae_manager.store import open_store
from vae_manager.user_data import user_folder
from vae_manager.writing import write_whole

PROBE_SEED = 0

MOST = 1000
"""Of a correction's numbers: together they stay below that."""


def calibrate(args: argparse.Namespace) -> Result:
    """The map that makes pictures of one VAE look like another's, from latents that both decode."""
    if args.output:
        check_output(Path(args.output), [*args.latents, args.vae, args.reference_vae], (".json",))
    latents = [_latent(path) for path in args.latents]
    vae, reference = (_load(path, word) for path, word in ((args.vae, args.padding), (args.reference_vae, None)))
    families = {identity.family for _, identity in (vae, reference)} - {"unknown"}
    if len(families) > 1:
        raise BadInputError("The two VAEs are of different families, so no latent means the same to both.")
    matrix, residual = measure(vae[0], reference[0], latents)
    document = {"matrix": rows(matrix), "residual": round(residual, 6)}
    if args.output:
        text = json.dumps(document) + "\n"
        write_whole(Path(args.output), lambda part: part.write_text(text, encoding="utf-8"))
    return Result(document, f"{_matrix_text(matrix)}\nMedian residual {residual * 255:.2f} of 255.")


def bake(args: argparse.Namespace) -> Result:
    """Write a VAE with a colour correction folded into its weights."""
    source, output = open_file(args.file), Path(args.output)
    check_vae_output(output, [source], args.calibration)
    matrix = _wanted(args)
    state, groups = load_kl_state(source)
    folded = fold_decoder(state, matrix)
    errors = {"max_error": _decoder_error(state, folded, matrix, groups)}
    if args.encoder:
        folded = _fold_encoder(folded, matrix)
        inside, border = _encoder_errors(state, folded, matrix, groups)
        errors |= {"encoder_max_error": inside, "encoder_border_error": border}
    save_vae(output, folded, groups, identify(source), _provenance(source, matrix, args.encoder))
    document = {"output": str(output), "matrix": rows(matrix), **errors}
    return Result(document, f"Wrote {output}; largest error {errors['max_error']:.1e}.\n{_matrix_text(matrix)}")


def rows(matrix: Tensor) -> list[list[float]]:
    """A matrix for JSON."""
    return [[round(value, 9) for value in row] for row in matrix.tolist()]


def _matrix_text(matrix: Tensor) -> str:
    return "\n".join("  ".join(f"{value:8.4f}" for value in row) for row in matrix.tolist())


# --- calibrate


def _latent(path: str) -> Tensor:
    z = load_latent(Path(path)).z
    with about(path):
        check_latent(z, z.shape[1])
    return z


def _load(path: str, padding: Padding | None) -> tuple[AutoencoderKL, Identity]:
    file = open_file(path)
    try:
        return load_kl(file, padding), identify(file)
    except VaeFileError as error:
        raise BadInputError(error.sentence(path)) from error


# --- bake


def _wanted(args: argparse.Namespace) -> Tensor:
    """The calibration, then the adjustments by hand."""
    matrix = compose(
        adjustment(args.contrast, args.brightness, args.saturation),
        read_matrix(Path(args.calibration)) if args.calibration else identity(),
    )
    if not matrix.isfinite().all():
        raise BadInputError("The correction is not made of finite numbers.")
    if not (torch.linalg.matrix_norm(matrix) < MOST):
        raise BadInputError(f"The correction is too strong: no picture needs numbers beyond {MOST}.")
    if is_identity(matrix):
        raise BadInputError("There is nothing to bake: give --calibration, --contrast, --brightness or --saturation.")
    if args.encoder:
        _check_inverse(matrix)
    return matrix


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else "this colour map cannot be undone"


def _check_inverse(matrix: Tensor) -> None:
    try:
        invert(matrix)
    except (ValueError, RuntimeError) as error:  # RuntimeError: linear algebra's own
        raise BadInputError(f"The encoder cannot be given the inverse: {_why(error)}.") from error


def read_matrix(path: Path) -> Tensor:
    """The 3×4 of a calibration file.

    Raises:
        BadInputError: no such file, or no calibration.
    """
    try:
        matrix = torch.tensor(read_json_text(path)["matrix"], dtype=torch.float64)
    except FileNotFoundError as error:
        raise BadInputError(f"There is no calibration file {str(path)!r}.") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadInputError(f"{str(path)!r} is no calibration; `vae-manager calibrate -o` writes one.") from error
    if matrix.shape != (3, 4) or not matrix.isfinite().all():
        raise BadInputError(f"{str(path)!r} is no calibration: its matrix must be 3 rows of 4 finite numbers.")
    return matrix


def _fold_encoder(state: dict[str, Tensor], matrix: Tensor) -> dict[str, Tensor]:
    try:
        return fold_encoder(state, matrix)
    except ValueError as error:
        raise BadInputError(f"The encoder cannot be given the inverse: {error}.") from error


def _decoder_error(state: dict[str, Tensor], folded: dict[str, Tensor], matrix: Tensor, groups: int) -> float:
    """The largest difference, in [0, 1], between the baked decoder's picture and the mapped original's."""
    before, after = (build_kl({k: t.float() for k, t in s.items()}, groups) for s in (state, folded))
    z = torch.randn(1, before.config.latent_channels, 8, 8, generator=torch.Generator().manual_seed(PROBE_SEED))
    wanted = affine(decode(before, z).double() / 2 + 0.5, matrix)
    return float((decode(after, z).double() / 2 + 0.5 - wanted).abs().max())


def _encoder_errors(
    state: dict[str, Tensor], folded: dict[str, Tensor], matrix: Tensor, groups: int
) -> tuple[float, float]:
    """The largest relative difference after conv_in between the baked encoder on a mapped picture and the
    original on the picture itself: inside, and on the outermost ring."""
    before, after = (build_kl({k: t.float() for k, t in s.items()}, groups) for s in (state, folded))
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(PROBE_SEED))
    mapped = affine(pixels, matrix) * 2 - 1
    with torch.no_grad():
        wanted = before.encoder.conv_in(affine(mapped / 2 + 0.5, invert(matrix)) * 2 - 1)
        difference = (after.encoder.conv_in(mapped) - wanted).abs() / wanted.abs().max()
    inside = difference[:, :, 1:-1, 1:-1].max()
    difference[:, :, 1:-1, 1:-1] = 0
    return float(inside), float(difference.max())


def _provenance(source: VaeFile, matrix: Tensor, encoder: bool) -> dict[str, str]:
    """What was done to which weights: read by people, and by whoever wants to undo it."""
    return {
        "vae_manager.version": __version__,
        "vae_manager.baked_from": source.path.name,
        "vae_manager.baked_from_sha256": HashCache(open_store(user_folder())).sha256(source),
        "vae_manager.baked_into": "decoder and encoder" if encoder else "decoder",
        "vae_manager.color_matrix": json.dumps(rows(matrix)),
        **({KEY: padding} if (padding := padding_of_file(source)) else {}),
    }
