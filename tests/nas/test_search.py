"""The search in this process: journal, resume, failures, budget."""

import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.errors import BadInput
from nas.evaluate import CandidateFailed, Rung, Scratch, function
from nas.layers import counts
from nas.objective import Limit
from nas.plan import reopen
from nas.result import Trial, longest, trial_rows
from nas.search import search
from search_spaces import nasbench201
from strategies import asha, random_search, regularized_evolution

SPACE = nasbench201()


def score(choices):
    return sum(v == "nor_conv_3x3" for v in choices.values()) / 6


@functools.cache  # one strategy, one program: a search compiles what it has not met
def evolution():
    return regularized_evolution(SPACE, population=6, tournament=3)


def rows(result):
    return [t.row.tolist() for t in result.trials]


def events(folder):
    return [json.loads(line) for line in (Path(folder) / "journal.jsonl").read_text().splitlines()]


def test_finds_the_optimum_of_an_easy_function():
    strategy = regularized_evolution(SPACE, population=20, tournament=10)
    result = search(SPACE, strategy, function(score, SPACE), trials=300, seed=1)
    assert result.best.metrics["accuracy"] == pytest.approx(1.0)
    assert result.complete and len(result.trials) == 300


def test_journal_says_everything_in_the_order_the_strategy_saw_it(tmp_path):
    search(SPACE, evolution(), function(score, SPACE), trials=5, out=tmp_path / "a")
    kinds = [(e["event"], e["id"]) for e in events(tmp_path / "a")]
    assert kinds == [(kind, i) for i in range(5) for kind in ("asked", "finished")]


def test_resume_goes_on_exactly(tmp_path):
    whole = search(SPACE, evolution(), function(score, SPACE), trials=30)
    search(SPACE, evolution(), function(score, SPACE), trials=11, out=tmp_path / "a")
    resumed = search(SPACE, evolution(), function(score, SPACE), trials=30, out=tmp_path / "a", resume=True)
    assert rows(resumed) == rows(whole)
    ids = [e["id"] for e in events(tmp_path / "a") if e["event"] == "asked"]
    assert ids == list(range(30))


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    search(SPACE, evolution(), function(score, SPACE), trials=8, out=tmp_path / "a")
    journal = tmp_path / "a" / "journal.jsonl"
    whole = rows(search(SPACE, evolution(), function(score, SPACE), trials=8))
    for cut in (1, 30, 200, 700):
        journal.write_bytes(journal.read_bytes()[:-cut])
        resumed = search(SPACE, evolution(), function(score, SPACE), trials=8, out=tmp_path / "a", resume=True)
        assert rows(resumed) == whole
        asked = [e["id"] for e in events(tmp_path / "a") if e["event"] == "asked"]
        assert asked == list(range(8))


CHILD = """
import sys, time
from nas.evaluate import function
from nas.search import search
from search_spaces import nasbench201
from strategies import regularized_evolution
space = nasbench201()
def score(choices):
    time.sleep(0.02)
    return sum(v == "nor_conv_3x3" for v in choices.values()) / 6
strategy = regularized_evolution(space, population=6, tournament=3)
search(space, strategy, function(score, space), trials=60, out=sys.argv[1], resume=sys.argv[2] == "1")
"""


def test_sigkill_at_any_time_loses_and_repeats_nothing(tmp_path):
    """Real kills: the search is started and killed until it is through."""
    out, kills, random = tmp_path / "a", 0, np.random.RandomState(0)
    for attempt in range(30):
        resume = "1" if (out / "search.json").exists() else "0"
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(out), resume])
        before = journal_lines(out)
        if attempt < 2:
            while journal_lines(out) < before + 8 and child.poll() is None:
                time.sleep(0.005)
            time.sleep(random.uniform(0, 0.05))
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        if child.wait(120) == 0:
            break
    asked = [e for e in events(out) if e["event"] == "asked"]
    finished = [e["id"] for e in events(out) if e["event"] == "finished"]
    assert kills == 2
    assert [e["id"] for e in asked] == list(range(60))
    assert sorted(finished) == list(range(60))
    undisturbed = search(SPACE, evolution(), function(score, SPACE), trials=60)
    assert [e["row"] for e in asked] == rows(undisturbed)


