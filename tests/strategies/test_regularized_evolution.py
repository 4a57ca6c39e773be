"""What only regularised evolution promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace
from search_spaces import SPACES
from strategies import regularized_evolution
from strategies.breeding import mutation_weights


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
            row = [int(u * size) for u, size in zip(uniform, sizes, strict=False)]
        else:
            members = [int(u * len(queue)) for u in uniform[length : length + tournament]]
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
        fought = jax.random.uniform(jax.random.fold_in(state.key, child.id[0]), (2 + 2 * space.length + 1,))
        if 1 in (fought[space.length : space.length + 2] * 2).astype(int).tolist():
            assert (np.asarray(child.row[0]) != good).sum() == 1
        # ask again without telling: another candidate, the same population
        state = after._replace(waiting=state.waiting)


def searched(strategy, score, trials, seed=0):
    """Rows in the order of asking, and the state at the end."""
    state, rows = strategy.init(jax.random.key(seed)), []
    for _ in range(trials):
        asked, state = strategy.ask(state, 1)
        rows.append(np.asarray(asked.row[0]))
        state = strategy.tell(state, asked.id, jnp.asarray([[score(rows[-1])]], jnp.float32), jnp.zeros((1, 0)))
    return np.asarray(rows), state


def test_without_aging_the_worst_dies(space):
    """The population is always the best of all that were told; with aging it is the latest."""
    weights = np.random.RandomState(1).uniform(size=(5, 3))
    score = lambda row: weights[np.arange(5), row].sum()  # noqa: E731
    for aging in (False, True):
        rows, state = searched(make(space, population=5, tournament=2, aging=aging), score, 30)
        scores = np.float32([score(row) for row in rows])
        expected = scores[-5:] if aging else np.sort(scores)[-5:]
        assert np.allclose(np.sort(state.scores[:, 0]), np.sort(expected))


def test_a_generation_waits_for_its_last_and_is_bred_from_the_one_before(space):
    """However the results arrive, and a failure among them, the next generation is the same."""
    strategy = make(space, population=4, tournament=3, generational=True)
    score = lambda row: float(row.sum())  # noqa: E731
    after = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        asked, state = strategy.ask(strategy.init(jax.random.key(0)), 6)
        assert asked.id.tolist() == [0, 1, 2, 3, -1, -1]
        for i in order:
            assert strategy.ask(state, 1)[0].id[0] == -1
            told = np.nan if i == 2 else score(asked.row[i])
            state = strategy.tell(state, jnp.asarray([i]), jnp.asarray([[told]], jnp.float32), jnp.zeros((1, 0)))
        children, state = strategy.ask(state, 4)
        assert children.id.tolist() == [4, 5, 6, 7]
        parents = np.asarray(asked.row)[[0, 1, 3]]
        assert all(((parents != child).sum(1) == 1).any() for child in np.asarray(children.row))
        after.append(children.row)
    assert (after[0] == after[1]).all()


def test_a_generation_that_failed_as_a_whole_is_followed_by_random_samples(space):
    strategy = make(space, population=3, tournament=2, generational=True)
    _, state = searched(strategy, lambda row: np.nan, 3)
    assert strategy.ask(state, 3)[0].random.tolist() == [True] * 3


@pytest.mark.parametrize("connections, share", [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_connections_have_their_share_of_the_mutations(connections, share):
    space = SPACES["amoebanet"](nodes=2)
    kinds = np.asarray([d.name.endswith("_input") for d in space.decisions])
    weights = mutation_weights("evolution", space, connections)
    rows = space.sample(jax.random.key(0), 4000)
    changed = np.asarray(rows != space.mutate(jax.random.key(1), rows, weights))
    assert (changed.sum(1) == 1).all()
    assert abs(changed[:, kinds].sum() / len(rows) - share) < 0.03
    # and alike within a kind
    if share == 1:
        assert np.ptp(changed[:, kinds].mean(0)) < 0.04


def test_crossover_takes_each_decision_from_one_of_the_parents_and_repairs():
    """In this space each decision differs from the one before."""
    decisions = tuple(Decision(f"d{i}", (0, 1, 2, 3)) for i in range(4))
    apart = lambda row, i: jnp.arange(4) != (row[i - 1] if i else -1)  # noqa: E731
    space = SearchSpace("s", decisions, lambda net, macro: net.input, Macro(1, 1, (1, 1, 1), 1), allowed_of=apart)
    rows = np.asarray(space.sample(jax.random.key(0), 400))
    uniform = jax.random.uniform(jax.random.key(1), (200, 2 * space.length))
    children = np.asarray(jax.jit(jax.vmap(space.cross_from))(uniform, rows[:200], rows[200:]))
    assert (children[:, 1:] != children[:, :-1]).all()
    of_one = (children == rows[:200]) | (children == rows[200:])
    assert of_one.mean() > 0.8
    differ = rows[:200] != rows[200:]
    first, second = ((children == some)[differ & of_one].mean() for some in (rows[:200], rows[200:]))
    assert abs(first - second) < 0.1


def test_children_are_copies_crossings_or_mutants_as_asked(space):
    """Distances to the population tell which they are."""
    parents = {0: [0, 0, 0, 0, 0], 1: [2, 2, 2, 2, 2]}

    def children(**arguments):
        strategy = make(space, population=2, tournament=1, **arguments)
        asked, state = strategy.ask(strategy.init(jax.random.key(0)), 2)
        state = state._replace(waiting_rows=state.waiting_rows.at[:2].set(jnp.asarray(list(parents.values()))))
        state = strategy.tell(state, asked.id, jnp.ones((2, 1)), jnp.zeros((2, 0)))
        return np.asarray(strategy.ask(state, 200)[0].row)

    assert np.isin(children(identity=1.0).sum(1), [0, 10]).all()
    mixed = children(identity=1.0, crossover=1.0)
    assert np.isin(mixed, [0, 2]).all()
    assert 0.2 < np.mean((mixed != mixed[:, :1]).any(1)) < 0.8  # half of the pairs are twice the same parent
    mutants = children()
    assert (np.minimum((mutants != 0).sum(1), (mutants != 2).sum(1)) == 1).all()


@pytest.mark.parametrize("bad", [{"crossover": 1.5}, {"identity": -0.1}, {"connections": 2.0}, {"connections": 0.5}])
def test_bad_shares(space, bad):
    """The last one: a space that has no connections."""
    with pytest.raises(BadInput, match=f"^regularized_evolution: {next(iter(bad))}"):
        regularized_evolution(space, **bad)


@pytest.mark.parametrize(
    "bad", [{"population": 0}, {"tournament": 0}, {"population": 4, "tournament": 5}, {"in_flight": 0}]
)
def test_bad_sizes(space, bad):
    with pytest.raises(BadInput, match="regularized_evolution"):
        regularized_evolution(space, **bad)


def test_the_first_rows_are_asked_before_any_other_and_are_parents(space):
    first = [[2, 2, 2, 2, 2], [0, 1, 2, 1, 0], [1, 1, 1, 1, 1]]
    strategy = make(space, population=2, tournament=2, first=first)
    assert strategy.arguments["first"] == first
    asked, state = strategy.ask(strategy.init(jax.random.key(0)), 4)
    assert np.asarray(asked.row)[:3].tolist() == first
    assert not np.asarray(asked.random)[:3].any()  # chosen, so no part of a random baseline
    state = strategy.tell(state, asked.id[:2], jnp.ones((2, 1)), jnp.zeros((2, 0)))
    child = np.asarray(strategy.ask(state, 1)[0].row)[0]
    assert min((child != np.asarray(row)).sum() for row in first[:2]) == 1
    with pytest.raises(BadInput, match="takes 5 whole numbers"):
        regularized_evolution(space, first=[[0, 0]])
