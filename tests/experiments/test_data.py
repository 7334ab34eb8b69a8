# SPDX-License-Identifier: Apache-2.0
"""The digits and their order."""

import itertools

import numpy as np

from experiments.data import Batch, batches, load_dataset


def test_digits():
    data = load_dataset("digits")
    train, test, classes = data
    assert train.image.shape == (1437, 8, 8, 1) and test.image.shape == (360, 8, 8, 1)
    assert train.image.dtype == np.float32 and train.label.dtype == np.int32
    assert train.image.min() == 0 and train.image.max() == 1 and classes == 10
    # Stratified: each digit's share of the test set is its share of all.
    shares = np.bincount(test.label) / np.bincount(train.label)
    np.testing.assert_allclose(shares, 1 / 4, atol=0.01)
    seen = {image.tobytes() for image in train.image}
    assert not seen & {image.tobytes() for image in test.image}


def numbered(count):
    return Batch(np.arange(count, dtype=np.float32), np.arange(count, dtype=np.int32))


def take(num, *args):
    return [b.label for b in itertools.islice(batches(*args), num)]


def test_every_epoch_has_every_example_once():
    order = np.concatenate(take(10, numbered(10), 4, 0))  # four epochs
    for epoch in order.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(order[:10], order[10:20])


def test_order_is_of_the_seed():
    one, same, other = (take(5, numbered(50), 8, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_batch_larger_than_the_data():
    (batch,) = take(1, numbered(3), 7, 0)
    assert len(batch) == 7 and set(batch) == {0, 1, 2}
