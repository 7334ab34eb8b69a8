# SPDX-License-Identifier: Apache-2.0
"""Population statistics of NNX models: records are variables of a copy."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from flax import nnx

from jaxbn._checks.population import (
    check_foreign,
    check_layers,
    check_prior,
    warn_out_of_reach,
)
from jaxbn._checks.statistics import check_num_features
from jaxbn._core.types import RunningStats
from jaxbn._flax.nnx import BatchNorm
from jaxbn._flax.records import (
    ACCUMULATES,
    Record,
    accumulation,
    empty_record,
    record_names,
)
from jaxbn._population.passes import (
    LayerStats,
    PopulationReport,
    Setting,
    as_before,
    estimate,
    num_stacked,
)
from jaxbn._population.progress import shown, silent
from jaxbn._surgery.nnx import out_of_reach

Module = TypeVar("Module", bound=nnx.Module)


def estimate_nnx(
    forward: Callable[[Any, Any], Any],
    model: nnx.Module,
    batches: Iterable[Any],
    *,
    layerwise: bool = False,
    prior_count: float = 0.0,
    progress: bool = True,
) -> PopulationReport:
    r"""Sets the running statistics of an NNX model to those of all batches together.

    $$\mu = \frac1N \sum_k n_k \mu_k, \qquad
      v = \frac1N \sum_k n_k \left(v_k + (\mu_k - \mu)^2\right), \qquad N = \sum_k n_k$$

    As `estimate_linen`, for the `jaxbn.nnx` norms in `model`. The model is changed at
    the end: an error or Ctrl-C leaves it unchanged.

    Args:
        forward: `forward(model, batch)` runs the model as in training, such as
            `lambda model, x: model(x)`; it is compiled, once for each such function,
            and its result is not used.
        model: in training mode (`model.train()`); its statistics are changed.
        batches: as for `estimate_linen`.
        layerwise: layer after layer, as for `estimate_linen`.
        prior_count: the weight of the statistics so far, in examples, at least 0.
        progress: show a bar on a terminal.

    Returns:
        A `PopulationReport`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as for `estimate_linen`.

    Warns:
        UserWarning: a norm is Flax's own, or in a Linen module (`nnx.bridge.ToNNX`): it
            keeps its statistics.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxbn import population
        >>> from jaxbn.nnx import BatchNorm
        >>> norm = BatchNorm(1, rngs=nnx.Rngs(0))
        >>> batches = [jnp.array([[1.0], [3.0]]), jnp.array([[6.0], [6.0]])]
        >>> report = population.estimate_nnx(lambda m, x: m(x), norm, batches)
        >>> norm.mean[...].item(), norm.var[...].item()
        (4.0, 4.5)

    References:
        As for `estimate_linen`.
    """
    check_prior(prior_count)
    norms = modules_of(model, BatchNorm)
    foreign = tuple(p for p in modules_of(model, nnx.BatchNorm) if p not in norms)
    check_foreign(foreign, norms, "jaxbn.nnx")
    warn_out_of_reach(out_of_reach(model), part="estimate")
    check_layers(norms, name="model", to="estimate")
    names = record_names(layerwise=layerwise)
    layers = {path: (m.mean[...], m.var[...]) for path, m in norms.items()}
    copy = nnx.clone(model)
    copies = modules_of(copy, BatchNorm)

    def measure(stats: Mapping[str, LayerStats], batch: Any) -> dict[str, Record]:
        for path, pair in stats.items():
            _set_statistics(copies[path], pair, layers[path])
        give_records(copies, layers, names)
        _run(forward, copy, batch)
        return records_of(copies, names)

    def num_layers() -> int:
        shapes = {p: check_num_features(m.num_features) for p, m in norms.items()}
        return sum(num_stacked(mean, shapes[p]) for p, (mean, _) in layers.items())

    setting = Setting(layerwise, prior_count, shown if progress else silent)
    new, report = estimate(measure, layers, num_layers, batches, setting)
    for path, pair in new.items():
        _set_statistics(norms[path], pair, layers[path])
        _accumulate_afresh(norms[path])
    return report._replace(foreign=foreign)


@functools.partial(nnx.jit, static_argnums=0)
def _run(forward: Callable[[Any, Any], Any], model: nnx.Module, batch: Any) -> None:
    """Runs a batch through the model, which records it."""
    forward(model, batch)


def give_records(
    norms: Mapping[str, Any], layers: Mapping[str, LayerStats], names: tuple[str, ...]
) -> None:
    """Gives each norm an empty record, of the shape of its layer's statistics."""
    for path, norm in norms.items():
        for name, value in zip(names, empty_record(*layers[path]), strict=True):
            setattr(norm, name, nnx.BatchStat(value))


def records_of(norms: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Record]:
    """What the norms have recorded."""
    return {
        path: Record(*(getattr(norm, name)[...] for name in names))
        for path, norm in norms.items()
    }


def _set_statistics(norm: BatchNorm, pair: LayerStats, before: LayerStats) -> None:
    """Replaces the running statistics, of the same dtype, however they were sharded."""
    mean, var = map(as_before, pair, before)
    norm.mean.set_value(mean)
    norm.var.set_value(var)


def _accumulate_afresh(norm: BatchNorm) -> None:
    """Drops what the layer accumulated, which would move other statistics than these.

    `commit` is left with the micro-batches from here on.
    """
    if hasattr(norm, ACCUMULATES):
        names = [name for name in RunningStats._fields if hasattr(norm, name)]
        stats = {name: getattr(norm, name)[...] for name in names}
        for name, value in accumulation(stats).items():
            getattr(norm, name).set_value(value)


def modules_of(model: nnx.Module, kind: type[Module]) -> dict[str, Module]:
    """The modules of a kind by path; `.` is a model that is one."""
    return {
        "/".join(map(str, path)) or ".": module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, kind)
    }
