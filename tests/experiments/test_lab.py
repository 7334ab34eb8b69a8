# SPDX-License-Identifier: Apache-2.0
"""The laboratory's runs, tables and pages, on small studies."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.cli.study import moved
from experiments.config import (
    LAB_DENSE,
    Claim,
    FigureConfig,
    Measure,
    StudyConfig,
    changed,
    grid,
    on,
    values,
)
from experiments.config.loading import load
from experiments.data import idx
from experiments.errors import UserError
from experiments.lab.conduct import conduct, plan
from experiments.lab.figures import draw
from experiments.lab.outcome import (
    conclude,
    front_table,
    in_words,
    write_verdicts,
)
from experiments.lab.runs_table import RUNS, RunsTable, missing
from experiments.run.plots import STYLES
from experiments.train import scanned
from experiments.train.loop import train
from tests.experiments.test_formats import write_idx

pytestmark = pytest.mark.long

BASE = changed(
    LAB_DENSE,
    {"model.hidden": (16,), "train.num_steps": 20, "train.eval_every": 10},
)


def small_study(axes=None, base=BASE, **fields):
    norm = Measure(column="test_accuracy", where=(("norm", "batch"),))
    none = dataclasses.replace(norm, where=(("norm", "none"),))
    claim = Claim(
        text="It is better.",
        source="https://example.org/",
        first=norm,
        second=none,
        at_least=1.0,
        unit="points",
        says="with minus without",
    )
    axes = axes or {
        "norm": values("norm.kind", ("batch", "none")),
        "rate": values("optimizer.learning_rate", (0.1, 0.5)),
    }
    figure = FigureConfig(
        x=list(axes)[-1],
        y="test_accuracy",
        lines="norm",
        label="accuracy",
        percent=True,
        caption="Small.",
    )
    study = StudyConfig(
        name="small",
        title="Small",
        variants=grid(base, axes),
        claims=(claim,),
        figure=figure,
        num_seeds=3,
    )
    return dataclasses.replace(study, **fields)


def conducted(study, folder, **fields):
    table = RunsTable(folder, study, overwrite=False, **fields)
    counts = []
    conduct(study, table, counts.append)
    return table, counts


def test_a_run_is_that_of_the_loop(tmp_path):
    """Learning rate and scale are arguments of one program, with the usual effect."""
    axes = {
        "norm": values("norm.kind", ("batch", "none")),
        "scale": values("model.init_scale", (0.5, 2.0)),
    }
    table, counts = conducted(small_study(axes), tmp_path)
    assert counts == [3] * 4 and len(table.rows) == 12
    for row in table.rows:
        if row["seed"] == 2:
            config = changed(
                BASE, {"norm.kind": row["norm"], "model.init_scale": row["scale"]}
            )
            *_, last = train(dataclasses.replace(config, seed=2))
            # One held-out digit of 360 may fall on the other side by rounding.
            assert row["test_accuracy"] == pytest.approx(last.test_accuracy, abs=0.004)
            assert row["test_loss"] == pytest.approx(last.test_loss, rel=1e-3)
    programs = plan(small_study(axes), [])
    assert [len(work) for work in programs] == [2, 2]


def test_resumes_where_it_stopped(tmp_path):
    study = small_study()
    whole = conducted(study, tmp_path)[0].rows
    path = tmp_path / RUNS
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 12
    path.write_text("".join([*lines[:7], lines[0]]))
    with pytest.raises(UserError, match=r"runs: line 8: seed 0 of .* already"):
        RunsTable(tmp_path, study, overwrite=False)
    path.write_text("".join(lines[:7]) + lines[8][:20])  # killed while writing
    table = RunsTable(tmp_path, study, overwrite=False)
    assert len(table.rows) == 7
    assert sum(len(missing(study, v, table.rows)) for v in study.variants) == 5
    counts = []
    conduct(study, table, counts.append)
    assert sum(counts) == 5

    def numbers(rows):
        key = ("norm", "rate", "seed")
        found = {tuple(row[k] for k in key): row["test_loss"] for row in rows}
        return [found[k] for k in sorted(found, key=str)]

    assert numbers(table.rows) == pytest.approx(numbers(whole), rel=1e-5)
    assert conducted(study, tmp_path)[1] == []
    more = dataclasses.replace(study, num_seeds=4)
    assert sum(conducted(more, tmp_path)[1]) == 4


def test_only_the_seeds_of_the_study_decide(tmp_path):
    """Runs with other seeds stay in the table, and do not count."""
    conducted(small_study(), tmp_path)
    other = small_study(first_seed=2, num_seeds=2)
    table, counts = conducted(other, tmp_path)
    assert sum(counts) == 4 and {row["seed"] for row in table.rows} == {2, 3}
    (verdict,) = conclude(other, table.rows, "").verdicts
    assert verdict.num_seeds == 2
    assert len((tmp_path / RUNS).read_text().splitlines()) == 16


def test_rows_with_other_measures_are_not_mixed(tmp_path):
    study = small_study()
    table = conducted(study, tmp_path)[0]
    row = {name: v for name, v in table.rows[0].items() if name != "test_loss"}
    with pytest.raises(UserError, match="has other measures than this study makes now"):
        table.add([row])


def test_rows_come_back_as_they_were(tmp_path):
    """JSON has neither NaN nor infinity: both are null in the file, NaN when read."""
    study = small_study()
    table = RunsTable(tmp_path, study, overwrite=False)
    settings = dict(study.variants[0].settings)
    row = {**settings, "seed": 0, "test_accuracy": 1 / 3, "steps": 1e300}
    table.add([row | {"loss": math.nan}, row | {"loss": math.inf, "seed": 1}])
    again = RunsTable(tmp_path, study, overwrite=False).rows
    assert [r["seed"] for r in again] == [0, 1]
    assert all(math.isnan(r.pop("loss")) for r in again)
    assert again == [row, row | {"seed": 1}]
    assert "NaN" not in (tmp_path / RUNS).read_text()


def test_a_line_looks_the_same_in_every_panel():
    """Even where a panel lacks the lines before it."""
    rows = [
        {"net": net, "norm": norm, "x": x, "seed": 0, "y": x}
        for net in ("a", "b")
        for norm in ("one", "two", "three")
        for x in (1, 2)
        if (net, norm) != ("b", "one")
    ]
    figure = FigureConfig(
        x="x", y="y", lines="norm", panels="net", label="", caption=""
    )
    svg = draw(figure, rows)
    colours = [STYLES[k][0].lower() for k in range(4)]
    # In a panel and its legend each line has its colour; panel b lacks the first.
    found = [svg.count(f"stroke: {colour}") for colour in colours]
    assert found[1] == found[2] > found[0] > 0 == found[3]


def test_a_folder_of_other_variants_is_not_mixed(tmp_path):
    conducted(small_study(num_seeds=1), tmp_path)
    other = small_study({"norm": values("norm.kind", ("batch", "none"))})
    with pytest.raises(UserError, match="holds runs of other variants"):
        RunsTable(tmp_path, other, overwrite=False)
    before = (tmp_path / RUNS).read_text()
    table = RunsTable(tmp_path, other, overwrite=True)
    assert (tmp_path / RUNS).read_text() == before  # until there is a run
    table.add([{"norm": "batch", "seed": 0, "loss": 1.0}])
    assert RunsTable(tmp_path, other, overwrite=False).rows == table.rows
    for line in (
        "norm,seed",
        '["batch", 0]',
        '{"norm": "batch"}',
        '{"norm": "layer", "seed": 0}',
        '{"norm": "batch", "seed": "x"}',
    ):
        (tmp_path / RUNS).write_text(line + "\n")
        with pytest.raises(UserError, match="is not a table of this study's runs"):
            RunsTable(tmp_path, other, overwrite=False)


def test_cost_takes_turns(tmp_path):
    axes = {
        "part": {"layer": {}, "dense": {}},
        "norm": values("norm.kind", ("batch", "none")),
    }
    study = small_study(axes, probe="cost", num_seeds=2)
    table, counts = conducted(study, tmp_path)
    assert counts == [4, 4]
    assert all(row["ms"] > 0 and row["memory_mb"] >= 0 for row in table.rows)
    assert conducted(study, tmp_path)[1] == []


def test_conclusions_are_of_the_runs(tmp_path):
    study = small_study()
    rows = conducted(study, tmp_path)[0].rows
    outcome = conclude(study, rows, "command")
    (verdict,) = outcome.verdicts
    assert verdict.verdict == "undecided" and verdict.num_seeds == 3
    means = [
        sum(r["test_accuracy"] for r in rows if r["norm"] == norm) / 6
        for norm in ("batch", "none")
    ]
    assert verdict.effect == pytest.approx(100 * (means[0] - means[1]))
    assert front_table([outcome]).rows[0][2] == "? undecided"
    assert front_table([outcome]).header[2:4] == ["verdict", "effect [95 %]"]
    assert len(outcome.table.rows) == 4 and "<svg" in outcome.pictures[0].svg
    numbers = outcome.numbers
    assert numbers.header == ["rate", "batch", "none"]
    assert [cells[0] for cells in numbers.rows] == ["0.1", "0.5"]
    shown = [[float(c.split(" ")[0]) for c in cells[1:]] for cells in numbers.rows]
    assert np.mean(shown, 0) == pytest.approx(np.multiply(100, means), abs=0.1)


@pytest.mark.parametrize(
    "path", sorted(Path("configs/studies").glob("*.py")), ids=lambda path: path.stem
)
def test_a_study_on_fashion_mnist_has_the_same_rules(path):
    """Seeds, limits and all settings but the images; targets where accuracies are."""
    study = load(path, StudyConfig)
    assert on(study, "digits") is study
    if study.probe == "cost":
        with pytest.raises(ValueError, match="`images` must be digits for cost, got"):
            on(study, "fashion_mnist")
        return
    moved = on(study, "fashion_mnist")
    assert (moved.images, moved.seeds, moved.name) == (
        "fashion_mnist", study.seeds, study.name,
    )  # fmt: skip
    for old, new in zip(study.variants, moved.variants, strict=True):
        assert new.settings == old.settings and new.adaptation == old.adaptation
        num = old.experiment.data.num_train or 1437
        back = changed(
            new.experiment,
            {
                "data.name": "digits",
                "data.num_test": None,
                "data.downsample": 1,
                "data.num_train": old.experiment.data.num_train,
            },
        )
        assert back == old.experiment and new.experiment.data.num_train == num
    for old, new in zip(study.claims, moved.claims, strict=True):
        assert (new.text, new.at_least, new.unit, new.effect) == (
            old.text, old.at_least, old.unit, old.effect,
        )  # fmt: skip
        for one, other in ((old.first, new.first), (old.second, new.second)):
            if one is not None:
                assert other.reaching == {0.0: 0.0, 0.9: 0.71}[one.reaching]
    texts = [c.says for c in moved.claims] + [moved.figure.caption, moved.figure.label]
    texts += [c.text for c in moved.claims]
    assert not re.search(r"digits|9[05] %(?! interval)", " ".join(texts))
    columns = [m.column for c in moved.claims for m in (c.first, c.second) if m]
    assert not re.search(r"_to_9[05]", " ".join([*columns, moved.figure.y]))


def test_an_accuracy_without_a_counterpart_is_refused():
    study = small_study()
    (claim,) = study.claims
    measure = dataclasses.replace(claim.first, how="number", reaching=0.8)
    claim = dataclasses.replace(claim, first=measure)
    study = dataclasses.replace(study, claims=(claim,))
    text = r"`reaching` must be one of \[0.9, 0.95\], got 0.8"
    with pytest.raises(ValueError, match=text):
        on(study, "fashion_mnist")
    with pytest.raises(UserError, match=text):
        moved(study, "fashion_mnist")


def test_verdicts_on_two_data_sets_are_side_by_side(tmp_path):
    study = small_study()
    outcome = conclude(study, conducted(study, tmp_path)[0].rows, "")
    (verdict,) = outcome.verdicts
    changed_one = verdict._replace(verdict="supported", effect=3.0, low=2.0, high=4.0)
    other = outcome._replace(study=on(study, "fashion_mnist"), verdicts=[changed_one])
    alone = dataclasses.replace(study, name="alone")
    table = front_table([outcome, other, outcome._replace(study=alone)])
    assert table.header == [
        "study", "claim", "digits", "effect [95 %]", "Fashion-MNIST", "effect [95 %]",
        "limit",
    ]  # fmt: skip
    first, last = table.rows
    assert first[2] == "? undecided" and first[3] == in_words(verdict)
    assert first[4:] == ["✓ supported", "3 [2, 4] points", "1"]
    assert last[0] == "alone" and last[2:4] == first[2:4]
    assert last[4:] == ["-", "-", "1"]
    write_verdicts(tmp_path / "verdicts.json", [outcome, other])
    found = json.loads((tmp_path / "verdicts.json").read_text())
    assert [v["images"] for v in found] == ["digits", "fashion_mnist"]


SMALL = """
from tests.experiments.test_lab import small_study

