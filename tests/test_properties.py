# SPDX-License-Identifier: Apache-2.0
"""Any shape, axes, mask, dtype and mean: hypothesis draws, the oracle judges."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxbn
from tests import cases
from tests.cases import Case


@st.composite
def draws(draw):
    """A case with a name that seeds its numbers."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=4)))
    num_axes = draw(st.integers(1, len(shape) - 1))
    axes = draw(st.permutations(range(len(shape))))[:num_axes]
    if 0 not in axes and draw(st.integers(0, 9)) == 0:
        shape = (0, *shape[1:])
    axis = tuple(a - draw(st.sampled_from([0, len(shape)])) for a in axes)
    # The kinds that align with the leading axes need the features to be last.
    last = sorted(axes) == [len(shape) - 1]
    kinds = [None, "same_rank"]
    if last and shape[0] > 1:
        kinds += ["examples", "steps", "integers", "weights", "one", "nothing"]
    dtype = draw(st.sampled_from(["float32", "float64", "float16", "bfloat16"]))
    mean = draw(st.sampled_from([0.0, -1.0, 100.0, 1e4, -1e4]))
    return Case(
        name=f"drawn {draw(st.integers(0, 2**32))}",
        shape=shape,
        axis=axis[0] if num_axes == 1 and draw(st.booleans()) else axis,
        dtype=dtype,
        mean=mean if dtype in ("float32", "float64") else np.sign(mean),
        deviation=draw(st.sampled_from([1.0, 1e-3, 0.0])),
        mask=draw(st.sampled_from(kinds)),
        affine=draw(st.booleans()),
        residual=draw(st.booleans()),
        activation=draw(st.sampled_from(list(cases.ACTIVATIONS))),
    )


@settings(max_examples=150)
@given(draws())
def test_forward_and_backward(case):
    with jax.enable_x64(case.dtype == "float64"):
        data = cases.make(case)
        ref = cases.reference(case, data)
        if len(ref.x) == 1:
            return  # refused, as its own test says
        options = cases.options(case, data)

        @jax.jit
        def run(x, scale, bias, residual):
            def function(x, scale, bias, residual):
                return jaxbn.batch_norm(
                    x, scale, bias, **{**options, "residual": residual}
                )

            (y, moments), vjp = jax.vjp(function, x, scale, bias, residual)
            cotangent = jaxbn.Moments(
                jnp.asarray(data.dmean), jnp.asarray(data.dvar), moments.count
            )
            return y, moments, vjp((jnp.asarray(data.dy), cotangent))

        y, moments, gradients = run(*cases.arrays(data), options["residual"])
        cases.check_forward(case, data, y, moments)
        cases.check_gradients(case, data, gradients)
