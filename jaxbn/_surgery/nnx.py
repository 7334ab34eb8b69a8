# SPDX-License-Identifier: Apache-2.0
"""The batch norms of an NNX model, changed in place.

A norm changes its class, and a frozen parameter its kind: the objects stay, and with
them whatever refers to them, in the model or outside. All is checked before anything is
changed.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike

from jaxbn._checks.arrays import check_epsilon
from jaxbn._checks.statistics import check_momentum
from jaxbn._checks.surgery import (
    MICRO_BATCHES,
    check_calls_super,
    check_can_restore,
    check_has_norms,
    check_is_module,
    check_is_ours,
    check_new_axis,
    check_no_conflict,
    check_reachable,
    naming_layer,
)
from jaxbn._flax.nnx import BatchNorm, BatchRenorm, FrozenParam
from jaxbn._flax.records import ACCUMULATES
from jaxbn._surgery.report import SurgeryReport, always, training_only

Node = TypeVar("Node")

_OUR_ATTRIBUTES = (
    "virtual_batch_size",
    "num_segments",
    "unbiased",
    "debias",
    "activation",
    "frozen",
)


def replace(model: nnx.Module) -> SurgeryReport:
    """Replaces Flax's batch norms in a model by those of jaxbn.

    In place: each norm stays the object that it is and changes its class. Shared
    references stay shared, `isinstance(norm, flax.nnx.BatchNorm)` stays true, and the
    variables, their metadata, `promote_dtype`, the dtype of each output and the flag of
    `model.train()` stay as they are. Subclasses of `flax.nnx.BatchNorm` keep their own
    code; what they call by `super().__call__` is replaced. Everything else that is
    listed in `docs/differences.md` is then as in jaxbn. Norms of jaxbn are kept.

    Args:
        model: a model, or a norm; it is changed.

    Returns:
        The paths of the norms: those `changed`, those `kept`. A norm that is shared has
        one path.

    Raises:
        TypeError: `model` is not an `nnx.Module`.
        ValueError: there are no batch norms; one is in a Linen module
            (`nnx.bridge.ToNNX`); a subclass does not call `super().__call__`, or has an
            attribute of its own that jaxbn's norm would read; or a `momentum` or
            `epsilon` is out of range. Nothing is changed then.

    Example:
        >>> from flax import nnx
        >>> import jaxbn.nnx
        >>> model = nnx.Sequential(nnx.BatchNorm(4, rngs=nnx.Rngs(0)))
        >>> jaxbn.nnx.replace(model)
        SurgeryReport(changed=('layers/0',), kept=())
        >>> isinstance(model.layers[0], jaxbn.nnx.BatchNorm)
        True

    References:
        "Model surgery" in Flax's documentation;
        `torch.nn.SyncBatchNorm.convert_sync_batchnorm`.
    """
    ours, theirs = _norms(model)
    classes = {path: class_of_ours(path, norm) for path, norm in theirs.items()}
    _check_can_change(theirs)
    for path, norm in theirs.items():
        become_ours(norm, classes[path])
    return SurgeryReport(changed=tuple(theirs), kept=tuple(ours))


def restore(model: nnx.Module) -> SurgeryReport:
    """Replaces the batch norms of jaxbn in a model by Flax's.

    The inverse of `replace`: there and back gives the same tree and the same bits. It
    suits tools that know Flax's norm by its class, such as exporters. A layer that does
    what Flax's cannot is refused. A layer that was made by jaxbn computes in float32,
    as it did; where its input is narrower and `dtype` is None, the output is float32,
    as it is in Flax. A `mask` is then read as Flax reads it.

    Args:
        model: a model, or a norm; it is changed.

    Returns:
        The paths of the norms: those `changed`, those `kept`.

    Raises:
        TypeError: `model` is not an `nnx.Module`.
        ValueError: there are no batch norms; or one is in a Linen module, is frozen, is
            batch renorm or of a subclass of jaxbn's norm, or has `activation`,
            `num_segments`, `virtual_batch_size`, `unbiased`, `debias`,
            `momentum=None`, or micro-batches that wait for `commit`. Nothing is
            changed then.

    Example:
        >>> from flax import nnx
        >>> import jaxbn.nnx
        >>> model = nnx.Sequential(jaxbn.nnx.BatchNorm(4, rngs=nnx.Rngs(0)))
        >>> jaxbn.nnx.restore(model)
        SurgeryReport(changed=('layers/0',), kept=())
        >>> type(model.layers[0]) is nnx.BatchNorm
        True

    References:
        As for `replace`.
    """
    ours, theirs = _norms(model)
    classes = {path: _class_of_flax(path, norm) for path, norm in ours.items()}
    _check_can_change(ours)
    for path, norm in ours.items():
        new: Any = _with_class(norm, classes[path])
        if new.promote_dtype is None:
            new.promote_dtype = _in_float32
    return SurgeryReport(changed=tuple(ours), kept=tuple(theirs))


def synchronise(
    model: nnx.Module,
    *,
    axis_name: str | Sequence[str] | None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> SurgeryReport:
    """Synchronises the statistics of all batch norms of a model.

    Sets the attributes of the same names: each norm takes the statistics of the values
    of all devices together, counts included. Under `jit` alone nothing is needed: there
    the statistics of a sharded batch are global.

    Args:
        model: a model, or a norm; it is changed.
        axis_name: the named axis or axes of `shard_map`, `pmap` or `vmap`; None: each
            device by its own.
        axis_index_groups: groups along `axis_name`, each a batch of its own.

    Returns:
        The paths of the norms: those `changed`, those `kept`.

    Raises:
        TypeError: `model` is not an `nnx.Module`, or `axis_name` no name.
        ValueError: there are no batch norms; one is Flax's own or in a Linen module; or
            there are groups without a name. Nothing is changed then.

    Example:
        >>> from flax import nnx
        >>> import jaxbn.nnx
        >>> model = nnx.Sequential(jaxbn.nnx.BatchNorm(4, rngs=nnx.Rngs(0)))
        >>> jaxbn.nnx.synchronise(model, axis_name="batch").changed
        ('layers/0',)
        >>> model.layers[0].axis_name
        'batch'

    References:
        `torch.nn.SyncBatchNorm.convert_sync_batchnorm`.
    """
    check_new_axis(axis_name, axis_index_groups)

    def differs(norm: BatchNorm) -> bool:
        return (norm.axis_name, norm.axis_index_groups) != (
            axis_name,
            axis_index_groups,
        )

    def change(norm: BatchNorm) -> None:
        norm.axis_name, norm.axis_index_groups = axis_name, axis_index_groups

    return _change_ours(model, differs, change)


def freeze(model: nnx.Module) -> SurgeryReport:
    """Freezes all batch norms of a model: statistics, scale and bias.

    Each normalizes by its running statistics, which stay as they are, whatever the call
    and `model.train()` ask for. Its parameters become variables that are no `nnx.Param`
    any more: gradients and optimizers of `nnx.Param` do not see them, so that weight
    decay does not move them either. Make the optimizer after freezing or unfreezing:
    one that has moments of other parameters than it is given raises an error.

    Args:
        model: a model, or a part of one; it is changed.

    Returns:
        The paths of the norms: those `changed`, those `kept`, which were frozen before.

    Raises:
        TypeError: `model` is not an `nnx.Module`.
        ValueError: there are no batch norms, or one is Flax's own or in a Linen module.
            Nothing is changed then.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import jaxbn.nnx
        >>> model = nnx.Sequential(jaxbn.nnx.BatchNorm(1, rngs=nnx.Rngs(0)))
        >>> jaxbn.nnx.freeze(model).changed
        ('layers/0',)
        >>> model.train()
        >>> y = model(jnp.array([[1.0], [5.0]]))
        >>> [f"{one:.2f}" for one in y[:, 0]], model.layers[0].mean[...].item()
        (['1.00', '5.00'], 0.0)
        >>> nnx.to_flat_state(nnx.state(model, nnx.Param)).paths
        ()

    References:
        `FrozenBatchNorm2d` of torchvision; Keras's `trainable = False`, which also
        means inference for batch norm.
    """

    def change(norm: BatchNorm) -> None:
        norm.frozen = True
        for parameter in _parameters(norm, nnx.Param):
            parameter.set_metadata(unfrozen_type=type(parameter))
            _with_class(parameter, FrozenParam)

    def differs(norm: BatchNorm) -> bool:
        return not norm.frozen or bool(_parameters(norm, nnx.Param))

    return _change_ours(model, differs, change)


def unfreeze(model: nnx.Module) -> SurgeryReport:
    """Takes back `freeze`: all is as it was before, the flag of `train()` included.

    Args:
        model: a model, or a part of one; it is changed.

    Returns:
        The paths of the norms: those `changed`, those `kept`, which were not frozen.

    Raises:
        TypeError: `model` is not an `nnx.Module`.
        ValueError: there are no batch norms, or one is Flax's own or in a Linen module.
            Nothing is changed then.

    Example:
        >>> from flax import nnx
        >>> import jaxbn.nnx
        >>> model = nnx.Sequential(jaxbn.nnx.BatchNorm(1, rngs=nnx.Rngs(0)))
        >>> report = jaxbn.nnx.freeze(model)
        >>> jaxbn.nnx.unfreeze(model).changed
        ('layers/0',)
        >>> len(nnx.to_flat_state(nnx.state(model, nnx.Param)).paths)
        2

    References:
        As for `freeze`.
    """

    def change(norm: BatchNorm) -> None:
        del norm.frozen
        for parameter in _parameters(norm, FrozenParam):
            _with_class(parameter, parameter.get_metadata("unfrozen_type"))
            parameter.del_metadata("unfrozen_type")

    return _change_ours(model, lambda norm: norm.frozen, change)


def _norms(
    model: nnx.Module,
) -> tuple[dict[str, BatchNorm], dict[str, nnx.BatchNorm]]:
    """The norms by path, ours and Flax's; `.` is a model that is one."""
    _check_is_module(model)
    ours: dict[str, BatchNorm] = {}
    theirs: dict[str, nnx.BatchNorm] = {}
    for parts, module in nnx.iter_modules(model):
        path = "/".join(map(str, parts)) or "."
        if isinstance(module, BatchNorm):
            ours[path] = module
        elif isinstance(module, nnx.BatchNorm):
            theirs[path] = module
    for path, kind in out_of_reach(model).items():
        check_reachable(path, kind, door="nnx")
    check_has_norms({**ours, **theirs}, name="model", door="nnx")
    return ours, theirs


