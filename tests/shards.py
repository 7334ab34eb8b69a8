# SPDX-License-Identifier: Apache-2.0
"""A batch cut into shards, mapped over by each transform, and put together again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, reshard
from jax.sharding import PartitionSpec as P

import jaxbn
from tests import cases

SHARDS = 4
MODES = ("shard_map", "shard_map_unchecked", "pmap", "vmap")


def mesh(num=SHARDS, kind=AxisType.Auto):
    devices = jax.devices()[:num]
    return jax.make_mesh((num,), ("i",), axis_types=(kind,), devices=devices)


def mapped(mode, function, num=SHARDS):
    """Maps over the leading axis, named i, of the first argument, not the second."""
    if mode == "vmap":
        return jax.vmap(function, in_axes=(0, None), axis_name="i")
    if mode == "pmap":
        devices = jax.devices()[:num]
        return jax.pmap(function, in_axes=(0, None), axis_name="i", devices=devices)

    def local(shard, shared):
        shard = jax.tree.map(lambda a: a[0], shard)
        return jax.tree.map(lambda a: a[None], function(shard, shared))

    # So that every case runs on both kinds of mesh.
    checked = mode == "shard_map"
    over = mesh(num, AxisType.Explicit if checked else AxisType.Auto)

    def placed(part, spec):
        return jax.tree.map(lambda a: reshard(a, NamedSharding(over, spec)), part)

    local = jax.shard_map(
        local, mesh=over, in_specs=(P("i"), P()), out_specs=P("i"), check_vma=checked
    )
    if not checked:
        return local
    return lambda shard, shared: local(placed(shard, P("i")), placed(shared, P()))


def cut(data, num=SHARDS, groups=None):
    """The arrays that are cut, stacked by shard, and the shared ones."""
    share = np.empty(num, data.dmean.dtype)
    for group in groups or [range(num)]:
        share[list(group)] = 1 / len(group)
    shard = {k: getattr(data, k) for k in ("x", "residual", "mask", "dy")}
    shared = {k: getattr(data, k) for k in ("scale", "bias", "dmean", "dvar")}

    def split(a):
        return jnp.asarray(a.reshape(num, len(a) // num, *a.shape[1:]))

    if data.mask is not None and len(data.mask) != len(data.x):
        shared["mask"] = shard.pop("mask")
    shard = {**jax.tree.map(split, shard), "share": jnp.asarray(share)}
    return shard, jax.tree.map(jnp.asarray, shared)


def whole(stacked):
    """Shards put together again."""
    if stacked is None:
        return None
    num, size, *others = stacked.shape
    return stacked.reshape(num * size, *others)


def local_norm(case, shard, shared, **options):
    """batch_norm of one shard as a function of its differentiable arguments."""

    def function(x, scale, bias, residual):
        return jaxbn.batch_norm(
            x,
            scale,
            bias,
            axis=case.axis,
            epsilon=case.epsilon,
            mask=shard["mask"] if "mask" in shard else shared["mask"],
            residual=residual,
            activation=cases.ACTIVATIONS[case.activation],
            **options,
        )

    return function


def arguments(shard, shared):
    return shard["x"], shared["scale"], shared["bias"], shard["residual"]


def loss(case, shard, shared, **options):
    """Linear in outputs and moments, whose part the shards of a batch share out."""

    def function(*args):
        y, moments = local_norm(case, shard, shared, **options)(*args)
        wide = shared["dmean"].dtype
        total = jnp.sum(y.astype(wide) * shard["dy"].astype(wide))
        share = sum(
            jnp.sum(d * m.reshape(-1, *d.shape).sum(0))
            for d, m in zip((shared["dmean"], shared["dvar"]), moments, strict=False)
        )
        return total + shard["share"] * share

    return function


class Result(NamedTuple):
    """Of the whole batch; moments and gradients of vectors by shard."""

    y: jax.Array
    moments: jaxbn.Moments
    gradients: tuple

    @property
    def together(self):
        """The gradients of x, scale, bias and residual."""
        dx, *vectors, dr = self.gradients
        return whole(dx), *vectors, whole(dr)


def run(mode, case, data, num=SHARDS, **options):
    """Outputs, moments and gradients of a batch cut into shards, taken inside."""

    def step(shard, shared):
        inputs = arguments(shard, shared)
        norm = local_norm(case, shard, shared, axis_name="i", **options)
        y, moments = norm(*inputs)
        function = loss(case, shard, shared, axis_name="i", **options)
        argnums = tuple(k for k, a in enumerate(inputs) if a is not None)
        gradients = dict(
            zip(argnums, jax.grad(function, argnums)(*inputs), strict=True)
        )
        return y, moments, tuple(gradients.get(k) for k in range(4))

    pieces = cut(data, num, options.get("axis_index_groups"))
    stacked = jax.device_get(jax.jit(mapped(mode, step, num))(*pieces))
    y, moments, (dx, *vectors, dr) = stacked
    # Complete on every shard where the shared arguments are known to be the same.
    complete = mode == "shard_map"
    vectors = jax.tree.map(lambda g: g[0] if complete else g.sum(0), vectors)
    return Result(whole(y), moments, (dx, *vectors, dr))


def run_whole(case, data, **options):
    """The same of a batch that is not cut, on one device."""
    options = {**cases.options(case, data), **options}

    @jax.jit
    def run(x, scale, bias, residual):
        def function(x, scale, bias, residual):
            return jaxbn.batch_norm(x, scale, bias, **{**options, "residual": residual})

        (y, moments), vjp = jax.vjp(function, x, scale, bias, residual)
        dmean, dvar = (
            jnp.broadcast_to(jnp.asarray(d), m.shape)
            for d, m in zip((data.dmean, data.dvar), moments, strict=False)
        )
        cotangent = jaxbn.Moments(dmean, dvar, moments.count)
        return y, moments, vjp((jnp.asarray(data.dy), cotangent))

    y, moments, (dx, *vectors, dr) = run(*cases.arrays(data), options["residual"])
    dr = None if dr is None else dr[None]
    return Result(y, moments, (dx[None], *vectors, dr))
