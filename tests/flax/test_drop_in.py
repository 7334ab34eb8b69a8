# SPDX-License-Identifier: Apache-2.0
"""Whatever Flax's layers take and show, side by side with Flax."""

import re
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbn.linen
import jaxbn.nnx

pytestmark = pytest.mark.usefixtures("as_users_run_it", "without_type_checker")
ONE_VALUE = "`x` has one value per feature in training"
LINEN = (jaxbn.linen.BatchNorm, nn.BatchNorm)
NNX = (jaxbn.nnx.BatchNorm, nnx.BatchNorm)


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(1, 2, (8, 6, 4)), jnp.float32)


def run_linen(module, x, *, training=True, fields=(), **call):
    """Output and variables after a step, from variables that are no start."""
    norm = module(use_running_average=not training, **dict(fields))
    variables = norm.init(jax.random.key(0), x)
    params = {"scale": jnp.arange(1.0, 5.0), "bias": jnp.arange(4.0)}
    variables = jax.tree.map(lambda v: v + 0.5, variables | {"params": params})
    y, updates = norm.apply(variables, x, mutable=["batch_stats"], **call)
    return y, {**variables, **updates}


def run_nnx(module, x, *, training=True, fields=(), **call):
    norm = module(4, use_running_average=not training, rngs=nnx.Rngs(0), **dict(fields))
    norm.scale.set_value(norm.scale[...] + jnp.arange(4.0))
    y = norm(x, **call)
    return y, nnx.to_pure_dict(nnx.state(norm))


def run_both(run, modules, x, **options):
    """Ours, theirs."""
    return tuple(run(module, x, **options) for module in modules)


DOORS = {"linen": (run_linen, LINEN), "nnx": (run_nnx, NNX)}
door = pytest.mark.parametrize(("run", "modules"), DOORS.values(), ids=DOORS)


@door
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {"use_fast_variance": False},
        {"momentum": 1.0},
        {"momentum": np.float32(0.7)},
        {"momentum": jnp.float32(0.7)},
        {"epsilon": jnp.float32(0.1)},
        {"epsilon": np.asarray(0.1)},
        {"use_scale": True, "param_dtype": jnp.float16},
    ],
    ids=str,
)
def test_values_of_fields(run, modules, training, fields, x):
    ours, theirs = run_both(run, modules, x, training=training, fields=fields)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_force_float32_reductions(training, x):
    both = run_both(
        run_linen, LINEN, x, training=training,
        fields={"force_float32_reductions": False},
    )  # fmt: skip
    chex.assert_trees_all_close(*both, rtol=1e-5, atol=1e-5)


@door
@pytest.mark.parametrize("training", [True, False])
def test_traced_epsilon_and_momentum(run, modules, training, x):
    """Under `jit` and with a gradient."""

    def loss(epsilon, momentum, module):
        fields = {"epsilon": epsilon, "momentum": momentum}
        y, variables = run(module, x, training=training, fields=fields)
        return jnp.sum(y**3), variables

    both = (
        jax.jit(jax.value_and_grad(partial(loss, module=module), has_aux=True))(
            0.1, 0.7
        )
        for module in modules
    )
    chex.assert_trees_all_close(*both, rtol=1e-4, atol=1e-4)


@door
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, bool])
def test_integers_are_computed_in_float32(run, modules, training, dtype, x):
    x = jnp.round(x).astype(dtype)
    (ours, state), (theirs, expected) = run_both(run, modules, x, training=training)
    assert ours.dtype == theirs.dtype == jnp.float32
    chex.assert_trees_all_close((ours, state), (theirs, expected), rtol=1e-5, atol=1e-5)


def test_other_kinds_of_input_are_named():
    for make in (
        lambda: jaxbn.linen.BatchNorm(use_running_average=True).init(
            jax.random.key(0), [1.0, 2.0]
        ),
        lambda: jaxbn.nnx.BatchNorm(2, rngs=nnx.Rngs(0))([1.0, 2.0]),
    ):
        with pytest.raises(TypeError, match="`x` must be an array, got list"):
            make()


