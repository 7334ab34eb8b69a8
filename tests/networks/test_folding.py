# SPDX-License-Identifier: Apache-2.0
"""Inception-like and DenseNet-like networks of Haiku and Equinox, folded."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn.folding import fold

X = np.random.default_rng(1).normal(size=(4, 6, 6, 3)).astype(np.float32)
DENSE = "because its input is used elsewhere too and its output goes into `relu`"


def blocks(stem, narrow, wide, dense, norm, join):
    """What both networks compute, of their frameworks' layers."""

    def network(x):
        x = jax.nn.relu(norm("inception", join(narrow(x), wide(x))))
        x = stem(x)
        y = dense(jax.nn.relu(norm("dense", x)))
        return norm("last", join(jax.nn.relu(x), y))

    return network


def haiku_network(x, is_training):
    def norm(name, x):
        layer = hk.BatchNorm(True, True, 0.8, name=name)
        return layer(x, is_training)

    return blocks(
        hk.Conv2D(4, 1, name="stem"),
        hk.Conv2D(2, 1, with_bias=False, name="narrow"),
        hk.Conv2D(3, 3, name="wide"),
        hk.Conv2D(2, 3, name="dense"),
        norm,
        lambda *parts: jnp.concatenate(parts, -1),
    )(x)


class EquinoxNetwork(eqx.Module):
    convs: dict[str, eqx.nn.Conv2d]
    norms: dict[str, eqx.nn.BatchNorm]

    def __init__(self):
        sizes = {"stem": (5, 4, 1), "narrow": (3, 2, 1), "wide": (3, 3, 3)}
        sizes |= {"dense": (4, 2, 3)}
        keys = iter(jax.random.split(jax.random.key(0), len(sizes)))
        self.convs = {
            name: eqx.nn.Conv2d(*size, padding="SAME", key=next(keys))
            for name, size in sizes.items()
        }
        self.norms = {
            name: eqx.nn.BatchNorm(size, "batch", mode="batch")
            for name, size in {"inception": 5, "dense": 4, "last": 6}.items()
        }

    def __call__(self, x, state):
        states = [state]

        def norm(name, x):
            x, state = self.norms[name](x, states[-1])
            states.append(state)
            return x

        names = ("stem", "narrow", "wide", "dense")
        layers = [self.convs[name] for name in names]
        y = blocks(*layers, norm, lambda *parts: jnp.concatenate(parts))(x)
        return y, states[-1]


def of_haiku():
    net = hk.without_apply_rng(hk.transform_with_state(haiku_network))
    params, state = net.init(jax.random.key(0), X, True)
    _, state = net.apply(params, state, X, True)
    names = ("narrow/w", "wide/w")
    return lambda p, x: net.apply(*p, x, False)[0], (params, state), X, names


def of_equinox():
    model, state = eqx.nn.make_with_state(EquinoxNetwork)()
    train = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    x = np.moveaxis(X, -1, 1)
    _, state = train(x, state)
    params, rest = eqx.partition((eqx.nn.inference_mode(model), state), eqx.is_array)

    def apply(params, x):
        model, state = eqx.combine(params, rest)
        return jax.vmap(lambda x: model(x, state)[0])(x)

    return apply, params, x, ("narrow/weight", "wide/weight")


@pytest.mark.parametrize("network", [of_haiku, of_equinox])
def test_concatenations(network):
    apply, params, x, kernels = network()
    folded = fold(apply, params, x[:1])
    inception, dense, last = folded.report
    assert inception.reason is None
    pairs = zip(inception.kernels, kernels, strict=True)
    assert all(name.endswith(kernel) for name, kernel in pairs)
    assert dense.reason == DENSE
    assert "a concatenation, of which a part comes from `relu`" in last.reason
    expected = apply(params, x)
    np.testing.assert_allclose(folded(x), expected, rtol=1e-5, atol=1e-5)
