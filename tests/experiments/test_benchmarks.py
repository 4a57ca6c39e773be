"""Benchmark tables by name and from files: what a row stands for, and what is refused."""

import csv
import gzip
import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import _graph, find, load, transnas_macro
from experiments.own_table import from_csv
from experiments.replay_command import make
from nas.errors import BadInput
from nas.space import all_rows
from search_spaces import SPACES
from search_spaces.nasbench201 import from_string


@pytest.fixture
def named(published, monkeypatch):
    """`load`, with the published tables in place."""
    monkeypatch.setenv("NAS_DATA", str(published(".").resolve()))
    return load


@pytest.mark.parametrize("dataset, optimum", [("cifar10", 94.37), ("cifar100", 73.51)])
def test_nasbench201_values_belong_to_their_strings(named, published, dataset, optimum):
    """Optimum as published (Dong and Yang, table 4); rows against the file read line by line."""
    table = named("nasbench201", dataset)
    assert table.complete and table.epochs == (12, 200)
    assert table.test.max() == pytest.approx(optimum, abs=0.005)
    with open(published("nasbench201/accuracy.csv")) as file:
        lines = list(csv.DictReader(file))
    for line in [*lines[:3], *lines[5000:5005], lines[-1]]:
        place = table.place(from_string(line["arch_str"]))
        assert table.validation[:, place] == pytest.approx(
            [float(line[f"{dataset}_val_e12"]), float(line[f"{dataset}_val_e200"])]
        )
        assert table.test[place] == pytest.approx(float(line[f"{dataset}_test_e200"]))


def test_features_of_nasbench201_come_with_their_price(named):
    table = named("nasbench201", "cifar10", ("params", "naswot"))
    skips = from_string("|skip_connect~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    convs = from_string(
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|" + "+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    )
    found = np.asarray(table.features_of(np.stack([skips, convs])))
    assert found[:, 0].tolist() == [73306, 1531546], "the published counts of a cell of skips and one of convolutions"
    assert found[1, 1] > found[0, 1] and np.isfinite(table.features).all()
    # 15,625 forward passes, a third of a step each, where an epoch is 98 steps
    assert "costs about 53 epochs" in table.notes[0]


def test_a_strategy_of_fixed_capacity_is_as_large_as_the_budget_unless_told_otherwise(named):
    table = named("nasbench201", "cifar10")
    assert make("predictor", table, 30).arguments["capacity"] == 30
    assert make("predictor", table, 30, {"capacity": 40}).arguments["capacity"] == 40


