"""FBNet: gates from a Gumbel softmax, and the expected latency in the loss."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from nas.cost import Cost
from nas.errors import BadInput
from nas.one_shot import OneShot
from nas.recipe import Recipe
from nas.space import Macro, SearchSpace
from nas.train import CLASSIFICATION, Task
from strategies.expected_cost import expected_cost
from strategies.gradient import by_gates, cooling


def fbnet(
    space: SearchSpace,
    *,
    macro: Macro,
    recipe: Recipe,
    steps: int,
    costs: Mapping[str, Cost],
    task: Task = CLASSIFICATION,
    cost: str = "latency",
    alpha: float = 0.2,
    beta: float = 0.6,
    hottest: float = 5.0,
    coldest: float = 0.087,
    logit_rate: float | None = None,
) -> OneShot:
    """The logits minimise ``loss * alpha * log(latency) ** beta`` (Wu et al., "FBNet", CVPR 2019, equation 2).

    The latency is that of the sampled gates, in units of the cheapest architecture over e, where the paper has
    microseconds: so the logarithm is never below 1.

    Args:
        space: between operations, such as fbnet.
        macro: frame of the supernet.
        recipe: of the weights.
        steps: of the whole training.
        costs: tables by name.
        task: loss.
        cost: which of them; also ``macs`` or ``params``.
        alpha: .2 in the paper.
        beta: .6 in the paper; 0 leaves the cost out.
        hottest: temperature at the start, 5 in the paper.
        coldest: at the end, reached by equal factors; 5 times .956 for each of the paper's 90 epochs.
        logit_rate: Adam's learning rate for the logits; see `strategies.gradient.logit_rate_for`.

    Raises:
        BadInput: a number out of range, or what `strategies.expected_cost.expected_cost` refuses.
    """
    if not (alpha > 0 and beta >= 0):
        raise BadInput("fbnet: alpha must be above 0, and beta at least 0")
    gate = cooling("fbnet", space.relaxation.allowed, hottest, coldest)
    expected: Any = expected_cost("fbnet", space, macro, costs, cost) if beta else None

    def objective(loss, key, logits, progress):
        return loss * alpha * (1 + jnp.log(expected(gate(key, logits, progress)))) ** beta

    return by_gates(
        space,
        gate,
        name="fbnet",
        arguments={
            **{"cost": cost, "alpha": alpha, "beta": beta},
            **{"hottest": hottest, "coldest": coldest, "logit_rate": logit_rate},
        },
        macro=macro,
        recipe=recipe,
        steps=steps,
        task=task,
        logit_rate=logit_rate,
        objective=objective if beta else None,
    )
