"""`nas fit` as a person types it."""

import csv
import json

import numpy as np
import pytest

from experiments.arch_rows import parse_arch
from experiments.fit_command import once_each
from nas.cost import load_cost
from nas.space import all_rows
from search_spaces.nasbench201 import nasbench201, to_string


@pytest.fixture
def files(tmp_path):
    """Measurements of 60 networks by number, and the table of numbers; seven figures are broken."""
    rng = np.random.default_rng(0)
    rows = all_rows(nasbench201())[rng.permutation(15_625)[:60]]
    values = 3 + np.asarray([0, 0, 0.5, 2, 0.2])[rows].sum(1)
    cells = [*map(str, values[:57]), "0.001", "-1", ""]
    with (tmp_path / "phone.csv").open("w") as file:
        csv.writer(file).writerows([["index", "phone", "word"], *([i, v, "x"] for i, v in enumerate(cells))])
    with (tmp_path / "archs.csv").open("w") as file:
        csv.writer(file).writerows([["index", "arch_str"], *([i, to_string(row)] for i, row in enumerate(rows))])
    return tmp_path, rows, values


def words(folder, **changes):
    options = {"csv": folder / "phone.csv", "arch_column": "index", "arch_table": folder / "archs.csv"}
    options |= {"value_column": "phone", "unit": "ms", **changes}
    return ["fit", *(w for k, v in options.items() if v is not None for w in ("--" + k.replace("_", "-"), v))]


def test_the_error_of_a_table_is_printed_as_shares(nas, files):
    code, out, err = nas(*words(files[0], samples=40, seeds=2), "--json")
    found = json.loads(out)
    assert not code and found["dropped"] == 3 and "3 of 60 entries" in err
    assert found["spearman"] > 0.99 and found["within_5"] == found["within_10"] == 1 and found["mape"] < 0.01
    assert (found["samples"], found["seeds"], found["tested"]) == (40, 2, 17)


def test_a_table_is_written_in_the_unit_of_the_quantity(nas, files):
    folder, rows, values = files
    for unit, factor in (("ms", 1.0), ("s", 1000.0)):
        out = folder / f"{unit}.json"
        code, said, _ = nas(*words(folder, unit=unit, batch=1, device="my phone", out=out))
        assert not code and "written to" in said
        cost = load_cost(out, nasbench201())
        np.testing.assert_allclose(cost(rows), factor * values, rtol=0.02)
        assert (cost.stamp.device, cost.stamp.unit, cost.stamp.batch) == ("my phone", "ms", 1)
        assert cost.stamp.macro["depth"] == 5 and cost.stamp.error < 0.01


def test_a_network_measured_twice_counts_once_and_is_said(nas, files):
    folder = files[0]
    with (folder / "phone.csv").open("a") as file:
        csv.writer(file).writerows([[0, 1e3, "x"], [0, 1e3 + 1, "x"], [1, 7, "x"]])
    code, out, err = nas(*words(folder, samples=40), "--json")
    assert not code and "2 networks are there more than once; each counts once" in err
    assert json.loads(out)["tested"] == 17  # 57 networks, as before


def test_repeats_are_medians_in_the_order_they_first_came():
    rows = np.asarray([[1, 0], [0, 1], [1, 0], [1, 0], [2, 2]])
    kept, values = once_each(rows, np.asarray([1.0, 5.0, 3.0, 100.0, 7.0]), "a.csv")
    assert kept.tolist() == [[1, 0], [0, 1], [2, 2]] and values.tolist() == [3, 5, 7]


def test_architectures_are_read_in_three_forms():
    space, row = nasbench201(), [3, 1, 0, 2, 4, 1]
    choices = json.dumps(space.decode(np.asarray(row)))
    for text in (to_string(row), choices, "3-1-0-2-4-1"):
        assert parse_arch(space, text).tolist() == row


