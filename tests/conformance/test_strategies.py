"""Every strategy is one row of `CASES` and passes the same tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
}
LEARN = [name for name in CASES if name != "random_search"]


SPACES = {conditional: toy(conditional) for conditional in (False, True)}


@functools.cache
def make(name, conditional=False):
    return STRATEGIES[name](SPACES[conditional], **CASES[name])


@functools.cache
def _jit(ask, tell):
    return jax.jit(ask, static_argnums=1), jax.jit(tell)


def jitted(strategy):
    return _jit(strategy.ask, strategy.tell)


def run(strategy, *, trials, seed=0, score=additive, in_flight=1, shuffle=False):
    """Rows in the order asked, and the state at the end."""
    ask, tell = (strategy.ask, strategy.tell) if jax.config.jax_disable_jit else jitted(strategy)
    random = np.random.RandomState(seed)
    state, rows, waiting = strategy.init(jax.random.key(seed)), [], []
    while len(rows) < trials or waiting:
        if len(rows) < trials and len(waiting) < in_flight:
            asked, state = ask(state, 1)
            assert int(asked.id[0]) == len(rows)
            rows.append(np.asarray(asked.row[0]))
            waiting.append(int(asked.id[0]))
            continue
        at = random.randint(len(waiting)) if shuffle else 0
        id = waiting.pop(at)
        state = tell(state, jnp.asarray([id]), jnp.asarray([[score(rows[id])]]), jnp.zeros((1, 0)))
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


@pytest.mark.parametrize("name", CASES)
def test_jit_changes_nothing(name):
    strategy = make(name)
    compiled = run(strategy, trials=4)[0]
    with jax.disable_jit():
        plain = run(strategy, trials=4)[0]
    assert (compiled == plain).all()


@pytest.mark.parametrize("name", CASES)
def test_resume_from_any_tell_gives_the_same_remaining_asks(name):
    strategy = make(name)
    whole, _ = run(strategy, trials=20)
    for stop in (1, 7, 13):
        _, state = run(strategy, trials=stop)
        # through numpy and back, as a checkpoint would
        key = jax.random.key_data(state.key)
        arrays = jax.tree.map(lambda a: jnp.asarray(np.array(a)), state._replace(key=key))
        state = arrays._replace(key=jax.random.wrap_key_data(arrays.key))
        for i in range(stop, 20):
            asked, state = jitted(strategy)[0](state, 1)
            assert (np.asarray(asked.row[0]) == whole[i]).all()
            state = jitted(strategy)[1](state, asked.id, jnp.asarray([[additive(whole[i])]]), jnp.zeros((1, 0)))


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
def test_unknown_and_empty_ids_change_nothing(name):
    strategy = make(name)
    _, state = run(strategy, trials=10)
    told = strategy.tell(state, jnp.asarray([-1, 777]), jnp.ones((2, 1)) * 99, jnp.zeros((2, 0)))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(told), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("name", LEARN)
def test_beats_random_search_at_the_same_budget(name):
    """Mean of the best of 60 over 8 seeds, against random search on the same additive function."""
    best = {n: [additive(run(make(n), trials=60, seed=s)[0]).max() for s in range(8)] for n in (name, "random_search")}
    assert np.mean(best[name]) > np.mean(best["random_search"]) + 0.1


@pytest.mark.parametrize("name", CASES)
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
