"""Tables fitted to whole networks: against sums they should find, brute force, and published devices."""

import csv
import gzip
import itertools

import numpy as np
import pytest

from hw_models.fit import NOISE, Terms, agreement, fit, regress, ridge, usable
from nas.cost import Cost, Stamp, load_cost
from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace, all_rows
from nas.unread import without_unread
from search_spaces.nasbench201 import from_string, nasbench201

STAMP = Stamp("latency", "ms", "a phone", "", 1, "float32", {}, "made up")


def chain(sizes=(3, 3, 4, 2), factors=None):
    decisions = tuple(Decision(f"d{i}", tuple(range(n))) for i, n in enumerate(sizes))
    network = lambda net, macro: net.linear(net.global_avg_pool(net.input), macro.classes)  # noqa: E731
    return SearchSpace("chain", decisions, network, Macro(1, 1, (4, 4, 1), 2), factors=factors)


def sums(space, seed, pairs=0.0):
    """float64[all rows]: 5 plus an entry of each decision, and of each pair of them."""
    rng, rows = np.random.default_rng(seed), all_rows(space)
    value = np.full(len(rows), 5.0)
    for i, k in enumerate(space.cardinalities):
        value += rng.uniform(0, 2, k)[rows[:, i]]
    for (i, k), (j, m) in itertools.combinations(enumerate(space.cardinalities), 2):
        value += pairs * rng.uniform(-1, 1, (k, m))[rows[:, i], rows[:, j]]
    return value


# ---- the regression ----------------------------------------------------------------------------------------------
def test_a_sum_is_found_from_a_part_of_the_networks():
    space = chain()
    rows, values = all_rows(space), sums(space, 1)
    some = np.random.default_rng(0).permutation(len(rows))[:30]
    cost = fit(space, rows[some], values[some], STAMP)
    np.testing.assert_allclose(cost(rows), values, rtol=1e-3)
    assert cost.stamp.error < 1e-3 and cost.details["fit"]["shares"]["pairs"] == 0


def test_pairs_are_taken_where_they_tell_and_only_there():
    space = chain((3, 3, 3, 3, 3))
    rows = all_rows(space)
    noise = np.random.default_rng(2).normal(1, 0.05, len(rows))
    some = np.random.default_rng(0).permutation(len(rows))[:150]
    rest = np.setdiff1d(np.arange(len(rows)), some)
    for pairs, taken in ((0.0, False), (0.7, True)):
        values = sums(space, 3, pairs) * noise
        base, factors, chosen = regress(space, rows[some], values[some])
        assert (chosen.shares[2] > 0) == taken
        assert agreement(Cost(STAMP, base, factors)(rows[rest]), values[rest])["mape"] < 0.07


def test_decisions_of_equal_options_learn_from_each_other():
    # the same price wherever an option stands: from ten networks of eight decisions, 24 separate prices cannot be told
    space = chain((3,) * 8)
    rows = np.random.default_rng(0).integers(0, 3, (300, 8)).astype(np.int32)
    values = 2.0 + np.asarray([0.5, 1.0, 3.0])[rows].sum(1)
    base, factors, chosen = regress(space, rows[:10], values[:10])
    np.testing.assert_allclose(Cost(STAMP, base, factors)(rows[10:]), values[10:], rtol=0.01)
    assert chosen.shares[0] == 1.0


def test_what_nobody_reads_is_left_out_where_the_device_leaves_it_out_and_only_there():
    space = nasbench201()
    rows = np.random.default_rng(1).integers(0, 5, (400, 6)).astype(np.int32)
    price = np.asarray([0.0, 0.1, 1.0, 3.0, 0.5])
    for leaves_out in (True, False):
        run = without_unread(space, rows) if leaves_out else rows
        values = (2.0 + price[run].sum(1)) * np.random.default_rng(2).normal(1, 0.02, len(rows))
        base, factors, chosen = regress(space, rows[:100], values[:100])
        assert chosen.unread == leaves_out
        assert agreement(Cost(STAMP, base, factors)(rows[100:]), values[100:])["mape"] < 0.025


def test_the_leave_one_out_error_is_that_of_leaving_one_out():
    space = chain()
    rows, values = all_rows(space)[::3], sums(space, 4, 0.5)[::3]
    kernel = Terms(space).kernels(rows)[2] + Terms(space).kernels(rows)[1]
    weights = values.mean() / values

    def solved(keep, noise):
        """Base and alpha by the saddle-point equations of the same problem, written straight."""
        scaled = (kernel * np.outer(weights, weights))[np.ix_(keep, keep)] + noise * np.eye(len(keep))
        system = np.block([[scaled, weights[keep, None]], [weights[None, keep], np.zeros((1, 1))]])
        *dual, base = np.linalg.solve(system, np.append(np.ones(len(keep)), 0))
        return base, np.asarray(dual) * weights[keep]

    everyone = np.arange(len(rows))
    for noise, error, base, alpha in list(ridge(kernel, weights))[6::4]:
        wanted = solved(everyone, noise)
        np.testing.assert_allclose(base, wanted[0], rtol=1e-6)
        np.testing.assert_allclose(alpha, wanted[1], rtol=1e-4, atol=1e-7)
        left = []
        for out in everyone:
            keep = np.delete(everyone, out)
            other, dual = solved(keep, noise)
            left.append(1 - weights[out] * (other + kernel[out, keep] @ dual))
        assert error == pytest.approx(np.mean(np.square(left)), rel=1e-5)
    assert len(NOISE) == 16


