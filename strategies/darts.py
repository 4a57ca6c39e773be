"""DARTS: differentiable architecture search, first and second order."""

import jax

from nas.errors import BadInput
from nas.mixed import mixed_supernet
from nas.one_shot import Batch, OneShot
from nas.recipe import Recipe
from nas.space import Macro, SearchSpace
from nas.train import CLASSIFICATION, Task
from strategies.gradient import by_gates, soft, step_of_weights
from strategies.guards import guarded, perturbed


def darts(
    space: SearchSpace,
    *,
    macro: Macro,
    recipe: Recipe,
    steps: int,
    task: Task = CLASSIFICATION,
    remat: bool = True,
    order: int = 1,
    logit_rate: float | None = None,
    max_skips: int | None = None,
    eigenvalue: float = 0.75,
    perturbation: float = 0.3,
) -> OneShot:
    """Every operation is computed, weighted by a softmax over logits (Liu et al., ICLR 2019).

    Args:
        space: between operations, such as nasbench201, darts or fbnet.
        macro: frame of the supernet.
        recipe: of the weights; the paper's is SGD of .025 with a cosine to zero, weight decay 3e-4, batch 64 and 50
            epochs. Its kernels start with a sixth of the variance of ours, and what batch norm follows turns by the
            rate over the squared size: .15 and 5e-5 turn ours as fast (`experiments.options.Sizes`).
        steps: of the whole training.
        task: loss.
        remat: whether edges are computed again for the gradient: less memory, and on a CPU less time.
        order: 1 takes the weights as they are; 2 differentiates through a step of them, by automatic differentiation
            where the paper takes a finite difference, so it has no step size of its own to choose.
        logit_rate: Adam's learning rate for the logits; default 3e-4, more in a search shorter than the paper's.
        max_skips: guard against collapse, see `strategies.guards.guarded`; default 2 in a normal cell.
        eigenvalue: another, .75 as in Zela et al. 2020; 0 switches it off.
        perturbation: largest noise on gates while the weights are trained, .3 as in Chen and Hsieh 2020; 0 is the
            plain method.

    Raises:
        BadInput: an order that there is not, or a space without operations to choose between.
    """
    if order not in (1, 2):
        raise BadInput(f"darts: order is {order!r}; it must be 1 or 2")
    if not 0 <= perturbation < 1:
        raise BadInput(f"darts: perturbation is {perturbation!r}; it must be from 0 to below 1")
    relaxation = space.relaxation

    def gate(key, logits, progress):
        return soft(relaxation, logits)

    method = by_gates(
        space,
        gate,
        name="darts",
        arguments={"order": order, "logit_rate": logit_rate, "perturbation": perturbation},
        macro=macro,
        recipe=recipe,
        steps=steps,
        task=task,
        network=mixed_supernet(space, macro, remat=remat),
        logit_rate=logit_rate,
        step_of=None if order == 1 else through_a_step,
        train_gate=perturbed(gate, relaxation.allowed, perturbation) if perturbation else None,
    )
    return guarded(method, relaxation, recipe, max_skips=max_skips, eigenvalue=eigenvalue, task=task)


def through_a_step(loss, update_weights, update_logits):
    """Second order: the logits' gradient of the validation loss after a step of the weights (section 2.3).

    The step that is looked through is the one that the weights take, momentum, weight decay and clipping included.
    The arguments are those of `strategies.gradient.alternate`; batch-norm statistics move with the step of the weights
    alone.
    """

    def unrolled(logits, state, train, valid, key, progress):
        gradient = jax.grad(loss, has_aux=True)(state.weights, logits, state.stats, train, key, progress, True)[0]
        weights = update_weights(state, gradient, progress).weights
        return loss(weights, logits, state.stats, valid, key, progress, False)[0]

    def step(state, train: Batch, valid: Batch, key, progress):
        logit_key, weight_key = jax.random.split(key)
        valid_loss, gradient = jax.value_and_grad(unrolled)(state.logits, state, train, valid, logit_key, progress)
        state = update_logits(state, gradient)
        state, train_loss = step_of_weights(loss, update_weights, state, train, weight_key, progress)
        return state, {"loss": train_loss, "valid_loss": valid_loss}

    return step
