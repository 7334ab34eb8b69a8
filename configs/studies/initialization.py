# SPDX-License-Identifier: Apache-2.0
"""Final accuracy over four decades of initial weights.

    python -m experiments study configs/studies/initialization.py

The dense network with all initial kernels times 0.01 to 100. A network trains if at
least 90 % of the held-out digits are classified right in the end.

Cost: 16 s on 2 CPU cores.
Expected: decades of scale that reach 90 %, with minus without: 2 [2, 2] decades,
supported.
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

SCALES = tuple(round(10 ** (k / 2), 5) for k in range(-4, 5))


CLAIMS = (
    Claim(
        text="Batch norm makes training depend less on the initial weights, by "
        "at least one decade of scale.",
        source="Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, section 1",
        first=trains("batch", "number", "scale"),
        second=trains("none", "number", "scale"),
        at_least=1.0,
        unit="decades",
        says="decades of scale that reach 90 %, with minus without",
    ),
)
FIGURE = FigureConfig(
    x="scale",
    y="test_accuracy",
    lines="norm",
    label="test accuracy",
    percent=True,
    log_x=True,
    caption="Accuracy after ten epochs; 1 is the usual initialization.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    return StudyConfig(
        name="initialization",
        title="Initialization",
        variants=grid(
            LAB_DENSE,
            {
                "norm": values("norm.kind", ("batch", "none")),
                "scale": values("model.init_scale", SCALES),
            },
        ),
        claims=CLAIMS,
        figure=FIGURE,
    )