def out_of_reach(model: nnx.Module) -> dict[str, str]:
    """The Linen modules with statistics: their classes, by path."""
    return {
        "/".join(map(str, path)) or ".": type(module.to_nnx__module).__name__
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.bridge.ToNNX) and nnx.state(module, nnx.BatchStat)
    }


def norms_of_jaxbn(model: nnx.Module) -> dict[str, BatchNorm]:
    """The norms by path, of a model that has none of Flax."""
    ours, theirs = _norms(model)
    for path, norm in theirs.items():
        kind = type(norm).__name__
        check_is_ours(path, kind, fix="jaxbn.nnx.replace(model)")
    return ours


def _check_is_module(model: object) -> None:
    check_is_module(model, is_module=isinstance(model, nnx.Module))


def _change_ours(
    model: nnx.Module,
    differs: Callable[[BatchNorm], bool],
    change: Callable[[BatchNorm], None],
) -> SurgeryReport:
    """Changes the norms that differ from what they are to be."""
    ours = norms_of_jaxbn(model)
    todo = {path: norm for path, norm in ours.items() if differs(norm)}
    _check_can_change(todo)
    for norm in todo.values():
        change(norm)
    return SurgeryReport(
        changed=tuple(todo), kept=tuple(path for path in ours if path not in todo)
    )


