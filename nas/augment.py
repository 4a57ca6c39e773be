"""Random changes to a batch of training images, inside the compiled step.

Every function takes a key and images [B, H, W, C] of any float type, draws anew for each image and
returns the same shape and type. They follow `nas.data.gather`, so the zeros that they put in are the
mean colour.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from nas.errors import BadInput, suggest

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def random_crop(key: jax.Array, x: jax.Array, padding: int) -> jax.Array:
    """Pad each side by `padding` pixels of zero and cut an image of the old size at a random place."""
    n, height, width, channels = x.shape
    check_sizes((f"crop:{padding}",), (height, width))
    corners = jax.random.randint(key, (n, 2), 0, 2 * padding + 1)
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(cut)(padded, corners)


def random_flip(key: jax.Array, x: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability 1/2."""
    flipped = jax.random.bernoulli(key, 0.5, (x.shape[0], 1, 1, 1))
    return jnp.where(flipped, x[:, :, ::-1], x)


def cutout(key: jax.Array, x: jax.Array, size: int) -> jax.Array:
    """Zero a square of `size` pixels centred anywhere in the image; what sticks out is lost (DeVries and Taylor)."""
    n, height, width, _ = x.shape
    check_sizes((f"cutout:{size}",), (height, width))
    centre = jax.random.randint(key, (n, 2), 0, jnp.array([height, width]))
    top, left = (centre - size // 2).T[:, :, None]
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside_rows, inside_columns = (rows >= top) & (rows < top + size), (columns >= left) & (columns < left + size)
    return jnp.where((inside_rows[:, :, None] & inside_columns[:, None, :])[..., None], 0, x)


_WITH_PIXELS = {"crop": random_crop, "cutout": cutout}
_WITHOUT = {"flip": random_flip}


def augment(names: Sequence[str]) -> Augment:
    """Compose augmentations in order: ("crop:4", "flip", "cutout:16"). None at all gives the images back.

    Raises:
        BadInput: a name is unknown or its number of pixels is missing or no whole number above zero.
    """
    if isinstance(names, str):
        raise BadInput(f"augmentations {names!r}: wants a list of names, as in ['crop:4', 'flip']")
    steps = tuple(_parse(name) for name in names)

    def apply(key: jax.Array, x: jax.Array) -> jax.Array:
        for step, k in zip(steps, jax.random.split(key, max(len(steps), 1)), strict=False):
            x = step(k, x)
        return x

    return apply


def check_sizes(names: Sequence[str], shape: Sequence[int]) -> None:
    """Refuses what takes as many pixels as the images have, before anything is compiled for it.

    Args:
        names: as `augment` takes them.
        shape: of an image, height and width first.

    Raises:
        BadInput: says the size of the images and what fits them.
    """
    height, width = shape[:2]
    for name in names:
        kind, _, pixels = name.partition(":")
        if kind in _WITH_PIXELS and not 0 < int(pixels) < min(height, width):
            most = min(height, width) - 1
            raise BadInput(f"augment {name}: the images are {height}x{width}; the number must be from 1 to {most}")


def _parse(text: str) -> Augment:
    name, colon, pixels = text.partition(":")
    if name in _WITHOUT and not colon:
        return _WITHOUT[name]
    if name in _WITHOUT:
        raise BadInput(f"augmentation {text!r}: {name} takes no number")
    if name not in _WITH_PIXELS:
        raise BadInput(f"unknown augmentation {text!r}: {suggest(name, (*_WITH_PIXELS, *_WITHOUT))}")
    if not pixels.isdecimal() or int(pixels) < 1:
        raise BadInput(f"augmentation {text!r}: wants a number of pixels, as in {name}:4")
    step = _WITH_PIXELS[name]
    return lambda key, x: step(key, x, int(pixels))
