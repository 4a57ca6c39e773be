"""Random search: the baseline every other strategy has to beat (Li and Talwalkar, UAI 2019)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nas.space import SearchSpace
from nas.strategy import Asked, Strategy, check_told, first_rows, never_done, starting


class State(NamedTuple):
    """The key and how many were asked; candidate i depends on these two alone."""

    key: jax.Array
    asked: jax.Array


def random_search(space: SearchSpace, *, first: Any = None) -> Strategy:
    """Independent samples of the space, with replacement; `space.sample` says what they are uniform over.

    `first` are rows int[K, L] that are asked before any other.

    Raises:
        BadInput: a row of `first` that is none of the space.
    """
    first = first_rows(space, first)

    def init(key):
        return State(key, jnp.int32(0))

    def ask(state, n):
        ids = state.asked + jnp.arange(n, dtype=jnp.int32)
        drawn = jax.vmap(lambda i: space.sample(jax.random.fold_in(state.key, i), 1)[0])(ids)
        rows, random = jax.vmap(lambda *each: starting(first, *each))(ids, drawn, jnp.ones(n, bool))
        return Asked(ids, rows, jnp.zeros(n, jnp.int32), random), State(state.key, state.asked + n)

    def tell(state, ids, scores, violation):
        check_told("random_search", ids, scores, violation)
        return state

    return Strategy(init, ask, tell, never_done, "random_search", {"first": first.tolist()} if len(first) else {})
