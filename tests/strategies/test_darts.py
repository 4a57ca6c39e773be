"""DARTS's two steps against closed forms, and its logits' rate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas.errors import BadInput
from nas.one_shot import Batch
from nas.recipe import Recipe, optimizer_of
from nas.space import Macro
from search_spaces import darts as cell_space
from search_spaces import nasbench201
from strategies.darts import darts, through_a_step
from strategies.gradient import FASTEST_LOGIT_RATE, LOGIT_RATE, PAPER_STEPS, alternate, logit_rate_for

RATE, DECAY, MOMENTUM = 0.1, 0.01, 0.9
RECIPE = Recipe(learning_rate=RATE, weight_decay=DECAY, momentum=MOMENTUM, schedule="constant", gradient_clip=0.0)
A = jnp.asarray([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]])  # what the logits ask of the weights
B, C = jnp.asarray([0.3, -0.2, 0.7]), jnp.asarray([0.1, 0.2])


class State(NamedTuple):
    weights: Any
    stats: Any
    moments: Any
    logits: Any


def loss(weights, logits, stats, batch, key, progress, of_weights):
    """Training: ½|w - A a|²; validation: ½|w - b|² + c·a."""
    of_train = 0.5 * jnp.square(weights - A @ logits).sum()
    of_valid = 0.5 * jnp.square(weights - B).sum() + C @ logits
    return jnp.where(of_weights, of_train, of_valid), stats


def start():
    """A state with some momentum, the real optimiser's update, and one of the logits that keeps their gradient."""
    optimizer = optimizer_of(RECIPE)
    weights, moving = jnp.asarray([1.0, -1.0, 0.5]), jnp.asarray([0.5, 0.1, -0.3])
    is_trace = lambda part: isinstance(part, optax.TraceState)  # noqa: E731
    moments = jax.tree.map(
        lambda part: optax.TraceState(moving) if is_trace(part) else part, optimizer.init(weights), is_leaf=is_trace
    )
    kept = []

    def update_weights(state, gradient, progress):
        direction, moments = optimizer.update(gradient, state.moments, state.weights)
        return state._replace(weights=state.weights - RATE * direction, moments=moments)

    def update_logits(state, gradient):
        kept.append(gradient)
        return state

    return State(weights, jnp.zeros(()), moments, jnp.asarray([0.2, -0.4])), moving, kept, update_weights, update_logits


def one_step(w, a, moving):
    """Nesterov momentum by hand: the step looks ahead by the new momentum."""
    gradient = w - A @ a + DECAY * w
    return w - RATE * (gradient + MOMENTUM * (gradient + MOMENTUM * moving))


# how far a step moves the weights for each unit of its gradient
REACH = RATE * (1 + MOMENTUM)


def test_second_order_is_the_closed_form_of_a_quadratic():
    state, moving, kept, *updates = start()
    after, metrics = through_a_step(loss, *updates)(state, None, None, jax.random.key(0), jnp.float32(0))
    w, a = state.weights, state.logits
    moved = one_step(w, a, moving)
    np.testing.assert_allclose(kept[0], REACH * A.T @ (moved - B) + C, rtol=1e-5)
    np.testing.assert_allclose(metrics["valid_loss"], 0.5 * jnp.square(moved - B).sum() + C @ a, rtol=1e-5)
    # the weights then take the very step that was looked through, from where they were
    np.testing.assert_allclose(after.weights, moved, rtol=1e-5)


def test_the_papers_finite_difference_agrees_with_differentiating_through_the_step():
    state, moving, kept, *updates = start()
    through_a_step(loss, *updates)(state, None, None, jax.random.key(0), jnp.float32(0))
    w, a = state.weights, state.logits
    of = lambda w, a, train: loss(w, a, 0.0, None, None, 0.0, train)[0]  # noqa: E731
    by_weights, by_logits = jax.grad(of, (0, 1))(one_step(w, a, moving), a, False)
    epsilon = 0.01 / jnp.linalg.norm(by_weights)  # equation 8
    plus, minus = (jax.grad(of, 1)(w + sign * epsilon * by_weights, a, True) for sign in (1, -1))
    np.testing.assert_allclose(kept[0], by_logits - REACH * (plus - minus) / (2 * epsilon), rtol=1e-3)


def test_second_order_goes_through_the_operations_of_the_cell_space():
    """Traced alone: gradients of gradients of our kernels, inside the loop over a cell's edges."""
    space, macro = cell_space(nodes=2, operations=("skip_connect", "dil_conv_5x5")), Macro(4, 3, (8, 8, 3), 10)
    method = darts(space, macro=macro, recipe=RECIPE, steps=10, order=2)
    batch = Batch(jnp.zeros((4, 8, 8, 3)), jnp.zeros(4, jnp.int32))
    state = jax.eval_shape(method.init, jax.random.key(0))
    after, metrics = jax.eval_shape(method.step, state, batch, batch, jax.random.key(1), jnp.float32(0))
    assert jax.tree.structure(after) == jax.tree.structure(state) and metrics["valid_loss"].shape == ()


def test_first_order_takes_each_gradient_where_it_belongs():
    state = start()[0]
    step = alternate(
        loss,
        lambda state, gradient, progress: state._replace(weights=state.weights - RATE * gradient),
        lambda state, gradient: state._replace(logits=state.logits - gradient),
    )
    batch = jnp.zeros(2)
    after, metrics = step(state, batch, batch, jax.random.key(0), jnp.float32(0))
    logits = state.logits - C  # the weights' part of the validation loss says nothing of the logits
    np.testing.assert_allclose(after.logits, logits, rtol=1e-6)
    np.testing.assert_allclose(after.weights, state.weights - RATE * (state.weights - A @ logits), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], 0.5 * jnp.square(state.weights - A @ logits).sum(), rtol=1e-6)


def test_logits_move_as_far_in_a_short_search_as_in_the_papers():
    assert logit_rate_for(PAPER_STEPS) == logit_rate_for(2 * PAPER_STEPS) == LOGIT_RATE
    assert logit_rate_for(PAPER_STEPS // 10) == pytest.approx(10 * LOGIT_RATE)
    assert logit_rate_for(1) == FASTEST_LOGIT_RATE


def test_an_order_that_there_is_not():
    with pytest.raises(BadInput, match="order is 3; it must be 1 or 2"):
        darts(nasbench201(), macro=Macro(4, 1, (8, 8, 1), 10), recipe=RECIPE, steps=10, order=3)
