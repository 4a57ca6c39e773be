"""DARTS: differentiable architecture search, first and second order."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nas.errors import BadInput
from nas.one_shot import Batch, OneShot
from nas.space import Macro, SearchSpace
from nas.train import CLASSIFICATION, Recipe, Task, learning_rate_at
from strategies.gradient import by_gates, soft


def darts(
    space: SearchSpace,
    *,
    macro: Macro,
    recipe: Recipe,
    steps: int,
    task: Task = CLASSIFICATION,
    order: int = 1,
    logit_rate: float | None = None,
) -> OneShot:
    """Every operation is computed, weighted by a softmax over logits (Liu et al., ICLR 2019).

    Args:
        space: between operations, such as nasbench201, darts or fbnet.
        macro: frame of the supernet.
        recipe: of the weights; the paper's is SGD of .025 with a cosine to zero, weight decay 3e-4, batch 64 and 50
            epochs.
        steps: of the whole training.
        task: loss.
        order: 1 takes the weights as they are; 2 differentiates through a step of them, by automatic differentiation
            where the paper takes a finite difference, so it has no step size of its own to choose.
        logit_rate: Adam's learning rate for the logits; default 3e-4, more in a search shorter than the paper's.

    Raises:
        BadInput: an order that there is not, or a space without operations to choose between.
    """
    if order not in (1, 2):
        raise BadInput(f"darts: order is {order!r}; it must be 1 or 2")
    relaxation = space.relaxation

    def gate(key, logits, progress):
        return soft(relaxation, logits)

    return by_gates(
        space,
        gate,
        name="darts",
        arguments={"order": order, "logit_rate": logit_rate},
        macro=macro,
        recipe=recipe,
        steps=steps,
        task=task,
        logit_rate=logit_rate,
        step_of=None if order == 1 else lambda *parts: through_a_step(recipe, steps, *parts),
    )


def through_a_step(recipe: Recipe, steps: int, loss, update_weights, update_logits):
    """Second order: the logits' gradient of the validation loss after one step of the weights (section 2.3).

    The inner step is plain gradient descent with momentum and weight decay, as in the paper's code. Batch-norm
    statistics move with the outer step alone.
    """

    def unrolled(logits, state, train, valid, key, progress):
        gradient = jax.grad(loss, has_aux=True)(state.weights, logits, state.stats, train, key, progress, True)[0]
        rate = learning_rate_at(recipe, progress * steps, jnp.float32(steps))
        momenta = _momenta(state.moments, state.weights)
        weights = jax.tree.map(
            lambda w, g, m: w - rate * (g + recipe.weight_decay * w + recipe.momentum * m),
            state.weights,
            gradient,
            momenta,
        )
        return loss(weights, logits, state.stats, valid, key, progress, False)[0]

    def step(state, train: Batch, valid: Batch, key, progress):
        logit_key, weight_key = jax.random.split(key)
        valid_loss, gradient = jax.value_and_grad(unrolled)(state.logits, state, train, valid, logit_key, progress)
        state = update_logits(state, gradient)
        (train_loss, stats), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.weights, state.logits, state.stats, train, weight_key, progress, True
        )
        state = update_weights(state._replace(stats=stats), gradient, progress)
        return state, {"loss": train_loss, "valid_loss": valid_loss}

    return step


def _momenta(moments: Any, weights: Any) -> Any:
    """The running sum of gradients inside the optimiser's state, or zeros where it keeps none."""
    traces = [part for part in jax.tree.leaves(moments, is_leaf=_is_trace) if _is_trace(part)]
    return traces[0].trace if traces else jax.tree.map(jnp.zeros_like, weights)


def _is_trace(part):
    return isinstance(part, optax.TraceState)
