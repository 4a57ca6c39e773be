"""`nas replay`: a strategy on a benchmark table, beside random search on the same one."""

import functools
import inspect
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import benchmarks
from experiments.cli import show
from experiments.options import accepted, call, make_own, parse_sets, space_factory, split_sets
from experiments.own_table import from_csv
from nas.errors import BadInput, suggest
from nas.progress import counting
from nas.replay import Benchmark, Replayed, joined, replay
from nas.strategy import Strategy
from search_spaces import SPACES
from strategies import STRATEGIES

# what a strategy may ask for by naming it in its signature; see `resources`
RESOURCES = ("budget", "fidelities", "features")
# fixed on NAS-Bench-201 CIFAR-10 alone at 100 queries, and the same on every other table
SETTINGS: dict[str, dict[str, Any]] = {
    "regularized_evolution": {"population": 10, "tournament": 3, "in_flight": 1},
}
# trainings below which further processes take longer to start than they save
WORTH_PROCESSES = 5000


@dataclass(frozen=True)
class Source:
    """The options of a table, as typed: a name with `dataset`, or a file with all that follows."""

    table: str
    dataset: str | None = None
    space: str | None = None
    arch_column: str | None = None
    arch_table: Path | None = None
    validation: tuple[str, ...] = ()
    test: str | None = None
    features: tuple[str, ...] = ()

    def load(self) -> Benchmark:
        """The table.

        Raises:
            BadInput: options that do not belong together, and what the readers refuse.
        """
        file = {"--space": self.space, "--arch-column": self.arch_column, "--validation-column": self.validation}
        file |= {"--test-column": self.test}
        if not self.table.endswith((".csv", ".csv.gz")):
            given = next((name for name, value in (file | {"--arch-table": self.arch_table}).items() if value), None)
            if given:
                raise BadInput(f"{given} describes a .csv file; '{self.table}' is none")
            return benchmarks.load(self.table, self.dataset, self.features)
        missing = [name for name, value in file.items() if not value]
        if missing:
            raise BadInput(f"{self.table}: a file needs {' and '.join(missing)} too")
        if self.dataset is not None:
            raise BadInput("--dataset belongs to a benchmark's name; the columns of a file say what is read")
        space = make_own(str(self.space), space_factory(str(self.space), SPACES))
        return from_csv(
            Path(self.table),
            space,
            str(self.arch_column),
            self.validation,
            str(self.test),
            arch_table=self.arch_table,
            features=self.features,
        )


def resources(factory: Callable, table: Benchmark, queries: int) -> dict[str, Any]:
    """What the factory's signature asks for.

    `budget` is the whole budget in epochs, `fidelities` the epochs a training may have, rising, and `features` a
    jittable function from rows int32[N, L] to float32[N, F] that costs no epochs, or None where none were chosen.
    """
    features = table.features_of if table.feature_names else None
    known = {"budget": queries * table.epochs[0], "fidelities": table.epochs, "features": features}
    return {name: value for name, value in known.items() if name in inspect.signature(factory).parameters}


def make(name: str, table: Benchmark, queries: int, settings: Mapping[str, Any] | None = None) -> Strategy:
    """A strategy by name, for a table and a budget.

    Raises:
        BadInput: settings that are refused, or a population larger than the budget.
    """
    factory = STRATEGIES[name]
    given = {**SETTINGS.get(name, {}), **(settings or {})}
    if "capacity" in inspect.signature(factory).parameters:
        # networks that a partial table does not hold cost nothing, and take a place all the same
        given.setdefault("capacity", queries if table.complete else max(256, 4 * queries))
    strategy = call(name, factory, table.space, **given, **resources(factory, table, queries))
    population = strategy.arguments.get("population", 0)
    if population > queries:
        raise BadInput(
            f"{name}: population {population} is larger than the budget of {queries} queries; "
            "raise --queries or lower --set population"
        )
    return strategy


def check_strategy(name: str) -> None:
    """Refuses a name that is not known."""
    if name not in STRATEGIES:
        raise BadInput(f"--strategy: no strategy '{name}'; {suggest(name, STRATEGIES)}")


def settings_of(name: str, sets: list[str]) -> dict[str, Any]:
    """``--set`` of one strategy."""
    settable = [key for key in accepted(STRATEGIES[name]) if key not in RESOURCES]
    return split_sets(parse_sets(sets), {"strategy": settable})["strategy"]


# ---- running -----------------------------------------------------------------------------------------------------
def run(strategy: Strategy, name: str, table: Benchmark, source: Source, settings, *, queries, runs, seed) -> Replayed:
    """`nas.replay.replay` with progress; strategies on the host go through a process for each core."""
    with counting(f"runs of {name}", runs) as tick:
        workers = min(os.cpu_count() or 1, runs)
        if strategy.pure or workers == 1 or runs * queries < WORTH_PROCESSES:
            return replay(strategy, table, queries=queries, runs=runs, seed=seed, tick=tick)
        size = max(1, min(25, runs // workers))
        parts = [(first, min(size, runs - first)) for first in range(0, runs, size)]
        what = (name, source, tuple(settings.items()), queries, seed)
        start, done, found = time.perf_counter(), 0, {}
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            waiting = {pool.submit(_part, *what, *part): part for part in parts}
            for future in as_completed(waiting):
                found[waiting[future][0]] = future.result()
                done += waiting[future][1]
                tick(done)
        return joined([found[first] for first, _ in parts], time.perf_counter() - start)


def _part(name, source, settings, queries, seed, first, runs):
    strategy, table = _made(name, source, settings, queries)
    return replay(strategy, table, queries=queries, runs=runs, seed=seed, first=first)


@functools.lru_cache(maxsize=1)
def _made(name, source, settings, queries):
    table = source.load()
    return make(name, table, queries, dict(settings)), table


def main(source: Source, strategy: str, queries: int, runs: int, seed: int, sets: list[str], json: bool) -> None:
    """Runs one strategy from the options of the command line."""
    check_strategy(strategy)
    settings = settings_of(strategy, sets)
    table = source.load()
    searcher = make(strategy, table, queries, settings)
    much = {"queries": queries, "runs": runs, "seed": seed}
    random = replay(make("random_search", table, queries), table, **much)
    if not math.isfinite(random.mean):
        raise BadInput(
            f"{table.name}: of the {queries} networks that a run asked for, some run found none of the table's "
            f"{len(table.test)}; raise --queries, or give more of the space"
        )
    result = random if strategy == "random_search" else run(searcher, strategy, table, source, settings, **much)
    found = summary(searcher, table, queries, result, random)
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
        "trainings": float(result.queries.mean()),
        "absent": result.absent_share,
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
        f"budget {found['epochs']:,} epochs, {found['trainings']:.0f} trainings a run; "
        f"{found['seconds']:.2f} s and {found['compile_seconds']:.1f} s to compile",
    ]
    if found["absent"]:
        lines.append(f"{found['absent']:.1%} of what was asked is not in the table: the next was asked instead")
    return "\n".join([*lines, *found["notes"]])
