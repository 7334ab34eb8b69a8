# SPDX-License-Identifier: Apache-2.0
"""The norms of NNX models, changed in place: what stays, and what does not."""

import copy
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import errors, nnx

import jaxbn.convert
import jaxbn.nnx
from jaxbn import population

pytestmark = pytest.mark.usefixtures("as_users_run_it", "without_type_checker")


class FlaxNorm(nnx.BatchNorm):
    """A subclass, as libraries of models have: other defaults, code around the norm."""

    def __init__(self, num_features, *, slope=0.1, rngs):
        super().__init__(num_features, momentum=0.9, epsilon=1e-3, rngs=rngs)
        self.slope = slope
        self.calls = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x, use_running_average=None):
        self.calls[...] += 1
        return nnx.leaky_relu(super().__call__(x, use_running_average), self.slope)


class WithMixin(FlaxNorm):
    """A subclass of a subclass, that leaves the call alone."""


class Net(nnx.Module):
    """Norms in lists, shared, of subclasses, with metadata, without parameters."""

    def __init__(self, rngs, norm=nnx.BatchNorm):
        self.dense = nnx.Linear(4, 4, rngs=rngs)
        metadata = {"scale_metadata": {"note": "kept"}}
        self.norms = nnx.List([norm(4, rngs=rngs, **metadata), norm(4, rngs=rngs)])
        self.bare = norm(4, use_bias=False, use_scale=False, rngs=rngs)
        self.sub = WithMixin(4, rngs=rngs)
        self.shared = self.norms[1]
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = self.shared(self.norms[0](self.dense(x)))
        return self.dropout(self.sub(self.bare(x)))


class OurNet(nnx.Module):
    """A layer and a norm of jaxbn."""

    def __init__(self, rngs, norm=jaxbn.nnx.BatchNorm, **fields):
        self.dense = nnx.Linear(4, 4, rngs=rngs)
        self.norm = norm(4, rngs=rngs, **fields)

    def __call__(self, x):
        return self.norm(self.dense(x))


PATHS = ("bare", "norms/0", "norms/1", "sub")


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(1, 2, (8, 6, 4)), jnp.float32)


@pytest.fixture
def model(x):
    """A network of Flax that is no start."""
    model = Net(nnx.Rngs(0))
    for k in range(3):
        model(x * (k + 1))
    return model


def tree_of(model):
    """Everything that can be known of a graph, in copies."""
    graphdef, state = nnx.split(model)
    return graphdef, jax.tree.map(jnp.copy, state)


def assert_same_tree(one, other):
    assert one[0] == other[0]
    assert jax.tree.structure(one[1]) == jax.tree.structure(other[1])
    chex.assert_trees_all_equal(one[1], other[1])


