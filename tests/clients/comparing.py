# SPDX-License-Identifier: Apache-2.0
"""Two runs of one program, and how far they may be apart.

Before any update, nothing is amplified: losses, outputs and gradients differ by what
float32 rounds in a few layers, at most AT_FIRST.

Training amplifies rounding: by how much depends on the program, its learning rate and
the number of steps, and cannot be known without running it. Each program is therefore
run a third time, with Flax's other way to compute the same variance
(`use_fast_variance=False`), which changes the original by its own rounding and nothing
else. After training, jaxbn's numbers may differ from the original's by FACTOR times as
much as these do, or by ROUNDINGS of each step, where that is more.

One thing is not amplified but happens or not: a ReLU whose input is 0 but for rounding
lets an example's gradient through in one run and not in the other. Two ways to round
differ there by a whole example's share of a gradient; a program of few activations may
meet no such input, or one. KINK allows for it.

A bias in front of a batch norm has no effect on a batch, and its gradient is 0 but for
rounding. Adam divides a gradient by its own size: such a bias walks about, in steps of
the learning rate, wherever rounding takes it, and the norm's running mean follows it.
Two runs of the original are as far apart. These leaves have a row of their own, so that
they do not hide what the others do.
"""

import functools
import re
import types
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from tests.tolerance import unit

# Both differences are the largest of thousands of values from the same distribution,
# amplified along the same directions: they are alike, but not equal.
FACTOR = 8
# A step rounds a value a few times: in the norm, the layers, the optimizer.
ROUNDINGS = 8
# A loss or an output of the first step, before anything is amplified: sums of some
# thousand terms in float32, through a few layers.
AT_FIRST = 100 * unit(np.float32)
# One of the hundred or so examples of a batch, for some steps.
KINK = 0.01


TINY = float(np.finfo(np.float64).tiny)


class Run(NamedTuple):
    """What one run of a program leaves."""

    start: Any  # the variables at initialization
    end: Any  # after training
    first: dict[str, Any]  # numbers that come before any update, gradients flat
    values: dict[str, Any]  # losses, outputs after training
    norms: set[type]  # the classes of the norms that ran


class FlaxInTwoPasses(nn.BatchNorm):
    """Flax's norm with the variance as the mean of squared deviations."""

    use_fast_variance: bool = False


# The names of scopes and parameters are made from the name of the class.
FlaxInTwoPasses.__name__ = FlaxInTwoPasses.__qualname__ = "BatchNorm"

LINEN = {
    "flax": nn.BatchNorm,
    "two passes": FlaxInTwoPasses,
    "jaxbn": jaxbn.linen.BatchNorm,
}
NNX = {
    "flax": nnx.BatchNorm,
    "two passes": functools.partial(nnx.BatchNorm, use_fast_variance=False),
    "jaxbn": jaxbn.nnx.BatchNorm,
}


def linen_with(norm: type[nn.Module]) -> types.ModuleType:
    """`flax.linen` with another norm, for a program that says `nn.BatchNorm`.

    As if the program had imported it under that name.
    """
    view = types.ModuleType(nn.__name__)
    view.__dict__.update(vars(nn))
    view.BatchNorm = norm
    return view


def watched(run: Callable[[], tuple]) -> Run:
    """Runs a program from an empty cache, and notes the classes of its norms.

    Programs hold jitted functions whose keys do not name the norm: without clearing the
    cache the second run would be the first again.
    """
    jax.clear_caches()
    norms = set()

    def note(call, args, kwargs, context):
        kind = type(context.module)
        if "Norm" in kind.__name__ or "Renorm" in kind.__name__:
            norms.add(kind)
        return call(*args, **kwargs)

    def note_nnx(kind, call):
        @functools.wraps(call)
        def noted(*args, **kwargs):
            norms.add(kind)
            return call(*args, **kwargs)

        return noted

    with nn.intercept_methods(note), pytest.MonkeyPatch.context() as patch:
        for kind in (nnx.BatchNorm, jaxbn.nnx.BatchNorm):
            patch.setattr(kind, "__call__", note_nnx(kind, kind.__call__))
        found = run()
    return Run(*jax.device_get(found), norms)


