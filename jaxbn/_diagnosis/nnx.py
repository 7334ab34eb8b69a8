# SPDX-License-Identifier: Apache-2.0
"""The diagnosis of NNX models, with jaxbn's norms or with Flax's own."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from flax import nnx

from jaxbn._checks.diagnosis import check_steps
from jaxbn._checks.population import check_layers, warn_out_of_reach
from jaxbn._diagnosis.evidence import Observer, Variables, decayed_names
from jaxbn._diagnosis.examination import Program, examine
from jaxbn._diagnosis.report import Diagnosis
from jaxbn._diagnosis.rules import Fixes
from jaxbn._flax.nnx import BatchNorm
from jaxbn._flax.records import Record, empty_record, record_names
from jaxbn._population.nnx import give_records, modules_of, records_of
from jaxbn._surgery.nnx import (
    become_ours,
    calls_super,
    class_of_ours,
    out_of_reach,
)

FIXES = Fixes(
    estimate="population.estimate_nnx(forward, model, batches)",
    inference="model.eval()",
    norm="from jaxbn.nnx import BatchNorm",
)


def diagnose(
    model: nnx.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[Any, Any], Any] | None = None,
    infer: Callable[[Any, Any], Any] | None = None,
    steps: int | None = None,
    decay_mask: Any = None,
) -> Diagnosis:
    r"""Returns what is wrong with the batch norms of a model, layer by layer.

    $$t_c = \frac{r_c - \bar m_c}{s_c \sqrt{1 + 1/K}}$$

    and the checks of `jaxbn.linen.diagnose`. Copies of the model are run, in training
    mode and in inference (`model.eval()`); the model itself is not changed. Norms of
    `jaxbn.nnx` and of `flax.nnx` are diagnosed.

    Args:
        model: in training mode; one in which no norm is, is set to it by
            `train()` in the copy.
        batches: pytrees of arrays, examples along the leading axis, of the size and
            kind of training; 8 or more show smaller gaps.
        forward: `forward(model, batch)` runs the model; None: `model(batch)`.
        infer: the same in inference, on a copy after `eval()`; None: `forward`, unless
            it asks for training in the call itself.
        steps: how many updates the running statistics have had.
        decay_mask: which parameters weight decay acts on: a pytree of booleans like
            `nnx.state(model, nnx.Param)` or its pure dict, or a function of the dict.

    Returns:
        A `Diagnosis`: `print` it, print it with rich, or write `html()` to a file.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as for `jaxbn.linen.diagnose`.

    Warns:
        UserWarning: a norm is in a Linen module (`nnx.bridge.ToNNX`), and is not
            diagnosed.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> import jaxbn.nnx
        >>> norm = jaxbn.nnx.BatchNorm(3, momentum=0.5, rngs=nnx.Rngs(0))
        >>> batches = list(jax.random.normal(jax.random.key(0), (8, 32, 3)))
        >>> for batch in batches:
        ...     y = norm(batch)
        >>> jaxbn.nnx.diagnose(norm, batches, steps=8).alarms
        ()
        >>> norm.var[...] = 9 * norm.var[...]  # as of other weights
        >>> [(f.layer, f.check) for f in jaxbn.nnx.diagnose(norm, batches).alarms]
        [('.', 'train/eval gap')]

    References:
        As for `jaxbn.linen.diagnose`.
    """
    check_steps(steps)
    norms: dict[str, Any] = modules_of(model, nnx.BatchNorm)  # ours are such too
    warn_out_of_reach(out_of_reach(model), part="diagnosis")
    check_layers(norms, name="model", to="diagnose")
    names = record_names(layerwise=False)
    layers = {path: (norm.mean[...], norm.var[...]) for path, norm in norms.items()}
    run = forward or _call
    training, inference = Observer(), Observer()
    learner, judge = nnx.clone(model), nnx.clone(model)
    if all(norm.use_running_average for norm in norms.values()):
        learner.train()
    judge.eval()
    for path, norm in modules_of(learner, nnx.BatchNorm).items():
        if not isinstance(norm, BatchNorm) and calls_super(type(norm)):
            become_ours(norm, class_of_ours(path, norm))
    _watch(learner, training, norms)
    _watch(judge, inference, norms)
    copies = modules_of(learner, BatchNorm)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    is_state = isinstance(decay_mask, nnx.State)
    mask = nnx.to_pure_dict(decay_mask) if is_state else decay_mask
    decayed = decayed_names(mask, params)

    @nnx.jit
    def forward_once(model: nnx.Module, batch: Any) -> None:
        run(model, batch)
        training.forget()

    @nnx.jit
    def infer_once(model: nnx.Module, batch: Any) -> Any:
        output = (infer or run)(model, batch)
        inference.forget()
        return output

    unrecorded = {p: empty_record(*layers[p]) for p in layers if p not in copies}

    def record(batch: Any) -> dict[str, Record]:
        give_records(copies, layers, names)
        forward_once(learner, batch)
        return {**unrecorded, **records_of(copies, names)}

    program = Program(
        variables={
            path: _variables(path, norm, decayed) for path, norm in norms.items()
        },
        record=record,
        infer=partial(infer_once, judge),
        infer_is_forward=infer is None and forward is not None,
        training=training,
        inference=inference,
        fixes=FIXES,
    )
    return examine(program, batches, steps=steps, decay_known=decay_mask is not None)


def _call(model: Any, batch: Any) -> Any:
    """The usual way to run a model."""
    return model(batch)


def _variables(path: str, norm: Any, decayed: Mapping[str, Any]) -> Variables:
    """Of a norm; a parameter that it does not have is None."""
    params = {name: getattr(norm, name) for name in ("scale", "bias")}
    prefix = "" if path == "." else f"{path}/"
    return Variables(
        norm.mean[...],
        norm.var[...],
        *(None if p is None else p[...] for p in params.values()),
        decayed=tuple(name for name in params if decayed.get(prefix + name)),
    )


def _watch(
    copy: nnx.Module, observer: Observer, norms: Mapping[str, nnx.BatchNorm]
) -> None:
    """Has the modules of a copy tell the observer of their calls.

    Each becomes one of a subclass, which other copies of its graph are made of too.
    `norms` are those of the original, by path.
    """
    for path, module in modules_of(copy, nnx.Module).items():
        kind = type(module)
        if path in norms:
            is_own = isinstance(norms[path], BatchNorm)
            call = _norm_call(kind, path, observer, is_own)
        elif isinstance(module, nnx.Dropout) and module.rate > 0:
            call = _dropout_call(kind, path, observer)
        elif _has(module, "kernel") and _has(module, "bias"):
            call = _linear_call(kind, path, observer)
        else:
            continue
        meta: Any = type(kind)
        watched = meta(kind.__name__, (kind,), {"__call__": call})
        object.__setattr__(module, "__class__", watched)


def _has(module: nnx.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), nnx.Variable)


def _norm_call(
    kind: type[Any], path: str, observer: Observer, is_own: bool
) -> Callable[..., Any]:
    def call(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        flag = args[0] if args else kwargs.get("use_running_average")
        observer.norm(path, self, x, flag, is_own=is_own)
        return kind.__call__(self, x, *args, **kwargs)

    return call


def _dropout_call(kind: type[Any], path: str, observer: Observer) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        observer.dropout(path)
        return kind.__call__(self, *args, **kwargs)

    return call


def _linear_call(kind: type[Any], path: str, observer: Observer) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        y = kind.__call__(self, *args, **kwargs)
        observer.with_bias(path, y)
        return y

    return call
