# SPDX-License-Identifier: Apache-2.0
"""The public function, and what it returns."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array

from jaxbn._checks.folding import (
    check_has_norms,
    check_inference,
    check_leaves,
    check_paths,
    check_same_operations,
    check_same_params,
)
from jaxbn._folding.graph import trace
from jaxbn._folding.inference import mark_repeated_masks, norm_in_training
from jaxbn._folding.maps import Constants
from jaxbn._folding.plan import evaluate, make_plan, signature
from jaxbn._folding.planning import FoldedNorm, decide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Folded:
    """A function whose norms are part of its kernels; a pytree of its params.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxbn
        >>> def network(params, x):
        ...     y = x @ params["kernel"]
        ...     return jaxbn.normalize(y, params["mean"], params["var"])
        >>> params = {"kernel": jnp.eye(2), "mean": jnp.ones(2), "var": jnp.ones(2)}
        >>> folded = fold(network, params, jnp.ones((1, 2)))
        >>> jax.jit(lambda folded, x: folded(x))(folded, jnp.ones((3, 2))).shape
        (3, 2)

    References:
        Jacob et al. 2018, https://arxiv.org/abs/1712.05877.

    Attributes:
        function: `function(params, *inputs)` computes what the original does.
        params: the arrays that it needs, by the paths of those they came from.
        report: an entry for each norm, in order, which prints as one line.
    """

    function: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    params: dict[str, Any]
    report: tuple[FoldedNorm, ...] = dataclasses.field(metadata={"static": True})

    def __call__(self, *inputs: Any) -> Any:
        """Computes `function(params, *inputs)`."""
        return self.function(self.params, *inputs)


def fold(function: Callable[..., Any], params: Any, *inputs: Any) -> Folded:
    r"""Folds norms in inference into the linear operations next to them.

    With fixed statistics a norm is an affine map of each feature, $a z + b$ with
    $a = \gamma / \sqrt{v + \epsilon}$ and $b = \beta - a \mu$. A convolution or a
    product $K$ before or after it takes it in:

    $$a (K z) + b = (a K) z + b, \qquad K (a z + b) = (a K) z + K b.$$

    The new kernels are computed in float64 on the host and rounded once, to the dtype
    in which the operation takes them; the shifts are float32 at least. All else that
    depends on params alone is computed once, too; params that are only cast, reshaped
    or repeated keep their dtype and shape.

    The function is traced, so that norms of any framework are folded: those of jaxbn,
    Flax, Haiku, Equinox, Keras on JAX, or your own. A norm is folded into the operation
    before it, where only the norm uses the output; else into all those after it, also
    through max-pooling where its scale is positive, through sums, and through a
    flattening before a dense layer; else it is left as it is. After a concatenation
    each part's operation takes its own slice, if all parts can. It is left after an
    addition, before a nonlinear function, and before a convolution that pads with
    zeros, unless the shift is 0. `report` says why.

    Args:
        function: `function(params, *inputs)`, in inference mode.
        params: a pytree of arrays, parameters and statistics together.
        inputs: pytrees of arrays, or of `jax.ShapeDtypeStruct`, for example of a batch
            of one; the folded function takes batches of any size.

    Returns:
        A pytree of `params`, with `function` and `report`. Its params are a flat dict,
        by the paths of the leaves that they came from; a kernel that is used several
        times is there once for each use that differs. `function(params, *inputs)` can
        be transformed and exported as any other.

    Raises:
        TypeError: a leaf of `params` is no array, or is traced.
        ValueError: the function uses statistics of the batch, or has no norm. The
            folded function raises it for params of other names, shapes or dtypes.

    Example:
        >>> import io
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import jaxbn
        >>> def network(params, x):
        ...     dense, norm = params["dense"], params["norm"]
        ...     y = x @ dense["kernel"] + dense["bias"].reshape(1, -1)
        ...     return jax.nn.relu(jaxbn.normalize(y, **norm))
        >>> dense = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
        >>> norm = {"mean": jnp.full(2, 3.0), "var": jnp.full(2, 4.0)}
        >>> x = jnp.array([[1.0, 2.0, 3.0]])
        >>> folded = fold(network, {"dense": dense, "norm": norm}, x)
        >>> print(*folded.report)
        norm: folded into dense/kernel
        >>> folded(x).round(3).tolist()
        [[2.0, 2.0]]

        Saved and loaded, as by any library that stores a dict of arrays:

        >>> file = io.BytesIO()
        >>> np.savez(file, **folded.params)
        >>> loaded = dict(np.load(io.BytesIO(file.getvalue())))
        >>> sorted(loaded)
        ['dense/bias', 'dense/kernel']
        >>> folded.function(loaded, x).round(3).tolist()
        [[2.0, 2.0]]

    References:
        Jacob et al. 2018, section 3.2, https://arxiv.org/abs/1712.05877.
    """
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    paths = [_path_of(path) for path, _ in flat]
    leaves = dict(zip(paths, (leaf for _, leaf in flat), strict=True))
    check_paths(paths)
    check_leaves(leaves)
    shapes = jax.tree.unflatten(tree, [_shape_of(leaf) for leaf in leaves.values()])

    like = jax.tree.map(_shape_of, inputs)
    graph = trace(function, shapes, paths, like)
    check_inference(norm_in_training(graph))
    mark_repeated_masks(graph)
    constants = Constants(leaves)
    decisions = decide(graph, constants)
    check_has_norms(decisions.outcomes)
    plan, new, report = make_plan(graph, decisions, constants)
    expected = {name: _shape_of(value) for name, value in new.items()}

    def folded(params: Mapping[str, Array], *inputs: Any) -> Any:
        check_same_params(params, expected)
        others = jax.tree.map(_shape_of, inputs)
        # Exporters may trace with layers of their own in the place of a framework's:
        # for the same shapes it is the first trace that counts.
        again = graph if others == like else trace(function, shapes, paths, others)
        given = ", ".join(str(x.aval) for x in again.inputs)
        check_same_operations(signature(again), plan.signature, given)
        outputs = evaluate(again, plan, params, jax.tree.leaves(inputs))
        return jax.tree.unflatten(again.out_tree, outputs)

    return Folded(jax.jit(folded), new, report)


def _path_of(path: tuple[Any, ...]) -> str:
    """A path as one string, without the `value` in which NNX wraps an array."""
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _shape_of(x: Any) -> jax.ShapeDtypeStruct:
    """What tracing needs of an array."""
    aval = jax.typeof(x) if not isinstance(x, jax.ShapeDtypeStruct) else x
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
