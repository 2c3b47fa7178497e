from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from minmax_jax.report.png import encode_png


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (33, 48)])
def test_other_readers_get_the_same_pixels(shape):
    rng = np.random.default_rng(0)
    for picture in (rng.integers(0, 256, (*shape, 3), np.uint8), np.zeros((*shape, 3), np.uint8)):
        with Image.open(io.BytesIO(encode_png(picture))) as image:
            image.verify()  # checksums
        with Image.open(io.BytesIO(encode_png(picture))) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            np.testing.assert_array_equal(np.asarray(image), picture)


def test_a_picture_that_is_a_view():
    picture = np.random.default_rng(1).integers(0, 256, (8, 9, 4), np.uint8)[::2, :, :3]
    with Image.open(io.BytesIO(encode_png(picture))) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
