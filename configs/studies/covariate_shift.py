# SPDX-License-Identifier: Apache-2.0
"""How far the inputs of layers move in training, and whether it matters.

    python -m experiments study configs/studies/covariate_shift.py

Three layers of 100 sigmoids, as in Ioffe & Szegedy 2015 (section 4.1), with batch norm,
without, and with noise after batch norm that shifts each unit differently at every step
(Santurkar et al. 2018). Shift: the Wasserstein distance of a unit's inputs before and
after 10 steps, in units of their standard deviation.

Cost: 75 s on 2 CPU cores.
Expected: shift without batch norm, divided by that with: 24.3 [22.8, 25.7] times,
supported; shift with noisy batch norm, divided by that without noise: 18.3 [18.1, 18.5]
times, supported; steps to 90 % with noisy batch norm, divided by those without noise:
1.44 [1.26, 1.6] times, not supported; largest relative change of the gradient within
four learning rates along it, without, divided by that with: 1.76 [1.65, 1.88] times,
supported.
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

IOFFE = "Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, section 4.1"
SANTURKAR = "Santurkar et al. 2018, https://arxiv.org/abs/1805.11604"


def of(norm: str, column: str) -> Measure:
    """A measure of the networks with this norm."""
    return Measure(column=column, where=(("norm", norm),))


CLAIMS = (
    Claim(
        text="Batch norm steadies the inputs of layers: without it they move "
        "at least 1.25 times as far.",
        source=f"{IOFFE} and figure 1",
        first=of("none", "shift"),
        second=of("batch", "shift"),
        effect="ratio",
        at_least=1.25,
        unit="times",
        says="shift without batch norm, divided by that with",
    ),
    Claim(
        text="Noise after batch norm moves the inputs of layers at least 5 times as "
        "far; the next claim depends on this.",
        source=f"{SANTURKAR}, section 2.2",
        first=of("batch + noise", "shift"),
        second=of("batch", "shift"),
        effect="ratio",
        at_least=5.0,
        unit="times",
        says="shift with noisy batch norm, divided by that without noise",
    ),
    Claim(
        text="Steady inputs are why batch norm is fast: noise that moves them at least "
        "doubles the number of steps.",
        source=f"{IOFFE}; against it: {SANTURKAR}, section 2.2",
        first=of("batch + noise", "steps_to_90"),
        second=of("batch", "steps_to_90"),
        effect="ratio",
        at_least=2.0,
        unit="times",
        says="steps to 90 % with noisy batch norm, divided by those without noise",
    ),
    Claim(
        text="Batch norm makes the gradient predictable: without it the "
        "gradient changes at least 1.25 times as much along a step.",
        source=f"{SANTURKAR}, section 3.1",
        first=of("none", "gradient_change"),
        second=of("batch", "gradient_change"),
        effect="ratio",
        at_least=1.25,
        unit="times",
        says="largest relative change of the gradient within four learning "
        "rates along it, without, divided by that with",
    ),
)
FIGURE = FigureConfig(
    x="norm",
    y="shift",
    lines="norm",
    label="shift",
    caption="Mean shift of the inputs of all layers.",
)


def get_config() -> StudyConfig:
    """Returns the study."""
    experiment = changed(
        LAB_DENSE,
        {
            "model.hidden": (100, 100, 100),
            "model.activation": "sigmoid",
            "optimizer.learning_rate": 0.3,
            "train.num_steps": 800,
            "train.eval_every": 10,
        },
    )

    return StudyConfig(
        name="covariate_shift",
        title="Internal covariate shift",
        probe="shift",
        first_seed=100,
        variants=grid(
            experiment,
            {
                "norm": {
                    "batch": {},
                    "none": {"norm.kind": "none"},
                    "batch + noise": {"norm.noise": 1.0},
                }
            },
        ),
        claims=CLAIMS,
        figure=FIGURE,
    )
