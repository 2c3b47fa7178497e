"""A pair classifier comes back as it was written, and is whole or named as damaged."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from minmax_jax.pairs.files import PairClassifier, pair_path, read_pair, write_pair

VARIABLES = {
    "params": {
        "conv": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "head": {"kernel": np.eye(2, dtype=np.float32), "bias": np.full(2, -0.5, np.float32)},
    },
    "batch_stats": {"bn": {"mean": np.full(3, 7, np.float32)}},
}


def leaves(tree, name=""):
    """`{"params/head/bias": array, ...}`"""
    if not isinstance(tree, dict):
        return {name: np.asarray(tree)}
    return {k: v for key in tree for k, v in leaves(tree[key], f"{name}/{key}").items()}


@pytest.mark.parametrize("converged", [True, False])
def test_what_is_written_is_read(tmp_path, converged):
    """Views whose order in memory is another, too, and arrays of JAX; in a folder yet to make."""
    variables = VARIABLES | {"params": VARIABLES["params"] | {"turned": {"x": np.ones((3, 2)).T}}}
    variables["params"]["head"]["bias"] = jnp.full(2, -0.5)
    classifier = PairClassifier(variables, np.float64(1 / 3), np.int32(7), converged)
    write_pair(tmp_path / "pairs", 11, 3, classifier)
    assert [path.name for path in (tmp_path / "pairs").iterdir()] == ["003-011.safetensors"]
    found = read_pair(tmp_path / "pairs", 3, 11)
    assert (found.accuracy, found.epochs, found.converged) == (1 / 3, 7, converged)
    expected, found = leaves(variables), leaves(found.variables)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    # Other programs read the same file.
    arrays = safetensors.numpy.load_file(tmp_path / "pairs" / "003-011.safetensors")
    np.testing.assert_array_equal(arrays["batch_stats/bn/mean"], [7, 7, 7])


def test_a_head_has_no_statistics(tmp_path):
    variables = {"params": {"head": VARIABLES["params"]["head"]}, "batch_stats": {}}
    write_pair(tmp_path, 0, 1000, PairClassifier(variables, 1.0, 1, True))
    assert read_pair(tmp_path, 1000, 0).variables["batch_stats"] == {}
    assert pair_path(tmp_path, 1000, 0) == tmp_path / "000-1000.safetensors"


def test_files_that_are_not_there_or_damaged(tmp_path):
    with pytest.raises(ValueError, match=r"002-005\.safetensors does not exist"):
        read_pair(tmp_path, 5, 2)
    write_pair(tmp_path, 2, 5, PairClassifier(VARIABLES, 1.0, 1, True))
    path = pair_path(tmp_path, 2, 5)
    whole = path.read_bytes()
    plain = safetensors.numpy.save({"params/head/bias": np.zeros(2)})
    other = safetensors.numpy.save({"params/head/bias": np.zeros(2)}, metadata={"epochs": "1"})
    for content in (b"", whole[:-1], whole[:20], plain, other, whole.replace(b"True", b"Trve")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"002-005\.safetensors is damaged \(.+\)$"):
            read_pair(tmp_path, 2, 5)


def test_a_class_is_no_pair(tmp_path):
    with pytest.raises(ValueError, match="class 4 cannot be told from itself"):
        pair_path(tmp_path, 4, 4)