def test_nats_size_is_the_whole_space_of_widths(named, published):
    table = named("nats_size", "cifar100")
    with gzip.open(published("nats_sss/nats_sss.csv.gz"), "rt") as file:
        line = list(csv.DictReader(file))[12345]
    row = np.asarray([int(line[f"c{i}"]) // 8 - 1 for i in range(5)])
    assert table.complete and table.test[table.place(row)] == pytest.approx(float(line["cifar100_acc"]))
    assert "chosen by what is reported" in table.notes[0]


def test_nas_bench_macro_is_told_one_run_and_reports_the_others(named, published):
    table = named("nas_bench_macro")
    runs = json.loads(published("nas_bench_macro/nas-bench-macro_cifar10.json").read_text())["11111221"]["test_acc"]
    place = table.place(np.asarray([1, 1, 1, 1, 1, 2, 2, 1]))
    assert table.complete and len(table.rows) == 6561
    assert (table.validation[0, place], table.test[place]) == pytest.approx((runs[0], (runs[1] + runs[2]) / 2))


def test_networks_of_nas_bench_graph_have_one_name_whatever_the_order_of_their_nodes():
    two_branches = ["0011", ("gat", "gcn", "gin", "sage")]
    assert _graph(*two_branches) == _graph("0011", ("gat", "gcn", "sage", "gin"))
    assert _graph(*two_branches) != _graph("0011", ("gcn", "gat", "gin", "sage"))
    # a skip in the middle passes its source on; one at the end is an output of its own
    assert _graph("0112", ("gat", "skip", "gin", "gcn")) == _graph("0111", ("gat", "gin", "gcn", "skip")).replace(
        "*", ""
    )
    assert _graph("0123", ("gat", "gcn", "gin", "skip")) != _graph("0123", ("gat", "gcn", "skip", "gin"))


def test_nas_bench_graph_holds_each_of_its_networks(named):
    table = named("nas_bench_graph", "pubmed")
    names = {_graph(table.space.decode(row)["link"], list(table.space.decode(row).values())[1:]) for row in table.rows}
    assert len(names) == 26206, "the number of different networks in the paper"
    with pytest.raises(BadInput, match="known from its table alone"):
        table.space.layers(table.rows[0])


def test_transnas_macro_allows_what_the_benchmark_has(named):
    """3,256 backbones (Duan et al., section 3.1), and every one in the table is one of them."""
    table = named("transnas_macro", "jigsaw")
    assert int(np.asarray(jax.jit(table.space.valid)(all_rows(table.space))).sum()) == 3256
    assert len(table.rows) == 725 and not table.complete
    assert len(named("transnas_micro", "room_layout").rows) == 711


@pytest.mark.parametrize(
    "arguments, word",
    [
        (("nasbench20",), "did you mean 'nasbench201'"),
        (("nasbench201", "cifar1000"), "did you mean 'cifar10'|did you mean 'cifar100'"),
        (("nasbench201", "cifar10", ("naswo",)), "did you mean 'naswot'"),
        (("nats_size", "cifar10", ("naswot",)), "nats_size has none"),
    ],
)
def test_unknown_names(arguments, word):
    with pytest.raises(BadInput, match=word):
        load(*arguments)


def test_absent_tables_say_where_they_were_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("NAS_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=f"no table nasbench201/accuracy.csv in {tmp_path}"):
        find("nasbench201/accuracy.csv")
    with pytest.raises(BadInput, match="no table naslib_zc"):
        transnas_macro("jigsaw", ())


# ---- files -------------------------------------------------------------------------------------------------------
SPACE = SPACES["nasbench201"]()
ARCHS = (
    "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|avg_pool_3x3~2|",
    "|none~0|+|none~0|none~1|+|none~0|none~1|nor_conv_1x1~2|",
)


def write(path, *lines):
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_fidelities_and_rows_of_a_file(tmp_path):
    file = write(tmp_path / "a.csv.gz", "arch,full,short,test,size", f"{ARCHS[0]},80,60,79,5", f"{ARCHS[1]},70,65,69,6")
    table = from_csv(file, SPACE, "arch", ["200:full", "12:short"], "test", features=["size"])
    assert table.epochs == (12, 200)
    np.testing.assert_array_equal(table.validation, [[60, 65], [80, 70]])
    np.testing.assert_array_equal(table.rows, [from_string(a) for a in ARCHS])
    np.testing.assert_array_equal(table.features_of(table.rows), [[5], [6]])


@pytest.mark.parametrize("cells", ["3-0-0-1-0-4", '"3,0,0,1,0,4"', '"3, 0, 0, 1, 0, 4"'])
def test_option_numbers(tmp_path, cells):
    table = from_csv(write(tmp_path / "a.csv", "arch,v", f"{cells},80"), SPACE, "arch", ["v"], "v")
    np.testing.assert_array_equal(table.rows, [from_string(ARCHS[0])])
    assert table.epochs == (1,)


def test_one_column_for_each_decision_holds_the_options(tmp_path):
    file = write(tmp_path / "a.csv", "a,b,c,d,e,v", "8,64,16,8,8,80")
    assert from_csv(file, SPACES["nats_size"](), "a,b,c,d,e", ["v"], "v").rows.tolist() == [[0, 7, 1, 0, 0]]
    with pytest.raises(BadInput, match="row 1: '9' is no option of 'width_1'"):
        bad = write(tmp_path / "b.csv", "a,b,c,d,e,v", "8,9,16,8,8,80")
        from_csv(bad, SPACES["nats_size"](), "a,b,c,d,e", ["v"], "v")


def test_numbers_explained_by_another_table(tmp_path):
    known = write(tmp_path / "known.csv", "index,cell", f"7,{ARCHS[0]}", f"9,{ARCHS[1]}")
    file = write(tmp_path / "a.csv", "index,v", "9,60", "7,80")
    table = from_csv(file, SPACE, "index", ["v"], "v", arch_table=known)
    np.testing.assert_array_equal(table.rows, [from_string(ARCHS[1]), from_string(ARCHS[0])])
    with pytest.raises(BadInput, match="--arch-table"):
        from_csv(file, SPACE, "index", ["v"], "v")


GOOD = ("arch,v,t", f"{ARCHS[0]},1,1")


@pytest.mark.parametrize(
    "lines, columns, word",
    [
        ((*GOOD, f"{ARCHS[0]},2,2"), "v", "rows 1 and 2 are the same architecture"),
        ((*GOOD, f"{ARCHS[1]},2"), "v", "row 2 has 2 cells; the header has 3"),
        ((*GOOD, f"{ARCHS[1]},high,2"), "v", "row 2: 'v' is 'high'; it must be a number"),
        ((*GOOD, f"{ARCHS[1]},nan,2"), "v", "row 2: validation is not a finite number"),
        ((*GOOD, "|nor_conv~0|,1,2"), "v", "row 2: "),
        ((*GOOD, "0-0-0-0-0-5,1,2"), "v", "row 2: row: 'edge_2_3' is option 5"),
        ((*GOOD, "0-0-0,1,2"), "v", "row 2: '0-0-0' is no architecture"),
        (GOOD, "valid", "no column 'valid'"),
        (GOOD, "12:valid", "no column 'valid'"),
        (("arch,v,v,t", f"{ARCHS[0]},1,1,1"), "v", "column 'v' is there twice"),
        (("arch,v,t",), "v", "no rows"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, lines, columns, word):
    with pytest.raises(BadInput, match=word) as refused:
        from_csv(write(tmp_path / "a.csv", *lines), SPACE, "arch", [columns], "t")
    assert "\n" not in str(refused.value)


def test_several_fidelities_need_their_epochs(tmp_path):
    file = write(tmp_path / "a.csv", *GOOD)
    with pytest.raises(BadInput, match="write EPOCHS:COLUMN"):
        from_csv(file, SPACE, "arch", ["v", "200:t"], "t")
    with pytest.raises(BadInput, match="must rise"):
        from_csv(file, SPACE, "arch", ["12:v", "12:t"], "t")


def test_what_is_no_table(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(b"no gzip")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("a.csv.gz", "b.csv", "absent.csv"):
        with pytest.raises(BadInput, match="cannot be read"):
            from_csv(tmp_path / name, SPACE, "arch", ["v"], "t")