def losses(model, x, *, steps=5, optimizer=None):
    """Trains, by weight decay too, in training mode."""
    optimizer = optimizer or nnx.Optimizer(
        model, optax.adamw(0.05, weight_decay=0.3), wrt=nnx.Param
    )

    @nnx.jit
    def step(model, optimizer, x):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((m(x) - 1) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    found = []
    for k in range(steps):
        model.train()
        found.append(step(model, optimizer, x + k))
    return jnp.stack(found)


def test_replace_keeps_all_but_the_class(model):
    before, nodes = nnx.state(model), dict(nnx.iter_graph(model))
    attributes = {path: vars(m).copy() for path, m in nnx.iter_modules(model)}
    report = jaxbn.nnx.replace(model)
    assert report == jaxbn.nnx.SurgeryReport(changed=PATHS, kept=())
    chex.assert_trees_all_equal(nnx.state(model), before)
    after = dict(nnx.iter_graph(model))
    assert all(after[path] is node for path, node in nodes.items())
    assert attributes == {path: vars(m) for path, m in nnx.iter_modules(model)}
    assert model.shared is model.norms[1]
    assert type(model.bare) is jaxbn.nnx.BatchNorm
    assert isinstance(model.bare, nnx.BatchNorm)  # models choose a call by this
    assert isinstance(model.sub, WithMixin) and isinstance(model.sub, nnx.BatchNorm)
    assert model.norms[0].scale.get_metadata("note") == "kept"


@pytest.mark.parametrize("training", [True, False])
def test_there_and_back_is_bit_equal(model, x, training):
    (model.train if training else model.eval)()
    untouched = nnx.clone(model)
    before = tree_of(model)
    jaxbn.nnx.replace(model)
    report = jaxbn.nnx.restore(model)
    assert report == jaxbn.nnx.SurgeryReport(changed=PATHS, kept=())
    assert_same_tree(tree_of(model), before)
    assert type(model.sub) is WithMixin and type(model.bare) is nnx.BatchNorm
    chex.assert_trees_all_equal(model(x), untouched(x))
    assert_same_tree(tree_of(model), tree_of(untouched))


@pytest.mark.parametrize("fields", [
    {}, {"momentum": 0.5, "epsilon": 1e-3, "axis": 1, "num": 6},
    {"dtype": jnp.bfloat16}, {"param_dtype": jnp.float16}, {"use_bias": False},
    {"axis": (1, 2), "num": (6, 4)}, {"use_running_average": True},
], ids=str)  # fmt: skip
def test_back_and_there_is_bit_equal(x, fields):
    fields = dict(fields)
    norm = jaxbn.nnx.BatchNorm(fields.pop("num", 4), rngs=nnx.Rngs(0), **fields)
    norm(x, use_running_average=False)
    untouched, before = nnx.clone(norm), tree_of(norm)
    jaxbn.nnx.restore(norm)
    as_flax = nnx.clone(norm)
    assert type(as_flax) is nnx.BatchNorm
    jaxbn.nnx.replace(norm)
    assert_same_tree(tree_of(norm), before)
    expected = untouched(x)
    chex.assert_trees_all_equal(norm(x), expected)
    y = as_flax(x)
    assert y.dtype == expected.dtype
    tolerance = 2e-2 if expected.dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(
        np.float32(y), np.float32(expected), rtol=tolerance, atol=tolerance
    )


def test_a_restored_graph_is_that_of_flax():
    ours = jaxbn.nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    jaxbn.nnx.restore(ours)
    theirs = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    assert vars(ours).keys() == vars(theirs).keys()
    chex.assert_trees_all_equal(
        nnx.to_pure_dict(nnx.state(ours)), nnx.to_pure_dict(nnx.state(theirs))
    )


def test_the_arithmetic_is_ours(model, x):
    """In a subclass too: Flax's variance is 0 at this mean."""
    model.sub.eval()
    for replaced in (False, True):
        norm = FlaxNorm(4, rngs=nnx.Rngs(0))
        norm.momentum = 0.0
        if replaced:
            jaxbn.nnx.replace(norm)
        far = 1e4 + x
        norm(far)
        exact = np.var(np.float64(far), (0, 1))
        assert np.allclose(norm.var[...], exact, rtol=1e-4) == replaced
        assert norm.calls[...] == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtypes_of_outputs_stay(x, dtype):
    for fields in ({}, {"dtype": jnp.bfloat16}, {"param_dtype": jnp.bfloat16}):
        norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0), **fields)
        replaced = nnx.clone(norm)
        jaxbn.nnx.replace(replaced)
        for training in (True, False):
            call = {"use_running_average": not training}
            assert replaced(x.astype(dtype), **call).dtype == (
                norm(x.astype(dtype), **call).dtype
            )


