"""What a user relies on: right images, right labels, fixed splits, seeded order, one line for bad input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.data import batches, gather, load, on_device
from nas.errors import BadInput


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NAS_DATA", raising=False)


def toy(n=60, classes=3, shape=(6, 5, 3), seed=0):
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (n, *shape)).astype(np.uint8)
    images.reshape(n, -1)[:, 0] = np.arange(n)  # the first pixel tells images apart
    return images, np.arange(n) % classes


def ids(split):
    return set(split.images.reshape(len(split.labels), -1)[:, 0].tolist())


def refusal(source, **options):
    with pytest.raises(BadInput) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


# real data


def test_digits_are_the_embedded_ones_in_three_stratified_parts():
    data = load("digits")
    assert [len(s.labels) for s in (data.train, data.validation, data.test)] == [1257, 270, 270]
    assert data.input_shape == (8, 8, 1) and data.num_classes == 10 and data.classes == tuple("0123456789")
    assert data.train.images.dtype == np.float32 and data.train.labels.dtype == np.int32
    from sklearn.datasets import load_digits

    whole = load_digits()
    parts = [data.train, data.validation, data.test]
    seen = {(image.tobytes(), int(label)) for s in parts for image, label in zip(s.images, s.labels, strict=True)}
    want = {((x / 16).astype(np.float32).tobytes(), int(y)) for x, y in zip(whole.images, whole.target, strict=True)}
    assert seen == want
    for part in (data.validation, data.test):
        exact = np.bincount(whole.target) * 0.15
        assert np.abs(np.bincount(part.labels) - exact).max() < 1
    assert np.allclose(data.mean, data.train.images.mean((0, 1, 2))) and np.allclose(data.std, data.train.images.std())


# splits


def test_cuts_are_stratified_disjoint_complete_and_repeat():
    images, _ = toy(200)
    labels = np.repeat([0, 1, 2], [120, 60, 20])
    a, b = load((images, labels)), load((images, labels))
    parts = [a.train, a.validation, a.test]
    assert [np.bincount(s.labels).tolist() for s in parts] == [[84, 42, 14], [18, 9, 3], [18, 9, 3]]
    assert sum(len(ids(s)) for s in parts) == 200 and set.union(*map(ids, parts)) == set(range(200))
    assert a.fingerprint == b.fingerprint and np.array_equal(a.validation.images, b.validation.images)
    for part in parts:
        assert np.array_equal(part.labels, labels[part.images.reshape(len(part.labels), -1)[:, 0]])


def test_split_seed_moves_the_cut_and_the_fingerprint_and_the_cut_stays_as_released():
    a, b = load(toy()), load(toy(), seed=1)
    assert ids(a.validation) != ids(b.validation) and a.fingerprint != b.fingerprint
    # written down, not computed: a change here changes everybody's published numbers
    assert sorted(ids(a.validation)) == [0, 7, 8, 9, 20, 30, 43, 52, 56]


def test_given_splits_are_kept_and_only_the_missing_one_is_cut():
    train, test, validation = toy(60), toy(20, seed=1), toy(30, seed=2)
    data = load({"train": train, "test": test})
    assert np.array_equal(data.test.images, test[0]) and np.array_equal(data.test.labels, test[1])
    assert len(data.validation.labels) == 9 and not ids(data.validation) & ids(data.train)
    data = load({"train": train, "val": validation, "test": test})
    assert np.array_equal(data.train.images, train[0]) and np.array_equal(data.validation.images, validation[0])
    data = load({"train": train, "dev": validation}, test_fraction=0.2)
    assert len(data.test.labels) == 12 and len(data.train.labels) == 48


def test_limit_shortens_training_alone_and_keeps_proportions():
    images, _ = toy(200)
    source = (images, np.repeat([0, 1, 2], [120, 60, 20]))
    whole, short = load(source), load(source, limit=20)
    assert np.bincount(short.train.labels).tolist() == [12, 6, 2] and ids(short.train) < ids(whole.train)
    assert np.array_equal(whole.validation.images, short.validation.images)
    assert np.array_equal(whole.test.images, short.test.images)
    assert np.bincount(load(source, limit=3).train.labels).tolist() == [1, 1, 1]
    assert load(source, limit=10_000).fingerprint == whole.fingerprint


def test_rare_classes_reach_every_split():
    images, _ = toy(103)
    data = load((images, np.repeat([0, 1], [100, 3])))
    assert [np.bincount(s.labels)[1] for s in (data.train, data.validation, data.test)] == [1, 1, 1]


def test_loaded_arrays_are_frozen_and_apart_from_the_callers():
    images, labels = toy()
    data = load({"train": (images, labels), "val": (images, labels), "test": (images, labels)})
    images[:] = 0
    assert data.train.images.any()
    with pytest.raises(ValueError, match="read-only"):
        data.test.labels[0] = 1


# arrays


def test_grey_gets_a_channel_and_moments_are_per_channel_of_training():
    images, labels = toy(shape=(6, 5))
    data = load((images.tolist(), labels.tolist()))  # integers 0..255 of any width are pixels
    assert data.input_shape == (6, 5, 1) and data.train.images.dtype == np.uint8
    images, labels = toy()
    images[..., 1] = 9
    data = load((images, labels[:, None]))
    pixels = data.train.images.astype(np.float64) / 255
    assert np.allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    assert np.allclose(data.std, [pixels[..., 0].std(), 1, pixels[..., 2].std()])
    floats = load(((images / 255).astype(np.float64), labels))
    assert floats.train.images.dtype == np.float32 and np.allclose(floats.mean, data.mean)
    assert np.allclose(floats.std, data.std, rtol=1e-4)


X, Y = toy()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ((X, Y - 1), r"arrays train: label -1 at row 0: wants 0\.\.K-1"),
        ((X, Y + 1), r"no image of class 0: .* without gaps; subtract 1"),
        ((X, np.where(Y == 1, 5, Y)), r"no image of class 1, 3, 4: labels must be 0\.\.K-1 without gaps"),
        ((X, np.where(Y == 1, 2**40, Y)), r"label 1099511627776 at row 1"),
        ((X, np.where(Y == 1, 10**9, Y)), r"no image of class 1, 3, 4, 5, 6 and more"),
        ((X, Y * 0), "every label is 0, a single class: wants two or more"),
        ((X, Y.astype(float)), r"labels are float64\[60\]: wants integers"),
        ((X, Y.astype(str)), "labels are <U21"),
        ((X, np.eye(3, dtype=int)[Y]), "take the argmax"),
        ((X, Y[:-1]), "60 images and 59 labels"),
        ((X[0], Y), "6 images and 60 labels"),
        ((X[:, :, 0, 0], Y), r"shape \[60, 6\]: wants \[N, H, W\]"),
        ((X[:0], Y[:0]), "empty split"),
        ({"train": (X, Y), "test": (X[:0], Y[:0])}, "arrays test: .* empty split"),
        ((np.where(Y == 1, np.nan, 1.0)[:, None, None, None] * X, Y), "image 1 holds NaN or infinite"),
        ((np.where(X > 0, 1e300, 0.0), Y), "image 0 holds NaN or infinite"),
        ((X.astype(int) * 2, Y), r"integer pixels span 0\.\.510: wants 0\.\.255"),
        ((X.astype(object), Y), "images are of type object"),
        (([X[0], X[1, :3]], [0, 1]), "images of different sizes"),
        ((np.zeros((60, 3, 8, 8)), Y), "channels-first"),
        ((X[:7], np.array([0, 0, 0, 0, 0, 1, 1])), r"class 1 \(1\) has 2 image\(s\): wants at least 3"),
        ((X, Y, Y), "wants a pair"),
        ({"train": (X, Y), "tests": (X, Y)}, "unknown split 'tests': did you mean 'test'"),
        ({"train": (X, Y), "val": (X, Y), "dev": (X, Y)}, "given twice"),
        ({"test": (X, Y)}, "no train split: there is test"),
        ({}, "no train split: there is nothing"),
        ({"train": (X, Y), "test": (X[:, :4], Y)}, r"train images are uint8\[6, 5, 3\] and test images"),
        ({"train": (X, Y), "test": (X / 255, Y)}, "make them alike"),
        ({"train": (X, Y), "test": (X, Y + 1)}, "arrays test: label 3, but there are 3 classes in train"),
        (X, "data of type ndarray"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(source, says):
    assert re.search(says, refusal(source))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"validation_fraction": 0}, "validation_fraction=0: wants more than 0"),
        ({"test_fraction": 0.9}, "less than 1"),
        ({"seed": -1}, "seed=-1"),
        ({"limit": 2}, "limit=2: wants at least one training image for each of 3 classes"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, says):
    assert says in refusal(toy(), **options)


# feeding


def test_an_epoch_visits_each_image_at_most_once_and_differs_from_the_next():
    order = np.asarray(batches(103, 10, seed=0, epoch=0))
    assert order.shape == (10, 10) and order.dtype == np.int32
    assert len(set(order.ravel().tolist())) == 100 and order.min() >= 0 and order.max() < 103
    assert not np.array_equal(order, batches(103, 10, seed=0, epoch=1))
    assert not np.array_equal(order, batches(103, 10, seed=1, epoch=0))
    left_out = {n for e in range(60) for n in set(range(103)) - set(np.asarray(batches(103, 10, seed=0, epoch=e)).flat)}
    assert len(left_out) > 60  # nobody is dropped for good
    assert batches(10, 10, seed=0, epoch=0).shape == (1, 10)


def test_resumed_run_sees_the_same_order_jitted_or_not():
    through = [np.asarray(batches(57, 8, seed=3, epoch=e)) for e in range(5)]
    jitted = jax.jit(lambda seed, epoch: batches(57, 8, seed=seed, epoch=epoch))
    assert np.array_equal(through[4], jitted(3, 4))
    assert np.array_equal(through[4], batches(57, 8, seed=jax.random.key(3), epoch=jnp.int32(4)))


@pytest.mark.parametrize("batch", [0, -1, 11])
def test_batch_that_does_not_fit_is_refused(batch):
    with pytest.raises(BadInput, match=r"batch .*: wants 1\.\.10, the number of images"):
        batches(10, batch, seed=0, epoch=0)


def test_seeds_that_jax_would_fold_into_one_are_refused():
    for seed in (-1, 2**32):
        with pytest.raises(BadInput, match="wants 0"):
            batches(10, 5, seed=seed, epoch=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_gather_normalises_on_device_and_on_the_host(dtype, budget):
    images, labels = toy()
    data = load((images if dtype == np.uint8 else (images / 255).astype(dtype), labels))
    split = on_device(data.train, data.mean, data.std, budget_bytes=budget)
    assert isinstance(split.images, jax.Array if budget else np.ndarray) and split.images.dtype == dtype
    index = batches(len(data.train.labels), 8, seed=0, epoch=0)[1]
    x, y = (jax.jit(gather) if budget else gather)(split, index)
    picked = data.train.images[np.asarray(index)].astype(np.float64) / (255 if dtype == np.uint8 else 1)
    assert x.dtype == jnp.float32 and np.allclose(x, (picked - data.mean) / data.std, atol=1e-5)
    assert np.array_equal(y, data.train.labels[np.asarray(index)])
    whole, _ = gather(split, jnp.arange(len(data.train.labels)))
    assert np.allclose(whole.mean((0, 1, 2)), 0, atol=1e-4) and np.allclose(whole.std((0, 1, 2)), 1, atol=1e-4)


def test_traced_index_into_host_images_says_so():
    data = load(toy())
    split = on_device(data.train, data.mean, data.std, budget_bytes=0)
    with pytest.raises(TypeError, match="call gather outside jit"):
        jax.jit(lambda index: gather(split, index))(jnp.arange(3))
