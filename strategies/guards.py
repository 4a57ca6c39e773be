"""Guards against the collapse of differentiable search, where skip connections win because they are easy to train.

Each is a rule on what the logits say at the end of an epoch, or noise while the weights are trained.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas.data import gather
from nas.errors import BadInput
from nas.one_shot import OneShot, batch_size
from nas.recipe import Recipe
from nas.relaxation import Relaxation
from nas.train import CLASSIFICATION, Task
from strategies.gradient import soft

SKIP = "skip_connect"
CELL_SKIPS = 2  # Liang et al. 2019; Chen et al., "Progressive DARTS", ICCV 2019, keep as many
WINDOW = 5  # epochs, Zela et al. 2020
ITERATIONS, REACH = 10, 1e-2  # of the power iteration; of its differences, where a logit moves the gates by 1e-3


class Watched(NamedTuple):
    """A method's state, and what the guards remember of each epoch."""

    own: Any
    logits: jax.Array  # float32[epochs, E, K], at the end of each
    eigenvalues: jax.Array  # float32[epochs]


def skips_of(relaxation: Relaxation, gates: Any) -> int:
    """Skip connections in the architecture that gates say; of the normal cell alone where there are two cells."""
    taken = np.asarray(relaxation.gates(relaxation.discretise(jnp.asarray(gates))))
    return int((taken * _skip_places(relaxation)).sum())


