"""The tables that come with the toolkit: readable, stamped, and as good as their stamp says."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

import hw_models
from experiments.options import read_costs, shipped
from hw_models.fit import agreement, usable
from nas.cost import load_cost, sample_rows
from nas.errors import BadInput
from search_spaces.nasbench201 import from_string, nasbench201

FOUND = sorted((Path(hw_models.__file__).parent / "tables").glob("nasbench201_*.json"))
OWN = [path for path in FOUND if "epyc" in path.stem]  # measured with `nas measure`
TABLES = [path for path in FOUND if path not in OWN]
SOURCES = {"latency_help.csv.gz": gzip.open, "latency_nnmeter_2000.csv": open}


@pytest.mark.parametrize("path", FOUND, ids=lambda p: p.stem)
def test_a_table_names_its_source_and_error(path):
    space = nasbench201()
    cost = load_cost(path, space)
    stamp = cost.stamp
    assert path in OWN or "MIT licence" in stamp.device
    assert "networks measured whole" in stamp.source and 0 < stamp.error < 0.2
    assert stamp.macro == {"width": 16, "depth": 5, "input": [32, 32, 3], "classes": 10} and stamp.batch == 1
    assert cost(sample_rows(space, 500)).min() > 0
    assert read_costs([f"phone=table:{path.stem}"], space, None)["phone"].stamp == stamp


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_the_stamped_error_is_that_of_the_published_measurements(path, published):
    cost = load_cost(path, nasbench201())
    column, name = cost.stamp.source.split(";")[0].removeprefix("column ").split(" of ")
    with published("nasbench201/accuracy.csv").open() as file:
        archs = {line["index"]: line["arch_str"] for line in csv.DictReader(file)}
    with SOURCES[name](published(f"nasbench201/{name}"), "rt") as file:
        lines = list(csv.DictReader(file))[::7]
    rows, values = (
        np.stack([from_string(archs[x["index"]]) for x in lines]),
        np.asarray([float(x[column]) for x in lines]),
    )
    good = usable(values)
    found = agreement(cost(rows[good]), values[good])["mape"]
    # half of nn-Meter's networks are those that were fitted, so it may be lower
    assert 0.7 * cost.stamp.error < found < 1.15 * cost.stamp.error


def test_a_wrong_name_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'nasbench201_pixel2'"):
        shipped("nasbench201_pixel", "--cost phone")
