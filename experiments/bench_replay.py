"""Speed of table replay: many seeds in one compiled call, beside plain loops over the same table, in one run.

Random search and regularised evolution have a rival written in plain Python; every other pure strategy is driven by a
Python loop over its jitted `ask` and `tell`, measured on a few seeds and scaled up.
Run with ``python -m experiments.bench_replay``.
"""

import argparse
import random
import time
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np

from experiments import benchmarks
from experiments.replay_command import make
from nas.replay import replay, run_keys
from strategies import STRATEGIES


def plain_random(values, test, draw: random.Random, queries: int) -> float:
    """Test of the best of so many draws."""
    return test[max((draw.randrange(len(values)) for _ in range(queries)), key=values.__getitem__)]


def plain_evolution(values, test, draw: random.Random, queries: int, population=10, sample=3) -> float:
    """Aging evolution as its paper writes it, on six decisions of five options."""
    members: deque[tuple[list[int], float]] = deque(maxlen=population)
    best, chosen = -1.0, 0.0
    for i in range(queries):
        if i < population:
            row = [draw.randrange(5) for _ in range(6)]
        else:
            row = list(max((draw.choice(members) for _ in range(sample)), key=lambda member: member[1])[0])
            at = draw.randrange(6)
            row[at] = draw.choice([option for option in range(5) if option != row[at]])
        place = 0
        for option in row:
            place = place * 5 + option
        members.append((row, values[place]))
        if values[place] > best:
            best, chosen = values[place], test[place]
    return chosen


def plain_loop(strategy, table, queries: int, runs: int) -> float:
    """Seconds of a run, asked and told one candidate at a time."""
    ask, tell = jax.jit(strategy.ask, static_argnums=1), jax.jit(strategy.tell)
    started = 0.0
    for r, key in enumerate(run_keys(0, runs + 1)):
        state = strategy.init(key)
        for _ in range(queries if r else 3):  # the first run compiles
            asked, state = ask(state, 1)
            score = table.validation[0, int(table.place(np.asarray(asked.row))[0])] / table.scale
            state = tell(state, asked.id, jnp.full((1, 1), score), jnp.zeros((1, 0)))
        started = started or time.perf_counter()
    return (time.perf_counter() - started) / runs


def main() -> None:
    """One table on stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    options = parser.parse_args()
    table = benchmarks.load("nasbench201", "cifar10")
    order = np.lexsort(table.rows.T[::-1])  # by place, as the plain loops count it
    values, test = table.validation[0][order].tolist(), table.test[order].tolist()
    plain = {"random_search": plain_random, "regularized_evolution": plain_evolution}
    print(f"{options.runs} runs x {options.queries} queries on {table.name}")
    heads = ("mean", "compiled s", "to compile s", "plain loop s", "its mean", "ratio")
    print(f"{'strategy':24}" + "".join(f"{head:>14}" for head in heads))
    for name in options.strategies.split(","):
        strategy = make(name, table, options.queries)
        if not strategy.pure:
            continue
        ours = replay(strategy, table, queries=options.queries, runs=options.runs)
        if name in plain:
            start = time.perf_counter()
            found = [plain[name](values, test, random.Random(r), options.queries) for r in range(options.runs)]
            seconds, mean = time.perf_counter() - start, f"{np.mean(found):.2f}"
        else:
            seconds, mean = plain_loop(strategy, table, options.queries, 2) * options.runs, "-"
        figures = (f"{ours.mean:.2f}", f"{ours.seconds:.3f}", f"{ours.compile_seconds:.2f}", f"{seconds:.2f}", mean)
        print(f"{name:24}" + "".join(f"{text:>14}" for text in (*figures, f"{seconds / ours.seconds:.1f}")), flush=True)


if __name__ == "__main__":
    main()
