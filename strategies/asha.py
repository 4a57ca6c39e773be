"""Asynchronous successive halving, in the form that promotes.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, algorithm 2.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nas.objective import fitness
from nas.space import SearchSpace
from nas.strategy import Asked, Strategy, check_told, first_rows, starting
from strategies.fidelities import check_fidelities, too_small
from strategies.history import History, no_history, remember_row, remember_told


class State(NamedTuple):
    """Everything that was asked, the rung of each, whether it went on, and the epochs spent."""

    key: jax.Array
    history: History
    rung: jax.Array  # int32[H]
    promoted: jax.Array  # bool[H]
    spent: jax.Array  # int32, epochs of everything asked


def asha(
    space: SearchSpace,
    *,
    fidelities: Sequence[int],
    budget: int | None = None,
    trainings: int | None = None,
    eta: int = 3,
    first: Any = None,
    objectives: int = 1,
    constraints: int = 0,
) -> Strategy:
    """Whenever a candidate is asked for, one is promoted if any may be, from the highest rung down; else a new one.

    A candidate may be promoted when it is in the best ``n // eta`` of the n told so far at its rung, failed ones
    counted. Nobody waits for anybody, at the price of promotions that hindsight would not make. New candidates are
    random and start at the lowest fidelity.

    Args:
        space: what to search.
        fidelities: epochs of each rung, rising. A candidate that is promoted is trained anew and costs all of them.
        budget: in epochs; and/or
        trainings: how many at most.
        eta: of each rung, one in `eta` goes on; 4 in the paper, 3 as in `successive_halving`.
        first: rows int[K, L] that are trained before any random one.
        objectives: M, scores per candidate.
        constraints: C, violations per candidate.

    Raises:
        BadInput: fidelities that do not rise, no budget, one below the lowest fidelity, or a row of `first`
            that is none of the space.
    """
    check_fidelities("asha", fidelities, budget, trainings, eta)
    most = [*([budget // fidelities[0]] if budget is not None else []), *([trainings] if trainings is not None else [])]
    capacity = min(most)
    if capacity < 1:
        raise too_small("asha", fidelities[:1], budget, trainings)
    cost, first = jnp.asarray(fidelities, jnp.int32), first_rows(space, first)

    def init(key):
        rung, promoted = jnp.zeros(capacity, jnp.int32), jnp.zeros(capacity, bool)
        return State(key, no_history(space, capacity, objectives, constraints), rung, promoted, jnp.int32(0))

    def fits(state, level):
        return jnp.asarray(True) if budget is None else state.spent + cost[level] <= budget

    def promotable(state):
        """(the candidate to promote, -1 if none may be; the rung it goes to)."""
        past, chosen, to = state.history, jnp.int32(-1), jnp.int32(0)
        for level in range(len(fidelities) - 1):  # a later one, higher up, has precedence
            there = past.told & (state.rung == level)
            values = fitness(past.scores, past.violation, valid=there & past.known)
            order = jnp.argsort(-values, stable=True)
            place = jnp.zeros(capacity, jnp.int32).at[order].set(jnp.arange(capacity, dtype=jnp.int32))
            may = jnp.isfinite(values) & (place < there.sum() // eta) & ~state.promoted & fits(state, level + 1)
            best = jnp.argmin(jnp.where(may, place, capacity)).astype(jnp.int32)
            chosen, to = jnp.where(may.any(), best, chosen), jnp.where(may.any(), level + 1, to)
        return chosen, to

    def ask(state, n):
        def one(state, _):
            past = state.history
            asks = (past.asked < capacity) & fits(state, 0)
            chosen, level = promotable(state)
            key = jax.random.fold_in(state.key, past.asked)
            drawn = space.sample_from(jax.random.uniform(key, (space.length,)))
            drawn, random = starting(first, past.asked - state.promoted.sum(), drawn, chosen < 0)
            row = jnp.where(chosen >= 0, past.rows[chosen], drawn)
            slot = Asked(jnp.where(asks, past.asked, -1), row, cost[level], random)
            return State(
                key=state.key,
                history=remember_row(past, row, asks),
                rung=state.rung.at[jnp.where(asks, past.asked, capacity)].set(level, mode="drop"),
                promoted=state.promoted.at[jnp.where(asks & (chosen >= 0), chosen, capacity)].set(True, mode="drop"),
                spent=state.spent + jnp.where(asks, cost[level], 0),
            ), slot

        state, asked = jax.lax.scan(one, state, None, length=n)
        return asked, state

    def tell(state, ids, scores, violation):
        told = check_told("asha", ids, scores, violation, objectives, constraints)
        return state._replace(history=remember_told(state.history, *told))

    def done(state):
        return (state.history.asked >= capacity) | ~fits(state, 0)

    arguments = {"fidelities": list(fidelities), "budget": budget, "trainings": trainings, "eta": eta}
    arguments |= {"first": first.tolist()} if len(first) else {}
    return Strategy(init, ask, tell, done, "asha", arguments)
