# SPDX-License-Identifier: Apache-2.0
"""PyTorch's modules: values, training, files, and what does not fit."""

import numpy as np
import pytest
import torch

from jaxbn.convert import from_torch, load_weights, save_weights, to_torch
from tests.networks.nets import FLAT, RATE, Trained, batches, check_equal, check_near

nn = torch.nn

FIELDS = {"epsilon": 1e-3, "momentum": 0.8, "unbiased": True}
FLATTEN = {"head": FLAT}


class Net(nn.Module):
    def __init__(self, momentum=0.2):
        super().__init__()
        options = {"eps": 1e-3, "momentum": momentum}
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(6, **options)
        self.depthwise = nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False)
        self.norm2 = nn.SyncBatchNorm(12, **options)
        self.up = nn.ConvTranspose2d(12, 4, 3, stride=2)
        self.head = nn.Linear(int(np.prod(FLAT)), 5)

    def forward(self, x):
        x = nn.functional.softplus(self.norm1(self.conv(x)))
        x = self.depthwise(x)
        if not x.is_cuda and self.training:  # SyncBatchNorm trains on a GPU alone
            norm = self.norm2
            momentum = norm.momentum
            norm.num_batches_tracked += 1
            if momentum is None:
                momentum = 1 / norm.num_batches_tracked.item()
            x = nn.functional.batch_norm(
                x, norm.running_mean, norm.running_var, norm.weight, norm.bias,
                True, momentum, norm.eps,
            )  # fmt: skip
        else:
            x = self.norm2(x)
        return self.head(self.up(nn.functional.softplus(x)).flatten(1))


def channels_first(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def train(net):
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    for x, target in batches():
        optimizer.zero_grad()
        ((net(channels_first(x)) - torch.from_numpy(target)) ** 2).mean().backward()
        optimizer.step()


def trained(**options):
    torch.manual_seed(0)
    net = Net(**options)
    train(net)
    return net


def arrays(net):
    return {name: value.numpy().copy() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("momentum", [0.2, None])
def test_inference_and_training_are_the_same(kind, momentum, transpose_kernel):
    net = trained(momentum=momentum)
    fields = FIELDS | {"momentum": None if momentum is None else 1 - momentum}
    model = Trained(
        kind,
        fields,
        lambda model: from_torch(model, net, flatten=FLATTEN),
        transpose_kernel=transpose_kernel,
    )
    with torch.no_grad():
        theirs = net.eval()(channels_first(model.x)).numpy()
    check_near(model.answers(), theirs)
    back = to_torch(model.model, net, variables=model.variables, flatten=FLATTEN)
    check_equal(arrays(net), {name: value.numpy() for name, value in back.items()})
    before = arrays(net)
    train(net.train())
    model.train()
    ours = to_torch(model.model, net, variables=model.variables, flatten=FLATTEN)
    for name, right in arrays(net).items():
        if name != "conv.bias":  # before a norm, hence without gradient
            assert np.any(right != before[name])

        check_near(ours[name].numpy(), right)
    Net(momentum).load_state_dict(ours)


@pytest.mark.parametrize("debias", [False, True])
def test_debias_continues_as_torch_does(debias):
    """After two steps PyTorch's start still weighs 64 %."""
    norm = nn.BatchNorm1d(3, momentum=0.2)
    x = torch.from_numpy(np.random.default_rng(0).normal(2, 3, (8, 3))).float()
    norm(x), norm(x)
    from flax import nnx

    import jaxbn.nnx

    fields = {"momentum": 0.8, "unbiased": True, "debias": debias}
    ours = from_torch(jaxbn.nnx.BatchNorm(3, rngs=nnx.Rngs(0), **fields), norm)
    norm(x), ours(x.numpy())
    check_near(ours.mean[...], norm.running_mean)
    check_near(ours.var[...], norm.running_var)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_of_each_rank(dims, rng):
    import jax
    from flax import linen as flax_nn

    conv = getattr(nn, f"Conv{dims}d")(4, 6, 3, groups=2)
    norm = getattr(nn, f"BatchNorm{dims}d")(6)
    up = getattr(nn, f"ConvTranspose{dims}d")(6, 6, 3, stride=2, padding=1)
    net = nn.Sequential(conv, norm, nn.Sigmoid(), up).train()
    x = torch.from_numpy(rng.normal(2, 3, (4, 4, *(5, 6, 7)[:dims])).astype(np.float32))
    net(x), net.eval()

    class Ours(flax_nn.Module):
        @flax_nn.compact
        def __call__(self, x):
            import jaxbn.linen

            size = (3,) * dims
            x = flax_nn.Conv(6, size, padding="VALID", feature_group_count=2)(x)
            x = jaxbn.linen.BatchNorm(
                use_running_average=True, momentum=0.9, unbiased=True
            )(x)
            pads = [(1, 1)] * dims
            up = flax_nn.ConvTranspose(6, size, (2,) * dims, padding=pads)
            return up(flax_nn.sigmoid(x))

    last = np.moveaxis(x.numpy(), 1, -1)
    model = Ours()
    variables = from_torch(lambda key: model.init(key, last), net)
    theirs = np.moveaxis(net(x).detach().numpy(), 1, -1)
    check_near(jax.jit(model.apply)(variables, last), theirs)


def test_bfloat16_and_files(tmp_path):
    from flax import nnx

    net = nn.Linear(3, 2).bfloat16()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    weights = load_weights(tmp_path / "net.pth")
    save_weights(weights, tmp_path / "net.safetensors")
    for path in (tmp_path / "net.pth", str(tmp_path / "net.safetensors")):
        linear = nnx.Linear(3, 2, param_dtype="bfloat16", rngs=nnx.Rngs(0))
        from_torch(linear, path)
        back = to_torch(linear, net)
        for name, value in net.state_dict().items():
            assert torch.equal(back[name], value) and back[name].dtype == value.dtype
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "more.pt")
    with pytest.raises(ValueError, match=r"\['state_dict'\]|state_dict"):
        from_torch(linear, tmp_path / "more.pt")
    from_torch(linear, load_weights(tmp_path / "more.pt")["state_dict"])
    torch.save(net, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="`path` must be a file of weights alone"):
        load_weights(tmp_path / "code.pth")


def test_settings_are_compared():
    net = trained()
    for field, value in (("epsilon", 1e-5), ("momentum", 0.2), ("unbiased", False)):
        fields = FIELDS | {field: value}
        with pytest.raises(ValueError, match=rf"`norm1` must have `{field}="):
            Trained("nnx", fields, lambda m: from_torch(m, net, flatten=FLATTEN))


def test_a_layer_under_two_names():
    from flax import nnx

    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net.append(net[0])
    model = nnx.Sequential(*(nnx.Linear(3, 3, rngs=nnx.Rngs(k)) for k in range(2)))
    model = nnx.Sequential(model.layers[0], model.layers[1], model.layers[0])
    from_torch(model, net)
    x = np.ones((1, 3), np.float32)
    check_near(model(x), net(torch.from_numpy(x)).detach().numpy())
    check_equal(
        {name: value.numpy() for name, value in to_torch(model, net).items()},
        arrays(net),
    )


def test_another_kind_of_layer_is_refused():
    from flax import nnx

    conv = nnx.Conv(4, 4, (3, 3), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"of kind conv, .*of kind conv_transpose"):
        from_torch(conv, nn.ConvTranspose2d(4, 4, 3))
