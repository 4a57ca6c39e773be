"""Limits, rewards and Pareto ranks against hand-computed numbers and plain loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas.errors import BadInput
from nas.objective import (
    SORTED_ABOVE,
    Limit,
    accuracy,
    check_costs,
    dominates,
    fbnet_loss,
    fitness,
    hypervolume,
    mnasnet,
    pareto,
    pareto_front,
    parse_quantity,
    proxylessnas_loss,
    proxylessnas_product,
)


# ---- quantities --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "quantity", "value"),
    [
        ("20ms", "latency", 20.0),
        (" 20 ms ", "latency", 20.0),
        ("20MS", "latency", 20.0),
        ("0.02s", "latency", 20.0),
        (".02s", "latency", 20.0),
        ("2e1ms", "latency", 20.0),
        ("1.5E-2s", "latency", 15.0),
        ("20000us", "latency", 20.0),
        ("3mJ", "energy", 3.0),
        ("0.5j", "energy", 500.0),
        ("4MiB", "memory", 4 * 2**20),
        ("4MB", "memory", 4e6),
        ("512b", "memory", 512.0),
        ("1.2M", "params", 1.2e6),
        ("70params", "params", 70.0),
        ("30m", "macs", 30e6),
        ("2G", "macs", 2e9),
    ],
)
def test_quantities_are_read(text, quantity, value):
    assert parse_quantity(text, quantity, "--limit") == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "quantity", "message"),
    [
        ("20", "latency", "has no unit; latency takes one of us, ms, s"),
        (20, "latency", "'20' has no unit"),
        ("1e3", "latency", "has no unit"),
        ("20 minutes", "latency", "'minutes' is no unit of latency"),
        ("20mj", "latency", "'mj' is no unit of latency"),
        ("20ms", "memory", "'ms' is no unit of memory"),
        ("20ms", "params", "'ms' is no unit of params"),
        ("", "latency", "is not a number with a unit; write for example 20us"),
        ("ms", "latency", "is not a number with a unit"),
        ("-3ms", "latency", "is not a number with a unit"),
        ("nanms", "latency", "is not a number with a unit"),
        ("infms", "latency", "is not a number with a unit"),
        ("1,5ms", "latency", "is not a number with a unit"),
        ("20 ms\nor so", "latency", "'20 ms or so' is not a number with a unit"),
        (None, "latency", "'None' is not a number with a unit"),
        ("0ms", "latency", "must be above zero and finite"),
        ("1e999ms", "latency", "must be above zero and finite"),
        ("1e307s", "latency", "must be above zero and finite"),
        ("1e-323us", "latency", "must be above zero and finite"),
    ],
)
def test_bad_quantities_are_refused_in_one_line(text, quantity, message):
    with pytest.raises(BadInput) as raised:
        parse_quantity(text, quantity, "--limit cpu")
    assert str(raised.value).startswith("--limit cpu: ") and message in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.text(max_size=12), st.sampled_from(["latency", "energy", "memory", "params", "macs"]))
def test_any_text_is_a_number_or_bad_input(text, quantity):
    try:
        assert 0 < parse_quantity(text, quantity, "here") < math.inf
    except BadInput as error:
        assert "\n" not in str(error)


# ---- scores ------------------------------------------------------------------------------------------------------
def reward(objective, **metrics):
    return float(objective(metrics)[0][0])


def test_mnasnet_against_numbers_by_hand():
    soft = mnasnet("cpu", 80.0)
    assert reward(soft, accuracy=0.75, cpu=80.0) == pytest.approx(0.75)
    assert reward(soft, accuracy=0.75, cpu=160.0) == pytest.approx(0.75 * 0.9526380, rel=1e-6)  # 2 ** -0.07
    assert reward(soft, accuracy=0.75, cpu=40.0) == pytest.approx(0.75 * 1.0497167, rel=1e-6)
    hard = mnasnet("cpu", 80.0, alpha=0.0, beta=-1.0)
    assert reward(hard, accuracy=0.75, cpu=20.0) == pytest.approx(0.75)
    assert reward(hard, accuracy=0.75, cpu=160.0) == pytest.approx(0.375)


@pytest.mark.parametrize("latency", [20.0, 80.0, 300.0])
def test_the_papers_default_trades_five_per_cent_for_twice_the_latency(latency):
    objective = mnasnet("cpu", 80.0)
    slow = reward(objective, accuracy=0.7 * 1.05, cpu=2 * latency)
    assert slow == pytest.approx(reward(objective, accuracy=0.7, cpu=latency), rel=5e-4)


def test_accuracy_and_pareto_scores_and_relative_violations():
    limits = (Limit("cpu", 20.0), Limit("params", 1e6))
    metrics = {"accuracy": 0.9, "cpu": 22.0, "params": 5e5}
    scores, violation = accuracy(limits=limits)(metrics)
    assert scores.tolist() == pytest.approx([0.9]) and violation.tolist() == pytest.approx([0.1, 0.0])
    objective = pareto("cpu", "params")
    scores, violation = objective(metrics)
    assert objective.axes == ("accuracy", "cpu", "params")
    assert scores.tolist() == pytest.approx([0.9, -22.0, -5e5]) and violation.shape == (0,)
    assert scores.dtype == violation.dtype == np.float32


@pytest.mark.parametrize(
    ("objective", "metrics"),
    [
        (accuracy(), {}),
        (accuracy(), {"accuracy": math.nan}),
        (accuracy(), {"accuracy": math.inf}),
        (accuracy(limits=(Limit("cpu", 1.0),)), {"accuracy": 0.9}),
        (accuracy(limits=(Limit("cpu", 1.0),)), {"accuracy": 0.9, "cpu": math.nan}),
        (mnasnet("cpu", 10.0), {"accuracy": 0.9}),
        (mnasnet("cpu", 10.0), {"accuracy": 0.9, "cpu": 0.0}),
        (mnasnet("cpu", 10.0), {"accuracy": 0.9, "cpu": -1.0}),
        (mnasnet("cpu", 10.0, alpha=-400.0), {"accuracy": 0.9, "cpu": 1e-3}),
        (pareto("cpu"), {"accuracy": 0.9}),
        (pareto("cpu"), {"accuracy": math.nan, "cpu": 1.0}),
        (pareto("cpu"), {"accuracy": 0.9, "cpu": 1e60}),
    ],
)
def test_what_is_missing_or_not_finite_fails_the_candidate(objective, metrics):
    scores, _ = objective(metrics)
    assert np.isnan(scores).all() and scores.dtype == np.float32


def test_an_unknown_cost_is_not_within_its_limit():
    _, violation = accuracy(limits=(Limit("cpu", 1.0),))({"accuracy": 0.9})
    assert np.isnan(violation).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mnasnet("cpu", 0.0), "target is 0.0"),
        (lambda: mnasnet("cpu", math.nan), "target is nan"),
        (lambda: pareto(), "at least one cost"),
        (lambda: check_costs(pareto("cpv"), ["cpu", "params"]), "no cost 'cpv'; did you mean 'cpu'"),
        (lambda: check_costs(accuracy(limits=(Limit("gpu", 1.0),)), ["cpu"]), "no cost 'gpu'"),
    ],
)
def test_objectives_that_cannot_work_are_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()


# ---- Pareto ------------------------------------------------------------------------------------------------------
def plain_dominates(scores, violation):
    """Deb's constrained domination, pair by pair."""
    n = len(scores)
    failed = [not all(map(math.isfinite, row)) for row in scores]
    over = [math.inf if math.isnan(v) else v for v in (float(np.sum(row, dtype=np.float32)) for row in violation)]

    def beats(i, j):
        if failed[i] or failed[j]:
            # a candidate whose violation is not known is no better than one that failed
            return not failed[i] and over[i] < math.inf
        if over[i] > 0 or over[j] > 0:
            return over[i] < over[j]
        pairs = list(zip(scores[i], scores[j], strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    return np.asarray([[beats(i, j) for j in range(n)] for i in range(n)], bool).reshape(n, n)


# few distinct numbers, so that ties, duplicates and failures are common
SCORES = st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0, math.nan, math.inf, -math.inf])
OVER = st.sampled_from([0.0, 0.0, 0.5, 1.0, math.nan, math.inf])
N, M, C = 9, 2, 2


