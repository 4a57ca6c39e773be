"""What the differentiable methods share: shared weights and logits, each trained on its own half of the data.

Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019. A method is a function from logits to gates.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nas.errors import BadInput
from nas.mixed import mixed_supernet
from nas.one_shot import Batch, OneShot
from nas.recipe import Recipe, learning_rate_at, optimizer_of
from nas.space import Macro, SearchSpace
from nas.supernet import Supernet
from nas.train import CLASSIFICATION, Task, descend

Gate = Callable[[jax.Array, jax.Array, jax.Array], Any]

# Liu et al. 2019, appendix A.1.2
LOGIT_SCALE = 1e-3
LOGIT_RATE, LOGIT_DECAY, LOGIT_BETAS = 3e-4, 1e-3, (0.5, 0.999)
PAPER_STEPS = 50 * 390  # 50 epochs of half of CIFAR-10 in batches of 64
FASTEST_LOGIT_RATE = 0.03


class State(NamedTuple):
    """Arrays of a differentiable search."""

    weights: Any
    stats: Any
    moments: Any  # of the weights' optimiser
    logits: jax.Array  # float32[E, K]
    logit_moments: Any


def logit_optimizer() -> optax.GradientTransformation:
    """DARTS's Adam; its weight decay is part of the gradient, as PyTorch's was when the paper was written."""
    return optax.chain(
        optax.add_decayed_weights(LOGIT_DECAY), optax.scale_by_adam(b1=LOGIT_BETAS[0], b2=LOGIT_BETAS[1])
    )


def logit_rate_for(steps: int, rate: float = LOGIT_RATE, of_steps: int = PAPER_STEPS) -> float:
    """The paper's rate in a training as long as the paper's, and more in a shorter one, up to .03.

    Adam moves a logit by about its rate in a step, so with the paper's rate a short search would end where it began.
    """
    return min(FASTEST_LOGIT_RATE, rate * max(1.0, of_steps / steps))


def soft(relaxation, logits: jax.Array) -> jax.Array:
    """float32[E, K]: a softmax over the operations that an edge has."""
    return jax.nn.softmax(jnp.where(relaxation.allowed, logits, -jnp.inf), -1)


def gumbel_softmax(key: jax.Array, logits: jax.Array, allowed: Any, temperature: Any) -> jax.Array:
    """float32[E, K]: a relaxed sample for each edge; its largest gate is a sample of `soft`, at any temperature.

    Jang et al., "Categorical Reparameterization with Gumbel-Softmax", and Maddison et al., "The Concrete Distribution",
    ICLR 2017.
    """
    return jax.nn.softmax(gumbel_scores(key, logits, allowed) / temperature, -1)


def gumbel_scores(key: jax.Array, logits: jax.Array, allowed: Any) -> jax.Array:
    """float32[E, K]: their order on each edge is a draw without putting back from `soft`."""
    return jnp.where(allowed, logits + jax.random.gumbel(key, logits.shape), -jnp.inf)


def cooling(name: str, allowed: Any, hottest: float, coldest: float) -> Gate:
    """The gate of `gumbel_softmax`, its temperature falling by equal factors.

    Raises:
        BadInput: a temperature out of range.
    """
    if not 0 < coldest <= hottest:
        raise BadInput(f"{name}: coldest must be above 0 and at most hottest")

    def gate(key, logits, progress):
        return gumbel_softmax(key, logits, allowed, hottest * (coldest / hottest) ** progress)

    return gate


def by_gates(
    space: SearchSpace,
    gate: Gate,
    *,
    name: str,
    arguments: Mapping[str, Any],
    macro: Macro,
    recipe: Recipe,
    steps: int,
    task: Task = CLASSIFICATION,
    network: Supernet | None = None,
    edge_logits: int = 0,
    logit_rate: float | None = None,
    objective: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array] | None = None,
    step_of: Callable[..., Any] | None = None,
    after_epoch: Callable[..., Any] | None = None,
    train_gate: Gate | None = None,
    shares: Callable[[jax.Array], jax.Array] | None = None,
) -> OneShot:
    """A method that differs from DARTS in how logits become gates.

    Args:
        space: with a relaxation between operations.
        gate: ``(key, logits float32[E, K], progress) -> choice`` of the mixed supernet: gates or `nas.mixed.Hard`.
        name: of the method.
        arguments: it was made with.
        macro: frame of the supernet.
        recipe: of the weights.
        steps: of the whole training.
        task: loss.
        network: another than `nas.mixed.mixed_supernet` makes by default.
        edge_logits: further logits of each edge, after those of its operations; `gate` and `shares` then get
            float32[E, K + edge_logits].
        logit_rate: Adam's learning rate for the logits; None is `logit_rate_for`.
        objective: ``(validation loss, key, logits, progress) -> float32[]``, what the logits minimise; None is the
            loss itself.
        step_of: another step than `alternate`, made of the same three functions.
        after_epoch: guards.
        train_gate: another `gate` for the step of the weights; of the same form, unless `step_of` says in Python
            whose step it is.
        shares: ``(logits) -> float32[E, K]``, what pictures show and the architecture is read from; None is `soft`.
    """
    network, relaxation = network or mixed_supernet(space, macro), space.relaxation
    optimizer, logit_moments_of = optimizer_of(recipe), logit_optimizer()
    allowed = jnp.pad(relaxation.allowed, ((0, 0), (0, edge_logits)), constant_values=True)
    rate_of_logits = logit_rate_for(steps) if logit_rate is None else logit_rate

    shares_of = shares or functools.partial(soft, relaxation)

    def choice_for(of_weights, *given):
        if train_gate is None:
            return gate(*given)
        if isinstance(of_weights, bool):
            return train_gate(*given) if of_weights else gate(*given)
        return jax.tree.map(lambda a, b: jnp.where(of_weights, a, b), train_gate(*given), gate(*given))

    def loss(weights, logits, stats, batch, key, progress, of_weights):
        choice = choice_for(of_weights, key, logits, progress)
        out, stats, _ = network.apply(weights, stats, batch.x, choice, train=True)
        value = task.loss(out, batch.labels, recipe).mean()
        if objective is not None:
            value = jnp.where(of_weights, value, objective(value, key, logits, progress))
        return value, stats

    def init(key):
        weight_key, logit_key = jax.random.split(key)
        weights, stats = network.init(weight_key)
        logits = LOGIT_SCALE * jax.random.normal(logit_key, allowed.shape) * allowed
        return State(weights, stats, optimizer.init(weights), logits, logit_moments_of.init(logits))

    def update_weights(state, gradient, progress):
        rate = learning_rate_at(recipe, progress * steps, jnp.float32(steps))
        weights, moments = descend(optimizer, state.weights, state.moments, gradient, rate)
        return state._replace(weights=weights, moments=moments)

    def update_logits(state, gradient):
        direction, moments = logit_moments_of.update(gradient, state.logit_moments, state.logits)
        return state._replace(logits=(state.logits - rate_of_logits * direction) * allowed, logit_moments=moments)

    inner = (step_of or alternate)(loss, update_weights, update_logits)

    def step(state, train_batch, valid_batch, key, progress):
        state, metrics = inner(state, train_batch, valid_batch, key, progress)
        gates = shares_of(state.logits)
        gates = gates / gates.sum(-1, keepdims=True)
        entropy = -(gates * jnp.log(jnp.where(gates > 0, gates, 1))).sum(-1).mean()
        return state, metrics | {"entropy": entropy}

    def derive(state, validation, key):
        return relaxation.discretise(shares_of(state.logits))[None]

    return OneShot(
        init,
        step,
        after_epoch,
        derive,
        lambda state: shares_of(state.logits),
        lambda state: (state.weights, state.stats),
        network,
        name,
        arguments,
    )


def alternate(loss, update_weights, update_logits):
    """First order: a step of the logits on validation images, then one of the weights on training images.

    Both are one loop of two, so that the network is compiled once; each half leaves the other's gradient unused, and
    both move the batch-norm statistics.

    Args:
        loss: ``(weights, logits, stats, batch, key, progress, of_weights) -> (float32[], stats)``.
        update_weights: ``(State, gradient, progress) -> State``.
        update_logits: ``(State, gradient) -> State``.
    """

    def step(state, train: Batch, valid: Batch, key, progress):
        def half(state, own):
            of_weights, batch, key = own
            gradient_of = jax.value_and_grad(loss, (0, 1), has_aux=True)
            found = gradient_of(state.weights, state.logits, state.stats, batch, key, progress, of_weights)
            (value, stats), (by_weights, by_logits) = found
            state = state._replace(stats=stats)
            new = jax.lax.cond(
                of_weights,
                lambda: update_weights(state, by_weights, progress),
                lambda: update_logits(state, by_logits),
            )
            return new, value

        both = jax.tree.map(lambda a, b: jnp.stack([a, b]), valid, train)
        halves = (jnp.asarray([False, True]), both, jax.random.split(key))
        state, (valid_loss, train_loss) = jax.lax.scan(half, state, halves)
        return state, {"loss": train_loss, "valid_loss": valid_loss}

    return step


def together(loss, update_weights, update_logits):
    """One level: weights and logits take a step at once, on the same training images (Xie et al., "SNAS", ICLR 2019).

    The arguments are those of `alternate`; validation images are not looked at.
    """

    def step(state, train: Batch, valid: Batch, key, progress):
        gradient_of = jax.value_and_grad(loss, (0, 1), has_aux=True)
        found = gradient_of(state.weights, state.logits, state.stats, train, key, progress, False)
        (value, stats), (by_weights, by_logits) = found
        state = update_weights(state._replace(stats=stats), by_weights, progress)
        return update_logits(state, by_logits), {"loss": value}

    return step


def apart(loss, update_weights, update_logits):
    """As `alternate`, with a program for each half: for methods whose halves choose in different forms."""

    def step(state, train: Batch, valid: Batch, key, progress):
        logit_key, weight_key = jax.random.split(key)
        (valid_loss, stats), gradient = jax.value_and_grad(loss, 1, has_aux=True)(
            state.weights, state.logits, state.stats, valid, logit_key, progress, False
        )
        state = update_logits(state._replace(stats=stats), gradient)
        state, train_loss = step_of_weights(loss, update_weights, state, train, weight_key, progress)
        return state, {"loss": train_loss, "valid_loss": valid_loss}

    return step


def step_of_weights(loss, update_weights, state, train: Batch, key, progress):
    """(state, loss): the weights' half alone, batch-norm statistics with it; the functions are those of `alternate`."""
    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(
        state.weights, state.logits, state.stats, train, key, progress, True
    )
    return update_weights(state._replace(stats=stats), gradient, progress), value
