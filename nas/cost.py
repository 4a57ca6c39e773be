"""What an architecture costs on a device: a stamped sum of factors, a gather for a hundred thousand candidates."""

import contextlib
import functools
import itertools
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput
from nas.layers import Layer, counts
from nas.objective import UNITS
from nas.space import Archs, Macro, SearchSpace

# what `count_costs` gives
COUNTED = ("params", "macs", "memory")
# counts are tabulated only where that takes well under a second, at some ten microseconds a layer
TABULATED_LAYERS = 30_000


@dataclass(frozen=True)
class Stamp:
    """What a figure is about; no figure goes without it.

    Attributes:
        quantity: latency, energy, memory, params or macs.
        unit: ms, mj, bytes, or empty for counts.
        device: what it was measured on, or ``any`` for closed forms.
        runtime: such as ``xla-cpu jax 0.10.2``; or ``closed form``.
        batch: images a call.
        dtype: of weights and activations.
        macro: the network's frame the figure holds for.
        source: how it was obtained.
        error: held-out relative error, where one is known.
        created: date, ISO.
    """

    quantity: str
    unit: str
    device: str
    runtime: str
    batch: int
    dtype: str
    macro: Mapping[str, Any]
    source: str
    error: float | None = None
    created: str = ""


@dataclass(frozen=True)
class Factor:
    """A table over the options of some decisions: entry [a, b] is added where the row has options a and b."""

    decisions: tuple[int, ...]
    table: np.ndarray  # float64[K1, K2, ...]


LISTED = 1_000_000


def least_of(base: float, factors: Sequence[Factor]) -> tuple[float, bool]:
    """(the least sum of base and an entry of each factor, whether it is exact), see `Cost.least`."""
    groups: list[list[Factor]] = []  # of factors that share decisions, directly or through others
    for factor in factors:
        touching = [any(set(f.decisions) & set(factor.decisions) for f in g) for g in groups]
        mine = [f for g, touches in zip(groups, touching, strict=True) if touches for f in g]
        groups = [g for g, touches in zip(groups, touching, strict=True) if not touches] + [[factor, *mine]]
    total, exact = base, True
    for group in groups:
        pairs = [pair for f in group for pair in zip(f.decisions, f.table.shape, strict=False)]
        sizes = dict(pairs)
        plain = all(len(set(f.decisions)) == len(f.decisions) == f.table.ndim for f in group)
        if len(group) > 1 and plain and set(pairs) == set(sizes.items()) and math.prod(sizes.values()) <= LISTED:
            together = np.zeros([sizes[d] for d in sorted(sizes)])
            for f in group:
                table = f.table.transpose(np.argsort(f.decisions))
                together += table.reshape([sizes[d] if d in f.decisions else 1 for d in sorted(sizes)])
            total += together.min()
        else:
            total += sum(f.table.min(initial=math.inf) for f in group)
            exact &= len(group) == 1
    return float(total), exact


def sure_least(space: SearchSpace | None, base: float, factors: Sequence[Factor]) -> float | None:
    """`least_of` where its cheapest options can be taken together; None where nothing says that they can.

    They can where each factor has decisions of its own, or where it is exact and the space, whose decisions the factors
    fit, allows every choice.
    """
    apart = len({d for f in factors for d in f.decisions}) == sum(len(f.decisions) for f in factors)
    if not apart and (space is None or space.allowed_of is not None):
        return None
    least, exact = least_of(base, factors)
    return least if apart or exact else None


