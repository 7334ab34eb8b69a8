# SPDX-License-Identifier: Apache-2.0
"""The deepest plain network that trains.

    python -m experiments study configs/studies/depth.py

Layers of 32 units with ReLU and no residuals, from 2 to 64 of them. A network trains
if at least 90 % of the held-out digits are classified right in the end.

Cost: 67 s on 2 CPU cores.
Expected: deepest network that reaches 90 % with, divided by that without: 3.25 [2.64,
4] times, supported; accuracy of 32 layers minus that of 4, with batch norm: -64.1
[-68.6, -59.6] points, not supported.
"""

from experiments.config import (
    LAB_DENSE,
    Claim,
    FigureConfig,
    Measure,
    StudyConfig,
    changed,
    grid,
    trains,
    values,
)

DEPTHS = (2, 4, 8, 16, 32, 64)


CLAIMS = (
    Claim(
        text="With batch norm plain networks train at least twice as deep.",
        source="He et al. 2015, https://arxiv.org/abs/1512.03385, section 1",
        first=trains("batch", "largest", "depth"),
        second=trains("none", "largest", "depth"),
        effect="ratio",
        at_least=2.0,
        unit="times",
        says="deepest network that reaches 90 % with, divided by that without",
    ),
    Claim(
        text="With batch norm depth does no harm: 32 layers are within 2 points of 4.",
        source="against it: Yang et al. 2019, https://arxiv.org/abs/1902.08129",
        first=Measure(column="test_accuracy", where=(("norm", "batch"), ("depth", 32))),
        second=Measure(column="test_accuracy", where=(("norm", "batch"), ("depth", 4))),
        at_least=-2.0,
        unit="points",
        says="accuracy of 32 layers minus that of 4, with batch norm",
    ),
)
FIGURE = FigureConfig(
    x="depth",
    y="test_accuracy",
    lines="norm",
    label="test accuracy",
    percent=True,
    log_x=True,
    caption="Accuracy after ten epochs.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    experiment = changed(LAB_DENSE, {"model.name": "plain", "model.hidden": None})

    return StudyConfig(
        name="depth",
        title="Depth",
        variants=grid(
            experiment,
            {
                "norm": values("norm.kind", ("batch", "none")),
                "depth": values("model.depth", DEPTHS),
            },
        ),
        claims=CLAIMS,
        figure=FIGURE,
    )
