# SPDX-License-Identifier: Apache-2.0
"""Which layer of another library's network is which of ours.

By names that the user gives, by names that are equal but for case and separators, or by
a proposal: the layers in order, checked by their shapes. Order and shapes alone do not
tell layers of equal shapes apart. What could go unnoticed is an exchange of two
neighbouring runs of layers with the same shapes, such as two branches that one network
defines in the other order than the other. A proposal therefore stands only where the
names bear witness to the order: by numbers that ascend on both sides, or by a word that
both sides share.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxbn._checks.convert import (
    check_all_named,
    check_all_used,
    check_kind,
    check_mapping,
    check_no_doubt,
    check_same_number,
    check_same_order,
    check_same_shapes,
    check_sources,
)
from jaxbn._convert.layers import Layer, Settings

Names = Mapping[str, str] | Callable[[str], str]


class Source(NamedTuple):
    """A layer of another library's network, by that library's names."""

    name: str
    arrays: Mapping[str, np.ndarray]
    kind: str | None = None  # where the library tells
    settings: Settings | None = None  # of a batch norm, where the library tells


def match(
    layers: Sequence[Layer],
    sources: Sequence[Source],
    fits: Callable[[Source, Layer], bool],
    names: Names | None,
) -> list[tuple[Layer, Source]]:
    """Pairs each layer with its source, or raises an error that says why not."""
    paths = [layer.path for layer in layers]
    check_mapping("names", names, or_function=True)
    if callable(names):
        given = {path: names(path) for path in paths}
    else:
        given = {} if names is None else names
        check_all_named(given, paths)
    by_name = {source.name: source for source in sources}
    check_sources(given, by_name)
    if callable(names):
        check_all_used(given, by_name)
    pairs = [(la, by_name[given[la.path]]) for la in layers if la.path in given]
    layers = [layer for layer in layers if layer.path not in given]
    used = set(given.values())
    pairs += _match_rest(layers, [s for s in sources if s.name not in used], fits)
    for layer, source in pairs:
        check_kind(layer.path, layer.kind, source.name, source.kind)
    return pairs


def _match_rest(
    layers: Sequence[Layer],
    sources: Sequence[Source],
    fits: Callable[[Source, Layer], bool],
) -> list[tuple[Layer, Source]]:
    """By equal names, or else by a proposal."""
    names = _same_names(layers, sources)
    if names is None:
        return _propose(layers, sources, fits)
    by_name = {source.name: source for source in sources}
    return [(layer, by_name[names[layer.path]]) for layer in layers]


def _same_names(
    layers: Sequence[Layer], sources: Sequence[Source]
) -> dict[str, str] | None:
    """The names where they are equal but for case and separators, each once."""
    ours = {tuple(_words(layer.path)): layer.path for layer in layers}
    theirs = {tuple(_words(source.name)): source.name for source in sources}
    if ours.keys() != theirs.keys() or not len(ours) == len(layers) == len(sources):
        return None
    return {path: theirs[words] for words, path in ours.items()}


def _propose(
    layers: Sequence[Layer],
    sources: Sequence[Source],
    fits: Callable[[Source, Layer], bool],
) -> list[tuple[Layer, Source]]:
    if len(layers) == len(sources) and all(map(fits, sources, layers)):
        pairs = list(zip(layers, sources, strict=True))
        check_no_doubt(
            [(one[0].path, one[1].name, two[0].path, two[1].name)
             for one, two in _doubts(pairs)]
        )  # fmt: skip
        return pairs
    fitting = {la.path: [s for s in sources if fits(s, la)] for la in layers}
    fitted = {source.name for some in fitting.values() for source in some}
    check_same_shapes(
        {la.path: la.signature[1:] for la in layers if not fitting[la.path]},
        {
            source.name: {name: a.shape for name, a in source.arrays.items()}
            for source in sources
            if source.name not in fitted
        },
    )
    check_same_number([la.path for la in layers], [source.name for source in sources])
    pairs = [(layer, fitting[layer.path][0]) for layer in layers]
    if any(len(some) > 1 for some in fitting.values()):  # else order does not matter
        in_order = zip(layers, sources, strict=True)
        check_same_order([(la.path, s.name) for la, s in in_order if not fits(s, la)])
    return pairs


def _doubts(
    pairs: Sequence[tuple[Layer, Source]],
) -> Iterator[tuple[tuple[Layer, Source], tuple[Layer, Source]]]:
    """Pairs of layers that could be exchanged, and whose names do not tell."""
    signatures = [layer.signature for layer, _ in pairs]
    for length in range(1, len(pairs)):
        equal = 0  # layers up to here that equal those `length` after them
        for end in range(len(pairs) - length):
            equal = equal + 1 if signatures[end] == signatures[end + length] else 0
            if not equal:
                continue
            here, there = pairs[end], pairs[end + length]
            if _witness(here, there) < 0:
                yield here, there
            if equal >= length:  # a run that is repeated at once
                first = end - length + 1
                if _witness(pairs[first], pairs[first + length]) <= 0:
                    yield pairs[first], pairs[first + length]


def _witness(one: tuple[Layer, Source], two: tuple[Layer, Source]) -> int:
    """1 where the names say that both are in this order, -1 against it, else 0."""
    ours = _difference(one[0].path, two[0].path)
    theirs = _difference(one[1].name, two[1].name)
    ascending = [
        first < second
        for first, second in (ours, theirs)
        if isinstance(first, int) and isinstance(second, int)
    ]
    if len(ascending) == 2:
        return 1 if ascending[0] == ascending[1] else -1
    if ours[0] == theirs[0] or ours[1] == theirs[1]:
        return 1
    crossed = ours[0] == theirs[1] or ours[1] == theirs[0]
    return -1 if crossed or False in ascending else 0


def _difference(one: str, two: str) -> tuple[int | str, int | str]:
    """The first words or numbers in which two names differ."""
    words = _words(one), _words(two)
    size = max(map(len, words)) + 1
    padded = [some + [-1] * (size - len(some)) for some in words]
    pairs: Iterator[tuple[int | str, int | str]] = zip(*padded, strict=True)
    return next((pair for pair in pairs if pair[0] != pair[1]), (-1, -1))


def _words(name: str) -> list[int | str]:
    """The words and numbers of a name."""
    found = re.findall(r"[a-z]+|\d+", name.lower())
    return [int(word) if word.isdigit() else word for word in found]