BAD = {
    "no unit": ({"unit": None}, "--unit is missing"),
    "unit of another quantity": ({"unit": "mj"}, "no unit of latency"),
    "seconds for milliseconds": ({"unit": "us"}, "is it in another unit"),
    "quantity": ({"quantity": "beauty"}, "no quantity 'beauty'"),
    "column": ({"value_column": "phones"}, "did you mean 'phone'"),
    "words": ({"value_column": "word"}, "row 1: column 'word' is 'x'; it must be a number"),
    "numbers without a table": ({"arch_table": None}, "--arch-table"),
    "no architectures": ({"arch_table": "{folder}/phone.csv"}, "no column holds architectures"),
    "too few": ({"samples": 5}, "--samples 5: it must be from 8 to 56"),
    "nothing left to test": ({"samples": 57}, "--samples 57"),
    "no batch": ({"out": "{folder}/t.json"}, "--batch is missing"),
    "no file": ({"csv": "{folder}/none.csv"}, "none.csv"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(nas, files, name):
    changes, says = BAD[name]
    folder = files[0]
    changes = {k: v.replace("{folder}", str(folder)) if isinstance(v, str) else v for k, v in changes.items()}
    code, out, err = nas(*words(folder, **changes))
    lines = [line for line in err.splitlines() if "left out" not in line]
    assert code == 2 and out == "" and len(lines) == 1 and says in lines[0]
    assert not (folder / "t.json").exists()


# ---- nas import table --------------------------------------------------------------------------------------------
def test_a_published_table_is_imported_and_faults_are_one_line(nas, tmp_path):
    good = "Conv-input:8x8x3-output:4x4x8:\n  {count: 1, mean: 0.5}\nConv_1-input:4x4x8-output:4x4x8: {mean: -1.0}\n"
    (tmp_path / "t.yaml").write_text(good)
    code, said, err = nas("import", "table", "proxylessnas", tmp_path / "t.yaml", "--out", tmp_path / "t.json")
    assert not code and "1 blocks on Google Pixel 1" in said and "1 entries are missing, zero or negative" in err
    (tmp_path / "t.yaml").write_text("a: !!python/object/apply:os.getcwd []\n")
    code, said, err = nas("import", "table", "proxylessnas", tmp_path / "t.yaml", "--out", tmp_path / "u.json")
    assert code == 2 and said == "" and err.count("\n") == 1 and "not the plain YAML" in err
    assert not (tmp_path / "u.json").exists()


# ---- transfer ----------------------------------------------------------------------------------------------------
@pytest.fixture
def others(files):
    """The phone of `files` whole, and four other devices, as one table."""
    folder, rows, values = files
    parts = np.asarray([[0, 0, 0.5, 2, 0.2], [0, 0.1, 0.4, 1, 0.9], [0, 0.3, 1, 1.5, 0.1], [0, 0, 0.1, 3, 0.1]])
    columns = [5 * values, *(2 + part[rows].sum(1) for part in parts)]
    with (folder / "known.csv").open("w") as file:
        head = ["index", "phone_32", *"abcd"]
        csv.writer(file).writerows([head, *([i, *line] for i, line in enumerate(np.transpose(columns).tolist()))])
    return folder


def test_transfer_uses_other_chips_alone_and_says_which(nas, others):
    code, out, _ = nas(*words(others, known=others / "known.csv", samples=10, seeds=2), "--transfer", "--json")
    found = json.loads(out)
    assert not code and found["known"] == list("abcd")  # phone_32 is the same chip at another batch size
    assert found["spearman"] > 0.95 and found["mape"] < 0.1 and found["alone"]["spearman"] > 0.5
    assert (found["samples"], found["tested"]) == (10, 47)


def test_transfer_writes_a_table(nas, others):
    out = others / "t.json"
    code, _, _ = nas(*words(others, known=others / "known.csv", batch=1, out=out), "--transfer")
    cost = load_cost(out, nasbench201())
    assert not code and cost.stamp.error < 0.1 and "transferred from known devices" in cost.stamp.source


def test_transfer_without_enough_is_refused(nas, others):
    for changes, says in (({}, "--transfer and --known go together"), ({"known": others / "phone.csv"}, "3 chips")):
        code, _, err = nas(*words(others, samples=10, **changes), "--transfer")
        assert code == 2 and says in err.splitlines()[-1]
