"""ProxylessNAS: binary gates, one sampled path for the weights and two for the logits."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nas.cost import Cost
from nas.errors import BadInput
from nas.mixed import Hard
from nas.one_shot import OneShot
from nas.recipe import Recipe
from nas.space import Macro, SearchSpace
from nas.train import CLASSIFICATION, Task
from strategies.expected_cost import expected_cost
from strategies.gradient import apart, by_gates, gumbel_scores, soft


def proxylessnas(
    space: SearchSpace,
    *,
    macro: Macro,
    recipe: Recipe,
    steps: int,
    costs: Mapping[str, Cost],
    task: Task = CLASSIFICATION,
    cost: str = "latency",
    weight: float = 0.1,
    logit_rate: float | None = None,
) -> OneShot:
    """Weights are trained along one sampled path; of two sampled operations an edge learns which is better.

    Cai, Zhu and Han, "ProxylessNAS", ICLR 2019, with binary gates and gradients. A step of the logits changes those of
    the two alone but for Adam's momentum, by equal and opposite gradients, where the paper rescales them so that the
    pair keeps its probability. It computes every operation, where the paper computes two: it takes the memory of
    DARTS's step, not that of one path.

    Args:
        space: between operations, such as proxylessnas.
        macro: frame of the supernet.
        recipe: of the weights.
        steps: of the whole training.
        costs: tables by name.
        task: loss.
        cost: which of them; also ``macs`` or ``params``.
        weight: of the expected cost, in units of the cheapest architecture's, in the logits' loss; 0 leaves it out.
            The paper gives no number.
        logit_rate: Adam's learning rate for the logits; see `strategies.gradient.logit_rate_for`.

    Raises:
        BadInput: a weight below 0, or what `strategies.expected_cost.expected_cost` refuses.
    """
    if not weight >= 0:
        raise BadInput(f"proxylessnas: weight is {weight!r}; it must be at least 0")
    relaxation = space.relaxation
    expected: Any = expected_cost("proxylessnas", space, macro, costs, cost) if weight else None

    def gate(key, logits, progress):
        return two_paths(key, logits, relaxation.allowed)

    def train_gate(key, logits, progress):
        index = jax.random.categorical(key, jnp.where(relaxation.allowed, logits, -jnp.inf))
        return Hard(index, jax.nn.one_hot(index, logits.shape[1]))

    def objective(loss, key, logits, progress):
        return loss + weight * expected(soft(relaxation, logits))

    return by_gates(
        space,
        gate,
        name="proxylessnas",
        arguments={"cost": cost, "weight": weight, "logit_rate": logit_rate},
        macro=macro,
        recipe=recipe,
        steps=steps,
        task=task,
        logit_rate=logit_rate,
        objective=objective if weight else None,
        step_of=apart,
        train_gate=train_gate,
    )


def two_paths(key: jax.Array, logits: jax.Array, allowed: Any) -> jax.Array:
    """float32[E, K]: one open gate on each edge, with gradients for it and one other (section 3.2.1).

    Two operations are drawn without putting back, by their probabilities; which of them is open is drawn by what is
    left of these. Backwards the gates are those probabilities.
    """
    pair_key, open_key = jax.random.split(key)
    pair = jax.lax.top_k(gumbel_scores(pair_key, logits, allowed), 2)[1]
    two = jnp.take_along_axis(logits, pair, 1)
    shares = jax.nn.softmax(two, -1)
    opened = jax.nn.one_hot(jax.random.categorical(open_key, jax.lax.stop_gradient(two)), 2)
    binary = opened + shares - jax.lax.stop_gradient(shares)
    return (binary[..., None] * jax.nn.one_hot(pair, logits.shape[1])).sum(1)
