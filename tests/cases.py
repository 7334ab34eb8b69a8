# SPDX-License-Identifier: Apache-2.0
"""The cases that every path goes through, and the comparison with the oracle."""

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from tests import oracle
from tests.tolerance import Tolerance, unit

DTYPES = {
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float64": np.float64,
}
ACTIVATIONS = {None: None, "relu": jax.nn.relu, "tanh": jnp.tanh}


class Case(NamedTuple):
    """One batch norm."""

    name: str
    shape: tuple[int, ...] = (8, 3)
    axis: int | tuple[int, ...] = -1
    dtype: str = "float32"
    mean: float = 0.3
    deviation: float = 1.0
    mask: str | None = None
    affine: bool = True
    residual: bool = False
    activation: str | None = None
    epsilon: float = 1e-5
    density: float = 0.6  # of the mask
    outlier: tuple[float, float] | None = None  # where in the batch; how many sd


CASES = [
    Case("dense"),
    Case("plain", affine=False),
    Case("images", shape=(4, 5, 6, 3)),
    Case("large", shape=(64, 12, 12, 16)),
    Case("channels_first", shape=(4, 3, 5, 6), axis=1),
    Case("two_feature_axes", shape=(4, 3, 5, 6), axis=(-1, 1)),
    Case("features_first", shape=(3, 9), axis=0),
    Case("relu", shape=(4, 5, 6, 3), activation="relu"),
    Case("tanh", shape=(4, 5, 6, 3), activation="tanh"),
    Case("residual", shape=(4, 5, 6, 3), residual=True),
    Case("residual_relu", shape=(4, 5, 6, 3), residual=True, activation="relu"),
    Case("residual_tanh", shape=(4, 5, 6, 3), residual=True, activation="tanh"),
    Case("mean_1e3", shape=(512, 3), mean=1e3),
    Case("mean_1e4", shape=(512, 3), mean=1e4),
    Case("mean_1e4_relu", shape=(512, 3), mean=1e4, activation="relu"),
    Case("mean_100_deviation_1e-2", shape=(512, 3), mean=1e2, deviation=1e-2),
    Case("tiny", deviation=1e-6),
    Case("constant", deviation=0.0, mean=17.7),
    Case("constant_without_epsilon", deviation=0.0, mean=17.7, epsilon=0.0),
    Case("outlier_first", shape=(4096, 3), outlier=(0.0, 1e4)),
    Case("outlier_first_relu", (512, 3), outlier=(0.0, 1e6), activation="relu"),
    Case("outlier_last_mean_1e3", shape=(512, 3), mean=1e3, outlier=(1.0, 1e5)),
    Case("examples", shape=(6, 4, 3), mask="examples"),
    Case("steps", shape=(6, 4, 3), mask="steps"),
    Case("same_rank", shape=(6, 4, 5, 3), mask="same_rank"),
    Case("integers", shape=(6, 4, 3), mask="integers"),
    Case("weights", shape=(6, 4, 3), mask="weights"),
    Case("by_feature", shape=(6, 4, 3), mask="by_feature"),
    Case("by_feature_weights", (6, 3, 4, 5), axis=(1, 3), mask="by_feature_weights"),
    Case("by_feature_mean_1e4", (512, 3), mean=1e4, mask="by_feature", residual=True,
         activation="tanh"),
    Case("weights_residual_relu", (6, 4, 3), -1, mask="weights", residual=True,
         activation="relu"),
    Case("steps_residual_tanh", (6, 4, 3), -1, mask="steps", residual=True,
         activation="tanh"),
    Case("masked_channels_first", shape=(6, 3, 4), axis=1, mask="same_rank"),
    Case("masked_mean_1e4", shape=(512, 3), mean=1e4, mask="examples"),
    Case("one_counts", shape=(6, 3), mask="one"),
    Case("nothing_counts", shape=(6, 3), mask="nothing", residual=True),
    Case("empty", shape=(0, 3)),
    Case("bfloat16", shape=(16, 4, 3), dtype="bfloat16"),
    Case("bfloat16_residual_relu", (16, 4, 3), -1, "bfloat16", residual=True,
         activation="relu"),
    Case("bfloat16_mean_100", shape=(64, 3), dtype="bfloat16", mean=100.0),
    Case("float16", shape=(16, 4, 3), dtype="float16", mask="steps"),
    Case("float16_mean_1e3", shape=(512, 3), dtype="float16", mean=1e3),
    Case("float64", shape=(16, 4, 3), dtype="float64", mean=1e6, activation="relu"),
    Case("float64_weights", shape=(16, 4, 3), dtype="float64", mask="weights"),
]  # fmt: skip


class Data(NamedTuple):
    """The arrays of a case, NaN wherever nothing counts."""

    x: np.ndarray
    scale: np.ndarray | None
    bias: np.ndarray | None
    residual: np.ndarray | None
    mask: np.ndarray | None
    dy: np.ndarray
    dmean: np.ndarray
    dvar: np.ndarray


