# SPDX-License-Identifier: Apache-2.0
"""Which statistics inference should use, early and late.

    python -m experiments study configs/studies/inference.py

The dense network after 5 to 400 steps, with running averages that start at 0 and 1,
debiased ones, the test batch's own statistics, and those of all training examples; and
the effects of counting padding, of statistics per device, and of an unbiased variance.

Cost: 188 s on 2 CPU cores.
Expected: accuracy debiased minus plain, after 20 steps: 31.7 [25.3, 38.2] points,
supported; accuracy by the population minus that by running averages: 0.222 [-0.028,
0.472] points, undecided; accuracy with padding left out minus counted, half of each
batch: -0.139 [-0.583, 0.333] points, not supported; accuracy synchronised minus that of
single devices: 1.75 [1.42, 2.08] points, supported; accuracy unbiased minus biased:
0.028 [0, 0.083] points, not supported.
"""

from experiments.config import (
    LAB_DENSE,
    Claim,
    FigureConfig,
    Measure,
    StudyConfig,
    Variant,
    changed,
)

STEPS = (5, 10, 20, 50, 100, 400)
KINDS = {
    "running": {},
    "debiased": {"norm.debias": True},
    "unbiased variance": {"norm.debias": True, "norm.unbiased": True},
    "single devices": {"norm.debias": True, "norm.virtual_batch_size": 4},
    "padding left out": {"norm.debias": True, "data.num_empty": 16},
    "padding counted": {
        "norm.debias": True,
        "data.num_empty": 16,
        "norm.ignore_mask": True,
    },
}


def variant(kind: str, momentum: float, num_steps: int) -> Variant:
    """This number of steps with statistics of this kind."""
    experiment = changed(
        LAB_DENSE,
        {
            "norm.momentum": momentum,
            "train.num_steps": num_steps,
            "train.eval_every": num_steps,
            **KINDS[kind],
        },
    )
    settings = (("statistics", kind), ("momentum", momentum), ("steps", num_steps))
    return Variant(settings=settings, experiment=experiment)


def accuracy(
    kind: str, momentum: float, steps: int, column: str = "test_accuracy"
) -> Measure:
    """The accuracy with these statistics after this number of steps."""
    where = (("statistics", kind), ("momentum", momentum), ("steps", steps))
    return Measure(column=column, where=where)


CLAIMS = (
    Claim(
        text="Early in training running averages that start at 0 and 1 "
        "mislead: after 20 steps debiasing gains at least 10 points (momentum "
        "0.99).",
        source="jaxbn, docs/training_and_inference.md",
        first=accuracy("debiased", 0.99, 20),
        second=accuracy("running", 0.99, 20),
        at_least=10.0,
        unit="points",
        says="accuracy debiased minus plain, after 20 steps",
    ),
    Claim(
        text="Statistics of the whole training set are better than running "
        "averages, by at least 0.3 points at the end (momentum 0.9).",
        source="Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, "
        "algorithm 2; Wu & Johnson 2021, https://arxiv.org/abs/2105.07576, "
        "section 3",
        first=accuracy("running", 0.9, 400, "population_accuracy"),
        second=accuracy("running", 0.9, 400),
        at_least=0.3,
        unit="points",
        says="accuracy by the population minus that by running averages",
    ),
    Claim(
        text="Counting padding as values costs at least 1 point.",
        source="asked in https://github.com/sIncerass/powernorm/issues/13",
        first=accuracy("padding left out", 0.9, 400),
        second=accuracy("padding counted", 0.9, 400),
        at_least=1.0,
        unit="points",
        says="accuracy with padding left out minus counted, half of each batch",
    ),
    Claim(
        text="Statistics of each device alone cost at least 0.5 points with 4 "
        "examples per device.",
        source="Peng et al. 2018, https://arxiv.org/abs/1711.07240",
        first=accuracy("debiased", 0.9, 400),
        second=accuracy("single devices", 0.9, 400),
        at_least=0.5,
        unit="points",
        says="accuracy synchronised minus that of single devices",
    ),
    Claim(
        text="Whether the running variance is biased or unbiased makes a "
        "difference of at least 0.3 points at batch 32.",
        source="the converse is assumed wherever PyTorch's statistics are "
        "loaded elsewhere",
        first=accuracy("unbiased variance", 0.9, 400),
        second=accuracy("debiased", 0.9, 400),
        at_least=0.3,
        unit="points",
        says="accuracy unbiased minus biased",
    ),
)
FIGURE = FigureConfig(
    x="steps",
    y="test_accuracy",
    lines="statistics",
    panels="momentum",
    label="test accuracy",
    percent=True,
    log_x=True,
    caption="Accuracy with statistics of each kind.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    only = [kind for kind in KINDS if kind not in ("running", "debiased")]
    return StudyConfig(
        name="inference",
        title="Statistics for inference",
        probe="inference",
        variants=tuple(
            variant(kind, momentum, steps)
            for kind in ("running", "debiased")
            for momentum in (0.9, 0.99)
            for steps in STEPS
        )
        + tuple(variant(kind, 0.9, steps) for kind in only for steps in (50, 400)),
        claims=CLAIMS,
        figure=FIGURE,
    )
