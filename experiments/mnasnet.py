"""MnasNet's search at a size that two cores finish in minutes: PPO on its space, with its reward, on real images.

Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile", CVPR 2019: PPO with NASNet's controller,
whose settings stand in `experiments.nasnet`, on accuracy x (cost / target)^-0.07. The paper measured latency on a phone
and trained about 8,000 networks; here the cost is multiply-accumulates, its target the median of random networks, and
the space has the first stages of the paper's seven. Beside it: the strategy's own settings, for 100 trainings, and
random search with the same budget. Run: ``python -m experiments.mnasnet [--trials 40]``.
"""

import jax
import numpy as np

from experiments.nasnet import PUBLISHED, compare, images, parser
from nas import mnasnet as reward
from nas.cost import count_costs
from nas.evaluate import fit_macro
from search_spaces import mnasnet
from strategies import STRATEGIES, random_search


def main() -> None:
    """Three searches and their figures."""
    made = parser(__doc__, "ppo")
    made.add_argument("--stages", type=int, default=3)
    options = made.parse_args()
    space, factory = mnasnet(stages=options.stages, most_layers=1), STRATEGIES[options.strategy]
    data = images(options.limit)
    macro = fit_macro(mnasnet(width=options.width).macro, data)
    space = space.at(macro)
    macs = count_costs(space, macro)["macs"]
    target = float(np.median(np.asarray(macs(space.sample(jax.random.key(1), 500)))))
    strategies = {
        "random search": random_search(space),
        f"{options.strategy}, published": factory(space, **PUBLISHED),
        f"{options.strategy}, 100 trainings": factory(space),
    }
    print(f"reward: accuracy x (macs / {target:,.0f})^-0.07")
    found = compare(strategies, space, options, objective=reward("macs", target))
    for name, result in found.items():
        print(f"{name:22} accuracy {result.best.metrics['accuracy']:.4f}, {result.best.metrics['macs']:,.0f} macs")
    print(space.decode(found[f"{options.strategy}, 100 trainings"].best.row))


if __name__ == "__main__":
    main()