def arrays(n, *, clean=False):
    scores = SCORES.filter(math.isfinite) if clean else SCORES
    return (
        hnp.arrays(np.float32, (n, M), elements=scores),
        hnp.arrays(np.float32, (n, C), elements=OVER),
        hnp.arrays(bool, (n,)),
    )


@settings(max_examples=300, deadline=None)
@given(*arrays(N))
def test_ranks_and_front_against_plain_loops(scores, violation, valid):
    wanted = plain_dominates(scores, violation)
    np.testing.assert_array_equal(jax.jit(dominates)(scores, violation), wanted)
    rank = np.where(valid, -(wanted & valid[:, None]).sum(0).astype(np.float32), -np.inf)
    np.testing.assert_array_equal(jax.jit(fitness)(scores, violation, valid=valid), rank)
    good = [i for i in range(N) if np.isfinite(scores[i]).all() and violation[i].sum() <= 0]
    front = [i in good and not any(wanted[j, i] for j in good) for i in range(N)]
    np.testing.assert_array_equal(pareto_front(scores, violation), front)


@settings(max_examples=100, deadline=None)
@given(*arrays(N, clean=True))
def test_domination_is_a_strict_order(scores, violation, _):
    beats = np.asarray(dominates(scores, violation))
    assert not beats.diagonal().any() and not (beats & beats.T).any()
    assert not ((beats.astype(int) @ beats.astype(int) > 0) & ~beats).any()