def _check_can_change(norms: Mapping[str, BatchNorm | nnx.BatchNorm]) -> None:
    """Flax refuses to set an attribute of a module that another trace has made."""
    for norm in norms.values():
        norm.use_running_average = norm.use_running_average


def class_of_ours(path: str, norm: nnx.BatchNorm) -> type[BatchNorm]:
    """The class that does by jaxbn what the norm's class does by Flax."""
    kind = type(norm)
    defaults = {name: getattr(BatchNorm, name) for name in _OUR_ATTRIBUTES}
    own = [n for n, d in defaults.items() if getattr(norm, n, d) is not d]
    check_no_conflict(path, kind.__name__, own)
    with naming_layer(path):
        check_momentum(norm.momentum)
        check_epsilon(norm.epsilon)
    if kind is nnx.BatchNorm:
        return BatchNorm
    check_calls_super(path, kind.__name__, calls=calls_super(kind))
    return _subclass(kind)


def calls_super(kind: type[nnx.BatchNorm]) -> bool:
    """Whether each `__call__` on the way to Flax's mentions `super`."""
    before = kind.__mro__[: kind.__mro__.index(nnx.BatchNorm)]
    calls = [vars(base)["__call__"] for base in before if "__call__" in vars(base)]
    codes = [getattr(inspect.unwrap(call), "__code__", None) for call in calls]
    return all(
        code is None or "super" in code.co_names or "__class__" in code.co_freevars
        for code in codes
    )


