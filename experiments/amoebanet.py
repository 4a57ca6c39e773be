"""AmoebaNet's evolution (Real et al., AAAI 2019) on AmoebaNet's space, at a size that two cores finish in minutes.

Aging evolution with the paper's mutations: the same network again 5 times in 100, else an operation or a connection
with even chance. The paper had 20,000 networks of 5 nodes, 24 channels and 9 cells on CIFAR-10 for 25 epochs, with a
population of 100 and tournaments of 25; here 40 networks of 2 nodes, 8 channels and 3 cells see 2,000 images for 3
epochs, with a population of 12 and tournaments of 3, a quarter as in the paper. CIFAR-10 is read from NAS_DATA; without
it scikit-learn's digits take its place. Run: ``python -m experiments.amoebanet [--trials 40] [--seed 0]``.
"""

import argparse

import numpy as np

from nas import Recipe, Scratch, load_data, tune
from nas.data import Data
from nas.errors import BadInput
from nas.evaluate import fit_macro
from nas.progress import progress
from nas.space import Macro
from search_spaces import SPACES
from strategies import random_search, regularized_evolution


def main() -> None:
    """Searches twice, by evolution and at random, and prints the best validation accuracy of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--population", type=int, default=12)
    parser.add_argument("--tournament", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/amoebanet")
    o = parser.parse_args()

    data = images(o.images)
    space = SPACES["amoebanet"](nodes=o.nodes)
    macro = fit_macro(Macro(8, 3, data.input_shape, data.num_classes), data)
    augment = ("crop:4", "flip") if data.name == "cifar10" else ()
    recipe = Recipe(epochs=o.epochs, batch=64, learning_rate=0.05, augment=augment)
    evaluation = Scratch(space, data, recipe, macro=macro)
    evolution = regularized_evolution(
        space, population=o.population, tournament=o.tournament, identity=0.05, connections=0.5
    )
    for name, strategy in (("evolution", evolution), ("random search", random_search(space))):
        out = f"{o.out}/{name.replace(' ', '_')}"
        result = tune.search(space, strategy, evaluation, trials=o.trials, seed=o.seed, out=out, observer=progress())
        scores = np.asarray([t.scores[0] for t in result.trials if t.feasible])
        last = scores[-len(scores) // 4 :].mean()
        best = f"{result.best.scores[0]:.4f}" if result.best else "none"
        line = (
            f"{name} on {data.name}: best of {len(scores)} trained networks {best}, mean of the last quarter {last:.4f}"
        )
        print(f"{line}; {result.seconds:.0f} s, one seed")
    print(f"a network picked at random has {scores.mean():.4f} ± {scores.std(ddof=1):.4f}")


def images(limit: int) -> Data:
    """CIFAR-10 where it is there, else digits; at most `limit` to train on."""
    try:
        return load_data("cifar10", limit=limit)
    except BadInput:
        print("no CIFAR-10 under NAS_DATA: digits")
        return load_data("digits", limit=limit)


if __name__ == "__main__":
    main()
