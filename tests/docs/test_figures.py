# SPDX-License-Identifier: Apache-2.0
"""What configs cost and reach, and the times in the docs, are what was measured.

`make lab` writes the verdicts, `make measure` the rest.
"""

import ast
import json
import re
from math import ceil, inf
from statistics import fmean, median, stdev

import pytest

from experiments.cli.bench import medians, ratios
from experiments.lab.outcome import interval
from tests.measure.configs import (
    BENCHMARKS,
    MEASURED,
    NOT_RUN,
    ROOT,
    RUNS,
    SEEDS,
    STUDIES,
)

pytestmark = pytest.mark.documents

CONFIGS = ROOT / "configs"
VERDICTS = json.loads((ROOT / "docs" / "verdicts.json").read_text("utf-8"))


def measured(name):
    return json.loads((MEASURED / f"{name}.json").read_text("utf-8"))


def one_line(text):
    return " ".join(text.split())


def docstring(name):
    text = (CONFIGS / f"{name}.py").read_text("utf-8")
    return one_line(ast.get_docstring(ast.parse(text)))


def page(name):
    return one_line((ROOT / "docs" / f"{name}.md").read_text("utf-8"))


def test_every_config_is_measured_or_too_large():
    names = {path.stem for path in CONFIGS.glob("*.py")}
    assert names == {*BENCHMARKS, *RUNS} | NOT_RUN
    for name in NOT_RUN:
        assert "Cost: not run here;" in docstring(name)


@pytest.mark.parametrize("name", STUDIES)
def test_studies_say_what_the_laboratory_found(name):
    found = [v for v in VERDICTS if (v["study"], v["images"]) == (name, "digits")]
    expected = "; ".join(
        f"{v['effect_is']}: {interval(v['effect'], *v['interval'], v['unit'])}, "
        f"{v['verdict']}"
        for v in found
    )
    assert f"Expected: {expected}." in docstring(f"studies/{name}")


@pytest.mark.parametrize("name", [*BENCHMARKS, *RUNS])
def test_costs(name):
    found = measured(name)
    runs = found["runs"].values() if "runs" in found else [found]
    seconds = median(run["wall_seconds"] for run in runs)
    assert f"Cost: {seconds:.0f} s on 2 CPU cores" in docstring(name)


@pytest.mark.parametrize("name", STUDIES)
def test_costs_of_studies(name):
    seconds = measured("studies")["runs"][name]["wall_seconds"]
    assert f"Cost: {seconds:.0f} s on 2 CPU cores" in docstring(f"studies/{name}")


def in_percent(name, kind):
    runs = measured(name)["runs"].items()
    return {variant: 100 * run[kind] for variant, run in runs if kind in run}


def of_each(values):
    """Percentages of runs that differ in one thing, as the docstrings say them."""
    texts = {variant: f"{value:.2f}" for variant, value in values.items()}
    if len(set(texts.values())) == 1:
        return f"{next(iter(texts.values()))} %"
    *first, last = (f"{text} (`{variant}`)" for variant, text in texts.items())
    return f"{', '.join(first)} and {last.replace(' ', ' % ')}"


@pytest.mark.parametrize("name", RUNS)
def test_accuracies(name):
    """Those of the last weights, and of the averaged ones where there are any."""
    text, kinds = docstring(name), ["test_accuracy"]
    if "averaged weights" in text:
        kinds.append("average_test_accuracy")
    for kind in kinds:
        values = in_percent(name, kind)
        if RUNS[name] is not SEEDS:
            assert of_each(values) in text, of_each(values)
            continue
        mean, deviation = (of(values.values()) for of in (fmean, stdev))
        found = re.findall(rf"{mean:.2f} % [a-z -]*\(sd {deviation:.2f}", text)
        assert found, (kind, mean, deviation)


def of_folding():
    """Inference of a ResNet-50, and how far apart the slowest and the fastest are."""
    (seconds,) = measured("bench_folding")["cases"].values()
    times = medians(seconds).values()
    apart = ceil(100 * (max(times) / min(times) - 1))
    ours, flax, folded = (f"{ms:.0f}" for ms in times)
    yield docstring("bench_folding"), f"the three within {apart} %"
    yield docstring("bench_folding"), f"{ours}, {flax} and {folded} ms."
    sentence = f"{ours} ms with jaxbn's norms, {flax} with Flax's and {folded} folded"
    yield page("folding"), sentence


