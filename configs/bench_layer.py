# SPDX-License-Identifier: Apache-2.0
"""One batch norm layer in jaxbn, Flax and, where installed, PyTorch: milliseconds.

    python -m experiments bench configs/bench_layer.py

Times a training step of the layer, running statistics included, the libraries in turn
in one process: forward and forward + backward, with and without ReLU, masked, with
eight segments, and synchronised over two devices. All libraries use the same memory
allocator.

Cost: 43 s on 2 CPU cores.
Expected: flax / jaxbn 1.08 forward and 1.36 forward + backward, 4.82 and 2.16 masked.
Eight segments take 0.66 and 1.27 times as long as none.
"""

from experiments.config import BenchConfig


def get_config() -> BenchConfig:
    """Returns the benchmark."""
    return BenchConfig(name="bench_layer")
