"""What REINFORCE and PPO share: asking a controller, keeping what is under way, and a reward for each result."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nas.errors import BadInput
from nas.objective import dominates
from nas.space import SearchSpace
from nas.strategy import Asked, Strategy, check_told, first_rows, never_done, starting
from strategies.controller import Controller, Weights


class Batch(NamedTuple):
    """Results that the weights are updated with: int32[B, L], float32[B] as the row was drawn, float32[B]."""

    row: jax.Array
    log_prob: jax.Array
    advantage: jax.Array


class Results(NamedTuple):
    """The last K results that did not fail, a ring; rewards are relative to them."""

    seen: jax.Array  # int32, of all so far
    scores: jax.Array  # float32[K, M]
    violation: jax.Array  # float32[K, C]


class State(NamedTuple):
    """Key and counters, the controller, its optimiser, results not yet learned from, and what waits for its result."""

    key: jax.Array
    asked: jax.Array  # int32
    weights: Weights
    optimizer: Any
    results: Results
    baseline: jax.Array  # float32, moving average of rewards, biased towards its start at 0
    rows: jax.Array  # int32[B, L], of the results since the last update
    log_probs: jax.Array  # float32[B], when they were drawn
    rewards: jax.Array  # float32[B]
    waiting: jax.Array  # int32[Q], ids, -1 where free
    waiting_rows: jax.Array  # int32[Q, L]
    waiting_log_probs: jax.Array  # float32[Q]


def share_beaten(results: Results, scores: jax.Array, violation: jax.Array) -> jax.Array:
    """float32: the share of earlier results that this one dominates; those neither better nor worse count as half.

    It lies from 0 to 1 whatever the metric's unit, and takes any number of scores and limits. A half where there are
    no earlier results.
    """
    held = jnp.arange(len(results.scores)) < results.seen
    better = dominates(
        jnp.concatenate([results.scores, scores[None]]), jnp.concatenate([results.violation, violation[None]])
    )
    lead = jnp.where(held, better[-1, :-1].astype(jnp.float32) - better[:-1, -1], 0.0)
    return 0.5 + 0.5 * lead.sum() / jnp.maximum(held.sum(), 1)


def policy_gradient(
    space: SearchSpace,
    name: str,
    arguments: Mapping[str, Any],
    control: Controller,
    start: Callable[[Weights], Any],
    update: Callable[[Weights, Any, Batch], tuple[Weights, Any]],
    *,
    first: Any,
    objectives: int,
    constraints: int,
) -> Strategy:
    """A strategy that draws rows from `control` and updates it with every `batch` results, in the order they come.

    Nobody waits: what is asked between two updates is drawn from the weights that are there, and what was drawn from
    older weights is learned from all the same. A failed result (a score or violation that is not finite) is dropped.

    Args:
        space: what to search.
        name: of the strategy.
        arguments: what its factory was called with. Of these it reads ``batch`` (B); ``memory`` (K, results that a new
            one is compared with); ``power`` (a result's reward is the share of those that it beats, `share_beaten`, to
            this power); ``baseline_decay``, of the moving average of rewards that is subtracted; and ``in_flight`` (Q,
            at most so many candidates asked and not yet told).
        control: draws rows and says how likely they are.
        start: ``(weights) -> state of the optimiser``.
        update: ``(weights, state of the optimiser, Batch) -> both``.
        first: rows that are asked before all others, or None.
        objectives: M.
        constraints: C.

    Raises:
        BadInput: a size below 1, a decay outside of [0, 1), or a row of `first` that is none of the space.
    """
    for key in ("batch", "memory", "in_flight"):
        if arguments[key] < 1:
            raise BadInput(f"{name}: {key} is {arguments[key]}; it must be at least 1")
    batch, memory, in_flight = arguments["batch"], arguments["memory"], arguments["in_flight"]
    power, decay = arguments["power"], arguments["baseline_decay"]
    if not 0 <= decay < 1:
        raise BadInput(f"{name}: baseline_decay is {decay}; it must be from 0 to below 1")
    first = first_rows(space, first)

    def init(key):
        key, draw = jax.random.split(key)
        weights = control.init(draw)
        return State(
            key=key,
            asked=jnp.int32(0),
            weights=weights,
            optimizer=start(weights),
            results=Results(
                seen=jnp.int32(0),
                scores=jnp.zeros((memory, objectives), jnp.float32),
                violation=jnp.zeros((memory, constraints), jnp.float32),
            ),
            baseline=jnp.float32(0),
            rows=jnp.zeros((batch, space.length), jnp.int32),
            log_probs=jnp.zeros(batch, jnp.float32),
            rewards=jnp.zeros(batch, jnp.float32),
            waiting=jnp.full(in_flight, -1, jnp.int32),
            waiting_rows=jnp.zeros((in_flight, space.length), jnp.int32),
            waiting_log_probs=jnp.zeros(in_flight, jnp.float32),
        )

    def ask(state, n):
        # the k-th new candidate takes the k-th free place; without a place it is not asked
        free = jnp.flatnonzero(state.waiting < 0, size=n, fill_value=in_flight)
        asked = free < in_flight
        ids = jnp.where(asked, state.asked + jnp.arange(n, dtype=jnp.int32), -1)
        drawn = control.draw(state.weights, jax.vmap(jax.random.fold_in, (None, 0))(state.key, ids))
        untrained = jnp.full(n, state.results.seen < batch)  # uniform, as random search
        rows, random = jax.vmap(lambda *each: starting(first, *each))(ids, drawn.row, untrained)
        log_probs = control.read(state.weights, rows).log_prob if len(first) else drawn.log_prob
        state = state._replace(
            asked=state.asked + asked.sum(dtype=jnp.int32),
            waiting=state.waiting.at[free].set(ids, mode="drop"),
            waiting_rows=state.waiting_rows.at[free].set(rows, mode="drop"),
            waiting_log_probs=state.waiting_log_probs.at[free].set(log_probs, mode="drop"),
        )
        return Asked(ids, rows, jnp.zeros(n, jnp.int32), random), state

    # mapped over seeds, a `cond` would compute both branches: an update for every result
    @jax.custom_batching.sequential_vmap
    def learn(due, weights, optimizer, seen):
        return jax.lax.cond(due, update, lambda weights, optimizer, _: (weights, optimizer), weights, optimizer, seen)

    def tell_one(state, told):
        id, scores, violation = told
        place = jnp.argmax(state.waiting == id)
        known = (state.waiting[place] == id) & (id >= 0)
        enters = known & jnp.isfinite(scores).all() & jnp.isfinite(violation).all()
        count = state.results.seen
        reward = share_beaten(state.results, scores, violation) ** power
        # what does not enter goes to a place outside of the array: dropped
        at, held = jnp.where(enters, count % batch, batch), jnp.where(enters, count % memory, memory)
        state = state._replace(
            results=Results(
                seen=count + enters,
                scores=state.results.scores.at[held].set(scores, mode="drop"),
                violation=state.results.violation.at[held].set(violation, mode="drop"),
            ),
            baseline=jnp.where(enters, decay * state.baseline + (1 - decay) * reward, state.baseline),
            rows=state.rows.at[at].set(state.waiting_rows[place], mode="drop"),
            log_probs=state.log_probs.at[at].set(state.waiting_log_probs[place], mode="drop"),
            rewards=state.rewards.at[at].set(reward, mode="drop"),
            waiting=state.waiting.at[jnp.where(known, place, in_flight)].set(-1, mode="drop"),
        )
        baseline = state.baseline / (1 - decay ** jnp.maximum(state.results.seen, 1).astype(jnp.float32))
        seen = Batch(state.rows, state.log_probs, state.rewards - baseline)
        weights, optimizer = learn(at == batch - 1, state.weights, state.optimizer, seen)
        return state._replace(weights=weights, optimizer=optimizer), None

    def tell(state, ids, scores, violation):
        told = check_told(name, ids, scores, violation, objectives, constraints)
        return jax.lax.scan(tell_one, state, told)[0]

    given = {"first": first.tolist()} if len(first) else {}
    return Strategy(init, ask, tell, never_done, name, {**arguments, **given})


def check_rates(name: str, **rates: float) -> None:
    """Refuses a negative or infinite rate.

    Raises:
        BadInput: names it.
    """
    for key, value in rates.items():
        if not 0 <= value < float("inf"):
            raise BadInput(f"{name}: {key} is {value}; it must be at least 0")
