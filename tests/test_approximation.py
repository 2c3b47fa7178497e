"""The error of approximate maps, against sums over pixels written out in plain Python."""

from __future__ import annotations

import functools
import json

import jax
import numpy as np
import pytest

import minmax_jax as mj
from minmax_jax import parallel
from minmax_jax.approximation import approximation_error
from tests import reference, toys

NONE = {"mean": None, "max": None, "correlation": None}


@pytest.fixture(scope="module")
def maps_of(network, variables, images):
    """Normalised maps `(b c h w)` in float64, of the public function."""

    @functools.cache
    def maps(**options):
        raw, logits = mj.explain(network, variables, images, method="score_cam", **dict(options))
        normalized = [[reference.normalize(each) for each in row] for row in np.asarray(raw)]
        return np.array(normalized, np.float64), np.asarray(logits)

    return maps


def compare(first, second, chosen):
    """Errors over the chosen maps, one pixel at a time."""
    differences, correlations = [], []
    for index in zip(*np.nonzero(chosen), strict=True):
        a, b = first[index].ravel().tolist(), second[index].ravel().tolist()
        differences += [abs(x - y) for x, y in zip(a, b, strict=True)]
        if len(set(a)) == 1 or len(set(b)) == 1:
            correlations.append(float(len(set(a)) == len(set(b)) == 1))
        else:
            correlations.append(float(np.corrcoef(a, b)[0, 1]))
    return {
        "mean": sum(differences) / len(differences),
        "max": max(differences),
        "correlation": sum(correlations) / len(correlations),
    }


def check(found, expected, *, images, maps):
    assert {name: type(value) for name, value in found.items()} == {
        "images": int,
        "maps": int,
        "mean": float,
        "max": float,
        "correlation": float,
    }
    assert (found["images"], found["maps"]) == (images, maps)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("options", [{"channels": 2}, {"clusters": 2}])
@pytest.mark.parametrize("kind", ["detected", "given", "valid"])
def test_errors_of_approximations(options, kind, network, variables, images, maps_of):
    """Given labels are those of the first image, all of whose maps are 0, and of others."""
    exact, logits = maps_of()
    approximate, _ = maps_of(**options)
    chosen, arguments, number = logits > 0, {}, 4
    if kind == "given":
        chosen = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
        arguments = {"present": chosen}
        assert exact[0].max() == 0
    if kind == "valid":
        valid = np.array([True, False, True, True])
        chosen = np.ones((4, 4), bool) & valid[:, None]
        arguments, number = {"present": np.ones((4, 4)), "valid": valid}, 3
    found = approximation_error(network, variables, images, **options, **arguments)
    expected = compare(approximate, exact, chosen)
    check(found, expected, images=number, maps=int(chosen.sum()))
    assert expected["max"] > 0.01


def test_enough_channels_are_exact(network, variables, images):
    found = approximation_error(network, variables, images, channels=toys.CHANNELS["late"])
    check(found, {"mean": 0, "max": 0, "correlation": 1}, images=4, maps=4)
    assert found["mean"] == found["max"] == 0


def test_options_reach_the_maps(network, variables, images, maps_of):
    options = {"activation": "softmax", "tap": "early", "mask_chunk": 3}
    found = approximation_error(network, variables, images, channels=1, **options)
    exact, logits = maps_of(**options)
    expected = compare(maps_of(**options, channels=1)[0], exact, logits > 0)
    check(found, expected, images=4, maps=int((logits > 0).sum()))
    other = compare(maps_of(channels=1)[0], maps_of()[0], logits > 0)
    assert abs(other["mean"] - found["mean"]) > 1e-3


def test_a_mesh_changes_nothing(network, variables, images):
    """Of a batch that it cannot split."""
    mesh = parallel.make_mesh()
    alone, spread = (
        approximation_error(network, variables, images[1:], clusters=2, mesh=own)
        for own in (None, mesh)
    )
    assert spread == pytest.approx(alone, abs=1e-6)


def constant_network(*, exact_varies):
    """Two channels; the less varied has all the score, or none has: then all maps are constant."""

    def apply(variables, images, perturbations=None):
        b, h, w, _ = images.shape
        ramp = jax.numpy.linspace(0, 1, h * w).reshape(1, h, w, 1)
        taps = jax.numpy.concatenate([ramp, 0.5 * ramp[:, ::-1]], axis=-1)
        shown = images[:, 0, 0, 0] > 0.5  # only the second mask shows the first pixel
        logits = jax.numpy.where(shown & exact_varies, 5.0, -1e4)[:, None]
        late = jax.numpy.broadcast_to(taps, (b, h, w, 2)) + (perturbations or {}).get("late", 0)
        return logits, {"late": late}

    return mj.Network(apply=apply, taps=("late",))


@pytest.mark.parametrize("exact_varies", [True, False])
def test_constant_maps(exact_varies):
    """One of the two constant: correlation 0; both: 1."""
    images = np.ones((1, 4, 4, 3), np.float32)
    present = np.ones((1, 1), bool)
    network = constant_network(exact_varies=exact_varies)
    found = approximation_error(network, {}, images, channels=1, present=present)
    if exact_varies:
        check(found, {"max": 1, "correlation": 0}, images=1, maps=1)
    else:
        check(found, {"mean": 0, "max": 0, "correlation": 1}, images=1, maps=1)


def test_nothing_to_compare(network, variables, images):
    nothing = np.zeros((4, 4), bool)
    found = approximation_error(network, variables, images, channels=1, present=nothing)
    assert found == {"images": 4, "maps": 0, **NONE}
    nobody = np.zeros(4, bool)
    found = approximation_error(network, variables, images, channels=1, valid=nobody)
    assert found == {"images": 0, "maps": 0, **NONE}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give channels or clusters: without them Score-CAM is exact"),
        ({"channels": 1, "clusters": 1}, "exclude each other"),
        ({"channels": 0}, "channels must be an integer of at least 1, not 0"),
        ({"channels": 1, "present": np.ones((4, 3), bool)}, r"present has shape \(4, 3\)"),
        ({"channels": 1, "valid": np.ones(3, bool)}, r"valid has shape \(3,\), not \(4,\)"),
    ],
)
def test_errors(options, message, network, variables, images):
    with pytest.raises(ValueError, match=message) as error:
        approximation_error(network, variables, images, **options)
    assert "\n" not in str(error.value)


def test_maps_that_are_not_finite(network, variables, images):
    variables = variables | {"second": variables["second"] * np.float32(1e38)}
    present = np.ones((4, 4), bool)
    with pytest.raises(ValueError, match="Score-CAM's maps are not finite"):
        approximation_error(network, variables, images, channels=2, present=present)
