"""Consecutive sequences of a text, in parallel streams: the hidden state is carried from each to the next."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nas.data import DeviceSplit, gather

# a text is measured in so many parallel streams, in each of which the state starts at zero: Liu et al. 2019, in
# their code, 10 for validation (and 1 for the test)
STREAMS = 10


def consecutive(n: int, streams: int) -> jax.Array:
    """int32[n // streams, streams]: the sequences of each step; down a column they follow one another in the text.

    The last few sequences are left out where they fill no row.
    """
    steps = n // streams
    return (jnp.arange(steps)[:, None] + steps * jnp.arange(streams)[None]).astype(jnp.int32)


def along_split(
    split: DeviceSplit,
    go_on: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    start: Callable[[int], Any],
    metrics: Callable[[jax.Array, jax.Array], Mapping[str, jax.Array]],
) -> dict[str, jax.Array]:
    """Means over a whole text, the hidden state carried from one sequence to the next. Jittable.

    Args:
        split: sequences in the order of the text.
        go_on: ``(x int32[B, T], state) -> (out, state)``.
        start: ``(B) -> state``.
        metrics: ``(out, labels int32[B, T]) -> {name: float32[B, T]}``.
    """
    count = split.labels.shape[0]
    streams = min(STREAMS, count)
    steps = -(-count // streams)
    places = consecutive(steps * streams, streams)

    def step(state, place):
        x, labels = gather(split, jnp.minimum(place, count - 1))
        out, state = go_on(x, state)
        there = (place < count)[:, None]
        return state, {name: jnp.where(there, v, 0).sum() for name, v in metrics(out, labels).items()}

    _, sums = jax.lax.scan(step, start(streams), places)
    return {name: v.sum() / split.labels.size for name, v in sums.items()}


def with_perplexity(means: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Metrics of a text: ``perplexity``, the exponential of the mean cross-entropy of a token, beside the others."""
    return {**means, "perplexity": jnp.exp(means["loss"])} if "loss" in means else dict(means)
