# SPDX-License-Identifier: Apache-2.0
"""The gap between training and test, against dropout.

    python -m experiments study configs/studies/regularization.py

The dense network on the first 160 and on 1,280 digits, with dropout of 0 to 0.5, for
the same number of steps.

Cost: 79 s on 2 CPU cores.
Expected: gap without minus gap with, no dropout, 160 examples: -0.403 [-0.917, 0.111]
points, not supported; accuracy with batch norm alone minus the best of any dropout
without, 160 examples: -1.08 [-1.43, -0.736] points, not supported.
"""

from experiments.config import (
    LAB_DENSE,
    Claim,
    FigureConfig,
    How,
    Measure,
    StudyConfig,
    grid,
    values,
)

SOURCE = "Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, section 3.4"
DROPOUTS = (0.0, 0.1, 0.3, 0.5)


def of(norm: str, dropout: object, column: str, how: How = "mean") -> Measure:
    """A measure of the network that saw few examples."""
    where = (("norm", norm), ("dropout", dropout), ("examples", 160))
    return Measure(column=column, where=where, how=how)


CLAIMS = (
    Claim(
        text="Batch norm regularizes: it narrows the gap between training and "
        "test accuracy on few examples by at least 0.5 points.",
        source=SOURCE,
        first=of("none", 0.0, "gap"),
        second=of("batch", 0.0, "gap"),
        at_least=0.5,
        unit="points",
        says="gap without minus gap with, no dropout, 160 examples",
    ),
    Claim(
        text="With batch norm dropout is not needed: batch norm without dropout is at "
        "least as accurate as the best dropout without batch norm.",
        source=SOURCE,
        first=of("batch", 0.0, "test_accuracy"),
        second=of("none", DROPOUTS, "test_accuracy", "max"),
        at_least=0.0,
        unit="points",
        says="accuracy with batch norm alone minus the best of any dropout "
        "without, 160 examples",
    ),
)
FIGURE = FigureConfig(
    x="dropout",
    y="test_accuracy",
    lines="norm",
    panels="examples",
    label="test accuracy",
    percent=True,
    caption="Accuracy after 400 steps.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    return StudyConfig(
        name="regularization",
        title="Regularization",
        num_seeds=20,
        variants=grid(
            LAB_DENSE,
            {
                "norm": values("norm.kind", ("batch", "none")),
                "dropout": values("model.dropout", DROPOUTS),
                "examples": values("data.num_train", (160, 1280)),
            },
        ),
        claims=CLAIMS,
        figure=FIGURE,
    )
