# SPDX-License-Identifier: Apache-2.0
"""The norms of Linen models, changed around `apply`, whatever lies between."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze as frozen_dict

import jaxbn.linen
from jaxbn import population

pytestmark = pytest.mark.usefixtures("as_users_run_it", "without_type_checker")

TRAINING = {"mutable": ["batch_stats"]}


class FlaxNorm(nn.BatchNorm):
    """A subclass: another default, code around the norm, a parameter of its own."""

    momentum: float = 0.5

    @nn.compact
    def __call__(self, x, use_running_average=None):
        slope = self.param("slope", nn.initializers.constant(0.1), ())
        return nn.leaky_relu(super().__call__(x, use_running_average), slope)


class Block(nn.Module):
    """Dense and norm, as a step of a scan."""

    norm: type = nn.BatchNorm

    @nn.compact
    def __call__(self, x, _=None):
        x = nn.Dense(4)(x)
        return self.norm(use_running_average=False)(x), None


class SetUp(nn.Module):
    """A norm made in `setup`, that runs twice."""

    def setup(self):
        self.norm = nn.BatchNorm(use_running_average=False)

    def __call__(self, x):
        return self.norm(self.norm(x)), None


def stacked(lift, block, **more):
    axes = {"params": 0, "batch_stats": 0}
    return lift(block, variable_axes=axes, split_rngs={"params": True}, **more)


jitted = nn.jit(Block)
BLOCKS = {
    "plain": (Block, "Block_0/BatchNorm_0"),
    "subclass": (lambda: Block(FlaxNorm), "Block_0/FlaxNorm_0"),
    "setup, twice": (SetUp, "SetUp_0/norm"),
    "remat": (nn.remat(Block), "CheckpointBlock_0/BatchNorm_0"),
    "jit": (jitted, "JitBlock_0/BatchNorm_0"),
    "jit, compiled before": (jitted, "JitBlock_0/BatchNorm_0"),
    "vmap": (stacked(nn.vmap, Block), "VmapBlock_0/BatchNorm_0"),
    "scan, remat": (
        stacked(nn.scan, nn.remat(Block), length=3),
        "ScanCheckpointBlock_0/BatchNorm_0",
    ),
}


class Net(nn.Module):
    block: str = "plain"

    @nn.compact
    def __call__(self, x):
        return BLOCKS[self.block][0]()(x, *([None] * ("scan" in self.block)))[0]


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(1, 2, (8, 6, 4)), jnp.float32)


def trained(model, x):
    """Variables that are no start."""
    variables = model.init(jax.random.key(0), x)
    for k in range(3):
        _, updates = model.apply(variables, x * (k + 1), **TRAINING)
        variables = {**variables, **updates}
    return variables


@pytest.fixture(params=BLOCKS)
def block(request):
    return request.param


def test_there_and_back_is_bit_equal(block, x):
    model, path = Net(block), BLOCKS[block][1]
    variables = trained(model, x)
    there = jaxbn.linen.replace(model.apply)
    back = jaxbn.linen.restore(there)
    expected = model.apply(variables, x, **TRAINING)
    chex.assert_trees_all_equal(back(variables, x, **TRAINING), expected)
    chex.assert_trees_all_close(
        there(variables, x, **TRAINING), expected, rtol=1e-4, atol=1e-5
    )
    for apply in (there, back):
        assert apply.report == jaxbn.linen.SurgeryReport(changed=(path,), kept=())
    chex.assert_trees_all_equal(model.apply(variables, x, **TRAINING), expected)
    made = jaxbn.linen.replace(model.init)(jax.random.key(0), x)
    chex.assert_trees_all_equal(made, model.init(jax.random.key(0), x))


def test_the_arithmetic_is_ours(block, x):
    """No norm is missed: at this mean Flax's variance is 0, ours is right."""

    def norms(apply):
        seen = []

        def watch(next_function, args, kwargs, context):
            if isinstance(context.module, jaxbn.linen.BatchNorm):
                seen.append(context.module.path)
            return next_function(*args, **kwargs)

        with nn.intercept_methods(watch):
            apply(variables, x, **TRAINING)
        return len(set(seen))

    model = Net(block)
    variables = model.init(jax.random.key(0), x)
    assert norms(model.apply) == 0
    assert norms(jaxbn.linen.replace(model.apply)) == 1
    assert norms(jaxbn.linen.restore(jaxbn.linen.replace(model.apply))) == 0


