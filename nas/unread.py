"""Choices whose result nobody reads: what a compiler that drops them leaves of a row, and tables that price it.

In a cell of NAS-Bench-201 an operation into a node whose own edges all are ``none`` leads nowhere. XLA leaves it out;
ONNX Runtime and PyTorch compute it. Which of both a device does shows in what whole networks take on it.
"""

import math
from collections.abc import Sequence

import numpy as np

from nas.cost import Factor
from nas.space import SearchSpace

MOST_ROWS = 50_000  # of a space: tables over many readers grow as the space does
NONE = "none"  # the option that reads nothing and costs nothing


def can_leave_out(space: SearchSpace) -> bool:
    """Whether the space says who reads what, and is small enough for tables over readers."""
    return bool(space.readers) and math.prod(map(float, space.cardinalities)) <= MOST_ROWS


def without_unread(space: SearchSpace, rows: np.ndarray) -> np.ndarray:
    """int32[N, L]: the rows with ``none`` in the place of choices that nobody reads, by `SearchSpace.readers`.

    A decision that has no such option stays as it is.
    """
    rows = np.array(rows)
    none = [d.options.index(NONE) if NONE in d.options else -1 for d in space.decisions]
    for i in reversed(range(space.length)):  # readers come later
        readers = list(space.readers[i]) if space.readers else []
        if readers and none[i] >= 0:
            read = (rows[:, readers] != np.asarray(none)[readers]).any(1)
            rows[:, i] = np.where(read, rows[:, i], none[i])
    return rows


def leave_out(space: SearchSpace, factors: Sequence[Factor]) -> tuple[Factor, ...]:
    """Factors that price a row as the given ones price it `without_unread`: over the readers of decisions as well.

    One whose decisions are all among those of another is added to it, so they are few. For spaces of which
    `can_leave_out` holds: others have tables as large as themselves.
    """
    wider = [tuple(sorted(_with_readers(space, factor.decisions))) for factor in factors]
    made: dict[tuple[int, ...], np.ndarray] = {}
    for mine, factor in sorted(zip(wider, factors, strict=True), key=lambda pair: -len(pair[0])):
        decisions = next((other for other in made if set(mine) <= set(other)), mine)
        shape = tuple(space.cardinalities[d] for d in decisions)
        rows = np.zeros((int(np.prod(shape)), space.length), np.int32)
        rows[:, decisions] = np.indices(shape).reshape(len(shape), -1).T
        left = without_unread(space, rows)[:, list(factor.decisions)]
        made[decisions] = made.get(decisions, 0.0) + factor.table[tuple(left.T)].reshape(shape)
    return tuple(Factor(decisions, table) for decisions, table in made.items())


def _with_readers(space: SearchSpace, decisions: Sequence[int]) -> set[int]:
    found = set(decisions)
    for i in decisions:
        found |= _with_readers(space, space.readers[i]) if space.readers else set()
    return found
