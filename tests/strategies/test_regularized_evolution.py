"""What only regularised evolution promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace
from strategies import regularized_evolution


@pytest.fixture(scope="module")
def space():
    decisions = tuple(Decision(f"d{i}", (0, 1, 2)) for i in range(5))
    return SearchSpace("s", decisions, lambda net, macro: net.input, Macro(1, 1, (1, 1, 1), 1))


def make(space, **arguments):
    strategy = regularized_evolution(space, **arguments)
    return strategy._replace(ask=jax.jit(strategy.ask, static_argnums=1), tell=jax.jit(strategy.tell))


def reference(space, strategy, population, tournament, score, trials, seed):
    """The paper's loop over plain lists, drawing from the same keys."""
    key, queue, rows = jax.random.key(seed), [], []
    sizes, length = space.cardinalities, space.length
    for i in range(trials):
        uniform = jax.random.uniform(jax.random.fold_in(key, i), (tournament + 2 * length + 1,)).tolist()
        if i < population:
            row = [int(u * size) for u, size in zip(uniform[tournament:], sizes, strict=False)]
        else:
            members = [int(u * len(queue)) for u in uniform[:tournament]]
            parent = max(members, key=lambda m: (queue[m][1], -members.index(m)))
            place, *other = uniform[tournament + length :]
            row, at = list(queue[parent][0]), int(place * length)
            row[at] = [o for o in range(sizes[at]) if o != row[at]][int(other[at] * (sizes[at] - 1))]
        rows.append(np.asarray(row))
        entry = (row, np.float32(score(np.asarray(row))))
        if len(queue) < population:
            queue.append(entry)
        else:
            queue[i % population] = entry  # the oldest dies, whatever its score
    return np.asarray(rows)


def test_equals_the_paper_s_loop(space):
    weights = np.random.RandomState(1).uniform(size=(5, 3))
    score = lambda row: weights[np.arange(5), row].sum()  # noqa: E731
    strategy = make(space, population=6, tournament=3)
    expected = reference(space, strategy, 6, 3, score, 40, 0)
    state, rows = strategy.init(jax.random.key(0)), []
    for _ in range(40):
        asked, state = strategy.ask(state, 1)
        rows.append(np.asarray(asked.row[0]))
        state = strategy.tell(state, asked.id, jnp.asarray([[score(rows[-1])]]), jnp.zeros((1, 0)))
    assert (np.asarray(rows) == expected).all()


def test_first_population_is_random_and_children_are_not(space):
    strategy = make(space, population=4, tournament=2)
    state, random = strategy.init(jax.random.key(0)), []
    for _ in range(8):
        asked, state = strategy.ask(state, 1)
        random.append(bool(asked.random[0]))
        state = strategy.tell(state, asked.id, jnp.ones((1, 1)), jnp.zeros((1, 0)))
    assert random == [True] * 4 + [False] * 4


def test_full_flight_waits_and_changes_nothing(space):
    strategy = make(space, population=4, tournament=2, in_flight=3)
    asked, state = strategy.ask(strategy.init(jax.random.key(0)), 5)
    assert asked.id.tolist() == [0, 1, 2, -1, -1]
    none, after = strategy.ask(state, 1)
    assert none.id.tolist() == [-1]
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True))
    state = strategy.tell(state, jnp.asarray([1]), jnp.ones((1, 1)), jnp.zeros((1, 0)))
    assert strategy.ask(state, 1)[0].id.tolist() == [3]


def test_a_parent_within_the_limits_is_preferred(space):
    """The infeasible member scores more and must not become a parent."""
    strategy = make(space, population=2, tournament=2, constraints=1)
    asked, state = strategy.ask(strategy.init(jax.random.key(0)), 2)
    state = strategy.tell(state, asked.id, jnp.asarray([[9.0], [1.0]]), jnp.asarray([[0.5], [0.0]]))
    good = np.asarray(asked.row[1])
    for _ in range(20):
        child, after = strategy.ask(state, 1)
        fought = jax.random.uniform(jax.random.fold_in(state.key, child.id[0]), (2 + 2 * space.length + 1,))[:2] * 2
        if 1 in fought.astype(int).tolist():
            assert (np.asarray(child.row[0]) != good).sum() == 1
        # ask again without telling: another candidate, the same population
        state = after._replace(waiting=state.waiting)


@pytest.mark.parametrize(
    "bad", [{"population": 0}, {"tournament": 0}, {"population": 4, "tournament": 5}, {"in_flight": 0}]
)
def test_bad_sizes(space, bad):
    with pytest.raises(BadInput, match="regularized_evolution"):
        regularized_evolution(space, **bad)
