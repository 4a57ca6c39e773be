"""A new device from a few measured networks, with the help of devices that are known for the whole space.

The latency of network x on the new device is ``base * (1 + shape(x)) + terms(x)``, up to noise. *Terms* are a Gaussian
process whose covariance joins *tied* options (`hw_models.fit`). A *shape* is learnt from the known devices: relative
latencies of one of them, or of their average; the part of those that tied options explain alone; or none, and then the
terms have to tell everything, as in a regression on the few networks by themselves. Shapes are sums over the space's
factors and pairs of them, fitted to all known networks, so that they hold what a device does and not its noise.

Where the space says who reads what, a network is taken as it is or without the choices that nobody reads, as XLA and
TFLite run it: two hypotheses, the second with a prior chance that the runtime's name gives (`left_out_by`).

How much each shape, the terms and the noise are trusted has a prior that is learnt by leaving the known devices out one
at a time, together with all of the same chip, and the few measurements weigh it (Bayesian model averaging; Hoeting et
al., Statistical Science 1999). ``python -m experiments.bench_transfer`` says how good that is.

Nothing of the size networks x networks is ever made.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hw_models.fit import Terms, usable
from nas.errors import BadInput
from nas.space import SearchSpace
from nas.unread import without_unread

SHARES = np.asarray([0.0003, 0.003, 0.03, 0.3, 3.0])  # variance of the terms, in squares of the new device's mean
NOISE = np.asarray([0.0003, 0.0008, 0.002, 0.005, 0.013, 0.035, 0.09, 0.22])  # relative deviations
OPEN = 0.05  # of the prior is spread over all settings, for a device unlike any known one
LEARN_ON = 40  # networks of each known device that the prior is learnt from
# prior chance that a device leaves out what nobody reads, and where its runtime is one that does (nn-Meter's devices,
# and XLA here)
LEFT_OUT, LEFT_OUT_BY_THESE = 0.03, 0.97
LEAVES_OUT = ("tflite", "xla", "openvino")
KINDS = 5  # of shape: a device, the average, the tied part of either, none
PER_TERM, RIDGE = 2, 0.01  # networks for each term of a pair, below which there are none; keeps sums determined
LEAST = 5  # measured networks
# models that are not measurements, in the tables of HELP and HW-NAS-Bench
SIMULATED = ("eyeriss", "fpga")
# the same silicon under different names
CHIPS = {
    "1080ti": "GP102",
    "titanx": "GP102",
    "titanxp": "GP102",
    "2080ti": "TU102",
    "titan_rtx": "TU102",
    "pixel2": "Snapdragon 835",
    "essential_ph_1": "Snapdragon 835",
}


def chip_of(column: str) -> str:
    """The chip of a column of HELP's tables: its name without the batch size, or `CHIPS`."""
    name = re.sub(r"_(1|16|32|64|128|256)$", "", column.removesuffix("_ms"))
    return CHIPS.get(column, CHIPS.get(name, name))


@dataclass(frozen=True, eq=False)
class Known:
    """Devices known for the same networks; made by `learn`.

    Attributes:
        rows: int32[N, L].
        shapes: float64[M, N], relative latencies less one, see `_shapes`.
        tied: float64[N, F], features of the tied terms.
        prior: float64[M, len(SHARES), len(NOISE)], sums to one.
        left: int[N], which of the networks is left of each without the choices that nobody reads (`nas.unread`); None
            where the space knows of none, or not all of those are here.
    """

    rows: np.ndarray
    shapes: np.ndarray
    tied: np.ndarray
    prior: np.ndarray
    left: np.ndarray | None = None


