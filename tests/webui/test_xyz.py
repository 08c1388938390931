"""Our axes in the host's X/Y/Z plot, whose cells are shallow copies of one processing object."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import make_vae
from tests.webui.test_session import Job, OneModel, Z
from vae_manager.codec.whole import decode
from vae_manager.webui import xyz
from vae_manager.webui.arguments import from_arguments
from vae_manager.webui.infotext import KEY
from vae_manager.webui.session import Session


@dataclass
class AxisOption:
    """The hosts' own."""

    label: str
    type: type
    apply: Any
    confirm: Any = None
    choices: Any = None


@pytest.fixture
def axes(session: Session) -> dict[str, AxisOption]:
    module = SimpleNamespace(axis_options=[AxisOption("Seed", int, None)])
    grid = SimpleNamespace(script_class=type("Script", (), {"__module__": "xyz_grid.py"}), module=module)
    other = SimpleNamespace(script_class=type("Script", (), {"__module__": "other.py"}), module=None)
    for _ in range(2):  # "Reload UI"
        xyz.add_axes([other, grid], session.shelf.names, session.shelf.find)
    assert len(module.axis_options) == 4
    return {option.label.removeprefix(f"[{KEY}] "): option for option in module.axis_options}


def test_what_may_be_chosen(axes, session: Session):
    assert axes["VAE"].choices() == ["Automatic", "Baked", "b.safetensors", "c.safetensors"]
    assert axes["Hires VAE"].choices()[0] == "same" and "exact" in axes["Decode mode"].choices()


def test_a_name_that_means_no_file_stops_the_plot_before_it_begins(axes):
    axes["VAE"].confirm(None, ["b", "automatic", "BAKED"])
    with pytest.raises(RuntimeError, match="There is no VAE 'nope'"):
        axes["VAE"].confirm(None, ["b", "nope"])
    axes["Decode mode"].confirm(None, ["exact", "whole"])
    with pytest.raises(RuntimeError, match="no decode mode 'fast'"):
        axes["Decode mode"].confirm(None, ["exact", "fast"])


def test_cells_are_told_apart_and_leave_the_original_alone(axes):
    original = Job()
    cells = []
    for vae, mode in (("b", "exact"), ("c", "whole"), ("Baked", None)):
        cell = copy(original)
        axes["VAE"].apply(cell, vae, [])
        if mode:
            axes["Decode mode"].apply(cell, mode, [])
        cells.append(cell)
    read = [from_arguments((False, "other"), cell.vae_manager_cell) for cell in cells]
    assert [(s.enabled, s.vae, s.decode) for s in read] == [
        (True, "b", "exact"), (True, "c", "whole"), (True, "Baked", "auto")]  # fmt: skip
    assert not hasattr(original, "vae_manager_cell")


def test_an_axis_over_another_does_not_reach_the_cells_before(axes):
    """Two axes: the cell of the inner one is a copy of the outer's."""
    outer = Job()
    axes["VAE"].apply(outer, "b", [])
    inner = copy(outer)
    axes["Hires VAE"].apply(inner, "c", [])
    assert outer.vae_manager_cell == {"vae": "b"} and inner.vae_manager_cell == {"vae": "b", "hires_vae": "c"}


def test_each_cell_is_its_own_job(axes, session: Session, host: OneModel):
    original, before = Job(), host.pixels()
    for vae, seed in (("b", 2), ("Baked", 1), ("c", 3)):
        cell = copy(original)
        axes["VAE"].apply(cell, vae, [])
        session.begin(cell)
        session.prepare(cell, from_arguments((), cell.vae_manager_cell))
        session.ensure(cell)
        assert torch.equal(host.pixels(), decode(make_vae(seed=seed), Z))
        assert f"vae={vae}" in cell.extra_generation_params[KEY]
        session.finish(cell, SimpleNamespace(extra_generation_params={}))
    assert original.extra_generation_params == {} and torch.equal(host.pixels(), before)
