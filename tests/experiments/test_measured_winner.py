"""The found network is timed as a whole where its table is of this machine, and the report says both figures."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.measured_winner import measure_winner, read_measured
from hw_models.networks import measure_networks
from hw_models.runtimes import device_name, runtime_name
from hw_models.samples import stamp_of
from nas.cost import Cost, Factor, load_cost
from nas.evaluate import function
from nas.search import search
from nas.space import Macro
from search_spaces import nasbench201
from strategies import random_search

SPACE = nasbench201().at(Macro(4, 1, (8, 8, 1), 10))


def table(device=None, slope=1.0):
    """Milliseconds that have nothing to do with this machine, but its name."""
    stamp = dataclasses.replace(stamp_of(SPACE.macro, 2, "float32", "made up"), device=device or device_name("xla"))
    factors = tuple(Factor((d,), slope * np.arange(1.0, 6.0)) for d in range(6))
    return Cost(stamp, 1.0, factors, None, SPACE.fingerprint)


def found(tmp_path, **costs):
    score = lambda choices: sum(op == "nor_conv_3x3" for op in choices.values()) / 6  # noqa: E731
    return search(
        SPACE, random_search(SPACE), function(score, SPACE), trials=3, costs=costs, out=tmp_path / "run", seed=1
    )


def test_a_table_of_this_machine_is_held_against_the_machine(tmp_path):
    result = found(tmp_path, cpu=table(), phone=table("a phone"))
    measure_winner(result)
    held = read_measured(tmp_path / "run", result.best.id)
    assert held["cpu"]["predicted_ms"] == table()(result.best.row[None])[0] == result.best.metrics["cpu_latency_ms"]
    again = measure_networks(SPACE, rows=result.best.row[None], batch=2, rounds=3, progress=lambda *_: None)
    assert 0.1 < held["cpu"]["measured_ms"] / again.latency_ms[0] < 10  # of one network, not of the table
    assert "measured_ms" not in held["phone"] and "a phone, " + runtime_name("xla") in held["phone"]["why_not"]


def test_what_was_measured_is_kept_and_is_of_one_trial(tmp_path):
    result = found(tmp_path, cpu=table())
    measure_winner(result)
    path = tmp_path / "run" / "best.measured.json"
    before = path.read_bytes()
    measure_winner(result)
    assert path.read_bytes() == before
    assert read_measured(tmp_path / "run", result.best.id + 1) == {}


def test_nothing_is_written_where_nothing_was_measured(tmp_path):
    measure_winner(found(tmp_path))
    assert not (tmp_path / "run" / "best.measured.json").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_the_limit_holds_and_report_and_terminal_say_both(nas, tmp_path):
    stamped = dataclasses.replace(table(slope=0.01), base=0.0)
    stamped.save(tmp_path / "cpu.json")
    limit = float(np.median(stamped(np.asarray(SPACE.sample(jax.random.key(0), 200)))))
    out = tmp_path / "run"
    fast = ["--executor", "local", "--set", "epochs=1", "--search-width", "4", "--width", "4", "--depth", "1"]
    code, printed, _ = nas(
        "search",
        "--trials",
        6,
        "--cost",
        f"cpu={tmp_path / 'cpu.json'}",
        "--limit",
        f"cpu={limit}ms",
        "--out",
        out,
        *fast,
    )
    assert not code and "ms by its table" in printed
    best = json.loads((out / "best.json").read_text())
    cost = load_cost(out / "cpu.json", SPACE)
    row = [SPACE.decisions[i].options.index(v) for i, v in enumerate(best["choices"].values())]
    assert cost(np.asarray([row]))[0] <= limit
    page = (out / "report.html").read_text()
    measured = json.loads((out / "best.measured.json").read_text())["costs"]["cpu"]
    assert "predicted and measured" in page and f"{measured['measured_ms']:.4g} ms" in page
    (out / "report.html").unlink()
    assert not nas("report", out)[0] and f"{measured['measured_ms']:.4g} ms" in (out / "report.html").read_text()
