"""A new device from few networks: against devices made up of others, brute force, and published devices."""

import csv
import gzip
from dataclasses import replace

import numpy as np
import pytest

from hw_models.fit import agreement, regress, usable
from hw_models.transfer import NOISE, SHARES, SIMULATED, _solve, chip_of, choose, learn, left_out_by, predict
from nas.cost import Cost, Stamp
from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace, all_rows
from nas.unread import without_unread
from search_spaces.nasbench201 import from_string, nasbench201

STAMP = Stamp("latency", "ms", "a phone", "", 1, "float32", {}, "made up")


def chain(sizes=(4, 4, 4, 4)):
    decisions = tuple(Decision(f"d{i}", tuple(range(n))) for i, n in enumerate(sizes))
    network = lambda net, macro: net.linear(net.global_avg_pool(net.input), macro.classes)  # noqa: E731
    return SearchSpace("chain", decisions, network, Macro(1, 1, (4, 4, 1), 2))


@pytest.fixture(scope="module")
def made_up():
    """Seven devices that mix the same three parts, none of them a sum over decisions."""
    space, rng = chain(), np.random.default_rng(0)
    rows = all_rows(space)
    parts = np.stack([np.exp(rng.normal(0, 0.5, (4, 4))[range(4), rows].sum(1)) for _ in range(3)])
    mix = rng.dirichlet(np.ones(3), 7) * rng.uniform(1, 30, (7, 1))
    return space, rows, mix @ parts


def test_a_mixture_of_known_devices_is_found_from_ten_networks(made_up):
    space, rows, values = made_up
    known = learn(space, rows, values[:6], list("abcdef"))
    assert known.prior.sum() == pytest.approx(1) and known.prior.shape == (15, len(SHARES), len(NOISE))
    some = np.random.default_rng(1).permutation(len(rows))[:10]
    rest = np.setdiff1d(np.arange(len(rows)), some)
    found, error = predict(known, some, values[6, some])
    base, factors, _ = regress(space, rows[some], values[6, some])
    alone = agreement(Cost(STAMP, base, factors)(rows[rest]), values[6, rest])
    ours = agreement(found[rest], values[6, rest])
    assert ours["spearman"] > 0.97 > alone["spearman"] and ours["mape"] < alone["mape"] / 2
    assert error < 3 * ours["mape"]


def test_units_of_the_known_devices_do_not_matter(made_up):
    space, rows, values = made_up
    some = np.arange(0, 200, 20)
    scale = 10.0 ** np.arange(-3, 3)[:, None]
    a = predict(learn(space, rows, values[:6], list("abcdef")), some, values[6, some])[0]
    b = predict(learn(space, rows, values[:6] * scale, list("abcdef")), some, 1000 * values[6, some])[0]
    np.testing.assert_allclose(b, 1000 * a, rtol=1e-6)


def test_the_sums_are_those_of_generalised_least_squares(made_up):
    values = made_up[2]
    rng = np.random.default_rng(2)
    y, tied, bases = values[6, :9], rng.normal(size=(9, 3)), 1 + 0.3 * rng.normal(size=(2, 9))
    _, base, dual, left_out = _solve(y, tied, bases)
    weights = y.mean() / y
    for m, s, g in ((0, 3, 3), (1, 2, 5), (0, 4, 6)):
        kernel = SHARES[s] * tied @ tied.T * np.outer(weights, weights)
        inverse, free = np.linalg.inv(kernel + NOISE[g] ** 2 * np.eye(9)), bases[m] * weights
        wanted = (free @ inverse @ np.ones(9)) / (free @ inverse @ free)
        assert base[m, s, g] == pytest.approx(wanted, rel=1e-4)
        np.testing.assert_allclose(dual[m, s, g], weights * (inverse @ (1 - wanted * free)), rtol=1e-3, atol=1e-3)
        keep = np.arange(1, 9)
        inverse = np.linalg.inv(kernel[np.ix_(keep, keep)] + NOISE[g] ** 2 * np.eye(8))
        without = (free[keep] @ inverse @ np.ones(8)) / (free[keep] @ inverse @ free[keep])
        told = without * free[0] + kernel[0, keep] @ inverse @ (1 - without * free[keep])
        assert left_out[m, s, g, 0] == pytest.approx(1 - told, rel=1e-3, abs=1e-5)


def test_the_noise_of_known_devices_is_no_part_of_their_shape(made_up):
    """Whole milliseconds on the known devices change little: what is learnt is a sum over pairs of decisions."""
    space, rows, values = made_up
    rough = values[:6] * np.random.default_rng(3).lognormal(0, 0.1, values[:6].shape)
    clean = learn(space, rows, values[:6], list("abcdef")).shapes
    off = np.abs(learn(space, rows, rough, list("abcdef")).shapes - clean).mean()
    assert off < 0.8 * np.abs(rough / values[:6] - 1).mean()


