# SPDX-License-Identifier: Apache-2.0
"""The diagnosis of Linen models, with jaxbn's norms or with Flax's own."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from flax import errors
from flax import linen as nn
from flax.core import meta

from jaxbn._checks.diagnosis import check_steps
from jaxbn._checks.population import check_layers, check_updates, model_errors
from jaxbn._diagnosis.evidence import Observer, Variables, decayed_names
from jaxbn._diagnosis.examination import Program, examine
from jaxbn._diagnosis.report import Diagnosis
from jaxbn._diagnosis.rules import Fixes
from jaxbn._flax.linen import BatchNorm
from jaxbn._flax.records import Record, record_names
from jaxbn._population.linen import (
    Path,
    by_text,
    flat,
    layers_of,
    nested,
    records_of,
    with_records,
)
from jaxbn._surgery.linen import call_of, path_of, replaced, run

FIXES = Fixes(
    estimate="variables, _ = population.estimate_linen(apply, variables, batches)",
    inference="BatchNorm(use_running_average=not train)",
    norm="from jaxbn.linen import BatchNorm",
)
_NUMBERS = itertools.count()


def diagnose(
    apply: Callable[[Any, Any], tuple[Any, Mapping[str, Any]]],
    variables: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    infer: Callable[[Any, Any], Any] | None = None,
    steps: int | None = None,
    decay_mask: Any = None,
) -> Diagnosis:
    r"""Returns what is wrong with the batch norms of a model, layer by layer.

    $$t_c = \frac{r_c - \bar m_c}{s_c \sqrt{1 + 1/K}}$$

    is the distance of a running statistic r (the mean; the logarithm of the variance)
    from those of K batches, in deviations s of one batch. A layer has a gap between
    training and inference where the median of $|t|$ over its features is more than one
    more batch could have, by an F test with an error rate of 1e-5 for all layers
    together. The deviation s is that between the batches or, if larger, that of batches
    whose examples are redrawn with replacement: each batch runs twice. The other
    checks are exact, or arithmetic: statistics that are not finite, have never moved,
    or are negative; inputs that are not finite; a momentum that is too slow for the
    steps; too few values for a variance; a mean that is too large for the deviation in
    this dtype; replicas that differ; inference that depends on the other examples.
    Common and contested practice is information, not an alarm.

    Norms of `jaxbn.linen` and of `flax.linen` are diagnosed; nothing is changed.

    Args:
        apply: as for `population.estimate_linen`: `apply(variables, batch)` returns
            what `model.apply(variables, ..., mutable=["batch_stats"])` returns in
            training.
        variables: with `params`, `batch_stats` and whatever `apply` needs.
        batches: pytrees of arrays, examples along the leading axis, of the size and
            kind of training; 8 or more show smaller gaps.
        infer: `infer(variables, batch)` returns the output in inference. With it, the
            first example's output is compared when the other examples change.
        steps: how many updates the running statistics have had; with it, the weight of
            their start is checked.
        decay_mask: which parameters weight decay acts on, as the `mask` of
            `optax.add_decayed_weights`: a pytree of booleans like `params` or a prefix
            of it, or a function of it.

    Returns:
        A `Diagnosis`: `print` it, print it with rich, or write `html()` to a file.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: there are no batch norms or no batches; a batch is empty or not
            finite; all have one example; no layer runs as in training; the variables
            are of another model; `decay_mask` is of other parameters; or `steps` is out
            of range.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxbn import linen
        >>> model = linen.BatchNorm(use_running_average=False)
        >>> batches = list(jax.random.normal(jax.random.key(0), (8, 32, 3)))
        >>> variables = model.init(jax.random.key(0), batches[0])
        >>> def apply(variables, x):
        ...     return model.apply(variables, x, mutable=["batch_stats"])
        >>> diagnosis = linen.diagnose(apply, variables, batches)
        >>> diagnosis.alarms[0].figure
        'the running statistics of 3 of 3 features (the first: 0) are exactly 0 and 1'

    References:
        Wu & Johnson 2021, https://arxiv.org/abs/2105.07576. The test: Dempster 1958,
        https://doi.org/10.1214/aoms/1177706437. Examples redrawn: Efron 1979,
        https://doi.org/10.1214/aos/1176344552.
    """
    check_steps(steps)
    given = flat(variables.get("batch_stats", {}))
    layers = layers_of(given)
    check_layers(layers, name="variables", to="diagnose")
    unboxed = meta.unbox(variables.get("params", {}))
    params, decayed = flat(unboxed), decayed_names(decay_mask, unboxed)
    paths = by_text(layers)
    names = record_names(layerwise=False)
    rest = {name: value for name, value in variables.items() if name != "batch_stats"}
    # A function that is compiled inside `apply` is traced again, and so observed.
    number = f"diagnosis_{next(_NUMBERS)}"
    training, inference = Observer(), Observer()

    @jax.jit
    def record(rest: Any, given: dict[Path, Any], batch: Any) -> dict[str, Record]:
        stats = with_records(given, layers, names)
        tree = {**rest, "batch_stats": nested(stats), number: {}}
        with model_errors(errors.FlaxError), _watched(training, as_own=True):
            result = apply(tree, batch)
        training.forget()
        return records_of(check_updates(result), stats, layers, names)

    def record_batch(batch: Any) -> dict[str, Record]:
        return record(rest, given, batch)

    program = Program(
        variables={
            text: Variables(
                *layers[path],
                *(params.get((*path, name)) for name in ("scale", "bias")),
                decayed=tuple(
                    name
                    for name in ("scale", "bias")
                    if decayed.get("/".join((*path, name)))
                ),
            )
            for text, path in paths.items()
        },
        record=record_batch,
        infer=infer and _observed(infer, {**variables, number: {}}, inference),
        infer_is_forward=False,
        training=training,
        inference=inference,
        fixes=FIXES,
    )
    return examine(program, batches, steps=steps, decay_known=decay_mask is not None)


def _observed(
    infer: Callable[[Any, Any], Any], variables: Mapping[str, Any], observer: Observer
) -> Callable[[Any], Any]:
    """The function of a batch, compiled, with its modules observed."""

    @jax.jit
    def run_observed(batch: Any) -> Any:
        with _watched(observer, as_own=False):
            output = infer(variables, batch)
        observer.forget()
        return output

    return run_observed


def _watched(observer: Observer, *, as_own: bool) -> Any:
    """Observes the modules; has Flax's norms computed by ours, which record."""

    def watch(
        next_function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        layer = context.module
        if layer.scope is None:  # it is not bound, and has no variables
            return next_function(*args, **kwargs)
        path = path_of(layer)
        call = call_of(args, kwargs, context)
        if call is not None:
            ours = replaced(call) if as_own else call
            y = next_function(*args, **kwargs) if ours is call else run(ours, layer)
            # Afterwards: a call of ours in place of Flax's is seen too.
            x, flag = (call.arguments.get(n) for n in ("x", "use_running_average"))
            is_own = isinstance(call.norm, BatchNorm)
            observer.norm(path, call.norm, x, flag, is_own=is_own)
            return y
        y = next_function(*args, **kwargs)
        if context.method_name != "__call__":
            return y
        if isinstance(layer, BatchNorm | nn.BatchNorm):
            if args and path not in observer.calls:  # with arithmetic of its own
                flag = kwargs.get("use_running_average")
                is_own = isinstance(layer, BatchNorm)
                observer.norm(path, layer, args[0], flag, is_own=is_own)
        elif isinstance(layer, nn.Dropout) and layer.rate > 0:
            observer.dropout(path)
        elif getattr(layer, "use_bias", False) and layer.has_variable(
            "params", "kernel"
        ):
            observer.with_bias(path, y)
        return y

    return nn.intercept_methods(watch)
