"""Weight-sharing methods on NAS-Bench-201: what each finds on CIFAR-10 images, looked up in the table.

All train on the same images with the same recipe; figures are the table's test accuracy after 200 epochs. `single_path`
takes the best in its weights of `--cells` random cells: random search with weight sharing, the baseline. `rank` is
Spearman's correlation over those cells of accuracy in the shared weights (batch norm recalibrated) with the table.
Run it again to go on: ``python -m experiments.darts_nasbench201 --out runs/d201 [--methods darts,gdas]``.
"""

import argparse
import functools
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from experiments.benchmarks import load
from nas.data import Split
from nas.data import load as load_data
from nas.files import read_json, write_json
from nas.recipe import Recipe
from nas.sharing import Sharing, shared_accuracy
from nas.space import Macro
from nas.summary import spearman
from search_spaces.nasbench201 import nasbench201, to_string
from strategies import ONE_SHOT, darts

SIZES = dict(images=1000, pixels=16, epochs=16, width=8, depth=1, cells=50, batch=32, seeds=3)
METHODS = ONE_SHOT | {"darts_unguarded": functools.partial(darts, max_skips=6, eigenvalue=0.0, perturbation=0.0)}


def smaller(split: Split, images: int, pixels: int) -> Split:
    """The first images, by means over blocks."""
    blocks = split.images[:images].reshape(-1, pixels, 32 // pixels, pixels, 32 // pixels, 3)
    return Split(blocks.mean((2, 4)).round().astype(np.uint8), split.labels[:images])


def study(seed: int, sharing: Sharing, cells: np.ndarray, path: Path) -> dict:
    """What a method finds with one seed, and how its shared weights rate `cells`."""
    done, (train, valid), method = sharing.train(seed, path.with_suffix(".safetensors")), sharing.splits, sharing.method
    if not done.finished:
        raise KeyboardInterrupt
    weights, accuracy = method.shared(done.state), shared_accuracy(method, sharing.task, train, valid, sharing.recipe)
    shared = [float(accuracy(*weights, cell)["accuracy"]) for cell in cells]
    derive, key = method.derive, jax.random.key(seed)
    row = cells[np.argmax(shared)] if derive is None else np.asarray(derive(done.state, valid, key)[0])
    why = [event["why"] for entry in done.record for event in entry["events"]]
    return dict(row=row.tolist(), shared=shared, why=why, seconds=done.record[-1]["seconds"])


def main() -> None:
    """Trains what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default="darts,darts_unguarded,gdas,drnas,single_path")
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    o = parser.parse_args()
    size = "_".join(f"{name}{getattr(o, name)}" for name in SIZES if name != "seeds")
    (o.out / size).mkdir(parents=True, exist_ok=True)
    space, table, data = nasbench201(), load("nasbench201", "cifar10"), load_data("cifar10", validation_fraction=0.5)
    data = replace(data, **{s: smaller(getattr(data, s), o.images, o.pixels) for s in ("train", "validation")})
    recipe = Recipe(o.epochs, o.batch, learning_rate=0.15, weight_decay=5e-5, augment=("crop:2", "flip"))
    macro, cells = Macro(o.width, o.depth, (1, 1, 1), 1), np.asarray(space.sample(jax.random.key(7), o.cells))
    print(f"{size}; one random cell: {table.test.mean():.2f} ± {table.test.std():.2f}, best {table.test.max():.2f}")
    for name in o.methods.split(","):
        found, sharing = [], Sharing(space, functools.partial(METHODS[name], space), data, recipe, macro)
        for seed in range(o.seeds):
            path = o.out / size / f"{name}_{seed}.json"
            one = read_json(path, "result") if path.exists() else study(seed, sharing, cells, path)
            write_json(path, one)
            test, *tests = table.test[table.place(np.asarray([one["row"], *cells]))]
            found.append((test, rank := spearman(one["shared"], tests)))
            print(f"  {seed} {test:6.2f} rank {rank:+.2f} {one['seconds']:5.0f} s {to_string(one['row'])}", *one["why"])
        (test, rank), (off, rank_off) = np.mean(found, 0), np.std(found, 0)
        print(f"{name}: test {test:.2f} ± {off:.2f}, rank {rank:+.2f} ± {rank_off:.2f}, {o.seeds} seeds", flush=True)


if __name__ == "__main__":
    main()
