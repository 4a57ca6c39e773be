"""Every strategy is one row of `CASES` and passes the same tests."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace
from strategies import STRATEGIES


def toy(conditional: bool = False) -> SearchSpace:
    """Six decisions of four options; conditional: the second is inactive unless the first is above 1."""

    def allowed(row, i):
        if i == 1:
            return jnp.where(row[0] > 1, jnp.ones(4, bool), jnp.arange(4) == 0)
        return jnp.ones(4, bool)

    return SearchSpace(
        name="toy",
        decisions=tuple(Decision(f"d{i}", (0, 1, 2, 3)) for i in range(6)),
        network=lambda net, macro: net.linear(net.global_avg_pool(net.input), macro.classes),
        macro=Macro(1, 1, (4, 4, 1), 2),
        allowed_of=allowed if conditional else None,
    )


WEIGHTS = np.random.RandomState(0).uniform(size=(6, 4))


def additive(rows) -> np.ndarray:
    return WEIGHTS[np.arange(6), np.asarray(rows)].sum(-1)


CASES = {
    "random_search": {},
    "regularized_evolution": {"population": 8, "tournament": 3, "in_flight": 16},
    "reinforce": {"hidden": 16, "learning_rate": 0.05, "in_flight": 16},
    "ppo": {"hidden": 16, "batch": 5, "learning_rate": 0.05, "in_flight": 16},
    "local_search": {"memory": 32},
    "tpe": {"n_startup_trials": 6},
    "nsga2": {"population": 8},
    "nsga3": {"population": 8},
    "optuna_random": {},
    "predictor": {"capacity": 64},
    "successive_halving": {"fidelities": (1, 3, 9), "trainings": 90},
    "hyperband": {"fidelities": (1, 3, 9), "trainings": 180},
    "asha": {"fidelities": (1, 3, 9), "trainings": 64},
    "mixed_fidelity": {"fidelities": (1, 3), "trainings": 64},
}
# their candidates are random ones, and so are those of what only decides how long each is trained
RANDOM = ("random_search", "optuna_random", "successive_halving", "hyperband", "asha")
LEARN = [name for name in CASES if name not in RANDOM]


SPACES = {conditional: toy(conditional) for conditional in (False, True)}


@functools.cache
def make(name, conditional=False, objectives=1, constraints=0):
    factory, shape = STRATEGIES[name], {"objectives": objectives, "constraints": constraints}
    takes = inspect.signature(factory).parameters  # random search has no use for them
    return factory(SPACES[conditional], **CASES[name], **{k: v for k, v in shape.items() if k in takes})


PURE = [name for name in CASES if make(name).pure]


@functools.cache
def _jit(ask, tell):
    return jax.jit(ask, static_argnums=1), jax.jit(tell)


def jitted(strategy):
    return _jit(strategy.ask, strategy.tell) if strategy.pure else (strategy.ask, strategy.tell)


def through_numpy(state):
    """The state as a checkpoint would give it back: typed keys, wherever they are, as their numbers."""

    def leaf(a):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(np.array(jax.random.key_data(a))), impl=jax.random.key_impl(a))
        return jnp.asarray(np.array(a))

    return jax.tree.map(leaf, state)


def same(state, other):
    leaves = zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(*map(np.asarray, pair), equal_nan=True) for pair in map(_numbers, leaves))


def _numbers(pair):
    keys = [jnp.issubdtype(a.dtype, jax.dtypes.prng_key) for a in pair]
    return [jax.random.key_data(a) if key else a for a, key in zip(pair, keys, strict=True)]


def told(score):
    """One candidate's score, or (scores, violation), as arrays of one row."""
    scores, violation = score if isinstance(score, tuple) else ([score], [])
    return jnp.asarray([scores], jnp.float32), jnp.asarray([violation], jnp.float32).reshape(1, len(violation))


def run(strategy, *, trials, seed=0, score=additive, in_flight=1, shuffle=False, between=lambda state: state):
    """Rows in the order asked, and the state at the end; `between` is done to the state after every tell."""
    ask, tell = (strategy.ask, strategy.tell) if jax.config.jax_disable_jit else jitted(strategy)
    random = np.random.RandomState(seed)
    state, rows, waiting = strategy.init(jax.random.key(seed)), [], []
    while len(rows) < trials or waiting:
        if len(rows) < trials and len(waiting) < in_flight:
            asked, state = ask(state, 1)
            assert int(asked.id[0]) in (len(rows), -1)
            if asked.id[0] >= 0:
                rows.append(np.asarray(asked.row[0]))
                waiting.append(int(asked.id[0]))
                continue
            if not waiting:  # a strategy may wait for results, never for nothing
                assert bool(strategy.done(state))
                break
        at = random.randint(len(waiting)) if shuffle else 0
        id = waiting.pop(at)
        state = between(tell(state, jnp.asarray([id]), *told(score(rows[id]))))
    return np.asarray(rows), state


