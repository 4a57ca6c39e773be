"""Many trivial trials: the driver's memory grows by little for each."""

import tracemalloc

import pytest

from experiments.bench_load import grown
from nas.evaluate import function
from nas.search import search
from search_spaces import nasbench201
from strategies import random_search

MOST = 2048  # bytes a trial


def test_five_hundred_trials_take_little_memory_each(tmp_path):
    space, marks = nasbench201(), {}

    def watch(event, driver, trial):
        if event == "told" and trial.id in (99, 499):
            marks[trial.id] = tracemalloc.get_traced_memory()[0]

    score = function(lambda choices: 0.5, space)
    tracemalloc.start()
    try:
        found = search(space, random_search(space), score, trials=500, out=tmp_path / "a", observer=watch)
    finally:
        tracemalloc.stop()
    assert found.complete and sum(t.status == "finished" for t in found.trials) == 500
    assert (marks[499] - marks[99]) / 400 <= MOST


# of Ray's, a quarter is alive; the rest lies between what its threads freed, and is half with MALLOC_ARENA_MAX=1
@pytest.mark.slow
@pytest.mark.parametrize(("executor", "most"), [("local", MOST), ("ray", 5 * MOST)])
def test_ten_thousand_trials_take_little_memory_each(tmp_path, executor, most):
    assert grown(executor, 10_000, tmp_path / "run")["bytes_a_trial"] <= most
