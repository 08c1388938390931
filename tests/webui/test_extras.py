"""Old pictures in the Extras tab."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.webui.test_pictures import photo
from vae_manager.webui.extras import correct_image


def test_a_good_picture_is_the_very_same_object():
    image = Image.fromarray(photo())
    assert correct_image(image) == (image, None)


def test_strength_none_leaves_a_pale_picture_and_says_what_it_found():
    pale = Image.fromarray((photo() * 0.5 + 64).astype(np.uint8))
    same, said = correct_image(pale, strength=0)
    assert same is pale and said is None


def test_adjustments_by_hand_are_exact_and_keep_the_alpha():
    image = Image.fromarray(photo()).convert("RGBA")
    image.putalpha(250)
    done, said = correct_image(image, brightness=0.1)
    assert said == "adjusted: contrast 1, brightness 0.1, saturation 1"
    assert np.array(done)[..., 3].min() == np.array(done)[..., 3].max() == 250
    middle = (np.array(image)[..., :3] > 60) & (np.array(image)[..., :3] < 180)
    difference = np.array(done)[..., :3].astype(float) - np.array(image)[..., :3]
    assert abs(difference[middle].mean() - 25.5) < 1
    assert np.array_equal(np.array(correct_image(image, brightness=0.1)[0]), np.array(done))  # the dither is seeded