def test_other_numbers_of_features_are_named():
    norm = jaxbn.nnx.BatchNorm(3, use_scale=False, use_bias=False, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"`mean` must have shape \(5,\), the size of"):
        norm(jnp.ones((8, 5)))


def half(arrays, *, dtype=None, inexact=True):
    """Rounds all arrays, however wide they are."""
    return tuple(a if a is None else a.astype(jnp.bfloat16) for a in arrays)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("promote", [half, nnx.nn.dtypes.promote_dtype])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_promote_dtype(training, promote, dtype, x):
    fields = {"promote_dtype": promote, "dtype": dtype}
    x = x.astype(jnp.bfloat16)
    (ours, state), (theirs, expected) = run_both(
        run_nnx, NNX, x, training=training, fields=fields
    )
    assert ours.dtype == theirs.dtype
    tolerance = 0.05 if ours.dtype == jnp.bfloat16 else 1e-5
    chex.assert_trees_all_close(ours, theirs, rtol=tolerance, atol=tolerance)
    # The variance: in bfloat16 Flax's is off by rounding of the mean of squares.
    chex.assert_trees_all_close(state, expected, rtol=1e-4, atol=1e-4)


MASKS = {
    "examples": lambda keep: keep[:, :1, :1],
    "same rank": lambda keep: keep[:, :, :1],
    "last axes, of lower rank": lambda keep: keep[0, :, :1],
    "whole shape": lambda keep: jnp.broadcast_to(keep[:, :, :1], keep.shape),
    "differs between features": lambda keep: keep,
    "integers": lambda keep: keep[:, :, :1].astype(jnp.int32),
}


