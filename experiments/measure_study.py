"""How well a fitted table predicts whole networks of this machine, beside how well a second measuring does.

``python -m experiments.measure_study onnx nasbench201 --threads 1 --out runs/measure``. Of 300 networks measured in the
same rounds, 200 are fitted and 100 tested; 30 of the tested ones are measured again afterwards, from the start. Beside
it stands what summing operations timed alone gives, as it is and scaled to the networks fitted.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from hw_models.fit import agreement, fit
from hw_models.measure import measure
from hw_models.networks import measure_networks
from hw_models.runtimes import RUNTIMES, pin
from nas.space import Macro
from search_spaces import SPACES

TESTED, REPEATED = 100, 30
MACROS = {"nasbench201": Macro(16, 1, (32, 32, 3), 10), "darts": Macro(16, 6, (32, 32, 3), 10)}


def study(runtime: str, name: str, folder: Path, fitted: int, rounds: int) -> None:
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
    summed = measure(space, macro, networks=0, path=where("blocks"), **options)(rows)
    line = np.polynomial.Polynomial.fit(summed[train], ms[train], 1, w=1 / ms[train])
    found += [
        (f"operations alone, summed ({len(test)} others)", agreement(summed[test], ms[test])),
        (f"the same, scaled to the {len(train)}", agreement(line(summed[test]), ms[test])),
    ]
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runtime", choices=RUNTIMES)
    parser.add_argument("space", choices=MACROS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fit", type=int, default=200, help="networks that the table is fitted to")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("runs/measure"))
    given = parser.parse_args()
    pin(given.threads)
    study(given.runtime, given.space, given.out, given.fit, given.rounds)
