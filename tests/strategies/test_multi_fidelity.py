"""Successive halving, Hyperband, ASHA and mixed fidelity: who is trained for how long."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace
from strategies import asha, hyperband, mixed_fidelity, predictor, successive_halving
from strategies.successive_halving import bracket

SPACE = SearchSpace(
    name="line",
    decisions=tuple(Decision(f"d{i}", range(10)) for i in range(3)),
    network=lambda net, macro: net.linear(net.global_avg_pool(net.input), macro.classes),
    macro=Macro(1, 1, (4, 4, 1), 2),
)


def value(row):
    return float(np.asarray(row) @ [100, 10, 1])


def play(strategy, *, score=lambda row, epochs: value(row), in_flight=1, seed=0):
    """(id, row, epochs, random) of all that is asked, results told in random order until the strategy is done."""
    ask, tell = jax.jit(strategy.ask, static_argnums=1), jax.jit(strategy.tell)
    state, asked, waiting = strategy.init(jax.random.key(seed)), [], []
    shuffle = np.random.RandomState(seed)
    while True:
        slot, after = ask(state, 1)
        if int(slot.id[0]) >= 0 and len(waiting) < in_flight:
            state = after
            asked.append(
                (int(slot.id[0]), tuple(np.asarray(slot.row[0]).tolist()), int(slot.epochs[0]), bool(slot.random[0]))
            )
            waiting.append(asked[-1])
        elif waiting:
            id, row, epochs, _ = waiting.pop(shuffle.randint(len(waiting)))
            state = tell(state, jnp.asarray([id]), jnp.asarray([[score(row, epochs)]]), jnp.zeros((1, 0)))
        else:
            assert bool(strategy.done(state))
            return asked


def at(asked, epochs):
    return [row for _, row, e, _ in asked if e == epochs]


# ---- successive halving and Hyperband ----------------------------------------------------------------------------
@pytest.mark.parametrize("n, sizes", [(27, (27, 9, 3, 1)), (81, (81, 27, 9, 3, 1)), (16, (16, 5, 1))])
def test_promotions_are_those_of_the_papers_table(n, sizes):
    """Hyperband's table 1 has brackets of 81, 27, 9, 3, 1 and 27, 9, 3, 1 at eta = 3."""
    fidelities = tuple(3**k for k in range(len(sizes)))
    asked = play(successive_halving(SPACE, fidelities=fidelities, trainings=sum(sizes), eta=3), in_flight=4)
    assert tuple(len(at(asked, e)) for e in fidelities) == sizes


def test_the_best_of_each_rung_go_on_and_only_when_it_is_complete():
    asked = play(successive_halving(SPACE, fidelities=(1, 2, 4), trainings=13), in_flight=5)
    assert [e for *_, e, _ in asked] == [1] * 9 + [2] * 3 + [4]
    best = sorted(at(asked, 1), key=value, reverse=True)
    assert at(asked, 2) == best[:3] and at(asked, 4) == best[:1]
    assert [random for *_, random in asked] == [True] * 9 + [False] * 4


