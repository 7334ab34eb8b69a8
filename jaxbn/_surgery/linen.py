# SPDX-License-Identifier: Apache-2.0
"""The batch norms of a Linen model, changed while a function runs it.

A Linen model makes its layers in each call, so that there is nothing to change in
place. An interceptor sees each norm that is called, makes one with other fields on the
same variables, and calls that.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core.scope import subtract_filters
from flax.linen.dtypes import canonicalize_dtype
from flax.nnx.bridge import ToLinen

from jaxbn._checks.surgery import (
    MICRO_BATCHES,
    check_calls_super,
    check_can_freeze,
    check_can_restore,
    check_has_norms,
    check_is_function,
    check_is_ours,
    check_new_axis,
    check_reachable,
    naming_layer,
)
from jaxbn._flax.linen import BatchNorm, BatchRenorm
from jaxbn._flax.records import ACCUMULATES
from jaxbn._surgery.report import SurgeryReport, always, training_only

_OF_METHOD = {
    vars(kind)["__call__"].__wrapped__: kind
    for kind in (nn.BatchNorm, BatchNorm, BatchRenorm)
}
"""The class whose arithmetic a method is, by the function that Linen has wrapped."""
_FLAX_CALL = nn.BatchNorm.__call__
_TAKEN_BY_FLAX = ("x", "use_running_average")
"""The arguments that mean the same in both libraries."""


class Call(NamedTuple):
    """A norm that is not bound, and the arguments of its call by name."""

    norm: nn.Module
    arguments: dict[str, Any]
    params: tuple[Any, ...]  # scale and bias where there are any
    path: str
    accumulates: bool  # there are micro-batches that wait for `commit`


Change = Callable[[Call], Call]
"""Returns the call with another norm, or the same object if nothing is to change."""


class Changed:
    """A function that runs a model with its batch norms changed.

    Attributes:
        report: the norms that the calls so far came to.
    """

    def __init__(self, apply: Callable[..., Any], change: Change):
        """Takes the function, and the change of each call of a norm."""
        check_is_function(
            apply,
            is_function=callable(apply) and not isinstance(apply, nn.Module | type),
            compiled=isinstance(apply, jax.stages.Wrapped),
        )
        functools.update_wrapper(self, apply)
        self._apply, self._change = apply, change
        self._is_changed: dict[str, bool] = {}

    @property
    def report(self) -> SurgeryReport:
        """The norms that the calls so far came to."""
        norms = self._is_changed.items()
        return SurgeryReport(
            changed=tuple(path for path, is_changed in norms if is_changed),
            kept=tuple(path for path, is_changed in norms if not is_changed),
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model."""
        chain = (self, *_CHAIN.value)
        with (
            _CHAIN(chain),
            nn.intercept_methods(functools.partial(_intercept, chain)),
        ):
            result = self._apply(*args, **kwargs)
        # An exporter may have its own function in place of Flax's, which Linen does not
        # show. Those norms are Flax's already, as they are to be.
        hidden = nn.BatchNorm.__call__ is not _FLAX_CALL and self._change is _restore
        if not _CHAIN.value and not hidden:
            check_has_norms(self._is_changed, name="apply", door="linen")
        return result

    def change(self, call: Call) -> Call:
        """The call as it is to be, which is noted."""
        new = self._change(call)
        was_changed = self._is_changed.get(call.path, False)
        self._is_changed[call.path] = was_changed or new is not call
        return new

    def has_seen(self, path: str) -> bool:
        """Whether there was a norm at this path."""
        return path in self._is_changed


_CHAIN = jax.make_user_context(())
"""The functions that are running, the innermost first; part of the key of `jit`.

Without it, a function that is compiled inside a model would be run as it was traced
with other norms.
"""