class Act(nn.Module):
    """A layer without variables, which runs unbound too."""

    def __call__(self, x):
        return jnp.tanh(x)


def test_an_unbound_layer_is_passed_over(x):
    """It has no path: a stranger's network calls such an identity."""

    class Unbound(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Act(parent=None)(nn.BatchNorm(use_running_average=False)(x))

    model = Unbound()
    variables = model.init(jax.random.key(0), x)
    there = jaxbn.linen.replace(model.apply)
    expected = model.apply(variables, x, **TRAINING)
    chex.assert_trees_all_close(there(variables, x, **TRAINING), expected, rtol=1e-4)
    back = jaxbn.linen.restore(there)
    chex.assert_trees_all_equal(back(variables, x, **TRAINING), expected)
    assert there.report.changed == ("BatchNorm_0",)

    def apply(variables, x):
        return model.apply(variables, x, **TRAINING)

    (layer,) = jaxbn.linen.diagnose(apply, variables, [x, x + 1]).layers
    assert layer.path == "BatchNorm_0" and layer.num_values == 48


def test_compiled_functions_inside(x):
    """Neither sees what the other has compiled, in any order."""
    norm = nn.BatchNorm(use_running_average=False, momentum=0.0)
    variables = norm.init(jax.random.key(0), x)
    compiled = jax.jit(lambda v, x: norm.apply(v, x, **TRAINING))

    def apply(variables, x):
        return compiled(variables, x)

    far = x + 1e4
    exact = np.var(np.float64(far), (0, 1))
    replaced = jaxbn.linen.replace(apply)
    outside = jax.jit(replaced)
    for _ in range(2):
        for function, right in ((apply, False), (replaced, True), (outside, True)):
            var = function(variables, far)[1]["batch_stats"]["var"]
            assert np.allclose(var, exact, rtol=1e-4) == right
    assert replaced.report.changed == (".",)


def test_what_is_captured_and_shown_is_the_same(x):
    model = Net()
    variables = model.init(jax.random.key(0), x)
    options = {"mutable": ["batch_stats", "intermediates"]}
    options |= {"capture_intermediates": True}
    found = [
        apply(variables, x, **options)[1]["intermediates"]
        for apply in (model.apply, jaxbn.linen.replace(model.apply))
    ]
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fields", [
    {}, {"momentum": 0.5, "epsilon": 1e-3}, {"axis": 1}, {"axis": (1, 2)},
    {"dtype": jnp.bfloat16}, {"param_dtype": jnp.float16}, {"use_bias": False},
    {"use_scale": False, "use_bias": False}, {"use_fast_variance": False},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_fields_and_dtypes(x, training, fields, dtype):
    """Outputs keep their dtype both ways; back and there is bit-equal."""
    x = x.astype(dtype)
    for module, verb, undo in (
        (nn.BatchNorm, jaxbn.linen.replace, jaxbn.linen.restore),
        (jaxbn.linen.BatchNorm, jaxbn.linen.restore, jaxbn.linen.replace),
    ):
        model = module(use_running_average=not training, **fields)
        variables = model.init(jax.random.key(0), x)
        expected = model.apply(variables, x, **TRAINING)
        found = verb(model.apply)(variables, x, **TRAINING)
        chex.assert_trees_all_equal_dtypes(found, expected)
        tolerance = 2e-2 if found[0].dtype == jnp.bfloat16 else 2e-5
        chex.assert_trees_all_close(found, expected, rtol=tolerance, atol=tolerance)
        again = undo(verb(model.apply))(variables, x, **TRAINING)
        chex.assert_trees_all_equal(again, expected)
        made = verb(model.init)(jax.random.key(0), x)
        chex.assert_trees_all_equal(made, variables)


def test_frozen_dicts_flags_and_other_methods(x):
    """The call's own flag, a method other than `__call__`, frozen variables."""

    class Switched(nn.Module):
        @nn.compact
        def features(self, x, train):
            return nn.BatchNorm(momentum=0.5)(x, use_running_average=not train)

    model = Switched()
    options = {"method": Switched.features}
    variables = frozen_dict(model.init(jax.random.key(0), x, True, **options))
    apply = jaxbn.linen.replace(model.apply)
    for train in (True, False):
        chex.assert_trees_all_close(
            apply(variables, x, train, **options, **TRAINING),
            model.apply(variables, x, train, **options, **TRAINING),
            rtol=1e-4,
            atol=1e-5,
        )
    assert apply.report.changed == ("BatchNorm_0",)


def test_partitioned_parameters(x):
    """Boxes of metadata around parameters stay."""
    initializer = nn.with_partitioning(nn.initializers.ones, ("model",))
    norm = nn.BatchNorm(use_running_average=False, scale_init=initializer)
    variables = norm.init(jax.random.key(0), x)
    made = jaxbn.linen.replace(norm.init)(jax.random.key(0), x)
    chex.assert_trees_all_equal(made, variables)
    chex.assert_trees_all_close(
        jaxbn.linen.replace(norm.apply)(variables, x, **TRAINING),
        norm.apply(variables, x, **TRAINING),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("fields", [
    {"unbiased": True}, {"debias": True}, {"momentum": None}, {"virtual_batch_size": 4},
    {"max_scale": 2.0},
], ids=str)  # fmt: skip
def test_settings_of_training_alone_are_restored_in_inference(x, fields):
    renorm = "max_scale" in fields
    module = jaxbn.linen.BatchRenorm if renorm else jaxbn.linen.BatchNorm
    model = module(**fields)
    variables = model.init(jax.random.key(0), x, use_running_average=True)
    apply = jaxbn.linen.restore(model.apply)
    chex.assert_trees_all_close(
        apply(variables, x, use_running_average=True),
        model.apply(variables, x, use_running_average=True),
        rtol=1e-5,
        atol=1e-6,
    )
    with pytest.raises(ValueError, match="must be a layer that Flax's"):
        apply(variables, x, use_running_average=False, **TRAINING)


class Trained(nn.Module):
    """Layers that learn around a norm; with dropout of nothing, as models have."""

    norm: type = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(4)(x)
        x = self.norm(use_running_average=not train, momentum=0.5, name="norm")(x)
        return nn.Dense(4)(nn.relu(x))


def train(apply, variables, x, optimizer, *, steps=5):
    """Returns the variables after some steps."""
    params, stats = variables["params"], variables["batch_stats"]
    state = optimizer.init(params)

    @jax.jit
    def step(params, stats, state, x):
        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            y, updates = apply(variables, x, **TRAINING)
            return jnp.mean((y - 1) ** 2), updates["batch_stats"]

        grads, stats = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state

    for k in range(steps):
        params, stats, state = step(params, stats, state, x + k)
    return {"params": params, "batch_stats": stats}


def without(paths, optimizer):
    """The optimizer without the parameters of these layers, as the docstring says."""

    def is_trained(path, _):
        return jax.tree_util.keystr(path[:-1], simple=True, separator="/") not in paths

    def mask(params):
        return jax.tree_util.tree_map_with_path(is_trained, params)

    return optax.masked(optimizer, mask)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm, jaxbn.linen.BatchNorm, jaxbn.linen.BatchRenorm]
)
@pytest.mark.parametrize("decay", [False, True])
def test_frozen_steps_leave_the_layer_bit_equal(x, norm, decay):
    model = Trained(norm)
    apply = jaxbn.linen.replace(model.apply)
    sgd = optax.sgd(0.1, momentum=0.9)
    start = train(apply, model.init(jax.random.key(0), x), x, sgd)
    frozen = jaxbn.linen.freeze(apply)
    frozen(start, x)
    assert frozen.report == jaxbn.linen.SurgeryReport(changed=("norm",), kept=())
    optimizer = sgd
    if decay:
        optimizer = without(frozen.report.changed, optax.adamw(0.1, weight_decay=0.3))
    end = train(frozen, start, x, optimizer)
    for kind in ("params", "batch_stats"):
        chex.assert_trees_all_equal(end[kind]["norm"], start[kind]["norm"])
    assert not jnp.array_equal(
        end["params"]["Dense_0"]["kernel"], start["params"]["Dense_0"]["kernel"]
    )
    chex.assert_trees_all_equal(
        frozen(start, x), apply(start, x, train=False)
    )  # in training it is inference
    thawed = jaxbn.linen.unfreeze(frozen)
    chex.assert_trees_all_equal(
        thawed(start, x, **TRAINING), apply(start, x, **TRAINING)
    )


