# SPDX-License-Identifier: Apache-2.0
"""What configs cost and reach, and the times in the docs, are what was measured.

`make lab` writes the verdicts, `make measure` the rest.
"""

import ast
import json
import re
import statistics

import pytest

from experiments.cli.bench import medians, ratios
from experiments.lab.outcome import interval
from tests.measure.configs import BENCHMARKS, MEASURED, NOT_RUN, NOT_YET, ROOT, RUNS

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


@pytest.mark.parametrize("name", sorted({v["study"] for v in VERDICTS}))
def test_studies_say_what_the_laboratory_found(name):
    found = [v for v in VERDICTS if (v["study"], v["images"]) == (name, "digits")]
    expected = "; ".join(
        f"{v['effect_is']}: {interval(v['effect'], *v['interval'], v['unit'])}, "
        f"{v['verdict']}"
        for v in found
    )
    assert f"Expected: {expected}." in docstring(f"studies/{name}")


@pytest.mark.parametrize("name", sorted({*BENCHMARKS, *RUNS} - NOT_YET))
def test_costs(name):
    found = measured(name)
    runs = found["runs"].values() if "runs" in found else [found]
    seconds = statistics.median(run["wall_seconds"] for run in runs)
    assert f"Cost: {seconds:.0f} s on 2 CPU cores" in docstring(name)


def in_percent(name, kind):
    return [100 * run[kind] for run in measured(name)["runs"].values() if kind in run]


@pytest.mark.parametrize("name", sorted(RUNS.keys() - NOT_YET))
def test_accuracies(name):
    """Means over seeds, and those of the averaged weights where there are any."""
    text, kinds = docstring(name), ["test_accuracy"]
    if "averaged weights" in text:
        kinds.append("average_test_accuracy")
    for kind in kinds:
        values = in_percent(name, kind)
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        found = re.findall(rf"{mean:.2f} % [a-z -]*\(sd {deviation:.2f}", text)
        assert found, (kind, mean, deviation)


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


SENTENCES = {"bench_tracing": of_tracing}


@pytest.mark.parametrize("name", SENTENCES)
def test_benchmarks(name):
    for text, sentence in SENTENCES[name]():
        assert sentence in text, sentence
