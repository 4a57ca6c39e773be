"""From accuracies that can be predicted to one architecture for each device and limit: evolution, jitted whole.

The last step of Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas.cost import Cost
from nas.errors import BadInput
from nas.space import Archs, SearchSpace

Accuracy = Callable[[Archs], jax.Array]  # int32[N, L] -> float32[N], jittable


class Target(NamedTuple):
    """What to specialise for: at most `limit` (in the cost's unit) of `cost`."""

    name: str
    cost: Cost
    limit: float


@dataclass(frozen=True)
class Evolution:
    """Settings of the search; the defaults are those of once-for-all's own finder.

    Attributes:
        generations: after the first population.
        population: members of a generation.
        parents: share of a generation, the best, that stays and breeds.
        crossover: share of the children that have two parents; the others are mutations of one.
        mutation: probability that a decision is drawn anew in a mutation.
        tries: draws for each child, of which the first within the limit is taken. Once-for-all draws until one is; a
            bounded number keeps all runs in step, and a child over the limit ranks behind all within.
    """

    generations: int = 500
    population: int = 100
    parents: float = 0.25
    crossover: float = 0.5
    mutation: float = 0.1
    tries: int = 4

    def __post_init__(self):
        for name in ("generations", "population", "tries"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < (2 if name == "population" else 1):
                raise BadInput(
                    f"specialize: {name} is {value!r}; it must be a whole number above zero, population above 1"
                )
        for name in ("parents", "crossover", "mutation"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(f"specialize: {name} is {getattr(self, name)!r}; it must be between 0 and 1")


class Specialized(NamedTuple):
    """The best architecture of each target and seed.

    Attributes:
        targets: as given.
        rows: int32[T, S, L].
        accuracy: float32[T, S], predicted.
        cost: float64[T, S], in the unit of each target's cost.
        feasible: bool[T, S]; where it is False no architecture within the limit was found, and the row is the cheapest.
        seconds: of all runs together, after compilation.
        compile_seconds: of the programs.
    """

    targets: tuple[Target, ...]
    rows: np.ndarray
    accuracy: np.ndarray
    cost: np.ndarray
    feasible: np.ndarray
    seconds: float
    compile_seconds: float

    def best(self, target: int) -> int:
        """The seed with the best predicted accuracy within the limit of a target.

        Raises:
            BadInput: no seed found an architecture within the limit; says the cheapest found.
        """
        t = self.targets[target]
        if not self.feasible[target].any():
            unit = t.cost.stamp.unit
            none = "no architecture of the space is" if t.cost.least > t.limit else "no architecture was found"
            raise BadInput(
                f"limit {t.name}={t.limit:g}{unit}: {none} within it; the cheapest found takes "
                f"{self.cost[target].min():.4g} {unit}"
            )
        return int(np.argmax(np.where(self.feasible[target], self.accuracy[target], -np.inf)))


def specialize(
    space: SearchSpace,
    accuracy: Accuracy,
    targets: Sequence[Target],
    *,
    seeds: int = 1,
    seed: int = 0,
    settings: Evolution | None = None,
) -> Specialized:
    """The most accurate architecture within each limit, for all targets and seeds in one compiled call.

    Costs whose tables are over the same decisions share a program; others get one of their own.

    Args:
        space: of the rows.
        accuracy: predicts; jittable.
        targets: devices and limits.
        seeds: independent runs a target.
        seed: of everything random.
        settings: of the evolution.

    Raises:
        BadInput: no target, a limit that is not above zero, a cost of another space, or one that is no table.
    """
    settings = settings or Evolution()
    _check(space, targets, seeds)
    found: list[Any] = [None] * len(targets)
    keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(seed), s))(jnp.arange(seeds))
    seconds = compiling = 0.0
    for group in _alike(targets):
        tables = jax.tree.map(lambda *t: jnp.stack(t), *[_tables(targets[i].cost) for i in group])
        limits = jnp.asarray([targets[i].limit for i in group], jnp.float32)
        factors = targets[group[0]].cost.factors
        run = _run(space, accuracy, [f.decisions for f in factors], [f.table.shape for f in factors], settings)
        each_seed = jax.vmap(run, (None, None, 0))
        began = time.monotonic()
        program = jax.jit(jax.vmap(each_seed, (0, 0, None))).lower(tables, limits, keys).compile()
        compiled = time.monotonic()
        rows = np.asarray(program(tables, limits, keys))
        seconds, compiling = seconds + time.monotonic() - compiled, compiling + compiled - began
        for i, own in zip(group, rows, strict=True):
            found[i] = own
    rows = np.stack(found)
    flat = rows.reshape(-1, space.length)
    predicted = np.asarray(jax.jit(accuracy)(flat)).reshape(rows.shape[:2])
    # priced anew in float64: what is returned must hold by the table itself
    cost = np.stack([t.cost(own) for t, own in zip(targets, rows, strict=True)])
    feasible = cost <= np.asarray([t.limit for t in targets])[:, None]
    return Specialized(tuple(targets), rows, predicted, cost, feasible, seconds, compiling)


def _run(space, accuracy, decisions, shapes, settings):
    """``(tables, limit, key) -> row int32[L]``: one run."""
    parents = max(2, round(settings.population * settings.parents))
    children = settings.population - parents
    if children < 1:
        raise BadInput(
            f"specialize: parents {settings.parents} of a population of {settings.population} leave no child"
        )
    crossed = round(children * settings.crossover)

    options = jnp.asarray(space.cardinalities)
    steps, starts = _places(space.length, decisions, shapes)

    def price(tables, rows):
        base, entries = tables
        # one gather for all factors; the products are whole numbers below 2^24, so that float32 has them exactly
        places = (rows.astype(jnp.float32) @ steps).astype(jnp.int32) + starts
        return base + entries[places].sum(-1)

    def first_within(tables, limit, rows):  # int32[tries, N, L]
        within = price(tables, rows) <= limit
        at = jnp.where(within.any(0), jnp.argmax(within, 0), settings.tries - 1)
        return jnp.take_along_axis(rows, at[None, :, None], 0)[0]

    def fitness(tables, limit, rows):
        over = price(tables, rows) / limit - 1.0
        # accuracies are shares: every member over the limit ranks behind those within, the least over first
        return jnp.where(over <= 0, accuracy(rows), -1.0 - over)

    def breed(key, rows):
        who, draw = jax.random.split(key)
        shape = (settings.tries, children)
        one, two = rows[jax.random.randint(who, (2, *shape), 0, parents)]
        uniform = jax.random.uniform(draw, one.shape)
        # the same number says whether a decision changes and, being uniform below the threshold, to what
        drawn = (uniform / settings.mutation * options).astype(jnp.int32)
        mutated = jnp.where(uniform < settings.mutation, drawn, one)
        mixed = jnp.where(uniform < 0.5, one, two)
        return _repaired(space, jnp.where((jnp.arange(children) < crossed)[:, None], mixed, mutated))

    def run(tables, limit, key):
        # the limit leaves room for rounding: costs are added in float32 here and in float64 outside
        limit = limit * (1 - 1e-6)
        first, later = jax.random.split(key)
        uniform = jax.random.uniform(first, (settings.tries, settings.population, space.length))
        start = _repaired(space, (uniform * options).astype(jnp.int32))
        rows = first_within(tables, limit, start)

        def generation(carry, key):
            rows, fit = carry
            fit, best = jax.lax.top_k(fit, parents)
            rows = rows[best]
            new = first_within(tables, limit, breed(key, rows))
            carry = jnp.concatenate([rows, new]), jnp.concatenate([fit, fitness(tables, limit, new)])
            return carry, None

        carry = rows, fitness(tables, limit, rows)
        rows, fit = jax.lax.scan(generation, carry, jax.random.split(later, settings.generations))[0]
        return rows[jnp.argmax(fit)]

    return run


def _repaired(space, rows):
    """Choices that do not fit those before them become the first that does."""
    if space.allowed_of is None:
        return rows
    columns = list(rows.reshape(-1, space.length).T)  # not one array: updating it for each decision would copy it
    for i in range(space.length):
        allowed = jax.vmap(lambda *row, i=i: space.allowed(_Row(row), i))(*columns)
        fits = jnp.take_along_axis(allowed, columns[i][:, None], 1)[:, 0]
        columns[i] = jnp.where(fits, columns[i], jnp.argmax(allowed, 1).astype(jnp.int32))
    return jnp.stack(columns, -1).reshape(rows.shape)


class _Row(tuple):
    """A row whose entries are arrays of their own: to read one does not make an array of all, which compiles slowly."""

    def __jax_array__(self):
        return jnp.stack(list(self))


def _tables(cost):
    """(base, the entries of all factors one after the other)."""
    entries = [np.ravel(f.table) for f in cost.factors] or [np.zeros(1)]
    return jnp.float32(cost.base), jnp.asarray(np.concatenate(entries), jnp.float32)


def _places(length, decisions, shapes):
    """float32[L, F] and int32[F]: a row times the first, plus the second, is where each factor's entry stands."""
    starts = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])[:-1]
    steps = np.zeros((length, len(decisions)))
    for f, (ds, shape) in enumerate(zip(decisions, shapes, strict=True)):
        steps[list(ds), f] = np.cumprod([1, *shape[:0:-1]])[::-1]
    return jnp.asarray(steps, jnp.float32), jnp.asarray(starts, jnp.int32)


def _alike(targets):
    """Indices of targets, grouped by the decisions and shapes of their tables."""
    groups: dict[Any, list[int]] = {}
    for i, target in enumerate(targets):
        groups.setdefault(tuple((f.decisions, f.table.shape) for f in target.cost.factors), []).append(i)
    return list(groups.values())


def _check(space, targets, seeds):
    if not targets:
        raise BadInput("specialize: no target; give at least one cost and limit (--cost NAME=FILE --limit NAME=20ms)")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise BadInput(f"specialize: seeds is {seeds!r}; it must be a whole number of at least 1")
    for t in targets:
        if not t.limit > 0:
            raise BadInput(f"limit {t.name}: {t.limit!r} must be above zero")
        if t.cost.space and t.cost.space != space.fingerprint:
            raise BadInput(
                f"cost '{t.name}': made for another space than '{space.name}' ({t.cost.space}); width and resolutions "
                "must be those of its table"
            )
        if t.cost.function is not None:
            raise BadInput(f"cost '{t.name}' is a function, not a table; specialising prices inside the program")
