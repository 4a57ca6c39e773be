"""Training as data: one compiled program per network shape, whatever architecture, seed or length it is given."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nas.augment import augment
from nas.data import DeviceSplit, batches, gather
from nas.errors import BadInput
from nas.recipe import PRECISIONS, Recipe, for_any_network, learning_rate_at, optimizer_of
from nas.streams import along_split, consecutive, with_perplexity
from nas.supernet import Supernet


class Task(NamedTuple):
    """What is learnt: the loss, the figures, and the shapes at both ends.

    Attributes:
        name: for configs.
        loss: ``(out, labels, recipe) -> float32[B]``, one value an example, or float32[B, T], one for each token.
        metrics: ``(out, labels) -> {name: float32[B]}`` or float32[B, T], averaged over a split. `accuracy` is what
            searches maximise by default. Of a text, ``perplexity`` follows from the mean ``loss`` and is minimised.
        head: ``(data) -> int``, how many outputs the network needs.
        input_spec: ``(data) -> (H, W, C)``, or (T,) of a text, what it is fed.
    """

    name: str
    loss: Callable[..., jax.Array]
    metrics: Callable[..., Mapping[str, jax.Array]]
    head: Callable[[Any], int]
    input_spec: Callable[[Any], tuple[int, ...]]


def _smoothed_cross_entropy(out, labels, recipe):
    if labels.ndim > 1 and not recipe.label_smoothing:  # a vocabulary is too large to write out for each token
        return optax.softmax_cross_entropy_with_integer_labels(out, labels)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, out.shape[-1]), recipe.label_smoothing)
    return optax.softmax_cross_entropy(out, targets)


def _classification_metrics(out, labels):
    return {
        "accuracy": (out.argmax(-1) == labels).astype(jnp.float32),
        "loss": optax.softmax_cross_entropy_with_integer_labels(out, labels),
    }


CLASSIFICATION = Task(
    "classification",
    _smoothed_cross_entropy,
    _classification_metrics,
    lambda data: data.num_classes,
    lambda data: data.input_shape,
)


class TrainState(NamedTuple):
    """Everything a training is; a pytree of arrays."""

    weights: Any
    stats: Any
    optimizer: Any
    step: jax.Array  # int32


class Program(NamedTuple):
    """Compiled functions that train and measure any architecture of one network.

    Attributes:
        init: ``(key, choice) -> TrainState``, drawn for that architecture.
        train: ``(state, choice, split, order int32[S, B], key, total) -> (state, mean loss)``: S steps of a training
            of `total` steps, on the images that `order` names. The given state's memory is reused.
        evaluate: ``(weights, stats, choice, split) -> {metric: float32}`` over a whole split.
        order: ``(count, batch, seed, epoch) -> int32[S, B]``, the examples of an epoch: `nas.data.batches`, or for a
            network whose state is carried on the sequences of a text one after the other.
        compilations: ``() -> int``, how often `train` has been compiled or fetched from the cache in this process.
    """

    init: Callable[..., TrainState]
    train: Callable[..., tuple[TrainState, jax.Array]]
    evaluate: Callable[..., dict[str, jax.Array]]
    order: Callable[..., jax.Array]
    compilations: Callable[[], int]


def make_program(
    network: Supernet, recipe: Recipe, *, task: Task = CLASSIFICATION, mesh: Mesh | None = None
) -> Program:
    """Compiles (on first use) training and evaluation of one network.

    Args:
        network: a supernet, or one resolved network through `nas.supernet.network_supernet`.
        recipe: how to train; its `epochs` are not read, the length is an argument of `train`.
        task: loss and metrics.
        mesh: devices that share each batch, see `spread_over`; weights are copied to each.
    """
    if network.training is None and network.start is None:
        for_any_network(recipe)
    optimizer = optimizer_of(recipe)
    precision = PRECISIONS[recipe.precision]
    cast = functools.partial(_cast, dtype=precision.compute)
    augmentation, spread = augment(recipe.augment), spread_over(mesh)

    def forward(weights, stats, x, choice, train, key, carry=None):
        out, stats, carry = network.apply(cast(weights), stats, cast(x), choice, carry=carry, train=train, key=key)
        return out.astype(precision.output), stats, carry

    def outputs(weights, stats, x, choice, key, progress, carry):
        if network.training is None:
            out, stats, after = forward(weights, stats, x, choice, True, key, carry)
            return (out,), stats, None if network.start is None else after
        outs, stats = network.training(cast(weights), stats, cast(x), choice, key=key, progress=progress)
        return [out.astype(precision.output) for out in outs], stats, carry

    def start(size):
        return None if network.start is None else cast(network.start(size))

    @jax.jit
    def init(key, choice):
        weights, stats = network.init(key, choice)
        weights = _cast(weights, dtype=precision.param)
        return TrainState(weights, stats, optimizer.init(weights), jnp.int32(0))

    def step(state, carry, batch, choice, split, key, total):
        key = jax.random.fold_in(key, state.step)
        augment_key, network_key = jax.random.split(key)
        x, labels = gather(split, spread(batch))
        x = augmentation(augment_key, x)

        def loss(weights):
            outs, stats, after = outputs(weights, state.stats, x, choice, network_key, state.step / total, carry)
            own, *others = (task.loss(out, labels, recipe).mean() for out in outs)
            return own + recipe.auxiliary * sum(others), (own, stats, after)

        (_, (value, stats, after)), gradient = jax.value_and_grad(loss, has_aux=True)(state.weights)
        rate = learning_rate_at(recipe, state.step, total)
        weights, moments = descend(optimizer, state.weights, state.optimizer, gradient, rate)
        return (TrainState(weights, stats, moments, state.step + 1), after), value

    @functools.partial(jax.jit, donate_argnums=0)
    def train(state, choice, split, order, key, total):
        first = state, start(order.shape[1])
        (state, _), losses = jax.lax.scan(lambda s, batch: step(*s, batch, choice, split, key, total), first, order)
        return state, losses.mean()

    @jax.jit
    def evaluate(weights, stats, choice, split):
        def go_on(x, carry):
            out, _, carry = forward(weights, stats, x, choice, False, None, carry)
            return out, carry

        if network.start is not None:
            return with_perplexity(along_split(split, go_on, start, task.metrics))
        return over_split(split, recipe.batch, lambda x, labels: task.metrics(go_on(x, None)[0], labels), spread)

    order = batches if network.start is None else lambda count, batch, *, seed, epoch: consecutive(count, batch)
    return Program(init, train, evaluate, order, train._cache_size)  # type: ignore[attr-defined]


def descend(
    optimizer: optax.GradientTransformation, weights: Any, moments: Any, gradient: Any, rate: jax.Array
) -> tuple[Any, Any]:
    """(weights, moments of the optimiser) after a step of length `rate`; arrays keep their dtypes."""
    direction, moments = optimizer.update(gradient, moments, weights)
    return jax.tree.map(lambda w, d: w - (rate * d).astype(w.dtype), weights, direction), moments


def over_split(
    split: DeviceSplit,
    batch: int,
    metrics: Callable[[jax.Array, jax.Array], Mapping[str, jax.Array]],
    spread: Callable[[jax.Array], jax.Array] = lambda places: places,
) -> dict[str, jax.Array]:
    """Means over a whole split of ``metrics(x, labels) -> {name: float32[B, ...]}``, batch after batch. Jittable.

    Of a text, ``perplexity`` is among them; each sequence stands alone there.

    Args:
        split: measured on.
        batch: images at once, at most.
        metrics: of one batch.
        spread: constrains the places of a batch to the devices that share it.
    """
    count = split.labels.shape[0]
    batch = min(batch, count)
    places = jnp.arange(-(-count // batch) * batch).reshape(-1, batch)

    def measure(place):
        found = metrics(*gather(split, spread(jnp.minimum(place, count - 1))))
        each = {name: v if v.ndim == 1 else v.reshape(len(v), -1).mean(-1) for name, v in found.items()}
        return {name: jnp.where(place < count, v, 0).sum() for name, v in each.items()}

    means = jax.tree.map(lambda v: v.sum() / count, jax.lax.map(measure, places))
    return with_perplexity(means) if split.labels.ndim > 1 else means


def spread_over(mesh: Mesh | None) -> Callable[[jax.Array], jax.Array]:
    """``(x) -> x`` that splits an array's first axis over the axis ``data`` of a mesh, inside of `jax.jit`.

    Applied to the places of a batch it makes training data parallel; batch norm sees the whole batch all the same. None
    is one device, and changes nothing.
    """
    if mesh is None:
        return lambda x: x
    return lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec("data")))


def on_all(mesh: Mesh | None) -> Callable[[Any], Any]:
    """``(tree) -> tree`` that puts arrays whole on every device of a mesh; None changes nothing.

    Where an argument lies is part of what `jax.jit` compiles for: put all of them there, and it compiles once.
    """
    if mesh is None:
        return lambda tree: tree
    return lambda tree: jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def _cast(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def data_mesh(devices: int) -> Mesh | None:
    """A mesh of the first `devices` devices with the axis ``data``; None for one.

    Raises:
        BadInput: there are not so many.
    """
    found = jax.devices()
    if not 1 <= devices <= len(found):
        raise BadInput(f"devices: {devices} asked for, {len(found)} found; ask for 1 to {len(found)}")
    if devices == 1:
        return None
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=found[:devices])
