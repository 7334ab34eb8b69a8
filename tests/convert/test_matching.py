# SPDX-License-Identifier: Apache-2.0
"""Which layer is which: by names, by order, and where that is in doubt."""

import numpy as np
import pytest
from flax import nnx

from jaxbn.convert import from_torch

pytestmark = pytest.mark.usefixtures("without_type_checker")


class Branches(nnx.Module):
    """Linear layers of one size under these names, in this order."""

    def __init__(self, *names, sizes=None):
        for number, name in enumerate(names):
            size = (3, 3) if sizes is None else sizes[number]
            setattr(self, name, nnx.Linear(*size, rngs=nnx.Rngs(0)))


def weights(*names, sizes=None):
    """Of linear layers; those of the k-th are full of k."""
    found = {}
    for number, name in enumerate(names):
        a, b = (3, 3) if sizes is None else sizes[number]
        found[f"{name}.weight"] = np.full((b, a), number, np.float32)
        found[f"{name}.bias"] = np.full(b, number, np.float32)
    return found


def order(model, given, **how):
    """The number of the source that each layer of the model was given."""
    from_torch(model, given, **how)
    layers = vars(model).values()
    return [int(x.bias[0]) for x in layers if isinstance(x, nnx.Linear)]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("fc1", "fc2", "fc10"), ("Dense_0", "Dense_1", "Dense_2")),  # numbers ascend
        (("up3", "up2"), ("decoder.3", "decoder.2")),  # both descend
        (("proj_conv", "skip_conv"), ("block.proj", "block.skip")),  # shared words
        (("query", "out"), ("attention.query", "attention.projection")),  # one shared
        (("dense", "dense_1"), ("fc.0", "fc.1")),  # as Keras numbers them
    ],
)
def test_the_order_stands_where_names_bear_witness(ours, theirs):
    assert order(Branches(*ours), weights(*theirs)) == list(range(len(ours)))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("left", "right"), ("a", "b")),  # nothing says so
        (("left", "right"), ("net.right", "net.left")),  # names say otherwise
        (("fc1", "fc2"), ("layer.2", "layer.1")),  # numbers do
        (("conv3", "skip"), ("layers.0", "layers.1")),  # one side does not say
        (("up2", "up1"), ("first", "second")),
    ],
)
def test_a_doubt_is_refused(ours, theirs):
    model = Branches(*ours)
    before = nnx.to_pure_dict(nnx.state(model))
    with pytest.raises(ValueError, match="`names` must be given where order and shap"):
        from_torch(model, weights(*theirs))
    after = nnx.to_pure_dict(nnx.state(model))
    for name, layer in before.items():
        np.testing.assert_array_equal(after[name]["kernel"], layer["kernel"])
    names = {ours[0]: theirs[0]}  # one is enough
    assert order(model, weights(*theirs), names=names) == [0, 1]


def test_repeated_runs_are_told_by_their_first_layers():
    """Two branches of two layers each, which one side defines the other way round."""
    sizes = [(3, 4), (4, 3)] * 2
    ours = Branches("main1", "main2", "skip1", "skip2", sizes=sizes)
    right = weights("b.main.0", "b.main.1", "b.skip.0", "b.skip.1", sizes=sizes)
    assert order(ours, right) == [0, 1, 2, 3]
    wrong = weights("b.skip.0", "b.skip.1", "b.main.0", "b.main.1", sizes=sizes)
    with pytest.raises(ValueError, match="leave a doubt"):
        from_torch(ours, wrong)


def test_names_across_other_layers_must_not_contradict():
    sizes = [(3, 3), (3, 4), (3, 3)]
    ours = Branches("left", "middle", "right", sizes=sizes)
    assert order(ours, weights("a", "b", "c", sizes=sizes)) == [0, 1, 2]
    with pytest.raises(ValueError, match="leave a doubt"):
        from_torch(ours, weights("right", "b", "left", sizes=sizes))


def test_shapes_that_occur_once_need_no_order():
    sizes = [(3, 3), (3, 4), (4, 3)]
    ours = Branches("a", "b", "c", sizes=sizes)
    theirs = weights("z", "y", "x", sizes=sizes[::-1])
    assert order(ours, theirs) == [2, 1, 0]


def test_equal_names_need_no_order():
    """But for case and separators; and in whatever order a file has them."""
    ours = Branches("Block_0", "block_1", "head")
    assert order(ours, weights("head", "_block.1", "block0")) == [2, 1, 0]


def test_names_may_be_a_function_and_may_be_of_some():
    ours = Branches("a", "b")
    assert order(ours, weights("net.b", "net.a"), names=lambda p: f"net.{p}") == [1, 0]
    assert order(ours, weights("b", "first"), names={"a": "first"}) == [1, 0]
    other = weights("a", "c", sizes=[(3, 3), (3, 4)])
    with pytest.raises(ValueError, match=r"for \{'b': .* for \{'c': .* none here"):
        from_torch(ours, other, names={"a": "a"})
    with pytest.raises(ValueError, match=r"but not to \['c'\]"):
        from_torch(ours, weights("a", "b", "c"), names=lambda path: path)


def test_one_source_may_serve_two_layers():
    """What PyTorch shares and this model does not."""
    ours = Branches("a", "b")
    assert order(ours, weights("x"), names={"a": "x", "b": "x"}) == [0, 0]


def test_one_array_under_two_names_counts_once():
    given = weights("x")
    given |= {f"y.{leaf}": given[f"x.{leaf}"] for leaf in ("weight", "bias")}
    assert order(Branches("a"), given) == [0]
