"""Zero-cost proxies: what an untrained network and one batch of images say about an architecture.

Each is a pure function ``(supernet, weights, stats, row, batch) -> float32``, higher for a better network, and takes
the architecture as data: one compiled program scores every row of a space. Arrays that a row does not use have no
gradient and add nothing. "Weights" are the kernels of convolutions and dense layers, as in the reference
implementation (Abdelfattah, Mehrotra, Dudziak, Lane, "Zero-Cost Proxies for Lightweight NAS", ICLR 2021), whose
conventions hold here unless a docstring says otherwise. All but synflow run batch norm on the batch's own statistics,
as in training.

| proxy | passes over the batch (f: forward, b: backward) |
|---|---|
| synflow | 2 f + 1 b of a single image |
| naswot | 1 f |
| jacob_cov | 1 f + 1 b |
| snip, grad_norm, fisher | 1 f + 1 b, shared by those asked for together |
| grasp | 2 f + 2 b, and the second pair once more in reverse |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nas.cost import count_costs
from nas.data import Data, batches, gather, on_device
from nas.errors import BadInput, suggest
from nas.network import BATCH_NORM_EPSILON
from nas.space import Archs, Macro, SearchSpace
from nas.supernet import Supernet

TINY = float(np.finfo(np.float32).tiny)


class Batch(NamedTuple):
    """Images float32[B, H, W, C], normalised, and labels int32[B]."""

    images: jax.Array
    labels: jax.Array


def draw_batch(data: Data, size: int = 32, seed: int = 0) -> Batch:
    """A batch of the training split; the default size is that of NAS-Bench-Suite-Zero (Krishnakumar et al., 2022)."""
    if data.is_text:
        raise BadInput(f"proxies: they look at images, and '{data.name}' is a text; leave them out")
    size = min(size, len(data.train.labels))
    order = batches(len(data.train.labels), size, seed=seed, epoch=0)[0]
    return Batch(*gather(on_device(data.train, data.mean, data.std), order))


# ---- without data ------------------------------------------------------------------------------------------------
def synflow(supernet: Supernet, weights: Any, stats: Any, row: Any, batch: Batch) -> jax.Array:
    """Logarithm of the synaptic flow, the sum of ``w * dR/dw`` (Tanaka, Kunin, Yamins, Ganguli, NeurIPS 2020).

    R is the sum of the outputs for an image of ones, with every weight replaced by its absolute value and without batch
    norm and biases. The flow of a deep network overflows float32, so image and R are scaled such that it does not
    (up to e^165): exact where activations are linear above zero, as ReLU is. Without a path from input to output the
    flow counts as the smallest float, whose logarithm is -87.
    """
    kernels = jax.tree.map(jnp.abs, _kernels(weights))
    plain = {name: {n: jnp.full_like(a, n == "scale") for n, a in w.items()} for name, w in weights.items()}
    identity = {
        name: {"mean": 0 * s["mean"], "var": 0 * s["var"] + 1 - BATCH_NORM_EPSILON} for name, s in stats.items()
    }

    def flow(kernels, scale):
        image = jnp.full_like(batch.images[:1], scale)
        return supernet.apply(_replaced(plain, "kernel", kernels), identity, image, row, train=False)[0].sum()

    first = jnp.exp(-80.0)
    # half of the gain goes to the image and half to R, so that neither activations nor gradients leave float32
    log_half = 0.5 * (jnp.log(jnp.maximum(flow(kernels, first), TINY)) - jnp.log(first))
    half = jnp.exp(-log_half)
    slopes = jax.grad(lambda k: flow(k, half) * half)(kernels)
    return jnp.maximum(jnp.log(jnp.maximum(_inner(kernels, slopes), TINY)) + 2 * log_half, jnp.log(TINY))


# ---- how a network tells images apart ----------------------------------------------------------------------------
def naswot(supernet: Supernet, weights: Any, stats: Any, row: Any, batch: Batch) -> jax.Array:
    """Log-determinant of the kernel of activation patterns (Mellor, Turner, Storkey, Crowley, ICML 2021).

    Entry (i, j) counts the units, over all activation layers, that are on the same side of zero for images i and j.
    Two differences: a value of exactly zero is on no side (`nas.network.alike`), and the identity is added, so that
    the score is finite for a network that sees all images alike.

    Raises:
        BadInput: the supernet does not list its layers.
    """
    if not supernet.layers:
        raise BadInput("naswot: this supernet lists no layers; give its `layers`, or use jacob_cov")
    size = len(batch.labels)
    watched = [layer.name for layer in supernet.layers if layer.op == "activation"]
    nothing = {name: {"alike": jnp.zeros((size, size))} for name in watched}
    moved = supernet.apply(weights, {**stats, **nothing}, batch.images, row, train=True)[1]
    kernel = sum((moved[name]["alike"] for name in watched), jnp.eye(size))
    return jnp.linalg.slogdet(kernel)[1]


def jacob_cov(supernet: Supernet, weights: Any, stats: Any, row: Any, batch: Batch) -> jax.Array:
    """How little the slopes at different images correlate (Mellor et al., "NAS without training", first version, 2020).

    ``-sum(log(v + k) + 1 / (v + k))`` over the eigenvalues v of the correlation matrix of d(sum of outputs)/d(image),
    k = 1e-5. Images whose slope is constant count as perfectly correlated, where the paper's code gives NaN.
    """
    slopes = jax.grad(lambda x: supernet.apply(weights, stats, x, row, train=True)[0].sum())(batch.images)
    slopes = slopes.reshape(slopes.shape[0], -1)
    centred = slopes - slopes.mean(1, keepdims=True)
    length = jnp.linalg.norm(centred, axis=1, keepdims=True)
    unit = jnp.where(length > 0, centred / jnp.maximum(length, TINY), centred.shape[1] ** -0.5)
    eigenvalues = jnp.maximum(jnp.linalg.eigvalsh(unit @ unit.T), 0) + 1e-5
    return -(jnp.log(eigenvalues) + 1 / eigenvalues).sum()


# ---- how the loss answers to the weights -------------------------------------------------------------------------
def sensitivity(supernet: Supernet, weights: Any, stats: Any, row: Any, batch: Batch) -> dict[str, jax.Array]:
    """snip, grad_norm and fisher, by name, of one backward pass."""
    size = len(batch.labels)
    kernels = _kernels(weights)
    gates = {name: jnp.ones((size, *[1] * (k.ndim - 2), k.shape[-1])) for name, k in kernels.items()}

    def loss(kernels, gates):
        own = _replaced(_replaced(weights, "kernel", kernels), "gate", gates)
        return _loss(supernet, own, stats, row, batch)

    by_kernel, by_gate = jax.grad(loss, (0, 1))(kernels, gates)
    channels = {name: 0.5 * jnp.square(g).mean(0).reshape(-1) for name, g in by_gate.items()}
    # what is masked or not used has no gradient
    used = {name: (g != 0).sum(tuple(range(g.ndim - 1))) for name, g in by_kernel.items()}
    return {
        "snip": sum((jnp.abs(kernels[name] * g).sum() for name, g in by_kernel.items()), jnp.float32(0)),
        "grad_norm": sum((jnp.linalg.norm(g) for g in by_kernel.values()), jnp.float32(0)),
        "fisher": sum((channels[name] @ used[name] for name in channels), jnp.float32(0)),
    }


def snip(supernet: Supernet, weights: Any, stats: Any, row: Any, batch: Batch) -> jax.Array:
    """Sum of ``|w * g|``, g the gradient of the loss (Lee, Ajanthan, Torr, ICLR 2019)."""
    return sensitivity(supernet, weights, stats, row, batch)["snip"]


def grad_norm(supernet: Supernet, weights: Any, stats: Any, row: Any, batch: Batch) -> jax.Array:
    """Sum over layers of the Euclidean norm of the loss's gradient (Abdelfattah et al., 2021)."""
    return sensitivity(supernet, weights, stats, row, batch)["grad_norm"]


