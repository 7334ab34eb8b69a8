# SPDX-License-Identifier: Apache-2.0
"""Batches: every example once an epoch, in an order of the seed; resumed anywhere."""

import itertools

import jax
import numpy as np
import pytest

from experiments.config import DataConfig
from experiments.data import (
    ArraySource,
    Dataset,
    EvalBatches,
    batches_of_each_kind,
    load_dataset,
    rows_of_step,
    train_batches,
)
from experiments.data.examples import Chosen, first
from experiments.errors import UserError


def test_digits():
    data = load_dataset(DataConfig())
    train, test = data.train, data.test
    assert train.image.shape == (1437, 8, 8, 1) and test.image.shape == (360, 8, 8, 1)
    assert train.image.dtype == np.float32 and train.label.dtype == np.int32
    assert train.image.min() == 0 and train.image.max() == 1 and data.num_classes == 10
    # Stratified: each digit's share of the test set is its share of all.
    shares = np.bincount(test.label) / np.bincount(train.label)
    np.testing.assert_allclose(shares, 1 / 4, atol=0.01)
    seen = {image.tobytes() for image in train.image}
    assert not seen & {image.tobytes() for image in test.image}


def numbered(count):
    """The label is the index, and so is the first pixel, and one."""
    image = np.zeros((count, 4, 4, 1), np.float32)
    image[:, 0, 0, 0] = np.arange(count) + 1
    return ArraySource(image, np.arange(count, dtype=np.int32))


def take(num, count, batch_size, seed, **config):
    config = DataConfig(batch_size=batch_size, **config)
    stream = train_batches(numbered(count), config, seed)
    return list(itertools.islice(stream, num))


def counted(batch):
    return batch.label if batch.mask is None else batch.label[batch.mask]


