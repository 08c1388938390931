"""The linear model over a pool, and how it is fitted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.color.test_diagnose import picture
from tools.fit_color_pools import fit_line, fit_logit, nearest
from vae_manager.color.matrix import affine, stretch
from vae_manager.color.pool_model import ask, features
from vae_manager.color.statistics import statistics


def test_the_model_tells_a_flat_vae_from_a_sound_one_and_says_by_how_much():
    sound = [picture(seed) for seed in range(8)]
    flat = [affine(v, stretch(-0.1, 1.1)) for v in sound]  # black comes to 1/12, white to 11/12
    right, wrong = (ask([statistics(v) for v in pool]) for pool in (sound, flat))
    assert right.fault < 0 < wrong.fault
    assert wrong.black == pytest.approx(1 / 12, abs=0.04)
    assert len(features([statistics(v) for v in sound])) == 29


def test_the_nearest_stretch_is_the_inverse_of_the_fault():
    truth = np.random.default_rng(0).uniform(0.1, 0.9, (3, 5000))
    pale = affine(torch.from_numpy(truth).reshape(3, 50, 100), stretch(-0.1, 1.3, 0.8)).reshape(3, -1).numpy()
    black, white, chroma = nearest(pale, truth)
    assert black == pytest.approx(0.1 / 1.4, abs=1e-3) and white == pytest.approx(0.3 / 1.4, abs=1e-3)
    assert chroma == pytest.approx(math.log(1 / 0.8), abs=1e-3)


def test_both_fits_find_what_there_is():
    rng = np.random.default_rng(1)
    x = rng.normal(3, (1, 5, 0.2), (4000, 3))
    weights = fit_line(x, x @ np.array([2.0, -0.5, 4.0]) + 1, np.ones(4000))
    assert weights == pytest.approx([2, -0.5, 4, 1], rel=0.05, abs=0.2)
    y = rng.random(4000) < 1 / (1 + np.exp(-(x[:, 0] - 3)))
    logit = fit_logit(x, y, np.ones(4000))
    assert logit[0] == pytest.approx(1, abs=0.2) and abs(logit[1]) < 0.05