def test_one_objective_orders_as_the_score_does():
    scores = np.asarray([[0.3], [0.9], [np.nan], [0.5]], np.float32)
    ranks = np.asarray(fitness(scores, np.zeros((4, 0), np.float32), valid=np.ones(4, bool)))
    assert np.argsort(-ranks).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("constraints", [0, 1, 2])
def test_many_members_are_ranked_by_a_sort_as_by_comparing_each_with_each(constraints):
    random, n = np.random.default_rng(constraints), SORTED_ABOVE + 1
    scores = random.choice([0.0, -0.0, 0.25, 0.5, -1.0, math.nan, math.inf, -math.inf], (n, 1)).astype(np.float32)
    over = random.choice([0.0, 0.0, 0.0, 0.5, math.nan, math.inf], (n, constraints)).astype(np.float32)
    valid = random.random(n) < 0.8
    wanted = np.where(valid, -(np.asarray(dominates(scores, over)) & valid[:, None]).sum(0).astype(np.float32), -np.inf)
    assert len(np.unique(wanted)) > 4
    np.testing.assert_array_equal(jax.jit(fitness)(scores, over, valid=valid), wanted)


def test_fronts_of_nothing_of_failures_and_of_twins():
    none = np.zeros((0, 0), np.float32)
    assert pareto_front(none, none).tolist() == []
    failed = np.full((2, 2), np.nan, np.float32)
    assert pareto_front(failed, np.zeros((2, 0))).tolist() == [False, False]
    twins = np.asarray([[1.0, -1.0], [1.0, -1.0], [0.5, -2.0]])
    assert pareto_front(twins, np.zeros((3, 1))).tolist() == [True, True, False]
    assert pareto_front(twins, np.asarray([[1.0], [1.0], [0.0]])).tolist() == [False, False, True]


