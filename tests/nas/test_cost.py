"""Cost tables against the figures they are made from, and what is refused when one is read."""

import csv
import json
import math
import os
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.cost import Cost, Factor, Stamp, block_times, count_costs, load_cost, tabulate
from nas.errors import BadInput
from nas.layers import counts
from nas.space import Decision, Macro, SearchSpace, all_rows
from search_spaces.nasbench201 import from_string, nasbench201

MACRO = Macro(4, 1, (8, 8, 1), 10)
STAMP = Stamp("latency", "ms", "cpu", "test", 1, "float32", {}, "made up")


def chain(factors=None, allowed_of=None, sizes=(3, 2, 4)):
    def network(net, macro):
        return net.linear(net.global_avg_pool(net.conv(net.input, macro.width)), macro.classes)

    decisions = tuple(Decision(f"d{i}", tuple(range(n))) for i, n in enumerate(sizes))
    return SearchSpace("chain", decisions, network, MACRO, allowed_of=allowed_of, factors=factors)


def made(space=None, **changes):
    space = space or chain()
    cost = tabulate(space, lambda row: 0.5 + float(row.sum()), STAMP)
    return Cost(**{**{f: getattr(cost, f) for f in cost.__dataclass_fields__}, **changes})


# ---- tabulate ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("groups", "terms"),
    [
        (None, ((0,), (1,), (2,))),
        (((0, 1), (1, 2)), ((0, 1), (1, 2))),
        (((0, 1), (1, 2), (0, 2)), ((0, 1), (1, 2), (0, 2))),
        (((0, 1, 2),), ((0, 1, 2),)),
        (((2, 0), (1,)), ((0, 2), (1,))),
    ],
)
def test_a_sum_over_groups_is_tabulated_exactly(groups, terms):
    space = chain(groups)
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=tuple(space.cardinalities[d] for d in t)) for t in terms]
    figure = lambda row: 3.0 + sum(t[tuple(row[list(d)])] for t, d in zip(tables, terms, strict=True))  # noqa: E731
    cost = tabulate(space, figure, STAMP)
    rows = all_rows(space)
    np.testing.assert_allclose(cost(rows), [figure(row) for row in rows], rtol=1e-12)
    assert all(f.table.min() >= 0 for f in cost.factors)


@pytest.mark.parametrize("groups", [None, ((0, 1), (1, 2))])
def test_a_maximum_is_refused(groups):
    with pytest.raises(BadInput, match="does not add over the factors of space 'chain'"):
        tabulate(chain(groups), lambda row: float(row.max()), STAMP)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_refused(bad):
    with pytest.raises(BadInput, match=r"must be a finite number"):
        tabulate(chain(), lambda row: bad, STAMP)


def test_only_allowed_rows_are_priced():
    def allowed(row, i):
        # the last decision is active only where the first is not 0
        return [jnp.ones(3, bool), jnp.ones(2, bool), (row[0] > 0) | (jnp.arange(4) == 0)][i]

    space = chain(((0, 2), (1,)), allowed)
    seen = []

    def figure(row):
        seen.append(row.copy())
        return float(row[0] * row[2] + row[1])

    cost = tabulate(space, figure, STAMP)
    assert np.asarray(space.valid(np.stack(seen))).all()
    rows = all_rows(space)
    rows = rows[np.asarray(space.valid(rows))]
    np.testing.assert_allclose(cost(rows), rows[:, 0] * rows[:, 2] + rows[:, 1])


# ---- calling -----------------------------------------------------------------------------------------------------
def test_numpy_and_jax_rows_agree_also_in_jit():
    cost = made(chain(((0, 1), (1, 2))))
    rows = all_rows(chain())
    host = cost(rows)
    assert host.dtype == np.float64
    for device in (cost(jnp.asarray(rows)), jax.jit(cost)(jnp.asarray(rows))):
        assert device.dtype == jnp.float32
        np.testing.assert_allclose(device, host, rtol=1e-6)


# ---- counts ------------------------------------------------------------------------------------------------------
def test_count_costs_are_the_counts_of_the_layers():
    space = nasbench201()
    began = time.perf_counter()
    costs = count_costs(space)
    assert time.perf_counter() - began < 5  # 0.07 s alone on two cores
    rows = np.asarray(space.sample(jax.random.key(1), 20))
    wanted = np.asarray([counts(space.layers(row)) for row in rows])
    for i, name in enumerate(("params", "macs", "memory")):
        np.testing.assert_array_equal(costs[name](rows), wanted[:, i])
        assert costs[name].stamp.macro["width"] == 16
    assert costs["params"].function is None and costs["macs"].function is None
    assert costs["memory"].function is not None
    assert [costs[n].column for n in costs] == ["params", "macs", "memory_bytes"]


