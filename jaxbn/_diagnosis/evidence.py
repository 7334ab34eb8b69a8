# SPDX-License-Identifier: Apache-2.0
"""What is known of each layer: its variables, its call, the moments of its batches.

Nothing here knows Flax: Linen's and NNX's doors fill it in.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxbn._checks.axes import check_axis
from jaxbn._checks.diagnosis import (
    check_any_measured,
    check_batch_is_finite,
    check_decay_kinds,
    check_decay_paths,
    check_has_examples,
    check_several_values,
)
from jaxbn._checks.population import (
    check_anything_recorded,
    check_batches,
    check_num_batches,
)
from jaxbn._flax.records import Record
from jaxbn._population.merging import Pass, Total, Values, add, as_double, nothing_yet


class Call(NamedTuple):
    """What is static in a layer's call."""

    features: tuple[int, ...]  # the sizes of the feature axes
    num_values: (
        int | None
    )  # per feature, before a mask; None: known by its record alone
    dtype: np.dtype[Any]  # of the input
    is_own: bool  # jaxbn's, not Flax's
    momentum: float | None
    epsilon: float
    unbiased: bool
    forgets_start: bool  # the running statistics never hold the initial 0 and 1
    bias_before: (
        str | None
    )  # the path of the layer with a bias whose output is the input
    dropout_before: str | None  # the path of a dropout that runs before


class Observer:
    """Collects the static facts while a model is traced."""

    def __init__(self) -> None:
        """Nothing has been seen."""
        self.calls: dict[str, Call] = {}
        self.by_batch: dict[str, bool] = {}  # normalized by the batch: by the argument?
        self._with_bias: list[tuple[Any, str]] = []
        self._dropout: str | None = None

    def norm(
        self, path: str, layer: Any, x: Any, flag: bool | None, *, is_own: bool
    ) -> None:
        """A norm is called; `flag` is the call's own `use_running_average`."""
        field = getattr(layer, "use_running_average", None)
        if not (field if flag is None else flag):
            self.by_batch[path] = flag is not None
        axes = check_axis(layer.axis, x.shape)
        features = tuple(x.shape[a] for a in axes)
        values = x.size // max(math.prod(features), 1)
        part = getattr(layer, "virtual_batch_size", None)
        if part is not None and len(x):
            values = values // len(x) * part
        num_values = None  # across shards only the record knows
        if layer.axis_name is None or part is not None:
            known = self.calls[path].num_values if path in self.calls else None
            num_values = max(values, known or 0)  # a last batch may be ragged
        before = [path for y, path in self._with_bias if y is x]
        momentum = layer.momentum
        self.calls[path] = Call(
            features=features,
            num_values=num_values,
            dtype=np.dtype(x.dtype),
            is_own=is_own,
            momentum=None if momentum is None else _as_float(momentum),
            epsilon=_as_float(layer.epsilon),
            unbiased=getattr(layer, "unbiased", False),
            forgets_start=momentum is None or getattr(layer, "debias", False),
            bias_before=before[-1] if before else None,
            dropout_before=self._dropout,
        )

    def with_bias(self, path: str, y: Any) -> None:
        """A linear layer that adds a bias has returned `y`."""
        self._with_bias.append((y, path))

    def dropout(self, path: str) -> None:
        """A dropout is called."""
        self._dropout = path

    def forget(self) -> None:
        """Lets go of traced values, at the end of a trace."""
        self._with_bias, self._dropout = [], None


def _as_float(value: Any) -> float:
    """Of a field; a traced one, which has no value yet, counts as 0."""
    return 0.0 if isinstance(value, Tracer) else float(value)


class Redrawn(NamedTuple):
    """The moments of a batch, and of as many of its examples, drawn with replacement.

    What lies between the two is the noise of a batch, whatever its examples are: the
    positions of an image, which are alike, are drawn together.
    """

    before: Total
    after: Total
    num_examples: int