def test_the_bracket_is_the_largest_that_the_budget_allows():
    for budget in (250, 400, 1200):
        counts = bracket((12, 200), 3, budget)
        fitting = [n for n in range(1, 101) if 12 * n + 200 * max(1, n // 3) <= budget]
        assert counts == (max(fitting), max(1, max(fitting) // 3))
    assert bracket((12, 200), 3, 211) == ()
    assert bracket((1, 3, 9), 3, 10**6, 13) == (9, 3, 1)


def test_hyperband_has_a_bracket_for_each_fidelity_within_its_share():
    fidelities, budget = (1, 3, 9, 27, 81), 5 * 5 * 81
    asked = play(hyperband(SPACE, fidelities=fidelities, budget=budget))
    epochs = [e for *_, e, _ in asked]
    starts = [0] + [i for i in range(1, len(epochs)) if epochs[i] < epochs[i - 1]] + [len(epochs)]
    brackets = [epochs[a:b] for a, b in itertools.pairwise(starts)]
    # the last two brackets end and begin with 81 epochs
    assert [b[0] for b in brackets] == [1, 3, 9, 27] and sum(epochs) <= budget
    assert [brackets[0].count(e) for e in fidelities] == [81, 27, 9, 3, 1]
    # the table's other brackets begin with 27, 9, 6 and 5; ours use up their shares of 405 epochs
    assert brackets[1].count(3) >= 27 and brackets[2].count(9) >= 9 and brackets[3].count(27) >= 6
    assert all(sum(b) <= budget / 5 for b in brackets[:3])


def test_a_failed_candidate_does_not_go_on():
    fails = lambda row, epochs: np.nan if row[0] >= 2 else value(row)  # noqa: E731
    for strategy in (
        successive_halving(SPACE, fidelities=(1, 2), trainings=24, eta=2),
        asha(SPACE, fidelities=(1, 2), trainings=40, eta=2),
        mixed_fidelity(SPACE, fidelities=(1, 2), trainings=30),
    ):
        asked = play(strategy, score=fails)
        again = [row for _, row, e, random in asked if e == 2 and not random]
        assert again and all(row[0] < 2 for row in again)


# ---- ASHA --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("in_flight", [1, 5])
@pytest.mark.parametrize("failing", [0, 3])
def test_asha_promotes_as_its_algorithm_says(in_flight, failing):
    """Against the paper's algorithm 2 written with lists, results arriving out of order."""
    fidelities, eta = (1, 3, 9), 3
    strategy = asha(SPACE, fidelities=fidelities, trainings=60, eta=eta)
    ask, tell = jax.jit(strategy.ask, static_argnums=1), jax.jit(strategy.tell)
    state, shuffle = strategy.init(jax.random.key(1)), np.random.RandomState(1)
    told, promoted, waiting = [[], [], []], [set(), set(), set()], []
    for id in range(60):
        slot, state = ask(state, 1)
        expected = None
        for k in (1, 0):
            ranked = sorted(told[k], key=lambda t: (-t[0], t[1]))
            top = [t for t in ranked[: len(ranked) // eta] if t[1] not in promoted[k] and t[0] > -np.inf]
            if top:
                expected = (k, top[0])
                break
        row, epochs = tuple(np.asarray(slot.row[0]).tolist()), int(slot.epochs[0])
        level = fidelities.index(epochs)
        if expected is None:
            assert level == 0 and bool(slot.random[0])
        else:
            k, (_, chosen, chosen_row) = expected
            assert level == k + 1 and row == chosen_row and not bool(slot.random[0])
            promoted[k].add(chosen)
        waiting.append((id, row, level))
        while len(waiting) >= in_flight:
            i, row, level = waiting.pop(shuffle.randint(len(waiting)))
            failed = failing and i % failing == 0
            state = tell(state, jnp.asarray([i]), jnp.asarray([[np.nan if failed else value(row)]]), jnp.zeros((1, 0)))
            told[level].append((-np.inf if failed else value(row), i, row))
    assert len(promoted[0]) > 5 and len(promoted[1]) > 1


@pytest.mark.parametrize("factory", [asha, successive_halving, hyperband, mixed_fidelity])
def test_the_budget_of_epochs_is_used_and_not_exceeded(factory):
    asked = play(factory(SPACE, fidelities=(3, 20), budget=130), in_flight=2)
    spent = sum(e for *_, e, _ in asked)
    # no strategy can use less than what a shortest training would have fitted into; a bracket comes in steps
    assert 130 - (3 if factory in (asha, mixed_fidelity) else 25) < spent <= 130
    assert at(asked, 20)


# ---- mixed fidelity ----------------------------------------------------------------------------------------------
def test_full_trainings_are_of_the_best_short_ones_after_all_of_them():
    asked = play(mixed_fidelity(SPACE, fidelities=(1, 10), budget=60, share=0.5), in_flight=4)
    epochs = [e for *_, e, _ in asked]
    assert epochs == [1] * 30 + [10] * 3
    ranked = sorted(set(at(asked, 1)), key=value, reverse=True)
    assert set(at(asked, 10)) <= set(ranked[:8]) and len(set(at(asked, 10))) == 3


def test_short_trainings_are_those_of_the_predictor():
    mixed = play(mixed_fidelity(SPACE, fidelities=(1, 10), budget=50, share=0.5))
    alone = play(predictor(SPACE, capacity=30))
    assert at(mixed, 1) == [row for _, row, *_ in alone]


# ---- bad input ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("factory", [asha, successive_halving, hyperband, mixed_fidelity])
@pytest.mark.parametrize(
    "settings, says",
    [
        ({"fidelities": (9, 3), "budget": 100}, "rising"),
        ({"fidelities": (), "budget": 100}, "rising"),
        ({"fidelities": (0, 3), "budget": 100}, "rising"),
        ({"fidelities": (1, 3)}, "give budget=EPOCHS"),
        ({"fidelities": (5, 30), "budget": 3}, "too small"),
        ({"fidelities": (5, 30), "budget": -3}, "at least 1"),
    ],
)
def test_fidelities_and_budgets_without_a_meaning_are_refused(factory, settings, says):
    with pytest.raises(BadInput, match=says):
        factory(SPACE, **settings)