def get_config():
    return small_study({"norm": {"batch": {}, "none": {"norm.kind": "none"}}})
"""


def test_lab_on_two_data_sets(tmp_path, monkeypatch, rng):
    """Each has its folder; the page shows both. The files are small, of noise."""
    files = tmp_path / "files"
    files.mkdir()
    for part, num in (("train", 1437), ("t10k", 360)):
        images = rng.integers(0, 256, (num, 28, 28)).astype(np.uint8)
        labels = np.arange(num, dtype=np.uint8) % 10
        write_idx(files / f"{part}-images-idx3-ubyte", images)
        write_idx(files / f"{part}-labels-idx1-ubyte", labels)
    monkeypatch.setitem(idx.INSTALLED, "fashion_mnist", files)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs" / "studies"
    folder.mkdir(parents=True)
    (folder / "small.py").write_text(SMALL)
    scanned.loaded.cache_clear()
    try:
        assert main(["lab", "--images", "digits", "fashion_mnist"]) == 0
    finally:
        scanned.loaded.cache_clear()  # what it holds is noise
    lab = tmp_path / "runs" / "lab"
    for place in (lab / "small", lab / "fashion_mnist" / "small"):
        assert len((place / RUNS).read_text().splitlines()) == 6
        assert (place / "small.svg").exists()
    page = (lab / "report.html").read_text()
    assert page.count("<h2 id") == 1 and page.count("<svg") == 2
    assert "<h3>Fashion-MNIST</h3>" in page
    assert "study configs/studies/small.py --images fashion_mnist" in page
    found = json.loads((lab / "verdicts.json").read_text())
    assert [v["images"] for v in found] == ["digits", "fashion_mnist"]
