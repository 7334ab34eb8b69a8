# SPDX-License-Identifier: Apache-2.0
"""Population statistics of Linen models: records go in and out with `batch_stats`."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import errors, traverse_util
from flax import linen as nn
from jaxtyping import Array

from jaxbn._checks.axes import check_axis
from jaxbn._checks.population import (
    check_foreign,
    check_layers,
    check_names,
    check_paths_differ,
    check_prior,
    check_updates,
    model_errors,
)
from jaxbn._core.types import RunningStats
from jaxbn._flax.linen import BatchNorm
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

Path = tuple[str, ...]
"""The names on the way to a place in a tree, which may have a `/` themselves."""


def estimate_linen(
    apply: Callable[[Any, Any], tuple[Any, Mapping[str, Any]]],
    variables: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    layerwise: bool = False,
    prior_count: float = 0.0,
    progress: bool = True,
) -> tuple[dict[str, Any], PopulationReport]:
    r"""Returns variables whose running statistics are those of all batches together.

    $$\mu = \frac1N \sum_k n_k \mu_k, \qquad
      v = \frac1N \sum_k n_k \left(v_k + (\mu_k - \mu)^2\right), \qquad N = \sum_k n_k$$

    per layer and feature, merged in float64 on the host, over batches and processes:
    exactly the statistics of all values that count, whatever the sizes of the batches
    and their masks, and biased as those of a batch. The layers that are estimated are
    those that would update their running statistics in this call. Two ways:

    - as usual (`layerwise=False`), one pass: each layer's input comes from layers that
      normalize by the statistics of each batch, as in training. In a deep model this
      differs slightly from the input in inference;
    - layer after layer (`layerwise=True`): it comes from layers that already normalize
      by the statistics of the population, as in inference. This is exact for deep
      models, and takes as many passes as layers in a row, or fewer if nothing changes.

    Layers that do not run, are frozen, or see nothing that counts keep their statistics
    and are reported. Moments that are not finite are left out, and reported. Layers
    that accumulate micro-batches (`begin_accumulation`) drop those before: `commit`
    then moves the new statistics by the micro-batches that follow. Devices share a
    batch as in training: by `axis_name`, or by `jit` over a mesh. If there are several
    processes, all must call this, each with its own batches, or all with the same
    global arrays. Switch dropout off if the model allows it.

    Args:
        apply: `apply(variables, batch)` returns what
            `model.apply(variables, ..., mutable=["batch_stats"])` returns in training;
            it is compiled, once for each such function: define it once.
        variables: with `params`, `batch_stats` and whatever `apply` needs. For averaged
            weights, put them in `params`.
        batches: pytrees of arrays; with `layerwise` it must be possible to iterate over
            them again, as over a list.
        layerwise: layer after layer, see above.
        prior_count: mix in the statistics so far, as if from this many examples, at
            least 0: `new = (prior_count * old + n * population) / (prior_count + n)`
            for mean and variance, n being the examples (the leading axis) of all
            batches. This is test-time adaptation, from a few unlabelled batches of
            other data.
        progress: show a bar on a terminal.

    Returns:
        The variables with new `mean` and `var` in `batch_stats`, the rest unchanged,
        and a `PopulationReport`.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: there are no batches or no batch norms of `jaxbn.linen`; no layer
            runs as in training; the variables are of another model; or `prior_count`
            is out of range. An error of the model has a note that names the batch.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxbn import linen, population
        >>> model = linen.BatchNorm(use_running_average=False)
        >>> batches = [jnp.array([[1.0], [3.0]]), jnp.array([[8.0]])]
        >>> variables = model.init(jax.random.key(0), batches[0])
        >>> def apply(variables, x):
        ...     mask = jnp.arange(2) < len(x)  # the last batch is ragged: pad it
        ...     x = jnp.pad(x, ((0, 2 - len(x)), (0, 0)))
        ...     return model.apply(variables, x, mask=mask, mutable=["batch_stats"])
        >>> new, report = population.estimate_linen(apply, variables, batches)
        >>> stats = new["batch_stats"]
        >>> stats["mean"].item(), round(stats["var"].item(), 4)
        (4.0, 8.6667)
        >>> report.estimated, report.kept
        (('.',), ())

    References:
        Wu & Johnson 2021, https://arxiv.org/abs/2105.07576, section 3. The prior:
        Schneider et al. 2020, https://arxiv.org/abs/2006.16971, equation 2.
    """
    check_prior(prior_count)
    given = flat(variables.get("batch_stats", {}))
    places = layers_of(given)
    check_layers(places, name="variables", to="estimate")
    paths = by_text(places)
    layers = {text: places[path] for text, path in paths.items()}
    names = record_names(layerwise=layerwise)
    rest = {name: value for name, value in variables.items() if name != "batch_stats"}

    features: dict[str, tuple[int, ...]] = {}
    foreign: dict[str, None] = {}

    def measure(stats: Mapping[str, LayerStats], batch: Any) -> dict[str, Record]:
        known = given | _leaves(stats, paths, given)
        run = _run(apply, tuple(places), names, rest, known, batch)
        features.update({path: v.shape[:-1] for path, v in run.features.items()})
        foreign.update(run.foreign)
        if foreign.keys() >= layers.keys():
            check_foreign(foreign, (), "jaxbn.linen")
        return run.records

    def num_layers() -> int:
        of_each = (num_stacked(m, features.get(p)) for p, (m, _) in layers.items())
        return sum(of_each)

    setting = Setting(layerwise, prior_count, shown if progress else silent)
    new, report = estimate(measure, layers, num_layers, batches, setting)
    report = report._replace(foreign=tuple(path for path in layers if path in foreign))
    check_foreign(report.foreign, report.estimated, "jaxbn.linen")
    given |= _leaves(new, paths, given)
    given |= _accumulated_afresh([paths[text] for text in new], given)
    return {**variables, "batch_stats": nested(given)}, report


class Run(NamedTuple):
    """What a batch showed of the model's layers, by path.

    The last two are pytrees without a value, since `jit` keeps nothing else.
    """

    records: dict[str, Record]
    features: dict[str, Array]  # of our layers; their shapes, and an axis of size 0
    foreign: dict[str, None]  # Flax's own layers


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(
    apply: Callable[[Any, Any], Any],
    layers: tuple[Path, ...],
    names: tuple[str, ...],
    rest: dict[str, Any],
    given: dict[Path, Any],
    batch: Any,
) -> Run:
    """Runs a batch through the model."""
    stats = with_records(given, layers, names)
    features: dict[str, tuple[int, ...]] = {}
    foreign: dict[str, None] = {}

    def watch(
        next_function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        layer, path = context.module, text_of(context.module.path)
        if context.method_name == "__call__" and isinstance(layer, BatchNorm):
            foreign.pop(path, None)  # Flax's was replaced by this one
            x = args[0] if args else kwargs["x"]
            axes = check_axis(layer.axis, x.shape)
            features[path] = tuple(x.shape[a] for a in axes)
        elif isinstance(layer, nn.BatchNorm):
            foreign[path] = None
        return next_function(*args, **kwargs)

    with model_errors(errors.FlaxError), nn.intercept_methods(watch):
        result = apply({**rest, "batch_stats": nested(stats)}, batch)
    records = records_of(check_updates(result), stats, layers, names)
    shapes = {path: jnp.zeros((*shape, 0)) for path, shape in features.items()}
    return Run(records, shapes, foreign)


def with_records(
    given: Mapping[Path, Any], layers: Iterable[Path], names: tuple[str, ...]
) -> dict[Path, Any]:
    """The flat statistics, with an empty record next to those of each layer."""
    stats = dict(given)
    for path in layers:
        mean, var = given[*path, "mean"], given[*path, "var"]
        for name, value in zip(names, empty_record(mean, var), strict=True):
            stats[*path, name] = value
    return stats


def records_of(
    updates: Mapping[str, Any],
    stats: Mapping[Path, Any],
    layers: Iterable[Path],
    names: tuple[str, ...],
) -> dict[str, Record]:
    """The records in what a model returned that was given these flat statistics."""
    found = flat(updates)
    full = [path for path, leaf in found.items() if not isinstance(leaf, dict)]
    check_names(full, stats.keys())
    return {
        text_of(path): Record(*(found[*path, name] for name in names))
        for path in layers
    }


def flat(tree: Mapping[str, Any]) -> dict[Path, Any]:
    """The leaves by path, such as `("block", "norm", "mean")`.

    An empty mapping is a leaf: a tree is to come back whole.
    """
    leaves: dict[Path, Any] = {}
    for name, value in tree.items():
        if not isinstance(value, Mapping):
            leaves[name,] = value
        elif not value:
            leaves[name,] = {}
        else:
            leaves |= {(name, *path): leaf for path, leaf in flat(value).items()}
    return leaves


def nested(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    return traverse_util.unflatten_dict(dict(flat))


def layers_of(leaves: Mapping[Path, Any]) -> dict[Path, LayerStats]:
    """The places that have a mean and a variance of one shape."""
    layers: dict[Path, LayerStats] = {}
    for (*parts, name), mean in leaves.items():
        path = tuple(parts)
        var = leaves.get((*path, "var"), {})
        if name != "mean" or isinstance(mean, dict) or isinstance(var, dict):
            continue
        if jnp.shape(var) == jnp.shape(mean):
            layers[path] = mean, var
    return layers


def text_of(path: Path) -> str:
    """As reports and messages have it; `.` is a model that is one layer."""
    return "/".join(path) or "."


def by_text(paths: Collection[Path]) -> dict[str, Path]:
    """The paths of layers by how reports name them, each by another name."""
    texts = [text_of(path) for path in paths]
    check_paths_differ(texts)
    return dict(zip(texts, paths, strict=True))


def _leaves(
    stats: Mapping[str, LayerStats], paths: Mapping[str, Path], like: Mapping[Path, Any]
) -> dict[Path, Any]:
    """Flat, with the dtype and on the devices of what was there."""
    return {
        (*paths[text], name): as_before(value, like[*paths[text], name])
        for text, pair in stats.items()
        for name, value in zip(("mean", "var"), pair, strict=True)
    }


def _accumulated_afresh(
    layers: Iterable[Path], given: Mapping[Path, Any]
) -> dict[Path, Any]:
    """Empty records of micro-batches, for those of these layers that have some.

    What they accumulated would move other statistics than these.
    """
    new: dict[Path, Any] = {}
    for path in layers:
        if (*path, ACCUMULATES) in given:
            names = [n for n in RunningStats._fields if (*path, n) in given]
            stats = {name: given[*path, name] for name in names}
            new |= {(*path, name): v for name, v in accumulation(stats).items()}
    return new