def test_a_restored_layer_computes_in_float32(x):
    """Flax's default would round its input and statistics to `dtype` first."""
    norm = jaxbn.nnx.BatchNorm(4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    norm.mean.set_value(jnp.full(4, 300.0))
    norm.eval()
    expected = norm(300 + x)
    jaxbn.nnx.restore(norm)
    chex.assert_trees_all_equal(norm(300 + x), expected)


@pytest.mark.parametrize("verb", ["replace", "restore", "freeze"])
def test_models_of_another_trace_are_refused(x, verb):
    """Flax's own error; nothing is changed."""
    kind = nnx.BatchNorm if verb == "replace" else jaxbn.nnx.BatchNorm
    model = nnx.Sequential(kind(4, rngs=nnx.Rngs(0)))
    before = tree_of(model)

    @jax.jit
    def inside(x):
        getattr(jaxbn.nnx, verb)(model)
        return x

    with pytest.raises(errors.TraceContextError):
        inside(x)
    assert_same_tree(tree_of(model), before)


def test_modes_and_views_work(model, x):
    jaxbn.nnx.replace(model)
    model.eval()
    assert model.sub.use_running_average and model.bare.use_running_average
    chex.assert_trees_all_equal(model(x), model(x))
    view = nnx.view(model, use_running_average=False, deterministic=True)
    before = model.bare.mean[...]
    view(x + 5)
    assert not jnp.array_equal(model.bare.mean[...], before)


class NoPytree(FlaxNorm, pytree=False):
    """A node of the graph that is no pytree."""


def test_a_subclass_that_is_no_pytree(x):
    model = nnx.Sequential(NoPytree(4, rngs=nnx.Rngs(0)))
    before = tree_of(model)
    jaxbn.nnx.replace(model)
    nnx.clone(model)(x)
    jaxbn.nnx.restore(model)
    assert_same_tree(tree_of(model), before)


def test_copies_of_a_subclass_work(model, x):
    """Clones, deep copies, pickles, and a second model find the same class."""
    jaxbn.nnx.replace(model)
    model.eval()
    for other in (
        nnx.clone(model),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        nnx.merge(*nnx.split(model)),
    ):
        assert type(other.sub) is type(model.sub)
        chex.assert_trees_all_equal(other(x), model(x))
    assert type(model.sub).__qualname__ == "WithMixin"


def test_twice_changes_nothing(model):
    for verb, undo in (("replace", "restore"), ("freeze", "unfreeze")):
        jaxbn.nnx.replace(model)
        getattr(jaxbn.nnx, verb)(model)
        tree = tree_of(model)
        report = getattr(jaxbn.nnx, verb)(model)
        assert report == jaxbn.nnx.SurgeryReport(changed=(), kept=PATHS)
        assert_same_tree(tree_of(model), tree)
        getattr(jaxbn.nnx, undo)(model)
        report = getattr(jaxbn.nnx, undo)(model)
        assert report == jaxbn.nnx.SurgeryReport(changed=(), kept=PATHS)


def test_inside_transforms(x):
    """Stacked by vmap, run by scan, under remat and jit."""

    class Stack(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=3)
            @nnx.vmap(axis_size=3)
            def make(rngs):
                return nnx.BatchNorm(4, momentum=0.0, rngs=rngs)

            self.norms = make(rngs)

        def __call__(self, x):
            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            @nnx.remat
            def forward(x, norm):
                return 2 * norm(x)

            return forward(x, self.norms)

    model, far = Stack(nnx.Rngs(0)), 1e4 + x
    assert jaxbn.nnx.replace(model).changed == ("norms",)
    nnx.jit(lambda m, x: m(x))(model, far)
    np.testing.assert_allclose(
        model.norms.var[0], np.var(np.float64(far), (0, 1)), 1e-4
    )
    before = tree_of(model)
    assert jaxbn.nnx.freeze(model).changed == ("norms",)
    nnx.jit(lambda m, x: m(x))(model, x)
    jaxbn.nnx.unfreeze(model)
    assert_same_tree(tree_of(model), before)


def layer(norm):
    """What a step could change: kinds, values and metadata of a norm's variables."""
    names = ("scale", "bias", "mean", "var")
    found = {n: getattr(norm, n) for n in names if getattr(norm, n) is not None}
    return {n: (type(v), v[...].tolist(), v.get_metadata()) for n, v in found.items()}


@pytest.mark.parametrize("kind", ["BatchNorm", "BatchRenorm", "replaced"])
def test_frozen_steps_leave_the_layer_bit_equal(model, x, kind):
    """Weight decay included; the other layers learn, and all do when unfrozen."""
    if kind == "replaced":
        jaxbn.nnx.replace(model)
    else:
        model = OurNet(nnx.Rngs(0), getattr(jaxbn.nnx, kind))
        losses(model, x)
    modules = [module for _, module in nnx.iter_modules(model)]
    norms = [m for m in modules if isinstance(m, jaxbn.nnx.BatchNorm)]
    before, start = list(map(layer, norms)), nnx.graphdef(model)
    jaxbn.nnx.freeze(model)
    frozen, dense = list(map(layer, norms)), model.dense.kernel[...]
    losses(model, x)
    assert list(map(layer, norms)) == frozen
    assert not jnp.array_equal(model.dense.kernel[...], dense)
    jaxbn.nnx.unfreeze(model)
    assert list(map(layer, norms)) == before and nnx.graphdef(model) == start
    losses(model, x, steps=1)
    assert not any(map(lambda n, b: layer(n)["mean"] == b["mean"], norms, before))


def test_an_optimizer_with_moments_of_frozen_parameters_is_refused(x):
    """By optax, loudly; one that is made afterwards works, also when unfrozen."""
    model = OurNet(nnx.Rngs(0))
    old = nnx.Optimizer(model, optax.adamw(0.05), wrt=nnx.Param)
    losses(model, x, steps=1, optimizer=old)
    before = layer(model.norm)
    jaxbn.nnx.freeze(model)
    with pytest.raises(ValueError):
        losses(model, x, steps=1, optimizer=old)
    jaxbn.nnx.unfreeze(model)
    assert layer(model.norm) == before
    losses(model, x, steps=1, optimizer=old)


@pytest.mark.parametrize("split", [True, False])
def test_frozen_in_a_functional_loop(x, split):
    """A model in two kinds, or the gradient of everything."""
    model = OurNet(nnx.Rngs(0))
    jaxbn.nnx.freeze(model)
    before = layer(model.norm)
    if split:
        graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
        assert list(params) == ["dense"]

        def loss(params):
            return jnp.mean(nnx.merge(graphdef, params, stats)(x) ** 2)

        grads = jax.grad(loss)(params)
        nnx.update(model, jax.tree.map(lambda p, g: 0.9 * p - g, params, grads))
        assert layer(model.norm) == before
    else:
        everything = nnx.DiffState(0, nnx.Variable)
        grads = nnx.grad(lambda m: jnp.mean(m(x) ** 2), argnums=everything)(model)
        assert not jnp.any(grads["norm"]["scale"][...])
        assert jnp.any(grads["dense"]["kernel"][...])


def test_frozen_with_an_activation_that_learns(x):
    model = OurNet(nnx.Rngs(0), activation=nnx.PReLU())
    slope = model.norm.activation.negative_slope
    jaxbn.nnx.freeze(model)
    before = slope[...]
    losses(model, x)
    assert slope[...] == before
    jaxbn.nnx.unfreeze(model)
    losses(model, x)
    assert slope[...] != before


def test_frozen_is_inference(x):
    model = OurNet(nnx.Rngs(0))
    losses(model, x)
    model.eval()
    expected = model(x)
    model.train()
    jaxbn.nnx.freeze(model)
    chex.assert_trees_all_equal(model(x), expected)
    chex.assert_trees_all_equal(
        model.norm(x, use_running_average=False, update_stats=True),
        model.norm(x, use_running_average=True),
    )


def test_frozen_models_are_stored_and_estimated(x):
    """Linen's variables are the same; of a population nothing is estimated."""
    model = OurNet(nnx.Rngs(0))
    before = jaxbn.convert.to_linen(model)
    jaxbn.nnx.freeze(model)
    chex.assert_trees_all_equal(jaxbn.convert.to_linen(model), before)
    changed = jax.tree.map(lambda a: a + 1, before)
    jaxbn.convert.from_linen(model, changed)
    jaxbn.nnx.unfreeze(model)
    chex.assert_trees_all_equal(jaxbn.convert.to_linen(model), changed)


def test_population_of_a_replaced_model(model, x):
    """No norm is taken for Flax's own, a subclass neither."""
    jaxbn.nnx.replace(model)
    model.train()
    report = population.estimate_nnx(lambda m, x: m(x), model, [x, x + 1])
    assert set(report.estimated) == set(PATHS) and not report.foreign


def test_synchronise_over_devices(x):
    """All norms; the replicas end with the statistics of the whole batch."""
    model = Net(nnx.Rngs(0))
    model.dropout.deterministic = True
    jaxbn.nnx.replace(model)
    whole = nnx.clone(model)
    report = jaxbn.nnx.synchronise(model, axis_name="devices")
    assert report == jaxbn.nnx.SurgeryReport(changed=PATHS, kept=())
    again = jaxbn.nnx.synchronise(model, axis_name="devices")
    assert again == jaxbn.nnx.SurgeryReport(changed=(), kept=PATHS)
    graphdef, state = nnx.split(model)

    def on_a_device(x):
        replica = nnx.merge(graphdef, state, copy=True)
        return replica(x), nnx.state(replica, nnx.BatchStat)

    y, stats = jax.vmap(on_a_device, axis_name="devices")(x.reshape(4, 2, 6, 4))
    np.testing.assert_allclose(y.reshape(x.shape), whole(x), rtol=1e-4, atol=1e-5)
    expected = nnx.state(whole, nnx.BatchStat)
    for k in range(4):
        chex.assert_trees_all_close(
            jax.tree.map(lambda a, k=k: a[k], stats), expected, rtol=1e-5, atol=1e-6
        )
    assert jaxbn.nnx.synchronise(model, axis_name=None).changed == PATHS


def test_parameters_that_are_loaded_into_a_frozen_layer_are_frozen_again(x):
    model = OurNet(nnx.Rngs(0))
    jaxbn.nnx.freeze(model)
    model.norm.scale = nnx.Param(jnp.full(4, 2.0))
    assert jaxbn.nnx.freeze(model).changed == ("norm",)
    losses(model, x)
    assert (model.norm.scale[...] == 2).all()
