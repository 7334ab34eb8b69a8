# SPDX-License-Identifier: Apache-2.0
"""PyTorch's `BatchNorm2d` on the scenarios."""

import numpy as np

from tests.comparison.scenarios import EPSILON, MOMENTUM


def run(scenario, data):
    """Output, gradients, statistics, evaluation, as the JAX libraries give them."""
    import torch

    dtype = getattr(torch, scenario.dtype)

    def tensor(a):
        return torch.tensor(np.asarray(a, np.float64).copy(), dtype=dtype)

    def back(t):
        return t.detach().to(torch.float64).numpy()

    channels = scenario.shape[-1]
    momentum = None if scenario.rule == "average" else 1 - MOMENTUM
    norm = torch.nn.BatchNorm2d(channels, eps=EPSILON, momentum=momentum)
    if scenario.dtype == "float64":
        norm = norm.double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(data.scale))
        norm.bias.copy_(torch.tensor(data.bias))
    batches = [tensor(b.transpose(0, 3, 1, 2)).requires_grad_() for b in data.batches]
    outputs = [norm(x) for x in batches]
    outputs[0].backward(tensor(data.dy.transpose(0, 3, 1, 2)))
    gradients = back(batches[0].grad).transpose(0, 2, 3, 1)
    gradients = gradients, back(norm.weight.grad), back(norm.bias.grad)
    if scenario.rule == "population":
        torch.optim.swa_utils.update_bn([x.detach() for x in batches], norm)
    evaluated = back(norm.eval()(batches[0])).transpose(0, 2, 3, 1)
    return (
        back(outputs[0]).transpose(0, 2, 3, 1),
        gradients,
        back(norm.running_mean),
        back(norm.running_var),
        evaluated,
    )
