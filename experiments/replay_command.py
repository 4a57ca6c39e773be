"""`nas replay`: a strategy on a benchmark table, beside random search on the same one."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from experiments import benchmarks
from experiments.cli import show
from experiments.options import accepted, call, parse_sets, split_sets
from nas.errors import BadInput, suggest
from nas.replay import Benchmark, Replayed, replay
from nas.strategy import Strategy
from strategies import STRATEGIES

# what a strategy may ask for by naming it in its signature; see `resources`
RESOURCES = ("budget", "fidelities", "features")
# fixed on NAS-Bench-201 CIFAR-10 alone at 100 queries, and the same on every other table
SETTINGS: dict[str, dict[str, Any]] = {
    "regularized_evolution": {"population": 10, "tournament": 3},
}


def resources(factory: Callable, table: Benchmark, queries: int, features: Callable | None) -> dict[str, Any]:
    """What the factory's signature asks for.

    `budget` is the whole budget in epochs, `fidelities` the epochs a training may have, rising, and `features` a
    jittable function from rows int32[N, L] to float32[N, F] that costs no epochs, or None.
    """
    known = {"budget": queries * table.epochs[0], "fidelities": table.epochs, "features": features}
    return {name: value for name, value in known.items() if name in inspect.signature(factory).parameters}


def make(name: str, table: Benchmark, queries: int, settings: Mapping[str, Any], features=None) -> Strategy:
    """A strategy by name, for a table and a budget."""
    factory = STRATEGIES[name]
    given = {**SETTINGS.get(name, {}), **settings}
    population = given.get("population", 0)
    if isinstance(population, int) and population > queries:
        raise BadInput(
            f"population {population} is larger than the budget of {queries} queries; make one fit the other"
        )
    return call(name, factory, table.space, **given, **resources(factory, table, queries, features))


def check_strategy(name: str) -> None:
    """Refuses a name that is not known."""
    if name not in STRATEGIES:
        raise BadInput(f"--strategy: no strategy '{name}'; {suggest(name, STRATEGIES)}")


def main(
    source: str, dataset: str | None, strategy: str, queries: int, runs: int, seed: int, sets: list[str], json: bool
):
    """Runs one strategy from the options of the command line."""
    check_strategy(strategy)
    settable = [name for name in accepted(STRATEGIES[strategy]) if name not in RESOURCES]
    settings = split_sets(parse_sets(sets), {"strategy": settable})["strategy"]
    table = benchmarks.load(source, dataset)
    searcher = make(strategy, table, queries, settings)
    result = replay(searcher, table, queries=queries, runs=runs, seed=seed)
    baseline = result
    if strategy != "random_search":
        baseline = replay(STRATEGIES["random_search"](table.space), table, queries=queries, runs=runs, seed=seed)
    found = summary(searcher, table, queries, result, baseline)
    if json:
        show(found)
    else:
        print(text(found))


def summary(strategy: Strategy, table: Benchmark, queries: int, result: Replayed, random: Replayed) -> dict[str, Any]:
    """JSON values of one replay."""
    return {
        "strategy": strategy.name,
        "arguments": dict(strategy.arguments),
        "benchmark": table.name,
        "runs": len(result.test),
        "queries": queries,
        "epochs": queries * table.epochs[0],
        "mean": result.mean,
        "std": result.std,
        "stderr": result.stderr,
        "random": {"mean": random.mean, "std": random.std, "stderr": random.stderr},
        "optimum": float(table.test.max()),
        "absent": result.absent,
        "seconds": result.seconds,
        "compile_seconds": result.compile_seconds,
        "notes": list(table.notes),
    }


def text(found: Mapping[str, Any]) -> str:
    """The same for people."""
    random = found["random"]
    lines = [
        f"{found['strategy']} on {found['benchmark']}: {found['mean']:.3f} ± {found['stderr']:.3f} "
        f"(mean over {found['runs']} runs and its standard error; a run varies by {found['std']:.2f})",
        f"random search at the same budget: {random['mean']:.3f} ± {random['stderr']:.3f}; "
        f"best of the table: {found['optimum']:.3f}",
        f"budget {found['epochs']:,} epochs; {found['seconds']:.2f} s and {found['compile_seconds']:.1f} s to compile",
    ]
    return "\n".join([*lines, *found["notes"]])
