# SPDX-License-Identifier: Apache-2.0
"""Parts of networks in plain JAX, and the comparison of a folded one with itself."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from jaxbn.folding import fold


def draw(rng, *shape, low=None):
    """Normal values, or uniform ones from `low` to 2."""
    x = rng.normal(size=shape) if low is None else rng.uniform(low, 2, shape)
    return x.astype(np.float32)


def draw_norm(rng, features):
    """A norm whose shift is small: of inputs a large one would stay."""
    return {
        "mean": draw(rng, features) / 2,
        "var": draw(rng, features, low=0.5),
        "scale": draw(rng, features).clip(-2, 2),
        "bias": draw(rng, features),
    }


def norm(z, p, axis=-1):
    """Batch norm in inference, in the dtype of `z`."""
    shape = [1] * z.ndim
    shape[axis] = -1
    mean, var, scale, bias = (
        p[k].astype(z.dtype).reshape(shape) for k in ("mean", "var", "scale", "bias")
    )
    return (z - mean) * jax.lax.rsqrt(var + jnp.asarray(1e-5, z.dtype)) * scale + bias


def in_double(tree):
    return jax.tree.map(lambda a: a.astype(np.float64), tree)


def primitives(function, *arguments):
    """The names of all operations, in calls too."""

    def names(jaxpr):
        for equation in jaxpr.eqns:
            bodies = [*jaxprs_in_params(equation.params)]
            for body in bodies:
                yield from names(getattr(body, "jaxpr", body))
            if not bodies:
                yield equation.primitive.name

    return list(names(jax.make_jaxpr(function)(*arguments).jaxpr))


def _both(function, params, folded, inputs):
    """What a function and the folded one return, as one program that runs once."""

    def run(params, folded, inputs):
        return function(params, *inputs), folded(*inputs)

    # Compiling takes nearly all of the time.
    quick = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    return jax.tree.map(np.asarray, quick(params, folded, inputs))


def check_equal(function, params, *inputs, left=0, dtype=np.float32):
    """Folds, and compares with the unfolded function in double precision.

    The folded one must be as exact as the unfolded one is in the given dtype.
    """
    narrow = [jnp.asarray(x, dtype) for x in inputs]
    cast = jax.tree.map(lambda a: jnp.asarray(a, dtype), params)
    folded = fold(function, cast, *narrow)
    assert sum(entry.reason is not None for entry in folded.report) == left
    with jax.enable_x64(True):
        wide = [np.asarray(x).astype(np.float64) for x in narrow]
        expected, exact = _both(
            function, in_double(cast), fold(function, in_double(cast), *wide), wide
        )
    assert exact.dtype == np.float64
    assert np.abs(exact - expected).max() <= 1e-12 * np.abs(expected).max()
    unfolded, y = _both(function, cast, folded, narrow)
    assert y.dtype == unfolded.dtype == dtype and y.shape == unfolded.shape
    off = np.abs(np.asarray(y, np.float64) - expected).max()
    before = np.abs(np.asarray(unfolded, np.float64) - expected).max()
    rounding = float(jnp.finfo(dtype).eps) * np.abs(expected).max()
    assert off <= 3 * before + 3 * rounding, (off, before, rounding)
    if not left:
        assert not {"sub", "mul", "div", "rsqrt", "sqrt"} & {
            *primitives(folded.function, folded.params, *narrow)
        }
    return folded
