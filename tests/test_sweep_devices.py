"""One evaluation, whatever makes it: one device, many, several processes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from minmax_jax import parallel, preemption
from tests import sweeping
from tests.ports import reserve_address

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def alone():
    return sweeping.evaluate()


def assert_same(found, alone, tolerance=1e-6):
    """Numbers of pairs, and every metric of every label."""
    assert found["settings"] == alone["settings"] and found["settings"]["images"] == 11
    for method, expected in alone["methods"].items():
        result = found["methods"][method]
        for name in ("pairs", "localized_pairs"):
            assert result[name] == expected[name] and min(expected[name]) > 0
        for metric, values in expected["per_label"].items():
            assert result["per_label"][metric] == pytest.approx(values, abs=tolerance), metric
        for part in ("macro", "micro"):
            assert result[part] == pytest.approx(expected[part], abs=tolerance)


@pytest.mark.parametrize("devices", [2, 8])
def test_many_devices_count_what_one_does(devices, alone):
    found = sweeping.evaluate(mesh=parallel.make_mesh(jax.devices()[:devices]))
    assert_same(found, alone)
    assert found["passes"]["masked"] == alone["passes"]["masked"]


def test_a_run_goes_on_with_more_devices(alone, tmp_path):
    """Of one device's pieces of four images, eight get no equal part."""
    path = tmp_path / "state.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "requested", lambda: True)
        with pytest.raises(preemption.Preempted):
            sweeping.evaluate(state_path=path)
    found = sweeping.evaluate(mesh=parallel.make_mesh(jax.devices()), state_path=path)
    assert_same(found, alone)
    assert found["passes"]["masked"] == alone["passes"]["masked"]


def two_processes(state, stop_after=0):
    """Two devices each; what they end with, and their results. Programs are compiled once."""
    address, held = reserve_address()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.sweeping", address, "2", str(process), str(state)]
            + [str(stop_after)],
            cwd=ROOT,
            env=os.environ
            | {
                "JAX_NUM_CPU_DEVICES": "2",
                "JAX_COMPILATION_CACHE_DIR": str(state.parent / "programs"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    printed = [process.communicate(timeout=240)[0] for process in started]
    held.close()
    codes = [process.returncode for process in started]
    if stop_after:
        return codes, None
    assert codes == [0, 0], printed
    lines = [line for text in printed for line in text.splitlines() if line.startswith("RESULT ")]
    return codes, [json.loads(line.removeprefix("RESULT ")) for line in lines]


def test_two_processes_count_what_one_does_also_after_a_kill(alone, tmp_path):
    _, (first, second) = two_processes(tmp_path / "whole.npz")
    assert first == second and first["devices"] == 2
    assert_same(first, alone)
    assert first["passes"]["masked"] == alone["passes"]["masked"]
    codes, _ = two_processes(tmp_path / "killed.npz", stop_after=2)
    assert 0 not in codes
    files = sorted(path.name for path in tmp_path.glob("killed*.npz"))
    assert files == ["killed.0-of-2.npz", "killed.1-of-2.npz"]
    _, (again, _) = two_processes(tmp_path / "killed.npz")
    for result in (first, again):
        for part in (result, *result["methods"].values()):
            del part["seconds"]
    assert again == first  # bit-identical