def test_a_count_that_does_not_add_is_a_function():
    def network(net, macro):
        x = net.conv(net.input, net.width("first"), 1)
        return net.linear(net.global_avg_pool(net.conv(x, net.width("second"), 1, name="conv_2")), macro.classes)

    decisions = (Decision("first", (4, 8, 12)), Decision("second", (4, 8, 12)))
    space = SearchSpace("widths", decisions, network, MACRO)
    cost = count_costs(space)["params"]
    assert cost.function is not None
    assert cost(np.asarray([[1, 2]]))[0] == 8 + 8 * 12 + 12 * 10 + 10
    paired = SearchSpace("widths", decisions, network, MACRO, factors=((0, 1),))
    assert count_costs(paired)["params"].function is None
    np.testing.assert_array_equal(count_costs(paired)["params"](all_rows(space)), cost(all_rows(space)))


def test_parameters_are_the_published_ones():
    data = Path(os.environ.get("NAS_DATA") or Path(__file__).parents[3] / "shared" / "data")
    table = data / "nasbench201" / "accuracy.csv"
    if not table.exists():
        pytest.skip(f"{table} is not there; set NAS_DATA to the folder with nasbench201/accuracy.csv")
    with table.open() as file:
        lines = list(csv.DictReader(file))[:: 15_625 // 50][:50]
    rows = np.stack([from_string(line["arch_str"]) for line in lines])
    assert len(rows) == 50
    np.testing.assert_array_equal(count_costs(nasbench201())["params"](rows), [int(x["cifar10_params"]) for x in lines])


# ---- files -------------------------------------------------------------------------------------------------------
def test_a_table_comes_back_as_it_was(tmp_path):
    cost = made(chain(((0, 1), (1, 2))), details={"blocks": {"a": 1.0}})
    cost.save(tmp_path / "t.json")
    again = load_cost(tmp_path / "t.json", chain(((0, 1), (1, 2))))
    rows = all_rows(chain())
    np.testing.assert_array_equal(again(rows), cost(rows))
    assert (again.stamp, again.details, again.space) == (cost.stamp, cost.details, cost.space)


def test_a_function_is_not_saved(tmp_path):
    with pytest.raises(BadInput, match="cannot be saved"):
        made(function=lambda rows: rows[:, 0]).save(tmp_path / "t.json")


def edit(*path, value=None, drop=False):
    def change(data):
        at = data
        for step in path[:-1]:
            at = at[step]
        if drop:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return change


BROKEN = [
    (edit("schema", drop=True), "'schema' is missing"),
    (edit("stamp", drop=True), "'stamp' is missing"),
    (edit("factors", 0, "table", drop=True), "'table' is missing"),
    (edit("schema", value="nas.cost/9"), "reads nas.cost/1"),
    (edit("stamp", "unit", drop=True), "not a cost table"),
    (edit("stamp", "colour", value="red"), "not a cost table"),
    (edit("stamp", "quantity", value=["latency"]), "not a cost table"),
    (edit("stamp", "unit", value="s"), "'latency' in 's'"),
    (edit("stamp", "quantity", value="beauty"), "not one of ours"),
    (edit("base", value=None), "not a cost table"),
    (edit("base", value=math.nan), "no finite numbers"),
    (edit("factors", 0, "table", 1, value=math.nan), "no finite numbers"),
    (edit("factors", 0, "table", 1, value=math.inf), "no finite numbers"),
    (edit("factors", 0, "table", 1, value=None), "no finite numbers"),
    (edit("factors", 0, "table", 1, value="many"), "not a cost table"),
    (edit("factors", 0, "table", value=[[1.0], [1.0, 2.0]]), "not a cost table"),
    (edit("factors", 0, "table", value=[1.0]), "does not fit space 'chain'"),
    (edit("factors", 0, "decisions", value=[7]), "does not fit space 'chain'"),
    (edit("factors", 0, "decisions", value=["d0"]), "not a cost table"),
    (edit("factors", value=3), "not a cost table"),
    (edit("base", value=-2.0), "no latency is negative"),
    (edit("factors", 0, "table", 1, value=-3.0), "no latency is negative"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_a_broken_table_is_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "t.json"
    made().save(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(BadInput, match=re.escape(message)) as raised:
        load_cost(path, chain())
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[1]", "holds a list"), ("", "not valid JSON"), (None, "no such file")],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "t.json").write_text(text)
    with pytest.raises(BadInput, match=message):
        load_cost(tmp_path / "t.json")


def test_a_table_of_another_space_is_refused(tmp_path):
    made().save(tmp_path / "t.json")
    with pytest.raises(BadInput, match="made for another space than 'chain'"):
        load_cost(tmp_path / "t.json", chain(sizes=(3, 2, 5)))


def test_overlapping_factors_may_have_negative_entries(tmp_path):
    space = chain(((0, 1), (1, 2)))
    cost = made(space)
    moved = (cost.factors[0], Factor(cost.factors[1].decisions, cost.factors[1].table - 100))
    Cost(cost.stamp, cost.base + 100, moved, None, cost.space).save(tmp_path / "t.json")
    np.testing.assert_allclose(load_cost(tmp_path / "t.json", space)(all_rows(space)), cost(all_rows(space)))


# ---- blocks ------------------------------------------------------------------------------------------------------
def test_block_times_add_each_scope_once_and_miss_nothing():
    layers = nasbench201().layers([3, 1, 1, 1, 1, 1], Macro(4, 2, (8, 8, 1), 10))
    blocks = {layer.block for layer in layers if layer.block}
    conv = next(b for b in blocks if b.startswith("nor_conv_3x3-input:8x8x4"))
    assert block_times(layers, {b: 1.0 if b == conv else 0.0 for b in blocks}) == 2
    with pytest.raises(BadInput, match="is not in the table; measure it first"):
        block_times(layers, {b: 1.0 for b in blocks if b != conv})


# ---- gates -------------------------------------------------------------------------------------------------------
GROUPS = [None, ((0, 1), (1, 2)), ((2, 0), (1,)), ((0, 1, 2),)]


def drawn_gates(seed=0, sizes=(3, 2, 4)):
    return [
        jax.nn.softmax(jax.random.normal(k, (n,)))
        for k, n in zip(jax.random.split(jax.random.key(seed), 3), sizes, strict=True)
    ]


@pytest.mark.parametrize("groups", GROUPS)
def test_the_expected_cost_is_the_mean_over_all_rows(groups):
    space, rng = chain(groups), np.random.default_rng(0)
    shapes = {g: tuple(space.cardinalities[d] for d in g) for g in groups or ((0,), (1,), (2,))}
    cost = Cost(STAMP, 2.0, tuple(Factor(g, rng.normal(size=shape)) for g, shape in shapes.items()))
    gates, rows = drawn_gates(), all_rows(space)
    chance = np.prod([np.asarray(g)[rows[:, i]] for i, g in enumerate(gates)], 0)
    wanted = float(chance @ cost(rows))
    assert float(cost.expected(gates)) == pytest.approx(wanted, rel=1e-5)
    assert float(jax.jit(cost.expected)(gates)) == pytest.approx(wanted, rel=1e-5)


def test_one_hot_gates_give_the_row():
    cost = made(chain(((0, 1), (1, 2))))
    rows = all_rows(chain())
    gates = [jax.nn.one_hot(rows[:, i], k) for i, k in enumerate((3, 2, 4))]
    np.testing.assert_allclose(jax.vmap(cost.expected)(gates), cost(rows), rtol=1e-6)


def test_the_gradient_through_gates_is_that_of_finite_differences():
    cost = made(chain(((0, 1), (1, 2))))
    logits = [jnp.asarray(x) for x in ([0.3, -1.0, 0.5], [0.2, 0.1], [1.0, 0.0, -0.4, 0.7])]
    value = lambda logits: cost.expected([jax.nn.softmax(x) for x in logits])  # noqa: E731
    found = jax.grad(value)(logits)
    for i, logit in enumerate(logits):
        for k in range(len(logit)):
            moved = [[x.at[k].add(s * 1e-2) if j == i else x for j, x in enumerate(logits)] for s in (1, -1)]
            wanted = float(value(moved[0]) - value(moved[1])) / 2e-2
            assert float(found[i][k]) == pytest.approx(wanted, abs=2e-3)


def test_gates_that_do_not_fit_and_functions_are_refused():
    with pytest.raises(BadInput, match="no differentiable term"):
        made(function=lambda rows: rows[:, 0]).expected(drawn_gates())
    with pytest.raises(BadInput, match=r"decision 2 needs gates of shape \(4,\); they are missing"):
        made().expected(drawn_gates()[:2])
    with pytest.raises(BadInput, match=r"needs gates of shape \(2,\); they are \(3,\)"):
        made().expected([drawn_gates()[0]] * 3)


@pytest.mark.parametrize(
    "factors",
    [
        [((0, 0), np.ones((5, 5))), ((0,), np.ones(5))],
        [((0, 1), np.ones(5)), ((0,), np.ones(4))],
        [((0,), np.ones(5)), ((0,), np.ones(4))],
    ],
)
def test_factors_that_do_not_fit_each_other_end_in_no_traceback(tmp_path, factors):
    space, path = nasbench201(), tmp_path / "odd.json"
    stamp = Stamp("latency", "ms", "a phone", "", 1, "float32", {}, "made up")
    made = Cost(stamp, 1.0, tuple(Factor(*factor) for factor in factors), None, space.fingerprint)
    made.save(path)
    assert load_cost(path).least == 1.0 + len(factors)
    for f in made.factors:
        if f.table.shape != (5,) * len(f.decisions):
            with pytest.raises(BadInput, match="does not fit space"):
                load_cost(path, space)
            break
