"""CIEDE2000 against scikit-image, an implementation of its own."""

from __future__ import annotations

import numpy as np
import torch
from skimage import color

from vae_manager.color.difference import ciede2000, delta_e, lab


def test_agrees_with_scikit_image():
    v = torch.rand(2, 3, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v[:, :, :500] = v[:, :1, :500]  # greys
    v[1, :, :200] = v[0, :, :200]
    x, y = (color.rgb2lab(picture.T.numpy()) for picture in v)
    assert np.allclose(lab(v[0]).T.numpy(), x, atol=2e-2)
    wanted = color.deltaE_ciede2000(x, y)
    assert np.allclose(ciede2000(torch.from_numpy(x.T), torch.from_numpy(y.T)).numpy(), wanted, atol=1e-9)
    assert abs(delta_e(v[0].reshape(3, 40, 100), v[1].reshape(3, 40, 100)) - wanted.mean()) < 0.01
    assert delta_e(v[0, :, None], v[0, :, None]) == 0
