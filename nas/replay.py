"""Table replay: a strategy searches a table of trained networks, many seeds in one compiled call.

The protocol is that of NAS-Bench-201 (Dong and Yang, ICLR 2020): a strategy sees validation results and pays for each
in epochs trained; of what it has seen, the network with the best validation at the highest fidelity is chosen, and its
test result is what counts.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput
from nas.space import SearchSpace
from nas.strategy import Strategy

# a table is looked up by an array over every row of its space
MOST_ROWS = 20_000_000
# asks in a row that a partial table may answer with nothing before a run is over
PATIENCE = 1000
# of all runs together: what is kept of each is a few numbers
MOST_TRAININGS = 20_000_000
# runs that go through one call: enough to be fast, few enough to show how far it is
PIECE = 500


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A table of trained networks. Made by `benchmark`, which checks it.

    Attributes:
        name: for people.
        space: what its rows mean.
        epochs: rising; fidelity e is a training of ``epochs[e]`` epochs.
        rows: int32[N, L], each once.
        validation: float32[E, N], finite; higher is better; what a strategy is told.
        test: float32[N], in the same unit; what is reported.
        lookup: int32[P], P the number of rows of the space: place in the table of each, -1 where it is absent.
        features: float32[N, F], what is known of each network without training, such as zero-cost scores.
        feature_names: of its columns.
        notes: what a reader of its results must know, one sentence each.
    """

    name: str
    space: SearchSpace
    epochs: tuple[int, ...]
    rows: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    lookup: np.ndarray
    features: np.ndarray
    feature_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every row of the space is in the table."""
        return bool((self.lookup >= 0).all())

    @property
    def scale(self) -> float:
        """What validation is divided by before a strategy is told: 100 where the table is in per cent.

        Strategies see fractions of one in a search as well, and some have settings that depend on it.
        """
        low, high = self.validation.min(), self.validation.max()
        return 100.0 if low >= 0 and 1 < high <= 100 else 1.0

    def place(self, rows):
        """int32[..., L] to int32[...]: where each row is in the table, -1 where it is not. Takes numpy or JAX."""
        xp = np if isinstance(rows, np.ndarray) else jnp
        return xp.asarray(self.lookup)[(rows * _strides(self.space)).sum(-1)]

    def features_of(self, rows) -> jax.Array:
        """int32[N, L] to float32[N, F], known without training; NaN where the table has no such row. Jittable."""
        place = self.place(jnp.asarray(rows))
        return jnp.where((place >= 0)[:, None], jnp.asarray(self.features)[place], jnp.nan)


def benchmark(
    name: str,
    space: SearchSpace,
    epochs: tuple[int, ...],
    rows: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    *,
    features: np.ndarray | None = None,
    feature_names: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Benchmark:
    """A checked `Benchmark`; arguments as its attributes.

    Raises:
        BadInput: no rows, shapes that do not fit, rows that are repeated or not of the space, values that are not
            finite, fidelities that do not rise, or a space of more than 20 million rows.
    """
    count = math.prod(space.cardinalities)
    if count > MOST_ROWS:
        raise BadInput(
            f"{name}: space '{space.name}' has {count:.3g} rows; a table can be replayed up to {MOST_ROWS:,}"
        )
    rows = np.asarray(rows, np.int32)
    validation, test = np.asarray(validation, np.float32), np.asarray(test, np.float32)
    features = np.zeros((len(rows), 0), np.float32) if features is None else np.asarray(features, np.float32)
    if not len(rows) or rows.shape[1:] != (space.length,):
        raise BadInput(
            f"{name}: rows are {list(rows.shape)}; space '{space.name}' wants [N, {space.length}], N above 0"
        )
    if not epochs or epochs[0] < 1 or list(epochs) != sorted(set(epochs)):
        raise BadInput(f"{name}: fidelities are {list(epochs)} epochs; they must rise and be at least 1")
    if validation.shape != (len(epochs), len(rows)) or test.shape != (len(rows),):
        raise BadInput(f"{name}: {len(rows)} rows at {len(epochs)} fidelities do not fit the values given")
    if features.shape != (len(rows), len(feature_names)):
        raise BadInput(f"{name}: features are {list(features.shape)}; wants [{len(rows)}, {len(feature_names)}]")
    for what, values in (("validation", validation.T), ("test", test), ("features", features)):
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(rows), -1)).all(1))
        if len(bad):
            raise BadInput(f"{name}: row {bad[0] + 1}: {what} is not a finite number")
    inside = ((rows >= 0) & (rows < np.asarray(space.cardinalities))).all(1)
    valid = inside if space.allowed_of is None else inside & np.asarray(jax.jit(space.valid)(rows))
    if not valid.all():
        at = int(np.flatnonzero(~valid)[0])
        raise BadInput(f"{name}: row {at + 1}: {rows[at].tolist()} is no row of space '{space.name}'")
    codes = (rows * _strides(space)).sum(1)
    lookup = np.full(count, -1, np.int32)
    lookup[codes[::-1]] = np.arange(len(rows), dtype=np.int32)[::-1]  # of repeated rows the first one stays
    again = np.flatnonzero(lookup[codes] != np.arange(len(rows)))
    if len(again):
        raise BadInput(
            f"{name}: rows {lookup[codes[again[0]]] + 1} and {again[0] + 1} are the same architecture; keep one"
        )
    return Benchmark(
        name, space, tuple(epochs), rows, validation, test, lookup, features, tuple(feature_names), tuple(notes)
    )


def _strides(space: SearchSpace) -> np.ndarray:
    """int32[L]: a row times these, summed, is its place in lexicographic order."""
    return np.cumprod([1, *space.cardinalities[:0:-1]], dtype=np.int64)[::-1].astype(np.int32)


@dataclass(frozen=True, eq=False)
class Replayed:
    """What a strategy reached on a table.

    Attributes:
        test: float32[R], test of the network each run chose; NaN where a run saw none.
        curve: float32[R, B], the same after (b + 1) times the lowest fidelity's epochs; NaN before the first.
        queries: int32[R], trainings paid for.
        absent: int32[R], asks for networks that the table does not hold; they cost nothing.
        seconds: for all runs, after compilation.
        compile_seconds: 0 where nothing was compiled as a whole.
    """

    test: np.ndarray
    curve: np.ndarray
    queries: np.ndarray
    absent: np.ndarray
    seconds: float
    compile_seconds: float

    @property
    def absent_share(self) -> float:
        """Of all asks."""
        return float(self.absent.sum() / max(self.absent.sum() + self.queries.sum(), 1))

    @property
    def mean(self) -> float:
        """Of `test` over runs."""
        return float(np.mean(self.test, dtype=np.float64))

    @property
    def std(self) -> float:
        """Of `test` over runs (n - 1)."""
        return float(np.std(self.test, ddof=1, dtype=np.float64)) if len(self.test) > 1 else math.nan

    @property
    def stderr(self) -> float:
        """Standard error of the mean."""
        return self.std / math.sqrt(len(self.test))


Scalar = Any  # of JAX in a compiled run, of numpy in a plain one


class _Run(NamedTuple):
    """One run under way; all but `state` are scalars."""

    state: Any
    over: Scalar  # bool
    spent: Scalar  # int32, epochs
    queries: Scalar  # int32
    absent: Scalar  # int32
    most: Scalar  # int32, epochs asked for at most
    level: Scalar  # int32, highest fidelity seen; -1 before the first
    validation: Scalar  # float32, best there
    test: Scalar  # float32, of that one


def replay(
    strategy: Strategy,
    table: Benchmark,
    *,
    queries: int,
    runs: int,
    seed: int = 0,
    first: int = 0,
    tick: Callable[[int], None] | None = None,
) -> Replayed:
    """Runs a strategy on a table, one candidate at a time.

    A candidate costs the epochs it is trained; 0 epochs asked for mean the lowest fidelity, and a number between two
    fidelities the higher one. A run is over when the next training does not fit into what is left, or the strategy
    asks for none. A network that the table does not hold costs nothing: it is told as failed and the next is asked for,
    at most 1,000 times in a row.

    Args:
        strategy: with one objective and no constraints. Pure ones run as one compiled scan, mapped over the seeds.
        table: from `benchmark`.
        queries: budget in trainings at the lowest fidelity.
        runs: how many seeds; run r is seeded with ``fold_in(key(seed), r)``.
        seed: of all runs.
        first: number of the first run, for doing them in parts.
        tick: called with the number of finished runs from time to time.

    Raises:
        BadInput: a budget or a number of runs below 1, too many together, or a strategy that asks for more epochs than
            the table knows.
    """
    if queries < 1 or runs < 1:
        raise BadInput(f"replay: {queries} queries and {runs} runs; both must be at least 1")
    if queries * runs > MOST_TRAININGS:
        raise BadInput(
            f"replay: {queries:,} queries x {runs:,} runs are more than {MOST_TRAININGS:,}; lower one of them"
        )
    run = _scanned if strategy.pure else _looped
    spent, test, end, seconds, compile_seconds = run(
        strategy, table, queries, runs, seed, first, tick or (lambda n: None)
    )
    if end.most.max() > table.epochs[-1]:
        raise BadInput(
            f"{strategy.name} asked for {end.most.max()} epochs; {table.name} knows at most {table.epochs[-1]}"
        )
    curve = _by_budget(spent, test, table.epochs[0])
    return Replayed(end.test, curve, end.queries, end.absent, seconds, compile_seconds)


def joined(parts: Sequence[Replayed], seconds: float) -> Replayed:
    """Parts of one replay, in their order, which together took `seconds`."""
    arrays = {
        name: np.concatenate([getattr(p, name) for p in parts]) for name in ("test", "curve", "queries", "absent")
    }
    return replace(parts[0], **arrays, seconds=seconds, compile_seconds=sum(p.compile_seconds for p in parts))


def _by_budget(spent: np.ndarray, test: np.ndarray, unit: int) -> np.ndarray:
    """float32[R, B]: from what was chosen after each training to what was chosen at each multiple of `unit`."""
    found = np.full((len(spent), spent.shape[1]), np.nan, np.float32)
    for r in range(len(spent)):
        last = np.searchsorted(spent[r], unit * np.arange(1, spent.shape[1] + 1), side="right") - 1
        found[r] = np.where(last >= 0, test[r, last], np.nan)
    return found


def run_keys(seed: int, runs: int, first: int = 0) -> jax.Array:
    """Keys [R] of the runs."""
    return jax.vmap(lambda r: jax.random.fold_in(jax.random.key(seed), r))(first + jnp.arange(runs))


def first_run(strategy: Strategy, key: jax.Array) -> _Run:
    """Before anything was asked."""
    zero, nan = np.int32(0), np.float32(np.nan)
    return _Run(strategy.init(key), np.bool_(False), zero, zero, zero, zero, np.int32(-1), nan, nan)


def one_query(strategy: Strategy, table: Benchmark, budget: int, run: _Run) -> _Run:
    """Asks, looks up and tells until one training is paid for or the run is over. Jittable where the strategy is."""
    before = run.queries

    def go_on(carry):
        run, tries = carry
        return (run.queries == before) & ~run.over & (tries < PATIENCE)

    def ask_once(carry):
        return _ask_once(strategy, table, budget, carry[0]), carry[1] + 1

    if table.complete:
        return _ask_once(strategy, table, budget, run)
    if strategy.pure:
        run, tries = jax.lax.while_loop(go_on, ask_once, (run, np.int32(0)))
    else:
        tries = np.int32(0)
        while go_on((run, tries)):
            run, tries = ask_once((run, tries))
    return run._replace(over=run.over | (tries >= PATIENCE))


def _ask_once(strategy, table, budget, run):
    xp = jnp if strategy.pure else np
    asked, state = strategy.ask(run.state, 1)
    id, row, epochs = (xp.asarray(part)[0] for part in asked[:3])
    fidelities = xp.asarray(table.epochs, xp.int32)
    level = xp.minimum((epochs > fidelities).sum(dtype=xp.int32), len(table.epochs) - 1)
    place = table.place(row)
    over = run.over | (id < 0) | ((place >= 0) & (run.spent + fidelities[level] > budget))
    counts, absent = ~over & (place >= 0), ~over & (place < 0)
    value = xp.asarray(table.validation)[level, place]
    score = xp.where(counts, value / np.float32(table.scale), xp.float32(xp.nan))
    state = strategy.tell(state, xp.where(over, -1, id)[None], score[None, None], xp.zeros((1, 0), xp.float32))
    better = counts & ((level > run.level) | ((level == run.level) & (value > run.validation)))
    return _Run(
        state=state,
        over=over | xp.asarray(strategy.done(state)),
        spent=run.spent + xp.where(counts, fidelities[level], 0),
        queries=run.queries + counts,
        absent=run.absent + absent,
        most=xp.maximum(run.most, xp.where(over, 0, epochs)),
        level=xp.where(better, level, run.level),
        validation=xp.where(better, value, run.validation),
        test=xp.where(better, xp.asarray(table.test)[place], run.test),
    )


def _scanned(strategy, table, queries, runs, seed, first, tick):
    budget = queries * table.epochs[0]

    def whole(key):
        def step(run, _):
            run = one_query(strategy, table, budget, run)
            return run, (run.spent, run.test)

        run, (spent, test) = jax.lax.scan(step, first_run(strategy, key), None, length=queries)
        return spent, test, run._replace(state=())

    pieces = -(-runs // PIECE)
    size = -(-runs // pieces)
    # one program serves all pieces; what the last one runs too many is thrown away
    keys = run_keys(seed, pieces * size, first).reshape(pieces, size)
    start = time.perf_counter()
    program = jax.jit(jax.vmap(whole)).lower(keys[0]).compile()
    compiled, found = time.perf_counter(), []
    for i in range(pieces):
        found.append(jax.tree.map(np.asarray, program(keys[i])))
        tick(min((i + 1) * size, runs))
    seconds = time.perf_counter() - compiled
    spent, test, end = jax.tree.map(lambda *parts: np.concatenate(parts)[:runs], *found)
    return spent, test, end, seconds, compiled - start


def _looped(strategy, table, queries, runs, seed, first, tick):
    budget, found = queries * table.epochs[0], []
    start = time.perf_counter()
    for i, key in enumerate(run_keys(seed, runs, first)):
        run, steps = first_run(strategy, key), []
        for _ in range(queries):
            run = one_query(strategy, table, budget, run)
            steps.append((int(run.spent), float(run.test)))
        spent, test = np.asarray(steps, np.float32).T
        found.append((spent.astype(np.int32), test, run._replace(state=())))
        tick(i + 1)
    seconds = time.perf_counter() - start
    spent, test, end = jax.tree.map(lambda *parts: np.stack([np.asarray(p) for p in parts]), *found)
    return spent, test, end, seconds, 0.0
