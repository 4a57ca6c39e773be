"""The multi-trial contract: a strategy is three pure functions over arrays."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput
from nas.space import SearchSpace

State = Any  # a pytree of arrays


class Asked(NamedTuple):
    """Candidates to evaluate. A slot with id -1 holds none: wait for results, or the strategy is done.

    Attributes:
        id: int32[N], unique in a search, counted from 0 in the order of asking; -1 for none.
        row: int32[N, L].
        epochs: int32[N], epochs to train; 0 means what the evaluation's recipe says.
        random: bool[N], drawn without using any result: what a report estimates the random baseline from.
    """

    id: jax.Array | np.ndarray
    row: jax.Array | np.ndarray
    epochs: jax.Array | np.ndarray
    random: jax.Array | np.ndarray


class Strategy(NamedTuple):
    """Ask for candidates, tell their results; pure, jittable, serialisable, no hidden state.

    Attributes:
        init: ``(key) -> State``.
        ask: ``(State, n) -> (Asked of n slots, State)``. `n` is static under jit. Fewer candidates than slots means:
            wait for results. An ask that gives nothing leaves the state as it was.
        tell: ``(State, id int32[N], scores float32[N, M], violation float32[N, C]) -> State``. Results come in any
            order; an id of -1, one that was never asked or one that was told before changes nothing. Higher scores are
            better; NaN means the candidate failed. `violation` is how far each constraint is exceeded, 0 where it is
            met; C may be 0. Other shapes are a `BadInput` (`check_told`).
        done: ``(State) -> bool``, no further candidate will come whatever is told.
        name: of the method, for people and `search.json`.
        arguments: JSON values it was made with.
        pure: `ask` and `tell` can be jitted; False for a strategy that wraps a library on the host.
    """

    init: Callable[[jax.Array], State]
    ask: Callable[[State, int], tuple[Asked, State]]
    tell: Callable[[State, jax.Array, jax.Array, jax.Array], State]
    done: Callable[[State], Any]
    name: str
    arguments: Mapping[str, Any]
    pure: bool = True


def never_done(state: State) -> jax.Array:
    """For strategies that go on for as long as they are asked."""
    return jnp.asarray(False)


def first_rows(space: SearchSpace, first: Any) -> np.ndarray:
    """int32[K, L], checked: the rows a search starts with, given as lists or arrays; K is 0 for None.

    Raises:
        BadInput: a row that is none of the space.
    """
    return np.asarray([space.check(row) for row in first] if first is not None else [], np.int32).reshape(
        -1, space.length
    )


def starting(first: np.ndarray, id: jax.Array, row: jax.Array, random: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(row, random) of candidate `id`: before all others come the rows of `first` int32[K, L], and none is random."""
    if not len(first):
        return row, random
    given = id < len(first)
    return jnp.where(given, jnp.asarray(first)[jnp.minimum(id, len(first) - 1)], row), random & ~given


class _Given(NamedTuple):
    next: jax.Array  # int32, id of the next one


def given(space: SearchSpace, rows: Any) -> Strategy:
    """Asks for `rows` int32[K, L], in their order, and is done: results of elsewhere, to be evaluated as trials.

    Raises:
        BadInput: a row that is none of the space.
    """
    rows = first_rows(space, rows)
    last = max(0, len(rows) - 1)

    def ask(state, n):
        ids = state.next + jnp.arange(n)
        there = ids < len(rows)
        row = jnp.asarray(rows)[jnp.minimum(ids, last)] if len(rows) else jnp.zeros((n, space.length), jnp.int32)
        asked = Asked(jnp.where(there, ids, -1), row, jnp.zeros(n, jnp.int32), jnp.zeros(n, bool))
        return asked, _Given(state.next + there.sum())

    return Strategy(
        lambda key: _Given(jnp.int32(0)),
        ask,
        lambda state, ids, scores, violation: state,
        lambda state: state.next >= len(rows),
        "given",
        {"rows": rows.tolist()},
    )


def check_told(
    name: str, ids, scores, violation, objectives: int | None = None, constraints: int | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(ids int32[N], scores float32[N, M], violation float32[N, C]) of one ``tell``; only shapes are looked at.

    Args:
        name: of the strategy, for the message.
        ids: int[N].
        scores: [N, M].
        violation: [N, C].
        objectives: M; None takes any number.
        constraints: C; None takes any number.

    Raises:
        BadInput: another shape.
    """
    told = jnp.asarray(ids, jnp.int32), jnp.asarray(scores, jnp.float32), jnp.asarray(violation, jnp.float32)
    for what, array, columns in (("scores", told[1], objectives), ("violations", told[2], constraints)):
        if array.ndim != 2 or array.shape[:1] != told[0].shape or columns not in (None, array.shape[1]):
            wanted = f"[{told[0].size}, {'any number' if columns is None else columns}]"
            raise BadInput(
                f"{name}: {what} are of shape {list(array.shape)}, not {wanted} (candidates, {what} of each)"
            )
    return told
