"""Regressors from features to scores: Gaussian process, ridge, and ensembles of small networks.

All are pure functions over arrays of a fixed size with a mask, so that a fit can stand inside ``jit``, ``scan`` and
``vmap`` while the data grow. Targets are standardised inside; means and deviations come back in the unit of `y`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nas.errors import BadInput
from nas.space import SearchSpace


class Regressor(NamedTuple):
    """Two pure functions.

    Attributes:
        fit: ``(key, x float32[N, F], y float32[N], valid bool[N]) -> params``; entries that are not valid are never
            read, whatever they hold. Without a valid entry the prediction is 0 with a deviation of at least 1.
        predict: ``(params, x float32[M, F]) -> (mean float32[M], std float32[M])``; `std` is of the noise-free
            function.
    """

    fit: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], Any]
    predict: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]


# ---- encodings ---------------------------------------------------------------------------------------------------
def one_hot(rows: Any, cardinalities: Sequence[int]) -> jax.Array:
    """int32[N, L] to float32[N, sum K], scaled: the squared distance of two rows is the share of decisions that differ.

    A squared-exponential kernel over it is a product over decisions.
    """
    rows = jnp.asarray(rows)
    parts = [jax.nn.one_hot(rows[:, i], k) for i, k in enumerate(cardinalities)]
    return jnp.concatenate(parts, -1) / jnp.sqrt(2.0 * len(cardinalities))


def encoding(space: SearchSpace) -> Callable[[Any], jax.Array]:
    """``rows int32[N, L] -> float32[N, F]``: one-hot of the `SearchSpace.key` of each row, which is the row by default.

    Rows of equivalent networks are then one point.
    """

    def encode(rows):
        return one_hot(jax.vmap(space.key)(jnp.asarray(rows, jnp.int32)), space.cardinalities)

    return encode


# ---- Gaussian process --------------------------------------------------------------------------------------------
class Process(NamedTuple):
    """A fitted Gaussian process."""

    x: jax.Array  # float32[N, F]
    valid: jax.Array  # bool[N]
    root: jax.Array  # float32[N, N], inverse of the Cholesky factor of kernel and noise
    weights: jax.Array  # float32[N]
    length: jax.Array
    noise: jax.Array
    amplitude: jax.Array  # variance of the standardised function
    mean: jax.Array
    std: jax.Array  # of the targets


def gaussian_process(
    lengths: Sequence[float] = (0.5, 1.0, 2.0), noises: Sequence[float] = (0.03, 0.1, 0.3)
) -> Regressor:
    """Gaussian process with the squared-exponential kernel (Rasmussen and Williams 2006, algorithm 2.1).

    Length scale and noise are the pair of largest marginal likelihood on a small grid; the amplitude has a closed form.
    A grid has no gradient steps that can diverge, and costs one Cholesky factor a pair.

    Args:
        lengths: length scales, in the unit of the features.
        noises: variances of the noise, as shares of the amplitude.
    """
    if not lengths or not noises or min(*lengths, *noises) <= 0:
        raise BadInput(f"gaussian_process: lengths {lengths} and noises {noises} must be above zero")
    grid = [(length, noise) for length in lengths for noise in noises]

    def fit(key, x, y, valid):
        target, mean, std = standardise(y, valid)
        count = jnp.maximum(valid.sum(), 1)
        both = valid[:, None] & valid[None]
        apart = _squared_distances(x, x)

        def at(pair):
            length, noise = pair
            # the identity where nothing is valid: zeros stay zeros, and the determinant is that of the rest
            matrix = jnp.where(both, _kernel(apart, length), 0.0) + jnp.diag(jnp.where(valid, noise, 1.0))
            factor = jnp.linalg.cholesky(matrix)
            half = jax.scipy.linalg.solve_triangular(factor, target, lower=True)
            amplitude = jnp.where(valid.sum() > 1, jnp.maximum(half @ half / count, 1e-6), 1.0)
            determinant = jnp.log(jnp.diagonal(factor)).sum()
            return -0.5 * count * jnp.log(amplitude) - determinant, (factor, amplitude)

        pairs = jnp.asarray(grid, jnp.float32)
        # one after the other: the factors of a whole grid need not be in memory at once
        likelihood, found = jax.lax.map(at, pairs) if len(x) > 512 else jax.vmap(at)(pairs)
        best = jnp.argmax(likelihood)
        factor, amplitude = jax.tree.map(lambda a: a[best], found)
        root = inverse_of_lower(factor)
        weights = root.T @ (root @ target)
        length, noise = pairs[best]
        return Process(x, valid, root, weights, length, noise, amplitude, mean, std)

    def predict(params, x):
        to = jnp.where(params.valid[:, None], _kernel(_squared_distances(params.x, x), params.length), 0.0)
        known = ((params.root @ to) ** 2).sum(0)
        std = jnp.sqrt(params.amplitude * jnp.maximum(1.0 - known, 1e-6))
        return params.mean + params.std * (to.T @ params.weights), params.std * std

    return Regressor(fit, predict)


def _squared_distances(a, b):
    return jnp.maximum((a**2).sum(-1)[:, None] + (b**2).sum(-1)[None] - 2 * a @ b.T, 0.0)


def _kernel(squared_distances, length):
    return jnp.exp(-0.5 * squared_distances / length**2)


def inverse_of_lower(factor: jax.Array) -> jax.Array:
    """float32[N, N]: inverse of a lower triangular matrix, from the inverses of blocks that double in size.

    XLA's own triangular solve with many right-hand sides takes 30 times as long as a product of that size on a CPU.
    """
    n = len(factor)
    size = 1 << (n - 1).bit_length()
    padded = jnp.eye(size, dtype=factor.dtype).at[:n, :n].set(factor)
    blocks = (1.0 / jnp.diagonal(padded))[:, None, None]  # [size, 1, 1], inverses of the diagonal blocks
    width = 1
    while width < size:
        grid = padded.reshape(size // (2 * width), 2 * width, size // (2 * width), 2 * width)
        which = jnp.arange(size // (2 * width))
        below = grid[which, width:, which, :width]
        upper, lower = blocks[0::2], blocks[1::2]
        corner = -lower @ below @ upper
        top = jnp.concatenate([upper, jnp.zeros_like(upper)], -1)
        blocks = jnp.concatenate([top, jnp.concatenate([corner, lower], -1)], -2)
        width *= 2
    return blocks[0, :n, :n]


def standardise(y: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(targets of mean 0 and deviation 1, 0 where not valid; mean; deviation). One value alone has deviation 1."""
    y, count = jnp.where(valid, y, 0.0), jnp.maximum(valid.sum(), 1)
    mean = y.sum() / count
    std = jnp.sqrt((jnp.where(valid, y - mean, 0.0) ** 2).sum() / count)
    std = jnp.where(std > 1e-9 * (1 + jnp.abs(mean)), std, 1.0)
    return jnp.where(valid, (y - mean) / std, 0.0), mean, std