def test_a_device_that_is_like_no_other_is_told_by_its_own_networks():
    """Known devices are random; the new one has a cost for each option, the same wherever it stands."""
    space, rng = chain((5, 5, 5, 5)), np.random.default_rng(4)
    rows = all_rows(space)
    known = learn(space, rows, rng.uniform(1, 5, (5, len(rows))), list("abcde"))
    mine = 2 + np.asarray([0.1, 0.6, 1.7, 3.0, 4.1])[rows].sum(1)
    some = rng.permutation(len(rows))[:12]
    assert agreement(predict(known, some, mine[some])[0], mine)["spearman"] > 0.99


def test_the_same_chip_under_other_names_counts_as_one():
    assert chip_of("pixel2") == chip_of("essential_ph_1") and chip_of("1080ti_32") == chip_of("titanxp_256")
    assert chip_of("gold_6226") != chip_of("gold_6240") and chip_of("titan_rtx_32") == chip_of("2080ti_1")


def test_chosen_networks_differ(made_up):
    space, rows, values = made_up
    chosen = choose(learn(space, rows, values[:6], list("abcdef")), 12)
    assert len(set(chosen.tolist())) == 12
    assert all(len(set(column)) >= 3 for column in rows[chosen].T)


def test_a_device_that_leaves_out_what_nobody_reads_is_told_by_ten_networks_or_its_name():
    space, random = nasbench201(), np.random.default_rng(0)
    rows = all_rows(space)
    prices = np.asarray([0.0, 0.1, 1.0, 3.0, 0.5]) * random.uniform(0.5, 2, (7, 5))
    values = 2.0 + prices[:, rows].sum(-1)
    mine = (2.0 + prices[6][without_unread(space, rows)].sum(-1)) * random.normal(1, 0.02, len(rows))
    known = learn(space, rows, values[:6], list("abcdef"))
    ten = random.choice(len(rows), 10, replace=False)

    def error(known, runtime):
        return agreement(predict(known, ten, mine[ten], left_out=left_out_by(runtime))[0], mine)["mape"]

    assert left_out_by("onnxruntime 1.32.0 cpu") < 0.1 < 0.9 < left_out_by("TFLite 2.1")
    assert error(known, "TFLite 2.1") <= error(known, "") < 0.05 < error(replace(known, left=None), "")


# ---- published devices -------------------------------------------------------------------------------------------
def test_ten_networks_of_a_published_device_nearly_do_what_a_hundred_do(published):
    with published("nasbench201/accuracy.csv").open() as file:
        rows = np.stack([from_string(line["arch_str"]) for line in csv.DictReader(file)])
    with gzip.open(published("nasbench201/latency_help.csv.gz"), "rt") as file:
        lines = list(csv.DictReader(file))
    some = np.random.default_rng(0).permutation(len(rows))[:2000]
    rows, space = rows[some], nasbench201()
    names = [n for n in lines[0] if n not in ("index", *SIMULATED)]
    values = np.asarray([[float(lines[i][name]) for i in some] for name in names])
    behind = []
    for device in ("1080ti_32", "pixel2"):
        others = [i for i, name in enumerate(names) if chip_of(name) != chip_of(device)]
        known = learn(space, rows, values[others], [chip_of(names[i]) for i in others])
        mine = values[names.index(device)]
        good = np.flatnonzero(usable(mine))
        hundred = np.random.default_rng(0).choice(good, 100, replace=False)
        base, factors, _ = regress(space, rows[hundred], mine[hundred])
        aim = agreement(Cost(STAMP, base, factors)(rows[good]), mine[good])["spearman"]
        ranks = []
        for draw in range(5):
            ten = np.random.default_rng(draw).choice(good, 10, replace=False)
            ranks.append(agreement(predict(known, ten, mine[ten])[0][good], mine[good])["spearman"])
        behind.append(aim - np.mean(ranks))
        chosen = choose(known, 10)
        chosen = chosen[usable(mine)[chosen]]
        assert agreement(predict(known, chosen, mine[chosen])[0][good], mine[good])["spearman"] > aim - 0.04
    assert max(behind) < 0.03 and min(behind) < 0.01


# ---- refused -----------------------------------------------------------------------------------------------------
def test_too_little_is_refused(made_up):
    space, rows, values = made_up
    with pytest.raises(BadInput, match="have 2 chips; it takes at least 3"):
        learn(space, rows, values[:6], list("aabbab"))
    with pytest.raises(BadInput, match="for 5 devices"):
        learn(space, rows, values[:6], list("abcde"))
    known = learn(space, rows, values[:6], list("abcdef"))
    with pytest.raises(BadInput, match="4 measured networks are too few"):
        predict(known, np.arange(4), values[6, :4])
    with pytest.raises(BadInput, match="measure these networks again"):
        predict(known, np.arange(6), np.append(values[6, :5], 0.0))
