"""Sub-networks of a supernet beside the same networks trained alone: the accuracies of `experiments.once_for_all`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nas.data import Data
from nas.elastic import elastic_supernet, extreme, share
from nas.evaluate import Job, Scratch
from nas.files import read_json, write_json
from nas.layers import counts
from nas.one_shot import Shared
from nas.recipe import Recipe
from nas.sharing import Inherited, Sharing
from nas.space import Macro, SearchSpace
from nas.summary import spearman

Accuracy = Callable[[np.ndarray], dict[str, float]]


class Notebook:
    """Figures in a JSON file, each computed once: what a killed run has, it need not compute again."""

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[str, Any] = read_json(path, "figures") if path.exists() else {}

    def __call__(self, key: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, or gave."""
        if key not in self.known:
            self.known[key] = compute()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self.known)
            print(f"{key}: {self.known[key]}", flush=True)
        return self.known[key]


def spread(space: SearchSpace, macro: Macro, count: int, seed: int) -> np.ndarray:
    """int32[count, L]: the smallest, the largest, and random networks at even ranks of multiply-accumulates between."""
    kinds = share(space, macro).kinds
    rows = np.asarray(space.sample(jax.random.key(seed), 200))
    order = np.argsort([counts(space.layers(row, macro)).macs for row in rows], kind="stable")
    between = rows[order[np.linspace(0, len(rows) - 1, count).round().astype(int)[1:-1]]]
    return np.stack([extreme(space, kinds, False), *between, extreme(space, kinds, True)])


def inherited(sharing: Sharing, shared: Shared, notes: Notebook, name: str) -> Accuracy:
    """Accuracy of a row with shared weights, batch norm recalibrated, and as ``accuracy_uncalibrated`` without."""
    evaluate = cache(Inherited(sharing, [shared]))

    def accuracy(row):
        return notes(f"{name} {_text(row)}", lambda: dict(next(iter(evaluate()(Job(0, np.asarray(row)))))))

    return accuracy


def alone(space: SearchSpace, data: Data, recipe: Recipe, macro: Macro, seed: int, notes: Notebook):
    """``(row, epochs) -> metrics`` of one network trained alone, in a program that all of them share."""
    centres = replace(space, supernet_of=partial(elastic_supernet, transforms=False))
    evaluate = cache(Scratch(centres, data, recipe, macro))

    def accuracy(row, epochs):
        job = Job(0, np.asarray(row), epochs, seed)
        return notes(f"alone {epochs} {_text(row)}", lambda: dict(list(evaluate()(job))[-1]))

    return accuracy


def _text(row):
    return "".join(map(str, np.asarray(row).tolist()))


def compared(space: SearchSpace, macro: Macro, rows: np.ndarray, found: Mapping[str, Sequence[Mapping]]) -> dict:
    """Figures of the comparison, and a table in words."""
    names = ("a", "b", "b'", "c")
    accuracy = {name: [100 * m["accuracy"] for m in found[name]] for name in names}
    plain = [100 * m["accuracy_uncalibrated"] for m in found["a"]]
    macs = [counts(space.layers(row, macro)).macs for row in rows]
    lines = ["macs (M)  a      a without recalibration  b      b'     c"]
    for i, m in enumerate(macs):
        a, b, short, c = (accuracy[name][i] for name in names)
        lines.append(f"{m / 1e6:8.2f}  {a:5.2f}  {plain[i]:23.2f}  {b:5.2f}  {short:5.2f}  {c:5.2f}")
    rank = spearman(accuracy["a"], accuracy["b"])
    gap = float(np.mean(np.subtract(accuracy["a"], accuracy["b"])))
    above = int(np.sum(np.greater_equal(accuracy["a"], accuracy["b'"])))
    lines.append(f"Spearman a-b {rank:.3f}; mean a - b {gap:+.2f} points; a >= b' for {above} of {len(rows)}")
    return {
        "rows": rows.tolist(),
        "macs": macs,
        "accuracy": accuracy,
        "a_uncalibrated": plain,
        "spearman_a_b": rank,
        "mean_a_minus_b": gap,
        "a_at_least_b_short": above,
        "text": "\n".join(lines),
    }
