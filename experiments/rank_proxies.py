"""Do zero-cost proxies rank networks? Spearman with NAS-Bench-201's test accuracy on CIFAR-10, beside published scores.

Scores the 725 networks of which NAS-Bench-Suite-Zero (Krishnakumar et al., 2022) published scores, at the paper's
frame, with its batch of 32 and PyTorch's variance of convolutions, and prints for each proxy our Spearman, that of
the published scores, and the rank correlation of the two. The combination was fixed before any of our scores were
looked at: of sums of log-ranks of at most three published scores, synflow with jacob_cov is best on *CIFAR-100* (.913).
Scores are appended to `--keep`, where a later run goes on. Run: ``python -m experiments.rank_proxies``.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from experiments.benchmarks import find
from experiments.tables import read_csv
from nas import load_data
from nas.proxies import COUNTED, PROXIES, combine, draw_batch, proxies
from nas.space import Macro
from nas.summary import spearman
from search_spaces.nasbench201 import EDGES, OPERATIONS, nasbench201, to_string

COMBINATION = ("synflow", "jacob_cov")
THEIR_NAMES = {"jacob_cov": "jacov", "naswot": "nwot", "macs": "flops"}
THEIR_OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
THEIR_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


def own_row(digits: str) -> list[int]:
    """Their encoding in ours."""
    chosen = dict(zip(THEIR_EDGES, (THEIR_OPERATIONS[int(d)] for d in digits.split("-")), strict=True))
    return [OPERATIONS.index(chosen[edge]) for edge in EDGES]


def main() -> None:
    """Computes what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in dict(networks=725, batch=32, width=16, depth=5, seed=0, scale=6**-0.5).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--proxies", nargs="*", default=[*PROXIES])
    parser.add_argument("--keep", type=Path, default=Path("runs/rank_proxies.csv"))
    options = parser.parse_args()
    theirs = read_csv(find("naslib_zc/nasbench201.csv.gz"))
    places = [i for i, task in enumerate(theirs["task"]) if task == "cifar10"][: options.networks]
    rows = np.asarray([own_row(theirs["arch"][i]) for i in places], np.int32)
    texts = [to_string(row) for row in rows]
    tested = read_csv(find("nasbench201/accuracy.csv"))
    accuracy_of = dict(zip(tested["arch_str"], map(float, tested["cifar10_test_e200"]), strict=True))
    accuracy = np.asarray([accuracy_of[text] for text in texts])
    names, macro = [*options.proxies, *COUNTED], Macro(options.width, options.depth, (32, 32, 3), 10)
    batch = draw_batch(load_data("cifar10"), options.batch, options.seed)
    score = proxies(nasbench201(), names, batch, macro=macro, seed=options.seed, scale=options.scale)
    options.keep.parent.mkdir(parents=True, exist_ok=True)
    with open(options.keep, "a+") as file:
        file.seek(0)
        found = {(text, name): float(value) for text, name, value in csv.reader(file)}
        for text, row in zip(texts, rows, strict=True):
            if any((text, name) not in found for name in names):
                values = score(row[None])[0].tolist()
                found |= {(text, name): v for name, v in zip(names, values, strict=True)}
                csv.writer(file).writerows((text, name, found[text, name]) for name in names)
                file.flush()
    print(
        f"{len(rows)} networks of width {macro.width}, depth {macro.depth}; batch {options.batch}, seed {options.seed}"
    )
    ours = {name: np.asarray([found[text, name] for text in texts]) for name in names}
    for name, scores in ours.items():
        published = np.asarray([float(theirs[THEIR_NAMES.get(name, name)][i] or 0) for i in places])
        own, other = spearman(scores, accuracy), spearman(published, accuracy)
        print(f"{name:12} {own:6.3f}   published {other:6.3f}   same ranking {spearman(scores, published):6.3f}")
    if set(COMBINATION) <= set(names):
        together = combine(np.stack([ours[name] for name in COMBINATION], 1))
        best = accuracy[np.argsort(-together)[:10]].mean()
        print(f"{' + '.join(COMBINATION)} {spearman(together, accuracy):6.3f}")
        print(f"mean accuracy: of its ten best {best:.2f}, of all {accuracy.mean():.2f}; the best {accuracy.max():.2f}")


if __name__ == "__main__":
    main()