@pytest.mark.parametrize("factors", [None, ((0, 2), (1,), (3,))])
@pytest.mark.parametrize("shares", [(1.0, 0.0, 0.0), (0.2, 0.5, 0.3)])
def test_tables_are_the_kernels_written_out(factors, shares):
    space = chain(factors=factors)
    rows, others = all_rows(space)[::5], all_rows(space)
    alpha = np.random.default_rng(5).normal(size=len(rows))
    terms = Terms(space)
    wanted = sum(s * k for s, k in zip(shares, terms.kernels(others, rows), strict=True)) @ alpha
    np.testing.assert_allclose(Cost(STAMP, 0.0, terms.factors(rows, alpha, shares))(others), wanted, atol=1e-12)


def test_the_stamped_error_is_met_by_networks_never_seen():
    space = chain((4, 4, 4, 4))
    rows, rng = all_rows(space), np.random.default_rng(6)
    values = sums(space, 7) * rng.normal(1, 0.08, len(rows))
    some = rng.permutation(len(rows))[:60]
    cost = fit(space, rows[some], values[some], STAMP)
    rest = np.setdiff1d(np.arange(len(rows)), some)
    assert agreement(cost(rows[rest]), values[rest])["mape"] == pytest.approx(cost.stamp.error, rel=0.35)
    assert cost.details["fit"]["held_out"] == "cross-validation in 5 parts"


def test_nothing_is_priced_below_zero(tmp_path):
    # unrelated figures, some a hundredth of others: the plain least squares fit goes far below zero
    space = chain((5, 5, 5, 5))
    rng = np.random.default_rng(8)
    rows = all_rows(space)[rng.permutation(625)[:30]]
    values = np.exp(rng.normal(0, 1.2, 30)) + 0.3
    cost = fit(space, rows, values, STAMP)
    assert cost(all_rows(space)).min() > 0
    cost.save(tmp_path / "t.json")
    np.testing.assert_array_equal(load_cost(tmp_path / "t.json", space)(rows), cost(rows))


# ---- published devices -------------------------------------------------------------------------------------------
# rank correlation and share within ±10 % of a plain additive model of 100 networks (mean of five draws)
ADDITIVE = {
    "1080ti_1": (0.985, 0.98),
    "gold_6226": (0.985, 0.91),
    "pixel2": (0.869, 0.43),
    "samsung_s7": (0.896, 0.54),
}


@pytest.fixture(scope="module")
def devices(published):
    with published("nasbench201/accuracy.csv").open() as file:
        rows = np.stack([from_string(line["arch_str"]) for line in csv.DictReader(file)])
    with gzip.open(published("nasbench201/latency_help.csv.gz"), "rt") as file:
        lines = list(csv.DictReader(file))
    return rows, {name: np.asarray([float(line[name]) for line in lines]) for name in lines[0]}


@pytest.mark.parametrize("device", ADDITIVE)
def test_a_hundred_networks_of_a_published_device_are_enough(devices, device):
    rows, columns = devices
    values, found = columns[device], []
    for draw in range(5):
        order = np.random.default_rng(draw).permutation(len(rows))
        base, factors, _ = regress(nasbench201(), rows[order[:100]], values[order[:100]])
        rest = order[100:5000]
        found.append(agreement(Cost(STAMP, base, factors)(rows[rest]), values[rest]))
    wanted = ADDITIVE[device]
    assert np.mean([one["spearman"] for one in found]) >= wanted[0] - 0.005
    assert np.mean([one["within_10"] for one in found]) >= wanted[1] - 0.005


def test_near_zero_entries_of_a_published_device_are_seen(devices):
    good = usable(devices[1]["pixel3"])
    assert 250 < (~good).sum() < 300 and devices[1]["pixel3"][good].min() > 0.5


# ---- refused -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, v: (r[:7], v[:7]), "7 networks are too few"),
        (lambda r, v: (r, v[:-1]), "one value for each row"),
        (lambda r, v: (r, v / 1000), "is it in another unit"),
        (lambda r, v: (r, v * 1e6), "is it in another unit"),
        (lambda r, v: (r, np.append(v[:-1], -1.0)), "1 of 72 figures are missing, negative or near zero"),
        (lambda r, v: (r, np.append(v[:-2], [np.nan, 0.01])), "2 of 72 figures"),
    ],
)
def test_figures_that_are_none_are_refused_in_one_line(change, message):
    space = chain()
    with pytest.raises(BadInput, match=message) as raised:
        fit(space, *change(all_rows(space), sums(space, 1)), STAMP)
    assert "\n" not in str(raised.value)
