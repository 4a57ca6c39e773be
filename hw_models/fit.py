"""From measurements of whole networks to a table: a ridge regression over factors that chooses its own complexity.

Three kinds of term share one prior variance, in shares that are chosen from a small grid: *tied* ones, the same for all
decisions that have the same options (a 3x3 convolution costs the same wherever it stands), *single* ones, of one
decision, and *pairs*, of two. Shares and noise are those of the smallest leave-one-out error, in closed form (Allen's
PRESS statistic; Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 7.10). Errors are
relative throughout: a network of 90 ms and one of 5 ms count alike.

Where a space says who reads what (`SearchSpace.readers`), the same is tried on rows without the choices that nobody
reads, as XLA runs them.

Solved in the dual (n x n for n networks), so that pairs of many decisions cost nothing.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nas.cost import Cost, Factor, Stamp, factor_groups, sample_rows, sure_least
from nas.errors import BadInput
from nas.space import SearchSpace
from nas.summary import spearman
from nas.unread import can_leave_out, leave_out, without_unread

# shares of tied, single and pair terms in the prior variance; each one more complex than those before it
SHARES = (
    ((1.0, 0.0, 0.0), (0.97, 0.03, 0.0), (0.8, 0.2, 0.0), (0.4, 0.6, 0.0), (0.0, 1.0, 0.0)),
    ((0.96, 0.03, 0.01), (0.9, 0.05, 0.05), (0.7, 0.2, 0.1), (0.3, 0.4, 0.3), (0.0, 0.5, 0.5)),
)
NOISE = np.logspace(-6, 1.5, 16)  # variance of the noise, in that of the terms
# pairs, and leaving out what nobody reads, are taken where they bring the leave-one-out error below this share of the
# one without
WORTH = 0.97
LEAST = 8  # networks below which nothing can be held out
MOST = 1000  # networks in one regression: more of them change little, and the rest tells how good the table is
NEAR_ZERO = 0.05  # of the median: a figure below it is a run that failed or was cut short
MOST_ENTRIES = 50_000  # of the tables of pairs
# a median outside of these bounds is a unit taken for another: ms, mj, bytes
PLAUSIBLE = {"latency": (0.02, 60_000.0), "energy": (0.005, 1e6), "memory": (1e3, 1e12)}


@dataclass(frozen=True)
class Settings:
    """What the regression has chosen.

    Attributes:
        shares: of the kinds of term.
        noise: its variance.
        error: leave-one-out.
        unread: whether choices that nobody reads are priced at nothing, see `nas.unread`.
    """

    shares: tuple[float, float, float]
    noise: float
    error: float
    unread: bool = False


def fit(
    space: SearchSpace,
    rows: np.ndarray,
    values: np.ndarray,
    stamp: Stamp,
    *,
    seed: int = 0,
    hold_out: bool = True,
) -> Cost:
    """The table of a quantity from networks measured whole.

    At most `MOST` networks, drawn at random, go into the regression. The stamp's error is the mean relative error on
    the others where at least as many are left, else that of a cross-validation in five parts in which each part is
    predicted by a regression that has chosen its settings without it.

    Args:
        space: whose factors are used.
        rows: int32[N, L], at least `LEAST`.
        values: float64[N], in the stamp's unit, without near-zero entries (see `usable`).
        stamp: of the figures; its error is replaced.
        seed: of the draw and of the parts.
        hold_out: whether the error is found at all; without it the table is made in a sixth of the time.

    Returns:
        The table; its ``details["fit"]`` has the number of networks, the settings, and `agreement` on held-out ones.

    Raises:
        BadInput: too few networks, figures that are no such quantity, or a table that would price a network below zero.
    """
    rows, values = np.asarray(rows), np.asarray(values, np.float64)
    check(rows, values, stamp)
    order = np.random.default_rng(seed).permutation(len(rows))
    train, rest = order[:MOST], order[MOST:]
    base, factors, chosen = regress(space, rows[train], values[train])
    cost = Cost(stamp, base, factors, None, space.fingerprint)
    if not hold_out:
        return cost
    if len(rest) >= len(train):
        how, held_out = f"{len(rest)} other networks", agreement(cost(rows[rest]), values[rest])
    else:
        how, predicted = "cross-validation in 5 parts", np.zeros(len(train))
        for part in np.array_split(np.arange(len(train)), 5):
            others = np.setdiff1d(np.arange(len(train)), part)
            found = regress(space, rows[train[others]], values[train[others]])
            predicted[part] = Cost(stamp, *found[:2])(rows[train[part]])
        held_out = agreement(predicted, values[train])
    tied, single, pairs = chosen.shares
    details = {
        "networks": len(train),
        "held_out": how,
        **held_out,
        "shares": {"tied": tied, "single": single, "pairs": pairs},
        "noise": chosen.noise,
        "unread_left_out": chosen.unread,
    }
    note = f"fitted to {len(train)} networks measured whole, the error is of {how}"
    source = f"{stamp.source}; {note}" if stamp.source else note
    stamp = replace(stamp, error=held_out["mape"], source=source)
    return replace(cost, stamp=stamp, details={"fit": details})


def check(rows: np.ndarray, values: np.ndarray, stamp: Stamp) -> None:
    """Refuses what no table can be fitted to.

    Raises:
        BadInput: lengths that differ, too few networks, figures of zero or below or near it, or of another unit.
    """
    if rows.ndim != 2 or values.shape != rows.shape[:1]:
        raise BadInput(f"fit: {rows.shape} rows and {values.shape} values; there must be one value for each row")
    if len(rows) < LEAST:
        raise BadInput(f"fit: {len(rows)} networks are too few; measure at least {LEAST}, better 100")
    if not usable(values).all():
        raise BadInput(
            f"fit: {(~usable(values)).sum()} of {len(values)} figures are missing, negative or near zero; drop them"
        )
    low, high = PLAUSIBLE.get(stamp.quantity, (0.0, math.inf))
    if not low <= np.median(values) <= high:
        raise BadInput(
            f"fit: the median {stamp.quantity} is {np.median(values):.3g} {stamp.unit}, out of all bounds for a "
            "network; is it in another unit? say which with --unit"
        )


def usable(values: np.ndarray) -> np.ndarray:
    """bool[N]: figures that are finite, above zero, and not near zero (a twentieth of the median)."""
    values = np.asarray(values, np.float64)
    positive = np.isfinite(values) & (values > 0)
    if not positive.any():
        return positive
    return positive & (np.nan_to_num(values) >= NEAR_ZERO * np.median(values[positive]))


def agreement(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Spearman's rank correlation, shares within ±5 % and ±10 %, and the mean absolute relative error (``mape``)."""
    off = np.abs(predicted / measured - 1)
    return {
        "spearman": spearman(predicted.tolist(), measured.tolist()),
        "within_5": float((off <= 0.05).mean()),
        "within_10": float((off <= 0.1).mean()),
        "mape": float(off.mean()),
    }


