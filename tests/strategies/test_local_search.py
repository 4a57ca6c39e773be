"""What only local search promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace
from strategies import local_search


def make_space(allowed_of=None):
    decisions = tuple(Decision(f"d{i}", (0, 1, 2)[: 2 + i % 2]) for i in range(4))
    return SearchSpace("s", decisions, lambda net, macro: net.input, Macro(1, 1, (1, 1, 1), 1), allowed_of=allowed_of)


SPACE = make_space()
CONDITIONAL = make_space(lambda row, i: (row[0] > 0) | (jnp.arange(3) == 0) if i == 3 else jnp.ones(3, bool))
TABLE = np.random.RandomState(3).uniform(size=SPACE.cardinalities)  # rugged: 36 rows, several local optima


def score(row):
    return np.float32(TABLE[tuple(row)])


@functools.cache
def make(space=SPACE, **arguments):
    strategy = local_search(space, **arguments)
    return strategy._replace(ask=jax.jit(strategy.ask, static_argnums=1), tell=jax.jit(strategy.tell))


def tell(strategy, state, id, value):
    return strategy.tell(state, jnp.asarray([id]), jnp.asarray([[value]], jnp.float32), jnp.zeros((1, 0)))


def climbs(start, trials, seed=0, failing=(), space=SPACE, **arguments):
    """[(row, random), ...] of each climb in the order of asking."""
    strategy = make(space, start=start, **arguments)
    state, found = strategy.init(jax.random.key(seed)), []
    for i in range(trials):
        asked, state = strategy.ask(state, 1)
        random = bool(asked.random[0])
        if random and (not found or len(found[-1]) >= start):
            found.append([])
        found[-1].append((tuple(asked.row[0].tolist()), random))
        state = tell(strategy, state, i, np.nan if i in failing else score(found[-1][-1][0]))
    return found


@functools.cache
def neighbours(row):
    return {tuple(r) for r in SPACE.neighbours(np.asarray(row)).tolist()}


@pytest.mark.parametrize("best_improvement", [False, True])
def test_every_climb_asks_the_neighbours_of_the_best_and_ends_where_none_is_better(best_improvement):
    """Against the definition, row by row."""
    ended = 0
    for seed in range(4):
        known = set()
        found = climbs(2, 36, seed, best_improvement=best_improvement)
        for climb in found:
            drawn, near = [r for r, random in climb if random], [r for r, random in climb if not random]
            known |= set(drawn)
            centre = best = max(drawn, key=score)
            for row in near:
                if not neighbours(centre) - known:  # the sweep is over
                    centre = best
                assert row in neighbours(centre) - known
                known.add(row)
                if score(row) > score(best):
                    best = row
                    centre = centre if best_improvement else best
            if climb is not found[-1]:
                ended += 1
                assert best == centre
                assert not neighbours(centre) - known
    assert ended > 4


def test_the_order_of_neighbours_is_random():
    firsts = {climbs(1, 2, seed)[0][1][0] for seed in range(30)}
    assert len(firsts) > 15


def test_a_known_neighbour_is_not_asked_again_and_conditions_are_kept():
    found = climbs(1, 30, failing=(3, 8), space=CONDITIONAL)
    rows = [row for climb in found for row, random in climb if not random]
    assert len(rows) == len(set(rows))
    assert bool(CONDITIONAL.valid(np.asarray(rows)).all())
    assert any(row[0] == 0 for row in rows) and any(row[0] == 1 for row in rows)


def test_the_end_of_a_climb_waits_for_results_under_way():
    """From a start that is better than all: every neighbour may be asked at once, and then nothing."""
    strategy = make(start=1)
    asked, state = strategy.ask(strategy.init(jax.random.key(0)), 3)
    assert asked.id.tolist() == [0, -1, -1]
    state = tell(strategy, state, 0, 9.0)
    near = neighbours(tuple(asked.row[0].tolist()))
    asked, state = strategy.ask(state, len(near) + 2)
    assert {tuple(r) for r in asked.row[:-2].tolist()} == near
    assert asked.id.tolist() == [*range(1, len(near) + 1), -1, -1]
    for id in range(len(near), 1, -1):
        state = tell(strategy, state, id, 1.0)
        none, after = strategy.ask(state, 1)
        assert none.id.tolist() == [-1]
        assert all((a == b).all() for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True))
    again, _ = strategy.ask(tell(strategy, state, 1, 1.0), 1)
    assert bool(again.random[0]) and int(again.id[0]) == len(near) + 1


def test_the_first_climb_starts_from_the_rows_given():
    given = [0, 2, 1, 1]
    strategy = local_search(SPACE, start=5, first=[given])
    asked, state = strategy.ask(strategy.init(jax.random.key(0)), 1)
    assert asked.row[0].tolist() == given and not asked.random[0]
    state = tell(strategy, state, 0, 1.0)
    assert tuple(strategy.ask(state, 1)[0].row[0].tolist()) in neighbours(tuple(given))


@pytest.mark.parametrize("bad", [{"start": 0}, {"memory": 0}])
def test_bad_numbers(bad):
    with pytest.raises(BadInput, match=f"^local_search: {next(iter(bad))} is 0"):
        local_search(SPACE, **bad)