@dataclass(frozen=True, eq=False)
class Cost:
    """Base plus factors: exact on rows, jittable, batched.

    Attributes:
        stamp: what the figure is about.
        base: what every architecture pays.
        factors: what each group of decisions adds.
        function: instead of base and factors, ``rows int32[N, L] -> float64[N]`` on the host, for a quantity that is
            no sum (a peak, a learned model). It can be a limit, a reward or an axis, not a differentiable term.
        space: fingerprint of the space it was made for.
        details: what it was made from, for people (per-block figures).
    """

    stamp: Stamp
    base: float = 0.0
    factors: tuple[Factor, ...] = ()
    function: Callable[[np.ndarray], np.ndarray] | None = None
    space: str = ""
    details: Mapping[str, Any] | None = None

    @property
    def column(self) -> str:
        """Suffix for column names: ``latency_ms``, ``memory_bytes``, ``params``."""
        return f"{self.stamp.quantity}_{self.stamp.unit}" if self.stamp.unit else self.stamp.quantity

    def __call__(self, rows: Archs) -> Any:
        """Rows int32[N, L] to values [N], in the stamp's unit.

        Float64 on numpy rows; float32 on jax rows, jittable.
        """
        if self.function is not None:
            return np.asarray(self.function(np.asarray(rows)), np.float64)
        xp = np if isinstance(rows, np.ndarray) else jnp
        total = xp.zeros(rows.shape[0]) + self.base
        for factor in self.factors:
            total = total + xp.asarray(factor.table)[tuple(rows[:, d] for d in factor.decisions)]
        return total

    @property
    def least(self) -> float:
        """What no architecture goes below: base and the cheapest entries together; -inf where it is a function.

        Exact where factors that share decisions have at most `LISTED` choices of those between them, and every choice
        is allowed; else the cheapest entry of each factor, which may not go together.
        """
        return -math.inf if self.function is not None else least_of(self.base, self.factors)[0]

    def expected(self, gates: Sequence[Any]) -> jax.Array:
        """The expected cost where every decision is drawn by itself: the differentiable form of a table.

        Exact for factors over several decisions, because the probability of options together is the product of theirs.
        With one-hot gates it is the cost of that row. Jittable, differentiable in the gates, and mapped over
        architectures with ``jax.vmap``.

        Args:
            gates: of each decision float[K], the probabilities of its options.

        Raises:
            BadInput: the cost is a function of the row, or the gates are not those of the table's decisions.
        """
        if self.function is not None:
            raise BadInput(f"cost '{self.stamp.quantity}' is a function of the row and no differentiable term")
        total = jnp.asarray(self.base, jnp.float32)
        for factor in self.factors:
            part = jnp.asarray(factor.table, jnp.float32)
            for d in reversed(factor.decisions):
                if d >= len(gates) or jnp.shape(gates[d]) != part.shape[-1:]:
                    shape = jnp.shape(gates[d]) if d < len(gates) else "missing"
                    raise BadInput(f"cost: decision {d} needs gates of shape {part.shape[-1:]}; they are {shape}")
                part = part @ gates[d]
            total = total + part
        return total

    def save(self, path: str | os.PathLike) -> None:
        """Writes a JSON table (atomically).

        Raises:
            BadInput: the cost is a function, which no file can hold.
        """
        if self.function is not None:
            raise BadInput(
                f"cost '{self.stamp.quantity}' is a function of the architecture and cannot be saved as a table"
            )
        from nas.files import write_json

        factors = [{"decisions": list(f.decisions), "table": f.table.tolist()} for f in self.factors]
        write_json(
            path,
            {
                "schema": "nas.cost/1",
                "space": self.space,
                "stamp": asdict(self.stamp),
                "base": self.base,
                "factors": factors,
                "details": self.details,
            },
        )


def read_stamp(values: Mapping[str, Any]) -> Stamp:
    """A stamp from JSON.

    Raises:
        TypeError, ValueError: fields that are missing, unknown or of another type than they should be.
    """
    stamp = Stamp(**values)
    for name in ("quantity", "unit", "device", "runtime", "dtype", "source", "created"):
        if not isinstance(getattr(stamp, name), str):
            raise ValueError(f"the stamp's {name} is no text")
    if isinstance(stamp.batch, bool) or not isinstance(stamp.batch, int) or stamp.batch < 1:
        raise ValueError("the stamp's batch is no number of images")
    error = stamp.error
    if error is not None and (
        isinstance(error, bool) or not isinstance(error, int | float) or not 0 <= error < math.inf
    ):
        raise ValueError("the stamp's error is no share of the figure")
    if stamp.macro:  # a table of blocks holds for every frame
        Macro(**stamp.macro)
    return stamp


