# SPDX-License-Identifier: Apache-2.0
"""Runs configs by their commands, and writes what each cost and reached."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track

from experiments.run.provenance import provenance
from tests.measure.configs import BENCHMARKS, MEASURED, ROOT, RUNS, STUDIES

ALL = (*BENCHMARKS, *RUNS, "studies")


def timed(command: str, name: str, workdir: Path, *arguments: str) -> float:
    """Runs a config by its command, and returns the seconds from start to end."""
    config = f"configs/{name}.py"
    program = [sys.executable, "-m", "experiments"]
    started = time.perf_counter()
    ended = subprocess.run(
        [*program, command, config, "--workdir", str(workdir), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        sys.exit(f"{command} {config} failed: {ended.stderr}")
    return round(time.perf_counter() - started, 1)


def benchmark(name: str, arguments: tuple[str, ...], workdir: Path) -> dict:
    """What `bench` writes, its times with six decimals, and what it took itself."""
    seconds = timed("bench", name, workdir, *arguments)
    written = json.loads((workdir / "bench.json").read_text("utf-8"))
    for times in written["cases"].values():
        times.update({k: [round(t, 6) for t in each] for k, each in times.items()})
    return {"arguments": arguments, "wall_seconds": seconds, **written}


def runs(name: str, variants: dict[str, tuple[str, ...]], workdir: Path) -> dict:
    """The seconds and the last accuracies of each variant of a run."""
    found: dict = {**provenance(), "runs": {}}
    for variant, arguments in variants.items():
        folder = workdir / variant.replace(" ", "_")
        seconds = timed("train", name, folder, *arguments)
        last = (folder / "metrics.jsonl").read_text("utf-8").splitlines()[-1]
        accuracies = {k: v for k, v in json.loads(last).items() if "accuracy" in k}
        found["runs"][variant] = {"wall_seconds": seconds, **accuracies}
    return found


def studies(workdir: Path) -> dict:
    """The seconds of each; what they find is written by `make lab`."""
    seconds = {
        name: {"wall_seconds": timed("study", f"studies/{name}", workdir / name)}
        for name in STUDIES
    }
    return {**provenance(), "runs": seconds}


def main() -> None:
    """Measures the configs that are named, or all."""
    parser = argparse.ArgumentParser("python -m tests.measure", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of a config; or studies: all of them"
    )
    chosen = parser.parse_args().names or ALL
    if unknown := set(chosen) - set(ALL):
        parser.error(f"not measured: {', '.join(sorted(unknown))}")
    MEASURED.mkdir(exist_ok=True)
    for name in track(chosen, "Measuring", console=Console(stderr=True)):
        with tempfile.TemporaryDirectory() as folder:
            if name in RUNS:
                results = {name: runs(name, RUNS[name], Path(folder))}
            elif name == "studies":
                results = {name: studies(Path(folder))}
            else:
                results = {
                    name + more: benchmark(name, arguments, Path(folder))
                    for more, arguments in BENCHMARKS[name].items()
                }
        for file, result in results.items():
            text = json.dumps(result, indent=1)
            (MEASURED / f"{file}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
