# SPDX-License-Identifier: Apache-2.0
"""A strict environment for every test.

jaxbn must not be imported here at the top: jaxtyping's hook has to see it first.
"""

import gc
import itertools
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Lean BLAS and XLA threads: the workers of pytest-xdist share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiled programs are shared by the workers and the processes that tests start, and
# kept for the next run: XLA takes most of the time. The key is the program and jaxlib.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    Path(__file__).parents[1] / ".pytest_cache" / "xla"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest

from tests.cases import CASES

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compilation dwarfs any deadline, and makes shrinking take minutes; in `ci` every run
# draws the same cases.
COMMON = {"deadline": None, "print_blob": True, "phases": [hypothesis.Phase.generate]}
hypothesis.settings.register_profile("ci", derandomize=True, max_examples=15, **COMMON)
hypothesis.settings.register_profile(
    "fuzz", max_examples=int(os.environ.get("DRAWS", "1000")), **COMMON
)
hypothesis.settings.load_profile("ci")

MAPS, MOST = Path("/proc/self/maps"), 20_000
"""Linux gives a process 65,530 regions of memory. A compiled program takes about six,
and XLA's compiler crashes where there are none left."""
_ended = itertools.count(1)


def pytest_runtest_teardown():
    """Frees the compiled programs of earlier tests before they are too many."""
    if next(_ended) % 20 == 0 and MAPS.exists():
        with MAPS.open("rb") as regions:
            many = sum(1 for _ in regions) > MOST
        if many:
            jax.clear_caches()
            gc.collect()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by the name of the test."""
    return np.random.default_rng(list(request.node.name.encode()))


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest):
    """Each of the common cases, in double precision where it asks for it."""
    with jax.enable_x64(request.param.dtype == "float64"):
        yield request.param


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def without_type_checker():
    """Users run without jaxtyping's hook, which would answer before our checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def as_users_run_it():
    """Flax and optax rely on implicit promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