def test_frozen_by_its_field(x):
    """The verb is that field; a layer that is frozen is kept."""
    model = jaxbn.linen.BatchNorm(use_running_average=False, frozen=True)
    variables = model.init(jax.random.key(0), x)
    y, updates = model.apply(variables, x, **TRAINING)
    chex.assert_trees_all_equal(updates["batch_stats"], variables["batch_stats"])
    at_start, _ = model.init_with_output(jax.random.key(0), x)
    chex.assert_trees_all_equal(at_start, y)
    apply = jaxbn.linen.freeze(model.apply)
    chex.assert_trees_all_equal(apply(variables, x), y)
    assert apply.report == jaxbn.linen.SurgeryReport(changed=(), kept=(".",))


def test_synchronise_over_devices(x):
    model = Trained(FlaxNorm)
    variables = model.init(jax.random.key(0), x)
    apply = jaxbn.linen.replace(model.apply)
    synchronised = jaxbn.linen.synchronise(apply, axis_name="devices")

    def on_a_device(x):
        return synchronised(variables, x, **TRAINING)

    y, updates = jax.vmap(on_a_device, axis_name="devices")(x.reshape(4, 2, 6, 4))
    expected, stats = apply(variables, x, **TRAINING)
    np.testing.assert_allclose(y.reshape(x.shape), expected, rtol=1e-4, atol=1e-5)
    for k in range(4):
        each = jax.tree.map(lambda a, k=k: a[k], updates)
        chex.assert_trees_all_close(each, stats, rtol=1e-5, atol=1e-6)
    assert synchronised.report.changed == ("norm",)


