"""Successive halving and Hyperband: many short trainings, then longer ones of the best.

Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016; Li et
al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 2018.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas.objective import fitness
from nas.space import SearchSpace
from nas.strategy import Asked, Strategy, check_told, first_rows, starting
from strategies.fidelities import check_fidelities, too_small
from strategies.history import History, no_history, remember_row, remember_told


class State(NamedTuple):
    """Everything that was asked; which rung an id belongs to follows from its number."""

    key: jax.Array
    history: History


def successive_halving(
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
    """One bracket: n random candidates at the lowest fidelity, the best n // eta of them at the next, and so on.

    A rung begins when all of the one below are told; until then an ask gives nothing. n is the largest that the budget
    allows. In the place of a candidate that would go on and has failed, a new random one is trained.

    Args:
        space: what to search.
        fidelities: epochs of each rung, rising. A candidate that goes on is trained anew, so each rung costs its own.
        budget: in epochs, all rungs together; and/or
        trainings: how many at most, all rungs together.
        eta: of each rung, one in `eta` goes on; 3 or 4 in the paper.
        first: rows int[K, L] that take the first places of the first rung; what finds no place there is left out.
        objectives: M, scores per candidate.
        constraints: C, violations per candidate.

    Raises:
        BadInput: fidelities that do not rise, no budget, one too small for a single candidate at each fidelity,
            or a row of `first` that is none of the space.
    """
    name = "successive_halving"
    check_fidelities(name, fidelities, budget, trainings, eta)
    counts = bracket(fidelities, eta, budget, trainings)
    if not counts:
        raise too_small(name, fidelities, budget, trainings)
    arguments = {"fidelities": list(fidelities), "budget": budget, "trainings": trainings, "eta": eta}
    plan = list(zip(counts, fidelities, strict=True))
    return _brackets(space, [plan], name, arguments, first, objectives, constraints)


def hyperband(
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
    """A bracket of successive halving that starts at each of the fidelities, the lowest first.

    The brackets share the budget equally, as in the paper; it hedges against a low fidelity that misleads. Arguments
    and errors are those of `successive_halving`. The paper rounds the size of a bracket to a power of eta; here each is
    the largest that its share allows, and one that its share does not allow is left out.
    """
    name = "hyperband"
    check_fidelities(name, fidelities, budget, trainings, eta)
    levels = len(fidelities)
    share = [None if total is None else total // levels for total in (budget, trainings)]
    counts = [bracket(fidelities[s:], eta, *share) for s in range(levels)]
    plans = [list(zip(n, fidelities[s:], strict=True)) for s, n in enumerate(counts) if n]
    if not plans:
        raise too_small(name, fidelities, budget, trainings)
    arguments = {"fidelities": list(fidelities), "budget": budget, "trainings": trainings, "eta": eta}
    return _brackets(space, plans, name, arguments, first, objectives, constraints)


def bracket(
    fidelities: Sequence[int], eta: int, budget: int | None = None, trainings: int | None = None
) -> tuple[int, ...]:
    """Candidates of each rung of the largest bracket: n, n // eta, n // eta^2, ..., at least 1; () where none fits."""

    def sizes(n):
        return tuple(max(1, n // eta**k) for k in range(len(fidelities)))

    def fits(n):
        cost = sum(a * b for a, b in zip(sizes(n), fidelities, strict=True))
        return (budget is None or cost <= budget) and (trainings is None or sum(sizes(n)) <= trainings)

    n = 0
    while fits(n + 1):
        n += 1
    return sizes(n) if n else ()


def _brackets(space, plans, name, arguments, first, objectives, constraints):
    """The strategy that goes through rungs of (candidates, epochs), bracket after bracket."""
    # of each id: epochs, its place in the rung, and the ids that the rung is chosen from
    table: list[tuple[int, int, int, int]] = []
    for plan in plans:
        below = (0, 0)
        for count, length in plan:
            start = len(table)
            table += [(length, place, *below) for place in range(count)]
            below = (start, start + count)
    capacity = len(table)
    epochs, place, start, end = np.asarray(table, np.int32).T
    first = first_rows(space, first)[: plans[0][0][0]]

    def init(key):
        return State(key, no_history(space, capacity, objectives, constraints))

    def ask(state, n):
        def one(state, _):
            past = state.history
            id = jnp.minimum(past.asked, capacity - 1)
            below = (jnp.arange(capacity) >= jnp.asarray(start)[id]) & (jnp.arange(capacity) < jnp.asarray(end)[id])
            asks = (past.asked < capacity) & (past.told | ~below).all()
            values = fitness(past.scores, past.violation, valid=below & past.known)
            chosen = jnp.argsort(-values, stable=True)[jnp.asarray(place)[id]]
            random = ~jnp.isfinite(values[chosen])
            drawn = space.sample_from(jax.random.uniform(jax.random.fold_in(state.key, id), (space.length,)))
            row, random = starting(first, id, jnp.where(random, drawn, past.rows[chosen]), random)
            slot = Asked(jnp.where(asks, id, -1), row, jnp.asarray(epochs)[id], random)
            return state._replace(history=remember_row(past, row, asks)), slot

        state, asked = jax.lax.scan(one, state, None, length=n)
        return asked, state

    def tell(state, ids, scores, violation):
        told = check_told(name, ids, scores, violation, objectives, constraints)
        return state._replace(history=remember_told(state.history, *told))

    def done(state):
        return state.history.asked >= capacity

    arguments = arguments | ({"first": first.tolist()} if len(first) else {})
    return Strategy(init, ask, tell, done, name, arguments)
