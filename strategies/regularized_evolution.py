"""Regularised (aging) evolution.

Real, Aggarwal, Huang and Le, "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nas.errors import BadInput
from nas.objective import fitness
from nas.space import SearchSpace
from nas.strategy import Asked, Strategy, check_told, never_done


class State(NamedTuple):
    """Key and counters; the population, a ring in which the oldest is overwritten; what was asked and not yet told."""

    key: jax.Array
    asked: jax.Array  # int32
    born: jax.Array  # int32, results that entered the population
    rows: jax.Array  # int32[P, L]
    scores: jax.Array  # float32[P, M]
    violation: jax.Array  # float32[P, C]
    waiting: jax.Array  # int32[Q], ids, -1 where free
    waiting_rows: jax.Array  # int32[Q, L]


def regularized_evolution(
    space: SearchSpace,
    *,
    population: int = 25,
    tournament: int = 5,
    in_flight: int = 256,
    objectives: int = 1,
    constraints: int = 0,
) -> Strategy:
    """Aging evolution: the best of a random tournament is mutated in one decision; the oldest dies.

    The first `population` candidates are random samples. Every later one is a mutation of the fittest of `tournament`
    members drawn with replacement from those told so far, so results may arrive in any order and no worker waits.
    With several objectives or constraints the fittest is the least dominated (`nas.objective.fitness`). A failed
    candidate never enters the population.

    Args:
        space: what to search.
        population: P in the paper, which used 100 with 20,000 trials; the default suits hundreds of trials.
        tournament: S in the paper (25 of 100; the default keeps about that share).
        in_flight: at most so many candidates asked and not yet told.
        objectives: M, scores per candidate.
        constraints: C, violations per candidate.

    Raises:
        BadInput: a size below 1, or a tournament larger than the population.

    The paper removes the oldest when a child is born; with results in any order, "oldest" is by time of arrival, and
    the paper's mutations (one of operation, input or identity) are `space.mutate`.
    """
    for name, value in dict(population=population, tournament=tournament, in_flight=in_flight).items():
        if value < 1:
            raise BadInput(f"regularized_evolution: {name} is {value}; it must be at least 1")
    if tournament > population:
        raise BadInput(f"regularized_evolution: tournament {tournament} is larger than the population of {population}")

    def init(key):
        rows = jnp.zeros((population, space.length), jnp.int32)
        return State(
            key=key,
            asked=jnp.int32(0),
            born=jnp.int32(0),
            rows=rows,
            scores=jnp.full((population, objectives), -jnp.inf, jnp.float32),
            violation=jnp.zeros((population, constraints), jnp.float32),
            waiting=jnp.full(in_flight, -1, jnp.int32),
            waiting_rows=jnp.zeros((in_flight, space.length), jnp.int32),
        )

    def candidate(state, id):
        alive = jnp.minimum(state.born, population)
        # all numbers from one draw: most of the time to compile goes to generators
        uniform = jax.random.uniform(jax.random.fold_in(state.key, id), (tournament + 2 * space.length + 1,))
        fight, draw, change = jnp.split(uniform, (tournament, tournament + space.length))
        members = jnp.minimum((fight * alive).astype(jnp.int32), jnp.maximum(alive - 1, 0))
        parent = members[jnp.argmax(ranks(state, alive)[members])]
        random = (id < population) | (alive == 0)
        child = space.mutate_from(change, state.rows[parent])
        return jnp.where(random, space.sample_from(draw), child), random

    def ranks(state, alive):
        if objectives == 1 and constraints == 0:
            return state.scores[:, 0]  # what `fitness` orders by, without comparing each with each
        return fitness(state.scores, state.violation, valid=jnp.arange(population) < alive)

    def ask(state, n):
        # the k-th new candidate takes the k-th free place; without a place it is not asked
        free = jnp.flatnonzero(state.waiting < 0, size=n, fill_value=in_flight)
        asked = free < in_flight
        ids = jnp.where(asked, state.asked + jnp.arange(n, dtype=jnp.int32), -1)
        rows, random = jax.vmap(candidate, (None, 0))(state, ids)
        state = state._replace(
            asked=state.asked + asked.sum(dtype=jnp.int32),
            waiting=state.waiting.at[free].set(ids, mode="drop"),
            waiting_rows=state.waiting_rows.at[free].set(rows, mode="drop"),
        )
        return Asked(ids, rows, jnp.zeros(n, jnp.int32), random), state

    def tell_one(state, told):
        id, scores, violation = told
        place = jnp.argmax((state.waiting == id) & (id >= 0))
        known = (state.waiting[place] == id) & (id >= 0)
        enters = known & jnp.isfinite(scores).all()
        at = jnp.where(enters, state.born % population, population)
        return state._replace(
            born=state.born + enters,
            rows=state.rows.at[at].set(state.waiting_rows[place], mode="drop"),
            scores=state.scores.at[at].set(scores, mode="drop"),
            violation=state.violation.at[at].set(violation, mode="drop"),
            waiting=state.waiting.at[jnp.where(known, place, in_flight)].set(-1, mode="drop"),
        ), None

    def tell(state, ids, scores, violation):
        told = check_told("regularized_evolution", ids, scores, violation, objectives, constraints)
        return jax.lax.scan(tell_one, state, told)[0]

    arguments = {"population": population, "tournament": tournament, "in_flight": in_flight}
    return Strategy(init, ask, tell, never_done, "regularized_evolution", arguments)
