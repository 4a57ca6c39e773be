"""Proximal policy optimisation with a recurrent controller, as in NASNet and MnasNet.

Schulman et al., "Proximal Policy Optimization Algorithms", arXiv:1707.06347, 2017; Zoph et al., "Learning Transferable
Architectures for Scalable Image Recognition", CVPR 2018; Tan et al., "MnasNet", CVPR 2019.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nas.errors import BadInput
from nas.space import SearchSpace
from nas.strategy import Strategy
from strategies.controller import controller
from strategies.policy_gradient import check_rates, policy_gradient


def ppo(
    space: SearchSpace,
    *,
    batch: int = 5,
    epochs: int = 3,
    clip: float = 0.2,
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
    """Draws rows from an LSTM and takes several clipped steps on every batch of results.

    The papers train thousands of networks. The defaults are for about 100 and were fixed on NAS-Bench-201, CIFAR-10.

    Args:
        space: what to search.
        batch: results of one update; NASNet and MnasNet do not give theirs.
        epochs: steps over each batch; they do not give theirs.
        clip: how far the probability of a row may move from the one it was drawn with, as a ratio; 0.2 is Schulman's.
        learning_rate: of Adam; NASNet has 0.00035 with 20,000 networks, at which 100 change next to nothing.
        entropy: weight of the entropy bonus; NASNet has 0.00001. It goes with rewards from 0 to 1.
        baseline_decay: of the moving average; NASNet has 0.95.
        memory: last results that a new one is compared with.
        power: a result's reward is the share of those that it beats, to this power. Zoph and Le (2017) cube their
            accuracy; shares mean the same for every metric, and stand for several scores and limits.
        hidden: units of the LSTM, as in NASNet.
        in_flight: at most so many candidates asked and not yet told.
        first: rows that are asked before all others, as lists or int32[K, L].
        objectives: M, scores per candidate.
        constraints: C, violations per candidate.

    Raises:
        BadInput: a size below 1, a negative weight or rate, a decay outside of [0, 1), or a row of `first` that is
            none of the space.

    The probability of the whole row is clipped, one action as the reward is one: NASNet and MnasNet do not say more.
    """
    check_rates("ppo", learning_rate=learning_rate, entropy=entropy, power=power, clip=clip)
    if epochs < 1:
        raise BadInput(f"ppo: epochs is {epochs}; it must be at least 1")
    control, adam = controller(space, hidden), optax.adam(learning_rate)

    def loss(weights, seen):
        read = control.read(weights, seen.row)
        return ppo_loss(read.log_prob, seen.log_prob, seen.advantage, read.entropy, clip, entropy)

    def update(weights, optimizer, seen):
        def step(carry, _):
            changes, optimizer = adam.update(jax.grad(loss)(carry[0], seen), carry[1])
            return (optax.apply_updates(carry[0], changes), optimizer), None

        return jax.lax.scan(step, (weights, optimizer), length=epochs)[0]

    arguments = {
        "batch": batch,
        "epochs": epochs,
        "clip": clip,
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
        "ppo",
        arguments,
        control,
        adam.init,
        update,
        first=first,
        objectives=objectives,
        constraints=constraints,
    )


def ppo_loss(
    log_prob: jax.Array, drawn: jax.Array, advantage: jax.Array, entropy: jax.Array, clip: float, weight: float
) -> jax.Array:
    """Minus the mean of the clipped objective (Schulman et al., equation 7) and of the weighted entropy.

    Args:
        log_prob: float32[B], of each row now.
        drawn: float32[B], when it was drawn.
        advantage: float32[B].
        entropy: float32[B].
        clip: epsilon.
        weight: of the entropy.
    """
    ratio = jnp.exp(log_prob - drawn)
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    return -(jnp.minimum(ratio * advantage, clipped * advantage) + weight * entropy).mean()
