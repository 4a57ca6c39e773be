"""Many short trainings guided by a predictor, then full trainings of the few best, out of one budget of epochs.

The guide is that of `strategies.predictor` (BANANAS, White et al., AAAI 2021). The two stages are those of most
published searches, which train the best few again for longer (NASNet, Zoph et al., CVPR 2018: the best 250).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nas.errors import BadInput
from nas.space import SearchSpace
from nas.strategy import Asked, Strategy, check_told
from strategies.fidelities import check_fidelities, too_small
from strategies.predictor import predictor, surrogate


class State(NamedTuple):
    """The guided search of short trainings, and how many full ones were asked for."""

    short: Any
    full: jax.Array  # int32


def mixed_fidelity(
    space: SearchSpace,
    *,
    fidelities: Sequence[int],
    budget: int | None = None,
    trainings: int | None = None,
    share: float = 0.35,
    initial: int = 10,
    regressor: str = "gaussian_process",
    features: Callable | None = None,
    first: Any = None,
    objectives: int = 1,
    constraints: int = 0,
) -> Strategy:
    """Short trainings at the lowest fidelity, proposed by `predictor`; then the best are trained at the highest.

    The best are those the regressor expects most of, given all short results: it sees through part of the noise of a
    short training. The full ones begin when all short ones are told; until then an ask gives nothing.

    Args:
        space: what to search.
        fidelities: epochs, rising; the first and the last are used.
        budget: in epochs, all trainings together; or
        trainings: how many, all together; they are divided so that full ones take `share` of the epochs.
        share: of the budget, at most, for full trainings; there is at least one.
        initial: see `predictor`.
        regressor: see `predictor`.
        features: see `predictor`.
        first: see `predictor`.
        objectives: M, scores per candidate.
        constraints: C, violations per candidate.

    Raises:
        BadInput: fidelities that do not rise or are fewer than two, both or neither of budget and trainings, a budget
            too small for one short and one full training, a share outside of 0 to 1.
    """
    name = "mixed_fidelity"
    check_fidelities(name, fidelities, budget, trainings)
    if len(fidelities) < 2:
        raise BadInput(f"{name}: it mixes short and full trainings; {list(fidelities)} is one length, give two or more")
    if budget is not None and trainings is not None:
        raise BadInput(f"{name}: budget is {budget} and trainings {trainings}; give one of them")
    if not 0 < share < 1:
        raise BadInput(f"{name}: share is {share}; it must be between 0 and 1")
    cheap, dear = fidelities[0], fidelities[-1]
    if budget is not None:
        full = max(1, int(share * budget / dear))
        short = (budget - full * dear) // cheap
    else:
        assert trainings is not None
        epochs = trainings / (share / dear + (1 - share) / cheap)  # what buys so many, at this share
        full = max(1, int(share * epochs / dear))
        short = trainings - full
    if short < 1:
        raise too_small(name, [cheap, dear], budget, trainings)
    guide = predictor(
        space,
        initial=initial,
        capacity=short,
        regressor=regressor,
        features=features,
        first=first,
        objectives=objectives,
        constraints=constraints,
    )
    model = surrogate(space, regressor, features)
    full = min(full, short)

    def init(key):
        return State(guide.init(key), jnp.int32(0))

    def ask(state, n):
        past = state.short.history
        # one fit for both: two that do not depend on each other have blocked XLA's threads on a CPU of two cores
        fitted = model.fit(state.short)
        expected, _ = model.predict(state.short, fitted[0], past.rows)
        best = jax.lax.top_k(jnp.where(past.known, expected, -jnp.inf), full)[1]
        # gives nothing when all short ones are asked
        asked, guided = guide.ask(state.short, n, fitted)  # type: ignore[call-arg]
        nth = state.full + jnp.arange(n, dtype=jnp.int32)
        asks = past.told.all() & (nth < jnp.minimum(full, past.known.sum()))
        return Asked(
            id=jnp.where(asks, short + nth, asked.id),
            row=jnp.where(asks[:, None], past.rows[best[jnp.minimum(nth, full - 1)]], asked.row),
            epochs=jnp.where(asks, dear, cheap),
            random=asked.random & ~asks,
        ), State(guided, state.full + asks.sum(dtype=jnp.int32))

    def tell(state, ids, scores, violation):
        ids, scores, violation = check_told(name, ids, scores, violation, objectives, constraints)
        # what a full training gave decides nothing further; the search's result is taken from those
        return state._replace(short=guide.tell(state.short, jnp.where(ids < short, ids, -1), scores, violation))

    def done(state):
        past = state.short.history
        return past.told.all() & (state.full >= jnp.minimum(full, past.known.sum()))

    arguments = {
        "fidelities": list(fidelities),
        "budget": budget,
        "trainings": trainings,
        "share": share,
        "initial": initial,
        "regressor": regressor,
        "features": features is not None,
    } | {name: rows for name, rows in guide.arguments.items() if name == "first"}
    return Strategy(init, ask, tell, done, name, arguments)