def learn(space: SearchSpace, rows: np.ndarray, values: np.ndarray, chips: Sequence[str], *, seed: int = 0) -> Known:
    """What the known devices have in common.

    Args:
        space: of the networks.
        rows: int32[N, L].
        values: float64[D, N], each device in any unit; entries that are not `usable` are replaced by the average's.
        chips: of each device; those of one chip count as one, and are left out together.
        seed: of the networks that the prior is learnt from.

    Raises:
        BadInput: fewer than three chips, or lengths that differ.
    """
    values = np.asarray(values, np.float64)
    if values.shape != (len(chips), len(rows)):
        raise BadInput(f"transfer: values of shape {values.shape} for {len(chips)} devices and {len(rows)} networks")
    if len(set(chips)) < 3:
        raise BadInput(f"transfer: the known devices have {len(set(chips))} chips; it takes at least 3 to learn from")
    good = np.stack([usable(v) for v in values])
    relative = np.where(good, values, np.nan)
    relative = relative / np.nanmean(relative, 1, keepdims=True) - 1
    relative = np.where(good, relative, np.nan_to_num(np.nanmean(np.where(good.any(0), relative, 0.0), 0)))
    terms = Terms(space)
    tied, relative = terms.tied_features(rows), _denoised(terms, rows, relative)
    rng, total = np.random.default_rng(seed), np.zeros((KINDS, len(SHARES), len(NOISE)))
    counts = Counter(chips)
    for device, chip in enumerate(chips):
        others = [i for i, other in enumerate(chips) if other != chip]
        shapes, kinds, chance = _shapes(relative[others], tied, [chips[i] for i in others])
        some = rng.choice(np.flatnonzero(good[device]), min(LEARN_ON, int(good[device].sum())), replace=False)
        evidence = _solve(values[device, some], tied[some], 1 + shapes[:, some])[0] + np.log(chance)[:, None, None]
        by_kind = np.stack([np.logaddexp.reduce(evidence[kinds == kind], 0) for kind in range(KINDS)])
        likely = np.exp(by_kind - by_kind.max())
        total += likely / likely.sum() / counts[chip]
    prior = (1 - OPEN) * total / total.sum() + OPEN / total.size
    shapes, kinds, chance = _shapes(relative, tied, chips)
    each = prior[kinds] * chance[:, None, None]
    return Known(rows, shapes, tied, each / each.sum(), _left(space, rows))


def _left(space: SearchSpace, rows: np.ndarray) -> np.ndarray | None:
    if not space.readers:
        return None
    found = places_among(rows, without_unread(space, rows))
    return found if (found >= 0).all() else None


