# SPDX-License-Identifier: Apache-2.0
"""What is measured: the configs that run on a small machine, and with what."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "docs" / "measured"

BENCHMARKS = {
    "bench_folding": {"": ()},
    "bench_lab": {"": ()},
    "bench_layer": {
        "": (),
        "_bfloat16": ("--dtype", "bfloat16"),
        "_dense": ("--shape", "8192", "512"),
    },
    "bench_resnet50": {"": ()},
    "bench_tracing": {"": ("--rounds", "11")},
}
"""The arguments by what is added to the name of the file that is written."""

SEEDS = {f"seed {seed}": ("--seed", str(seed)) for seed in range(3)}
MODES = {mode: ("--parallel.mode", mode) for mode in ("shard_map", "pmap", "jit")}
RUNS = {
    "digits_conv": SEEDS,
    "digits_dense": SEEDS,
    "digits_devices": SEEDS,
    "digits_lstm": SEEDS,
    "fashion_devices": MODES,
    "fashion_gru": {"seed 0": ()},
    "fashion_lars": {"seed 0": ()},
    "fashion_resnet": {"seed 0": ()},
}
STUDIES = sorted(path.stem for path in (ROOT / "configs" / "studies").glob("*.py"))
NOT_RUN = {"cifar10_resnet18", "imagenet_resnet50"}
"""They take an accelerator, and images that have to be downloaded."""