def of_lab():
    """Runs a minute: 60,000 ms by the ms of them all."""
    found = measured("bench_lab")
    (seconds,) = found["cases"].values()
    times = f"{ratios(seconds)['torch']:.1f} times as many runs a minute as PyTorch"
    yield docstring("bench_lab"), times
    runs = 60_000 * found["config"]["num_runs"]
    ours, theirs = (f"{runs / ms:,.0f}" for ms in medians(seconds).values())
    sentence = (
        f"{ours} runs a minute, compilation included, where a loop of PyTorch makes"
    )
    yield page("laboratory"), f"{sentence} {theirs} on"
    yield page("laboratory"), found["date"]


def of_layer():
    """Ratios to Flax, and of eight segments to none; the table has its test."""
    cases = measured("bench_layer")["cases"]
    names = ["forward", "forward + backward"]
    names += [f"{name}, masked" for name in names]
    over = [ratios(cases[name])["flax"] for name in names]
    sentence = (
        "flax / jaxbn {:.2f} forward and {:.2f} forward + backward, {:.2f} and {:.2f} "
        "masked."
    )
    yield docstring("bench_layer"), sentence.format(*over)
    of_ours = {name: medians(cases[name])["jaxbn"] for name in cases}
    over = [of_ours[f"{name}, 8 segments"] / of_ours[name] for name in names[:2]]
    sentence = "Eight segments take {:.2f} and {:.2f} times as long as none."
    yield docstring("bench_layer"), sentence.format(*over)
    for more, sentence in {
        "_bfloat16": "is {:.2f} forward and {:.2f} with the backward pass",
        "_dense": "it is {:.2f} and {:.2f}",
    }.items():
        cases = measured(f"bench_layer{more}")["cases"]
        over = {name: ratios(cases[name]).get("flax", inf) for name in cases}
        worst = f", and at worst {min(over.values()):.2f}"
        yield (
            page("speed"),
            sentence.format(*(over[name] for name in names[:2])) + worst,
        )
    one, eight = (
        medians(cases[f"forward + backward{more}"])["jaxbn"]
        for more in ("", ", 8 segments")
    )
    sentence = f"eight segments take {eight / one:.2f} times as long as none there"
    yield page("speed"), sentence


def of_resnet50():
    """Seconds of a step, and the memory of its program in GB."""
    found = measured("bench_resnet50")
    (seconds,) = found["cases"].values()
    ratio, times = f"{ratios(seconds)['flax']:.2f}", medians(seconds)
    ours, theirs = (f"{found['memory'][n] / 1e9:.2f}" for n in ("jaxbn", "flax"))
    sentence = f"flax / jaxbn {ratio}, and memory of {ours} GB against {theirs} GB"
    yield docstring("bench_resnet50"), sentence
    one, other = (f"{times[name] / 1e3:.2f}" for name in ("jaxbn", "flax"))
    sentence = (
        f"{one} s with jaxbn's and {other} s with Flax's, ratio {ratio}; the compiled "
        f"programs hold {ours} and {theirs} GB"
    )
    yield page("speed"), sentence


def of_tracing():
    """The sentences about the time before a program runs, and the row of each case."""
    cases = measured("bench_tracing")["cases"].values()
    to_trace, call, gradient = (ratios(seconds)["flax"] for seconds in cases)
    yield (
        docstring("bench_tracing"),
        (
            f"flax / jaxbn {to_trace:.2f} to trace and lower, {call:.2f} for the call "
            f"and {gradient:.2f} for the gradient"
        ),
    )
    for seconds in cases:
        times, ratio = medians(seconds), ratios(seconds)["flax"]
        digits = 0 if times["jaxbn"] > 100 else 1
        cells = f"| {times['jaxbn']:.{digits}f} | {times['flax']:.{digits}f} |"
        yield page("speed"), f"{cells} {ratio:.2f} |"


SENTENCES = {
    "bench_folding": of_folding,
    "bench_lab": of_lab,
    "bench_layer": of_layer,
    "bench_resnet50": of_resnet50,
    "bench_tracing": of_tracing,
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks(name):
    for text, sentence in SENTENCES[name]():
        assert sentence in text, sentence