def become_ours(norm: nnx.BatchNorm, kind: type[BatchNorm]) -> None:
    """Changes a norm of Flax's to the class that `class_of_ours` found."""
    new = _with_class(norm, kind)
    if new.promote_dtype is _in_float32:
        new.promote_dtype = None


@functools.cache
def _subclass(kind: type[nnx.BatchNorm]) -> type[BatchNorm]:
    """A subclass of Flax's norm over ours: in its order of bases ours is before Flax's.

    One for each class, so that graphs are equal and `jit` finds what it has compiled.
    """

    def reduce(norm: BatchNorm) -> tuple[Any, ...]:
        return _unpickled, (kind,), vars(norm)

    names = {name: getattr(kind, name) for name in ("__module__", "__doc__")}
    body = names | {"__qualname__": kind.__qualname__, "__reduce__": reduce}
    body["_replaced"] = kind
    meta: Any = type(kind)
    how = {"pytree": getattr(kind, "_pytree__is_pytree", True)}
    return meta(kind.__name__, (kind, BatchNorm), body, **how)


def _unpickled(kind: type[nnx.BatchNorm]) -> BatchNorm:
    """A norm without its attributes: a class made at run time has no name to import."""
    return object.__new__(_subclass(kind))


def _class_of_flax(path: str, norm: BatchNorm) -> type[nnx.BatchNorm]:
    """The class that `replace` found, or Flax's where it can do what this one does."""
    kind = type(norm)
    reasons = [*always(norm), *training_only(norm)]
    if isinstance(norm, BatchRenorm):
        reasons.append("renorm")
    if hasattr(norm, ACCUMULATES):
        reasons.append(MICRO_BATCHES)
    replaced = nnx.BatchNorm if kind is BatchNorm else vars(kind).get("_replaced")
    if replaced is None and not isinstance(norm, BatchRenorm):
        reasons.append("code of its own")
    check_can_restore(path, kind.__name__, reasons)
    return replaced or nnx.BatchNorm


def _parameters(norm: BatchNorm, kind: type[nnx.Variable[Any]]) -> list[Any]:
    """Its variables of a kind, those of an activation included."""
    return [value for _, value in nnx.iter_graph(norm) if isinstance(value, kind)]


def _with_class(node: Any, kind: type[Node]) -> Node:
    """The same object, of another class: past NNX's checks, which are of attributes."""
    object.__setattr__(node, "__class__", kind)
    return node


def _in_float32(arrays: tuple[Any, ...], *, dtype: DTypeLike | None = None) -> Any:
    """As `promote_dtype` of Flax's norm: what None is in ours, which it stands for."""
    known = [array for array in arrays if array is not None]
    return promote_dtype(arrays, dtype=jnp.result_type(jnp.float32, *known))
