# SPDX-License-Identifier: Apache-2.0
"""What scale and bias contribute.

    python -m experiments study configs/studies/affine.py

Batch norm in both networks with scale and bias, with one of them, with none, and with a
fixed scale of 0.3.

Cost: 61 s on 2 CPU cores.
Expected: accuracy with both minus that with none, mean of both networks: 0.069 [-0.069,
0.194] points, not supported; accuracy with bias alone minus that with both: -0.083
[-0.167, 0] points, supported.
"""

from experiments.config import (
    Claim,
    FigureConfig,
    Measure,
    StudyConfig,
    in_both_networks,
    values,
)

AXES = {
    "affine": {
        **values("norm.affine", ("none", "scale", "bias", "both")),
        "fixed": {"norm.affine": "fixed", "norm.fixed_scale": 0.3},
    }
}


def accuracy(affine: str) -> Measure:
    """The accuracy of both networks with this affine part."""
    return Measure(column="test_accuracy", where=(("affine", affine),))


CLAIMS = (
    Claim(
        text="Scale and bias are needed: without them a network is worse by at "
        "least 0.3 points.",
        source="Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, section 3",
        first=accuracy("both"),
        second=accuracy("none"),
        at_least=0.3,
        unit="points",
        says="accuracy with both minus that with none, mean of both networks",
    ),
    Claim(
        text="The scale can be left out before a ReLU: it is worth less than "
        "0.3 points.",
        source="the documentation of flax.linen.BatchNorm, `use_scale`",
        first=accuracy("bias"),
        second=accuracy("both"),
        at_least=-0.3,
        unit="points",
        says="accuracy with bias alone minus that with both",
    ),
)
FIGURE = FigureConfig(
    x="affine",
    y="test_accuracy",
    lines="network",
    label="test accuracy",
    percent=True,
    caption="Accuracy after ten epochs.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    return StudyConfig(
        name="affine",
        title="Scale and bias",
        variants=in_both_networks(AXES),
        claims=CLAIMS,
        figure=FIGURE,
    )
