# SPDX-License-Identifier: Apache-2.0
"""Axes of kernels, and which layers are asked about Flatten."""

import numpy as np
import pytest

from jaxbn._convert.layers import Layer
from jaxbn._convert.layouts import (
    OURS,
    Layout,
    check_all_flattened,
    relayout,
    unflatten,
)


@pytest.mark.parametrize("spatial", [0, 1, 2, 3])
@pytest.mark.parametrize("axes", ["OI*", "IO*", "*OI", "*IO"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_there_and_back(spatial, axes, mirrored, rng):
    kernel = rng.random((*range(5, 5 + spatial), 2, 3))
    other = Layout(axes, mirrored)
    there = relayout(kernel, OURS, other)
    sizes = {"*": kernel.shape[:-2], "I": (2,), "O": (3,)}
    assert there.shape == sum((sizes[axis] for axis in axes), ())
    assert np.array_equal(relayout(there, other, OURS), kernel)
    first = [0] * there.ndim
    expected = kernel[(-1,) * spatial if mirrored else (0,) * spatial][0, 0]
    assert there[tuple(first)] == expected


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 4, 5)])
def test_flatten_is_a_permutation(shape, rng):
    last = rng.random((*shape, 7))
    first = np.moveaxis(last, len(shape) - 1, 0)
    ours, theirs = last.reshape(-1, 7), first.reshape(-1, 7)
    assert np.array_equal(unflatten(theirs, shape, to_channels_first=False), ours)
    assert np.array_equal(unflatten(ours, shape, to_channels_first=True), theirs)


def conv(name, outputs):
    return Layer(name, "conv", {"kernel": np.zeros((3, 3, 3, outputs))})


def dense(name, inputs, outputs=10, rank=None):
    kernel = np.zeros((inputs, outputs))
    return Layer(name, "dense", {"kernel": kernel}, rank=rank)


def norm(name, features, rank=None):
    return Layer(name, "batch_norm", {"scale": np.zeros(features)}, rank=rank)


@pytest.mark.parametrize(
    "layers",
    [
        [dense("a", 3), dense("b", 10)],  # no positions
        [conv("a", 8), norm("b", 8), dense("c", 8)],  # a mean over positions
        [conv("a", 8), norm("b", 24), dense("c", 24)],  # concatenated, then a mean
        [conv("a", 8), dense("c", 8, 2), dense("d", 2, 8), conv("e", 4), dense("f", 4)],
        [conv("a", 8), dense("c", 32, rank=4)],  # positions are kept
    ],
)
def test_what_is_clear_is_not_asked(layers):
    ranked = [
        layer._replace(rank=4) if layer.kind == "batch_norm" else layer
        for layer in layers
    ]
    assert check_all_flattened(ranked, None) == {}


@pytest.mark.parametrize(
    ("layers", "asked"),
    [
        ([conv("a", 8), dense("b", 32)], "b"),
        ([conv("a", 8), dense("b", 32, rank=2)], "b"),
        ([conv("a", 8), norm("n", 32), dense("b", 32)], "n"),
        ([dense("b", 32), conv("a", 8)], "b"),  # the order may be lost
        ([conv("a", 8), dense("side", 8, 4), dense("b", 32)], "b"),
        ([conv("a", 8), dense("b", 35)], "b"),  # with something concatenated
    ],
)
def test_what_is_not_clear_is_asked(layers, asked):
    with pytest.raises(ValueError, match=f"features of `{asked}` are"):
        check_all_flattened(layers, None)
    answers = {layer.path: None for layer in layers if layer.kind != "conv"}
    assert check_all_flattened(layers, answers) is answers
