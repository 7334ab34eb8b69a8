# SPDX-License-Identifier: Apache-2.0
"""Files of safetensors. PyTorch's are read in `tests/networks`."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from jaxbn.convert import from_torch, load_weights, save_weights, to_torch

pytestmark = pytest.mark.usefixtures("without_type_checker")


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_there_and_back_bit_for_bit(tmp_path, rng, kind):
    path = kind(tmp_path / "net.safetensors")
    weights = {
        "turned": rng.random((3, 4)).T,
        "backwards": np.arange(5)[::-1],
        "half": jnp.asarray(rng.random(3), jnp.bfloat16),
        "scalar": np.array(7),
        "none": np.zeros((0, 3), np.float32),
        "odd": np.array([np.nan, np.inf, -0.0], np.float32),
    }
    save_weights(weights, path)
    loaded = load_weights(path)
    assert loaded.keys() == weights.keys()
    for name, value in weights.items():
        value = np.asarray(value)
        assert loaded[name].dtype == value.dtype and loaded[name].shape == value.shape
        assert loaded[name].tobytes() == value.tobytes()
    assert loaded["half"].dtype == ml_dtypes.bfloat16


def test_a_model_from_a_file(tmp_path, rng):
    path = tmp_path / "net.safetensors"
    weights = {"weight": rng.random((2, 3)).astype(np.float32), "bias": np.ones(2, "f")}
    save_weights(weights, path)
    model = from_torch(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), path)
    np.testing.assert_array_equal(model.kernel[...], weights["weight"].T)
    save_weights(to_torch(model, path), path)  # a file that is being read is replaced
    np.testing.assert_array_equal(load_weights(path)["weight"], weights["weight"])


def test_what_is_no_file_of_weights(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"`path` must end in one of .* got '.npz'"):
        save_weights({"a": np.ones(3)}, tmp_path / "a.npz")
    with pytest.raises(ValueError, match="`weights` must have arrays by name"):
        save_weights({"a": [1.0]}, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
