# SPDX-License-Identifier: Apache-2.0
"""Batch norm against layer norm within a GRU.

    python -m experiments study configs/studies/recurrent.py

A GRU reads the digits row by row. At every step the projections of input and state are
normalized by layer norm, batch norm with statistics of each step or one set for all
steps, or not at all.

Cost: 27 s on 2 CPU cores.
Expected: accuracy with statistics of each step minus one set for all: 0.722 [-0.111,
1.47] points, undecided; steps to 90 % with batch norm, divided by those with layer
norm: 1.21 [1.11, 1.31] times, supported; steps to 90 % without, divided by those with:
1.21 [1.11, 1.29] times, not supported.
"""

from experiments.config import (
    LAB_DENSE,
    Claim,
    FigureConfig,
    Measure,
    StudyConfig,
    changed,
    grid,
)


def measure(norm: str, column: str) -> Measure:
    """A measure of the network with this norm."""
    return Measure(column=column, where=(("norm", norm),))


CLAIMS = (
    Claim(
        text="Within a recurrent network batch norm needs statistics of each step; "
        "one set for all steps loses at least 0.5 points.",
        source="Cooijmans et al. 2017, https://arxiv.org/abs/1603.09025, section 3",
        first=measure("batch, each step", "test_accuracy"),
        second=measure("batch, all steps", "test_accuracy"),
        at_least=0.5,
        unit="points",
        says="accuracy with statistics of each step minus one set for all",
    ),
    Claim(
        text="Layer norm trains a recurrent network in fewer steps than batch norm.",
        source="Ba et al. 2016, https://arxiv.org/abs/1607.06450, section 6",
        first=measure("batch, each step", "steps_to_90"),
        second=measure("layer", "steps_to_90"),
        effect="ratio",
        at_least=1.0,
        unit="times",
        says="steps to 90 % with batch norm, divided by those with layer norm",
    ),
    Claim(
        text="Batch norm within the cell speeds up training: without it training "
        "takes at least 1.5 times as many steps.",
        source="Cooijmans et al. 2017, https://arxiv.org/abs/1603.09025, section 5",
        first=measure("none", "steps_to_90"),
        second=measure("batch, each step", "steps_to_90"),
        effect="ratio",
        at_least=1.5,
        unit="times",
        says="steps to 90 % without, divided by those with",
    ),
)
FIGURE = FigureConfig(
    x="norm",
    y="steps_to_90",
    lines="norm",
    label="steps to 90 %",
    caption="Steps until 90 % of the held-out images are classified right.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    experiment = changed(
        LAB_DENSE,
        {
            "model.name": "step_gru",
            "model.hidden": None,
            "optimizer.name": "adam",
            "optimizer.learning_rate": 0.003,
        },
    )

    return StudyConfig(
        name="recurrent",
        title="Recurrent networks",
        variants=grid(
            experiment,
            {
                "norm": {
                    "batch, each step": {"norm.kind": "batch"},
                    "batch, all steps": {
                        "norm.kind": "batch",
                        "model.step_statistics": False,
                    },
                    "layer": {"norm.kind": "layer"},
                    "none": {"norm.kind": "none"},
                }
            },
        ),
        claims=CLAIMS,
        figure=FIGURE,
    )
