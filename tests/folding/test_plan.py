# SPDX-License-Identifier: Apache-2.0
"""The folded function: its params, and that it can be used as any other."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export

from jaxbn.folding import fold
from tests.folding.networks import draw, draw_norm, norm, primitives


@pytest.fixture
def params(rng):
    return {
        "layers": [
            {"kernel": draw(rng, 4, 5), "bias": draw(rng, 1, 5)},
            {"kernel": jnp.asarray(draw(rng, 5, 5), jnp.bfloat16)},
        ],
        "norm": draw_norm(rng, 5),
        "gate": draw(rng, 1, 5),
    }


def network(p, x):
    first, second = p["layers"]
    z = norm(x @ first["kernel"] + first["bias"], p["norm"])
    z = jax.nn.relu(z).astype(jnp.bfloat16) @ second["kernel"]
    return z.astype(jnp.float32) + jax.nn.softplus(p["gate"] @ p["gate"].T)


@pytest.fixture
def folded(params, rng):
    return fold(network, params, draw(rng, 2, 4))


def test_names_shapes_and_dtypes(folded):
    """What was not touched keeps its dtype; what was computed of params is one."""
    assert {k: (v.shape, v.dtype.name) for k, v in folded.params.items()} == {
        "layers/0/kernel": ((4, 5), "float32"),
        "layers/0/bias": ((5,), "float32"),
        "layers/1/kernel": ((5, 5), "bfloat16"),
        "gate": ((1, 1), "float32"),
    }


def test_params_that_are_not_touched_are_the_same_arrays(rng):
    params = {"a": jnp.asarray(draw(rng, 4, 4)), "b": jnp.asarray(draw(rng, 4, 4))}
    params["norm"] = draw_norm(rng, 4)
    before = np.array(params["a"])
    folded = fold(
        lambda p, x: jnp.tanh(norm(x @ p["a"], p["norm"])) @ p["b"].T,
        params,
        draw(rng, 1, 4),
    )
    assert folded.params["b"] is params["b"]
    np.testing.assert_array_equal(params["a"], before)


def test_what_depends_on_params_alone_is_not_computed_again(folded, rng):
    found = primitives(folded.function, folded.params, draw(rng, 2, 4))
    assert found.count("dot_general") == 2
    assert not {"custom_jvp_call", "log1p", "exp", "rsqrt", "mul"} & {*found}


def test_any_batch_and_transformation(folded, params, rng):
    x = draw(rng, 7, 4)
    expected = network(params, x)
    close = {"rtol": 0.05, "atol": 0.1}  # bfloat16 in between
    np.testing.assert_allclose(folded(x), expected, **close)
    jitted = jax.jit(lambda folded, x: folded(x))(folded, x)
    np.testing.assert_allclose(jitted, expected, **close)
    each = jax.vmap(lambda row: folded(row[None])[0])(x)
    np.testing.assert_allclose(each, expected, **close)
    gradient = jax.grad(lambda p: folded.function(p, x).sum())(folded.params)
    assert jax.tree.all(jax.tree.map(lambda g: np.isfinite(g).all(), gradient))


def test_a_pytree_of_params(folded):
    leaves, tree = jax.tree.flatten(folded)
    assert len(leaves) == len(folded.params)
    again = jax.tree.unflatten(tree, leaves)
    assert again.report == folded.report and again.function is folded.function


def test_exported_with_a_symbolic_batch(folded, params, rng):
    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, 4), jnp.float32)
    exported = export.export(jax.jit(folded.function))(folded.params, shape)
    loaded = export.deserialize(exported.serialize())
    for size in (1, 3):
        x = draw(rng, size, 4)
        np.testing.assert_allclose(
            loaded.call(folded.params, x), folded(x), rtol=1e-5, atol=1e-5
        )


def test_folded_for_a_symbolic_batch(params, folded, rng):
    (batch,) = export.symbolic_shape("batch")
    symbolic = fold(network, params, jax.ShapeDtypeStruct((batch, 4), jnp.float32))
    x = draw(rng, 3, 4)
    np.testing.assert_array_equal(symbolic(x), folded(x))


def test_saved_and_loaded(folded, rng):
    x = draw(rng, 3, 4)
    wide = {k: np.asarray(v.astype(jnp.float32)) for k, v in folded.params.items()}
    file = io.BytesIO()
    np.savez(file, **wide)
    loaded = dict(np.load(io.BytesIO(file.getvalue())))
    like = folded.params
    loaded = {k: jnp.asarray(v, like[k].dtype) for k, v in loaded.items()}
    np.testing.assert_array_equal(folded.function(loaded, x), folded(x))


def test_a_norm_that_is_left_computes_its_scale_once(rng):
    params = {"norm": draw_norm(rng, 4)}
    x = draw(rng, 3, 4)
    folded = fold(lambda p, x: jnp.tanh(norm(jnp.tanh(x), p["norm"])), params, x)
    assert folded.report[0].reason is not None
    assert "rsqrt" not in primitives(folded.function, folded.params, x)
    assert {*folded.params} == {f"norm/{k}" for k in ("mean", "var", "scale", "bias")}
    np.testing.assert_allclose(
        folded(x), jnp.tanh(norm(jnp.tanh(x), params["norm"])), rtol=1e-5, atol=1e-6
    )


def test_outputs_that_are_params(rng):
    params = {"kernel": draw(rng, 4, 4), "norm": draw_norm(rng, 4)}
    x = draw(rng, 3, 4)

    def network(p, x):
        return {"y": norm(x @ p["kernel"], p["norm"]), "old": p["norm"]["mean"] * 2}

    outputs = fold(network, params, x)(x)
    np.testing.assert_array_equal(outputs["old"], params["norm"]["mean"] * 2)


def test_effects_are_kept(rng, capfd):
    params = {"kernel": draw(rng, 4, 4), "norm": draw_norm(rng, 4)}

    def network(p, x):
        z = x @ p["kernel"]
        jax.debug.print("mean {}", x.mean())
        return norm(z, p["norm"])

    folded = fold(network, params, draw(rng, 3, 4))
    capfd.readouterr()
    folded(np.ones((2, 4), np.float32)).block_until_ready()
    jax.effects_barrier()
    assert capfd.readouterr().out == "mean 1.0\n"


def test_a_bias_costs_no_transposition(rng):
    """It is added in the order of ONNX, of which XLA leaves nothing.

    That of a convolution without a norm too: else an exporter would add it apart.
    """
    layers = nn.Conv(4, (3, 3)), nn.Conv(2, (1, 1))
    x = draw(rng, 2, 5, 5, 3)
    params = {"norm": draw_norm(rng, 4), "conv": layers[0].init(jax.random.key(0), x)}
    params["last"] = layers[1].init(jax.random.key(1), x[..., :1].repeat(4, -1))

    def network(p, x):
        z = jnp.tanh(norm(layers[0].apply(p["conv"], x), p["norm"]))
        return layers[1].apply(p["last"], z)

    folded = fold(network, params, x)
    found = primitives(folded.function, folded.params, x)
    layer = ["conv_general_dilated", *["transpose"] * 2, "add", *["transpose"] * 2]
    is_kept = {*layer, "tanh"}
    assert [name for name in found if name in is_kept] == [*layer, "tanh", *layer]
    compiled = jax.jit(folded.function).lower(folded.params, x).compile()
    assert " transpose(" not in compiled.as_text()
    np.testing.assert_allclose(folded(x), network(params, x), rtol=1e-5, atol=1e-5)
