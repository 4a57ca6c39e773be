"""From samples to a latency table: a sum over the factors, compared with whole networks and calibrated on them."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from hw_models.blocks import Blocks
from hw_models.timing import Samples
from nas.cost import Cost, Factor, Stamp, factor_groups, tabulate
from nas.space import SearchSpace
from nas.summary import spearman
from nas.unread import can_leave_out, leave_out

GOOD_ENOUGH = 0.05  # mean relative error of the plain sum below which it is left as it is
EMPTY = "empty loop"


def network_name(row: np.ndarray) -> str:
    """What the samples of a whole network are kept under."""
    return "network " + json.dumps(row.tolist())


def table(blocks: Blocks, fit_on: np.ndarray | None, rows: np.ndarray, samples: Samples, stamp: Stamp) -> Cost:
    """The cost from all samples.

    Args:
        blocks: of the space, with every block that pricing asks for.
        fit_on: rows for least squares, where times do not add over the factors exactly.
        rows: the whole networks among the samples.
        samples: of the empty loop, the blocks and the networks.
        stamp: what the samples are of.
    """
    turns = {name: np.asarray(v)[:, 0] for name, v in samples.items()}
    middle = {name: float(np.median(v)) for name, v in turns.items()}
    spread = {name: float(np.subtract(*np.percentile(v, (75, 25)))) for name, v in turns.items()}
    # a block that is faster than the clock can tell stands near zero, never below
    times = {key: max(0.0, middle[key] - middle[EMPTY]) for key in blocks.layers}
    total = lambda row: sum(times[key] for key in blocks.of(row))  # noqa: E731
    cost = tabulate(blocks.space, total, stamp) if fit_on is None else _projected(blocks.space, total, fit_on, stamp)
    details: dict[str, Any] = {
        "blocks": {name: times.get(key, 0.0) for name, key in blocks.names.items()},
        "loose": {key: times[key] for key in sorted(blocks.loose)},
        "spread": {key: spread[key] for key in blocks.layers},
        "empty_loop_ms": middle[EMPTY],
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "call_ms": None,
        "scale": 1.0,
        "offset_ms": 0.0,
    }
    if len(rows):
        names = [network_name(row) for row in rows]
        measured = np.asarray([middle[name] for name in names])
        ways = [cost, *([_unread_left_out(blocks.space, cost)] if can_leave_out(blocks.space) else [])]
        calibrated = [_calibrated(way, rows, measured) for way in ways]
        cost, found = min(calibrated, key=lambda way: way[1]["validation"]["error_held_out"])
        for network, name in zip(found["validation"]["networks"], names, strict=True):
            network["spread_ms"] = spread[name]
        details |= found
        details["call_ms"] = call = float(np.median([np.asarray(samples[name])[:, 1] for name in names]))
        if call > 1e-3:  # where a turn is a call of its own, it is counted
            cost = _noted(cost, f"; a call from Python adds about {call:.2g} ms to a network, not counted")
    return replace(cost, details=details)


def _unread_left_out(space: SearchSpace, cost: Cost) -> Cost:
    priced = replace(cost, factors=leave_out(space, cost.factors))
    return _noted(priced, "; blocks whose result nobody reads are left out, as whole networks show")


def _noted(cost: Cost, note: str) -> Cost:
    return replace(cost, stamp=replace(cost.stamp, source=cost.stamp.source + note))


def _projected(space: SearchSpace, value: Callable[[np.ndarray], float], rows: np.ndarray, stamp: Stamp) -> Cost:
    """The table of a figure that adds over the factors only nearly, by least squares over some rows."""
    groups = factor_groups(space)
    shapes = [tuple(space.cardinalities[d] for d in group) for group in groups]
    wanted = np.asarray([value(row) for row in rows])
    columns = [np.ones((len(rows), 1))]
    for group, shape in zip(groups, shapes, strict=True):
        columns.append(np.eye(math.prod(shape))[np.ravel_multi_index(rows[:, list(group)].T, shape)])
    base, *found = np.linalg.lstsq(np.concatenate(columns, 1), wanted, rcond=None)[0]
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    tables = [part.reshape(shape) for part, shape in zip(np.split(np.asarray(found), ends), shapes, strict=True)]
    lowest = [part.min() for part in tables]
    factors = tuple(Factor(g, part - low) for g, part, low in zip(groups, tables, lowest, strict=True))
    cost = Cost(stamp, max(0.0, float(base + sum(lowest))), factors, None, space.fingerprint)
    left = float(np.mean(np.abs(cost(rows) - wanted)) / max(float(np.mean(wanted)), 1e-12))
    return _noted(cost, f"; by least squares over the factors, {left:.1%} of the sum is left over")


def _calibrated(cost: Cost, rows: np.ndarray, measured: np.ndarray) -> tuple[Cost, dict[str, Any]]:
    """The cost scaled to whole networks, where that predicts each from the others better; and details of it."""
    plain = cost(rows)
    off = lambda predicted: float(np.mean(np.abs(predicted / measured - 1)))  # noqa: E731
    correlation = spearman(plain.tolist(), measured.tolist())
    report: dict[str, Any] = {
        "error_of_sum": off(plain),
        "spearman": correlation if math.isfinite(correlation) else None,
    }
    held_out, scale, offset = plain, 1.0, 0.0
    if len(rows) >= 4:
        fits = [_fit(np.delete(plain, i), np.delete(measured, i)) for i in range(len(rows))]
        fitted = np.asarray([b + a * x for (a, b), x in zip(fits, plain, strict=True)])
        report["error_of_fit_held_out"] = off(fitted)
        whole = _fit(plain, measured)
        # a scale of zero would make all architectures alike: then the noise is larger than what tells them apart
        if off(plain) > GOOD_ENOUGH and off(fitted) < off(plain) and whole[0] > 0:
            held_out, (scale, offset) = fitted, whole
            factors = tuple(Factor(f.decisions, scale * f.table) for f in cost.factors)
            cost = replace(cost, base=offset + scale * cost.base, factors=factors)
            note = f"; calibrated by {scale:.3g} * sum + {offset:.3g} ms on {len(rows)} whole networks"
            cost = _noted(cost, f"{note}, the error is of each under the fit on the others")
    report["error_held_out"] = off(held_out)
    report["networks"] = [
        {"row": row.tolist(), "measured_ms": float(m), "sum_ms": float(p), "held_out_ms": float(h)}
        for row, m, p, h in zip(rows, measured, plain, held_out, strict=True)
    ]
    cost = replace(cost, stamp=replace(cost.stamp, error=off(held_out)))
    return cost, {"validation": report, "scale": scale, "offset_ms": offset}


def _fit(sums: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """(scale, offset) of least relative squares, neither below zero: more blocks never take less time."""
    scale, offset = np.linalg.lstsq(np.stack([sums, np.ones_like(sums)], 1) / measured[:, None], 1 + 0 * sums)[0]
    if scale < 0:
        return 0.0, float((1 / measured).sum() / (1 / measured**2).sum())
    if offset < 0:
        ratio = sums / measured
        return float(ratio.sum() / (ratio**2).sum()), 0.0
    return float(scale), float(offset)
