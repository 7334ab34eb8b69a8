# SPDX-License-Identifier: Apache-2.0
"""One library on one scenario: how far off it is, or what it says."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.cases import DTYPES
from tests.comparison import scenarios, torch_library
from tests.comparison.libraries import AXIS, JAX_LIBRARIES, Library, population
from tests.comparison.rules import average, bessel, merged, unbiased
from tests.comparison.scenarios import SHARDS, Scenario

QUANTITIES = ("output", "gradients", "statistics", "evaluation")
TORCH = Library(
    "torch", "torch", None, None, bessel, synchronises=False,
    rules={"average": lambda m: average(unbiased(m)), "unbiased": bessel,
           "population": merged},
)  # fmt: skip
LIBRARIES = [*JAX_LIBRARIES, TORCH]


class Outcome(NamedTuple):
    """The worst errors by quantity; or what was raised; or neither: no such feature.

    Where nothing is to be computed, a warning of the number of values is as good.
    """

    errors: dict[str, float] | None = None
    raised: str = ""

    def right(self, scenario: Scenario, quantity: str) -> bool | None:
        """Whether it is; None without the feature."""
        if self.raised:
            named = self.raised.startswith(("ValueError", "UserWarning"))
            return scenario.refuse and named
        if self.errors is None:
            return None
        return not scenario.refuse and self.errors[quantity] <= scenario.limit(quantity)


def supports(library: Library, scenario: Scenario) -> bool:
    """Whether it has the feature at all, right or wrong."""
    return (
        (library.masks or scenario.mask is None)
        and (library.synchronises or scenario.shards == 1)
        and (library.groups or scenario.groups is None)
        and (scenario.rule is None or scenario.rule in library.rules)
        and not (scenario.explicit and library is TORCH)
    )


def trial(library: Library, scenario: Scenario) -> Outcome:
    """Runs the scenario and holds the library against the oracle."""
    if not supports(library, scenario):
        return Outcome()
    data = scenarios.make(scenario)
    run = torch_library.run if library is TORCH else run_jax(library)
    double = jax.enable_x64(scenario.dtype == "float64")
    with double, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            got = run(scenario, data)
        except Exception as error:
            lines = str(error).strip().splitlines() or ["(no message)"]
            return Outcome(raised=f"{type(error).__name__}: {lines[0]}")
    warned = [w for w in caught if "one value per" in str(w.message)]
    if scenario.refuse and warned:
        return Outcome(raised=f"{warned[0].category.__name__}: {warned[0].message}")
    rule = library.rules[scenario.rule] if scenario.rule else library.convention
    truth = scenarios.truth(scenario, data, rule)
    return Outcome(dict(zip(QUANTITIES, errors(data, got, truth), strict=True)))


def errors(data, got, truth):
    """Each against the spread of the values it is of."""
    y, gradients, mean, var, evaluated = got
    counts = slice(None) if data.mask is None else data.mask != 0
    spread = truth.var + scenarios.EPSILON
    off_mean = worst((mean - truth.mean) / (np.abs(truth.mean) + np.sqrt(spread)))
    size = max(1, np.max(np.abs(truth.evaluated[counts]), initial=0))
    found = (
        worst(y[counts] - truth.output[counts]),
        max(
            worst(g - t) / (np.max(np.abs(t), initial=0) or 1)
            for g, t in zip(gradients, truth.gradients, strict=True)
        ),
        max(off_mean, worst((var - truth.var) / spread)),
        worst(evaluated[counts] - truth.evaluated[counts]) / size,
    )
    return tuple(map(float, found))


def worst(off):
    """The largest error; infinite where something is not a number."""
    off = np.abs(off)
    return float(np.max(np.where(np.isnan(off), np.inf, off), initial=0))


def run_jax(library):
    """Runs a JAX library: the first step's output and gradients, and what is kept."""

    def run(scenario, data):
        sync = {"axis_name": AXIS} if scenario.shards > 1 else {}
        if scenario.groups:
            sync["axis_index_groups"] = [list(g) for g in scenario.groups]
        dtype = np.dtype(DTYPES[scenario.dtype])
        state, apply = library.make(scenario.shape[-1], dtype, sync, scenario.rule)
        step = jax.jit(cut(library, scenario, training_step(apply)))
        scale, bias = jnp.asarray(data.scale), jnp.asarray(data.bias)
        mask = None if data.mask is None else jnp.asarray(data.mask)
        placed = jax.NamedSharding(jax.make_mesh((SHARDS,), (AXIS,)), P(AXIS))
        placed = placed if scenario.explicit else None
        dy = jax.device_put(data.dy, placed)
        first = None
        for batch in data.batches:
            x = jax.device_put(batch, placed)
            y, gradients, states = step(scale, bias, state, x, mask, dy)
            state = jax.tree.map(lambda a: a[0], states)
            first = first or (y, gradients)
        if scenario.rule == "population":
            state = population(data.batches)
        y, (dx, *vectors) = first
        mean, var = library.stats(state)
        x = jnp.asarray(data.batches[0])
        evaluated, _ = apply(scale, bias, state, x, mask, False)
        return as_double((y, (dx, *(v[0] for v in vectors)), mean, var, evaluated))

    return run


def as_double(tree):
    return jax.tree.map(lambda a: np.asarray(a).astype(np.float64), tree)


def training_step(apply):
    """Output, gradients of x, scale, bias, and the new state."""

    def step(scale, bias, state, x, mask, dy):
        def loss(x, scale, bias):
            y, new = apply(scale, bias, state, x, mask, True)
            wide = jnp.promote_types(y.dtype, jnp.float32)
            return jnp.sum(y.astype(wide) * dy.astype(wide)), (y, new)

        gradient = jax.grad(loss, (0, 1, 2), has_aux=True)
        gradients, (y, new) = gradient(x, scale, bias)
        return y, gradients, new

    return step


def cut(library, scenario, step):
    """Maps a step over shards; what is shared comes back once a shard."""

    def stacked(scale, bias, state, x, mask, dy):
        y, (dx, *vectors), new = step(scale, bias, state, x, mask, dy)
        return (
            y,
            (dx, *jax.tree.map(lambda a: a[None], vectors)),
            jax.tree.map(lambda a: a[None], new),
        )

    if scenario.shards == 1:
        return stacked
    if library.over == "vmap":
        return over_vmap(step)
    s = P(AXIS)
    return jax.shard_map(
        stacked,
        mesh=jax.make_mesh((SHARDS,), (AXIS,), axis_types=(AxisType.Auto,)),
        in_specs=(P(), P(), P(), s, s, s),
        out_specs=s,
    )


def over_vmap(step):
    """The shards as an axis of `vmap`; parameters' gradients are summed over it."""

    def mapped(scale, bias, state, x, mask, dy):
        x, dy = (a.reshape(SHARDS, -1, *a.shape[1:]) for a in (x, dy))
        axes = (None, None, None, 0, None, 0)
        y, (dx, *vectors), new = jax.vmap(step, axes, axis_name=AXIS)(
            scale, bias, state, x, mask, dy
        )
        y, dx = (a.reshape(-1, *a.shape[2:]) for a in (y, dx))
        return y, (dx, *(v.sum(0, keepdims=True) for v in vectors)), new

    return mapped
