"""Single-path one-shot: each step trains the weights of one uniformly sampled architecture."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nas.one_shot import Batch, OneShot
from nas.recipe import Recipe, learning_rate_at, optimizer_of
from nas.space import Macro, SearchSpace
from nas.supernet import Supernet
from nas.train import CLASSIFICATION, Task, descend


class State(NamedTuple):
    """Arrays of a single-path training."""

    weights: Any
    stats: Any
    moments: Any


def single_path(
    space: SearchSpace, *, macro: Macro, recipe: Recipe, steps: int, task: Task = CLASSIFICATION
) -> OneShot:
    """Uniform sampling of paths (Guo et al., "Single Path One-Shot", ECCV 2020); then a strategy searches the weights.

    With evolution as the searcher it is the paper's method; with ``random_search`` it is random search with weight
    sharing (Li and Talwalkar, UAI 2019), the baseline of all weight-sharing methods.

    Args:
        space: any that has a shared program.
        macro: frame of the supernet.
        recipe: of the weights.
        steps: of the whole training.
        task: loss.
    """
    network, optimizer = space.supernet(macro), optimizer_of(recipe)
    train_path = path_step(network, optimizer, recipe, steps, task)

    def init(key):
        weights, stats = network.init(key)
        return State(weights, stats, optimizer.init(weights))

    def step(state, train: Batch, valid: Batch, key, progress):
        state, value = train_path(state, space.sample(key, 1)[0], train, progress)
        return state, {"loss": value}

    return OneShot(init, step, None, None, None, lambda state: (state.weights, state.stats), network, "single_path", {})


def path_step(
    network: Supernet, optimizer: optax.GradientTransformation, recipe: Recipe, steps: int, task: Task
) -> Callable[..., tuple[Any, jax.Array]]:
    """``(state, row int32[L], batch, progress) -> (state, loss)``: a step of the weights along one path.

    Args:
        network: whose rows are paths.
        optimizer: of the recipe.
        recipe: of the weights.
        steps: of the whole training.
        task: loss.

    The state is any `NamedTuple` with the fields of `State`.
    """

    def step(state, row, batch: Batch, progress):
        def loss(weights):
            out, stats, _ = network.apply(weights, state.stats, batch.x, row, train=True)
            return task.loss(out, batch.labels, recipe).mean(), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.weights)
        rate = learning_rate_at(recipe, progress * steps, jnp.float32(steps))
        weights, moments = descend(optimizer, state.weights, state.moments, gradient, rate)
        return state._replace(weights=weights, stats=stats, moments=moments), value

    return step
