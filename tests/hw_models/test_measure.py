"""Measuring this machine for real, on networks small enough for seconds."""

import json

import jax
import numpy as np
import pytest

from hw_models.blocks import Blocks, visit
from hw_models.measure import measure
from hw_models.table import EMPTY, network_name, table
from nas.cost import Stamp, block_times, load_cost, sample_rows
from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace
from nas.unread import without_unread
from search_spaces.nasbench201 import nasbench201

QUIET = lambda done, total, what: None  # noqa: E731
MACRO = Macro(16, 1, (24, 24, 3), 5)


def little(kinds=("skip", "conv_5x5")):
    """Two decisions over one convolution; skipping everything leaves stem and head."""

    def network(net, macro):
        with net.block("stem"):
            x = net.conv(net.input, macro.width, 1)
        for name in ("first", "second"):
            with net.scope(name):
                x = net.choice(name, {"skip": lambda x=x: x, "conv": lambda x=x: conv(net, x)})
        with net.block("head"):
            return net.linear(net.global_avg_pool(x), macro.classes)

    def conv(net, x):
        with net.block(kinds[1], "op"):
            return net.conv(net.activation(x), net.shape(x)[-1], 5)

    decisions = tuple(Decision(n, ("skip", "conv")) for n in ("first", "second"))
    return SearchSpace("little", decisions, network, MACRO)


def quick(space, *args, **options):
    return measure(space, *args, **{"rounds": 3, "warmup": 1, "networks": 0, "progress": QUIET, **options})


@pytest.fixture(scope="module")
def bench():
    space = nasbench201().at(Macro(4, 1, (8, 8, 1), 10))
    return space, quick(space, networks=4)


@pytest.fixture(scope="module")
def small():
    space = little()
    return space, quick(space)


def test_a_value_is_the_sum_of_its_blocks(small):
    space, cost = small
    for row in np.asarray([[0, 0], [0, 1], [1, 1]]):
        wanted = block_times(space.layers(row), cost.details["blocks"])
        assert cost(row[None])[0] == pytest.approx(wanted, rel=1e-9)
    assert cost.stamp.error is None and cost.details["scale"] == 1.0


def test_a_large_convolution_is_slower_than_a_skip(small):
    _, cost = small
    none, one, two = cost(np.asarray([[0, 0], [0, 1], [1, 1]]))
    # 3.7 million multiply-accumulates take 0.1 ms at 37 GMAC/s; stem and head together have 27 thousand
    assert none < one < two and one - none > 0.01
    assert two - one == pytest.approx(one - none)


def test_every_row_of_a_real_space_is_priced(bench):
    space, cost = bench
    rows = np.asarray(space.sample(jax.random.key(5), 200))
    values = cost(rows)
    assert np.isfinite(values).all() and (values >= 0).all()
    for row in rows[:50]:
        # dead convolutions have block keys of their own, and a price
        assert block_times(space.layers(row), cost.details["blocks"]) > 0


def test_sums_outside_of_blocks_are_counted(bench):
    space, cost = bench
    details = cost.details
    assert any(key.startswith("add-input:8x8x4+8x8x4-") for key in details["loose"])
    assert "; by least squares over the factors, " in cost.stamp.source
    rows = np.asarray(space.sample(jax.random.key(6), 100))
    if "nobody reads" in cost.stamp.source:  # four networks of so few rounds may say so or not
        rows = without_unread(space, rows)
    blocks = np.asarray([block_times(space.layers(row), details["blocks"]) for row in rows])
    loose = (cost(rows) - details["offset_ms"]) / details["scale"] - blocks
    most = 12 * max(details["loose"].values())
    assert (loose > -most).all() and (loose < most + 1e-9).all()


