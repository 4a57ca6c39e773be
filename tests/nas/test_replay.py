"""Table replay against sums worked out by hand, closed forms, and a loop that asks and tells one at a time."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas import replay as engine
from nas.errors import BadInput
from nas.replay import benchmark, joined, replay
from nas.space import Decision, Macro, SearchSpace, all_rows
from nas.strategy import Asked, Strategy
from strategies import random_search, regularized_evolution


def space_of(*sizes):
    decisions = tuple(Decision(f"d{i}", tuple(range(n))) for i, n in enumerate(sizes))
    return SearchSpace("s", decisions, lambda net, macro: net.input, Macro(1, 1, (1, 1, 1), 1))


class Counter(NamedTuple):
    asked: jax.Array


def script(space, rows, epochs, pure=True):
    """A strategy that asks for given rows and epochs one after the other, and then for nothing."""
    rows, epochs = np.asarray(rows, np.int32), np.asarray(epochs, np.int32)
    xp = jnp if pure else np

    def ask(state, n):
        at, left = xp.minimum(state.asked, len(rows) - 1), state.asked < len(rows)
        id = xp.where(left, state.asked, -1)
        asked = Asked(id[None], xp.asarray(rows)[at][None], xp.asarray(epochs)[at][None], xp.zeros(1, bool))
        return asked, Counter(state.asked + left)

    return Strategy(
        init=lambda key: Counter(xp.int32(0)),
        ask=ask,
        tell=lambda state, ids, scores, violation: state,
        done=lambda state: state.asked >= len(rows),
        name="script",
        arguments={},
        pure=pure,
    )


SPACE = space_of(2, 2, 2)
# place 0..7 by row; 4 epochs and 10 epochs rank the networks differently
AT_4 = [10, 20, 30, 40, 50, 60, 70, 80]
AT_10 = [90, 91, 92, 93, 12, 13, 14, 15]
TEST = [1, 2, 3, 4, 5, 6, 7, 8]


def table(keep=range(8)):
    keep = list(keep)
    pick = lambda values: np.asarray(values, np.float32)[keep]  # noqa: E731
    return benchmark("t", SPACE, (4, 10), all_rows(SPACE)[keep], np.stack([pick(AT_4), pick(AT_10)]), pick(TEST))


def bits(*places):
    return [[p >> 2 & 1, p >> 1 & 1, p & 1] for p in places]


@pytest.mark.parametrize("pure", [True, False])
@pytest.mark.parametrize(
    "places, epochs, queries, curve",
    [
        # best validation so far decides, not the best test
        ((3, 1, 6), (0, 0, 0), 3, (4, 4, 7)),
        # 9 epochs are between the fidelities: the higher one is trained and paid; any result there beats all at 4
        ((7, 4, 0), (0, 9, 10), 6, (8, 8, 8, 5, 5, 1)),
        # at 4 epochs again: the network chosen stays the best at 10
        ((0, 7), (10, 4), 4, (math.nan, math.nan, 1, 1)),
        # 4 + 10 leave 2 of 16 epochs: the next training does not fit, and the run is over
        ((2, 0, 7), (4, 10, 4), 4, (3, 3, 3, 1)),
        # 10 epochs do not fit into what is left: over, though 4 would have fitted
        ((2, 0, 7), (4, 10, 4), 2, (3, 3)),
        # nothing more is asked for
        ((2,), (0,), 3, (3, 3, 3)),
    ],
)
def test_by_hand(places, epochs, queries, curve, pure):
    found = replay(script(SPACE, bits(*places), epochs, pure), table(), queries=queries, runs=2)
    np.testing.assert_array_equal(found.curve, [curve, curve])
    assert (found.test == curve[-1]).all()


@pytest.mark.parametrize("pure", [True, False])
def test_absent_networks_cost_nothing_and_are_counted(pure):
    strategy = script(SPACE, bits(5, 2, 5, 7, 6), (0, 0, 0, 0, 0), pure)
    found = replay(strategy, table([0, 1, 2, 6]), queries=2, runs=3)
    np.testing.assert_array_equal(found.curve, [[3, 7]] * 3)
    assert (found.queries == 2).all() and (found.absent == 3).all() and found.absent_share == pytest.approx(3 / 5)


def test_a_strategy_that_finds_nothing_in_the_table_ends(monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE", 20)
    only = benchmark("t", space_of(1000), (1,), np.asarray([[999]]), np.ones((1, 1)), np.ones(1))
    found = replay(random_search(only.space), only, queries=3, runs=2)
    assert np.isnan(found.test).all() and (found.absent <= 20).all() and (found.queries == 0).all()


def test_too_many_epochs_are_refused():
    with pytest.raises(BadInput, match="asked for 11 epochs; t knows at most 10"):
        replay(script(SPACE, bits(1), [11]), table(), queries=3, runs=1)


def test_random_search_reaches_the_expectation_of_the_best_of_n():
    """The best of n draws with replacement has rank r with probability (r/N)^n - ((r-1)/N)^n."""
    random, space = np.random.RandomState(0), space_of(5, 5, 5, 5)
    validation = random.permutation(625).astype(np.float32)
    test = random.uniform(size=625).astype(np.float32)
    made = benchmark("t", space, (1,), all_rows(space), validation[None], test)
    found = replay(random_search(space), made, queries=30, runs=2000)
    ranked = test[np.argsort(validation)].astype(float)
    for n in (1, 7, 30):
        chance = np.diff((np.arange(626) / 625) ** n)
        expected, spread = (chance * ranked).sum(), math.sqrt((chance * ranked**2).sum() - (chance * ranked).sum() ** 2)
        assert found.curve[:, n - 1].mean() == pytest.approx(expected, abs=3 * spread / math.sqrt(2000)), n
    assert found.mean == pytest.approx(found.test.mean(), abs=1e-6)
    assert found.stderr == pytest.approx(found.test.std(ddof=1) / math.sqrt(2000), rel=1e-4)


@pytest.fixture(scope="module")
def rough():
    """A table of 4 x 4 x 4 x 4 networks, a third of them missing."""
    random, space = np.random.RandomState(1), space_of(4, 4, 4, 4)
    keep = np.sort(random.permutation(256)[:170])
    return benchmark("t", space, (2,), all_rows(space)[keep], random.uniform(size=(1, 170)), random.uniform(size=170))


def test_one_compiled_scan_equals_a_loop_of_asking_and_telling(rough):
    strategy = regularized_evolution(rough.space, population=5, tournament=2)
    many = replay(strategy, rough, queries=12, runs=4, seed=3)
    ask, tell = jax.jit(strategy.ask, static_argnums=1), jax.jit(strategy.tell)
    known = {tuple(row): i for i, row in enumerate(rough.rows.tolist())}
    for r, key in enumerate(engine.run_keys(3, 4)):
        state, seen, absent = strategy.init(key), [], 0
        while len(seen) < 12:
            asked, state = ask(state, 1)
            place = known.get(tuple(np.asarray(asked.row[0]).tolist()))
            absent += place is None
            score = np.nan if place is None else rough.validation[0, place]
            seen += [] if place is None else [place]
            state = tell(state, asked.id, jnp.full((1, 1), score), jnp.zeros((1, 0)))
        best = [max(seen[: n + 1], key=lambda p: rough.validation[0, p]) for n in range(12)]
        np.testing.assert_array_equal(many.curve[r], rough.test[best])
        assert many.absent[r] == absent and many.queries[r] == 12


def test_parts_make_the_whole(rough, monkeypatch):
    strategy = random_search(rough.space)
    whole = replay(strategy, rough, queries=5, runs=7)
    parts = [replay(strategy, rough, queries=5, runs=n, first=first) for first, n in ((0, 3), (3, 4))]
    np.testing.assert_array_equal(joined(parts, 1.0).curve, whole.curve)
    monkeypatch.setattr(engine, "PIECE", 3)
    ticks = []
    again = replay(strategy, rough, queries=5, runs=7, tick=ticks.append)
    np.testing.assert_array_equal(again.curve, whole.curve)
    assert ticks == [3, 6, 7]


def test_places_and_features_are_those_of_the_row(rough):
    table = benchmark(
        "t", rough.space, (2,), rough.rows, rough.validation, rough.test,
        features=np.arange(170.0)[:, None], feature_names=("f",),
    )  # fmt: skip
    rows = all_rows(rough.space)
    known = {tuple(row): i for i, row in enumerate(rough.rows.tolist())}
    expected = np.asarray([known.get(tuple(row), -1) for row in rows.tolist()])
    np.testing.assert_array_equal(table.place(rows), expected)
    np.testing.assert_array_equal(jax.jit(table.place)(jnp.asarray(rows)), expected)
    features = np.asarray(table.features_of(rows))[:, 0]
    np.testing.assert_array_equal(np.where(np.isnan(features), -1, features), expected)
    assert not table.complete and benchmark("t", SPACE, (1,), all_rows(SPACE), np.ones((1, 8)), TEST).complete


@pytest.mark.parametrize("values, told", [([55, 99.5], [0.55, 0.995]), ([0.5, 0.9], [0.5, 0.9]), ([-3, 90], [-3, 90])])
def test_per_cent_are_told_as_fractions(values, told):
    space, seen = space_of(2), []

    def tell(state, ids, scores, violation):
        seen.append(float(scores[0, 0]))
        return state

    made = benchmark("t", space, (1,), [[0], [1]], [values], values)
    replay(script(space, [[0], [1]], [0, 0], pure=False)._replace(tell=tell), made, queries=2, runs=1)
    assert seen == pytest.approx(told)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"rows": [[0, 0, 0], [0, 0, 1], [0, 0, 0]]}, "rows 1 and 3 are the same architecture"),
        ({"rows": [[0, 0, 0], [0, 0, 2], [1, 0, 0]]}, "row 2: .* is no row of space 's'"),
        ({"rows": [[0, 0], [0, 1], [1, 0]]}, "wants .N, 3."),
        ({"rows": np.zeros((0, 3)), "validation": np.zeros((1, 0)), "test": []}, "N above 0"),
        ({"validation": [[1, math.nan, 2]]}, "row 2: validation is not a finite number"),
        ({"test": [1, 2, math.inf]}, "row 3: test is not a finite number"),
        ({"test": [1, 2]}, "do not fit"),
        ({"epochs": (3, 3), "validation": np.ones((2, 3))}, "must rise"),
        ({"epochs": (0,)}, "at least 1"),
    ],
)
def test_bad_tables_are_refused_in_one_line(change, word):
    good = {"epochs": (1,), "rows": [[0, 0, 0], [0, 0, 1], [1, 0, 0]], "validation": [[1, 2, 3]], "test": [1, 2, 3]}
    assert benchmark("t", SPACE, **good).epochs == (1,)
    with pytest.raises(BadInput, match=word) as refused:
        benchmark("t", SPACE, **{**good, **change})
    assert "\n" not in str(refused.value)


def test_a_space_that_cannot_be_listed_is_refused():
    with pytest.raises(BadInput, match=r"1e\+15 rows"):
        benchmark("t", space_of(*[10] * 15), (1,), np.zeros((1, 15)), np.ones((1, 1)), np.ones(1))


@pytest.mark.parametrize(
    "much", [{"queries": 0, "runs": 1}, {"queries": 1, "runs": 0}, {"queries": 10**5, "runs": 10**5}]
)
def test_bad_budgets(much):
    with pytest.raises(BadInput, match="queries"):
        replay(random_search(SPACE), table(), **much)
