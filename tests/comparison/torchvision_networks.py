# SPDX-License-Identifier: Apache-2.0
"""The residual networks with torchvision's weights, against torchvision's own."""

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from experiments.config import ExperimentConfig, ModelConfig
from experiments.models import make_model
from experiments.models.resnet import RESNETS
from jaxbn.convert import from_torch, to_torch

SHAPE = (4, 3, 96, 96)  # the stem of ImageNet
TOLERANCE = 1e-4  # float32 through 101 layers


def import_torchvision():
    """Imports it even with a PyTorch for the CPU, where its operators do not load.

    The networks use none of them; their names have to be known.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:
        for name in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", signature)
        import torchvision
    return torchvision


def theirs(name):
    """Weights before; logits of inference and of training; weights after the latter."""
    import torch

    torch.manual_seed(0)
    network = getattr(import_torchvision().models, name)(num_classes=10)
    x = torch.randn(SHAPE)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
        for _ in range(3):  # running statistics unlike those of the batch
            network.train()(x + torch.randn_like(x))
        before = arrays(network)
        inference = network.eval()(x).numpy()
        training = network.train()(x).numpy()
    return x.numpy(), before, inference, training, arrays(network)


def arrays(network):
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def differences(name):
    """The largest errors of inference, training and the running mean after it."""
    x, before, inference, training, after = theirs(name)
    x = jnp.asarray(x.transpose(0, 2, 3, 1))
    config = ExperimentConfig(name=name, model=ModelConfig(name=name))
    model = make_model(config, 10)

    def init(key):
        return model.init(key, x, train=True)

    variables = from_torch(init, before)
    ours = model.apply(variables, x, train=False)
    yield error(ours, inference)
    ours, new = model.apply(variables, x, train=True, mutable=["batch_stats"])
    yield error(ours, training)
    new = to_torch(init, before, variables={**variables, **new})
    yield max(
        error(new[name], after[name]) for name in new if name.endswith("running_mean")
    )


def error(ours, right):
    """Against the largest."""
    return np.abs(np.asarray(ours) - right).max() / np.abs(right).max()


def main() -> int:
    """Returns 1 where a network is another."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        import_torchvision()
    except ImportError:
        console.print("Not installed, not compared: torchvision.")
        return 0
    worst = 0.0
    for name in track(RESNETS, "Comparing", console=console, transient=True):
        found = list(differences(name))
        texts = "inference {:.0e}, training {:.0e}, running means {:.0e}"
        console.print(f"{name} as torchvision's: {texts.format(*found)}")
        worst = max(worst, *found)
    if not worst <= TOLERANCE:
        console.print(f"More than {TOLERANCE:.0e}.", style="bold red")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
