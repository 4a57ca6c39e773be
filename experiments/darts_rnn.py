"""Recurrent cells on Tiny Shakespeare's characters: found by DARTS, drawn at random, and the published DARTS_V2.

Every cell is trained alone with the same recipe and seeds; figures are test perplexities of a character, the state
carried over the text. A search is paid for as well: beside the mean random cell stands the best of as many as a search
and a training take the time of, chosen by validation. Run it again to go on: ``python -m experiments.darts_rnn --out
runs/rnn``.
"""

import argparse
import functools
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from experiments.options import TEXT
from nas.config import Architecture
from nas.data import Data, Split, load
from nas.files import read_json, write_json
from nas.model import train_model
from nas.sharing import Sharing
from nas.space import Macro
from search_spaces.darts_rnn import darts_rnn
from search_spaces.genotype import from_row, to_row
from search_spaces.published import DARTS_RNN_V2
from strategies import darts

SIZES = dict(sequences=1600, measured=320, search_epochs=10, search_width=32, epochs=15, width=64, seeds=3, cells=6)
DROPOUT = dict(dropout_input=0.1, dropout_hidden=0.1, dropout_output=0.1)


def cut(data: Data, train: int, measured: int) -> Data:
    """The first sequences of each part."""
    first = lambda part, n: Split(part.images[:n], part.labels[:n])  # noqa: E731
    validation, test = (first(part, measured) for part in (data.validation, data.test))
    return replace(data, train=first(data.train, train), validation=validation, test=test)


def once(path: Path, make) -> dict:
    """What a file holds, or makes it."""
    if not path.exists():
        began = time.monotonic()
        found = make()
        write_json(path, found | {"seconds": time.monotonic() - began})
    return read_json(path, "result")


def main() -> None:
    """Trains what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    o = parser.parse_args()
    folder = o.out / "_".join(f"{name}{getattr(o, name)}" for name in SIZES if name not in ("seeds", "cells"))
    folder.mkdir(parents=True, exist_ok=True)
    space, data = darts_rnn(), cut(load("tinyshakespeare"), o.sequences, o.measured)
    frame = functools.partial(Macro, depth=1, input=data.input_shape, classes=data.num_classes)
    searched, macro = frame(width=o.search_width), frame(width=o.width)
    recipe = TEXT.replace(epochs=o.epochs, **DROPOUT)

    def search(seed):
        sharing = Sharing(space, functools.partial(darts, space), data, TEXT.replace(epochs=o.search_epochs), searched)
        done = sharing.train(seed)
        row = sharing.method.derive(done.state, sharing.splits[1], jax.random.key(seed))[0]
        return {"row": np.asarray(row).tolist(), "record": done.record}

    def trained(name, row, seed):
        cell = Architecture(space, np.asarray(row), macro, searched)
        path = folder / f"{name}_{seed}.json"
        return once(path, lambda: dict(train_model(cell, data, recipe, seed=seed)[0].metrics))

    finds = [once(folder / f"search_{seed}.json", lambda seed=seed: search(seed)) for seed in range(o.seeds)]
    drawn = np.asarray(space.sample(jax.random.key(7), o.cells))
    groups = {
        "darts": {f"darts_{seed}": found["row"] for seed, found in enumerate(finds)},
        "random": {f"random_{i}": row for i, row in enumerate(drawn)},
        "DARTS_V2": {"published": to_row(DARTS_RNN_V2, space)},
    }
    figures, seconds = {}, []
    for group, cells in groups.items():
        for name, row in cells.items():
            runs = [trained(name, row, seed) for seed in range(o.seeds)]
            seconds += [run["seconds"] for run in runs]
            figures[group, name] = np.asarray([[run["test_perplexity"], run["validation_perplexity"]] for run in runs])
            test = figures[group, name][:, 0]
            print(f"{name:10} {test.mean():.3f} ± {test.std(ddof=1):.3f}", str(from_row(row, space)), flush=True)
    for group in groups:
        means = np.asarray([runs[:, 0].mean() for (of, _), runs in figures.items() if of == group])
        spread = f" ± {means.std(ddof=1):.3f} over {len(means)} cells" if len(means) > 1 else ""
        print(f"{group}: test perplexity {means.mean():.3f}{spread}, each the mean of {o.seeds} trainings")
    afford = 1 + round(np.mean([found["seconds"] for found in finds]) / (o.seeds * np.mean(seconds)))
    some = [runs for (of, _), runs in figures.items() if of == "random"][:afford]
    best = min(some, key=lambda runs: runs[:, 1].mean())
    print(f"best of {len(some)} random cells (the time of a search and a training): {best[:, 0].mean():.3f}")


if __name__ == "__main__":
    main()
