"""How well a fitted table predicts whole networks of this machine, beside how well a second measuring does.

``python -m experiments.measure_study nasbench201 xla onnx --threads 1 --out runs/measure``. Of 300 networks measured in
the same rounds, 200 are fitted and 100 tested; 30 of the tested ones are measured again afterwards, from the start.
Beside it stands what summing operations timed alone gives, as it is and scaled to the networks fitted.
``predicted.png`` in the folder shows the tested ones.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from rich.console import Console
from rich.table import Table

from hw_models.fit import agreement, fit
from hw_models.measure import measure
from hw_models.networks import measure_networks
from hw_models.runtimes import RUNTIMES, pin
from nas.plots import COLOURS, finish
from nas.space import Macro
from nas.unread import can_leave_out, leave_out
from search_spaces import SPACES

TESTED, REPEATED = 100, 30
MACROS = {"nasbench201": Macro(16, 1, (32, 32, 3), 10), "darts": Macro(16, 6, (32, 32, 3), 10)}


class Tested(NamedTuple):
    """What is drawn of one runtime: float64[N], ms each, of networks that were not fitted."""

    runtime: str
    measured: np.ndarray
    fitted: np.ndarray
    summed: np.ndarray


def study(runtime: str, name: str, folder: Path, fitted: int, rounds: int) -> Tested:
    """Measures (or goes on measuring) into a folder, and prints the table."""
    space, macro = SPACES[name](), MACROS[name]
    folder.mkdir(parents=True, exist_ok=True)
    options = {"runtime": runtime, "rounds": rounds}
    where = lambda what: folder / f"{name}-{runtime}-{what}.json"  # noqa: E731
    first = measure_networks(space, macro, networks=fitted + TESTED, path=where("networks"), **options)
    rows, ms = first.rows, first.latency_ms
    chosen = rows[fitted : fitted + REPEATED]
    again = measure_networks(space, macro, rows=chosen, path=where("repeat"), seed=1, **options)
    train, test, few = np.arange(fitted), np.arange(fitted, len(rows)), np.arange(fitted, fitted + REPEATED)
    cost = fit(space, rows[train], ms[train], first.stamp)
    cost.save(where("table"))

    found = [
        (f"measured again ({len(few)})", agreement(again.latency_ms[few - fitted], ms[few])),
        (f"fitted to {len(train)} (the same {len(few)})", agreement(cost(rows[few]), ms[few])),
        (f"fitted to {len(train)} ({len(test)} others)", agreement(cost(rows[test]), ms[test])),
    ]
    alone = measure(space, macro, networks=0, path=where("blocks"), **options)
    summed = alone(rows)
    line = np.polynomial.Polynomial.fit(summed[train], ms[train], 1, w=1 / ms[train])
    found += [
        (f"operations alone, summed ({len(test)} others)", agreement(summed[test], ms[test])),
        (f"the same, scaled to the {len(train)}", agreement(line(summed[test]), ms[test])),
    ]
    if can_leave_out(space):
        left = replace(alone, factors=leave_out(space, alone.factors))
        found.append(("summed without what nobody reads", agreement(left(rows[test]), ms[test])))
    stamp, spread = first.stamp, float(np.median(first.spread))
    head = f"{name}, width {macro.width}, depth {macro.depth}, batch {stamp.batch}, {stamp.dtype}: {stamp.device}"
    table = Table("", "Spearman", "within ±5 %", "within ±10 %", "mean error", title=f"{head}, {stamp.runtime}")
    for what, figures in found:
        shares = (f"{figures[n]:.0%}" for n in ("within_5", "within_10"))
        table.add_row(what, f"{figures['spearman']:.4f}", *shares, f"{figures['mape']:.1%}")
    Console(width=120).print(table)
    load = f"load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else "load not known"
    print(f"{ms.min():.3g} to {ms.max():.3g} ms, median spread over {rounds} rounds {spread:.1%}, {load}")
    print("; ".join(first.notes + again.notes) or "nothing unusual seen")
    return Tested(stamp.runtime, ms[test], cost(rows[test]), line(summed[test]))


def draw(found: Sequence[Tested]) -> Figure:
    """Predicted against measured, a panel for each runtime."""
    figure = Figure(figsize=(4.6 * len(found), 4.4), layout="constrained")
    for axes, one in zip(np.ravel(figure.subplots(1, len(found))), found, strict=True):
        every = np.concatenate(one[1:])
        ends = np.asarray([every.min(), every.max()]) * [0.95, 1.05]
        axes.fill_between(ends, 0.9 * ends, 1.1 * ends, color=COLOURS["grid"], lw=0, label="within ±10 %")
        axes.plot(ends, ends, color=COLOURS["muted"], lw=1)
        summed = "sum of operations timed alone, scaled"
        axes.scatter(one.measured, one.summed, s=16, marker="x", color=COLOURS["random"], lw=1, label=summed)
        axes.scatter(one.measured, one.fitted, s=16, color=COLOURS["accent"], label="table fitted to networks")
        axes.set(xlabel=f"measured, ms, {one.runtime}", ylabel="predicted, ms", xscale="log", yscale="log")
        axes.set(xlim=ends, ylim=ends)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        finish(figure, axes, "", legend=one is found[0])
    figure.patch.set(facecolor=COLOURS["surface"], alpha=1)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("space", choices=MACROS)
    parser.add_argument("runtimes", choices=RUNTIMES, nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fit", type=int, default=200, help="networks that the table is fitted to")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("runs/measure"))
    given = parser.parse_args()
    pin(given.threads)
    found = [study(runtime, given.space, given.out, given.fit, given.rounds) for runtime in given.runtimes]
    draw(found).savefig(given.out / "predicted.png", dpi=110)