def most_skips(relaxation: Relaxation, max_skips: int | None) -> int:
    """The limit: what was asked for, or else 2 in a normal cell, or half of the edges where there is but one cell.

    Raises:
        BadInput: no whole number of at least 0.
    """
    if max_skips is None:
        return CELL_SKIPS if _has_cells(relaxation) else -(-len(relaxation.edges) // 2)
    if isinstance(max_skips, bool) or not isinstance(max_skips, int) or max_skips < 0:
        raise BadInput(f"max_skips is {max_skips!r}; it must be a whole number of at least 0")
    return max_skips


def limit_skips(relaxation: Relaxation, gates: Any, most: int) -> np.ndarray:
    """float32[E, K]: gates without the weakest skip connections over the limit (Progressive DARTS, section 3.3)."""
    gates, places = np.array(gates, np.float32), _skip_places(relaxation)
    while skips_of(relaxation, gates) > most:
        taken = np.asarray(relaxation.gates(relaxation.discretise(jnp.asarray(gates)))) * places > 0
        gates[np.unravel_index(np.where(taken, gates, np.inf).argmin(), gates.shape)] = 0.0
    return gates


def dominant_eigenvalue(loss: Callable[[jax.Array], jax.Array], at: jax.Array, key: jax.Array) -> jax.Array:
    """float32: the eigenvalue of largest size of the Hessian of `loss` at `at`, by power iteration. Jittable.

    The Hessian times a vector is a central difference of gradients, so that what is compiled is a first-order program,
    in a loop: for a network that is many times less than one of second order.
    """

    def product(vector):
        # one program for both sides
        sides = jax.lax.map(lambda reach: jax.grad(loss)(at + reach * vector), jnp.asarray([REACH, -REACH]))
        return (sides[0] - sides[1]) / (2 * REACH)

    def turn(carry, _):
        found = product(carry[0])
        size = jnp.linalg.norm(found)
        return (jnp.where(size > 0, found / jnp.maximum(size, 1e-30), carry[0]), (carry[0] * found).sum()), None

    start = jax.random.normal(key, at.shape)
    (_, value), _ = jax.lax.scan(turn, (start / jnp.linalg.norm(start), jnp.float32(0)), length=ITERATIONS)
    return value


def sharpens(eigenvalues: np.ndarray, ratio: float) -> bool:
    """Whether the eigenvalue, smoothed over 5 epochs, has grown so much in 5 that old over new is below `ratio`."""
    if len(eigenvalues) < 2 * WINDOW:
        return False
    old, new = (np.mean(part) for part in (eigenvalues[-2 * WINDOW : -WINDOW], eigenvalues[-WINDOW:]))
    return bool(new > 0 and old / new < ratio)


def perturbed(gate: Callable, allowed: np.ndarray, most: float) -> Callable:
    """The gates that weights are trained with: noise on each, at first up to a tenth of `most`, in the end up to it.

    Chen and Hsieh, "Stabilizing Differentiable Architecture Search via Perturbation-based Regularization", ICML 2020
    (SDARTS-RS): weights that bear it lie in a flat place, and flat places do not favour skip connections.
    """

    def noisy(key, logits, progress):
        gates = gate(key, logits, progress)
        reach = most * (0.1 + 0.9 * progress)
        noise = jax.random.uniform(jax.random.fold_in(key, 1), gates.shape, minval=-reach, maxval=reach)
        return jnp.where(allowed, gates + noise, 0.0)

    return noisy


def guarded(
    method: OneShot,
    relaxation: Relaxation,
    recipe: Recipe,
    *,
    max_skips: int | None = None,
    eigenvalue: float = 0.0,
    task: Task = CLASSIFICATION,
) -> OneShot:
    """A differentiable method that stops where it collapses, and goes back to the logits of before.

    - ``skips``: more than `max_skips` skip connections, where an earlier epoch had fewer (Liang et al., "DARTS+",
      2019). Where none had, the weakest too many are left out of the architecture that is derived in the end.
    - ``eigenvalue``: the Hessian of the validation loss by the logits grows (`sharpens`; Zela et al., "Understanding
      and Robustifying Differentiable Architecture Search", ICLR 2020). It goes back five epochs.

    Weights stay as they are: the logits alone decide what is found.

    Args:
        method: whose state has ``logits``.
        relaxation: of the space.
        recipe: `epochs` and `batch` are read.
        max_skips: see `most_skips`; as many as there are edges switches the guard off.
        eigenvalue: the ratio; .75 in the paper, 0 switches the guard off. A training of fewer than 10 epochs is too
            short for it.
        task: loss of the eigenvalue's validation batch, the same in every epoch.
    """
    most = most_skips(relaxation, max_skips)
    if not 0 <= eigenvalue < 1:
        raise BadInput(f"{method.name}: eigenvalue is {eigenvalue!r}; it must be from 0 to below 1")

    @jax.jit
    def measure(state, images, labels):
        def loss(logits):
            gates = soft(relaxation, logits)
            out = method.network.apply(state.weights, state.stats, images, gates, train=True)[0]
            return task.loss(out, labels, recipe).mean()

        return dominant_eigenvalue(loss, state.logits, jax.random.key(0))

    def init(key):
        own = method.init(key)
        return Watched(own, jnp.zeros((recipe.epochs, *own.logits.shape)), jnp.zeros(recipe.epochs))

    gates_of: Any = method.gates  # every method with logits has them

    def step(state, train, valid, key, progress):
        own, metrics = method.step(state.own, train, valid, key, progress)
        return state._replace(own=own), metrics

    def back(state, epoch):
        return state._replace(own=state.own._replace(logits=state.logits[epoch - 1]))

    def after_epoch(state, epoch, validation):
        own, stop = state.own, False
        events: list[dict[str, Any]] = []
        if method.after_epoch is not None:
            own, events, stop = method.after_epoch(own, epoch, validation)
        state = state._replace(own=own, logits=state.logits.at[epoch - 1].set(own.logits))
        if eigenvalue and recipe.epochs >= 2 * WINDOW:
            count = len(validation.labels)
            batch = gather(validation, jnp.arange(batch_size(recipe, count)))
            state = state._replace(eigenvalues=state.eigenvalues.at[epoch - 1].set(measure(own, *batch)))
            if sharpens(np.asarray(state.eigenvalues)[:epoch], eigenvalue):
                why = (
                    f"the largest eigenvalue of the Hessian grew to {float(state.eigenvalues[epoch - 1]):.3g}, a sign "
                    f"that skip connections take over; the search ends with the logits of epoch {epoch - WINDOW}"
                )
                return back(state, epoch - WINDOW), [*events, _event("eigenvalue", why)], True
        skips = skips_of(relaxation, gates_of(own))
        if skips > most:
            text = f"the architecture has {skips} skip connections after epoch {epoch}, more than {most}"
            fewer = [e for e in range(1, epoch) if skips_of(relaxation, gates_of(back(state, e).own)) <= most]
            if fewer:
                why = f"{text}; the search ends with the logits of epoch {fewer[-1]}"
                return back(state, fewer[-1]), [*events, _event("skips", why)], True
            if epoch == recipe.epochs or stop:
                why = f"{text}, as after every epoch; the weakest are left out"
                return state, [*events, _event("skips", why)], stop
        return state, events, stop

    def derive(state, validation, key):
        return relaxation.discretise(jnp.asarray(limit_skips(relaxation, gates_of(state.own), most)))[None]

    return method._replace(
        init=init,
        step=step,
        after_epoch=after_epoch,
        derive=derive,
        gates=lambda state: gates_of(state.own),
        shared=lambda state: method.shared(state.own),
        arguments={**method.arguments, "max_skips": max_skips, "eigenvalue": eigenvalue},
    )


def _event(guard: str, why: str) -> dict[str, str]:
    return {"event": "guard", "guard": guard, "why": why}


def _has_cells(relaxation: Relaxation) -> bool:
    return any(edge.startswith("normal_") for edge in relaxation.edges)


def _skip_places(relaxation: Relaxation) -> np.ndarray:
    """bool[E, K]: the skip connections that count."""
    most = relaxation.allowed.shape[1]
    counted = [edge.startswith("normal_") or not _has_cells(relaxation) for edge in relaxation.edges]
    return np.asarray(
        [
            [c and k < len(own) and own[k] == SKIP for k in range(most)]
            for c, own in zip(counted, relaxation.options, strict=True)
        ]
    )