def normal_scores(values: jax.Array, valid: jax.Array) -> jax.Array:
    """float32[N]: the normal quantile of each value's rank among the valid ones, ties at their mean; 0 where not valid.

    Accuracies of architectures have a long lower tail; a regressor fitted to ranks is not led by it.
    """
    below = ((values[None] < values[:, None]) & valid[None]).sum(1)
    equal = ((values[None] == values[:, None]) & valid[None]).sum(1)
    share = (below + 0.5 * equal) / jnp.maximum(valid.sum(), 1)
    return jnp.where(valid, jax.scipy.special.ndtri(jnp.where(valid, share, 0.5)), 0.0)


# ---- ridge -------------------------------------------------------------------------------------------------------
class Linear(NamedTuple):
    """A fitted ridge regression, in the principal axes of its features."""

    centre: jax.Array  # float32[F]
    axes: jax.Array  # float32[F, F]
    scale: jax.Array  # float32[F], eigenvalues of the centred Gram matrix plus the penalty
    weights: jax.Array  # float32[F], along the axes
    known: jax.Array  # valid entries
    noise: jax.Array  # variance of the standardised targets' noise
    mean: jax.Array
    std: jax.Array


def ridge(penalties: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)) -> Regressor:
    """Linear regression with a quadratic penalty, the one of the smallest leave-one-out error (Allen 1974, PRESS).

    The intercept is not penalised. One eigendecomposition of the F x F Gram matrix serves all penalties.
    """
    if not penalties or min(penalties) <= 0:
        raise BadInput(f"ridge: penalties {penalties} must be above zero")

    def fit(key, x, y, valid):
        target, mean, std = standardise(y, valid)
        count = jnp.maximum(valid.sum(), 1)
        centre = jnp.where(valid[:, None], x, 0.0).sum(0) / count
        x = jnp.where(valid[:, None], x - centre, 0.0)
        values, axes = jnp.linalg.eigh(x.T @ x)
        values, along = jnp.maximum(values, 0.0), x @ axes

        def at(penalty):
            scale = values + penalty
            weights = (along.T @ target) / scale
            leverage = (along**2 / scale).sum(1) + 1.0 / count
            left_out = (target - along @ weights) / jnp.maximum(1.0 - leverage, 1e-3)
            error = (jnp.where(valid, left_out, 0.0) ** 2).sum() / count
            return error, (scale, weights)

        errors, found = jax.vmap(at)(jnp.asarray(penalties, jnp.float32))
        best = jnp.argmin(errors)
        scale, weights = jax.tree.map(lambda a: a[best], found)
        noise = jnp.where(valid.any(), jnp.maximum(errors[best], 1e-9), 1.0)
        return Linear(centre, axes, scale, weights, count, noise, mean, std)

    def predict(params, x):
        along = (x - params.centre) @ params.axes
        spread = jnp.sqrt(params.noise * ((along**2 / params.scale).sum(1) + 1.0 / params.known))
        return params.mean + params.std * (along @ params.weights), params.std * spread

    return Regressor(fit, predict)


