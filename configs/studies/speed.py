# SPDX-License-Identifier: Apache-2.0
"""Steps and seconds to an accuracy, with batch norm and without.

    python -m experiments study configs/studies/speed.py

The dense network at five learning rates; with and without batch norm are each judged at
their best rate for each seed. A run that does not reach the accuracy counts with all
its steps.

Cost: 16 s on 2 CPU cores.
Expected: steps to 95 % without, divided by those with, each at its best learning rate:
3.93 [3.56, 4.43] times, supported; seconds to 95 % without, divided by those with: 2.65
[2.36, 3.02] times, supported.
"""

from experiments.config import (
    LAB_DENSE,
    Claim,
    FigureConfig,
    Measure,
    StudyConfig,
    changed,
    grid,
    values,
)

SOURCE = "Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, section 4.2"


def best(norm: str, column: str) -> Measure:
    """The smallest value at any learning rate."""
    return Measure(column=column, where=(("norm", norm),), how="min")


CLAIMS = (
    Claim(
        text="With batch norm a network needs at most half the steps.",
        source=SOURCE,
        first=best("none", "steps_to_95"),
        second=best("batch", "steps_to_95"),
        effect="ratio",
        at_least=2.0,
        unit="times",
        says="steps to 95 % without, divided by those with, each at its best "
        "learning rate",
    ),
    Claim(
        text="With batch norm training is faster in seconds too, although each step "
        "costs more.",
        source=SOURCE,
        first=best("none", "seconds_to_95"),
        second=best("batch", "seconds_to_95"),
        effect="ratio",
        at_least=1.0,
        unit="times",
        says="seconds to 95 % without, divided by those with",
    ),
)
FIGURE = FigureConfig(
    x="learning rate",
    y="steps_to_95",
    lines="norm",
    label="steps to 95 %",
    log_x=True,
    caption="Steps until 95 % of the held-out images are classified right, of 400.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    experiment = changed(LAB_DENSE, {"train.eval_every": 5})

    return StudyConfig(
        name="speed",
        title="Speed of training",
        num_workers=1,
        variants=grid(
            experiment,
            {
                "norm": values("norm.kind", ("batch", "none")),
                "learning rate": values(
                    "optimizer.learning_rate", (0.03, 0.1, 0.3, 1.0, 3.0)
                ),
            },
        ),
        claims=CLAIMS,
        figure=FIGURE,
    )
