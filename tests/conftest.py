"""Shared by all tests: several fake CPU devices, strict broadcasting, the toy, real data."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

# Most of the time goes into compiling; at this level XLA compiles a third sooner.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"

import jax  # noqa: E402
import pytest  # noqa: E402

from tests import toys  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# What several tests compile is compiled once. In a folder of this process alone: JAX does not
# guard one against readers of half a file.
PROGRAMS = tempfile.mkdtemp(prefix="minmax_jax-programs-")
jax.config.update("jax_compilation_cache_dir", PROGRAMS)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def pytest_unconfigure():
    shutil.rmtree(PROGRAMS, ignore_errors=True)


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """Folder of real photos and weights, named by `MINMAX_JAX_REAL_DATA`."""
    folder = os.environ.get("MINMAX_JAX_REAL_DATA")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("MINMAX_JAX_REAL_DATA does not name a folder of real photos and weights")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def network():
    """The toy of `tests.toys`; a file that is about another network has a fixture of that name."""
    return toys.toy_network()


@pytest.fixture(scope="session")
def variables():
    return toys.toy_variables()


@pytest.fixture(scope="session")
def images():
    return toys.toy_images(4)
