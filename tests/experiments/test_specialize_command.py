"""`nas specialize` as a person types it: a file of measured networks, a cost table, a limit."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import specialize_command
from nas import config as configs
from nas.cost import Cost, Factor, Stamp
from nas.evaluate import function
from nas.search import search
from search_spaces import SPACES
from search_spaces.once_for_all import to_encoding
from strategies.random_search import random_search

SPACE = SPACES["ofa_mbv3"](resolutions=[128])


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Sixty networks at 128 and ten at 160; wider layers are better, by half a point each."""
    lines = []
    for i, row in enumerate(np.asarray(jax.jit(SPACE.sample, static_argnums=1)(jax.random.key(0), 70))):
        parts = to_encoding(row, SPACE)
        texts = ["-".join(map(str, parts[name])) for name in ("ks", "e", "d")]
        top1 = 0.7 + 0.005 * (np.mean(parts["e"]) - 4) + 0.002 * sum(parts["d"])
        lines.append(",".join([*texts, "128" if i < 60 else "160", f"{top1:.5f}"]))
    path = tmp_path_factory.mktemp("networks") / "measured.csv"
    path.write_text("\n".join(["ks,e,d,image_size,top1", *lines]))
    return path


@pytest.fixture(scope="module")
def cost(tmp_path_factory):
    """One millisecond for each step up in any decision."""
    factors = tuple(Factor((i,), np.arange(n, dtype=float)) for i, n in enumerate(SPACE.cardinalities))
    stamp = Stamp("latency", "ms", "toy phone", "toy", 1, "float32", dataclasses.asdict(SPACE.macro), "by hand")
    path = tmp_path_factory.mktemp("costs") / "phone.json"
    Cost(stamp, 5.0, factors, None, SPACE.fingerprint).save(path)
    return path


def test_a_network_for_each_limit_and_what_was_left_out(nas, networks, cost, tmp_path):
    words = ("--accuracy-csv", networks, "--cost", f"phone={cost}", "--set", "resolutions=[128]")
    quick = ("--set", "generations=20", "--set", "population=40", "--limit", "phone=15ms", "--limit", "phone=30ms")
    code, out, err = nas("specialize", *words, *quick, "--out", tmp_path / "a", "--json")
    found = json.loads(out)
    assert not code and found["accuracy"]["left_out"] == 10
    assert "10 networks of" in err and "have other resolutions than 128: left out" in err
    tight, loose = found["targets"]
    assert tight["top1"] <= loose["top1"]
    for entry, limit in ((tight, 15), (loose, 30)):
        saved = configs.load(tmp_path / "a" / f"phone-{limit}ms.json", SPACES)
        assert entry["latency_ms"] == pytest.approx(5.0 + np.asarray(saved.row).sum()) and entry["latency_ms"] <= limit
        assert saved.metrics["accuracy"] == pytest.approx(entry["top1"]) and saved.metrics["how"] == "predicted"
    code, _, err = nas("specialize", *words, *quick[:4], "--limit", "phone=4ms")
    assert code == 2 and "no architecture of the space is within 4 ms; the cheapest takes 5 ms or more" in err


def test_networks_that_a_search_measured_are_specialised(nas, tmp_path):
    """The supernet's own sub-networks train the predictor; the space is that of the run."""
    space = SPACES["ofa_mbv3_small"](kernels=[3], expands=[3, 6], depths=[1, 2])
    stamp = Stamp("latency", "ms", "toy phone", "toy", 1, "float32", dataclasses.asdict(space.macro), "by hand")
    factors = tuple(Factor((i,), np.arange(n, dtype=float)) for i, n in enumerate(space.cardinalities))
    Cost(stamp, 1.0, factors, None, space.fingerprint).save(tmp_path / "phone.json")
    run = tmp_path / "run"
    search(space, random_search(space), function(lambda c: 0.5 + 0.001 * sum(c.values()), space), trials=60, out=run)
    words = ("--cost", f"phone={tmp_path / 'phone.json'}", "--limit", "phone=4.5ms", "--set", "generations=30")
    code, out, err = nas("specialize", "--accuracy-run", run, *words, "--json")
    found = json.loads(out)
    assert not code, err
    (best,) = found["targets"]
    assert best["latency_ms"] == 4 and found["space"] == "ofa_mbv3_small"
    assert found["accuracy"]["held_out"]["spearman"] > 0.9
    # three steps up are affordable, and those of the ratio are worth most
    assert best["d"] == [1, 1, 1] and sorted(best["e"]) == [3, 3, 3, 6, 6, 6]
    assert best["top1"] == pytest.approx(0.5 + 0.001 * (3 + 27 + 18 + 32), abs=0.005)
    code, _, err = nas("specialize", "--accuracy-run", run, "--space", "ofa_resnet", *words)
    assert code == 2 and "searched 'ofa_mbv3_small'" in err and err.count("\n") == 1


def test_figures_are_printed_with_their_units():
    said = [specialize_command.amount(1234567.8, {"unit": unit}) for unit in ("", "bytes", "ms")]
    assert said == ["1,234,568", "1,234,568 bytes", "1234567.80 ms"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give one of --accuracy-predictor"),
        (("--accuracy-csv", "nothing.csv", "--set", "resolutions=[128]"), "nothing.csv"),
        (("--space", "nasbench201", "--accuracy-csv", "a.csv"), "published for ofa_mbv3 and gpt"),
    ],
)
def test_bad_input_is_one_line(nas, words, said):
    code, out, err = nas("specialize", *words)
    assert code == 2 and not out and said in err and err.count("\n") == 1
