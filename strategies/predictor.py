"""Search guided by a predictor of scores: BANANAS.

White, Neiswanger and Savani, "BANANAS: Bayesian Optimization with Neural Architectures for Neural Architecture
Search", AAAI 2021.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nas.errors import BadInput, suggest
from nas.objective import fitness
from nas.predict import encoding, gaussian_process, mlp_ensemble, normal_scores, ridge
from nas.space import SearchSpace
from nas.strategy import Asked, Strategy, check_told, first_rows, starting
from strategies.history import History, no_history, remember_row, remember_told

# random rows that a feature's values are ranked among
REFERENCE = 256
# of a rank from 0 to 1: the whole range of a feature counts, in squared distance, as a quarter of a whole row
FEATURE_SCALE = 0.5
# the process's grid was fixed on NAS-Bench-201 CIFAR-10; on normal scores a noise of a tenth was always the likeliest
REGRESSORS = {
    "gaussian_process": lambda: gaussian_process(lengths=(0.5, 1.0, 2.0), noises=(0.1,)),
    "mlp_ensemble": mlp_ensemble,
    "ridge": ridge,
}
ACQUISITIONS = ("thompson", "ucb")


class State(NamedTuple):
    """Everything that was asked, and what features are ranked among."""

    key: jax.Array
    history: History
    reference: jax.Array  # float32[R, F], features of random rows


class Surrogate(NamedTuple):
    """What is known of rows that were not trained.

    Attributes:
        fit: ``State -> (params, targets float32[H])``; targets are normal scores, 0 where not known.
        predict: ``(State, params, rows int32[N, L]) -> (mean float32[N], std float32[N])``, of the target.
    """

    fit: Callable
    predict: Callable


def surrogate(space: SearchSpace, regressor: str, features: Callable | None) -> Surrogate:
    """A regressor from rows to how they rank among those told.

    The target is the normal score of `nas.objective.fitness`, so several objectives and limits need nothing further
    and a few very bad networks do not lead it. A failed candidate is not fitted to.
    """
    encode, model = encoding(space), REGRESSORS[regressor]()

    def inputs(state, rows):
        x = encode(rows)
        if features is None:
            return x
        values = jnp.asarray(features(rows), jnp.float32)
        rank = (state.reference[None] < values[:, None]).mean(1) + (state.reference[None] <= values[:, None]).mean(1)
        return jnp.concatenate([x, 0.5 * rank * FEATURE_SCALE], -1)

    def fit(state):
        past = state.history
        target = normal_scores(fitness(past.scores, past.violation, valid=past.known), past.known)
        # an id is below the capacity, so this is nobody else's key
        key = jax.random.fold_in(state.key, len(past.rows))
        return model.fit(key, inputs(state, past.rows), target, past.known), target

    def predict(state, params, rows):
        return model.predict(params, inputs(state, rows))

    return Surrogate(fit, predict)


def predictor(
    space: SearchSpace,
    *,
    initial: int = 10,
    capacity: int = 256,
    regressor: str = "gaussian_process",
    acquisition: str = "thompson",
    beta: float = 1.0,
    parents: int = 5,
    children: int = 10,
    samples: int = 50,
    features: Callable | None = None,
    first: Any = None,
    objectives: int = 1,
    constraints: int = 0,
) -> Strategy:
    """A regressor fitted to all results proposes the next candidate, from mutants of the best and random rows.

    The first `initial` candidates are random. For each later one, independent Thompson sampling (the paper's best)
    draws a value for each of the proposals from its own predicted distribution, and the largest is asked for. What was
    asked before, told or not, is not proposed again while anything else is.

    Args:
        space: what to search.
        initial: random candidates at the start; the paper has 10.
        capacity: candidates that are asked for at most; arrays have this size, and the time of an `ask` grows with its
            cube.
        regressor: ``gaussian_process``, ``mlp_ensemble`` or ``ridge`` of `nas.predict`. The paper's is
            ``mlp_ensemble``; the Gaussian process is faster at a few hundred results.
        acquisition: ``thompson``, or ``ucb``: mean and `beta` deviations.
        beta: factor on the deviation, in both.
        parents: the best so many are mutated, in one decision.
        children: of each of them.
        samples: random rows beside the mutants.
        features: ``rows int32[N, L] -> float32[N, F]``, jittable: what is known of a network without training, such as
            zero-cost scores (White et al., "How Powerful are Performance Predictors in NAS?", NeurIPS 2021). Each
            counts by its rank among random rows, so scales do not matter.
        first: rows int[K, L] that are asked before any other, as what zero-cost proxies rank best.
        objectives: M, scores per candidate.
        constraints: C, violations per candidate.

    Raises:
        BadInput: a number out of its range, an unknown regressor or acquisition, a first row that is none of the space.
    """
    sizes = dict(initial=initial, capacity=capacity, parents=parents, children=children, samples=samples)
    for name, size in sizes.items():
        if size < 1:
            raise BadInput(f"predictor: {name} is {size}; it must be at least 1")
    for name, value, known in (("regressor", regressor, REGRESSORS), ("acquisition", acquisition, ACQUISITIONS)):
        if value not in known:
            raise BadInput(f"predictor: {name} is '{value}'; {suggest(str(value), known)}")
    if not beta >= 0:
        raise BadInput(f"predictor: beta is {beta}; it must be at least 0")
    first = first_rows(space, first)
    model = surrogate(space, regressor, features)
    parents = min(parents, capacity)
    proposals = parents * children + samples

    def init(key):
        reference = jnp.zeros((REFERENCE, 0))
        if features is not None:
            rows = space.sample(jax.random.fold_in(key, capacity + 1), REFERENCE)
            reference = jnp.asarray(features(rows), jnp.float32)
        return State(key, no_history(space, capacity, objectives, constraints), reference)

    def candidate(state, fitted, id):
        params, target = fitted
        past, length = state.history, space.length
        sizes = (length, parents * children * (length + 1), samples * length, proposals)
        uniform = jax.random.uniform(jax.random.fold_in(state.key, id), (sum(sizes),))
        draw, change, anew, luck = jnp.split(uniform, [sum(sizes[: i + 1]) for i in range(3)])
        best = jax.lax.top_k(jnp.where(past.known, target, -jnp.inf), parents)[1]
        best = jnp.where(past.known[best], best, best[0])
        mutants = jax.vmap(space.mutate_from)(change.reshape(-1, length + 1), jnp.tile(past.rows[best], (children, 1)))
        rows = jnp.concatenate([mutants, jax.vmap(space.sample_from)(anew.reshape(samples, length))])
        mean, std = model.predict(state, params, rows)
        draws = jax.scipy.special.ndtri(jnp.clip(luck, 1e-6, 1 - 1e-6)) if acquisition == "thompson" else 1.0
        before = jnp.arange(capacity) < past.asked
        again = ((rows[:, None] == past.rows[None]).all(-1) & before).any(1)
        value = jnp.where(again, -jnp.inf, mean + beta * std * draws)
        random = (id < initial) | ~past.known.any()
        row = jnp.where(random, space.sample_from(draw), rows[jnp.argmax(value)])
        return starting(first, id, row, random)

    def ask(state, n, fitted=None):
        """A strategy that builds on this one and has fitted the same `surrogate` hands that in."""
        fitted = model.fit(state) if fitted is None else fitted

        def one(state, _):
            id = state.history.asked
            row, random = candidate(state, fitted, id)
            slot = Asked(jnp.where(id < capacity, id, -1), row, jnp.int32(0), random)
            return state._replace(history=remember_row(state.history, row, id < capacity)), slot

        state, asked = jax.lax.scan(one, state, None, length=n)
        return asked, state

    def tell(state, ids, scores, violation):
        told = check_told("predictor", ids, scores, violation, objectives, constraints)
        return state._replace(history=remember_told(state.history, *told))

    def done(state):
        return state.history.asked >= capacity

    arguments = {
        "initial": initial,
        "capacity": capacity,
        "regressor": regressor,
        "acquisition": acquisition,
        "beta": beta,
        "parents": parents,
        "children": children,
        "samples": samples,
        "features": features is not None,
    } | ({"first": first.tolist()} if len(first) else {})
    return Strategy(init, ask, tell, done, "predictor", arguments)
