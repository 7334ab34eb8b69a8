# SPDX-License-Identifier: Apache-2.0
"""What `jax.checkpoint` saves of a norm, so that the rest is computed again."""

from typing import Any

import jax

from jaxbn._core.training import INPUT, STATISTICS

_by_names = jax.checkpoint_policies.save_only_these_names(INPUT, STATISTICS)


def save_inputs(primitive: Any, *avals: Any, **params: Any) -> Any:
    r"""A policy of `jax.checkpoint`: save inputs and statistics of norms, nothing else.

    Of $y = a(\gamma (x - \mu) / \sqrt{v + \epsilon} + \beta)$ the backward pass needs
    $x$, $\mu$ and $v$, from which $y$ and what follows element by element are computed
    again. The next convolution needs $y$, which autodiff saves otherwise. With this
    policy a block of convolutions, norms and activations saves the block's arguments
    and each convolution's output, once; no convolution, sum or collective is repeated.

    Give it to `jax.checkpoint`, `flax.linen.remat` or `flax.nnx.remat`, around each
    block of a network: around all of it, everything would be computed again at once.
    Running statistics move once. What a block has after its last norm and does not
    return, such as a convolution, is computed again.

    In a derivative a training norm names its input, of the size of `x` (complex numbers
    as pairs, virtual batches stacked), "jaxbn_input", and its statistics, a few
    vectors, "jaxbn_statistics", for `jax.checkpoint_policies` that offload or combine.
    Inference has no names. So a frozen norm saves nothing, and the convolution before
    it is computed again.

    Args:
        primitive: what JAX asks about.
        *avals: its inputs.
        **params: its parameters.

    Returns:
        Whether its result is saved.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxbn
        >>> def block(kernel, x):
        ...     y, _ = jaxbn.batch_norm(x @ kernel)
        ...     return jax.nn.relu(y)
        >>> saving = jax.checkpoint(block, policy=jaxbn.save_inputs)
        >>> kernel, x = jnp.eye(2), jnp.array([[0.0, 3.0], [2.0, 1.0]])
        >>> gradient = jax.grad(lambda kernel: saving(kernel, x)[0].sum())(kernel)
        >>> gradient.shape
        (2, 2)

    References:
        Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost",
        https://arxiv.org/abs/1604.06174; Rota Bulò et al. 2018, "In-Place Activated
        BatchNorm", https://arxiv.org/abs/1712.02616, which computes $x$ from $y$.
    """
    return _by_names(primitive, *avals, **params)