def fisher(supernet: Supernet, weights: Any, stats: Any, row: Any, batch: Batch) -> jax.Array:
    """Fisher information of the channels (Theis et al., 2018; Turner et al., "BlockSwap", ICLR 2020).

    For each output channel of each convolution and dense layer, half the mean over images of the square of
    ``sum over positions of activation * gradient``; added up once for every weight of the channel, as in the reference
    implementation. That inner sum is the gradient by a gate, a factor of one on the channel.
    """
    return sensitivity(supernet, weights, stats, row, batch)["fisher"]


def grasp(supernet: Supernet, weights: Any, stats: Any, row: Any, batch: Batch) -> jax.Array:
    """``-sum(w * H g)``, H the Hessian of the loss and g its gradient (Wang, Zhang, Grosse, ICLR 2020).

    Negated, as in the reference implementation.
    """
    kernels = _kernels(weights)
    slope = jax.grad(lambda k: _loss(supernet, _replaced(weights, "kernel", k), stats, row, batch))
    gradient = slope(kernels)
    curvature = jax.grad(lambda k: _inner(gradient, slope(k)))(kernels)
    return -_inner(kernels, curvature)


def _loss(supernet, weights, stats, row, batch):
    out = supernet.apply(weights, stats, batch.images, row, train=True)[0]
    return optax.softmax_cross_entropy_with_integer_labels(out, batch.labels).mean()


def _kernels(weights) -> dict[str, jax.Array]:
    return {name: w["kernel"] for name, w in weights.items() if "kernel" in w}


def _replaced(weights, entry, arrays):
    return {name: w | {entry: arrays[name]} if name in arrays else w for name, w in weights.items()}