def places_among(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """int[n]: where each of `others` int32[n, L] stands among `rows` int32[N, L], -1 where it does not."""
    at = {row.tobytes(): i for i, row in enumerate(rows)}
    return np.asarray([at.get(row.tobytes(), -1) for row in others], int)


def left_out_by(runtime: str) -> float:
    """Prior chance that a runtime, by the name in a stamp, leaves out what nobody reads."""
    return LEFT_OUT_BY_THESE if any(name in runtime.lower() for name in LEAVES_OUT) else LEFT_OUT


def predict(
    known: Known, places: np.ndarray, values: np.ndarray, *, left_out: float = LEFT_OUT
) -> tuple[np.ndarray, float]:
    """(latency float64[N] of every known network on the new device, its leave-one-out relative error).

    Args:
        known: what `learn` gave.
        places: int[n], which of the known networks were measured.
        values: float64[n], in the unit that comes back.
        left_out: prior chance that the device leaves out what nobody reads, see `left_out_by`.

    Raises:
        BadInput: too few measurements, or some that are not `usable`.
    """
    places, values = np.asarray(places), np.asarray(values, np.float64)
    if len(places) < LEAST or len(places) != len(values):
        raise BadInput(f"transfer: {len(values)} measured networks are too few; measure at least {LEAST}, better 10")
    if not usable(values).all():
        raise BadInput("transfer: some figures are missing, negative or near zero; measure these networks again")
    every = np.arange(len(known.rows))
    ways = [every] if known.left is None else [every, known.left]
    solved = [_solve(values, known.tied[way[places]], 1 + known.shapes[:, way[places]]) for way in ways]
    chances = (1 - left_out, left_out)
    weights = [np.log(known.prior * chance) + one[0] for one, chance in zip(solved, chances, strict=False)]
    most = max(weight.max() for weight in weights)
    weights = [np.exp(weight - most) for weight in weights]
    whole = sum(weight.sum() for weight in weights)
    found, off = np.zeros(len(every)), np.zeros(len(values))
    for way, weight, (_, base, dual, errors) in zip(ways, weights, solved, strict=True):
        terms = np.einsum("msg,s,msgn->n", weight / whole, SHARES, dual) @ known.tied[way[places]]
        found += np.einsum("msg,msg->m", weight / whole, base) @ (1 + known.shapes[:, way]) + known.tied[way] @ terms
        off += np.einsum("msg,msgn->n", weight / whole, errors)
    return np.maximum(found * values.mean(), 0.2 * values.min()), float(np.abs(off).mean())


def choose(known: Known, n: int) -> np.ndarray:
    """int[n]: which networks to measure: each the one that is least known given those before (greedy D-optimality)."""
    apart = (known.shapes - known.shapes.mean(0)).T / np.sqrt(len(known.shapes))
    left, chosen = np.concatenate([known.tied * np.sqrt(0.1), apart, np.ones((len(known.rows), 1))], 1), []
    for _ in range(n):
        size = (left**2).sum(1)
        chosen.append(int(size.argmax()))
        direction = left[chosen[-1]] / np.sqrt(size[chosen[-1]] + 1e-12)
        # a measurement is noisy: half of what it tells stays open, so that later ones may repeat it
        left = left - 0.5 * np.outer(left @ direction, direction)
        left[chosen] = 0
    return np.asarray(chosen)


def _denoised(terms: Terms, rows: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """float64[D, N]: each device as a sum over factors, and over pairs of them where there are networks enough."""
    single = terms.features(rows)
    columns = [np.ones((len(rows), 1)), *single]
    pairs = list(itertools.combinations(single, 2))
    if terms.disjoint and sum(a.shape[1] * b.shape[1] for a, b in pairs) * PER_TERM <= len(rows):
        columns += [(a[:, :, None] * b[:, None]).reshape(len(rows), -1) for a, b in pairs]
    x = np.concatenate(columns, 1)
    return (x @ np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ relative.T)).T


def _shapes(relative: np.ndarray, tied: np.ndarray, chips: Sequence[str]):
    """(shapes float64[2 D + 3, N], their kinds int, their chance within a kind): devices, average, none, tied parts.

    Each chip has the same chance, shared by its devices.
    """
    weight = np.asarray([1 / list(chips).count(chip) for chip in chips])
    weight /= weight.sum()
    whole = np.concatenate([relative, (weight @ relative)[None]])
    x = np.concatenate([np.ones((len(tied), 1)), tied], 1)
    parts = (x @ (np.linalg.pinv(x) @ whole.T)).T
    shapes = np.concatenate([whole, parts, np.zeros((1, len(tied)))])
    kinds = np.repeat(np.arange(KINDS), (len(chips), 1, len(chips), 1, 1))
    return shapes, kinds, np.concatenate([weight, [1.0], weight, [1.0, 1.0]])


def _solve(values: np.ndarray, tied: np.ndarray, bases: np.ndarray):
    """Of each shape, share and noise: log evidence, base, dual weights [..., n] and leave-one-out errors [..., n].

    The targets are 1, weighted by 1 / value, so that errors are relative; the base is free.
    """
    n, weights = len(values), values.mean() / values
    kernel = (tied * weights[:, None]) @ (tied * weights[:, None]).T
    free = bases * weights
    norm = np.linalg.norm(free, axis=1)
    free = free / norm[:, None]
    along = free[:, :, None] * free[:, None]
    beside = np.eye(n) - along  # [M, n, n], projects the base out
    # the direction of the base gets by far the largest eigenvalue, so that it is the last and can be dropped
    size, vectors = np.linalg.eigh(beside @ kernel @ beside + 1e6 * along)
    size, vectors = np.maximum(size[:, :-1], 0.0), vectors[..., :-1]
    turned = vectors.sum(1)  # of the targets, ones
    shrink = 1 / (SHARES[:, None, None] * size[:, None, None] + NOISE[:, None] ** 2)  # [M, S, G, n - 1]
    evidence = 0.5 * (np.log(shrink) - shrink * turned[:, None, None] ** 2).sum(-1)
    raw = np.einsum("mnk,msgk->msgn", vectors, shrink * turned[:, None, None])
    left_out = raw / np.einsum("mnk,msgk->msgn", vectors**2, shrink)
    explained = SHARES[:, None, None] * np.einsum("ij,msgj->msgi", kernel, raw)
    base = np.einsum("mn,msgn->msg", free, 1 - explained) / norm[:, None, None]
    return evidence, base, raw * weights, left_out
