# SPDX-License-Identifier: Apache-2.0
"""What batch norm costs in time and memory.

    python -m experiments study configs/studies/cost.py

Forward and backward of a norm with ReLU on 64 x 16 x 16 x 64, and training steps of a
dense network, a convolutional one and a ResNet-18, with batch, layer, group norm and
none; the variants take turns, and each seed is a round.

Cost: 134 s on 2 CPU cores.
Expected: time of a training step with, divided by that without: 1.06 [1.04, 1.09]
times, not supported; temporary memory of a training step with, divided by that without:
1 [1, 1] times, not supported; time of a training step of ResNet-18 with group norm,
divided by that with batch norm: 1.05 [0.975, 1.13] times, undecided.
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
    grid,
    values,
)

NORMS = values("norm.kind", ("batch", "none", "layer", "group"))
PARTS = {
    "layer": LAB_CONV,
    "dense": changed(LAB_DENSE, {"model.hidden": (512, 512), "data.batch_size": 128}),
    "conv": changed(LAB_CONV, {"model.hidden": (32,), "data.batch_size": 128}),
    "resnet18": changed(
        LAB_CONV,
        {
            "model.name": "resnet18",
            "model.hidden": None,
            "model.convolution": "xla",
            "data.batch_size": 16,
        },
    ),
}


def of_part(name: str) -> tuple[Variant, ...]:
    """One part with each norm."""
    return grid(PARTS[name], {"part": {name: {}}, "norm": NORMS})


def of(part: str, norm: str, column: str) -> Measure:
    """A measure of this part with this norm."""
    return Measure(column=column, where=(("part", part), ("norm", norm)))


CLAIMS = (
    Claim(
        text="Batch norm takes a significant part of training time: with it a step of "
        "ResNet-18 takes at least a fifth longer.",
        source="Gitman & Ginsburg 2017, https://arxiv.org/abs/1709.08145, abstract",
        first=of("resnet18", "batch", "ms"),
        second=of("resnet18", "none", "ms"),
        effect="ratio",
        at_least=1.2,
        unit="times",
        says="time of a training step with, divided by that without",
    ),
    Claim(
        text="Batch norm needs at least a fifth more memory in training.",
        source="Rota Bulo et al. 2018, https://arxiv.org/abs/1712.02616, abstract",
        first=of("resnet18", "batch", "memory_mb"),
        second=of("resnet18", "none", "memory_mb"),
        effect="ratio",
        at_least=1.2,
        unit="times",
        says="temporary memory of a training step with, divided by that without",
    ),
    Claim(
        text="Group norm costs no less time than batch norm.",
        source="asked of peers; no source measures it in XLA",
        first=of("resnet18", "group", "ms"),
        second=of("resnet18", "batch", "ms"),
        effect="ratio",
        at_least=1.0,
        unit="times",
        says="time of a training step of ResNet-18 with group norm, divided by "
        "that with batch norm",
    ),
)
FIGURE = FigureConfig(
    x="norm",
    y="ms",
    lines="norm",
    panels="part",
    label="ms",
    caption="Time of a training step; the first panel is a norm alone.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    return StudyConfig(
        name="cost",
        title="Cost",
        probe="cost",
        num_workers=1,
        variants=tuple(v for name in PARTS for v in of_part(name)),
        claims=CLAIMS,
        figure=FIGURE,
    )