def load_cost(path: str | os.PathLike, space: SearchSpace | None = None) -> Cost:
    """Reads a JSON table back.

    Raises:
        BadInput: no such file, not a cost table, of another space, with entries that are no finite numbers, or below
            zero for its cheapest options.
    """
    from nas.files import read_json

    data = read_json(path, "cost table")
    try:
        if data["schema"] != "nas.cost/1":
            raise BadInput(f"{path}: schema is {data['schema']!r}; this version reads nas.cost/1")
        stamp = read_stamp(data["stamp"])
        factors = tuple(
            Factor(tuple(map(operator.index, f["decisions"])), np.asarray(f["table"], np.float64))
            for f in data["factors"]
        )
        cost = Cost(stamp, float(data["base"]), factors, None, data["space"], data.get("details"))
        known = stamp.quantity in UNITS and stamp.unit == UNITS[stamp.quantity][0]
    except KeyError as error:
        raise BadInput(f"{path}: not a cost table (nas.cost/1): {error} is missing") from None
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: not a cost table (nas.cost/1): {' '.join(str(error).split())}") from None
    if not known:
        raise BadInput(f"{path}: quantity '{stamp.quantity}' in '{stamp.unit}' is not one of ours: {', '.join(UNITS)}")
    if not np.isfinite([cost.base, *(v for f in factors for v in f.table.ravel())]).all():
        raise BadInput(f"{path}: holds entries that are no finite numbers; measure it again")
    if space is not None:
        if cost.space != space.fingerprint:
            raise BadInput(
                f"{path}: made for another space than '{space.name}' (fingerprint {cost.space}); measure again"
            )
        for f in factors:
            fits = all(0 <= d < space.length for d in f.decisions)
            if not fits or f.table.shape != tuple(space.cardinalities[d] for d in f.decisions):
                raise BadInput(f"{path}: a factor over decisions {f.decisions} does not fit space '{space.name}'")
    least = sure_least(space, cost.base, factors)
    if least is not None and least < -1e-9 * (1 + abs(cost.base)):
        raise BadInput(f"{path}: its cheapest options cost {least:.6g} {stamp.unit}; no {stamp.quantity} is negative")
    return cost


def tabulate(
    space: SearchSpace, value: Callable[[np.ndarray], float], stamp: Stamp, *, check: int = 32, details=None
) -> Cost:
    """The additive table of a figure that adds over `space.factors`, from few evaluations of it.

    Anchored decomposition: one valid row is the anchor; each group of decisions is varied with the others at the
    anchor, and what the groups before explain is taken off. Exact when the figure is such a sum. The cheapest option
    of each group then stands at zero, so that no entry is negative and `base` is the cost of the cheapest options.

    Args:
        space: whose groups are used.
        value: row int32[L] to a number.
        stamp: of the result.
        check: so many random rows are compared with `value`.
        details: kept in the table for people.

    Raises:
        BadInput: the figure is no such sum, or no finite number.
    """

    def figure(row):
        found = float(value(row))
        if not math.isfinite(found):
            raise BadInput(f"cost '{stamp.quantity}' is {found} for row {row.tolist()}; it must be a finite number")
        return found

    sampled = sample_rows(space, check + 1)
    first, others = np.zeros_like(sampled[0]), sampled[1:]
    # compiled for one row, because a space's rules run op by op take longer than pricing the row
    valid = (lambda row: True) if space.allowed_of is None else jax.jit(lambda row: space.valid(row[None])[0])
    # with every option 0 no decision is active but by another one, so that any group can be varied alone
    anchor = first if valid(first) else sampled[0]
    anchored = figure(anchor)
    factors: list[tuple[tuple[int, ...], np.ndarray]] = []
    for group in factor_groups(space):
        shape = tuple(space.cardinalities[d] for d in group)
        table = np.zeros(shape)
        for options in itertools.product(*map(range, shape)):
            row = anchor.copy()
            row[list(group)] = options
            if valid(row):
                explained = anchored + sum(t[tuple(row[d] for d in g)] for g, t in factors)
                table[options] = figure(row) - explained
        factors.append((tuple(group), table))
    lowest = [table.min() for _, table in factors]
    base = anchored + sum(lowest)
    shifted = [Factor(g, t - low) for (g, t), low in zip(factors, lowest, strict=True)]
    cost = Cost(stamp, float(base), tuple(shifted), None, space.fingerprint, details)
    for row in others:
        if not np.isclose(cost(row[None])[0], figure(row), rtol=1e-6, atol=1e-9):
            raise BadInput(
                f"cost '{stamp.quantity}' does not add over the factors of space '{space.name}'; it is no table"
            )
    return cost