def journal_lines(out):
    path = out / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_failures_do_not_end_the_search():
    def sometimes(choices):
        if choices["edge_0_1"] == "none":
            raise CandidateFailed("no input")
        if choices["edge_0_1"] == "skip_connect":
            return math.nan
        return score(choices)

    result = search(SPACE, random_search(SPACE), function(sometimes, SPACE), trials=40)
    by_choice = {}
    for t in result.trials:
        by_choice.setdefault(SPACE.decode(t.row)["edge_0_1"], []).append(t)
    assert {t.reason for t in by_choice["none"]} == {"no input"}
    assert all(t.status == "failed" and "accuracy" in t.reason for t in by_choice["skip_connect"])
    assert result.complete and result.best.status == "finished"


def test_a_fault_of_the_evaluation_itself_is_not_hidden():
    def broken(choices):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        search(SPACE, random_search(SPACE), function(broken, SPACE), trials=2)


def test_limits_and_pareto():
    limit = Limit("params", 400_000)
    result = search(
        SPACE, random_search(SPACE), function(score, SPACE), trials=60, objective=nas.pareto("params", limits=[limit])
    )
    front = result.pareto
    assert all(t.metrics["params"] <= 400_000 for t in front)
    assert result.best is front[0]
    ok = [t for t in result.trials if t.metrics["params"] <= 400_000]
    for t in ok:
        beaten = any(
            o.metrics["accuracy"] >= t.metrics["accuracy"]
            and o.metrics["params"] <= t.metrics["params"]
            and (o.metrics["accuracy"] > t.metrics["accuracy"] or o.metrics["params"] < t.metrics["params"])
            for o in ok
        )
        assert (t in front) == (not beaten)


def test_a_limit_nothing_meets_gives_no_best():
    limits = [Limit("params", 1)]
    result = search(
        SPACE, random_search(SPACE), function(score, SPACE), trials=5, objective=nas.accuracy(limits=limits)
    )
    assert result.best is None and result.pareto == () and result.complete


def test_time_ends_the_search():
    started = time.monotonic()

    def slow(choices):
        time.sleep(0.05)
        return score(choices)

    result = search(SPACE, random_search(SPACE), function(slow, SPACE), trials=10_000, seconds=2.0)
    assert 1 <= len(result.trials) < 100 and time.monotonic() - started < 30
    assert all(t.status == "finished" for t in result.trials)


def test_ctrl_c_keeps_everything(tmp_path):
    calls = []

    def interrupted(choices):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return score(choices)

    result = search(SPACE, evolution(), function(interrupted, SPACE), trials=20, out=tmp_path / "a")
    assert not result.complete and [t.status for t in result.trials] == ["finished"] * 4 + ["pending"]
    again = search(SPACE, evolution(), function(score, SPACE), trials=20, out=tmp_path / "a", resume=True)
    assert rows(again) == rows(search(SPACE, evolution(), function(score, SPACE), trials=20))


def test_weak_candidates_stop_at_rungs():
    trained = {}

    def start():
        def evaluate(job):
            value = score(SPACE.decode(job.row))
            for epochs in (1, 3):
                trained[job.id] = epochs
                yield Rung({"accuracy": value * epochs / 9, "epochs": epochs})
            yield {"accuracy": value, "epochs": 9}

        return evaluate

    result = search(SPACE, random_search(SPACE), start, trials=60, eta=3)
    stopped = [t for t in result.trials if t.status == "stopped"]
    finished = [t for t in result.trials if t.status == "finished"]
    assert len(stopped) > len(finished) > 0
    best = max(score(SPACE.decode(t.row)) for t in result.trials)
    assert max(t.metrics["accuracy"] for t in finished) == pytest.approx(best)
    assert all(set(t.rungs) <= {1, 3} for t in result.trials)
    assert all(trained[t.id] == max(t.rungs) for t in result.trials)


