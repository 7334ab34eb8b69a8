# SPDX-License-Identifier: Apache-2.0
"""Networks of Haiku, Equinox and Keras, folded and compared with themselves."""

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from jaxbn.folding import fold

SIZE = 72  # the least that all networks of Keras take
TOLERANCE = 1e-5
FOLDED = {  # all norms, and those that can be folded
    "haiku ResNet18": (20, 20),
    "haiku ResNet50 v2": (49, 32),  # norms of sums that go into a ReLU
    "haiku MobileNetV1": (27, 27),
    "equinox, NCHW": (2, 2),
    "keras MobileNetV2": (52, 52),
    "keras ResNet50": (53, 53),
    "keras DenseNet121": (121, 59),  # likewise of concatenations
    "keras Xception": (40, 40),
}


def drawn(tree, rng):
    """As after training: scales, shifts and statistics are not at their start."""

    def draw(x):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        if jnp.all(x == 1):
            return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype)
        if jnp.all(x == 0):
            return jnp.asarray(rng.normal(size=x.shape) / 10, x.dtype)
        return x

    return jax.tree.map(draw, tree)


def of_haiku(network, x, rng):
    import haiku as hk

    def forward(x, is_training):
        make = getattr(hk.nets, network[0])
        return make(num_classes=10, **network[1])(x, is_training)

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    params, state = net.init(jax.random.key(0), x, True)
    # The average is what inference reads; `hidden` and `counter` are for updates.
    return (
        lambda p, x: net.apply(*p, x, False)[0],
        (drawn(params, rng), drawn_averages(state, rng)),
        x,
    )


def drawn_averages(state, rng):
    def draw(path, leaf):
        if path[-1].key != "average":
            return leaf
        variance = "var_ema" in path[0].key
        low, high = (0.5, 1.5) if variance else (-0.2, 0.2)
        return jnp.asarray(rng.uniform(low, high, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, state)


def of_equinox(_, x, rng):
    import equinox as eqx

    def make():
        keys = jax.random.split(jax.random.key(0), 3)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(3, 8, 3, padding=1, use_bias=False, key=keys[0]),
                eqx.nn.BatchNorm(8, "batch", mode="batch"),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Conv2d(8, 8, 3, groups=8, key=keys[1]),
                eqx.nn.BatchNorm(8, "batch", mode="ema"),
                eqx.nn.AdaptiveAvgPool2d(1),
                eqx.nn.Lambda(jnp.ravel),
                eqx.nn.Linear(8, 10, key=keys[2]),
            ]
        )

    x = jnp.moveaxis(x, -1, 1)
    model, state = eqx.nn.make_with_state(make)()
    train = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    for _ in range(3):
        _, state = train(x, state)
    params, rest = eqx.partition((eqx.nn.inference_mode(model), state), eqx.is_array)

    def apply(params, x):
        model, state = eqx.combine(params, rest)
        return jax.vmap(lambda x: model(x, state)[0])(x)

    return apply, params, x


def of_keras(network, x, rng):
    import keras

    make = getattr(keras.applications, network[0])
    model = make(weights=None, input_shape=x.shape[1:], classes=10)
    model.layers[-1].activation = keras.activations.linear  # logits
    kinds = (model.trainable_variables, model.non_trainable_variables)
    params = [{v.path: v.value for v in variables} for variables in kinds]

    def apply(p, x):
        values = [[p[i][v.path] for v in kind] for i, kind in enumerate(kinds)]
        return model.stateless_call(*values, x, training=False)[0]

    return apply, drawn(params, rng), x


NETWORKS = {
    "haiku ResNet18": (of_haiku, "ResNet18", {}),
    "haiku ResNet50 v2": (of_haiku, "ResNet50", {"resnet_v2": True}),
    "haiku MobileNetV1": (of_haiku, "MobileNetV1", {}),
    "equinox, NCHW": (of_equinox,),
    "keras MobileNetV2": (of_keras, "MobileNetV2"),
    "keras ResNet50": (of_keras, "ResNet50"),
    "keras DenseNet121": (of_keras, "DenseNet121"),
    "keras Xception": (of_keras, "Xception"),
}


def main() -> int:
    """Returns 1 where a folded network is another, or fewer norms are folded."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    failed = False
    for name in track(NETWORKS, "Folding", console=console, transient=True):
        make, *network = NETWORKS[name]
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(2, SIZE, SIZE, 3)), jnp.float32)
        try:
            function, params, x = make(network, x, rng)
        except ImportError as error:
            console.print(f"Not installed, not folded: {error.name}.")
            continue
        folded = fold(function, params, x[:1])
        expected = jax.jit(function)(params, x)
        off = float(jnp.abs(folded(x) - expected).max() / jnp.abs(expected).max())
        count = sum(entry.reason is None for entry in folded.report)
        of = len(folded.report)
        console.print(f"{name}: {count} of {of} norms folded, off by {off:.0e}")
        if not off <= TOLERANCE or (of, count) != FOLDED[name]:
            console.print(
                f"Expected {FOLDED[name]}, {TOLERANCE:.0e}.", style="bold red"
            )
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