# ---- networks ----------------------------------------------------------------------------------------------------
def mlp_ensemble(
    members: int = 5,
    hidden: Sequence[int] = (64, 64),
    *,
    steps: int = 200,
    learning_rate: float = 0.01,
    weight_decay: float = 1e-4,
) -> Regressor:
    """Networks of dense layers and ReLU that differ in their initial weights; `std` is that over members.

    BANANAS (White et al., AAAI 2021) uses five, of 10 layers of 20 trained to convergence; two wider layers train in
    a tenth of the steps. Each step of AdamW, at a rate that falls as a cosine, sees all data.

    Args:
        members: networks; one alone has no deviation.
        hidden: width of each hidden layer.
        steps: of training.
        learning_rate: the first.
        weight_decay: of AdamW.
    """
    if members < 1 or steps < 1 or min(hidden, default=1) < 1:
        raise BadInput(f"mlp_ensemble: members {members}, steps {steps} and widths {list(hidden)} must be at least 1")
    optimizer = optax.adamw(optax.cosine_decay_schedule(learning_rate, steps), weight_decay=weight_decay)

    def initial(key, features):
        sizes = (features, *hidden, 1)
        keys = jax.random.split(key, len(sizes))
        return [
            (jax.random.normal(k, (a, b)) * jnp.sqrt(2.0 / a), jnp.zeros(b))
            for k, a, b in zip(keys, sizes, sizes[1:], strict=False)
        ]

    def output(weights, x):
        for w, b in weights[:-1]:
            x = jax.nn.relu(x @ w + b)
        return (x @ weights[-1][0] + weights[-1][1])[:, 0]

    def fit(key, x, y, valid):
        target, mean, std = standardise(y, valid)
        count = jnp.maximum(valid.sum(), 1)
        # features of unit scale, whatever the encoding's
        centre = jnp.where(valid[:, None], x, 0.0).sum(0) / count
        spread = jnp.sqrt((jnp.where(valid[:, None], x - centre, 0.0) ** 2).sum() / (count * x.shape[1]))
        spread = jnp.where(spread > 1e-6, spread, 1.0)
        x = jnp.where(valid[:, None], (x - centre) / spread, 0.0)

        def loss(weights):
            return (jnp.where(valid, output(weights, x) - target, 0.0) ** 2).sum() / count

        def one(key):
            def step(carry, _):
                weights, memory = carry
                change, memory = optimizer.update(jax.grad(loss)(weights), memory, weights)
                return (optax.apply_updates(weights, change), memory), None

            weights = initial(key, x.shape[1])
            return jax.lax.scan(step, (weights, optimizer.init(weights)), None, length=steps)[0][0]

        return jax.vmap(one)(jax.random.split(key, members)), centre, spread, mean, std, valid.any()

    def predict(params, x):
        weights, centre, spread, mean, std, any_valid = params
        outputs = jax.vmap(lambda w: output(w, (x - centre) / spread))(weights)
        outputs = jnp.where(any_valid, outputs, 0.0)
        deviation = jnp.where(any_valid, outputs.std(0), 1.0)
        return mean + std * outputs.mean(0), std * deviation

    return Regressor(fit, predict)


REGRESSORS = {"gaussian_process": gaussian_process, "mlp_ensemble": mlp_ensemble, "ridge": ridge}