def _inner(a, b):
    return sum((a[name] * b[name]).sum() for name in a)


Proxy = Callable[[Supernet, Any, Any, Any, Batch], jax.Array]
PROXIES: Mapping[str, Proxy] = {
    "synflow": synflow,
    "naswot": naswot,
    "jacob_cov": jacob_cov,
    "snip": snip,
    "grad_norm": grad_norm,
    "grasp": grasp,
    "fisher": fisher,
}
COUNTED = ("params", "macs")  # the baselines that a proxy has to beat


# ---- many rows ---------------------------------------------------------------------------------------------------
def proxies(
    space: SearchSpace,
    names: Sequence[str],
    batch: Batch,
    *,
    macro: Macro | None = None,
    seed: int = 0,
    scale: float = 1.0,
) -> Callable[[Archs], Any]:
    """``rows int32[N, L] -> float32[N, F]``, a column for each name, by one program that is compiled at the first row.

    To rank candidates, to choose the first of a search (`best_of`) or as features of a predictor: inside ``jit`` it
    gives a jax array, else numpy. Rows are scored one after the other. All of them draw their weights from the same
    seed, which makes their scores closer to comparable than independent draws.

    Args:
        space: of the rows.
        names: of `PROXIES`, or ``params`` and ``macs``.
        batch: images and labels.
        macro: the frame; its input becomes that of the images. None: the space's.
        seed: of the weights.
        scale: that kernels are multiplied by; snip, grad_norm and fisher depend on it. ``6 ** -0.5`` gives convolutions
            the variance of PyTorch's default, which is a sixth of ours.

    Raises:
        BadInput: an unknown name.
    """
    _check(names, (*PROXIES, *COUNTED))
    height, width, channels = batch.images.shape[1:]
    frame = replace(macro or space.macro, input=(height, width, channels))
    counted = count_costs(space, frame)
    computed = [n for n in names if n in PROXIES]
    score, key = scorer(space.supernet(frame), computed, scale), jax.random.key(seed)

    def scores(rows):
        traced = isinstance(rows, jax.core.Tracer)
        if traced:
            found = jax.lax.map(lambda row: score(row, batch, key), rows)
        else:
            rows = np.asarray(rows, np.int32)
            each = [jax.device_get(score(row, batch, key)) for row in rows] if computed else []
            found = {n: [one[n] for one in each] for n in computed}
        columns = [counted[n](rows) if n in COUNTED else found[n] for n in names]
        return jnp.stack(columns, -1).astype(jnp.float32) if traced else np.stack(columns, -1).astype(np.float32)

    return scores


def scorer(
    supernet: Supernet, names: Sequence[str], scale: float = 1.0
) -> Callable[[Any, Batch, jax.Array], dict[str, jax.Array]]:
    """``(row, batch, key) -> {name: float32}``, jitted: the proxies of newly drawn weights, kernels times `scale`.

    Raises:
        BadInput: an unknown name.
    """
    _check(names, PROXIES)

    @jax.jit
    def score(row, batch, key):
        weights, stats = supernet.init(key, row)
        weights = _replaced(weights, "kernel", {name: scale * kernel for name, kernel in _kernels(weights).items()})
        network = (supernet, weights, stats, row, batch)
        shared = sensitivity(*network) if {"snip", "grad_norm", "fisher"} & set(names) else {}
        return {name: shared[name] if name in shared else PROXIES[name](*network) for name in names}

    return score


def _check(names, known):
    if unknown := [n for n in names if n not in known]:
        raise BadInput(f"proxies: no proxy '{unknown[0]}'; {suggest(unknown[0], known)}")


def combine(scores: np.ndarray) -> np.ndarray:
    """float[N, F] -> float64[N]: sum over the columns of ``log(rank / N)``, rank N for the highest, ties averaged.

    The aggregation of Lee and Ham, "AZ-NAS", CVPR 2024: a network must be good by every proxy. NaN ranks lowest.
    """
    filled = np.where(np.isnan(scores), -np.inf, scores)
    below = (filled[:, None] > filled[None]).sum(1)
    equal = (filled[:, None] == filled[None]).sum(1)
    return np.log((below + (equal + 1) / 2) / len(scores)).sum(1)


def best_of(
    space: SearchSpace, scores: Callable[[Archs], np.ndarray], key: jax.Array, *, drawn: int, kept: int
) -> np.ndarray:
    """int32[kept, L]: of `drawn` random rows the best by `combine`, best first; what a search may start with.

    Raises:
        BadInput: more kept than drawn.
    """
    if not 0 < kept <= drawn:
        raise BadInput(f"best_of: {kept} kept of {drawn} drawn; keep at least 1 and at most all")
    rows = np.asarray(space.sample(key, drawn))
    return rows[np.argsort(-combine(scores(rows)), kind="stable")[:kept]]
