# SPDX-License-Identifier: Apache-2.0
"""Accuracy after two epochs with SGD, momentum, Adam and RMSProp.

    python -m experiments study configs/studies/optimizers.py

The dense network, each optimizer at three learning rates; with and without batch norm
are each judged at their best rate for each seed.

Cost: 38 s on 2 CPU cores.
Expected: accuracy with minus without, each at its best rate, SGD: 8.19 [6.67, 9.97]
points, supported; accuracy with minus without, each at its best rate, momentum: 5.78
[4.36, 7.22] points, supported; accuracy with minus without, each at its best rate,
Adam: 3.78 [2.67, 5.11] points, supported; accuracy with minus without, each at its best
rate, RMSProp: 5.25 [3.78, 6.81] points, supported.
"""

from experiments.config import (
    LAB_DENSE,
    Claim,
    FigureConfig,
    Measure,
    StudyConfig,
    Variant,
    changed,
    grid,
    values,
)

SOURCE = "Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, abstract"
RATES = {
    "sgd": (0.03, 0.1, 0.3),
    "momentum": (0.003, 0.01, 0.03),
    "adam": (0.001, 0.003, 0.01),
    "rmsprop": (0.0003, 0.001, 0.003),
}


def of_optimizer(name: str) -> tuple[Variant, ...]:
    """The optimizer at each of its rates, with and without batch norm."""
    short = {"optimizer.name": name, "train.num_steps": 80}
    axes = {
        "optimizer": {name: {}},
        "norm": values("norm.kind", ("batch", "none")),
        "rate": {
            label: {"optimizer.learning_rate": rate}
            for label, rate in zip(("low", "middle", "high"), RATES[name], strict=True)
        },
    }
    return grid(changed(LAB_DENSE, short), axes)


def best(optimizer: str, norm: str) -> Measure:
    """The accuracy at the best rate."""
    where = (("optimizer", optimizer), ("norm", norm))
    return Measure(column="test_accuracy", where=where, how="max")


CLAIMS = tuple(
    Claim(
        text=f"Batch norm speeds up training with {label}: after two epochs it is "
        "ahead by at least 1 point.",
        source=SOURCE,
        first=best(name, "batch"),
        second=best(name, "none"),
        at_least=1.0,
        unit="points",
        says=f"accuracy with minus without, each at its best rate, {label}",
    )
    for name, label in (
        ("sgd", "SGD"),
        ("momentum", "momentum"),
        ("adam", "Adam"),
        ("rmsprop", "RMSProp"),
    )
)
FIGURE = FigureConfig(
    x="rate",
    y="test_accuracy",
    lines="norm",
    panels="optimizer",
    label="test accuracy",
    percent=True,
    caption="Accuracy after two epochs.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    return StudyConfig(
        name="optimizers",
        title="Optimizers",
        variants=tuple(v for name in RATES for v in of_optimizer(name)),
        claims=CLAIMS,
        figure=FIGURE,
    )
