# SPDX-License-Identifier: Apache-2.0
"""NNX models are diagnosed as Linen's are, in copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbn.nnx
from tests.diagnosis.nets import NnxNet, diagnosed, healthy, make_batches, nnx_model

pytestmark = pytest.mark.usefixtures("as_users_run_it")
NORMS = {"jaxbn": jaxbn.nnx.BatchNorm, "flax": nnx.BatchNorm}


@pytest.fixture(params=NORMS)
def model(request):
    return nnx_model(healthy(), NORMS[request.param])


def diagnose(model, batches=None, **how):
    batches = make_batches() if batches is None else batches
    return jaxbn.nnx.diagnose(model, batches, **how)


@nnx.jit
def run(model, x):
    """A step of training, of the statistics alone."""
    model(x)


def alarms(diagnosis):
    return [(f.level, f.layer, f.check) for f in diagnosis.alarms]


def values(model):
    return jax.tree.leaves(nnx.to_pure_dict(nnx.state(model)))


def test_a_healthy_model_has_no_alarm_is_not_changed_and_has_linens_figures(model):
    before, graph = list(map(np.asarray, values(model))), nnx.graphdef(model)
    diagnosis = diagnose(model, steps=60)
    assert not diagnosis.findings, str(diagnosis)
    assert nnx.graphdef(model) == graph
    for one, other in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(one, other)
    of_linen = {x.path: x for x in diagnosed(healthy()).layers}
    assert len(diagnosis.layers) == len(of_linen)
    for layer in diagnosis.layers:
        other = of_linen[layer.path]
        assert layer[:4] == other[:4]
        np.testing.assert_allclose(layer.gap.mean, other.gap.mean, rtol=1e-3)
        np.testing.assert_allclose(layer.gap.var, other.gap.var, rtol=1e-3)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gap(model, mode):
    """In either mode: the copy is set to training if no norm is in it."""
    getattr(model, mode)()
    model.norm2.var[...] = 4 * model.norm2.var[...]
    diagnosis = diagnose(model)
    assert alarms(diagnosis) == [("warning", "norm2", "train/eval gap")]
    fix = "population.estimate_nnx(forward, model, batches)"
    assert diagnosis.alarms[0].fix == fix


class Always(NnxNet):
    """Its second norm forgets `eval()`."""

    def __call__(self, x):
        x = nnx.relu(self.norm0(self.dense0(x)))
        return self.norm1(self.dense1(x), use_running_average=False)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_neighbours(norm):
    model = nnx_model(healthy(), norm)
    model.__class__ = Always
    diagnosis = diagnose(model)
    assert ("error", "norm1", "neighbours") in alarms(diagnosis)
    assert {f.layer for f in diagnosis.alarms} == {"norm1"}
    assert diagnosis.alarms[0].fix == "model.eval()"


def test_a_forward_that_asks_for_training_says_nothing_of_inference(model):
    def forward(model, x):
        return model.norm0(model.dense0(x), use_running_average=False)

    diagnosis = diagnose(model, forward=forward)
    assert not diagnosis.alarms
    assert any("`forward` asks for training" in reason for reason in diagnosis.skipped)
    found = diagnose(model, forward=forward, infer=forward)
    assert alarms(found) == [("error", "norm0", "neighbours")]


def test_information():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.drop = nnx.Dropout(0.1, rngs=rngs)
            self.dense = nnx.Linear(5, 4, rngs=rngs)
            self.norms = nnx.List([nnx.BatchNorm(4, rngs=rngs)])

        def __call__(self, x):
            return self.norms[0](self.dense(self.drop(x)))

    model, batches = Net(nnx.Rngs(0)), make_batches()
    model.norms[0].momentum = 0.5
    for x in batches:
        run(model, x)
    mask = jax.tree.map(lambda _: True, nnx.state(model, nnx.Param))
    diagnosis = diagnose(model, batches, steps=8, decay_mask=mask)
    assert not diagnosis.alarms, str(diagnosis)
    assert {(f.layer, f.check) for f in diagnosis.findings} == {
        ("norms/0", "bias before"),
        ("norms/0", "dropout before"),
        ("norms/0", "weight decay"),
    }


class Around(nnx.BatchNorm):
    """A subclass with code around Flax's arithmetic."""

    def __call__(self, x, use_running_average=None, *, mask=None):
        return 1.0 * super().__call__(x, use_running_average, mask=mask)


class Instead(nnx.BatchNorm):
    """A subclass with arithmetic of its own."""

    def __call__(self, x, use_running_average=None, *, mask=None):
        return x - jnp.mean(x, 0, keepdims=True)


def test_a_subclass_is_measured():
    model = nnx_model(healthy(), Around)
    model.norm1.var[...] = 4 * model.norm1.var[...]
    diagnosis = diagnose(model, steps=20)
    assert ("warning", "norm1", "train/eval gap") in alarms(diagnosis)
    momenta = [f for f in diagnosis.alarms if f.check == "momentum"]
    assert [f.layer for f in momenta] == ["norm0", "norm1", "norm2"]
    assert all(f.fix.startswith("from jaxbn.nnx import") for f in momenta)
    assert type(model.norm1) is Around


def test_a_subclass_with_its_own_arithmetic_is_named_as_not_measured():
    model = nnx_model(healthy())
    model.norm1 = Instead(12, rngs=nnx.Rngs(0))
    model.norm1.var[...] = jnp.full(12, -1.0)
    diagnosis = diagnose(model)
    assert alarms(diagnosis)[0] == ("error", "norm1", "statistics")
    (reason,) = (r for r in diagnosis.skipped if r.startswith("`norm1`:"))
    assert "does not call `super().__call__`" in reason


def test_a_shared_norm_is_one_layer(rng):
    class Twice(nnx.Module):
        def __init__(self):
            self.norm = jaxbn.nnx.BatchNorm(5, rngs=nnx.Rngs(0))
            self.again = self.norm

        def __call__(self, x):
            return self.again(self.norm(x))

    model, batches = Twice(), make_batches()
    diagnosis = diagnose(model, batches)
    assert len(diagnosis.layers) == 1
    assert diagnosis.layers[0].num_values == 64


def test_a_norm_whose_mask_leaves_rows_out():
    norm, rng = jaxbn.nnx.BatchNorm(5, momentum=0.5, rngs=nnx.Rngs(0)), make_batches()
    batches = [(x.at[:60].set(jnp.nan), jnp.arange(64) >= 60) for x in rng]
    for x, mask in batches:
        norm(x, mask=mask)
    diagnosis = diagnose(norm, batches, forward=lambda m, b: m(b[0], mask=b[1]))
    assert alarms(diagnosis) == [("warning", ".", "batch size")]
    assert diagnosis.alarms[0].figure.startswith("4 values that count")
