# SPDX-License-Identifier: Apache-2.0
"""Nothing is destroyed, claimed or resumed before it is known to be right."""

import json
import os
import shutil
import subprocess
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.run.metrics import read_metrics
from tests.experiments.commands import COMMAND, ROOT, one_line_error, run_here

pytestmark = pytest.mark.processes

CONFIG = "configs/digits_dense.py"
METRICS = "metrics.jsonl"
SHORT = ["--train.num-steps", 40, "--train.checkpoint-every", 20]


def train(folder, *more, config=CONFIG):
    return run_here("train", config, "--workdir", folder, *SHORT, *more)


def trained(folder, *more):
    result = train(folder, *more)
    assert result.returncode == 0 and not result.stderr, result.stderr
    return result.stdout


def contents(folder):
    """Every file below the folder, but for those that only a reader of orbax makes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def last_state(folder, step=40):
    import jax

    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        assert manager.latest_step() == step
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        return jax.tree.leaves(manager.restore(step, args=args)["state"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    trained(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


MISTAKES = {
    "data": ["--data.name", "mnist", "--data.path", "/typo"],
    "batch": ["--data.batch-size", 5000],
    "devices": ["--parallel.num-devices", 64],
    "divergence": [
        "--norm.kind", "none", "--optimizer.learning-rate", 1e30, "--train.log-every",
        5,
    ],
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_does_not_cost_the_finished_run(folder, mistake):
    before = contents(folder)
    line = one_line_error(train(folder, "--overwrite", *MISTAKES[mistake]))
    assert line.startswith("error: ")
    assert contents(folder) == before
    assert "Resuming after step 40." in trained(folder)


def test_overwrite_replaces(folder):
    (folder / "notes.txt").write_text("mine")
    trained(folder, "--overwrite", "--seed", 1)
    assert json.loads((folder / "config.json").read_text())["seed"] == 1
    assert not (folder / "replaced").exists()
    assert (folder / "notes.txt").read_text() == "mine"


FOREIGN = {
    "checkpoints/epoch1.pt": "weights",
    "checkpoints/best/model.pt": "weights",
    "checkpoints/200": "weights",
    "config.json": '{"model_type": "other"}',
    "metrics.jsonl": "{}",
    "report.html": "<p>",
    "tensorboard/events": "0",
}


@pytest.mark.parametrize("more", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_another_program_stay(tmp_path, name, more):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FOREIGN[name])
    line = refused(tmp_path, *more)
    assert f"`{tmp_path}` holds `{name.partition('/')[0]}" in line
    assert "which no run has written; name another folder with --workdir" in line


def test_files_of_another_program_among_checkpoints_stay(folder):
    (folder / "checkpoints" / "mine.pt").write_text("weights")
    assert "holds `checkpoints/mine.pt`" in refused(folder, "--overwrite")


def start(folder, *more):
    arguments = ["train", CONFIG, "--workdir", folder, *more]
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed_before_its_first_checkpoint(folder, *more):
    endless = ["--train.num-steps", 10**7, "--train.checkpoint-every", 10**7]
    process = start(folder, *endless, *more)
    deadline = time.monotonic() + 60
    begun = folder / ("replaced/checkpoints" if "--overwrite" in more else METRICS)
    while not begun.exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()


def test_a_kill_does_not_cost_the_run_that_was_to_be_replaced(folder):
    killed_before_its_first_checkpoint(folder, "--overwrite", "--seed", 1)
    out = trained(folder)
    assert f"`{folder}` holds its earlier run again: " in out
    assert "Resuming after step 40." in out
    assert [r.step for r in read_metrics(folder / "metrics.jsonl")] == [10, 20, 30, 40]


@pytest.mark.parametrize("stage", range(6))
def test_replacing_can_be_cut_short_anywhere(folder, stage, monkeypatch):
    """The renames that move the older run aside are stopped after any of them."""
    from pathlib import Path

    before, rename, calls = contents(folder), Path.rename, []

    def fail(self, target):
        if len(calls) == stage:
            raise OSError("cut short")
        calls.append(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    result = train(folder, "--overwrite", "--seed", 1)
    monkeypatch.undo()
    if result.returncode == 0:
        assert stage >= 4
        return
    trained(folder)
    after = contents(folder)
    assert after.keys() >= before.keys()
    assert after["metrics.jsonl"] == before["metrics.jsonl"]


def test_a_failed_first_start_leaves_nothing(tmp_path):
    folder = tmp_path / "runs" / "new"
    for mistake in MISTAKES.values():
        one_line_error(train(folder, *mistake))
        if "--optimizer.learning-rate" not in mistake:
            assert not folder.parent.exists()
    out = trained(folder)
    assert "The metrics in" in out and "of a run that ended before its first" in out


def test_metrics_without_a_checkpoint_refuse_nothing(tmp_path):
    folder = tmp_path / "run"
    killed_before_its_first_checkpoint(folder)
    assert "are of a run that ended before its first checkpoint" in trained(
        folder, "--seed", 1
    )
    assert [r.step for r in read_metrics(folder / "metrics.jsonl")] == [10, 20, 30, 40]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize("size", [4, 8, 12])
def test_a_full_disk_leaves_no_empty_file(tmp_path, size):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine allows no mounts")
    try:
        (small / "full").write_bytes(b"0" * 4096)
        line = one_line_error(train(small / "run"))
        assert "No space left on device" in line
        assert (small / "run").exists() == (size > 4)
        assert all(path.stat().st_size > 0 for path in small.rglob("*.json*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def refused(folder, *more):
    before = contents(folder)
    line = one_line_error(train(folder, *more))
    assert contents(folder) == before
    return line


def test_a_checkpoint_of_another_run_is_refused(folder, tmp_path):
    trained(tmp_path / "other", "--seed", 1)
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", folder / "checkpoints")
    path = folder / "checkpoints" / "40"
    text = (
        f"checkpoint `{path}` is of a run of another config: seed is 1 there, 0 now. "
    )
    assert refused(folder).startswith(f"error: {text}")
    (folder / "config.json").unlink()
    assert refused(folder).startswith(f"error: {text}")


def test_without_its_config_a_run_is_still_known(folder):
    (folder / "config.json").unlink()
    assert refused(folder, "--norm.momentum", 0.5).startswith("error: checkpoint ")
    assert "Resuming after step 40." in trained(folder)
    assert (folder / "config.json").exists()


def test_a_renamed_checkpoint_is_refused(folder):
    shutil.move(folder / "checkpoints" / "40", folder / "checkpoints" / "60")
    line = refused(folder, "--train.num-steps", 80)
    assert "cannot be restored: it is that of step 40; remove that folder to " in line
    assert "resume after step 20, or start again with --overwrite." in line


@pytest.mark.parametrize("item", ["state", "data"])
def test_flipped_bytes_are_found(folder, item):
    """In the largest file of the item: in its middle, where the numbers are."""
    step = folder / "checkpoints" / "40"
    files = [path for path in (step / item).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    place = data.index(b'"accuracy"') + 14 if item == "data" else len(data) // 2
    data[place] ^= 1
    largest.write_bytes(data)
    line = refused(folder)
    assert f"checkpoint `{step}` cannot be restored: " in line
    assert "remove that folder to resume after step 20" in line
    shutil.rmtree(step)
    assert "Resuming after step 20." in trained(folder)
    shutil.rmtree(folder / "checkpoints" / "40")
    for path in (folder / "checkpoints" / "20" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    line = refused(folder)
    assert line.endswith("; start again with --overwrite.") and "remove" not in line


def test_other_examples_are_refused(folder, monkeypatch):
    from experiments.data.examples import Dataset

    monkeypatch.setattr(Dataset, "digest", lambda self: "other")
    assert "is of a run on other examples than `data.path` has now" in refused(folder)


def test_a_finished_run_may_become_longer(folder, tmp_path):
    out = trained(folder, "--train.num-steps", 60)
    text = "Resuming after step 40; train.num_steps is 40 there, 60 now."
    assert text in out
    trained(tmp_path / "long", "--train.num-steps", 60)
    pairs = zip(last_state(folder, 60), last_state(tmp_path / "long", 60), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    one, other = (
        [(r.step, r.loss) for r in read_metrics(place / "metrics.jsonl")]
        for place in (folder, tmp_path / "long")
    )
    assert one == other
    assert "train.num_steps is 60 there, 40 now, and it can only grow" in refused(
        folder
    )


def test_a_length_that_is_no_number_is_another_config(folder):
    config = json.loads((folder / "config.json").read_text())
    config["train"]["num_steps"] = "40"
    (folder / "config.json").write_text(json.dumps(config))
    assert "train.num_steps is '40' there, 40 now. Name another" in refused(folder)


def test_the_length_of_a_cosine_schedule_is_fixed(tmp_path):
    cosine = ["--optimizer.schedule", "cosine"]
    trained(tmp_path / "run", *cosine)
    line = refused(tmp_path / "run", *cosine, "--train.num-steps", 60)
    assert "and the cosine schedule depends on it" in line


def test_what_changes_no_number_may_change(folder, tmp_path):
    for step in (folder / "checkpoints").iterdir():
        if step.name == "40":
            shutil.rmtree(step)
    out = trained(
        folder, "--data.num-threads", 1, "--train.log-every", 5,
        "--train.checkpoint-every", 30, "--train.keep-checkpoints", 5,
    )  # fmt: skip
    assert "data.num_threads is 2 there, 1 now; train.log_every is 10 there" in out
    steps = [r.step for r in read_metrics(folder / "metrics.jsonl")]
    assert steps == [10, 20, 25, 30, 35, 40]
    held = json.loads((folder / "config.json").read_text())
    assert held["train"]["log_every"] == 5


def test_damaged_metrics_are_named_and_kept(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    foreign = ['{"step": 15, "colour": 1}', "[1]", "ha", lines[0]]
    path.write_text("\n".join([lines[0], *foreign, *lines[1:3]]) + "\n")
    out = trained(folder)
    assert "is damaged: line 2 is not a record, and 3 more." in out
    assert "has 3 of the 4 records up to step 40; the others are lost" in out
    assert [r.step for r in read_metrics(path)] == [10, 20, 30]
    assert (folder / "metrics.damaged.jsonl").read_text().count("\n") == 7
    report = run_here("report", folder, "--output", folder / "r.html")
    assert report.returncode == 0 and "is damaged" not in report.stdout


def test_a_lost_history_is_named(folder):
    (folder / "metrics.jsonl").unlink()
    assert "has 0 of the 4 records up to step 40" in trained(folder)
    line = one_line_error(run_here("report", folder))
    assert "metrics.jsonl` has no line with a loss yet" in line


def test_report_says_what_it_left_out(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1}\n"foreign"\n')
    out = run_here("report", folder, "--output", folder / "r.html")
    assert out.returncode == 0
    assert "is damaged: line 5 repeats step 1, and 1 more; left out." in out.stdout
    (folder / "config.json").write_text("[]")
    assert "is not a config" in one_line_error(run_here("report", folder))


def test_processes_with_other_configs_are_refused(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        start(
            tmp_path / "run", "--train.num-steps", 20, "--seed", seed,
            "--model.name", name, "--processes.coordinator-address", address,
            "--processes.num-processes", 2, "--processes.process-id", seed,
        )
        for seed, name in enumerate(["dense", "conv"])
    ]  # fmt: skip
    found = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [2, 2], found
    text = (
        "error: all processes must have the same config, code and data, but seed is "
        "0 in process 0, 1 in process 1; model.name is 'dense' in process 0, 'conv' in "
        "process 1; start them by the same command, with the same versions and files."
    )
    assert text in found[0][1] and "Traceback" not in found[0][1] + found[1][1]
    assert not (tmp_path / "run").exists()


def test_the_best_is_known_after_a_resume(tmp_path):
    """Of the checkpoints, the newest and the best of the whole run are kept."""
    folder = tmp_path / "run"
    for steps in (40, 80):  # at a rate at which accuracies rise and fall
        result = run_here(
            "train", CONFIG, "--workdir", folder, "--train.num-steps", steps,
            "--train.checkpoint-every", 10, "--train.keep-checkpoints", 1,
            "--optimizer.learning-rate", 20,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    records = read_metrics(folder / METRICS)
    best = max(records, key=lambda record: (record.test_accuracy, record.step))
    held = {int(path.name) for path in (folder / "checkpoints").iterdir()}
    assert held == {80, best.step}
