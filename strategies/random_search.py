"""Random search: the baseline every other strategy has to beat (Li and Talwalkar, UAI 2019)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nas.space import SearchSpace
from nas.strategy import Asked, Strategy, check_told, never_done


class State(NamedTuple):
    """The key and how many were asked; candidate i depends on these two alone."""

    key: jax.Array
    asked: jax.Array


def random_search(space: SearchSpace) -> Strategy:
    """Independent samples of the space, with replacement; `space.sample` says what they are uniform over."""

    def init(key):
        return State(key, jnp.int32(0))

    def ask(state, n):
        ids = state.asked + jnp.arange(n, dtype=jnp.int32)
        rows = jax.vmap(lambda i: space.sample(jax.random.fold_in(state.key, i), 1)[0])(ids)
        return Asked(ids, rows, jnp.zeros(n, jnp.int32), jnp.ones(n, bool)), State(state.key, state.asked + n)

    def tell(state, ids, scores, violation):
        check_told("random_search", ids, scores, violation)
        return state

    return Strategy(init, ask, tell, never_done, "random_search", {})
