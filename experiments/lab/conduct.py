# SPDX-License-Identifier: Apache-2.0
"""Runs the missing runs of a study, variants spread over the cores."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import jax
import numpy as np

from experiments.config import ExperimentConfig, StudyConfig, Variant
from experiments.lab import adaptation, cost
from experiments.lab.runs_table import SEED, Row, RunsTable, missing
from experiments.lab.scores import TARGETS, inference, scores
from experiments.lab.shift import shift
from experiments.run import interrupts
from experiments.train.scanned import compile_runs, in_memory, lanes_of, program_config

PROBES = {"scores": scores, "inference": inference, "shift": shift}
"""Probes within the compiled program of a training run."""
OUTSIDE = {"adaptation": adaptation.rows, "cost": cost.rows}
"""Probes that run on their own, and yield some rows at a time."""
Work = list[tuple[Variant, list[int]]]
"""Variants that share a program, with the seeds they lack."""


def conduct(
    study: StudyConfig, table: RunsTable, advance: Callable[[int], object]
) -> None:
    """Runs all that is missing; calls `advance` with the number of finished runs.

    The rows of a variant are in the table before `advance` is called for them. Variants
    that run when another fails are finished.
    """

    def add(rows: list[Row]) -> None:
        with interrupts.shield:
            table.add(rows)
            advance(len(rows))

    if study.probe in OUTSIDE:
        for rows in OUTSIDE[study.probe](study, table.rows):
            add(rows)
        return
    stop = threading.Event()

    def work(program: Program, todo: Work) -> None:
        for variant, seeds in todo:
            if stop.is_set():
                return
            add(program.run(variant, seeds))

    workers = study.num_workers or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        parts = _parts(study, plan(study, table.rows), workers)
        futures = [pool.submit(work, program, todo) for program, todo in parts]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def plan(study: StudyConfig, rows: list[Row]) -> list[Work]:
    """Returns the variants that lack runs, grouped by program and missing seeds."""
    groups: dict[tuple[ExperimentConfig, tuple[int, ...]], Work] = {}
    for variant in study.variants:
        seeds = missing(study, variant, rows)
        if seeds:
            key = program_config(variant.experiment), tuple(seeds)
            groups.setdefault(key, []).append((variant, seeds))
    # The longest first, so that the cores finish at about the same time.
    return sorted(groups.values(), key=_size, reverse=True)


def _size(work: Work) -> int:
    """Returns the number of examples that are trained on."""
    configs = [variant.experiment for variant, _ in work]
    return sum(c.train.total_steps * c.data.batch_size for c in configs)


def _parts(
    study: StudyConfig, works: list[Work], workers: int
) -> Iterator[tuple["Program", Work]]:
    """With fewer programs than cores, some cores share one."""
    num = max(1, workers // max(1, len(works)))
    for work in works:
        program = Program(study.probe)
        for part in (work[k::num] for k in range(num)):
            if part:
                yield program, part


class Program:
    """The compiled program of some variants; threads may share it."""

    def __init__(self, probe: str):
        """Nothing is compiled yet."""
        self._probe, self._compiled = PROBES[probe], None
        self._lock = threading.Lock()

    def run(self, variant: Variant, seeds: list[int]) -> list[Row]:
        """Runs all seeds of the variant together, and returns their rows."""
        config = variant.experiment
        examples = in_memory(config)
        lanes = lanes_of(config, len(examples.train.label), seeds)
        with self._lock:
            if self._compiled is None:
                probe = self._probe(program_config(config))
                self._compiled = compile_runs(config, examples, lanes, probe)
        start = time.perf_counter()
        found = jax.tree.map(np.asarray, self._compiled(lanes, examples))
        return _rows(variant, seeds, found, time.perf_counter() - start)


def _rows(
    variant: Variant, seeds: list[int], found: dict[str, np.ndarray], seconds: float
) -> list[Row]:
    """Returns a row for each seed; the seeds, which run together, share the time."""
    per_step = seconds / len(seeds) / variant.experiment.train.total_steps
    rows = []
    for k, seed in enumerate(seeds):
        measures = {name: float(values[k]) for name, values in found.items()}
        row = dict(variant.settings) | {SEED: seed} | measures
        row["us_per_step"] = 1e6 * per_step
        for target in TARGETS:
            row[f"seconds_to_{target}"] = per_step * row[f"steps_to_{target}"]
        rows.append(row)
    return rows