def test_every_strategy_has_a_case():
    assert set(CASES) == set(STRATEGIES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("conditional", [False, True])
def test_asks_are_allowed_and_count_up(name, conditional):
    space = SPACES[conditional]
    rows, _ = run(make(name, conditional), trials=40, in_flight=3, shuffle=True)
    assert bool(space.valid(rows).all())


@pytest.mark.parametrize("name", CASES)
def test_same_seed_same_trials_and_another_seed_others(name):
    strategy = make(name)
    first, again, other = (run(strategy, trials=25, seed=s)[0] for s in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("name", PURE)
def test_jit_changes_nothing(name):
    strategy = make(name)
    compiled = run(strategy, trials=2)[0]
    with jax.disable_jit():  # operation by operation, each compiled by itself: seconds for each trial
        plain = run(strategy, trials=2)[0]
    assert (compiled == plain).all()


@pytest.mark.parametrize("name", CASES)
def test_the_state_is_all_there_is_after_every_tell(name):
    """Saved and loaded after each tell, with results out of order, a search asks for the same rows."""
    strategy = make(name)
    trials = 25 if strategy.pure else 15  # a library may repeat its whole history for each state that was loaded
    whole, end = run(strategy, trials=trials, in_flight=3, shuffle=True)
    again, loaded = run(strategy, trials=trials, in_flight=3, shuffle=True, between=through_numpy)
    assert (whole == again).all()
    assert same(end, loaded)


@pytest.mark.parametrize("name", CASES)
def test_a_journal_replayed_into_a_new_strategy_gives_the_same_remaining_asks(name):
    whole, _ = run(make(name), trials=20)
    other = STRATEGIES[name](SPACES[False], **CASES[name])
    # the same programs where they are pure: compiled ones hold no memory
    ask, tell = jitted(make(name) if other.pure else other)
    state = other.init(jax.random.key(0))
    for row in whole:
        asked, state = ask(state, 1)
        assert (np.asarray(asked.row[0]) == row).all()
        state = tell(state, asked.id, *told(additive(row)))


@pytest.mark.parametrize("name", CASES)
def test_several_at_once_equal_one_after_the_other(name):
    strategy = make(name)
    state = strategy.init(jax.random.key(0))
    together, _ = jitted(strategy)[0](state, 5)
    for i in range(5):
        asked, state = jitted(strategy)[0](state, 1)
        assert (asked.row[0] == together.row[i]).all()
        assert asked.id[0] == together.id[i] == i


@pytest.mark.parametrize("name", CASES)
def test_rows_that_are_given_are_asked_first(name):
    """In their order, not as random ones, and with what a resume needs to ask for them again."""
    given = [[3, 1, 0, 2, 2, 1], [1, 0, 1, 0, 3, 3]]
    strategy = STRATEGIES[name](SPACES[True], **CASES[name], first=given)
    asked, _ = jitted(strategy)[0](strategy.init(jax.random.key(0)), 4)
    assert asked.row[:2].tolist() == given == strategy.arguments["first"]
    assert not np.asarray(asked.random)[:2].any()
    with pytest.raises(BadInput, match="not allowed"):
        STRATEGIES[name](SPACES[True], **CASES[name], first=[[0, 1, 0, 0, 0, 0]])


@pytest.mark.parametrize("name", CASES)
def test_failures_are_tolerated(name):
    """Every third candidate fails; the search goes on and the rest is not worse for it than at random."""
    calls = iter(range(10**6))
    rows, _ = run(make(name), trials=60, score=lambda r: np.nan if next(calls) % 3 == 0 else additive(r))
    assert len(rows) == 60
    if name in LEARN:
        assert additive(rows[30:]).mean() > additive(rows[:8]).mean()


@pytest.mark.parametrize("name", CASES)
def test_all_fail(name):
    space = SPACES[False]
    rows, _ = run(make(name), trials=30, score=lambda r: np.nan)
    assert bool(space.valid(rows).all())


@pytest.mark.parametrize("name", CASES)
def test_unknown_empty_and_repeated_ids_change_nothing(name):
    strategy = make(name)
    ask, tell = jitted(strategy)
    _, state = run(strategy, trials=10)
    assert same(state, tell(state, jnp.asarray([-1, 777, 3, 9, 9]), jnp.ones((5, 1)) * 99, jnp.zeros((5, 0))))
    # and of an id that comes twice in one call the first counts
    asked, state = ask(state, 5)
    scores = jnp.asarray([[1.0], [9.0], [2.0], [3.0], [9.0]])
    twice = tell(state, asked.id[jnp.asarray([0, 0, 1, 2, 1])], scores, jnp.zeros((5, 0)))
    once = tell(state, jnp.asarray([*asked.id[:1], -1, *asked.id[1:3], -1]), scores, jnp.zeros((5, 0)))
    assert same(once, twice)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scores, violation", [((2,), (2, 0)), ((3, 1), (2, 0)), ((2, 1), (3, 0)), ((2, 1), (2,))])
def test_results_of_the_wrong_shape_are_refused(name, scores, violation):
    strategy = make(name)
    asked, state = jitted(strategy)[0](strategy.init(jax.random.key(0)), 2)
    with pytest.raises(BadInput, match=f"^{name}: (scores|violations) are of shape"):
        strategy.tell(state, asked.id, jnp.ones(scores), jnp.zeros(violation))


@pytest.mark.parametrize("name", LEARN)
@pytest.mark.parametrize("scores, violation", [((2, 2), (2, 0)), ((2, 1), (2, 1))])
def test_results_of_another_objective_are_refused(name, scores, violation):
    strategy = make(name)
    asked, state = jitted(strategy)[0](strategy.init(jax.random.key(0)), 2)
    with pytest.raises(BadInput, match=f"^{name}: (scores|violations) are of shape"):
        strategy.tell(state, asked.id, jnp.ones(scores), jnp.zeros(violation))


MOST = 7  # of a row's sum; a random one's is 9


def several(row):
    """Two scores that pull apart, and a limit on the sum of the row; 0.1 over it is ten per cent."""
    row = np.asarray(row)
    return [additive(row), WEIGHTS[::-1][np.arange(6), row].sum()], [max(0.0, row.sum() / MOST - 1)]


@pytest.mark.parametrize("name", CASES)
def test_several_objectives_and_a_constraint(name):
    """Every ask is allowed, saving and failures included; what learns keeps to the limit more often than chance."""
    strategy, within = make(name, True, 2, 1), []
    for seed in range(3):
        calls = iter(range(10**6))
        score = lambda r: ([np.nan] * 2, [np.nan]) if next(calls) % 10 == 9 else several(r)  # noqa: B023, E731
        saving = through_numpy if strategy.pure else lambda state: state
        rows, _ = run(strategy, trials=60, seed=seed, score=score, in_flight=3, shuffle=True, between=saving)
        assert bool(SPACES[True].valid(rows).all())
        within.append(rows[30:].sum(-1) <= MOST)
    if name in LEARN:
        chance = (np.asarray(SPACES[True].sample(jax.random.key(0), 4000)).sum(-1) <= MOST).mean()
        assert np.mean(within) > chance + 0.15


@pytest.mark.parametrize("name", LEARN)
def test_beats_random_search_at_the_same_budget(name):
    """Mean of the best of 60 over 8 seeds, against random search on the same additive function."""
    best = {n: [additive(run(make(n), trials=60, seed=s)[0]).max() for s in range(8)] for n in (name, "random_search")}
    assert np.mean(best[name]) > np.mean(best["random_search"]) + 0.1


@pytest.mark.parametrize("name", PURE)
def test_many_seeds_in_one_call(name):
    """Pure: a whole search is a scan, and seeds are a vmap."""
    strategy, table = make(name), jnp.asarray(WEIGHTS)

    def one(key):
        def step(state, _):
            asked, state = strategy.ask(state, 1)
            scores = table[jnp.arange(6), asked.row].sum(-1)[:, None]
            return strategy.tell(state, asked.id, scores, jnp.zeros((1, 0))), asked.row[0]

        return jax.lax.scan(step, strategy.init(key), None, length=20)[1]

    rows = jax.jit(jax.vmap(one))(jax.vmap(jax.random.key)(jnp.arange(3)))
    for seed in range(3):
        assert (np.asarray(rows[seed]) == run(strategy, trials=20, seed=seed)[0]).all()
