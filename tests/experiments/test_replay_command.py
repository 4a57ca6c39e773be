"""`nas replay` and `nas compare` as a person types them."""

import json

import numpy as np
import pytest

from experiments import compare
from experiments.replay_command import SETTINGS, Source, make, run
from nas.errors import BadInput
from nas.replay import replay
from nas.space import all_rows
from search_spaces import SPACES
from strategies import STRATEGIES

SPACE = SPACES["nasbench201"]()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A table of every cell, in which each edge adds its own share and the test result is the validation plus one."""
    rows = all_rows(SPACE)
    shares = np.random.RandomState(0).uniform(size=(6, 5))
    value = 10 * shares[np.arange(6), rows].sum(1)
    path = tmp_path_factory.mktemp("table") / "mine.csv"
    lines = [f"{'-'.join(map(str, row))},{v:.4f},{v + 1:.4f}" for row, v in zip(rows.tolist(), value, strict=True)]
    path.write_text("\n".join(["arch,val,test", *lines]))
    return path


def columns(file):
    return [
        file,
        "--space",
        "nasbench201",
        "--arch-column",
        "arch",
        "--validation-column",
        "val",
        "--test-column",
        "test",
    ]


def test_replay_of_a_file(nas, file):
    code, out, _ = nas("replay", *columns(file), "--queries", 60, "--runs", 100, "--json")
    found = json.loads(out)
    assert not code and found["strategy"] == "regularized_evolution" and found["runs"] == 100
    assert found["mean"] > found["random"]["mean"] + 2 * (found["stderr"] + found["random"]["stderr"])
    assert found["mean"] < found["optimum"] and found["epochs"] == 60 and found["absent"] == 0
    assert found["stderr"] == pytest.approx(found["std"] / 10)
    assert found["seconds"] > 0 and found["compile_seconds"] > 0


def test_random_search_is_its_own_baseline(nas, file):
    _, out, _ = nas("replay", *columns(file), "--queries", 5, "--runs", 4, "--strategy", "random_search", "--json")
    found = json.loads(out)
    assert found["random"] == {key: found[key] for key in ("mean", "std", "stderr")}


def test_strategies_on_the_host_give_the_same_in_one_process_and_in_several(file, monkeypatch):
    source = Source(str(file), None, "nasbench201", "arch", None, ("val",), "test")
    table = source.load()
    strategy = make("optuna_random", table, 6)
    alone = replay(strategy, table, queries=6, runs=4, seed=2)
    monkeypatch.setattr("experiments.replay_command.WORTH_PROCESSES", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    shared = run(strategy, "optuna_random", table, source, {}, queries=6, runs=4, seed=2)
    np.testing.assert_array_equal(shared.curve, alone.curve)


@pytest.mark.parametrize(
    "words, said",
    [
        (["replay", "nasbench20"], "did you mean 'nasbench201'"),
        (["replay", "nasbench201", "--strategy", "regularised_evolution"], "did you mean 'regularized_evolution'"),
        (["replay", "nasbench201", "--space", "nasbench201"], "--space describes a .csv file"),
        (["replay", "mine.csv", "--space", "nasbench201"], "a file needs --arch-column"),
        (["replay", "FILE", "--set", "populaton=3"], "did you mean 'population'"),
        (["replay", "FILE", "--set", "population=101"], "population 101 is larger than the budget of 100 queries"),
        (["replay", "FILE", "--queries", "5"], "population 10 is larger than the budget of 5 queries"),
        (["replay", "FILE", "--dataset", "cifar10"], "--dataset belongs to a benchmark's name"),
        (["compare", "nasbench201", "--strategies", "tpee"], "did you mean 'tpe'"),
        (["compare", "nasbench201", "--runs", "1"], "at least 2 runs"),
        (["compare", "nasbench201", "nats_size", "--dataset", "cifar10"], "--dataset goes with one table"),
    ],
)
def test_bad_input_is_one_line(nas, file, words, said):
    words = [part for word in words for part in (columns(file) if word == "FILE" else [word])]
    code, out, err = nas(*words)
    assert code == 2 and not out and said in err and err.count("\n") == 1


def test_settings_are_those_a_strategy_takes():
    assert set(SETTINGS) <= set(STRATEGIES)


def test_strategies_that_a_table_does_not_suit_are_left_out_or_refused_before_any_is_run(file, capsys):
    """One length of training, and fewer queries than NSGA-II's population."""
    table = Source(str(file), None, "nasbench201", "arch", None, ("val",), "test").load()
    names = ["random_search", "nsga2", "mixed_fidelity", "local_search", "random_search"]
    assert compare.fitting(names, table, 20, named=False) == ["random_search", "local_search"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "nsga2: population" in said[0] and "give two or more" in said[1]
    with pytest.raises(BadInput, match="nsga2: population"):
        compare.fitting(names, table, 20, named=True)


def test_comparison_pairs_the_runs_of_one_seed(file):
    source = Source(str(file), None, "nasbench201", "arch", None, ("val",), "test")
    table = source.load()
    results = compare.compare(["random_search", "regularized_evolution"], table, source, 60, 100, 0)
    random, evolution = compare.paired(results, table, 60)
    gains = [float(a) - float(b) for a, b in zip(results["regularized_evolution"].test, results["random_search"].test)]  # noqa: B905
    assert evolution["gain"] == pytest.approx(sum(gains) / 100) and evolution["beats_random"] is True
    assert random["gain"] == 0 and random["beats_random"] is None
    figure = compare.picture(results, table, 60)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert any(word.startswith("regularized evolution") for word in words)
    assert [len(axes.lines) > 1 for axes in figure.axes] == [True, True]