@pytest.mark.parametrize("leaves_out", [True, False])
def test_whole_networks_say_whether_what_nobody_reads_is_left_out(leaves_out):
    space = nasbench201().at(Macro(4, 1, (8, 8, 1), 10))
    blocks = Blocks(space, space.macro, lambda done, total: None)
    stamp = Stamp("latency", "ms", "made up", "", 1, "float32", {}, "made up")
    fit_on = visit(blocks, stamp)
    rows = sample_rows(space, 8)
    price = {key: 0.01 * len(block) for key, block in blocks.layers.items() if key not in blocks.loose}
    run = without_unread(space, rows) if leaves_out else rows
    times = {EMPTY: 0.0, **dict.fromkeys(blocks.loose, 0.0), **price}
    times |= {network_name(row): sum(times[k] for k in blocks.of(ran)) for row, ran in zip(rows, run, strict=True)}
    cost = table(blocks, fit_on, rows, {name: [[ms, ms]] * 3 for name, ms in times.items()}, stamp)
    assert ("nobody reads" in cost.stamp.source) == leaves_out and cost.stamp.error < 1e-6
    many = sample_rows(space, 100, seed=1)
    wanted = [sum(times[k] for k in blocks.of(row)) for row in (without_unread(space, many) if leaves_out else many)]
    np.testing.assert_allclose(cost(many), wanted, rtol=1e-6)


def test_the_stamp_says_what_was_measured_and_how_well(bench):
    _, cost = bench
    stamp, report = cost.stamp, cost.details["validation"]
    assert (stamp.quantity, stamp.unit, stamp.batch, stamp.dtype) == ("latency", "ms", 1, "float32")
    assert stamp.macro["width"] == 4 and jax.__version__ in stamp.runtime and stamp.device and stamp.created
    assert stamp.error == report["error_held_out"] <= report["error_of_sum"]
    assert len(report["networks"]) == 4 and all(n["measured_ms"] > 0 for n in report["networks"])
    assert report["error_of_sum"] == pytest.approx(
        np.mean([abs(n["sum_ms"] / n["measured_ms"] - 1) for n in report["networks"]])
    )


def test_saved_and_loaded_it_gives_the_same(bench, tmp_path):
    space, cost = bench
    cost.save(tmp_path / "cpu.json")
    again = load_cost(tmp_path / "cpu.json", space)
    rows = np.asarray(space.sample(jax.random.key(7), 50))
    np.testing.assert_array_equal(again(rows), cost(rows))
    assert again.stamp.source == cost.stamp.source
    assert again.details["blocks"] == cost.details["blocks"]


def test_what_takes_no_time_stands_near_zero_and_never_below():
    def network(net, macro):
        x = net.choice("op", {"skip": lambda: net.input, "relu": relu(net)})
        with net.block("out"):
            return net.activation(x)

    def relu(net):
        def make():
            with net.block("relu"):
                return net.activation(net.input)

        return make

    space = SearchSpace("nothing", (Decision("op", ("skip", "relu")),), network, Macro(1, 1, (2, 2, 1), 2))
    values = quick(space, rounds=5)(np.asarray([[0], [1]]))
    assert (values >= 0).all() and (values < 0.05).all()


def test_blocks_that_do_not_add_are_fitted_and_the_stamp_says_so():
    def network(net, macro):
        def pool():
            with net.block("pool", "op"):
                return net.avg_pool(net.input, 2, stride=2)

        def conv(x):
            with net.block("conv", "op"):
                return net.conv(x, 16, 3)

        x = net.choice("size", {"full": lambda: net.input, "half": pool})
        x = net.choice("op", {"pool": lambda: net.max_pool(x), "conv": lambda: conv(x)})
        with net.block("head"):
            return net.activation(x)

    decisions = (Decision("size", ("full", "half")), Decision("op", ("pool", "conv")))
    space = SearchSpace("crossed", decisions, network, MACRO)
    cost = quick(space)
    assert "; by least squares over the factors" in cost.stamp.source
    values = cost(np.asarray([[0, 0], [0, 1], [1, 0], [1, 1]]))
    assert (values >= 0).all() and values[1] > values[0]
    paired = SearchSpace("crossed", decisions, network, MACRO, factors=((0, 1),))
    assert "least squares" not in quick(paired).stamp.source


