"""From metrics and costs to what a strategy maximises: limits, MnasNet's reward, Pareto axes."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput, suggest

# factor to the unit of the quantity; counts have no unit of their own, so a prefix says their size
UNITS = {
    "latency": ("ms", {"us": 1e-3, "ms": 1.0, "s": 1e3}),
    "energy": ("mj", {"uj": 1e-3, "mj": 1.0, "j": 1e3}),
    "memory": (
        "bytes",
        {"b": 1.0, "bytes": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    ),
    "params": ("", {"params": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}),
    "macs": ("", {"macs": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}),
}


def parse_quantity(text: str, quantity: str, where: str) -> float:
    """``"20ms"`` to a number in the unit of the quantity (ms, mj, bytes, or a plain count).

    Raises:
        BadInput: no number, no unit, or a unit of another quantity. Nothing is guessed: seconds have been taken for
            milliseconds too often.
    """
    text = " ".join(str(text).split())
    units = UNITS[quantity][1]
    shown = ", ".join(units)
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if not found:
        raise BadInput(f"{where}: '{text}' is not a number with a unit; write for example 20{next(iter(units))}")
    number, unit = float(found[1]), found[2].lower()
    if not unit:
        raise BadInput(f"{where}: '{text}' has no unit; {quantity} takes one of {shown}")
    if unit not in units:
        raise BadInput(f"{where}: '{found[2]}' is no unit of {quantity}; it takes one of {shown}")
    value = number * units[unit]
    if not 0 < value < math.inf:
        raise BadInput(f"{where}: '{text}' must be above zero and finite")
    return value


MINIMISED = ("perplexity", "loss")  # metrics of which less is better: their score is the negative


@dataclass(frozen=True)
class Limit:
    """At most `value` (in the cost's unit) of the cost called `cost`."""

    cost: str
    value: float


@dataclass(frozen=True)
class Objective:
    """Scores (to maximise) and violations of one candidate from its metrics.

    Attributes:
        kind: ``accuracy``; ``mnasnet``, one score that trades accuracy against one cost; ``pareto``, accuracy and the
            negative of each cost as separate scores.
        costs: names of the costs it reads (one for mnasnet, at least one for pareto).
        target: mnasnet's T, in the cost's unit.
        alpha: mnasnet's exponent below the target.
        beta: mnasnet's exponent above the target.
        limits: constraints, whatever the kind.
        metric: what accuracy means; higher is better, but for those that are `MINIMISED`.
    """

    kind: str = "accuracy"
    costs: tuple[str, ...] = ()
    target: float | None = None
    alpha: float = 0.0
    beta: float = 0.0
    limits: tuple[Limit, ...] = ()
    metric: str = "accuracy"

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the scores."""
        return (self.metric, *self.costs) if self.kind == "pareto" else (self.kind,)

    def __call__(self, metrics: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32[M], violation float32[C]); a violation is relative: 0.1 is ten per cent over the limit.

        Scores are NaN where a metric or a cost, limited ones too, is missing or not finite: the candidate has failed.
        The violation of such a limit is NaN. MnasNet's reward of a cost of zero has no value and fails as well.
        """
        get = lambda name: float(metrics.get(name, math.nan))  # noqa: E731
        quality = -get(self.metric) if self.metric in MINIMISED else get(self.metric)
        if self.kind == "accuracy":
            scores = [quality]
        elif self.kind == "mnasnet":
            ratio = get(self.costs[0]) / (self.target or math.nan)
            # numpy, because a Python zero to a negative power raises and a negative number gives a complex one
            with np.errstate(all="ignore"):
                scores = [quality * np.power(ratio, self.alpha if ratio <= 1 else self.beta)]
        else:
            scores = [quality, *(-get(c) for c in self.costs)]
        # np.maximum keeps NaN, where max would call an unknown cost within its limit
        violation = [np.maximum(0.0, get(limit.cost) / limit.value - 1.0) for limit in self.limits]
        with np.errstate(over="ignore"):
            out, over = np.asarray(scores, np.float32), np.asarray(violation, np.float32)
        known = np.isfinite(out).all() and np.isfinite(over).all()
        return np.where(known, out, np.float32(np.nan)), over


def accuracy(*, limits: Sequence[Limit] = (), metric: str = "accuracy") -> Objective:
    """Maximise accuracy, or minimise `metric` where that is ``perplexity``; limits are constraints."""
    return Objective("accuracy", limits=tuple(limits), metric=metric)


def mnasnet(
    cost: str,
    target: float,
    *,
    alpha: float = -0.07,
    beta: float = -0.07,
    limits: Sequence[Limit] = (),
    metric: str = "accuracy",
) -> Objective:
    """Accuracy times (cost / target) to a power (Tan et al., MnasNet, CVPR 2019, equation 2).

    The default is the paper's soft form, alpha = beta = -0.07: five per cent of accuracy for twice the latency. Its
    hard form is alpha = 0, beta = -1.
    """
    if metric in MINIMISED:
        raise BadInput(f"mnasnet: its reward grows with the metric, and {metric} is minimised; take accuracy")
    if not target > 0:
        raise BadInput(f"mnasnet: target is {target}; it must be above zero, in the unit of '{cost}'")
    return Objective("mnasnet", (cost,), target, alpha, beta, tuple(limits), metric)


def pareto(*costs: str, limits: Sequence[Limit] = (), metric: str = "accuracy") -> Objective:
    """Accuracy against each cost, as separate scores."""
    if not costs:
        raise BadInput("objective pareto needs at least one cost to set against accuracy; add --cost NAME=...")
    return Objective("pareto", tuple(costs), limits=tuple(limits), metric=metric)


def check_costs(objective: Objective, known: Sequence[str]) -> None:
    """Refuses an objective that reads a cost nobody computes.

    Raises:
        BadInput: names the unknown cost and the known ones.
    """
    for name in (*objective.costs, *(limit.cost for limit in objective.limits)):
        if name not in known:
            raise BadInput(f"objective: no cost '{name}'; {suggest(name, known)}")


# ---- differentiable terms ----------------------------------------------------------------------------------------
def proxylessnas_loss(loss: jax.Array, cost: jax.Array, target: float, *, weight: float = 0.2) -> jax.Array:
    """``loss + weight * (cost - target) / target``: a latency added to a loss, as a share of its target.

    Cai, Zhu and Han, "ProxylessNAS", ICLR 2019, equation 4, in the form and with the default of the authors' code,
    where it is called ``add#linear``. It goes on to reward what is below the target: a limit it is not.

    Args:
        loss: scalar.
        cost: expected cost, such as `nas.cost.Cost.expected`.
        target: in the cost's unit.
        weight: their lambda.
    """
    return loss + weight * (cost - _positive(target)) / target


def proxylessnas_product(
    loss: jax.Array, cost: jax.Array, target: float, *, alpha: float = 1.0, beta: float = 0.6
) -> jax.Array:
    """``alpha * loss * (log cost / log target)^beta``: ``mul#log`` of ProxylessNAS's code, with its defaults.

    Args:
        loss: scalar.
        cost: above 1 in its unit; the logarithm of less has no such power. In the code milliseconds.
        target: above 1 in the same unit.
        alpha: factor.
        beta: exponent.
    """
    if not target > 1:
        raise BadInput(
            f"proxylessnas: target is {target}; with the logarithm it must be above 1, so take a smaller unit"
        )
    return alpha * loss * (jnp.log(cost) / math.log(target)) ** beta


def fbnet_loss(loss: jax.Array, latency_ms: jax.Array, *, alpha: float = 0.2, beta: float = 0.6) -> jax.Array:
    """``alpha * loss * log(latency)^beta`` (Wu et al., FBNet, CVPR 2019, equation 2, with its alpha and beta).

    The logarithm is natural and of microseconds, of which every network takes more than one; the paper names neither.

    Args:
        loss: scalar.
        latency_ms: expected latency in ms, above 0.001.
        alpha: factor.
        beta: exponent.
    """
    return alpha * loss * jnp.log(1000.0 * latency_ms) ** beta


def _positive(target: float) -> float:
    if not target > 0:
        raise BadInput(f"objective: target is {target}; it must be above zero, in the unit of the cost")
    return target


# ---- Pareto ------------------------------------------------------------------------------------------------------
def dominates(scores: jax.Array, violation: jax.Array) -> jax.Array:
    """bool[N, N]: entry (i, j) says that i dominates j, under constraints (Deb et al., NSGA-II, 2002).

    Feasible beats infeasible; among infeasible ones the smaller total violation wins; among feasible ones i dominates
    j when it is nowhere worse and somewhere better. NaN scores are dominated by every other; a violation that is NaN
    counts as infinite.
    """
    failed = ~jnp.isfinite(scores).all(-1)
    scores = jnp.where(failed[:, None], -jnp.inf, scores)
    total = violation.sum(-1)
    total = jnp.where(failed | jnp.isnan(total), jnp.inf, total)
    a, b = scores[:, None], scores[None]
    better = (a >= b).all(-1) & (a > b).any(-1)
    feasible = total <= 0
    return jnp.where(feasible[:, None] & feasible[None], better, total[:, None] < total[None])


def fitness(scores: jax.Array, violation: jax.Array, *, valid: jax.Array) -> jax.Array:
    """float32[N]: higher is fitter; one number for tournaments, whatever the number of objectives.

    It is minus the number of members that dominate each one, so with one objective it orders as the score does.
    Invalid entries are -inf. The time grows as N log N with one objective and as N^2 with more.
    """
    if scores.shape[1] == 1 and len(scores) > SORTED_ABOVE:
        return jnp.where(valid, -_beaten(scores[:, 0], violation, valid), -jnp.inf)
    beaten = (dominates(scores, violation) & valid[:, None]).sum(0)
    return jnp.where(valid, -beaten.astype(jnp.float32), -jnp.inf)


SORTED_ABOVE = 512  # of fewer, comparing each with each takes less time than a sort


def _beaten(score, violation, valid):
    """float32[N]: how many dominate each one, from a sort: with one objective domination is an order, with ties."""
    failed = ~jnp.isfinite(score)
    total = violation.sum(-1)
    total = jnp.where(failed | jnp.isnan(total), jnp.inf, total)
    over, score = jnp.maximum(total, 0.0), jnp.where(total > 0, 0.0, -score)  # the feasible by score, others by total
    over, score, member = jax.lax.sort((over, score, jnp.arange(len(score))), num_keys=2)
    before = jnp.cumsum(valid[member]) - valid[member]
    leads = jnp.append(True, (over[1:] != over[:-1]) | (score[1:] != score[:-1]))
    leader = jax.lax.cummax(jnp.where(leads, jnp.arange(len(leads)), 0))  # the first of those it ties with
    return jnp.zeros(len(leads)).at[member].set(before[leader].astype(jnp.float32))


def pareto_front(scores: np.ndarray, violation: np.ndarray) -> np.ndarray:
    """bool[N]: not dominated by any other, feasible and not failed. Of identical points all are kept."""
    scores, violation = np.asarray(scores, np.float32), np.asarray(violation, np.float32)
    if not len(scores):
        return np.zeros(0, bool)
    ok = np.isfinite(scores).all(-1) & (violation.sum(-1) <= 0)
    points, place = np.unique(scores[ok], axis=0, return_inverse=True)
    front: list[int] = []
    for i in reversed(range(len(points))):  # what dominates a point sorts above it, and no two of these are equal
        if not (points[front] >= points[i]).all(-1).any():
            front.append(i)
    on = np.zeros(len(scores), bool)
    on[ok] = np.isin(place.reshape(-1), front)
    return on


def hypervolume(scores: np.ndarray, reference: np.ndarray) -> float:
    """Volume that points dominate above a reference point, all axes maximised (Zitzler and Thiele, IEEE TEC 1999).

    Args:
        scores: [N, M]; what is not finite, or not above the reference on every axis, adds nothing.
        reference: [M].

    Exact, by slices along the last axis: N log N for two axes and a factor N for each further one, which is quick for
    fronts of hundreds in three and of dozens in four.
    """
    points = np.asarray(scores, np.float64).reshape(-1, np.size(reference)) - np.asarray(reference, np.float64)
    return _volume(points[np.isfinite(points).all(-1) & (points > 0).all(-1)])


def _volume(points):
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    points = points[np.argsort(-points[:, -1])]
    thickness = -np.diff(points[:, -1], append=0.0)
    if points.shape[1] == 2:
        return float(thickness @ np.maximum.accumulate(points[:, 0]))
    return sum(t * _volume(points[: i + 1, :-1]) for i, t in enumerate(thickness) if t > 0)
