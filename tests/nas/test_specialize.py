import jax.numpy as jnp
import numpy as np
import pytest

from nas.cost import Cost, Factor, Stamp
from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace, all_rows
from nas.specialize import Evolution, Target, specialize

RNG = np.random.default_rng(0)
WORTH, PRICE = RNG.uniform(size=(6, 4)), RNG.uniform(0.5, 3, size=(6, 4))
QUICK = Evolution(generations=40, population=40)


def toy(allowed_of=None):
    return SearchSpace(
        name="toy",
        decisions=tuple(Decision(f"d{i}", (0, 1, 2, 3)) for i in range(6)),
        network=lambda net, macro: net.linear(net.global_avg_pool(net.input), macro.classes),
        macro=Macro(1, 1, (4, 4, 1), 2),
        allowed_of=allowed_of,
    )


def accuracy(rows):
    return jnp.asarray(WORTH, jnp.float32)[jnp.arange(6), rows].sum(-1) / 6


def priced(space, scale=1.0, groups=((0, 1), (2,), (3,), (4, 5))):
    tables = []
    for group in groups:
        table = scale * PRICE[group[0]]
        for d in group[1:]:
            table = table[..., None] + scale * PRICE[d]
        tables.append(Factor(group, table))
    stamp = Stamp("latency", "ms", "toy", "toy", 1, "float32", {}, "toy")
    return Cost(stamp, 0.5, tuple(tables), None, space.fingerprint)


def within_reach(space, cost, share):
    """A limit that this share of all networks meets."""
    rows = all_rows(space)
    return float(np.quantile(cost(rows[np.asarray(space.valid(rows))]), share))


def best_by_brute_force(space, cost, limit):
    rows = all_rows(space)
    rows = rows[np.asarray(space.valid(rows)) & (cost(rows) <= limit)]
    return float(np.asarray(accuracy(jnp.asarray(rows))).max())


def test_it_finds_what_brute_force_finds_for_every_device_and_limit():
    space = toy()
    phone, board = priced(space), priced(space, scale=2.5)
    wanted = [("phone", phone, 0.02), ("phone", phone, 0.3), ("board", board, 0.1)]
    targets = [Target(name, cost, within_reach(space, cost, share)) for name, cost, share in wanted]
    found = specialize(space, accuracy, targets, seeds=4, settings=QUICK)
    assert found.rows.shape == (3, 4, 6) and found.feasible.all()
    for i, target in enumerate(targets):
        best = found.best(i)
        assert found.cost[i, best] == target.cost(found.rows[i, best][None])[0] <= target.limit
        assert found.accuracy[i, best] == pytest.approx(best_by_brute_force(space, target.cost, target.limit), abs=1e-6)


def test_tables_over_other_decisions_are_priced_as_well():
    space = toy()
    single = priced(space, groups=tuple((i,) for i in range(6)))
    limit = within_reach(space, single, 0.1)
    found = specialize(space, accuracy, [Target("a", priced(space), limit), Target("b", single, limit)], settings=QUICK)
    assert found.feasible.all()
    np.testing.assert_allclose(found.cost[:, 0], single(found.rows[:, 0]), rtol=1e-6)  # the two tables are equal


def test_what_depends_on_earlier_choices_is_allowed():
    def allowed(row, i):
        return (row[0] > 1) | (jnp.arange(4) == 0) if i in (1, 2) else jnp.ones(4, bool)

    space = toy(allowed)
    cost = priced(space)
    limit = within_reach(space, cost, 0.1)
    found = specialize(space, accuracy, [Target("a", cost, limit)], seeds=3, settings=QUICK)
    assert bool(space.valid(found.rows[0]).all())
    assert found.accuracy.max() == pytest.approx(best_by_brute_force(space, cost, limit), abs=1e-6)


def test_the_same_seed_gives_the_same_networks():
    space = toy()
    run = lambda seed: specialize(space, accuracy, [Target("a", priced(space), 7.0)], seeds=2, seed=seed, settings=few)  # noqa: E731
    few = Evolution(generations=2, population=10)
    assert (run(1).rows == run(1).rows).all() and (run(1).rows != run(2).rows).any()


def test_a_limit_that_nothing_meets_is_refused_with_the_cheapest_there_is():
    space = toy()
    cost = priced(space)
    found = specialize(space, accuracy, [Target("phone", cost, 0.6)], seeds=2, settings=QUICK)
    assert not found.feasible.any()
    cheapest = cost(all_rows(space)).min()
    with pytest.raises(BadInput, match=f"phone=0.6ms.*{cheapest:.4g} ms"):
        found.best(0)


@pytest.mark.parametrize(
    "targets, word",
    [
        ([], "no target"),
        ([Target("a", priced(toy()), -1.0)], "above zero"),
        ([Target("a", Cost(priced(toy()).stamp, function=lambda r: r, space=toy().fingerprint), 1.0)], "function"),
        ([Target("a", Cost(priced(toy()).stamp, space="0123"), 1.0)], "another space"),
    ],
)
def test_bad_targets_are_refused_in_one_line(targets, word):
    with pytest.raises(BadInput, match=word) as refused:
        specialize(toy(), accuracy, targets)
    assert "\n" not in str(refused.value)
