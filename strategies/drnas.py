"""DrNAS: gates drawn from a Dirichlet distribution whose concentration is learned."""

from typing import Any

import jax
import jax.numpy as jnp

from nas.errors import BadInput
from nas.one_shot import OneShot
from nas.recipe import Recipe
from nas.space import Macro, SearchSpace
from nas.train import CLASSIFICATION, Task
from strategies.gradient import by_gates
from strategies.guards import guarded


def drnas(
    space: SearchSpace,
    *,
    macro: Macro,
    recipe: Recipe,
    steps: int,
    task: Task = CLASSIFICATION,
    anchor: float = 1e-3,
    logit_rate: float | None = None,
    max_skips: int | None = None,
) -> OneShot:
    """Gates are drawn from ``Dirichlet(elu(logits) + 1)``, with gradients through the draw.

    Chen et al., "DrNAS: Dirichlet Neural Architecture Search", ICLR 2021, without its progressive phases and partial
    channels. At the start every mixture is equally likely; a concentration that grows says that a share is certain.

    Args:
        space: between operations.
        macro: frame of the supernet.
        recipe: of the weights.
        steps: of the whole training.
        task: loss.
        anchor: weight of the distance of concentrations from 1 in the logits' loss; .001 in the paper.
        logit_rate: Adam's learning rate for the logits; see `strategies.gradient.logit_rate_for`.
        max_skips: guard against collapse, see `strategies.guards.guarded`; default 2 in a normal cell.

    Raises:
        BadInput: an anchor below 0.
    """
    if not anchor >= 0:
        raise BadInput(f"drnas: anchor is {anchor!r}; it must be at least 0")
    allowed = space.relaxation.allowed

    def concentration(logits):
        return jnp.where(allowed, jax.nn.elu(logits) + 1, 1.0)

    def gate(key, logits, progress):
        return dirichlet(key, concentration(logits), allowed)

    def objective(loss, key, logits, progress):
        off = jnp.square(concentration(logits) - 1).sum()
        # the root of 0 has no slope
        return loss + anchor * jnp.where(off > 0, jnp.sqrt(jnp.where(off > 0, off, 1.0)), 0.0)

    def shares(logits):
        found = jnp.where(allowed, concentration(logits), 0.0)
        return found / found.sum(-1, keepdims=True)

    method = by_gates(
        space,
        gate,
        name="drnas",
        arguments={"anchor": anchor, "logit_rate": logit_rate},
        macro=macro,
        recipe=recipe,
        steps=steps,
        task=task,
        logit_rate=logit_rate,
        objective=objective if anchor else None,
        shares=shares,
    )
    return guarded(method, space.relaxation, recipe, max_skips=max_skips)


def dirichlet(key: jax.Array, concentration: jax.Array, allowed: Any) -> jax.Array:
    """float32[E, K]: a draw for each edge over the operations it has, with gradients for the concentration."""
    # gamma draws over their sum; by logarithms, because small ones underflow
    draws = jax.random.loggamma(key, concentration)
    return jax.nn.softmax(jnp.where(allowed, draws, -jnp.inf), -1)
