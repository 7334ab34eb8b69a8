# SPDX-License-Identifier: Apache-2.0
"""Checks that are not made are named, with what they need."""

import jax.numpy as jnp
import pytest

from tests.diagnosis.nets import LinenNet, diagnosed, healthy, make_batches

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def test_each_check_says_what_it_needs():
    variables = healthy()
    skipped = diagnosed(variables, make_batches(1), steps=None, infer=None).skipped
    assert skipped == (
        "inference that depends on its neighbours: needs `infer`",
        "train/eval gap: needs at least 2 batches, better 8 or more",
        "momentum: needs `steps`, the number of updates so far",
        "weight decay: needs `decay_mask`",
    )


@pytest.mark.parametrize(("batches", "infer", "needs"), [
    ([jnp.ones((4, 5))] * 2, None, "two different examples"),
    (None, lambda variables, x: jnp.sum(x), "along its leading axis"),
])  # fmt: skip
def test_neighbours_need_examples(batches, infer, needs):
    how = {} if infer is None else {"infer": infer}
    skipped = diagnosed(healthy(), batches, **how).skipped
    assert any(needs in reason for reason in skipped)


def test_any_iterable_is_read_once():
    batches = make_batches()
    assert str(diagnosed(healthy(), iter(batches))) == str(
        diagnosed(healthy(), batches)
    )


def test_a_ragged_last_batch():
    batches = [*make_batches(6), make_batches(1, 5)[0]]
    diagnosis = diagnosed(healthy(), batches, net=LinenNet(dropout=0.5))
    assert not diagnosis.alarms
    assert {layer.num_values for layer in diagnosis.layers} == {64}
    # The second trace has seen no dropout before the first norm.
    assert {f.layer for f in diagnosis.findings} == {"norm1", "norm2"}
