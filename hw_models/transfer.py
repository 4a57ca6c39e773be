"""A new device from a few measured networks, with the help of devices that are known for the whole space.

The latency of network x on the new device is ``base * (1 + shape(x)) + terms(x)``, up to noise. What a *shape* may be
is learnt from the known devices: the relative latencies of one of them, their average, or none, and then the terms have
to tell everything. Terms are a Gaussian process whose covariance joins *tied* options (`hw_models.fit`) with what sets
the known devices apart from their average. How much each of it is trusted, and how noisy a device is, has a prior that
is learnt by leaving the known devices out one at a time, together with all of the same chip, and the few measurements
weigh it (Bayesian model averaging; Hoeting et al., Statistical Science 1999).

Nothing of the size networks x networks is ever made.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hw_models.fit import Terms, usable
from nas.errors import BadInput
from nas.space import SearchSpace

# variances of the tied terms and of what sets known devices apart, in squares of the new device's mean
SHARES = tuple((tied, apart) for tied in (0.003, 0.03, 0.3, 3.0) for apart in (0.0, 0.1))
NOISE = np.asarray([0.0015, 0.004, 0.01, 0.03, 0.08, 0.2])  # relative deviations
OPEN = 0.05  # of the prior is spread over all settings, for a device unlike any known one
LEARN_ON = 40  # networks of each known device that the prior is learnt from
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
        shapes: float64[D + 2, N], relative latencies less one: of each device, of their average, and of none (zeros).
        apart: float64[D, N], weighted devices less their average.
        tied: float64[N, F], features of the tied terms.
        prior: float64[D + 2, len(SHARES), len(NOISE)], sums to one.
    """

    rows: np.ndarray
    shapes: np.ndarray
    apart: np.ndarray
    tied: np.ndarray
    prior: np.ndarray


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
    tied = Terms(space).tied_features(rows)
    rng, total = np.random.default_rng(seed), np.zeros((3, len(SHARES), len(NOISE)))
    counts = Counter(chips)
    for device, chip in enumerate(chips):
        others = [i for i, other in enumerate(chips) if other != chip]
        shapes, apart = _shapes(relative[others], [chips[i] for i in others])
        some = rng.choice(np.flatnonzero(good[device]), min(LEARN_ON, int(good[device].sum())), replace=False)
        evidence = _solve(values[device, some], _kernels(tied[some], apart[:, some]), 1 + shapes[:, some])[0]
        evidence = evidence + np.log(_within([chips[i] for i in others]))[:, None, None]
        kinds = np.stack([np.logaddexp.reduce(evidence[:-2], 0), evidence[-2], evidence[-1]])
        chance = np.exp(kinds - kinds.max())
        total += chance / chance.sum() / counts[chip]
    prior = (1 - OPEN) * total / total.sum() + OPEN / total.size
    shapes, apart = _shapes(relative, chips)
    kind = np.asarray([0] * len(chips) + [1, 2])
    each = prior[kind] * _within(chips)[:, None, None]
    return Known(rows, shapes, apart, tied, each / each.sum())


def predict(known: Known, places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """(latency float64[N] of every known network on the new device, its leave-one-out relative error).

    Args:
        known: what `learn` gave.
        places: int[n], which of the known networks were measured.
        values: float64[n], in the unit that comes back.

    Raises:
        BadInput: too few measurements, or some that are not `usable`.
    """
    places, values = np.asarray(places), np.asarray(values, np.float64)
    if len(places) < LEAST or len(places) != len(values):
        raise BadInput(f"transfer: {len(values)} measured networks are too few; measure at least {LEAST}, better 10")
    if not usable(values).all():
        raise BadInput("transfer: some figures are missing, negative or near zero; measure these networks again")
    kernels = _kernels(known.tied[places], known.apart[:, places])
    evidence, base, dual, left_out = _solve(values, kernels, 1 + known.shapes[:, places])
    weight = np.log(known.prior) + evidence
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    by_share = np.einsum("msg,msgn->sn", weight, dual)
    tied, apart = np.asarray(SHARES).T @ by_share
    found = np.einsum("msg,msg->m", weight, base) @ (1 + known.shapes)
    found = found + known.tied @ (known.tied[places].T @ tied) + (apart @ known.apart[:, places].T) @ known.apart
    error = np.abs(np.einsum("msg,msgn->n", weight, left_out)).mean()
    return np.maximum(found * values.mean(), 0.2 * values.min()), float(error)


def choose(known: Known, n: int) -> np.ndarray:
    """int[n]: which networks to measure: each the one that is least known given those before (greedy D-optimality)."""
    features = np.concatenate([known.tied * np.sqrt(0.1), known.apart.T, np.ones((len(known.rows), 1))], 1)
    left, chosen = features.copy(), []
    for _ in range(n):
        size = (left**2).sum(1)
        chosen.append(int(size.argmax()))
        direction = left[chosen[-1]] / np.sqrt(size[chosen[-1]] + 1e-12)
        # a measurement is noisy: half of what it tells stays open, so that later ones may repeat it
        left = left - 0.5 * np.outer(left @ direction, direction)
        left[chosen] = 0
    return np.asarray(chosen)


def _within(chips: Sequence[str]) -> np.ndarray:
    """float64[D + 2]: chance of each device among the devices, each chip alike; one for the average and for none."""
    weight = np.asarray([1 / list(chips).count(chip) for chip in chips])
    return np.append(weight / weight.sum(), [1.0, 1.0])


def _shapes(relative: np.ndarray, chips: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    weight = _within(chips)[:-2]
    average = weight @ relative
    shapes = np.concatenate([relative, average[None], np.zeros((1, relative.shape[1]))])
    return shapes, np.sqrt(weight)[:, None] * (relative - average)


def _kernels(tied: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """float64[S, n, n] for each of `SHARES`."""
    return np.einsum("sk,kij->sij", np.asarray(SHARES), np.stack([tied @ tied.T, apart.T @ apart]))


def _solve(values: np.ndarray, kernels: np.ndarray, bases: np.ndarray):
    """Of each shape, share and noise: log evidence, base, dual weights [..., n] and leave-one-out errors [..., n].

    The targets are 1, weighted by 1 / value, so that errors are relative; the base is free.
    """
    n, weights = len(values), values.mean() / values
    scaled = kernels * np.outer(weights, weights)
    free = bases * weights
    norm = np.linalg.norm(free, axis=1)
    free = free / norm[:, None]
    beside = np.eye(n) - free[:, :, None] * free[:, None]  # [M, n, n], projects the base out
    projected = beside[:, None] @ scaled[None] @ beside[:, None]
    # the direction of the base gets by far the largest eigenvalue, so that it is the last and can be dropped
    size, vectors = np.linalg.eigh(projected + 1e6 * (free[:, :, None] * free[:, None])[:, None])
    size, vectors = np.maximum(size[..., :-1], 0.0), vectors[..., :-1]
    turned = vectors.sum(-2)  # of the targets, ones
    shrink = 1 / (size[:, :, None] + NOISE[:, None] ** 2)
    evidence = 0.5 * (np.log(shrink) - shrink * turned[:, :, None] ** 2).sum(-1)
    raw = np.einsum("msnk,msgk->msgn", vectors, shrink * turned[:, :, None])
    left_out = raw / np.einsum("msnk,msgk->msgn", vectors**2, shrink)
    base = np.einsum("mn,msgn->msg", free, 1 - np.einsum("sij,msgj->msgi", scaled, raw)) / norm[:, None, None]
    return evidence, base, raw * weights, left_out