def regress(space: SearchSpace, rows: np.ndarray, values: np.ndarray) -> tuple[float, tuple[Factor, ...], Settings]:
    """(base, factors, settings) of the smallest leave-one-out error among those that price nothing below zero.

    Raises:
        BadInput: every setting prices some network of the space below zero.
    """
    terms = Terms(space)
    drawn = np.concatenate([rows, sample_rows(space, 2000)])
    # relative errors: value / value = (base + terms) / value
    weights, scale = values.mean() / values, values.mean()
    ways = [(False, rows), *([(True, without_unread(space, rows))] if can_leave_out(space) else [])]
    for chosen, base, alpha, given in _worth_first([_ranked(terms, given, weights, left) for left, given in ways]):
        found = _lowest_at_zero(base * scale, terms.factors(given, alpha * scale, chosen.shares))
        cost = Cost(_UNSTAMPED, found[0], leave_out(space, found[1]) if chosen.unread else found[1])
        least = sure_least(space, cost.base, cost.factors)
        if (cost(drawn).min() if least is None else least) > 0:
            return cost.base, cost.factors, replace(chosen, error=math.sqrt(chosen.error))
    raise BadInput("fit: every table fitted prices some networks below zero; measure more networks, or check the unit")


def _ranked(terms, rows, weights, unread):
    """(settings, base, alpha, rows), the smallest leave-one-out error first, but that pairs must be worth it."""
    kernels = terms.kernels(rows)
    found: list[list[tuple[Settings, float, np.ndarray, np.ndarray]]] = []
    for shares in SHARES[: 2 if terms.paired else 1]:
        found.append([])
        for share in shares:
            kernel = np.tensordot(np.asarray(share), np.stack(kernels), 1)
            for noise, error, base, alpha in ridge(kernel, weights):
                found[-1].append((Settings(share, noise, error, unread), base, alpha, rows))
    return _worth_first([sorted(some, key=lambda one: one[0].error) for some in found])


def _worth_first(ranked):
    """One list of what was found in one or two ways, the simpler way first unless the other one is `WORTH` it."""
    if len(ranked) == 2 and ranked[1][0][0].error < WORTH**2 * ranked[0][0][0].error:
        ranked = ranked[::-1]
    return list(itertools.chain(*ranked))


_UNSTAMPED = Stamp("latency", "ms", "", "", 1, "", {}, "")


