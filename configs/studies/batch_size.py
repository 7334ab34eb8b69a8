# SPDX-License-Identifier: Apache-2.0
"""Test error against batch size, for eight norms.

    python -m experiments study configs/studies/batch_size.py

A convolutional and a dense network, trained on the same number of examples at each
batch size, the learning rate in proportion (Wu & He 2018,
https://arxiv.org/abs/1803.08494, figure 1). synchronised: four devices with that batch
each share their statistics, up to 128 examples in all; ghost: a batch of 128 is
normalized in parts of that size.

Cost: 569 s on 2 CPU cores.
Expected: accuracy with group norm minus that with batch norm, batch 2, convolutional
network: -0.306 [-0.722, 0.056] points, not supported; accuracy with group norm minus
that with batch norm, batch 2, dense network: 28.1 [25, 31] points, supported; accuracy
with batch norm minus that with group norm, batch 32: 0.278 [0.056, 0.528] points,
supported; accuracy of four devices synchronised minus that of one, 2 each: 30.9 [28.6,
33.2] points, supported; accuracy with renorm minus that with batch norm, batch 4:
-0.778 [-1.78, 0.194] points, not supported.
"""

from experiments.config import (
    LAB_CONV,
    LAB_DENSE,
    Claim,
    FigureConfig,
    Measure,
    StudyConfig,
    Variant,
    changed,
)

SOURCE = "Wu & He 2018, https://arxiv.org/abs/1803.08494, section 4.1 and figure 1"
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
NUM_DEVICES = 4
LARGEST = 128
OF_THE_BATCH = ("batch", "renorm", "ghost")
KINDS = ("batch", "renorm", "group", "layer", "instance", "none")
NETWORKS = {"conv": LAB_CONV, "dense": LAB_DENSE}


def variant(network: str, norm: str, size: int) -> Variant:
    """The norm at a batch size; all variants see the same number of examples."""
    whole = {"ghost": LARGEST, "synchronised": NUM_DEVICES * size}.get(norm, size)
    num_steps = 12800 // whole
    experiment = changed(
        NETWORKS[network],
        {
            "norm.kind": norm if norm in KINDS else "batch",
            "norm.virtual_batch_size": size if norm == "ghost" else None,
            "norm.group_size": 4,
            "norm.debias": norm in ("batch", "synchronised", "ghost"),
            "data.batch_size": whole,
            "optimizer.learning_rate": 0.1 * whole / 32,
            "train.num_steps": num_steps,
            "train.eval_every": num_steps // 5,
        },
    )
    settings = (("network", network), ("norm", norm), ("batch size", size))
    return Variant(settings=settings, experiment=experiment)


def variants() -> tuple[Variant, ...]:
    """All combinations but those in which a feature has one value, so no variance."""
    return tuple(
        variant(network, norm, size)
        for network in NETWORKS
        for norm in (*KINDS, "synchronised", "ghost")
        for size in SIZES
        if (network, norm) != ("dense", "instance")
        and not (network == "dense" and norm in OF_THE_BATCH and size == 1)
        and (norm != "synchronised" or NUM_DEVICES * size <= LARGEST)
    )


def accuracy(network: str, norm: str, size: int) -> Measure:
    """The accuracy of this network with this norm and batch size."""
    where = (("network", network), ("norm", norm), ("batch size", size))
    return Measure(column="test_accuracy", where=where)


CLAIMS = (
    *(
        Claim(
            text="With batches of 2 batch norm's error is higher than group "
            f"norm's by at least 1 point in a {words} network.",
            source=SOURCE,
            first=accuracy(network, "group", 2),
            second=accuracy(network, "batch", 2),
            at_least=1.0,
            unit="points",
            says="accuracy with group norm minus that with batch norm, batch 2, "
            f"{words} network",
        )
        for network, words in (("conv", "convolutional"), ("dense", "dense"))
    ),
    Claim(
        text="With batches of 32 batch norm is as good as group norm, within "
        "half a point (convolutional network).",
        source=SOURCE,
        first=accuracy("conv", "batch", 32),
        second=accuracy("conv", "group", 32),
        at_least=-0.5,
        unit="points",
        says="accuracy with batch norm minus that with group norm, batch 32",
    ),
    Claim(
        text="Synchronising statistics over devices repairs small batches: it gains "
        "at least 1 point with 2 examples per device (dense network).",
        source="Peng et al. 2018, https://arxiv.org/abs/1711.07240",
        first=accuracy("dense", "synchronised", 2),
        second=accuracy("dense", "batch", 2),
        at_least=1.0,
        unit="points",
        says="accuracy of four devices synchronised minus that of one, 2 each",
    ),
    Claim(
        text="Batch renormalization repairs small batches: it gains at least 1 point "
        "with batches of 4 (dense network).",
        source="Ioffe 2017, https://arxiv.org/abs/1702.03275, section 4.2",
        first=accuracy("dense", "renorm", 4),
        second=accuracy("dense", "batch", 4),
        at_least=1.0,
        unit="points",
        says="accuracy with renorm minus that with batch norm, batch 4",
    ),
)
FIGURE = FigureConfig(
    x="batch size",
    y="test_accuracy",
    lines="norm",
    panels="network",
    label="test accuracy",
    percent=True,
    log_x=True,
    caption="Accuracy after ten epochs.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    return StudyConfig(
        name="batch_size",
        title="Batch size",
        variants=variants(),
        claims=CLAIMS,
        figure=FIGURE,
    )
