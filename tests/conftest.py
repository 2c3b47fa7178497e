"""Shared by all tests: several fake CPU devices, strict broadcasting, real data if at hand."""

from __future__ import annotations

import os
import pathlib

# Most of the time goes into compiling; at this level XLA compiles a third sooner.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """Folder of real photos and weights, named by `MINMAX_JAX_REAL_DATA`."""
    folder = os.environ.get("MINMAX_JAX_REAL_DATA")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("MINMAX_JAX_REAL_DATA does not name a folder of real photos and weights")
    return pathlib.Path(folder)
