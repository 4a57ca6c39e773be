"""Weight-sharing methods on NAS-Bench-201: what each finds on CIFAR-10 images, looked up in the table.

Every method trains on the same images with the same recipe. Its cell's test accuracy after 200 epochs is the table's;
one random cell is the baseline. For methods that train sampled paths, `rank` is Spearman's correlation over random
cells of accuracy with shared weights (batch norm recalibrated) with the table's. Run it again to go on.
Run: ``python -m experiments.darts_nasbench201 --out runs/d201 [--methods darts,gdas,single_path] [--seeds 3]``.
"""

import argparse
import functools
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from experiments.benchmarks import load
from nas.data import Split, on_device
from nas.data import load as load_data
from nas.errors import BadInput
from nas.files import read_json, write_json
from nas.sharing import Sharing, shared_accuracy
from nas.space import Macro
from nas.summary import spearman
from nas.train import Recipe
from search_spaces.nasbench201 import nasbench201, to_string
from strategies import ONE_SHOT

SIZES = dict(seeds=3, images=2000, epochs=10, width=8, depth=1, cells=50, batch=64)
SAMPLING = ("single_path", "enas")


def study(method: str, seed: int, sharing: Sharing, cells: np.ndarray, out: Path) -> dict:
    """What one method finds with one seed, and how its shared weights rate `cells`; kept in a file of `out`."""
    path = out / f"{method}_{seed}.json"
    if path.exists():
        return read_json(path, "result")
    done = sharing.train(seed, out / f"{method}_{seed}.safetensors")
    if not done.finished:
        raise KeyboardInterrupt
    data = sharing.loaded
    measured = on_device(data.validation, data.mean, data.std)
    accuracy = shared_accuracy(sharing.method, sharing.task, sharing.splits[0], measured, sharing.recipe)
    weights = sharing.method.shared(done.state)
    shared = [float(accuracy(*weights, cell)["accuracy"]) for cell in cells if method in SAMPLING]
    derive, key = sharing.method.derive, jax.random.key(seed)
    # a method that derives no cell takes the random cell that is best in its weights
    found = cells[np.argmax(shared)] if derive is None else derive(done.state, sharing.splits[1], key)[0]
    events = [e["why"] for entry in done.record for e in entry["events"]]
    seconds = done.record[-1]["seconds"]
    result = {"row": np.asarray(found).tolist(), "shared": shared, "events": events, "seconds": seconds}
    write_json(path, result)
    return result


def main() -> None:
    """Trains what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default="darts,gdas,single_path")
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    o = parser.parse_args()
    space, table = nasbench201(), load("nasbench201", "cifar10")
    data = load_data("cifar10", validation_fraction=0.5, limit=o.images)
    data = replace(data, validation=Split(*(a[: o.images] for a in (data.validation.images, data.validation.labels))))
    recipe = Recipe(o.epochs, o.batch, learning_rate=0.025, weight_decay=3e-4, augment=("crop:4", "flip"))
    cells = np.asarray(space.sample(jax.random.key(7), o.cells))
    sizes = {name: getattr(o, name) for name in SIZES if name != "seeds"}
    o.out.mkdir(parents=True, exist_ok=True)
    if (o.out / "sizes.json").exists() and read_json(o.out / "sizes.json", "sizes") != sizes:
        raise BadInput(f"--out {o.out}: it holds results of other sizes; give another folder")
    write_json(o.out / "sizes.json", sizes)
    test = table.test[table.place(cells)]
    print(f"{sizes}; one random cell: mean {table.test.mean():.2f}, median {np.median(table.test):.2f}")
    for method in o.methods.split(","):
        make = functools.partial(ONE_SHOT[method], space)
        sharing = Sharing(space, make, data, recipe, Macro(o.width, o.depth, (1, 1, 1), 1))
        for seed in range(o.seeds):
            found = study(method, seed, sharing, cells, o.out)
            row, shared = np.asarray(found["row"]), found["shared"]
            rank = f"{spearman(shared, test):+.2f}" if shared else "  -  "
            place, seconds = table.place(row), found["seconds"]
            print(f"{method:12} {seed} {table.test[place]:6.2f} rank {rank} {seconds:5.0f} s {to_string(row)}")
            print(*(f"    {why}\n" for why in found["events"]), sep="", end="")


if __name__ == "__main__":
    main()
