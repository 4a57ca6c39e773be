"""REINFORCE with a recurrent controller.

Zoph and Le, "Neural Architecture Search with Reinforcement Learning", ICLR 2017; Williams, "Simple Statistical
Gradient-Following Algorithms for Connectionist Reinforcement Learning", Machine Learning 1992.
"""

from typing import Any

import jax
import optax

from nas.space import SearchSpace
from nas.strategy import Strategy
from strategies.controller import controller
from strategies.policy_gradient import check_rates, policy_gradient


def reinforce(
    space: SearchSpace,
    *,
    batch: int = 5,
    learning_rate: float = 0.01,
    entropy: float = 0.02,
    baseline_decay: float = 0.9,
    memory: int = 32,
    power: float = 3.0,
    hidden: int = 100,
    in_flight: int = 256,
    first: Any = None,
    objectives: int = 1,
    constraints: int = 0,
) -> Strategy:
    """Draws rows from an LSTM and makes those more likely that were better than the moving average.

    The papers train thousands of networks. The defaults are for about 100 and were fixed on NAS-Bench-201, CIFAR-10.

    Args:
        space: what to search.
        batch: results of one update; the paper's replicas send 8 each.
        learning_rate: of Adam; the paper has 0.0006 with 12,800 networks, at which 100 change next to nothing.
        entropy: weight of the entropy bonus, which the paper does without. It goes with rewards from 0 to 1.
        baseline_decay: of the moving average, as in NAS-Bench-201's REINFORCE (Dong and Yang, ICLR 2020); NASNet has
            0.95.
        memory: last results that a new one is compared with.
        power: a result's reward is the share of those that it beats, to this power. The paper's is the accuracy cubed;
            shares mean the same for every metric, and stand for several scores and limits.
        hidden: units of the LSTM, as in NASNet; the paper has two layers of 35.
        in_flight: at most so many candidates asked and not yet told.
        first: rows that are asked before all others, as lists or int32[K, L].
        objectives: M, scores per candidate.
        constraints: C, violations per candidate.

    Raises:
        BadInput: a size below 1, a negative weight or rate, a decay outside of [0, 1), or a row of `first` that is
            none of the space.
    """
    check_rates("reinforce", learning_rate=learning_rate, entropy=entropy, power=power)
    control, adam = controller(space, hidden), optax.adam(learning_rate)

    def loss(weights, seen):
        read = control.read(weights, seen.row)
        return reinforce_loss(read.log_prob, seen.advantage, read.entropy, entropy)

    def update(weights, optimizer, seen):
        changes, optimizer = adam.update(jax.grad(loss)(weights, seen), optimizer)
        return optax.apply_updates(weights, changes), optimizer

    arguments = {
        "batch": batch,
        "learning_rate": learning_rate,
        "entropy": entropy,
        "baseline_decay": baseline_decay,
        "memory": memory,
        "power": power,
        "hidden": hidden,
        "in_flight": in_flight,
    }
    return policy_gradient(
        space,
        "reinforce",
        arguments,
        control,
        adam.init,
        update,
        first=first,
        objectives=objectives,
        constraints=constraints,
    )


def reinforce_loss(log_prob: jax.Array, advantage: jax.Array, entropy: jax.Array, weight: float) -> jax.Array:
    """Minus the mean of ``advantage * log_prob`` and of the weighted entropy; float32[B] each."""
    return -(advantage * log_prob + weight * entropy).mean()