@pytest.mark.parametrize("make", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("jit", [False, True])
def test_masks(make, jit, x, rng):
    """Flax's statistics; at a position that does not count our output is 0."""
    mask = make(jnp.asarray(rng.random(x.shape) < 0.6))

    def both(mask):
        return run_both(run_linen, LINEN, x, mask=mask)

    (ours, state), (theirs, expected) = (jax.jit(both) if jit else both)(mask)
    chex.assert_trees_all_close(state, expected, rtol=1e-5, atol=1e-5)
    counts = jnp.broadcast_to(mask != 0, x.shape)
    chex.assert_trees_all_close(
        ours, jnp.where(counts, theirs, 0), rtol=1e-5, atol=1e-5
    )
    of_nnx = jaxbn.nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    of_nnx(x, mask=mask)
    np.testing.assert_allclose(
        of_nnx.mean[...] / 0.01, (state["batch_stats"]["mean"] - 0.99 * 0.5) / 0.01,
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip


def test_a_mask_with_two_readings_is_refused():
    x = jnp.ones((4, 4, 3))
    for norm in (
        partial(jaxbn.nnx.BatchNorm(3, rngs=nnx.Rngs(0))),
        lambda x, **call: run_linen(jaxbn.linen.BatchNorm, x, **call),
    ):
        with pytest.raises(ValueError, match=r"`mask.reshape\(4, 1, 1\)` for the lead"):
            norm(x, mask=jnp.ones((4, 1)))


def test_a_mask_of_features_is_no_reading():
    """Of such features Flax stores NaN; the error names the mask as it was given."""
    norm = jaxbn.nnx.BatchNorm(5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"got shape \(5,\) for `x` of shape \(10, 5"):
        norm(jnp.ones((10, 5)), mask=jnp.arange(5) > 2)


def test_a_mask_of_the_examples_is_one_whatever_the_sizes(rng):
    """Flax would mask features, and make NaN of them: nobody means that."""
    x = jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)
    norm = jaxbn.nnx.BatchNorm(4, momentum=0.0, rngs=nnx.Rngs(0))
    norm(x, mask=jnp.array([True, True, True, False]))
    np.testing.assert_allclose(norm.mean[...], x[:3].mean(0), rtol=1e-5, atol=1e-6)


@door
def test_one_example_in_training(run, modules, x):
    one = x[:1, :1]
    with pytest.warns(UserWarning, match=ONE_VALUE):
        ours, state = run(modules[0], one)
    theirs, _ = run(modules[1], one)
    np.testing.assert_array_equal(ours, theirs)
    _, untouched = run(modules[0], x, fields={"momentum": 1.0})
    chex.assert_trees_all_equal(state, untouched)


@door
def test_one_example_warns_wherever_it_would_update(run, modules, x):
    one = x[:1, :1]
    with pytest.warns(UserWarning, match=ONE_VALUE):
        run(modules[0], one, update_stats=False)
    with pytest.warns(UserWarning, match=ONE_VALUE):
        _, state = run(modules[0], one, training=False, update_stats=True)
    _, untouched = run(modules[0], x, training=False)
    chex.assert_trees_all_equal(state, untouched)
    with pytest.warns(UserWarning, match=ONE_VALUE):
        run(modules[0], x[:, 0], fields={"virtual_batch_size": 1})
    run(modules[0], one, training=False)  # inference has no need


def test_one_example_in_the_bridge(x):
    one = x[:1, 0]
    with pytest.warns(UserWarning, match=ONE_VALUE):
        ours = nnx.bridge.to_linen(jaxbn.nnx.BatchNorm, 4).init(jax.random.key(0), one)
    theirs = nnx.bridge.to_linen(nnx.BatchNorm, 4).init(jax.random.key(0), one)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        *(jax.tree.map(jnp.asarray, v["params"]) for v in (ours, theirs))
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"momentum": 1.5},
        {"momentum": "0.9"},
        {"epsilon": -1.0},
        {"epsilon": float("nan")},
        {"virtual_batch_size": 0},
        {"activation": "relu"},
    ],
    ids=str,
)
def test_ranges_are_checked_at_construction(fields):
    (name,) = fields
    for make in (
        partial(jaxbn.linen.BatchNorm),
        partial(jaxbn.linen.BatchRenorm),
        partial(jaxbn.nnx.BatchNorm, 4, rngs=nnx.Rngs(0)),
        partial(jaxbn.nnx.BatchRenorm, 4, rngs=nnx.Rngs(0)),
    ):
        with pytest.raises((ValueError, TypeError), match=f"`{name}` must be"):
            make(**fields)


