"""Does the search on digits say something? Spearman between the scores of 30 architectures under two seeds.

At full size every architecture solves digits, and a search only ranks noise. This runs the sizes that ``nas search``
uses for small images, on the same 30 random architectures under several seeds of weights and batch order, and prints
the rank correlation of each pair of seeds. Run: ``python -m experiments.rank_stability [--seeds 4]``.
"""

import argparse
import itertools

import jax
import numpy as np

from experiments.options import defaults_for
from nas import Job, Macro, Scratch, load_data
from nas.summary import spearman
from search_spaces import nasbench201


def main() -> None:
    """Prints the correlations, and how far architectures and seeds spread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--data", default="digits")
    options = parser.parse_args()
    sizes = defaults_for(load_data(options.data).input_shape)
    macro = Macro(sizes.search_width, sizes.search_depth, (1, 1, 1), 1)
    space = nasbench201()
    evaluate = Scratch(space, options.data, sizes.search, macro=macro, data_options=sizes.data_options)()
    rows = np.asarray(space.sample(jax.random.key(7), options.architectures))

    def score(i, row, seed):
        return list(evaluate(Job(i, row, 0, seed)))[-1]["accuracy"]

    scores = np.asarray([[score(i, row, s) for i, row in enumerate(rows)] for s in range(options.seeds)])
    pairs = [spearman(a, b) for a, b in itertools.combinations(scores, 2)]
    alive = scores.mean(0) > 1.5 * scores.min()
    among = [spearman(a[alive], b[alive]) for a, b in itertools.combinations(scores, 2)]
    mean = scores.mean(0)
    size = f"width {macro.width}, {sizes.search.epochs} epochs, {sizes.data_options}"
    print(f"{options.architectures} architectures, {options.seeds} seeds, {size}")
    print(f"Spearman between two seeds: mean {np.mean(pairs):.3f}, lowest {min(pairs):.3f} of {len(pairs)} pairs")
    print(f"  among the {alive.sum()} that learn at all: mean {np.mean(among):.3f}, lowest {min(among):.3f}")
    print(f"accuracy of architectures: {mean.min():.3f} to {mean.max():.3f}, median {np.median(mean):.3f}")
    spread, noise = mean[alive].std(), scores.std(0)[alive].mean()
    print(f"standard deviation between architectures {spread:.4f}, between seeds {noise:.4f}")


if __name__ == "__main__":
    main()
