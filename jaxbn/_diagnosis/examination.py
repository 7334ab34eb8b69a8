# SPDX-License-Identifier: Apache-2.0
"""One diagnosis: batches through a model, then the rules; nothing here knows Flax."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxbn._diagnosis.evidence import (
    Measured,
    Observer,
    Variables,
    differing,
    gather,
    observe_batches,
    same_for_the_first,
    with_other_neighbours,
)
from jaxbn._diagnosis.report import Diagnosis, conclude
from jaxbn._diagnosis.rules import Context, Finding, Fixes, neighbours, replicas
from jaxbn._flax.records import Record


class Program(NamedTuple):
    """A model, made ready by its door."""

    variables: Mapping[str, Variables]
    record: Callable[[Any], Mapping[str, Record]]  # runs a batch as in training
    infer: Callable[[Any], Any] | None  # returns the output in inference
    infer_is_forward: bool  # and so may ask for training in the call itself
    training: Observer  # watches the first
    inference: Observer  # watches the second
    fixes: Fixes


def examine(
    program: Program, batches: Iterable[Any], *, steps: int | None, decay_known: bool
) -> Diagnosis:
    """Runs the batches and applies the rules."""
    first: list[Any] = []
    measured: list[Measured] = []
    with warnings.catch_warnings():
        # Of one value per feature: it is a finding.
        warnings.filterwarnings("ignore", message=".*one value per feature")
        for batch, of_batch in observe_batches(program.record, batches):
            first = first or [batch]
            measured.append(of_batch)
    layers = gather(program.variables, measured, program.training)
    context = Context(
        fixes=program.fixes,
        num_layers=len(layers),
        num_features=sum(layer.mean.size for layer in layers),
        steps=steps,
    )
    others = [*replicas(differing(program.variables))]
    found, skipped = _neighbours(program, first[0], context)
    others += found
    if len(measured) < 2:
        skipped.append("train/eval gap: needs at least 2 batches, better 8 or more")
    unmeasured = [layer.path for layer in layers if not np.any(layer.population.count)]
    if unmeasured:
        paths = ", ".join(f"`{path}`" for path in unmeasured)
        skipped.append(
            f"{paths}: no moments in training: frozen, not run, nothing counted, or a "
            "subclass of Flax's norm that does not call `super().__call__`"
        )
    if steps is None:
        skipped.append("momentum: needs `steps`, the number of updates so far")
    if not decay_known:
        skipped.append("weight decay: needs `decay_mask`")
    return conclude(layers, context, others, skipped, len(measured))


def _neighbours(
    program: Program, batch: Any, context: Context
) -> tuple[list[Finding], list[str]]:
    """Compares inference of the first example among others and among its copies."""
    name = "inference that depends on its neighbours"
    if program.infer is None:
        return [], [f"{name}: needs `infer`"]
    changed = with_other_neighbours(batch)
    if changed is None:
        return [], [f"{name}: needs a first batch of two different examples"]
    other, size = changed
    outputs = program.infer(batch), program.infer(other)
    by_batch = program.inference.by_batch
    if program.infer_is_forward and any(by_batch.values()):
        return [], [f"{name}: needs `infer`, since `forward` asks for training"]
    same = same_for_the_first(*outputs, size)
    if same is None:
        return [], [f"{name}: needs an output with the examples along its leading axis"]
    return [*neighbours([*by_batch], same, context)], []
