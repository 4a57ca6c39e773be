"""Pricing 100,000 architectures by a table, and its gradient through gates, beside plain numpy.

``python -m experiments.bench_cost``; the times are medians of `ROUNDS` after compilation.
"""

import itertools
import statistics
import time

import jax
import numpy as np

from nas.cost import Cost, Factor, Stamp
from nas.space import SearchSpace
from search_spaces import SPACES

ROWS, ROUNDS = 100_000, 20


def made_up(space: SearchSpace, pairs: bool) -> Cost:
    """A table of the space's shape, with a factor for each pair of decisions as well or without."""
    rng, sizes = np.random.default_rng(0), space.cardinalities
    groups = [(i,) for i in range(len(sizes))]
    groups += list(itertools.combinations(range(len(sizes)), 2)) if pairs else []
    factors = tuple(Factor(g, rng.random(tuple(sizes[d] for d in g))) for g in groups)
    return Cost(Stamp("latency", "ms", "none", "made up", 1, "float32", {}, "made up"), 1.0, factors)


def one_by_one(cost: Cost, rows: np.ndarray) -> list[float]:
    """What a look-up table is in most toolkits: a Python loop over networks and their layers."""
    tables = [(f.decisions, f.table) for f in cost.factors]
    return [cost.base + sum(t[tuple(row[d] for d in ds)] for ds, t in tables) for row in rows.tolist()]


def milliseconds(call, rounds: int = ROUNDS) -> float:
    """Median of the time of a call."""
    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def main() -> None:
    """Prints a line for each table."""
    print(f"{ROWS:,} architectures, {jax.devices()[0].platform}, jax {jax.__version__}")
    for name, pairs in (("nasbench201", False), ("nasbench201", True), ("darts", False)):
        space = SPACES[name]()
        cost, rng = made_up(space, pairs), np.random.default_rng(1)
        rows = (rng.random((ROWS, space.length)) * np.asarray(space.cardinalities)).astype(np.int32)
        on_device, price = jax.device_put(rows), jax.jit(cost.__call__)
        np.testing.assert_allclose(price(on_device)[:100], one_by_one(cost, rows[:100]), rtol=1e-5)
        loop = milliseconds(lambda: one_by_one(cost, rows), 1)  # noqa: B023
        plain = milliseconds(lambda: cost(rows), 5)  # noqa: B023
        ours = milliseconds(lambda: price(on_device))  # noqa: B023
        logits = [jax.device_put(rng.random(k).astype(np.float32)) for k in space.cardinalities]
        slope = jax.jit(jax.grad(lambda x: cost.expected([jax.nn.softmax(g) for g in x])))  # noqa: B023
        gradient = milliseconds(lambda: slope(logits))  # noqa: B023
        print(
            f"{name}, {len(cost.factors)} factors: jitted {ours:.2f} ms, numpy gather {plain:.1f} ms "
            f"({plain / ours:.0f}x), loop over rows {loop:.0f} ms ({loop / ours:.0f}x); gradient {gradient:.3f} ms"
        )


if __name__ == "__main__":
    main()