# ---- differentiable terms ----------------------------------------------------------------------------------------
def test_the_differentiable_forms_are_those_of_the_papers():
    # ProxylessNAS: at the target nothing is added; at twice the target `weight`
    assert float(proxylessnas_loss(jnp.float32(1.5), 80.0, 80.0)) == pytest.approx(1.5)
    assert float(proxylessnas_loss(jnp.float32(1.5), 160.0, 80.0, weight=0.3)) == pytest.approx(1.8)
    assert float(proxylessnas_product(jnp.float32(1.5), 80.0, 80.0)) == pytest.approx(1.5)
    assert float(proxylessnas_product(jnp.float32(2.0), 80.0**2, 80.0, alpha=0.5, beta=3)) == pytest.approx(8.0)
    # FBNet: e^32 microseconds have a logarithm of 32, and 32^0.6 is 8
    assert float(fbnet_loss(jnp.float32(1.0), math.exp(32) / 1000)) == pytest.approx(0.2 * 8, rel=1e-5)


@pytest.mark.parametrize("term", [proxylessnas_loss, proxylessnas_product])
def test_a_slower_network_is_a_larger_loss_also_in_the_gradient(term):
    slope = jax.grad(lambda cost: term(jnp.float32(1.0), cost, 20.0))
    assert float(slope(jnp.float32(15.0))) > 0 and float(slope(jnp.float32(40.0))) > 0


def test_targets_without_a_meaning_are_refused():
    with pytest.raises(BadInput, match="must be above zero"):
        proxylessnas_loss(1.0, 1.0, 0.0)
    with pytest.raises(BadInput, match="take a smaller unit"):
        proxylessnas_product(1.0, 1.0, 1.0)


def test_limits_on_several_devices_hold_together():
    objective = accuracy(limits=[Limit("phone", 20.0), Limit("server", 5.0)])
    _, within = objective({"accuracy": 0.9, "phone": 20.0, "server": 4.0})
    _, over = objective({"accuracy": 0.9, "phone": 10.0, "server": 10.0})
    assert within.tolist() == [0, 0] and over.tolist() == [0, 1]
    found = pareto("phone", "server")({"accuracy": 0.9, "phone": 10.0, "server": 4.0})[0]
    np.testing.assert_allclose(found, [0.9, -10, -4])


# ---- hypervolume -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_hypervolume_counts_the_unit_cells_that_are_dominated(axes):
    """Integer points dominate whole cells, which can be counted."""
    random = np.random.RandomState(axes)
    for n in (1, 4, 9):
        reference = random.randint(-2, 2, axes)
        points = reference + random.randint(-1, 6, (n, axes))
        cells = np.stack(np.meshgrid(*[np.arange(6)] * axes, indexing="ij"), -1).reshape(-1, axes) + reference
        dominated = (points[:, None] >= cells[None] + 1).all(-1).any(0).sum()
        assert hypervolume(points, reference) == dominated


def test_hypervolume_equals_optuna_s_on_random_fronts():
    from optuna._hypervolume import compute_hypervolume

    random = np.random.RandomState(0)
    for axes in (2, 3, 4):
        points = random.uniform(size=(25, axes))
        assert np.isclose(hypervolume(points, np.zeros(axes)), compute_hypervolume(-points, np.zeros(axes)))


def test_hypervolume_of_nothing_and_of_failures_is_zero():
    assert hypervolume(np.zeros((0, 2)), np.zeros(2)) == 0
    assert hypervolume(np.asarray([[np.nan, 1.0], [1.0, 0.0], [-1.0, 5.0]]), np.zeros(2)) == 0


def test_the_hard_reward_is_the_accuracy_within_the_target_and_falls_with_the_cost_above():
    hard = mnasnet("latency", 20.0, alpha=0.0, beta=-1.0)
    for latency, reward in ((5.0, 0.8), (20.0, 0.8), (40.0, 0.4)):
        assert np.isclose(hard({"accuracy": 0.8, "latency": latency})[0][0], reward)
