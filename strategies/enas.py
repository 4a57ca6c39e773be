"""ENAS: a controller draws the architectures whose shared weights are trained, and learns from their accuracy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nas.data import gather
from nas.errors import BadInput
from nas.one_shot import Batch, OneShot, batch_size
from nas.recipe import Recipe, optimizer_of
from nas.space import Macro, SearchSpace
from nas.train import CLASSIFICATION, Task
from strategies.controller import controller
from strategies.policy_gradient import check_rates
from strategies.reinforce import reinforce_loss
from strategies.single_path import path_step


class State(NamedTuple):
    """Arrays of an ENAS training."""

    weights: Any
    stats: Any
    moments: Any
    policy: Any  # weights of the controller
    policy_moments: Any
    baseline: jax.Array  # float32, moving average of rewards, biased towards its start at 0
    learned: jax.Array  # int32, rewards so far


def enas(
    space: SearchSpace,
    *,
    macro: Macro,
    recipe: Recipe,
    steps: int,
    task: Task = CLASSIFICATION,
    policy_rate: float = 3.5e-3,
    entropy: float = 1e-4,
    baseline_decay: float = 0.95,
    hidden: int = 100,
    samples: int = 10,
) -> OneShot:
    """Each step trains the weights of one drawn architecture, and the controller by the accuracy of another.

    Pham et al., "Efficient Neural Architecture Search via Parameter Sharing", ICML 2018. The paper alternates an epoch
    of the weights with some thousand steps of the controller; here both take a step in turn. Accuracy is that of a
    batch of validation images with the batch's own statistics.

    Args:
        space: any that has a shared program.
        macro: frame of the supernet.
        recipe: of the weights.
        steps: of the whole training.
        task: loss and the metric ``accuracy``.
        policy_rate: Adam's learning rate for the controller; .0035 in the paper's code.
        entropy: weight of the entropy bonus; .0001 in the paper.
        baseline_decay: of the moving average of rewards.
        hidden: units of the controller's LSTM; 100 in the paper.
        samples: architectures drawn at the end, ordered by accuracy on one validation batch; 10 in the paper's code.

    Raises:
        BadInput: a negative rate, a decay outside of [0, 1), or fewer samples than 1.
    """
    check_rates("enas", policy_rate=policy_rate, entropy=entropy)
    if not 0 <= baseline_decay < 1 or samples < 1:
        raise BadInput("enas: baseline_decay must be from 0 to below 1, and samples at least 1")
    network, optimizer = space.supernet(macro), optimizer_of(recipe)
    train_path = path_step(network, optimizer, recipe, steps, task)
    control, adam = controller(space, hidden), optax.adam(policy_rate)

    def init(key):
        weight_key, policy_key = jax.random.split(key)
        weights, stats = network.init(weight_key)
        policy = control.init(policy_key)
        zeros = jnp.float32(0), jnp.int32(0)
        return State(weights, stats, optimizer.init(weights), policy, adam.init(policy), *zeros)

    def draw(policy, key, n):
        return control.draw(policy, jax.random.split(key, n)).row

    def accuracy(state, row, batch):
        out = network.apply(state.weights, state.stats, batch.x, row, train=True)[0]
        return task.metrics(out, batch.labels)["accuracy"].mean()

    def train_policy(state, batch, key):
        row = draw(state.policy, key, 1)
        reward = accuracy(state, row[0], batch)
        learned = state.learned + 1
        baseline = baseline_decay * state.baseline + (1 - baseline_decay) * reward
        advantage = reward - baseline / (1 - baseline_decay ** learned.astype(jnp.float32))

        def loss(policy):
            read = control.read(policy, row)
            return reinforce_loss(read.log_prob, advantage[None], read.entropy, entropy)

        changes, moments = adam.update(jax.grad(loss)(state.policy), state.policy_moments)
        policy = optax.apply_updates(state.policy, changes)
        new = state._replace(policy=policy, policy_moments=moments, baseline=baseline, learned=learned)
        return new, reward

    def step(state, train: Batch, valid: Batch, key, progress):
        weight_key, policy_key = jax.random.split(key)
        state, value = train_path(state, draw(state.policy, weight_key, 1)[0], train, progress)
        state, reward = train_policy(state, valid, policy_key)
        return state, {"loss": value, "reward": reward}

    @jax.jit
    def ordered(state, batch, key):
        rows = draw(state.policy, key, samples)
        return rows[jnp.argsort(-jax.lax.map(lambda row: accuracy(state, row, batch), rows))]

    def derive(state, validation, key):
        count = batch_size(recipe, len(validation.labels))
        return ordered(state, Batch(*gather(validation, jnp.arange(count))), key)

    arguments = {
        **{"policy_rate": policy_rate, "entropy": entropy, "baseline_decay": baseline_decay},
        **{"hidden": hidden, "samples": samples},
    }
    shared = lambda state: (state.weights, state.stats)  # noqa: E731
    return OneShot(init, step, None, derive, None, shared, network, "enas", arguments)
