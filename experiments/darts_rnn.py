"""Recurrent cells on the first characters of Tiny Shakespeare: found by DARTS, drawn at random, and DARTS_V2.

Every cell is trained alone by the same recipe and seeds; figures are test perplexities of a character, the state
carried over the text. Beside the random cells stands the best, by validation, of as many of them as the time of a
search and a training buys. Run it again to go on: ``python -m experiments.darts_rnn --out runs/rnn``.
"""

import argparse
import functools
import time
from pathlib import Path

import jax
import numpy as np

from experiments.options import TEXT
from nas.config import Architecture
from nas.data import load
from nas.files import read_json, write_json
from nas.image_sets import find
from nas.model import train_model
from nas.sharing import Sharing
from nas.space import Macro
from search_spaces.darts_rnn import darts_rnn
from search_spaces.genotype import from_row, to_row
from search_spaces.published import DARTS_RNN_V2
from strategies import darts

SIZES = dict(characters=100_000, search_epochs=2, search_width=32, epochs=8, width=64, seeds=3, cells=4)
TRAIN = TEXT.replace(learning_rate=5e-3, dropout_input=0.1, dropout_hidden=0.1, dropout_output=0.1)


def once(path: Path, make) -> dict:
    """What a file holds, or makes it."""
    if not path.exists():
        began = time.process_time()
        write_json(path, make() | {"cpu_seconds": time.process_time() - began})
    return read_json(path, "result")


def main() -> None:
    """Trains what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    o = parser.parse_args()
    out = o.out / "_".join(f"{name}{getattr(o, name)}" for name in SIZES if name not in ("seeds", "cells"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "cut.txt").write_text((find("tinyshakespeare") / "input.txt").read_text()[: o.characters])
    space, data = darts_rnn(), load(out / "cut.txt")
    searched, macro = (Macro(w, 1, data.input_shape, data.num_classes) for w in (o.search_width, o.width))

    def search(seed):
        sharing = Sharing(space, functools.partial(darts, space), data, TEXT.replace(epochs=o.search_epochs), searched)
        done = sharing.train(seed, out / f"search_{seed}.safetensors")
        if not done.finished:
            raise KeyboardInterrupt
        row = sharing.method.derive(done.state, sharing.splits[1], jax.random.key(seed))[0]
        return {"row": np.asarray(row).tolist(), "record": done.record}

    def train(row, seed):
        cell = Architecture(space, np.asarray(row), macro, searched)
        return dict(train_model(cell, data, TRAIN.replace(epochs=o.epochs), seed=seed)[0].metrics)

    finds = [once(out / f"search_{seed}.json", functools.partial(search, seed)) for seed in range(o.seeds)]
    cells = {f"darts_{seed}": found["row"] for seed, found in enumerate(finds)}
    cells |= {f"random_{i}": row for i, row in enumerate(np.asarray(space.sample(jax.random.key(7), o.cells)))}
    cells |= {"published_v2": to_row(DARTS_RNN_V2, space)}
    figures, spent = {}, []
    for name, row in cells.items():
        runs = [once(out / f"{name}_{seed}.json", functools.partial(train, row, seed)) for seed in range(o.seeds)]
        spent += [run["cpu_seconds"] for run in runs]
        figures[name] = np.asarray([[run["test_perplexity"], run["validation_perplexity"]] for run in runs])
        test, off = figures[name][:, 0].mean(), figures[name][:, 0].std(ddof=1)
        print(f"{name:12} {test:.3f} ± {off:.3f}", str(from_row(row, space)), flush=True)
    for group in ("darts", "random", "published"):
        means = [runs[:, 0].mean() for name, runs in figures.items() if name.startswith(group)]
        spread = f" ± {np.std(means, ddof=1):.3f} over {len(means)} cells" if len(means) > 1 else ""
        print(f"{group}: test perplexity {np.mean(means):.3f}{spread}, each the mean of {o.seeds} trainings")
    afford = 1 + round(np.mean([found["cpu_seconds"] for found in finds]) / np.mean(spent))
    some = [runs for name, runs in figures.items() if name.startswith("random")][:afford]
    best = min(some, key=lambda runs: runs[:, 1].mean())
    print(
        f"best of {len(some)} random cells ({afford} trainings take the time): test perplexity {best[:, 0].mean():.3f}"
    )


if __name__ == "__main__":
    main()
