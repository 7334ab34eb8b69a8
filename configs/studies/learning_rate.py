# SPDX-License-Identifier: Apache-2.0
"""Final accuracy over five decades of learning rate.

    python -m experiments study configs/studies/learning_rate.py

The dense network with plain SGD, from 0.001 to 100 in half decades. A network trains if
at least 90 % of the held-out digits are classified right in the end.

Cost: 16 s on 2 CPU cores.
Expected: largest rate that reaches 90 % with, divided by that without: 8.91 [7.08, 10]
times, supported; decades of rates that reach 90 %, with minus without: 1.5 [1.25, 1.75]
decades, supported.
"""

from experiments.config import (
    LAB_DENSE,
    Claim,
    FigureConfig,
    StudyConfig,
    grid,
    trains,
    values,
)

RATES = tuple(round(10 ** (k / 2), 5) for k in range(-6, 5))


CLAIMS = (
    Claim(
        text="Batch norm allows learning rates at least 3 times as high.",
        source="Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, "
        "section 3.3; Bjorck et al. 2018, https://arxiv.org/abs/1806.02375",
        first=trains("batch", "largest", "learning rate"),
        second=trains("none", "largest", "learning rate"),
        effect="ratio",
        at_least=3.0,
        unit="times",
        says="largest rate that reaches 90 % with, divided by that without",
    ),
    Claim(
        text="With batch norm training works over at least half a decade more "
        "of learning rates.",
        source="Santurkar et al. 2018, https://arxiv.org/abs/1805.11604, section 1",
        first=trains("batch", "number", "learning rate"),
        second=trains("none", "number", "learning rate"),
        at_least=0.5,
        unit="decades",
        says="decades of rates that reach 90 %, with minus without",
    ),
)
FIGURE = FigureConfig(
    x="learning rate",
    y="test_accuracy",
    lines="norm",
    label="test accuracy",
    percent=True,
    log_x=True,
    caption="Accuracy after ten epochs.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    return StudyConfig(
        name="learning_rate",
        title="Learning rate",
        variants=grid(
            LAB_DENSE,
            {
                "norm": values("norm.kind", ("batch", "none")),
                "learning rate": values("optimizer.learning_rate", RATES),
            },
        ),
        claims=CLAIMS,
        figure=FIGURE,
    )