def tabulate_layers(
    space: SearchSpace, macro: Macro, price: Callable[[tuple[Layer, ...]], float], stamp: Stamp
) -> Cost:
    """`tabulate` of a figure that is read off the layers at one frame, each row's layers resolved once.

    Raises:
        BadInput: as `tabulate`, and as `price`.
    """
    once = functools.lru_cache(maxsize=4096)(lambda row: price(space.layers(row, macro)))
    return tabulate(space, lambda row: once(tuple(row.tolist())), stamp)


def factor_groups(space: SearchSpace) -> tuple[tuple[int, ...], ...]:
    """The groups of decisions that figures add over: the space's, or each decision alone."""
    return space.factors or tuple((i,) for i in range(space.length))


def sample_rows(space: SearchSpace, n: int, seed: int = 0) -> np.ndarray:
    """int32[n, L]: random rows, without compiling anything where every option is allowed."""
    if space.allowed_of is not None:
        return np.asarray(jax.jit(space.sample, static_argnums=1)(jax.random.key(seed), n))
    draws = np.random.default_rng(seed).random((n, space.length))
    return (draws * np.asarray(space.cardinalities)).astype(np.int32)


def count_costs(space: SearchSpace, macro: Macro | None = None) -> dict[str, Cost]:
    """Parameters, multiply-accumulates and peak activation memory (batch 1, float32), from `space.layers` alone.

    They need no measuring and are there in every search as ``params``, ``macs`` and ``memory``. Parameters and
    multiply-accumulates are tables, jittable and differentiable, where they add over the space's factors and the
    tables take at most `TABULATED_LAYERS` resolved layers; otherwise, as the peak of memory always, functions on the
    host.
    """
    macro = macro or space.macro

    @functools.lru_cache(maxsize=1024)
    def counted(row: tuple[int, ...]):
        return counts(space.layers(row, macro))

    entries = sum(math.prod(space.cardinalities[d] for d in group) for group in factor_groups(space))
    # drawing a row of a space with rules compiles for seconds: not for a table that is too large in any case
    small = entries <= 500 and entries * len(space.layers(sample_rows(space, 1)[0], macro)) <= TABULATED_LAYERS

    def of(name, index):
        stamp = Stamp(name, UNITS[name][0], "any", "closed form", 1, "float32", asdict(macro), "layers")
        value = lambda row: counted(tuple(np.asarray(row).tolist()))[index]  # noqa: E731
        if name != "memory" and small:
            # BadInput: they do not add, for instance because the width of a layer is a decision
            with contextlib.suppress(BadInput):
                return tabulate(space, value, stamp, check=8)
        function = lambda rows: np.asarray([value(row) for row in np.atleast_2d(rows)], np.float64)  # noqa: E731
        return Cost(stamp, function=function, space=space.fingerprint)

    return {name: of(name, index) for index, name in enumerate(COUNTED)}


def block_times(layers: Sequence[Layer], times: Mapping[str, float]) -> float:
    """Sum of per-block times over a network.

    Raises:
        BadInput: a block is not in the table; a missing block is never taken for zero.
    """
    total = 0.0
    for scope, block in {layer.scope: layer.block for layer in layers if layer.block}.items():
        if block not in times:
            raise BadInput(f"cost: block '{block}' (at {scope}) is not in the table; measure it first")
        total += times[block]
    return total


def cost_column(name: str, cost: Cost) -> str:
    """Column name of a cost: unit in the name, and the quantity once."""
    suffix = cost.column
    return suffix if suffix.split("_")[0] == name else f"{name}_{suffix}"
