"""Preprocessing against the frameworks' formulas, number by number."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from minmax_jax.models.preprocess import IMAGENET, IMAGENET_BGR, MINUS_ONE_TO_ONE, Normalize

PHOTO = np.array([[[0, 51, 255], [10, 20, 30]]], np.uint8)


def test_the_three_of_the_frameworks():
    for c in range(3):
        mean, std = (0.485, 0.456, 0.406)[c], (0.229, 0.224, 0.225)[c]
        blue_first = PHOTO[..., 2 - c] - (103.939, 116.779, 123.68)[c]
        torch = (PHOTO[..., c] / 255 - mean) / std
        np.testing.assert_allclose(IMAGENET(PHOTO)[..., c], torch, rtol=1e-5)
        np.testing.assert_allclose(IMAGENET_BGR(PHOTO)[..., c], blue_first, rtol=1e-5)
        np.testing.assert_allclose(
            MINUS_ONE_TO_ONE(PHOTO)[..., c], PHOTO[..., c] / 127.5 - 1, atol=1e-6
        )


def test_numpy_in_numpy_out_and_any_rank():
    scaled = MINUS_ONE_TO_ONE(PHOTO)
    assert isinstance(scaled, np.ndarray) and scaled.dtype == np.float32
    on_device = MINUS_ONE_TO_ONE(jnp.asarray(PHOTO[None]))
    assert isinstance(on_device, jnp.ndarray) and on_device.shape == (1, 1, 2, 3)
    np.testing.assert_allclose(on_device[0], scaled)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="Normalize.std must be positive"):
        Normalize((0, 0, 0), (1, 0, 1))
    with pytest.raises(ValueError, match="Normalize.mean must be three finite numbers"):
        Normalize((0, 0), (1, 1, 1))
    with pytest.raises(ValueError, match="Normalize.std must be three finite numbers"):
        Normalize((0, 0, 0), (1, 1, float("nan")))