# ---- going on ----------------------------------------------------------------------------------------------------
class Killed(Exception):
    pass


def test_a_killed_measuring_goes_on_where_it_was(tmp_path):
    path, space, seen = tmp_path / "samples.json", little(), []

    def kill(done, total, what):
        seen.append(what)
        if seen.count("timing blocks") == 6:
            raise Killed

    with pytest.raises(Killed):
        quick(space, path=path, progress=kill)
    before = json.loads(path.read_text())["samples"]
    assert sum(map(len, before.values())) == 6
    cost = quick(space, path=path)
    after = json.loads(path.read_text())["samples"]
    for name, kept in before.items():
        assert after[name][: len(kept)] == kept and len(after[name]) == 3
    calls = []
    again = quick(space, path=path, progress=lambda *a: calls.append(a))
    assert {what for *_, what in calls} == {"listing blocks"}
    assert again.details["blocks"] == cost.details["blocks"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["about"].update(device="Abacus"), 'measured with device "Abacus"'),
        (lambda d: d["about"].update(runtime="xla-cpu jax 0.1"), "measured with runtime"),
        (lambda d: d["about"]["macro"].update(width=3), "measured with macro"),
        (lambda d: d["about"].update(batch=7), "measured with batch 7, not 1"),
        (lambda d: d.pop("about"), "measured with space null"),
        (lambda d: d.update(about=[]), "measured with space null"),
        (lambda d: d.update(schema="nas.cost/1"), "not a measuring to go on with"),
        (lambda d: d["samples"].update({"empty loop": [[1.0]]}), "samples that are no numbers"),
        (lambda d: d["samples"].update({"empty loop": [[None, 1.0]]}), "samples that are no numbers"),
        (lambda d: d.update(samples=[1]), "samples that are no numbers"),
    ],
)
def test_samples_of_something_else_are_refused_and_left_alone(tmp_path, samples, change, message):
    data = json.loads(samples)
    change(data)
    path = tmp_path / "samples.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BadInput, match=message) as raised:
        quick(little(), path=path)
    assert "\n" not in str(raised.value) and "delete it" in str(raised.value)
    assert json.loads(path.read_text()) == data


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    path = tmp_path_factory.mktemp("samples") / "samples.json"
    quick(little(), path=path)
    return path.read_text()


# ---- refused -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"rounds": 2}, "rounds is 2; it must be a whole number of at least 3"),
        ({"warmup": 0.5}, "warmup is 0.5"),
        ({"networks": -1}, "networks is -1"),
        ({"dtype": "float8"}, "no dtype 'float8'"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        quick(little(), **options)


def test_two_blocks_of_one_name_are_refused():
    def network(net, macro):
        with net.block("stem"):
            x = net.conv(net.input, 3, 1)
        for kernel in (3, 5):
            with net.block("conv", f"conv_{kernel}"):
                x = net.conv(x, 3, kernel)
        return net.linear(net.global_avg_pool(x), macro.classes)

    space = SearchSpace("twins", (Decision("op", (0, 1)),), network, MACRO)
    with pytest.raises(BadInput, match="two different blocks are called 'conv-input:24x24x3-output:24x24x3'"):
        quick(space)


def test_lines_on_stderr_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr("hw_models.measure.LINE_SECONDS", 0.0)
    measure(little(), rounds=3, warmup=1, networks=0)
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("measure: ") and "s left" in line for line in lines)


def test_another_precision_and_batch():
    cost = quick(little(), batch=4, dtype="bfloat16")
    assert (cost.stamp.batch, cost.stamp.dtype) == (4, "bfloat16")
    assert cost(np.asarray([[1, 1]]))[0] > 0