def test_an_activation_with_parameters(x):
    """It stays where it is, and learns."""
    model = jaxbn.linen.BatchNorm(use_running_average=False, activation=nn.PReLU())
    variables = model.init(jax.random.key(0), x)
    apply = jaxbn.linen.synchronise(model.apply, axis_name="i")

    def on_a_device(variables, x):
        return apply(variables, x, **TRAINING)[0]

    y = jax.vmap(on_a_device, (None, 0), axis_name="i")(variables, x[None])[0]
    chex.assert_trees_all_equal(y, model.apply(variables, x, **TRAINING)[0])


def test_population_of_a_replaced_model(x):
    """No norm is taken for Flax's own; restored ones are."""
    model = Net("subclass")
    variables = model.init(jax.random.key(0), x)

    def run(variables, x):
        return model.apply(variables, x, **TRAINING)

    apply = jaxbn.linen.replace(run)
    _, report = population.estimate_linen(apply, variables, [x, x + 1])
    assert report.estimated == ("Block_0/FlaxNorm_0",) and not report.foreign
    with pytest.raises(ValueError, match="Flax's own batch norm"):
        population.estimate_linen(jaxbn.linen.restore(apply), variables, [x])


def test_errors_leave_nothing_behind(x):
    """After one the next call is as before."""
    model = Net()
    variables = model.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="must be a batch norm of jaxbn"):
        jaxbn.linen.freeze(model.apply)(variables, x)
    expected = model.apply(variables, x, **TRAINING)
    apply = jaxbn.linen.restore(jaxbn.linen.replace(model.apply))
    chex.assert_trees_all_equal(apply(variables, x, **TRAINING), expected)
