"""One model, whatever trains it: one device, many, several processes, parts of batches."""

from __future__ import annotations

import csv
import itertools
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from minmax_jax import parallel
from minmax_jax.train import Stage, restore_best
from tests.ports import reserve_address
from tests.train.training import BATCH, Batches, Repeated, make_network, train

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def alone(network, tmp_path_factory):
    return train(network, tmp_path_factory.mktemp("alone"))


def losses(history):
    return [float(row[name]) for row in history for name in ("train_loss", "validation_loss")]


def assert_close(first, second, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), first, second)


def test_eight_devices_train_as_one(network, alone, tmp_path):
    fitted = train(network, tmp_path, mesh=parallel.make_mesh())
    assert len(jax.tree.leaves(fitted.variables)[0].sharding.device_set) == 8
    assert len(alone.history) == 5
    np.testing.assert_allclose(losses(fitted.history), losses(alone.history), atol=1e-5)
    assert_close(fitted.variables, alone.variables, 1e-4)


def test_a_run_goes_on_with_another_number_of_devices(network, alone, tmp_path):
    class Broken(Batches):
        def from_batch(self, start):
            yield from itertools.islice(super().from_batch(start), 27 - start)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(network, tmp_path, batches=Broken(), mesh=parallel.make_mesh(), save_seconds=0.0)
    fitted = train(network, tmp_path)
    assert len(jax.tree.leaves(fitted.variables)[0].sharding.device_set) == 1
    np.testing.assert_allclose(losses(fitted.history), losses(alone.history), atol=1e-5)


def test_two_processes_train_as_one(network, alone, tmp_path):
    """Two devices each; only the first process writes."""
    address, held = reserve_address()
    command = [sys.executable, "-m", "tests.train.training", address, "2"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    started = [
        subprocess.Popen(
            [*command, str(process), str(tmp_path)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    with held:
        printed = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert "epoch   5" in printed[0] and "epoch" not in printed[1]
    with open(tmp_path / "metrics.csv", newline="") as file:
        history = list(csv.DictReader(file))
    np.testing.assert_allclose(losses(history), losses(alone.history), atol=1e-5)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    # What several processes have written is read by one.
    assert_close(restore_best(tmp_path, network), alone.variables, 1e-4)


def test_parts_of_a_batch_train_as_the_whole(tmp_path):
    """Where no batch statistics and no dropout tell the parts from the whole; sharded, too."""
    network = make_network(dropout=0.0)
    options = {"stages": [Stage(2, 0.02)], "frozen_statistics": True}
    whole = train(network, tmp_path / "whole", **options)
    mesh = parallel.make_mesh(jax.devices()[:2])
    parts = train(network, tmp_path / "parts", accumulate=4, mesh=mesh, **options)
    np.testing.assert_allclose(losses(parts.history), losses(whole.history), atol=1e-5)
    assert_close(parts.variables, whole.variables, 1e-4)


def test_parts_see_their_own_statistics(network, tmp_path):
    """Each part moves the stored statistics once, in turn."""
    stages = [Stage(1, 0.0)]
    once = train(network, tmp_path / "once", stages=stages)
    parts = train(network, tmp_path / "parts", stages=stages, accumulate=4)
    start = network.init(jax.random.key(0))["batch_stats"]["stem_bn"]["var"]
    moved = [
        np.abs(run.variables["batch_stats"]["stem_bn"]["var"] - start).mean()
        for run in (once, parts)
    ]
    assert moved[1] > 1.01 * moved[0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 3}, f"a batch of {BATCH} cannot be split into 3 parts"),
        ({"accumulate": 4, "mesh": 8}, "4 rows cannot be split evenly over 8 devices"),
        ({"mesh": 3}, f"{BATCH} rows cannot be split evenly over 3 devices"),
    ],
)
def test_batches_that_cannot_be_split(network, tmp_path, options, message):
    if "mesh" in options:
        options = options | {"mesh": parallel.make_mesh(jax.devices()[: options["mesh"]])}
    with pytest.raises(ValueError, match=message):
        train(network, tmp_path, **options)


def test_cached_features_train_the_same_head(network, tmp_path):
    """With dropout; the frozen layers see each image once."""
    stages, seen = [Stage(3, 0.1, unfrozen=0.0), Stage(1, 0.02)], []

    class Counted(Repeated):
        def from_batch(self, start):
            for batch in super().from_batch(start):
                seen.append(start)
                yield batch

    plain = train(network, tmp_path / "plain", stages=stages, batches=Repeated())
    options = {"stages": stages, "batches": Counted(), "cache_features": True}
    cached = train(network, tmp_path / "cached", **options, mesh=parallel.make_mesh())
    assert set(seen) == {30}, "images are asked for only after the stage of the head"
    np.testing.assert_allclose(losses(cached.history), losses(plain.history), atol=1e-5)
    assert_close(cached.variables, plain.variables, 1e-4)


def test_bfloat16_trains_nearly_the_same(alone, tmp_path):
    fitted = train(make_network(dtype="bfloat16"), tmp_path)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(fitted.variables))
    differences = np.abs(np.subtract(losses(fitted.history), losses(alone.history)))
    assert 0 < differences.max() < 0.05