def make_mask(case, axes, rng):
    """A mask of the case's kind, for `x` of its shape."""
    kind, shape = case.mask, case.shape
    if kind is None:
        return None
    if kind in ("same_rank", "every_example"):
        same = {*axes, 0} if kind == "every_example" else axes
        size = [1 if a in same else s for a, s in enumerate(shape)]
        return rng.random(size) < case.density
    if kind in ("by_feature", "by_feature_weights"):
        sizes = shape if kind == "by_feature" else (*shape[:-1], 1)
        mask = rng.random(sizes) < case.density
        weights = (mask * rng.uniform(0.1, 3.0, mask.shape)).astype(np.float32)
        return mask if kind == "by_feature" else weights
    by_example = kind in ("examples", "one", "ragged")
    mask = rng.random(shape[:1] if by_example else shape[:-1]) < case.density
    mask.flat[-1:] = True
    mask.flat[:1] = False  # the first row must not be taken for one that counts
    mask[:-1] &= kind != "one"
    if kind == "ragged":  # of four shards: whole, one example, none, half
        quarter = shape[0] // 4
        mask = np.arange(shape[0]) % (4 * quarter)
        mask = (mask <= quarter) | (mask >= shape[0] - quarter // 2)
    mask &= kind != "nothing"
    if kind == "integers":
        return mask.astype(np.int32) * rng.integers(1, 5, mask.shape, dtype=np.int32)
    if kind == "weights":
        return (mask * rng.uniform(0.1, 3.0, mask.shape)).astype(np.float32)
    return mask


def make(case: Case) -> Data:
    """Draws the arrays of a case, the same in every run."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    dtype = DTYPES[case.dtype]
    folded = oracle.matrix(case.shape, case.axis)

    def draw(mean=0.0, deviation=1.0):
        return (mean + deviation * rng.normal(size=case.shape)).astype(dtype)

    x = draw(case.mean, case.deviation)
    if case.outlier is not None and x.size:
        where, size = case.outlier
        row = [slice(None) if a in folded.axes else 0 for a in range(x.ndim)]
        if 0 not in folded.axes:
            row[0] = int(where * (len(x) - 1))
        x[tuple(row)] = case.mean + size * (case.deviation or 1)
    residual = draw() if case.residual else None
    dy = draw()
    mask = make_mask(case, folded.axes, rng)
    if mask is not None:
        rank = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
        left_out = np.broadcast_to(rank == 0, x.shape)
        x[left_out] = np.nan
        if residual is not None:
            residual[left_out] = np.nan
    wide = np.float64 if case.dtype == "float64" else np.float32
    vectors = rng.normal(size=(4, *folded.features)).astype(wide)
    scale, bias = (vectors[0], vectors[1]) if case.affine else (None, None)
    return Data(x, scale, bias, residual, mask, dy, vectors[2], vectors[3])


def reference(case: Case, data: Data) -> oracle.BatchNorm:
    """The oracle of a case."""
    ref = oracle.BatchNorm(
        *data[:3],
        axis=case.axis,
        epsilon=case.epsilon,
        mask=data.mask,
        residual=data.residual,
        activation=case.activation,
    )
    # Kept to twice the working precision.
    wide = np.float64 if case.dtype == "float64" else np.float32
    ref.mean_loss = unit(wide) * np.abs(ref.mean)
    return ref


def options(case: Case, data: Data) -> dict:
    """The keyword arguments of `jaxbn.batch_norm`."""
    return {
        "axis": case.axis,
        "epsilon": case.epsilon,
        "mask": None if data.mask is None else jnp.asarray(data.mask),
        "residual": None if data.residual is None else jnp.asarray(data.residual),
        "activation": ACTIVATIONS[case.activation],
    }


def arrays(data: Data) -> tuple:
    """x, scale and bias for JAX."""
    return tuple(None if v is None else jnp.asarray(v) for v in data[:3])


def check_forward(case: Case, data: Data, y, moments=None) -> None:
    """Holds output and moments against the oracle."""
    ref = reference(case, data)
    expected = ref.forward()
    tolerance = Tolerance.of(case, ref)
    tolerance.check(y, expected.y, ref.output_sizes(), what="y")
    assert y.dtype == data.x.dtype
    if moments is not None:
        deviation = np.sqrt(expected.var)
        tolerance.check(
            moments.mean, expected.mean, deviation + np.abs(expected.mean), what="mean"
        )
        lost = np.reshape(ref.mean_loss**2, expected.var.shape)
        sizes = expected.var + case.epsilon + lost
        tolerance.check(moments.var, expected.var, sizes, what="var")
        exact = data.mask is None or data.mask.dtype.kind != "f"
        sizes = 0.0 if exact else None
        tolerance.check(moments.count, expected.count, sizes, what="count")


def check_gradients(case: Case, data: Data, got) -> None:
    """Holds the gradients of x, scale, bias, residual against the oracle."""
    ref = reference(case, data)
    tolerance = Tolerance.of(case, ref)
    gradients, sizes = ref.backward(data.dy, data.dmean, data.dvar)
    names = oracle.Gradients._fields
    for name, value, expected, size in zip(names, got, gradients, sizes, strict=True):
        if value is not None:
            tolerance.check(value, expected, size, what=f"gradient of {name}")
