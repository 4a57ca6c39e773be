"""Ten networks of a new device with the help of known ones, ten alone, and a hundred alone.

``python -m experiments.bench_transfer``, and `--space fbnet`. On HELP's devices (Lee et al., NeurIPS 2021; see
NAS_DATA), each left out together with its chip at other batch sizes:
Spearman's rank correlation on all other networks, means over draws, simulated devices left out.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.arch_rows import table_rows
from experiments.benchmarks import find
from experiments.fit_command import read_values
from hw_models.fit import regress, usable
from hw_models.transfer import SIMULATED, chip_of, learn, predict
from nas.cost import Cost, Stamp
from nas.summary import spearman
from search_spaces import SPACES

FILES = {
    "nasbench201": ("nasbench201/latency_help.csv.gz", "index", "nasbench201/accuracy.csv"),
    "fbnet": ("help/fbnet_latency.csv.gz", "op_idx", None),
}
STAMP = Stamp("latency", "ms", "", "", 1, "", {}, "")


def main(name: str, samples: int, many: int, draws: int) -> None:
    """Prints a row for each device, and how many are near the hundred and above the ten alone."""
    file, arch, explained = FILES[name]
    space, path = SPACES[name](), find(file)
    columns, rows = table_rows(space, path, arch, explained and find(explained))
    devices = [n for n in columns if n not in ("index", arch, *SIMULATED)]
    values = np.stack([read_values(columns, n, file) for n in devices])
    chips = [chip_of(n) for n in devices]
    table, found = Table("device", f"{samples} alone", f"{samples} with known", f"{many} alone", title=name), []
    for device, own, chip in zip(devices, values, chips, strict=True):
        others = [i for i, other in enumerate(chips) if other != chip]
        known, each = learn(space, rows, values[others], [chips[i] for i in others]), []
        for draw in range(draws):
            order = np.random.default_rng(draw).permutation(np.flatnonzero(usable(own)))
            few, hundred, rest = order[:samples], order[:many], order[many:]
            predicted = [
                alone(space, rows, own, few),
                predict(known, few, own[few])[0],
                alone(space, rows, own, hundred),
            ]
            each.append([spearman(p[rest].tolist(), own[rest].tolist()) for p in predicted])
        found.append(np.mean(each, 0))
        table.add_row(device, *(f"{value:.4f}" for value in found[-1]))
        print(f"{device}: {len(found)} of {len(devices)}", flush=True)
    few_alone, ours, aim = np.asarray(found).T
    Console(width=100).print(table)
    print(
        f"{samples} with known: within .01 of {many} alone on {(ours >= aim - 0.01).mean():.0%} of {len(devices)}, at "
        f"worst {(ours - aim).min():+.4f}; above {samples} alone on {(ours > few_alone).sum()}, at worst "
        f"{(ours - few_alone).min():+.4f}"
    )


def alone(space, rows, values, some):
    """What a regression on these networks says of all."""
    base, factors, _ = regress(space, rows[some], values[some])
    return Cost(STAMP, base, factors)(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", choices=FILES, default="nasbench201")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--draws", type=int, default=10)
    given = parser.parse_args()
    main(given.space, given.samples, given.many, given.draws)