def by_path(tree: Any) -> dict[str, np.ndarray]:
    """The leaves by names such as `params/norm/scale`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def difference(a: Any, b: Any) -> float:
    """The largest difference of any leaf, in parts of the leaf's largest value.

    A leaf that has only begun to move from 0 is measured by a thousandth of the others.
    """
    a, b = (
        {name: np.float64(leaf) for name, leaf in by_path(tree).items()}
        for tree in (a, b)
    )
    assert all(np.isfinite(leaf).all() for leaf in (*a.values(), *b.values()))
    sizes = {name: np.abs(leaf).max(initial=0) for name, leaf in a.items()}
    least = max(sizes.values()) / 1000
    return max(
        float(np.abs(a[name] - b[name]).max(initial=0)) / max(size, least, TINY)
        for name, size in sizes.items()
    )


def check_same_kinds(a: Any, b: Any) -> None:
    """Names, shapes and dtypes."""

    def kinds(tree):
        return {k: (v.shape, v.dtype) for k, v in by_path(tree).items()}

    assert kinds(a) == kinds(b)


def check_same_variables(a: Any, b: Any) -> None:
    """Names, shapes, dtypes and values: initialization draws the same numbers.

    Statistics may have seen a first batch: NumPyro initializes by running its model.
    """
    check_same_kinds(a, b)
    a, b = by_path(a), by_path(b)
    for name in a:
        if name.startswith("batch_stats"):
            assert difference(a[name], b[name]) <= AT_FIRST, name
        else:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class Row(NamedTuple):
    """A row of the table: one group of numbers of one program."""

    program: str
    what: str
    steps: int
    allowed: float
    ours: float  # the difference between jaxbn and the original
    theirs: float | None = None  # the same of the original in two passes
    accurate: float | None = None  # between jaxbn and the original in two passes


def version(package: str) -> str:
    """The package and its version."""
    return f"{package} {metadata.version(package)}"


def compare(
    program: str,
    steps: int,
    runs: dict[str, Run],
    *,
    free: str | None = None,
    dtype: type = np.float32,
) -> list[Row]:
    """Asserts that the runs have the same variables; returns how far they are apart.

    `free` matches the leaves that training leaves free: biases in front of norms. In
    `dtype` the program computes.
    """
    original, again, ours = (runs[name] for name in LINEN)
    assert original.norms and not original.norms & ours.norms
    assert all(is_ours(kind) for kind in ours.norms), ours.norms
    check_same_variables(original.start, ours.start)
    check_same_kinds(original.end, ours.end)
    before, after = [
        [groups(run) for run in (original, ours, again)]
        for groups in (lambda run: run.first, lambda run: groups_after(run, free))
    ]
    # In half precision the layers' outputs are rounded, the sums in between are not.
    first = AT_FIRST if dtype == np.float32 else ROUNDINGS * unit(dtype)
    rows = []
    for name in before[0]:
        rows.append(Row(program, name, 0, first, *differences(name, before)))
    for name in after[0]:
        found = differences(name, after)
        rounded = ROUNDINGS * steps * unit(dtype)
        allowed = max(FACTOR * found[1], rounded, KINK)
        rows.append(Row(program, name, steps, allowed, *found))
    return rows


def differences(name: str, groups: list[dict[str, Any]]) -> list[float]:
    """Between jaxbn and the original, the original's two ways, jaxbn and the second."""
    original, ours, again = (group[name] for group in groups)
    pairs = ((original, ours), (original, again), (again, ours))
    return [difference(*pair) for pair in pairs]


def is_ours(norm: type) -> bool:
    """Whether it is jaxbn's, or an adapter made from jaxbn's."""
    return any(kind.__module__.startswith("jaxbn.") for kind in norm.__mro__)


def groups_after(run: Run, free: str | None) -> dict[str, Any]:
    """What is compared as one, after training."""
    groups = dict(run.values)
    for name, leaf in by_path(run.end).items():
        group = name.split("/")[0]
        if free is not None and re.search(free, name):
            group += " left free"
        groups.setdefault(group, {})[name] = leaf
    return groups