def test_every_epoch_has_every_example_once():
    batches = take(12, 10, 4, 0)  # four epochs of 4, 4 and 2
    sizes = [len(counted(batch)) for batch in batches]
    assert sizes == [4, 4, 2] * 4
    for batch in batches:
        assert batch.image.shape == (4, 4, 4, 1)
        assert (batch.mask is None) == (len(counted(batch)) == 4)
        np.testing.assert_array_equal(batch.image[: len(counted(batch)), 0, 0, 0],
                                      counted(batch) + 1)  # fmt: skip
        np.testing.assert_array_equal(batch.image[len(counted(batch)) :], 0)
    epochs = [np.concatenate(list(map(counted, batches[k : k + 3]))) for k in (0, 3, 6)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(epochs[0], epochs[1])


def test_order_is_of_the_seed():
    one, same, other = (
        np.stack([b.label for b in take(5, 50, 8, seed)]) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("augmented", [False, True])
def test_resumes_at_any_step(augmented):
    """From the state of the iterator; augmentation included."""
    options = {"crop_padding": 1, "flip": True} if augmented else {}
    config = DataConfig(batch_size=8, **options)
    stream = train_batches(numbered(30), config, 3)
    first = [next(stream) for _ in range(5)]
    state = stream.get_state()
    rest = [next(stream) for _ in range(6)]
    again = train_batches(numbered(30), config, 3)
    again.set_state(state)
    for one, other in zip(rest, [next(again) for _ in range(6)], strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert len(first) == 5


@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_share_each_batch(num_processes, monkeypatch):
    """Together they have exactly what one process has, in its order."""
    alone = take(6, 21, 8, 5, crop_padding=1)
    monkeypatch.setattr(jax, "process_count", lambda: num_processes)
    parts = []
    for index in range(num_processes):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(take(6, 21, 8, 5, crop_padding=1))
    for step, batch in enumerate(alone):
        shares = [part[step] for part in parts]
        together = jax.tree.map(lambda *a: np.concatenate(a), *shares)
        jax.tree.map(np.testing.assert_array_equal, together, batch)


def test_augmentation_moves_and_mirrors():
    plain, moved = (take(1, 64, 64, 0, crop_padding=p)[0] for p in (0, 2))
    places = {
        tuple(np.argwhere(image[..., 0])[0]) for image in moved.image if image.any()
    }
    assert len(places) > 4 and np.all(plain.image[:, 0, 0, 0] > 0)
    flipped = take(1, 64, 64, 0, flip=True)[0]
    at_right = flipped.image[:, 0, 3, 0] > 0
    assert 0.3 < at_right.mean() < 0.7


def test_evaluation_has_every_example_once_in_order():
    batches = list(EvalBatches(numbered(10), 4))
    assert np.array_equal(np.concatenate(list(map(counted, batches))), np.arange(10))
    assert [b.mask is None for b in batches] == [True, True, False]


def test_rows_are_a_function_of_the_step():
    rows = [rows_of_step(10, 4, 0, step) for step in range(3)]
    assert sorted(np.concatenate(rows)) == [-1, -1, *range(10)]
    np.testing.assert_array_equal(rows[1], rows_of_step(10, 4, 0, 1))


def test_empty_rows_are_at_the_end_of_every_batch():
    rows = [rows_of_step(10, 4, 0, step, 1) for step in range(4)]
    assert sorted(np.concatenate(rows)) == [-1] * 6 + list(range(10))
    assert all(batch[-1] == -1 for batch in rows)
    batches = take(4, 10, 4, 0, num_empty=1)
    assert [b.mask.tolist() for b in batches[:1]] == [[True, True, True, False]]
    kinds = list(
        batches_of_each_kind(numbered(10), DataConfig(batch_size=4, num_empty=1))
    )
    assert [k.mask.sum() for k in kinds] == [3, 1]


def test_the_first_examples_only():
    whole, part = (load_dataset(DataConfig(num_train=n)) for n in (None, 100))
    assert len(part.train) == 100 and len(part.test) == len(whole.test)
    np.testing.assert_array_equal(part.train.image, whole.train.image[:100])
    with pytest.raises(UserError, match=r"`data\.num_train` must be at most 1437, "):
        load_dataset(DataConfig(num_train=9999))
    tested = load_dataset(DataConfig(num_test=50))
    assert len(tested.train) == len(whole.train)
    np.testing.assert_array_equal(tested.test.image, whole.test.image[:50])
    with pytest.raises(UserError, match=r"`data\.num_test` must be at most 360, "):
        load_dataset(DataConfig(num_test=361))
    listed = first(Numbered(), 3)
    assert len(listed) == 3 and listed.load(2, None)[1] == 2


def test_a_smaller_image_has_the_means_of_squares():
    whole, small = (load_dataset(DataConfig(downsample=n)) for n in (1, 4))
    assert small.train.image.shape == (1437, 2, 2, 1)
    for part in ("train", "test"):
        large, image = (getattr(data, part).image for data in (whole, small))
        corner = large[:, :4, 4:].mean((1, 2))
        np.testing.assert_allclose(image[:, 0, 1], corner, rtol=1e-5)
    assert small.train.image.dtype == np.float32
    wrong = r"`data\.downsample` must be a divisor of height and width, 8 and 8, got 3"
    with pytest.raises(UserError, match=wrong):
        load_dataset(DataConfig(downsample=3))


class Numbered:
    """Examples that are not in memory."""

    def __len__(self):
        return 10

    def load(self, index, rng):
        return np.zeros((1, 1, 1), np.float32), index


def array_source(**change):
    image, label = np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, np.int32)
    image[0, 0, 0, 0] = change.get("pixel", 0)
    label[2] = change.get("label", 0)
    return ArraySource(image.reshape(change.get("shape", image.shape)), label)


def test_a_digest_differs_when_anything_does():
    same = [Dataset(array_source(), array_source(), 10).digest() for _ in range(2)]
    assert same[0] == same[1] and len(same[0]) == 16
    other = [
        array_source(pixel=1),
        array_source(label=1),
        Chosen(array_source(), range(3)),
    ]
    other += [array_source(shape=(3, 1, 4, 1)), Chosen(array_source(), range(2))]
    found = {Dataset(source, array_source(), 10).digest() for source in other}
    found |= {Dataset(array_source(), source, 10).digest() for source in other}
    found.add(Dataset(array_source(), array_source(), 11).digest())
    assert len(found) == 11 and same[0] not in found