def test_what_breaks_a_limit_stops_at_its_first_rung():
    def start():
        def evaluate(job):
            value = score(SPACE.decode(job.row))
            yield Rung({"accuracy": value, "epochs": 1})
            yield {"accuracy": value, "epochs": 3}

        return evaluate

    limits = [Limit("params", 400_000)]
    result = search(SPACE, random_search(SPACE), start, trials=60, eta=3, objective=nas.accuracy(limits=limits))
    assert result.best is not None and result.best.metrics["params"] <= 400_000
    assert all(t.status == "stopped" for t in result.trials if t.metrics["params"] > 400_000)


def test_reopen_shows_what_the_search_showed(tmp_path):
    strategy = regularized_evolution(SPACE, population=4, tournament=2, objectives=2)
    result = search(SPACE, strategy, function(score, SPACE), trials=9, out=tmp_path / "a", objective=nas.pareto("macs"))
    again = reopen(tmp_path / "a", SPACE, {})
    assert rows(again) == rows(result) and again.complete
    assert [t.id for t in again.pareto] == [t.id for t in result.pareto]
    assert trial_rows(again) == trial_rows(result)


def test_costs_that_decide_nothing_are_priced_when_somebody_looks():
    """A table at once; a function of the row for the front, and for all in the table of trials."""
    found = search(SPACE, random_search(SPACE), function(score, SPACE), trials=20, objective=nas.pareto("params"))
    memory = [counts(SPACE.layers(t.row)).memory_bytes for t in found.trials]
    front = {t.id for t in found.pareto}
    assert 0 < len(front) < 20 and all(t.metrics["params"] for t in found.trials)
    assert {t.id for t in found.trials if "memory_bytes" in t.metrics} == front
    assert found.best.metrics["memory_bytes"] == memory[found.best.id]
    assert [row["memory_bytes"] for row in trial_rows(found)] == memory
    limited = nas.accuracy(limits=[Limit("memory", float(np.median(memory)))])
    found = search(SPACE, random_search(SPACE), function(score, SPACE), trials=20, objective=limited)
    assert [t.metrics["memory_bytes"] for t in found.trials] == memory
    assert found.best.metrics["memory_bytes"] <= limited.limits[0].value


