"""The simulated cluster against what a pencil says of it."""

import numpy as np
import pytest

from nas.replay import benchmark
from nas.space import Decision, Macro, SearchSpace
from strategies import random_search, regularized_evolution

pytest.importorskip("simpy", reason="the extra bench is not installed")
from experiments.cluster import Cluster, simulate


def network(net, macro):
    return net.linear(net.global_avg_pool(net.input), macro.classes)


SPACE = SearchSpace("toy", (Decision("a", tuple(range(8))),), network, Macro(1, 1, (4, 4, 1), 2))
ROWS = np.arange(8)[:, None]
TABLE = benchmark("toy", SPACE, (1,), ROWS, [np.arange(8) / 8.0], np.arange(8) / 8.0)
CALM = {"stragglers": 0.0, "lifetime": 1e12}


def test_workers_that_nothing_disturbs_are_always_busy():
    found = simulate(random_search(SPACE), TABLE, lambda place, epochs: 10.0, Cluster(4, **CALM), horizon=100.5, seed=0)
    assert found.trials == 4 * 10
    assert found.utilisation == pytest.approx(100 / 100.5)
    assert (np.diff(found.test) >= 0).all() and found.test[-1] == 7 / 8


def test_a_generation_waits_for_its_slowest():
    strategy = regularized_evolution(SPACE, population=4, tournament=2, generational=True)
    slow = lambda place, epochs: 40.0 if place == 0 else 10.0  # noqa: E731
    found = simulate(strategy, TABLE, slow, Cluster(4, **CALM), horizon=400.0, seed=1)
    generations = found.at.reshape(-1, 4) if found.trials % 4 == 0 else found.at[: found.trials // 4 * 4].reshape(-1, 4)
    # nobody begins the next generation before the last of this one is told
    assert (generations[1:].min(1) - generations[:-1].max(1) >= 10.0 - 1e-9).all()


def test_what_a_dead_worker_trained_is_trained_again():
    deadly = Cluster(3, stragglers=0.0, lifetime=30.0, back=5.0)
    found = simulate(random_search(SPACE), TABLE, lambda place, epochs: 10.0, deadly, horizon=2000.0, seed=2)
    assert found.lost > 0.05
    assert 0.4 < found.utilisation < 0.9
    assert found.utilisation == pytest.approx(found.trials * 10 / (3 * 2000))