def ridge(kernel: np.ndarray, weights: np.ndarray):
    """For each noise: (noise, squared leave-one-out error, base, alpha float64[n]).

    The model of the targets 1 is ``weights * (base + f)``, f a Gaussian process of covariance `kernel`, base free; then
    ``f(x) = sum of alpha * kernel(x, .)``.
    """
    target = np.ones(len(weights))
    norm = np.linalg.norm(weights)
    free = weights / norm  # the direction of the base, which no prior holds back
    scaled = kernel * np.outer(weights, weights)
    projected = scaled - np.outer(free, free @ scaled)
    projected -= np.outer(projected @ free, free)
    size, vectors = np.linalg.eigh((projected + projected.T) / 2)
    size, rest = np.maximum(size, 0.0), target - free * (free @ target)
    for noise in NOISE:
        # the inverse of projected + noise in the space beside `free`, where alone it is needed
        shrink = 1 / (size + noise) - 1 / noise
        dual = vectors @ (shrink * (vectors.T @ rest)) + rest / noise
        diagonal = vectors**2 @ shrink + (1 - free**2) / noise
        left_out = dual / np.maximum(diagonal, 1e-300)
        base = float(free @ (target - scaled @ dual) / norm)
        yield float(noise), float(np.mean(left_out**2)), base, weights * dual


class Terms:
    """The kinds of term over a space's factors, as kernels between rows and as tables.

    A term's features are one-hot vectors less their mean, so that the base stands for the mean over options.
    """

    def __init__(self, space: SearchSpace):
        self.groups = factor_groups(space)
        self.shapes = [tuple(space.cardinalities[d] for d in group) for group in self.groups]
        options = [tuple(str(space.decisions[d].options) for d in group) for group in self.groups]
        self.classes = [[i for i, o in enumerate(options) if o == kind] for kind in dict.fromkeys(options)]
        flat = [d for group in self.groups for d in group]
        self.disjoint = len(flat) == len(set(flat))
        sizes = [math.prod(shape) for shape in self.shapes]
        entries = (sum(sizes) ** 2 - sum(s * s for s in sizes)) // 2
        self.paired = self.disjoint and len(self.groups) > 1 and entries <= MOST_ENTRIES

    def features(self, rows: np.ndarray) -> list[np.ndarray]:
        """Of each group float64[N, K], of mean zero over the options and of length one."""
        found = []
        for group, shape in zip(self.groups, self.shapes, strict=True):
            k = math.prod(shape)
            place = np.ravel_multi_index(tuple(rows[:, d] for d in group), shape)
            found.append((np.eye(k)[place] - 1 / k) / math.sqrt(max(1 - 1 / k, 1e-12)))
        return found

    def tied_features(self, rows: np.ndarray) -> np.ndarray:
        """float64[N, F]: features of the tied terms, of a length of about one."""
        features = self.features(rows)
        return np.concatenate([_sum(features, own) for own in self.classes], 1) / math.sqrt(len(self.groups))

    def kernels(self, rows: np.ndarray, others: np.ndarray | None = None) -> list[np.ndarray]:
        """float64[N, M] for tied, single and pair terms, each of about one on the diagonal."""
        a = self.features(rows)
        b = a if others is None else self.features(others)
        each = [x @ y.T for x, y in zip(a, b, strict=True)]
        count = len(each)
        single = np.sum(each, 0)
        tied = self.tied_features(rows) @ self.tied_features(rows if others is None else others).T
        pairs = (single**2 - np.sum([k**2 for k in each], 0)) / 2
        return [tied, single / count, pairs / max(1, count * (count - 1) / 2)]

    def factors(self, rows: np.ndarray, alpha: np.ndarray, shares: Sequence[float]) -> tuple[Factor, ...]:
        """The tables of ``f(x) = sum of alpha * kernel(x, rows)``."""
        features, count = self.features(rows), len(self.groups)
        # what a row with option k has in common with the measured ones: features of the options themselves
        options = [self._options(i) for i in range(count)]
        sums = [x.T @ alpha for x in features]
        tables = [shares[1] / count * (o @ s) for o, s in zip(options, sums, strict=True)]
        for own in self.classes:
            for i in own:
                tables[i] = tables[i] + shares[0] / count * (options[i] @ sum(sums[j] for j in own))
        made = [Factor(g, t.reshape(s)) for g, t, s in zip(self.groups, tables, self.shapes, strict=True)]
        if shares[2]:
            scale = shares[2] / (count * (count - 1) / 2)
            for i, j in itertools.combinations(range(count), 2):
                table = options[i] @ (features[i] * alpha[:, None]).T @ features[j] @ options[j].T
                made.append(
                    Factor(self.groups[i] + self.groups[j], scale * table.reshape(self.shapes[i] + self.shapes[j]))
                )
        return tuple(made)

    def _options(self, i: int) -> np.ndarray:
        k = math.prod(self.shapes[i])
        return (np.eye(k) - 1 / k) / math.sqrt(max(1 - 1 / k, 1e-12))


def _sum(features: list[np.ndarray], own: Sequence[int]) -> Any:
    return sum(features[i] for i in own)


def _lowest_at_zero(base: float, factors: tuple[Factor, ...]) -> tuple[float, tuple[Factor, ...]]:
    """The same sum with the cheapest option of each factor at zero."""
    lowest = [float(f.table.min()) for f in factors]
    return float(base + sum(lowest)), tuple(
        Factor(f.decisions, f.table - low) for f, low in zip(factors, lowest, strict=True)
    )
