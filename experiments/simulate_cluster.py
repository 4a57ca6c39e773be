"""Synchronous against asynchronous strategies on up to 1,000 workers, in simulated time; one picture.

NAS-Bench-201 on CIFAR-10. A training takes as long as three forward passes of each batch of 256 on a Titan X (HELP's
measurements), over the epochs it has; 3 % of them take four times as long, and workers live for two hours in the mean.
Run: ``python -m experiments.simulate_cluster [--seeds 3] [--out docs/images/cluster.png]``; needs the extra `bench`.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks import find, load
from experiments.cluster import Cluster, simulate
from experiments.tables import numbers, read_csv
from nas.plots import COLOURS, finish
from nas.progress import counting
from nas.training_plots import LINES
from strategies import asha, random_search, regularized_evolution, successive_halving

HOURS = 1.0
WORKERS = (10, 30, 100, 300, 1000)
BATCHES = 25_000 / 256  # of an epoch


def strategies(space, workers: int) -> dict:
    """As a person would set them for so many workers: a generation is as large as the cluster, an hour of work."""
    population, trainings = max(50, workers), 14 * workers
    evolution = dict(population=population, tournament=max(5, population // 10), in_flight=4096)
    return {
        "evolution, asynchronous": regularized_evolution(space, **evolution),
        "evolution, generations": regularized_evolution(space, generational=True, **evolution),
        "asha": asha(space, fidelities=(12, 200), trainings=trainings),
        "successive halving": successive_halving(space, fidelities=(12, 200), trainings=trainings),
        "random search": random_search(space),
    }


def times(table):
    """``(place, epochs) -> seconds``."""
    measured = read_csv(find("nasbench201/latency_help.csv.gz"))
    index = numbers(measured, ["index"], "latency")[0].astype(int)
    batch = np.zeros(len(index))
    batch[index] = numbers(measured, ["titanx_256"], "latency")[0] / 1000
    own = numbers(read_csv(find("nasbench201/accuracy.csv")), ["index"], "accuracy")[0].astype(int)
    batch = batch[own]
    return lambda place, epochs: 3 * batch[place] * BATCHES * epochs


def main() -> None:
    """Prints a row for each strategy and number of workers, and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--out", type=Path, default=Path("cluster.png"))
    o = parser.parse_args()
    table = load("nasbench201", "cifar10")
    seconds_of, found = times(table), {}
    names = list(strategies(table.space, 10))
    with counting("simulated searches", len(o.workers) * len(names) * o.seeds) as show:
        for workers in o.workers:
            for name, strategy in strategies(table.space, workers).items():
                cluster = Cluster(workers)
                runs = []
                for seed in range(o.seeds):
                    runs.append(simulate(strategy, table, seconds_of, cluster, horizon=HOURS * 3600, seed=seed))
                    show(sum(map(len, found.values())) + len(runs))
                found[name, workers] = runs
                busy, test = np.mean([(r.utilisation, r.test[-1]) for r in runs], 0)
                print(f"{workers:>5} workers  {name:<24} busy {busy:.2f}  trials {runs[0].trials:>6}  test {test:.2f}")
    draw(found, names, o.workers).savefig(o.out, dpi=110)


def draw(found, names, workers) -> Figure:
    """Utilisation over workers, and accuracy over time for the middle size."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    middle = workers[len(workers) // 2]
    for name, colour in zip(names, LINES, strict=False):
        busy = [np.mean([r.utilisation for r in found[name, w]]) for w in workers]
        left.plot(workers, busy, marker="o", color=colour, label=name)
        grid = np.linspace(0.02, HOURS, 200) * 3600
        curves = [np.append(np.nan, r.test)[np.searchsorted(r.at, grid, "right")] for r in found[name, middle]]
        right.plot(grid / 3600, np.mean(curves, 0), color=colour)
    left.set(xscale="log", xlabel="workers", ylabel="share of time spent on finished trainings", ylim=(0, 1.02))
    right.set(xlabel=f"hours, {middle} workers", ylabel="test accuracy of the chosen network", ylim=(92.5, 94.5))
    finish(figure, left, "", legend=True)
    finish(figure, right, "", legend=False)
    figure.patch.set(facecolor=COLOURS["surface"], alpha=1)
    return figure


if __name__ == "__main__":
    main()
