"""A cluster in simulated time: the real strategies, with the training times and accuracies of a benchmark table.

Events are those of a search through Ray Tune: a worker asks, trains, reports and asks again; one that dies is back
after a while, and its candidate is trained again by whoever is free.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import simpy

from nas.replay import Benchmark
from nas.strategy import Strategy


@dataclass(frozen=True)
class Cluster:
    """What a cluster is like; times in seconds.

    Attributes:
        workers: that train at once.
        stragglers: share of trainings that take longer than they should.
        slowdown: how many times as long.
        lifetime: of a worker between two deaths, in the mean (exponential): spot machines live for hours.
        back: until another one is there in its place.
    """

    workers: int
    stragglers: float = 0.03
    slowdown: float = 4.0
    lifetime: float = 2 * 3600.0
    back: float = 300.0


@dataclass(frozen=True)
class Simulated:
    """What came of it.

    Attributes:
        at: float[T], seconds when each trial finished.
        test: float[T], test accuracy of what would be chosen then.
        utilisation: share of the workers' time, until the search is done, that was spent on trainings which finished.
        lost: share spent on trainings that a worker's death ended.
        trials: T.
    """

    at: np.ndarray
    test: np.ndarray
    utilisation: float
    lost: float
    trials: int


def simulate(
    strategy: Strategy,
    table: Benchmark,
    seconds_of: Callable[[int, int], float],
    cluster: Cluster,
    *,
    horizon: float,
    seed: int,
) -> Simulated:
    """One search of so many seconds on that cluster.

    Args:
        strategy: pure.
        table: gives validation to tell and test to report.
        seconds_of: ``(place in the table, epochs) -> seconds`` of a training that nothing disturbs.
        cluster: workers and their troubles.
        horizon: seconds.
        seed: of everything random.
    """
    env, random = simpy.Environment(), np.random.default_rng(seed)
    ask, tell, done = jax.jit(strategy.ask, static_argnums=1), jax.jit(strategy.tell), jax.jit(strategy.done)
    box: dict[str, Any] = {"state": strategy.init(jax.random.key(seed)), "told": env.event(), "nothing": False}
    waiting: list[tuple[int, int, int]] = []  # whose worker died: id, place, level
    finished: list[tuple[float, int, float, float]] = []  # when, level, validation, test
    spent = {"useful": 0.0, "lost": 0.0}

    def next_job():
        if waiting:
            return waiting.pop(0)
        if box["nothing"]:  # `ask` is pure: it has nothing for the others either, until the next is told
            return None
        asked, state = ask(box["state"], 1)
        id = int(asked.id[0])
        if id < 0:
            box["nothing"] = True
            return None
        box["state"] = state
        level = min(int(np.searchsorted(table.epochs, int(asked.epochs[0]))), len(table.epochs) - 1)
        return id, int(table.place(np.asarray(asked.row[0]))), level

    def report(id, place, level):
        value = float(table.validation[level, place])
        scores = np.asarray([[value / table.scale]], np.float32)
        box["state"] = tell(box["state"], np.asarray([id]), scores, np.zeros((1, 0), np.float32))
        box["nothing"] = False
        finished.append((env.now, level, value, float(table.test[place])))
        box["told"].succeed()
        box["told"] = env.event()

    def worker():
        dies = env.now + random.exponential(cluster.lifetime)
        while True:
            job = next_job()
            if job is None:
                if bool(done(box["state"])):
                    return
                yield box["told"]
                continue
            id, place, level = job
            duration = seconds_of(place, table.epochs[level])
            duration *= cluster.slowdown if random.random() < cluster.stragglers else 1.0
            if env.now + duration > dies:
                spent["lost"] += max(0.0, dies - env.now)
                yield env.timeout(max(0.0, dies - env.now))
                waiting.append(job)
                box["told"].succeed()  # who waits may take it
                box["told"] = env.event()
                yield env.timeout(cluster.back)
                dies = env.now + random.exponential(cluster.lifetime)
                continue
            yield env.timeout(duration)
            spent["useful"] += duration
            report(id, place, level)

    for _ in range(cluster.workers):
        env.process(worker())
    env.run(until=horizon)
    over = finished[-1][0] if finished and bool(done(box["state"])) else horizon
    best, chosen = (-1, -np.inf), []
    for _, level, value, test in finished:
        if (level, value) > best:
            best, current = (level, value), test
        chosen.append(current)
    total = cluster.workers * over
    at = np.asarray([when for when, *_ in finished])
    return Simulated(at, np.asarray(chosen), spent["useful"] / total, spent["lost"] / total, len(finished))
