"""Regularised (aging) evolution.

Real, Aggarwal, Huang and Le, "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nas.errors import BadInput
from nas.objective import fitness
from nas.space import SearchSpace
from nas.strategy import Asked, Strategy, check_told, first_rows, never_done, starting
from strategies.breeding import breeder


class State(NamedTuple):
    """Key and counters, the population, the generation that comes in, and what was asked and not yet told."""

    key: jax.Array
    asked: jax.Array  # int32
    told: jax.Array  # int32
    born: jax.Array  # int32, results that entered the population
    rows: jax.Array  # int32[P, L]
    scores: jax.Array  # float32[P, M]
    violation: jax.Array  # float32[P, C]
    next_rows: jax.Array  # int32[G, L], by id; G is P with generations and 0 without
    next_scores: jax.Array  # float32[G, M]
    next_violation: jax.Array  # float32[G, C]
    waiting: jax.Array  # int32[Q], ids, -1 where free
    waiting_rows: jax.Array  # int32[Q, L]


def regularized_evolution(
    space: SearchSpace,
    *,
    population: int = 25,
    tournament: int = 5,
    aging: bool = True,
    generational: bool = False,
    crossover: float = 0.0,
    identity: float = 0.0,
    connections: float | None = None,
    in_flight: int = 256,
    first: Any = None,
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
        aging: the oldest dies, as in the paper; False: the least fit one, the child itself where it is that (the
            paper's non-aging baseline).
        generational: workers wait until a generation of `population` is told, which then enters in the order of
            asking; False: each result enters as it comes, as in the paper.
        crossover: share of children that mix two winners (`SearchSpace.crossover`) before they are mutated; the paper
            has none.
        identity: share of children that are not mutated: the same network is trained again (the paper's .05). 0 by
            default, because the same training repeated has the same result here.
        connections: share of mutations that change a decision whose name ends in ``input`` (the paper's hidden state
            mutation; .5 there); the others change one of the rest. None: uniform over all decisions.
        in_flight: at most so many candidates asked and not yet told.
        first: rows int[K, L] that are asked before any other, as what zero-cost proxies rank best
            (`nas.proxies.best_of`) or an architecture to improve on.
        objectives: M, scores per candidate.
        constraints: C, violations per candidate.

    Raises:
        BadInput: a size below 1, a tournament larger than the population, a share outside of 0 to 1, or a share of
            connections in a space without them.

    The paper removes the oldest when a child is born; with results in any order, "oldest" is by time of arrival.
    """
    name = "regularized_evolution"
    for what, size in dict(population=population, tournament=tournament, in_flight=in_flight).items():
        if size < 1:
            raise BadInput(f"{name}: {what} is {size}; it must be at least 1")
    if tournament > population:
        raise BadInput(f"{name}: tournament {tournament} is larger than the population of {population}")
    numbers, breed = breeder(
        name, space, tournament=tournament, crossover=crossover, identity=identity, connections=connections
    )
    held = population if generational else 0
    first = first_rows(space, first)

    def init(key):
        scores, violation = jnp.full(objectives, -jnp.inf, jnp.float32), jnp.zeros(constraints, jnp.float32)
        of = lambda n, one: jnp.tile(one, (n, 1))  # noqa: E731
        row = jnp.zeros(space.length, jnp.int32)
        return State(
            key=key,
            asked=jnp.int32(0),
            told=jnp.int32(0),
            born=jnp.int32(0),
            rows=of(population, row),
            scores=of(population, scores),
            violation=of(population, violation),
            next_rows=of(held, row),
            next_scores=of(held, scores),
            next_violation=of(held, violation),
            waiting=jnp.full(in_flight, -1, jnp.int32),
            waiting_rows=of(in_flight, row),
        )

    def candidate(state, id):
        alive = jnp.minimum(state.born, population)
        # all numbers from one draw: most of the time to compile goes to generators
        uniform = jax.random.uniform(jax.random.fold_in(state.key, id), (space.length + numbers,))
        child = breed(uniform[space.length :], state.rows, ranks(state, alive), alive)
        random = (id < population) | (alive == 0)
        row = jnp.where(random, space.sample_from(uniform[: space.length]), child)
        return starting(first, id, row, random)

    def ranks(state, alive):
        if objectives == 1 and constraints == 0:
            return state.scores[:, 0]  # what `fitness` orders by, without comparing each with each
        return fitness(state.scores, state.violation, valid=jnp.arange(len(state.scores)) < alive)

    def ask(state, n):
        # the k-th new candidate takes the k-th free place; without a place it is not asked
        free = jnp.flatnonzero(state.waiting < 0, size=n, fill_value=in_flight)
        ids = state.asked + jnp.arange(n, dtype=jnp.int32)
        asked = free < in_flight
        if generational:
            asked &= ids // population == state.told // population
            free = jnp.where(asked, free, in_flight)
        ids = jnp.where(asked, ids, -1)
        rows, random = jax.vmap(candidate, (None, 0))(state, ids)
        state = state._replace(
            asked=state.asked + asked.sum(dtype=jnp.int32),
            waiting=state.waiting.at[free].set(ids, mode="drop"),
            waiting_rows=state.waiting_rows.at[free].set(rows, mode="drop"),
        )
        return Asked(ids, rows, jnp.zeros(n, jnp.int32), random), state

    def worst(state, scores, violation):
        """Place of the least fit among the population and a newcomer, who is the last."""
        scores = jnp.concatenate([state.scores, scores[None]])
        violation = jnp.concatenate([state.violation, violation[None]])
        return jnp.argmin(ranks(state._replace(scores=scores, violation=violation), population + 1))

    def enter(state, result):
        """Takes the place of the oldest or of the worst. What failed does not enter."""
        row, scores, violation = result
        at = state.born % population
        if not aging:
            at = jnp.where(state.born < population, at, worst(state, scores, violation))
        succeeded = jnp.isfinite(scores).all()
        at = jnp.where(succeeded, at, population)
        return state._replace(
            born=state.born + succeeded,
            rows=state.rows.at[at].set(row, mode="drop"),
            scores=state.scores.at[at].set(scores, mode="drop"),
            violation=state.violation.at[at].set(violation, mode="drop"),
        ), None

    def tell_one(state, result):
        id, scores, violation = result
        place = jnp.argmax((state.waiting == id) & (id >= 0))
        known = (state.waiting[place] == id) & (id >= 0)
        row, scores = state.waiting_rows[place], jnp.where(known, scores, jnp.nan)
        state = state._replace(
            told=state.told + known,
            waiting=state.waiting.at[jnp.where(known, place, in_flight)].set(-1, mode="drop"),
        )
        if not generational:
            return enter(state, (row, scores, violation))
        at = jnp.where(known, id % population, population)
        state = state._replace(
            next_rows=state.next_rows.at[at].set(row, mode="drop"),
            next_scores=state.next_scores.at[at].set(scores, mode="drop"),
            next_violation=state.next_violation.at[at].set(violation, mode="drop"),
        )
        generation = state.next_rows, state.next_scores, state.next_violation
        full = known & (state.told % population == 0)
        return jax.lax.cond(full, lambda s: jax.lax.scan(enter, s, generation)[0], lambda s: s, state), None

    def tell(state, ids, scores, violation):
        results = check_told(name, ids, scores, violation, objectives, constraints)
        return jax.lax.scan(tell_one, state, results)[0]

    arguments = dict(
        population=population,
        tournament=tournament,
        aging=aging,
        generational=generational,
        crossover=crossover,
        identity=identity,
        connections=connections,
        in_flight=in_flight,
    ) | ({"first": first.tolist()} if len(first) else {})
    return Strategy(init, ask, tell, never_done, name, arguments)
