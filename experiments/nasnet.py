"""NASNet's search at a size that two cores finish in minutes: a recurrent controller on cells, trained on real images.

Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018: PPO, an LSTM of 100 units,
Adam at 0.00035, entropy bonus 0.00001, baseline decay 0.95. The paper trained 20,000 networks; it does not say how many
results make an update, and at its learning rate some dozens of trainings leave the controller where it began. So the
search runs twice, with the paper's settings and with the strategy's own, which are meant for 100 trainings, beside
random search with the same budget. Run: ``python -m experiments.nasnet [--strategy reinforce] [--trials 40]``.
"""

import argparse
from collections.abc import Mapping

import numpy as np

from nas import Objective, Recipe, Scratch, load_data, tune
from nas.data import Data
from nas.errors import BadInput
from nas.result import Result
from nas.space import SearchSpace
from nas.strategy import Strategy
from search_spaces import nasnet
from strategies import STRATEGIES, random_search

PUBLISHED = {"learning_rate": 0.00035, "entropy": 0.00001, "baseline_decay": 0.95, "hidden": 100, "power": 1.0}
OPERATIONS = ("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")


def images(limit: int) -> Data:
    """CIFAR-10 where it is there, else digits; at most `limit` to train on."""
    try:
        return load_data("cifar10", limit=limit)
    except BadInput:
        return load_data("digits", limit=limit)


def compare(strategies: Mapping[str, Strategy], space: SearchSpace, options, **arguments) -> dict[str, Result]:
    """One search each, through Ray Tune; prints what they found."""
    data, found = images(options.limit), {}
    recipe = Recipe(epochs=options.epochs, batch=64, augment=("crop:4", "flip") if data.name == "cifar10" else ())
    print(
        f"{space.name}, {data.name}, {len(data.train.labels)} images, {options.epochs} epochs, {options.trials} trials"
    )
    for name, strategy in strategies.items():
        budget = {"trials": options.trials, "seed": options.seed, "workers": options.workers}
        result = tune.search(space, strategy, Scratch(space, data, recipe), **budget, **arguments)
        scores = np.asarray([t.scores[0] for t in result.trials if t.status == "finished"])
        half = scores[len(scores) // 2 :]
        print(
            f"{name:22} best {scores.max():.4f}, mean {scores.mean():.4f}, of the later half {half.mean():.4f} "
            f"(standard error {half.std() / len(half) ** 0.5:.4f}), {result.seconds:.0f} s",
            flush=True,
        )
        found[name] = result
    return found


def parser(text: str, strategy: str) -> argparse.ArgumentParser:
    """Options of both studies."""
    made = argparse.ArgumentParser(description=text)
    made.add_argument("--strategy", choices=("ppo", "reinforce"), default=strategy)
    for name, value in (("trials", 40), ("limit", 2000), ("epochs", 2), ("width", 8), ("seed", 0), ("workers", None)):
        made.add_argument(f"--{name}", type=int, default=value)
    return made


def main() -> None:
    """Three searches and their figures."""
    options = parser(__doc__, "ppo").parse_args()
    space, factory = nasnet(2, OPERATIONS, width=options.width, depth=3), STRATEGIES[options.strategy]
    strategies = {
        "random search": random_search(space),
        f"{options.strategy}, published": factory(space, **PUBLISHED),
        f"{options.strategy}, 100 trainings": factory(space),
    }
    best = compare(strategies, space, options, objective=Objective())[f"{options.strategy}, 100 trainings"].best
    print(space.decode(best.row))


if __name__ == "__main__":
    main()
