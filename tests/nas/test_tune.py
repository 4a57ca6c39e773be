"""The same search through real Ray: same trials, same journal, real kills."""

import gc
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from ray.tune.experiment import Trial

from nas import ray_cluster, tune
from nas.errors import BadInput
from nas.evaluate import CandidateFailed, Rung, function
from nas.objective import pareto
from nas.search import search
from nas.tune_worker import Worker
from search_spaces import nasbench201
from strategies import random_search, regularized_evolution

SPACE = nasbench201()

IGNORED = ("DeprecationWarning", "FutureWarning", "ResourceWarning")  # of Ray itself
pytestmark = pytest.mark.filterwarnings(*(f"ignore::{name}" for name in IGNORED))


def score(choices):
    return sum(v == "nor_conv_3x3" for v in choices.values()) / 6


@pytest.fixture(scope="module", autouse=True)
def ray_started():
    """One Ray for the tests of this file that need none of their own."""
    import ray

    ray_cluster.connect(None)
    yield
    ray.shutdown()


def events(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def test_random_search_gives_what_this_process_gives(tmp_path):
    through_ray = tune.search(
        SPACE, random_search(SPACE), function(score, SPACE), trials=20, objective=pareto("params"), out=tmp_path / "a"
    )
    here = search(SPACE, random_search(SPACE), function(score, SPACE), trials=20, objective=pareto("params"))
    assert through_ray.complete
    for a, b in zip(through_ray.trials, here.trials, strict=True):
        assert a.row.tolist() == b.row.tolist() and a.scores.tolist() == b.scores.tolist() and a.status == "finished"
    assert [t.id for t in through_ray.pareto] == [t.id for t in here.pareto]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["journal.jsonl", "search.json"]


def test_workers_look_up_relative_names_where_the_search_was_started():
    here = os.getcwd()
    found = tune.search(SPACE, random_search(SPACE), function(lambda c: float(os.getcwd() == here), SPACE), trials=4)
    assert [t.metrics["accuracy"] for t in found.trials] == [1.0] * 4


def test_one_worker_gives_what_this_process_gives_whatever_the_strategy():
    strategy = regularized_evolution(SPACE, population=6, tournament=3)
    through_ray = tune.search(SPACE, strategy, function(score, SPACE), trials=20, workers=1)
    here = search(SPACE, strategy, function(score, SPACE), trials=20)
    assert [t.row.tolist() for t in through_ray.trials] == [t.row.tolist() for t in here.trials]


def test_what_tune_keeps_of_finished_trials_is_bounded():
    kept = []

    def count(event, driver, trial):
        if event == "told" and trial.id == 239:
            kept.append(sum(isinstance(o, Trial) for o in gc.get_objects()))

    found = tune.search(SPACE, random_search(SPACE), function(score, SPACE), trials=240, observer=count)
    assert found.complete and kept[0] < 150


def test_failures_rungs_and_reused_workers():
    def start():
        pid = os.getpid()

        def evaluate(job):
            value = score(SPACE.decode(job.row))
            if value == 0:
                raise CandidateFailed("nothing in it")
            for epochs in (1, 3):
                yield Rung({"accuracy": value, "epochs": epochs, "pid": pid})
            yield {"accuracy": value, "epochs": 9, "pid": pid}

        return evaluate

    result = tune.search(SPACE, random_search(SPACE), start, trials=30, eta=3)
    status = {t.status for t in result.trials}
    assert status == {"finished", "stopped", "failed"} and result.complete
    assert {t.reason for t in result.trials if t.status == "failed"} == {"nothing in it"}
    assert len({t.metrics["pid"] for t in result.trials if t.metrics}) <= ray_cluster.cores()
    assert max(t.metrics["accuracy"] for t in result.trials if t.status == "finished") == max(
        t.metrics["accuracy"] for t in result.trials if t.metrics
    )


def test_a_candidate_that_kills_its_worker_is_a_failed_trial(tmp_path):
    def deadly(choices):
        if choices["edge_0_1"] == "none":
            os.kill(os.getpid(), signal.SIGKILL)
        return score(choices)

    result = tune.search(SPACE, random_search(SPACE), function(deadly, SPACE), trials=4, out=tmp_path / "a")
    for t in result.trials:
        dead = SPACE.decode(t.row)["edge_0_1"] == "none"
        assert t.status == ("failed" if dead else "finished")
        assert not dead or "died" in t.reason
    assert any(t.status == "failed" for t in result.trials)


CHILD = """
import sys, time
from nas import ray_cluster, tune
from nas.evaluate import function
from search_spaces import nasbench201
from strategies import regularized_evolution
space = nasbench201()
def score(choices):
    time.sleep(0.1)
    return sum(v == "nor_conv_3x3" for v in choices.values()) / 6
strategy = regularized_evolution(space, population=6, tournament=3)
result = tune.search(space, strategy, function(score, space), trials=24, out=sys.argv[1], resume=sys.argv[2] == "1")
print("complete", result.complete, flush=True)
"""


def start(out, resume):
    command = [sys.executable, "-c", CHILD, str(out), "1" if resume else "0"]
    environment = {n: v for n, v in os.environ.items() if n != "RAY_ADDRESS"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def wait_for(out, lines, child):
    journal = out / "journal.jsonl"
    until = time.monotonic() + 300
    while time.monotonic() < until and child.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.02)
    raise AssertionError(f"the search did not get on: {child.communicate()[0]}")


def test_a_search_that_is_killed_then_interrupted_and_resumed_twice_loses_and_repeats_nothing(tmp_path):
    out = tmp_path / "a"
    child = start(out, resume=False)
    wait_for(out, 16, child)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
    told = [e for e in events(out) if e["event"] == "finished"]
    # as if the driver had been killed before it heard of the last one, whose worker has written its result
    (out / "journal.jsonl").write_text("".join(line for line in lines if json.loads(line) != told[-1]))
    tune.Results(out / ".results").write(told[-1]["id"], told[-1]["metrics"] | {"accuracy": 0.125})
    (out / ".results" / "7000.json").write_text("{")  # cut off: left out
    before = events(out)

    again = start(out, resume=True)
    wait_for(out, len(before) + 8, again)
    again.send_signal(signal.SIGINT)
    assert "complete False" in again.communicate(timeout=300)[0]
    found = events(out)
    assert found[: len(before)] == before
    kept = next(e for e in found if e["event"] == "finished" and e["id"] == told[-1]["id"])
    assert kept["metrics"]["accuracy"] == 0.125
    assert {e["event"] for e in found} == {"asked", "finished"}

    assert "complete True" in start(out, resume=True).communicate(timeout=300)[0]
    assert events(out)[: len(found)] == found
    asked = [e["id"] for e in events(out) if e["event"] == "asked"]
    finished = [e["id"] for e in events(out) if e["event"] == "finished"]
    assert asked == sorted(finished) == list(range(24))
    assert not (out / ".results").exists()


def test_a_worker_gives_the_result_of_one_that_died_before_ray_heard_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NPROC", "1")  # as the worker's process has it
    results = tune.Results(tmp_path / ".results")
    found = {"accuracy": 0.5, "seconds": 2.0}
    results.write(7, found)
    worker = Worker.__new__(Worker)
    config = {"job": {"id": 7, "row": [0] * 6, "epochs": 0, "seed": 0}}
    worker.setup(config, evaluation=lambda: pytest.fail("it was evaluated again"), results=results)
    report = worker.step()
    assert json.loads(report["report"]) == {"metrics": found, "last": True} and report["done"]
    assert results.of(8) is None and results.read() == {7: found}


def test_a_candidate_that_hangs_is_a_failed_trial_and_its_retry_is_on_record(tmp_path):
    def hangs(choices):
        if choices["edge_0_1"] == "none":
            time.sleep(1000)
        return score(choices)

    result = tune.search(
        SPACE, random_search(SPACE), function(hangs, SPACE), trials=4, trial_seconds=1.5, out=tmp_path / "a"
    )
    hung = {t.id for t in result.trials if SPACE.decode(t.row)["edge_0_1"] == "none"}
    assert hung and {t.id for t in result.trials if t.status == "failed"} == hung
    assert {t.reason for t in result.trials if t.id in hung} == {"it took longer than 1.5 s"}
    assert {e["id"] for e in events(tmp_path / "a") if e["event"] == "retried"} == hung


@pytest.mark.parametrize(("options", "says"), [({"workers": 10**4}, "ask for at most"), ({"workers": 0}, "at least 1")])
def test_workers_that_do_not_fit(options, says):
    with pytest.raises(BadInput, match=says):
        tune.search(SPACE, random_search(SPACE), function(score, SPACE), trials=1, **options)


def test_no_cluster_at_the_address():
    code = """
from nas.errors import BadInput
from nas.ray_cluster import connect
try:
    connect("127.0.0.1:1")
except BadInput as error:
    print("BadInput", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("BadInput address: no Ray cluster at '127.0.0.1:1'"), done.stdout + done.stderr[-500:]