def test_equal_networks_are_trained_as_given():
    """A row is never replaced by its key."""
    result = search(SPACE, random_search(SPACE), function(score, SPACE), trials=50)
    assert any((np.asarray(SPACE.key(t.row)) != t.row).any() for t in result.trials)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "budget"),
        ({"trials": 0}, "at least 1"),
        ({"trials": 2.5}, "whole number"),
        ({"seconds": 0}, "above zero"),
        ({"trials": 1, "eta": 1}, "eta"),
        ({"trials": 1, "objective": nas.pareto("latency")}, "no cost 'latency'"),
        ({"trials": 1, "objective": nas.accuracy(limits=[Limit("param", 3)])}, "did you mean 'params'"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(BadInput, match=says):
        search(SPACE, random_search(SPACE), function(score, SPACE), **options)


def test_a_strategy_made_for_another_objective():
    with pytest.raises(BadInput, match="objectives=2, constraints=0"):
        search(SPACE, evolution(), function(score, SPACE), trials=1, objective=nas.pareto("params"))


def test_a_folder_with_another_search_is_not_touched(tmp_path):
    out = tmp_path / "a"
    search(SPACE, evolution(), function(score, SPACE), trials=3, out=out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    for options, says in (
        (dict(strategy=evolution()), "add --resume"),
        (dict(strategy=random_search(SPACE), resume=True), "another search: its strategy"),
        (dict(strategy=evolution(), resume=True, seed=1), "its seed is 0, not 1"),
    ):
        with pytest.raises(BadInput, match=says):
            search(SPACE, evaluation=function(score, SPACE), trials=3, out=out, **options)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match=r"thesis\.tex"):
        search(SPACE, evolution(), function(score, SPACE), trials=3, out=tmp_path / "b")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_damaged_journal_is_one_line(tmp_path):
    out = tmp_path / "a"
    search(SPACE, evolution(), function(score, SPACE), trials=3, out=out)
    lines = (out / "journal.jsonl").read_text().splitlines()
    for damage, says in (
        ("no json", "line 2"),
        (lines[2].replace('"id": 1', '"id": 77'), "id 77"),
        ('{"event": "finished", "id": 5}', "line 2 .*metrics: field required"),
        ('{"event": "failed", "id": 5, "reason": "", "seconds": 1}', "id 5, which was never asked"),
        (lines[1] + "\n" + lines[1], "id 0 is its second"),
        (lines[1].replace('"scores": [', '"scores": [0.5, '), "of another objective"),
    ):
        (out / "journal.jsonl").write_text("\n".join([lines[0], damage, *lines[2:]]) + "\n")
        with pytest.raises(BadInput, match=says) as caught:
            search(SPACE, evolution(), function(score, SPACE), trials=3, out=out, resume=True)
        assert "\n" not in str(caught.value)


def test_trials_table(tmp_path):
    result = search(SPACE, random_search(SPACE), function(score, SPACE), trials=4, objective=nas.pareto("params"))
    found = trial_rows(result)
    assert [r["id"] for r in found] == [0, 1, 2, 3]
    assert found[0]["edge_0_1"] in SPACE.decisions[0].options
    assert found[0]["score_params"] == -found[0]["params"]


def longer_is_worse(job):
    """Accuracy falls with every epoch: a short training always looks better than a long one."""
    yield {"accuracy": score(SPACE.decode(job.row)) - job.epochs / 10, "epochs": job.epochs}


def test_a_candidate_of_a_shorter_training_never_wins_over_one_of_the_longest():
    strategy = asha(SPACE, fidelities=(1, 3), trainings=20, eta=3)
    result = search(SPACE, strategy, lambda: longer_is_worse, trials=20)
    longest = [t for t in result.trials if t.epochs == 3]
    assert 1 < len(longest) < 15 and result.best in longest
    assert result.best.scores[0] == max(t.scores[0] for t in longest) < max(t.scores[0] for t in result.trials)
    assert all(t.epochs == 3 for t in result.pareto)


def test_where_every_longest_training_breaks_a_limit_a_shorter_one_wins():
    def trial(id, epochs, violation):
        arrays = {"scores": np.asarray([0.5], np.float32), "violation": np.asarray([violation], np.float32)}
        return Trial(id, np.zeros(6, np.int32), epochs, status="finished", **arrays)

    over, within, shortest = trial(0, 9, 0.1), trial(1, 3, 0.0), trial(2, 1, 0.0)
    assert longest([over, within, shortest]) == [within]
    assert longest([over, trial(3, 3, 0.2)]) == [over]
    assert longest([]) == []


def test_scratch_trains_as_long_as_the_strategy_asks(small_space):
    recipe = nas.Recipe(epochs=9, batch=32)
    evaluation = Scratch(small_space, "digits", recipe, macro=small_space.macro, data_options={"limit": 64})
    result = search(small_space, asha(small_space, fidelities=(1, 2), trainings=6, eta=2), evaluation, trials=6)
    assert [t.metrics["epochs"] for t in result.trials] == [t.epochs for t in result.trials]
    assert {t.epochs for t in result.trials} == {1, 2} and result.best.epochs == 2
    rows_at = [{tuple(t.row) for t in result.trials if t.epochs == e} for e in (1, 2)]
    assert rows_at[1] <= rows_at[0]


def test_a_second_search_in_the_same_folder_is_refused_while_the_first_runs(tmp_path):
    said = []

    def second(choices):
        with pytest.raises(BadInput, match="a search that is still running writes to"):
            search(SPACE, random_search(SPACE), function(score, SPACE), trials=2, out=tmp_path / "a", resume=True)
        said.append(1)
        return score(choices)

    search(SPACE, random_search(SPACE), function(second, SPACE), trials=2, out=tmp_path / "a")
    assert len(said) == 2


def test_a_candidate_that_takes_too_long_fails_and_the_search_goes_on():
    def slow(choices):
        if choices["edge_0_1"] == "none":
            time.sleep(100)
        return score(choices)

    result = search(SPACE, random_search(SPACE), function(slow, SPACE), trials=8, trial_seconds=0.3)
    late = {t.id for t in result.trials if SPACE.decode(t.row)["edge_0_1"] == "none"}
    assert late and {t.id for t in result.trials if t.status == "failed"} == late
    assert {t.reason for t in result.trials if t.id in late} == {"it took longer than 0.3 s"}
