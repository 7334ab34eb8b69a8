# SPDX-License-Identifier: Apache-2.0
"""scvi-tools' `JaxSCVI`: a variational autoencoder of gene counts, by its own trainer.

The program says `from flax import linen as nn` and calls `nn.BatchNorm(momentum=0.9)`
four times, in `setup`, with `use_running_average` at the call. It is trained on counts
that are drawn here; the trainer, its shuffling, its keys and Adam are the program's.

What was found: before training all is equal within rounding. After 40 steps two of the
three ways are equal to 1e-6, and the third is off by 6e-3: it met a ReLU's input that
is 0 but for rounding (`KINK`). Which way it is depends on the draw. With `softplus` in
the place of `relu`, all three are within 2e-6 of each other.
"""

from functools import partial

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tests.clients.comparing import LINEN, compare, linen_with, version, watched

pytestmark = pytest.mark.clients

CELLS, GENES = 640, 64
EPOCHS, BATCH = 10, 128
TRAIN_SIZE = 0.8  # batches of one size: four an epoch
STEPS = EPOCHS * 4
# Biases that a norm follows; `dense3` and `dense4` of the encoder are its outputs.
FREE = r"dense[12]/bias|decoder/dense[34]/bias"


def counts():
    """Two batches of cells, the second with twice the counts in half of the genes."""
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 2, CELLS)
    mean = rng.gamma(2, 3, GENES) * np.where(
        np.arange(GENES) % 2, 1 + batch[:, None], 1
    )
    return rng.poisson(mean * rng.gamma(5, 0.2, mean.shape)).astype(np.float32), batch


def train(monkeypatch):
    """The run of `watched`: variables, numbers before and after training."""
    import anndata
    import scvi

    x, batch = counts()
    cells = anndata.AnnData(x)
    cells.obs["batch"] = batch.astype(str)
    starts = []
    set_train_state = scvi.train.JaxTrainingPlan.set_train_state

    def noting(plan, params, state=None):
        starts.append({"params": params, **state})
        set_train_state(plan, params, state)

    monkeypatch.setattr(scvi.train.JaxTrainingPlan, "set_train_state", noting)
    scvi.settings.seed = 0
    scvi.model.JaxSCVI.setup_anndata(cells, batch_key="batch")
    model = scvi.model.JaxSCVI(cells)
    # Of several devices its trainer asks for a function that jax has removed.
    alone = {"accelerator": "cpu", "enable_progress_bar": False}
    model.train(EPOCHS, train_size=TRAIN_SIZE, batch_size=BATCH, **alone)
    (start,) = starts
    tensors = {
        scvi.REGISTRY_KEYS.X_KEY: x[:BATCH],
        scvi.REGISTRY_KEYS.BATCH_KEY: batch[:BATCH, None],
    }
    keys = {name: jax.random.key(k) for k, name in enumerate(("dropout", "z"))}
    network = model.module.clone(training=True)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        (_, generated, losses), _ = network.apply(
            {**start, "params": params}, tensors, rngs=keys, mutable=["batch_stats"]
        )
        return losses.loss, generated["rho"]

    (first_loss, outputs), gradient = loss(start["params"])
    first = {"first loss": first_loss, "first outputs": outputs}
    first["first gradient"] = ravel_pytree(gradient)[0]
    values = {
        "losses": model.history["elbo_train"].to_numpy().astype(np.float32),
        "outputs": model.get_latent_representation(),
    }
    end = {"params": model.module.params, **model.module.state}
    return start, end, first, values


def test_jax_scvi(monkeypatch, table):
    from scvi.module import _jaxvae

    runs = {}
    for name, norm in LINEN.items():
        monkeypatch.setattr(_jaxvae, "nn", linen_with(norm))
        runs[name] = watched(lambda: train(monkeypatch))
    table(compare(f"{version('scvi-tools')} JaxSCVI", STEPS, runs, free=FREE))
