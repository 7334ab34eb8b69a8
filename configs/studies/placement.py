# SPDX-License-Identifier: Apache-2.0
"""Batch norm before or after the activation.

    python -m experiments study configs/studies/placement.py

Dense and convolutional networks with ReLU, tanh and sigmoid; batch norm before it,
after it, or none.

Cost: 80 s on 2 CPU cores.
Expected: accuracy before minus after, mean of both networks and all activations: 0.338
[0.097, 0.569] points, undecided; accuracy with batch norm before minus without,
sigmoids: 32.8 [29.5, 36.5] points, supported.
"""

from experiments.config import (
    Claim,
    FigureConfig,
    Measure,
    StudyConfig,
    in_both_networks,
    values,
)

IOFFE = "Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167"
AXES = {
    "activation": values("model.activation", ("relu", "tanh", "sigmoid")),
    "norm": {
        "before": {"model.placement": "before"},
        "after": {"model.placement": "after"},
        "none": {"norm.kind": "none"},
    },
}


def accuracy(norm: str, activation: object) -> Measure:
    """The accuracy of both networks with the norm in this place."""
    where = (("norm", norm), ("activation", activation))
    return Measure(column="test_accuracy", where=where)


CLAIMS = (
    Claim(
        text="Batch norm belongs before the activation: there it is better by "
        "at least 0.3 points.",
        source=f"{IOFFE}, section 3.2",
        first=accuracy("before", ("relu", "tanh", "sigmoid")),
        second=accuracy("after", ("relu", "tanh", "sigmoid")),
        at_least=0.3,
        unit="points",
        says="accuracy before minus after, mean of both networks and all activations",
    ),
    Claim(
        text="Batch norm makes networks with saturating activations trainable: "
        "with sigmoids it gains at least 5 points.",
        source=f"{IOFFE}, section 4.2.2",
        first=accuracy("before", "sigmoid"),
        second=accuracy("none", "sigmoid"),
        at_least=5.0,
        unit="points",
        says="accuracy with batch norm before minus without, sigmoids",
    ),
)
FIGURE = FigureConfig(
    x="activation",
    y="test_accuracy",
    lines="norm",
    panels="network",
    label="test accuracy",
    percent=True,
    caption="Accuracy after ten epochs.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    return StudyConfig(
        name="placement",
        title="Before or after the activation",
        variants=in_both_networks(AXES),
        claims=CLAIMS,
        figure=FIGURE,
    )