@pytest.mark.parametrize("fields", [{"max_scale": 0.5}, {"max_shift": -1.0}], ids=str)
def test_limits_are_checked_at_construction(fields):
    (name,) = fields
    for make in (
        partial(jaxbn.linen.BatchRenorm),
        partial(jaxbn.nnx.BatchRenorm, 4, rngs=nnx.Rngs(0)),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be at least"):
            make(**fields)


class Net(nn.Module):
    norm: type

    @nn.compact
    def __call__(self, x):
        x = self.norm(use_running_average=False)(nn.Dense(4)(x))
        return self.norm(use_running_average=False)(nn.relu(x))


class NnxNet(nnx.Module):
    def __init__(self, norm):
        rngs = nnx.Rngs(0)
        self.dense = nnx.Linear(4, 4, rngs=rngs)
        self.norm = norm(4, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.dense(x))


def test_tabulate_of_linen(x):
    """The table, its counts of parameters and bytes; the cost is XLA's estimate."""
    ours, theirs = (
        Net(norm).tabulate(jax.random.key(0), x, console_kwargs={"width": 200})
        for norm in LINEN
    )
    assert ours == theirs


def test_tabulate_of_nnx(x):
    ours, theirs = (
        nnx.tabulate(NnxNet(norm), x, console_kwargs={"width": 200}) for norm in NNX
    )
    assert ours == theirs


def test_display_of_nnx(capsys):
    """What Flax shows, and those of our fields that are not at their defaults."""
    shown = []
    more = partial(NNX[0], unbiased=True, activation=nnx.relu)
    for norm in (*NNX, more):
        nnx.display(NnxNet(norm))
        shown.append(capsys.readouterr().out)
    ours, theirs, with_more = (set(re.findall(r"(\w+)=", text)) for text in shown)
    assert ours == theirs
    assert with_more - theirs == {"unbiased", "activation"}


def test_view_info():
    ours, theirs = (nnx.view_info(NnxNet(norm)) for norm in NNX)
    lines = [text.splitlines()[:1] for text in (ours, theirs)]
    assert lines[0] == lines[1] == ["BatchNorm:"]
    assert "use_running_average" in ours and ours.count("\n") >= 2


def scopes(norm, x):
    """The scopes of Flax's names in the program's operations."""
    net = Net(norm)
    variables = net.init(jax.random.key(0), x)

    def step(variables, x):
        return net.apply(variables, x, mutable=["batch_stats"])[0]

    text = jax.jit(step).lower(variables, x).as_text(debug_info=True)
    return set(re.findall(r"Net/([A-Z]\w*(?:/[A-Z]\w*|/_\w+|/\w+\.\w+)*)/", text))


def test_scope_names(x):
    assert scopes(LINEN[0], x) == scopes(LINEN[1], x)


def test_an_interceptor_sees_one_call(x):
    """One that doubles what it sees, whatever the method's name is."""

    def double(next_function, args, kwargs, context):
        result = next_function(*args, **kwargs)
        return result * 2 if isinstance(context.module, LINEN) else result

    outputs = []
    for norm in LINEN:
        net = Net(norm)
        variables = net.init(jax.random.key(0), x)
        with nn.intercept_methods(double):
            outputs.append(net.apply(variables, x, mutable=["batch_stats"])[0])
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_captured_intermediates(x):
    trees = []
    for norm in LINEN:
        net = Net(norm)
        variables = net.init(jax.random.key(0), x)
        _, updates = net.apply(
            variables, x, mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, name: True,
        )  # fmt: skip
        trees.append(updates["intermediates"])
    chex.assert_trees_all_close(*trees, rtol=1e-4, atol=1e-5)


def test_partitioned_parameters(x):
    boxed = {
        "scale_init": nn.with_partitioning(nn.initializers.ones, ("model",)),
        "bias_init": nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
    }
    trees = []
    for norm in LINEN:
        module = norm(use_running_average=False, **boxed)
        variables = module.init(jax.random.key(0), x)
        trees.append((variables, nn.get_partition_spec(variables)))
        y, _ = module.apply(variables, x, mutable=["batch_stats"])
        assert y.shape == x.shape
    assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])
    assert trees[0][1] == trees[1][1]


def test_metadata_of_nnx():
    for norm in NNX:
        metadata = {"scale_metadata": {"note": 2}, "bias_metadata": {"note": 1}}
        module = norm(4, rngs=nnx.Rngs(0), **metadata)
        assert module.scale.get_metadata("note") == 2
        assert module.bias.get_metadata("note") == 1


LIFTED = {
    "remat": nn.remat,
    "jit": nn.jit,
    "vmap": partial(
        nn.vmap,
        variable_axes={"params": None, "batch_stats": 0},
        split_rngs={"params": False},
    ),
    "vmap over a named axis": partial(
        nn.vmap,
        variable_axes={"params": None, "batch_stats": None},
        split_rngs={"params": False},
        axis_name="batch",
    ),
}


@pytest.mark.parametrize("lift", LIFTED.values(), ids=LIFTED)
def test_lifted_transforms(lift, x):
    named = "axis_name" in getattr(lift, "keywords", {})
    trees = []
    for norm in LINEN:
        fields = {"axis_name": "batch"} if named else {}
        module = lift(norm)(use_running_average=False, name="norm", **fields)
        variables = module.init(jax.random.key(0), x)
        trees.append(module.apply(variables, x, mutable=["batch_stats"]))
    chex.assert_trees_all_close(*trees, rtol=1e-4, atol=1e-5)
