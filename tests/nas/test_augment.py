"""Augmentations against plain numpy, image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.augment import augment, cutout, random_crop, random_flip
from nas.errors import BadInput

KEY = jax.random.key(7)


def images(n=32, height=12, width=10, channels=3):
    # no pixel is zero and no two are equal, so every result has one explanation
    return (
        np.random.RandomState(0)
        .permutation(n * height * width * channels)
        .reshape(n, height, width, channels)
        .astype(np.float32)
        + 1
    )


def crops(image, padding):
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    places = [(i, j) for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
    return {(i, j): padded[i : i + height, j : j + width] for i, j in places}


def explained(image, candidates):
    found = [name for name, candidate in candidates.items() if np.array_equal(image, candidate)]
    assert len(found) == 1
    return found[0]


def test_crop_is_one_of_the_windows_of_the_padded_image_and_reaches_all():
    x = images(400)
    y = np.asarray(random_crop(KEY, jnp.asarray(x), 2))
    seen = {explained(b, crops(a, 2)) for a, b in zip(x, y, strict=True)}
    assert y.shape == x.shape and len(seen) == 25


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    x = images(400)
    y = np.asarray(random_flip(KEY, jnp.asarray(x)))
    seen = [explained(b, {"kept": a, "flipped": a[:, ::-1]}) for a, b in zip(x, y, strict=True)]
    assert 150 < seen.count("flipped") < 250


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_zeroes_one_square_clipped_at_the_border(size):
    x = images(600)
    y = np.asarray(cutout(KEY, jnp.asarray(x), size))
    seen = set()
    for a, b in zip(x, y, strict=True):
        zeros = (b == 0).all(-1)
        assert np.array_equal(b, np.where(zeros[..., None], 0, a))
        candidates = {}
        for i in range(12):
            for j in range(10):
                mask = np.zeros((12, 10), bool)
                mask[max(i - size // 2, 0) : i - size // 2 + size, max(j - size // 2, 0) : j - size // 2 + size] = True
                candidates[i, j] = mask
        seen.add(explained(zeros, candidates))
    assert len(seen) > 100  # of 120 centres


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_composition_is_jittable_keeps_type_and_repeats_with_its_key(dtype):
    x = jnp.asarray(images(), dtype)
    change = jax.jit(augment(("crop:4", "flip", "cutout:6")))
    a, b, c = change(KEY, x), change(KEY, x), change(jax.random.key(8), x)
    assert a.shape == x.shape and a.dtype == dtype
    assert jnp.array_equal(a, b) and not jnp.array_equal(a, c)
    assert jnp.array_equal(augment(())(KEY, x), x)


def test_steps_of_a_composition_draw_independently():
    x = jnp.asarray(images(200))
    twice = np.asarray(augment(("flip", "flip"))(KEY, x))
    kept = sum(np.array_equal(a, b) for a, b in zip(np.asarray(x), twice, strict=True))
    assert 70 < kept < 130


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("crop:4", "flop"), "did you mean 'flip'"),
        (("cutuot:8",), "did you mean 'cutout'"),
        (("crop",), "as in crop:4"),
        (("crop:-1",), "as in crop:4"),
        (("cutout:big",), "as in cutout:4"),
        (("flip:2",), "takes no number"),
        ("flip", "wants a list"),
    ],
)
def test_wrong_names_are_refused_in_one_line(names, says):
    with pytest.raises(BadInput) as caught:
        augment(names)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["crop:8", "cutout:16"])
def test_what_would_blank_small_images_is_refused(name):
    with pytest.raises(BadInput, match=r"the images are 8x8; the number must be from 1 to 7"):
        augment((name,))(KEY, jnp.ones((2, 8, 8, 1)))
