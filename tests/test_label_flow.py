"""The flow from labels through kernels to predictions, against plain loops in float64."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from minmax_jax import parallel
from minmax_jax.label_flow import label_flow
from tests import toys

IMAGES = 7


@pytest.fixture(scope="module")
def labels():
    labels = np.random.default_rng(0).uniform(size=(IMAGES, toys.NUM_LABELS)) < 0.5
    labels[:, 2] = False  # a label without images
    return labels


def batches_of(labels, size=3):
    images = toys.toy_images(IMAGES)
    return [
        {"image": images[start : start + size], "labels": labels[start : start + size]}
        for start in range(0, IMAGES, size)
    ]


def plain_loop(labels):
    """The three results, image by image and kernel by kernel."""
    variables = toys.toy_variables()
    kernel = np.asarray(variables["kernel"], np.float64)
    kernels, units = kernel.shape
    flow, features = np.zeros((units, units, units)), np.zeros((units, kernels))
    for image, present in zip(toys.toy_images(IMAGES), labels, strict=True):
        toy = toys.Toy64(variables, image)
        pooled = toy.taps["late"].mean(axis=(0, 1))
        for t in np.flatnonzero(present):
            features[t] += pooled / labels[:, t].sum()
            for k in range(kernels):
                owner = max(range(units), key=lambda unit: kernel[k, unit])
                for p in range(units):
                    given = pooled[k] * kernel[k, p]
                    if given > 0 and toy.logits[p] > 0:
                        flow[t, owner, p] += given / labels[:, t].sum()
    return flow, features, labels.sum(axis=0)


@pytest.mark.parametrize("devices", [1, 2])
def test_flow_against_a_plain_loop(labels, devices):
    mesh = parallel.make_mesh(jax.devices()[:2]) if devices == 2 else None
    apply = toys.CountingApply()
    found = label_flow(
        toys.toy_network(apply=apply), toys.toy_variables(), iter(batches_of(labels)),
        mesh=mesh, progress=False,
    )  # fmt: skip
    expected = plain_loop(labels)
    assert expected[0].any() and not expected[0][2].any()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert found[0].dtype == found[1].dtype == np.float64 and found[2].dtype == np.int64
    assert apply.traces == 1  # the smaller last batch too


def test_errors(labels):
    network, variables = toys.toy_network(), toys.toy_variables()
    with pytest.raises(ValueError, match="nothing to analyze: no batch was given"):
        label_flow(network, variables, [], progress=False)
    first, second = batches_of(labels, 4)
    with pytest.raises(ValueError, match="a batch has 4 images, the first had 3"):
        label_flow(network, variables, [second, first], progress=False)