@dataclasses.dataclass(frozen=True)
class Layer:
    """One batch norm, or one of several that `scan` or `vmap` has stacked.

    Attributes:
        path: its name in the model, such as `block/norm`, with its place in a stack.
        mean: running mean, of the shape of the features, in float64.
        var: running variance.
        scale: learned scale, or None.
        bias: learned bias, or None.
        call: what is static in its call; None if it did not run.
        batches: the moments of its input in each batch with anything to count.
        redrawn: those batches once more, of several examples, drawn with replacement.
        population: those of all batches together.
        not_finite: the batches in which its input was not finite.
        decayed: which of scale and bias weight decay acts on.
    """

    path: str
    mean: Values
    var: Values
    scale: Values | None
    bias: Values | None
    call: Call | None
    batches: tuple[Total, ...]
    redrawn: tuple["Redrawn", ...]
    population: Total
    not_finite: tuple[int, ...]
    decayed: tuple[str, ...] = ()

    @property
    def epsilon(self) -> float:
        """That of the layer; 0 where it is not known."""
        return 0.0 if self.call is None else self.call.epsilon

    @property
    def num_values(self) -> float | None:
        """Values per feature that count in a usual batch; None: not measured."""
        if self.call is None:
            return None
        limit = self.call.num_values
        counts = [float(np.max(total.count)) for total in self.batches]
        if not counts:
            return None if limit != 1 else 1.0
        usual = sorted(counts)[len(counts) // 2]
        return usual if limit is None else min(usual, float(limit))


class Variables(NamedTuple):
    """Of a layer, or of a stack of some, as the model has them."""

    mean: Any
    var: Any
    scale: Any = None
    bias: Any = None
    decayed: tuple[str, ...] = ()


def decayed_names(mask: Any, params: Any) -> dict[str, bool]:
    """By path, from a mask as optax takes it: a tree, or a function of parameters."""
    if mask is None:
        return {}
    mask = mask(params) if callable(mask) else mask
    given = _by_path(mask)
    check_decay_kinds(given)
    paths = [*_by_path(params)]
    leaves = {
        path: bool(leaf)
        for prefix, leaf in given.items()
        for path in [p for p in paths if _is_at(p, prefix)] or [prefix]
    }
    check_decay_paths(leaves, paths)
    return leaves


def _is_at(path: str, prefix: str) -> bool:
    """Whether a leaf of a mask is of a parameter: its own, or that of all below."""
    return not prefix or f"{path}/".startswith(f"{prefix}/")


def _by_path(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


class Measured(NamedTuple):
    """The moments in each layer of a batch, and of its examples redrawn."""

    records: Mapping[str, Record]
    redrawn: Mapping[str, Record] | None  # of one example: none
    num_examples: int


def observe_batches(
    measure: Callable[[Any], Mapping[str, Record]],
    batches: Iterable[Any],
) -> Iterator[tuple[Any, Measured]]:
    """Runs each batch through the model, twice; yields it with its moments."""
    check_batches(batches, again=False)
    rng = np.random.default_rng(0)
    number = -1
    for number, batch in enumerate(batches):
        check_has_examples(batch, number)
        records = measure(batch)
        if not all(np.all(np.isfinite(m)) for r in records.values() for m in r[:2]):
            check_batch_is_finite(batch, number)
        size = num_examples(batch)
        redrawn = None
        if size > 1:
            redrawn = measure(with_rows(batch, rng.integers(0, size, size)))
        yield batch, Measured(records, redrawn, size)
    check_num_batches(number + 1)


def gather(
    variables: Mapping[str, Variables],
    measured: list[Measured],
    observer: Observer,
) -> tuple[Layer, ...]:
    """Returns the layers, each of a stack by itself, in the order in which they run."""
    calls = observer.calls
    records = [one.records for one in measured]
    recorded = [p for p in variables if any(np.any(r[p].count) for r in records)]
    if not recorded:
        check_several_values({p: call.num_values for p, call in calls.items()})
        check_any_measured([*observer.by_batch])
        check_anything_recorded(recorded, variables)
    stats = {p: (as_double(v.mean), as_double(v.var)) for p, v in variables.items()}
    total = nothing_yet(stats)
    for of_batch in records:
        total = add(total, of_batch, 0.0)
    ran = [path for path in calls if path in variables]
    layers: list[Layer] = []
    for path in ran + [path for path in variables if path not in calls]:
        own = variables[path]
        ndim = len(calls[path].features) if path in calls else 1
        stack = np.shape(own.mean)[: max(np.ndim(own.mean) - ndim, 0)]
        for index in np.ndindex(stack):
            layers.append(_layer(path, index, own, measured, total, calls.get(path)))
    return tuple(layers)


def _layer(
    path: str,
    index: tuple[int, ...],
    own: Variables,
    measured: list[Measured],
    total: Pass,
    call: Call | None,
) -> Layer:
    """One of a stack; of one that is none, with an empty index."""
    ndim = np.ndim(own.mean) - len(index)

    def total_of(records: Mapping[str, Record]) -> Total:
        return Total(*(as_double(a)[index] for a in records[path]))

    of_batches = [total_of(one.records) for one in measured]
    again = [
        Redrawn(before, total_of(one.redrawn), one.num_examples)
        for before, one in zip(of_batches, measured, strict=True)
        if one.redrawn is not None
    ]
    # `scan` may share the parameters and stack the statistics alone.
    scale, bias = (
        None if p is None else as_double(p)[index if np.ndim(p) > ndim else ()]
        for p in (own.scale, own.bias)
    )
    return Layer(
        path=path + "".join(f"[{i}]" for i in index),
        mean=as_double(own.mean)[index],
        var=as_double(own.var)[index],
        scale=scale,
        bias=bias,
        call=call,
        batches=tuple(filter(_counts, of_batches)),
        redrawn=tuple(r for r in again if _counts(r.before) and _counts(r.after)),
        population=Total(*(a[index] for a in total.totals[path])),
        not_finite=tuple(k for k, t in enumerate(of_batches) if not _is_finite(t)),
        decayed=own.decayed,
    )


def _is_finite(total: Total) -> bool:
    return bool(np.all(np.isfinite(total.mean) & np.isfinite(total.var)))


def _counts(total: Total) -> bool:
    """Whether each feature has moments."""
    return _is_finite(total) and bool(np.all(total.count > 0))


def num_examples(batch: Any) -> int:
    """The length of the leading axis, 0 where there is none."""
    leaves = [leaf for leaf in jax.tree.leaves(batch) if np.ndim(leaf)]
    return len(leaves[0]) if leaves else 0


def with_rows(batch: Any, rows: Values) -> Any:
    """The batch with these of its examples in the place of all, on the same devices."""

    def chosen(leaf: Any) -> Any:
        if not np.ndim(leaf) or len(leaf) != len(rows):
            return leaf
        other = leaf[rows]
        return jax.device_put(other, leaf.sharding) if is_sharded(leaf) else other

    def is_sharded(leaf: Any) -> bool:
        return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1

    return jax.tree.map(chosen, batch)


def with_other_neighbours(batch: Any) -> tuple[Any, int] | None:
    """The batch with the first example in every place, and how many examples it has.

    None where nothing changes: there is one example, or all are alike.
    """
    size = num_examples(batch)
    other = with_rows(batch, np.zeros(size, int))
    pairs = zip(jax.tree.leaves(batch), jax.tree.leaves(other), strict=True)
    return None if all(_same(a, b) for a, b in pairs) else (other, size)


def first_examples(output: Any, size: int) -> list[Any]:
    """What an output gives of the first of `size` examples, leaf by leaf."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(output)]
    return [leaf[0] for leaf in leaves if leaf.ndim and len(leaf) == size]


def same_for_the_first(one: Any, other: Any, size: int) -> bool | None:
    """Whether two outputs are bit-equal for the first example; None: there is none."""
    pairs = zip(first_examples(one, size), first_examples(other, size), strict=True)
    same = [_same(a, b) for a, b in pairs]
    return all(same) if same else None


def _same(one: Any, other: Any) -> bool:
    """Bit-equal, NaN included."""
    if jnp.issubdtype(getattr(one, "dtype", float), jax.dtypes.prng_key):
        one, other = map(jax.random.key_data, (one, other))
    one, other = _on_the_host(one), _on_the_host(other)
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _on_the_host(value: Any) -> Values:
    """The whole array, also where other processes have parts of it."""
    if not getattr(value, "is_fully_addressable", True):
        from jax.experimental.multihost_utils import process_allgather

        value = process_allgather(value, tiled=True)
    return np.asarray(value)


def differing(variables: Mapping[str, Variables]) -> dict[str, str]:
    """Layers whose replicas, on devices or in processes, are not bit-equal, and how."""
    found = {p: text for p, v in variables.items() if (text := _replicas_of(v))}
    if jax.process_count() > 1:
        found |= _processes_of(variables)
    return found


def _replicas_of(own: Variables) -> str | None:
    """Compares shards of the same index, and rows that lie one to a device."""
    for name, value in zip(own._fields, own, strict=True):
        if not isinstance(value, jax.Array) or len(value.sharding.device_set) < 2:
            continue
        by_index: dict[str, list[Values]] = {}
        for shard in value.addressable_shards:
            by_index.setdefault(str(shard.index), []).append(np.asarray(shard.data))
        groups = list(by_index.values())
        if all(len(group) == 1 for group in groups) and len(groups) == value.shape[0]:
            groups = [[group[0] for group in groups]]  # of `pmap`
        for first, *others in groups:
            different = sum(not _same(first, other) for other in others)
            if different:
                largest = max(float(np.max(np.abs(first - other))) for other in others)
                return (
                    f"`{name}` of {different} of {len(others) + 1} devices is not that "
                    f"of the first; the largest difference is {largest:.3g}"
                )
    return None


def _processes_of(variables: Mapping[str, Variables]) -> dict[str, str]:
    """Compares what each process can read."""
    from jax.experimental.multihost_utils import process_allgather

    found: dict[str, str] = {}
    for path, own in variables.items():
        for name, value in zip(own._fields[:4], own, strict=False):
            if value is None:
                continue
            if isinstance(value, jax.Array) and not value.is_fully_addressable:
                if not value.is_fully_replicated:
                    continue  # each has parts of its own
                value = value.addressable_data(0)
            rows = process_allgather(np.asarray(value))
            different = sum(not _same(rows[0], row) for row in rows[1:])
            if different:
                text = f"`{name}` of {different} of {len(rows)} processes is not that"
                found[path] = f"{text} of the first"
    return found