def _intercept(
    chain: tuple[Changed, ...],
    next_function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """Calls the norm that the chain makes of one.

    Of several interceptors only the innermost acts, for all: the functions are applied
    from the inside out, whereas interceptors run from the outside in.
    """
    is_bound = context.module.scope is not None  # else it has no variables, no path
    if _CHAIN.value is not chain or not is_bound:
        return next_function(*args, **kwargs)
    given = call = call_of(args, kwargs, context)
    if call is None:
        result = next_function(*args, **kwargs)
        if context.method_name == "__call__":
            _check_other(context.module, path_of(context.module), chain)
        return result
    for function in chain:
        call = function.change(call)
    if call is given:
        return next_function(*args, **kwargs)
    with _CHAIN(()):
        return run(call, context.module)


def path_of(layer: nn.Module) -> str:
    """Its name in the model; `.` is a model that is one layer."""
    return "/".join(layer.path) or "."


def call_of(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Call | None:
    """The call of a norm's arithmetic, of either library; None for any other."""
    layer, method = context.module, getattr(context.orig_method, "func", None)
    kind = _OF_METHOD.get(method)
    if method is None or kind is None:
        return None
    norm = kind(**{field: getattr(layer, field) for field in _fields_of(kind)})
    bound = inspect.signature(method).bind(layer, *args, **kwargs).arguments
    arguments = {name: value for name, value in bound.items() if name != "self"}
    used = [n for n in ("scale", "bias") if getattr(norm, f"use_{n}")]
    names = [name for name in used if layer.has_variable("params", name)]
    params = tuple(nn.unbox(layer.get_variable("params", name)) for name in names)
    accumulates = layer.has_variable("batch_stats", ACCUMULATES)
    return Call(norm, arguments, params, path_of(layer), accumulates)


def run(call: Call, layer: nn.Module) -> Any:
    """Runs the norm of the call on the variables of the layer."""
    bound_scope: Any = layer.scope
    scope = bound_scope.rewound()
    # What the layer captures of its own call is not captured twice.
    scope.mutable = subtract_filters(scope.mutable, "intermediates")
    return call.norm.clone(parent=scope)(**call.arguments)


def _check_other(layer: nn.Module, path: str, chain: tuple[Changed, ...]) -> None:
    """Refuses a layer that has norms of its own which were not seen."""
    kind = type(layer).__name__
    if isinstance(layer, nn.BatchNorm | BatchNorm):
        check_calls_super(path, kind, calls=chain[0].has_seen(path))
    if isinstance(layer, ToLinen) and "batch_stats" in layer.variables:
        check_reachable(path, kind, door="linen")


def _fields_of(kind: type[nn.Module]) -> list[str]:
    """The names of the fields but for those that every module has."""
    names = (field.name for field in fields(kind) if field.init)
    return [name for name in names if name not in ("parent", "name")]


def _shared(norm: nn.Module) -> dict[str, Any]:
    """The fields that both libraries have."""
    return {name: getattr(norm, name) for name in _fields_of(nn.BatchNorm)}


def replaced(call: Call) -> Call:
    """The call by our norm, where it is of Flax's."""
    norm = call.norm
    if not isinstance(norm, nn.BatchNorm):
        return call
    with naming_layer(call.path):
        new = BatchNorm(**_shared(norm))
    dtype = _dtype_of_flax(call)
    if dtype != _dtype_of_ours(call):
        new = new.clone(dtype=dtype)
    return call._replace(norm=new)


def _dtype_of_flax(call: Call) -> Any:
    """The dtype of the output of Flax's norm with these fields."""
    norm, params = call.norm, call.params
    if not params and (norm.use_scale or norm.use_bias):  # at initialization
        params = (jnp.zeros((), norm.param_dtype),)
    return canonicalize_dtype(call.arguments["x"], *params, dtype=norm.dtype)


def _dtype_of_ours(call: Call) -> Any:
    """That of jaxbn's."""
    if call.norm.dtype is not None:
        return jnp.dtype(call.norm.dtype)
    dtype = jnp.result_type(call.arguments["x"])
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.dtype(jnp.float32)


def _restore(call: Call) -> Call:
    norm, arguments = call.norm, call.arguments
    if not isinstance(norm, BatchNorm):
        return call
    inference = norm.use_running_average or arguments.get("use_running_average")
    update = arguments.get("update_stats")
    reasons = [*always(norm)]
    if not inference:
        reasons += training_only(norm)
        if isinstance(norm, BatchRenorm):
            reasons.append("renorm")
        if call.accumulates:
            reasons.append(MICRO_BATCHES)
    if update is not None and update == bool(inference):
        reasons.append(f"update_stats={update}")
    given = ("mask", "segment_ids", "scale", "bias", "residual")
    reasons += [f"`{n}`" for n in given if arguments.get(n) is not None]
    check_can_restore(call.path, type(norm).__name__, reasons)
    taken = {n: arguments[n] for n in _TAKEN_BY_FLAX if n in arguments}
    new, dtype = nn.BatchNorm(**_shared(norm)), _dtype_of_ours(call)
    if dtype != _dtype_of_flax(call):
        new = new.clone(dtype=dtype)
    return call._replace(norm=new, arguments=taken)


def _check_ours(call: Call, verb: str) -> None:
    if isinstance(call.norm, nn.BatchNorm):
        fix = f"{verb}(jaxbn.linen.replace(apply))"
        check_is_ours(call.path, "flax.linen.BatchNorm", fix=fix)


def _synchronise(axis_name: Any, groups: Any, call: Call) -> Call:
    _check_ours(call, "synchronise")
    norm = call.norm
    if (norm.axis_name, norm.axis_index_groups) == (axis_name, groups):
        return call
    new = norm.clone(axis_name=axis_name, axis_index_groups=groups)
    return call._replace(norm=new)


def _set_frozen(frozen: bool, call: Call) -> Call:
    verb = "freeze" if frozen else "unfreeze"
    _check_ours(call, verb)
    norm = call.norm
    if frozen:
        activation = norm.activation
        has_params = isinstance(activation, nn.Module)
        check_can_freeze(call.path, type(activation).__name__, has_params=has_params)
    if norm.frozen == frozen:
        return call
    return call._replace(norm=norm.clone(frozen=frozen))


def replace(apply: Callable[..., Any]) -> Changed:
    """Returns the function with Flax's batch norms replaced by those of jaxbn.

    The model's code, its variables and their names stay as they are, and so does the
    dtype of each output. Subclasses of `flax.linen.BatchNorm` keep their own code; what
    they call by `super().__call__` is replaced. Everything else that is listed in
    `docs/differences.md` is then as in jaxbn. Norms of jaxbn are kept.

    Make the function once: each has its own entry in the cache of `jit`, inside the
    model too. `jit` goes around it, not inside.

    Args:
        apply: a function that runs a Linen model, such as `model.apply`, `model.init`,
            or one that calls them.

    Returns:
        A function with the arguments and results of `apply`. Its `report` holds the
        paths of the norms that its calls so far came to: those `changed`, those `kept`.

    Raises:
        TypeError: `apply` is not a function.
        ValueError: `apply` is compiled. When the function is called: there are no batch
            norms; one is in an NNX module (`nnx.bridge.ToLinen`); a subclass does not
            call `super().__call__`; or a field is out of range.

    Example:
        >>> import flax.linen as nn
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxbn.linen
        >>> norm = nn.BatchNorm(use_running_average=False)
        >>> model = nn.Sequential([nn.Dense(3), norm])
        >>> x = 1e4 + jax.random.normal(jax.random.key(0), (512, 3))
        >>> variables = model.init(jax.random.key(1), x)
        >>> apply = jaxbn.linen.replace(model.apply)
        >>> y, updates = apply(variables, x, mutable=["batch_stats"])
        >>> apply.report
        SurgeryReport(changed=('layers_1',), kept=())

    References:
        `flax.linen.intercept_methods`; "Model surgery" in Flax's documentation.
    """
    return Changed(apply, replaced)


def restore(apply: Callable[..., Any]) -> Changed:
    """Returns the function with the batch norms of jaxbn replaced by Flax's.

    The inverse of `replace`: there and back gives the same bits. It suits tools that
    know Flax's norm by its class, such as exporters. A layer that does what Flax's
    cannot is refused; in inference, the settings that are of training alone do not
    count (`unbiased`, `debias`, `virtual_batch_size`, `momentum=None`, batch renorm).

    Args:
        apply: as for `replace`.

    Returns:
        A function with the arguments and results of `apply`, and a `report`.

    Raises:
        TypeError: `apply` is not a function.
        ValueError: as for `replace`; or, when the function is called, a layer is
            frozen, has an `activation` or `num_segments`, is called with a `mask`,
            `scale`, `bias`, `residual` or an `update_stats` that Flax's cannot take, is
            trained by a setting that Flax's does not have, or is trained while
            micro-batches wait for `commit`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxbn.linen
        >>> model = jaxbn.linen.BatchNorm(use_running_average=True)
        >>> variables = model.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> apply = jaxbn.linen.restore(model.apply)
        >>> apply(variables, jnp.ones((2, 3))).shape, apply.report.changed
        ((2, 3), ('.',))

    References:
        As for `replace`.
    """
    return Changed(apply, _restore)


def synchronise(
    apply: Callable[..., Any],
    *,
    axis_name: str | Sequence[str] | None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> Changed:
    """Returns the function with the statistics of all batch norms synchronised.

    Each takes the statistics of the values of all devices together, counts included, as
    with the fields of the same names. Under `jit` alone nothing is needed: there the
    statistics of a sharded batch are global.

    Args:
        apply: as for `replace`; its norms are those of jaxbn.
        axis_name: the named axis or axes of `shard_map`, `pmap` or `vmap`; None: each
            device by its own.
        axis_index_groups: groups along `axis_name`, each a batch of its own.

    Returns:
        A function with the arguments and results of `apply`, and a `report`.

    Raises:
        TypeError: `apply` is not a function, or `axis_name` no name.
        ValueError: as for `replace`; there are groups without a name; or, when the
            function is called, a norm is Flax's own.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxbn.linen
        >>> model = jaxbn.linen.BatchNorm(use_running_average=False)
        >>> x = jnp.array([[[1.0], [2.0]], [[3.0], [6.0]]])  # of two devices
        >>> variables = model.init(jax.random.key(0), x[0])
        >>> apply = jaxbn.linen.synchronise(model.apply, axis_name="devices")
        >>> def step(x):
        ...     return apply(variables, x, mutable=["batch_stats"])
        >>> _, updates = jax.vmap(step, axis_name="devices")(x)
        >>> [f"{mean:.2f}" for mean in updates["batch_stats"]["mean"][:, 0]]
        ['0.03', '0.03']

    References:
        `torch.nn.SyncBatchNorm.convert_sync_batchnorm`.
    """
    check_new_axis(axis_name, axis_index_groups)
    return Changed(apply, functools.partial(_synchronise, axis_name, axis_index_groups))


def freeze(apply: Callable[..., Any]) -> Changed:
    """Returns the function with all batch norms frozen.

    Each normalizes by its running statistics, which stay as they are, whatever the call
    asks for; scale and bias are constants, of gradient 0. An optimizer that moves
    parameters without a gradient, by weight decay or by the moments of earlier steps,
    must leave them out, such as by `optax.masked`; `report.changed` has the paths.

    Args:
        apply: as for `replace`; its norms are those of jaxbn.

    Returns:
        A function with the arguments and results of `apply`, and a `report`.

    Raises:
        TypeError: `apply` is not a function.
        ValueError: as for `replace`; or, when the function is called, a norm is Flax's
            own, or has an `activation` with parameters.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxbn.linen
        >>> model = jaxbn.linen.BatchNorm(use_running_average=False)
        >>> x = jnp.array([[1.0], [5.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> apply = jaxbn.linen.freeze(model.apply)
        >>> y, updates = apply(variables, x, mutable=["batch_stats"])
        >>> updates["batch_stats"]["mean"].item(), [f"{one:.2f}" for one in y[:, 0]]
        (0.0, ['1.00', '5.00'])

    References:
        `FrozenBatchNorm2d` of torchvision; Keras's `trainable = False`, which also
        means inference for batch norm.
    """
    return Changed(apply, functools.partial(_set_frozen, True))


def unfreeze(apply: Callable[..., Any]) -> Changed:
    """Returns the function with no batch norm frozen: the inverse of `freeze`.

    Args:
        apply: as for `replace`; its norms are those of jaxbn.

    Returns:
        A function with the arguments and results of `apply`, and a `report`.

    Raises:
        TypeError: `apply` is not a function.
        ValueError: as for `replace`; or, when the function is called, a norm is Flax's
            own.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxbn.linen
        >>> model = jaxbn.linen.BatchNorm(use_running_average=False, frozen=True)
        >>> x = jnp.array([[1.0], [5.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> apply = jaxbn.linen.unfreeze(model.apply)
        >>> _, updates = apply(variables, x, mutable=["batch_stats"])
        >>> f"{updates['batch_stats']['mean'].item():.2f}"
        '0.03'

    References:
        As for `freeze`.
    """
    return Changed(apply, functools.partial(_set_frozen, False))
