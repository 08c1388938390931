"""The trees that judge one picture are walked as trees, and answers become maps within their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.color.test_diagnose import picture
from vae_manager.color import blind
from vae_manager.color.blind import (
    LEAF,
    MAX_CHROMA,
    MAX_SHIFT,
    TREES,
    _answers,
    correction,
    features,
    gate,
    judge,
    looks_right,
)
from vae_manager.color.diagnose import diagnose
from vae_manager.color.evidence import Evidence
from vae_manager.color.matrix import adjustment, affine, is_identity, stretch
from vae_manager.color.statistics import statistics
from vae_manager.library.probe import bundled_pictures


def walked(x: np.ndarray) -> list[float]:
    """Each tree of the file from its root to a leaf, one node at a time."""
    trees = load_file(TREES)
    sums = trees["baseline"].tolist()
    for number, root in enumerate(trees["roots"].tolist()):
        forest, node = int((trees["forests"] <= number).sum()) - 1, root
        while trees["feature"][node] != LEAF:
            side = "below" if x[trees["feature"][node]] <= trees["number"][node] else "above"
            node = root + int(trees[side][node])
        sums[forest] += float(trees["number"][node])
    return sums


@pytest.mark.parametrize("seed", range(4))
def test_all_trees_are_walked_to_their_leaves(seed):
    x = np.array(features(statistics(picture(seed))), np.float32)
    assert _answers(x) == pytest.approx(walked(x), abs=1e-4)
    assert _answers(x) == [value for forest in range(4) for value in _answers(x, forest, forest + 1)]


def test_what_is_not_washed_out_is_not_asked_how_far(monkeypatch: pytest.MonkeyPatch):
    walks: list[tuple[int, int]] = []

    def counted(x: np.ndarray, first: int, last: int) -> list[float]:
        walks.append((first, last))
        return _answers(x, first, last)

    monkeypatch.setattr(blind, "_answers", counted)
    good = bundled_pictures(256)[0] / 2 + 0.5
    assert is_identity(judge(statistics(good))[1]) and walks == [(0, 1)]
    assert not is_identity(judge(statistics(affine(good, adjustment(0.6))))[1]) and walks == [(0, 1)] * 2 + [(1, 4)]


def test_the_more_is_lost_the_surer_it_is_seen():
    """Beyond what was measured of faulty VAEs, too: trees know nothing of what they were not shown."""
    pictures = [v / 2 + 0.5 for v in bundled_pictures(256)]
    assert not any(diagnose(Evidence(v)).washed_out for v in pictures)
    for contrast in (0.7, 0.5, 0.4):
        assert sum(diagnose(Evidence(affine(v, adjustment(contrast)))).washed_out for v in pictures) >= 6


def test_answers_are_kept_within_what_faults_do():
    assert is_identity(correction(0.0, 0.2, 0.2, 0.1))
    assert torch.allclose(correction(1.0, 0.1, 0.2, 0.0), stretch(0.1, 0.8))
    assert torch.allclose(correction(1.0, 9.0, -9.0, 9.0), stretch(MAX_SHIFT, 1.0, np.exp(MAX_CHROMA)))
    assert torch.allclose(correction(0.5, 0.1, 0.2, 0.0), stretch(0.05, 0.9))


def test_the_gate_opens_smoothly():
    scores = np.linspace(0, 1, 101)
    opened = np.array([gate(score) for score in scores])
    assert opened[0] == opened[30] == 0 and opened[70] == opened[100] == 1
    assert (np.diff(opened) >= 0).all() and np.diff(opened).max() < 0.04


def test_a_picture_looks_right_long_before_the_gate_opens():
    """The score is lowered for care: an even chance is far below where anything is done."""
    scores = np.linspace(0, 1, 1001)
    right = [looks_right(score) for score in scores]
    assert right == sorted(right, reverse=True)
    even = scores[right.index(False)]
    assert 0 < even < 0.2 and gate(even) == 0
