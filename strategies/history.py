"""What strategies of a fixed capacity remember: everything that was asked, each candidate in the place of its id."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nas.space import SearchSpace


class History(NamedTuple):
    """H places, of which the first `asked` are taken."""

    asked: jax.Array  # int32
    rows: jax.Array  # int32[H, L]
    told: jax.Array  # bool[H]
    scores: jax.Array  # float32[H, M], NaN where failed or not told
    violation: jax.Array  # float32[H, C]

    @property
    def known(self) -> jax.Array:
        """bool[H], told and not failed."""
        return self.told & jnp.isfinite(self.scores).all(-1)


def no_history(space: SearchSpace, capacity: int, objectives: int, constraints: int) -> History:
    """Before anything was asked."""
    return History(
        asked=jnp.int32(0),
        rows=jnp.zeros((capacity, space.length), jnp.int32),
        told=jnp.zeros(capacity, bool),
        scores=jnp.full((capacity, objectives), jnp.nan, jnp.float32),
        violation=jnp.zeros((capacity, constraints), jnp.float32),
    )


def remember_row(history: History, row: jax.Array, asks: jax.Array) -> History:
    """The history with a candidate more, or the same one where `asks` is False."""
    at = jnp.where(asks, history.asked, len(history.told))
    return history._replace(asked=history.asked + asks, rows=history.rows.at[at].set(row, mode="drop"))


def remember_told(history: History, ids: jax.Array, scores: jax.Array, violation: jax.Array) -> History:
    """The history with results in their places; an id that was told before, or never asked, changes nothing."""

    def one(history, told):
        id, scores, violation = told
        new = (id >= 0) & (id < history.asked) & ~history.told[id]
        at = jnp.where(new, id, len(history.told))
        return history._replace(
            told=history.told.at[at].set(True, mode="drop"),
            scores=history.scores.at[at].set(scores, mode="drop"),
            violation=history.violation.at[at].set(violation, mode="drop"),
        ), None

    return jax.lax.scan(one, history, (ids, scores, violation))[0]
