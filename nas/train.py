"""Training as data: one compiled program per network shape, whatever architecture, seed or length it is given."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nas.augment import augment, check_sizes
from nas.data import DeviceSplit, batches, gather
from nas.errors import BadInput, suggest
from nas.streams import along_split, consecutive, with_perplexity
from nas.supernet import Supernet


@dataclass(frozen=True)
class Precision:
    """dtypes of the stored weights, of the computation, and of what the network gives out."""

    param: str = "float32"
    compute: str = "float32"
    output: str = "float32"


PRECISIONS = {"float32": Precision(), "bfloat16": Precision(compute="bfloat16")}


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


DROPOUTS = ("dropout_word", "dropout_input", "dropout_hidden", "dropout_output")
IMAGES_ONLY = ("augment", "drop_path", "auxiliary")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are NAS-Bench-201's (Dong and Yang, 2020), shortened.

    The paper trains 200 epochs with batch 256; ``batch`` and ``epochs`` here suit small data and two cores.

    Attributes:
        epochs: passes over the training split.
        batch: images a step.
        optimizer: ``sgd`` (Nesterov momentum) or ``adamw``.
        learning_rate: peak.
        momentum: of SGD.
        weight_decay: on every trained array, batch norm included, as the paper does.
        schedule: ``cosine`` to zero, or ``constant``.
        warmup: share of the steps that rise linearly to the peak.
        label_smoothing: 0 to below 1.
        gradient_clip: largest global norm; 0 switches it off.
        augment: such as ``("crop:4", "flip", "cutout:16")``.
        precision: ``float32`` or ``bfloat16`` (weights stay float32).
        drop_path: largest probability with which an operation of a cell is left out, reached linearly at the end; .2 in
            DARTS. For one network (``nas train``), as is what follows; see `nas.cell_training`.
        auxiliary: weight of the loss of a second classifier, inside the network; .4 in DARTS.
        dropout_word: probability with which a token of the vocabulary is not seen; .1 in DARTS. This and the next
            three are of language models, see `nas.recurrent_training`.
        dropout_input: with which a feature is left out of a sequence's embedded tokens; .8 in DARTS, which drops .2 and
            then .75.
        dropout_hidden: the same, of the states that the cell's matrices read; .25 in DARTS.
        dropout_output: the same, of the states that scores are read from; .75 in DARTS.
    """

    epochs: int = 12
    batch: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    gradient_clip: float = 5.0
    augment: tuple[str, ...] = ()
    precision: str = "float32"
    drop_path: float = 0.0
    auxiliary: float = 0.0
    dropout_word: float = 0.0
    dropout_input: float = 0.0
    dropout_hidden: float = 0.0
    dropout_output: float = 0.0

    def __post_init__(self):
        if isinstance(self.augment, str) or not all(isinstance(a, str) for a in _listed(self.augment)):
            raise BadInput(f"recipe: augment is {self.augment!r}; it must be a list of names, such as crop:4 and flip")
        object.__setattr__(self, "augment", tuple(self.augment))
        for name in ("epochs", "batch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInput(f"recipe: {name} is {value!r}; it must be a whole number of at least 1")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise BadInput(f"recipe: no {name} '{getattr(self, name)}'; {suggest(str(getattr(self, name)), known)}")
        ranges = dict(learning_rate=(0, 1e3), momentum=(0, 1), weight_decay=(0, 10), warmup=(0, 1))
        ranges |= dict(label_smoothing=(0, 1), gradient_clip=(0, 1e9), drop_path=(0, 1), auxiliary=(0, 10))
        ranges |= {name: (0, 1) for name in DROPOUTS}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
                raise BadInput(f"recipe: {name} is {value!r}; it must be from {low} to below {high}")
        augment(self.augment)

    def replace(self, **changes) -> "Recipe":
        """A changed copy; unknown names are refused with the nearest one."""
        known = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise BadInput(f"recipe: no setting '{name}'; {suggest(name, known)}")
        return dataclasses.replace(self, **changes)


def for_any_network(recipe: Recipe) -> None:
    """Refuses what only the training of one network can do.

    Raises:
        BadInput: a recipe with drop path, an auxiliary head or dropout.
    """
    for name in ("drop_path", "auxiliary", *DROPOUTS):
        if getattr(recipe, name):
            raise BadInput(f"recipe: {name} is for training one network, as nas train does; leave it at 0 in a search")


def check_recipe(recipe: Recipe, shape: Sequence[int]) -> None:
    """Refuses what data of this input shape has no use for.

    Raises:
        BadInput: settings for images on a text, or the other way round; what `nas.augment.check_sizes` refuses.
    """
    others, kind = (IMAGES_ONLY, "images") if len(shape) == 1 else (DROPOUTS, "a text")
    for name in others:
        if getattr(recipe, name):
            raise BadInput(f"recipe: {name} is for {kind}, and this data is not; leave it out")
    if len(shape) > 1:
        check_sizes(recipe.augment, shape)


def _listed(value):
    return value if isinstance(value, list | tuple) else (None,)


OPTIMIZERS = {
    "sgd": lambda r: optax.chain(
        optax.add_decayed_weights(r.weight_decay), optax.trace(r.momentum, nesterov=r.momentum > 0)
    ),
    "adamw": lambda r: optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(r.weight_decay)),
}

SCHEDULES = {
    "cosine": lambda progress: 0.5 * (1 + jnp.cos(jnp.pi * progress)),
    "constant": lambda progress: jnp.ones_like(progress),
}


def optimizer_of(recipe: Recipe) -> optax.GradientTransformation:
    """The direction of a step; its length is `learning_rate_at`, which must know how long the training will be."""
    clip = optax.clip_by_global_norm(recipe.gradient_clip) if recipe.gradient_clip else optax.identity()
    return optax.chain(clip, OPTIMIZERS[recipe.optimizer](recipe))


def learning_rate_at(recipe: Recipe, step: jax.Array, total: jax.Array) -> jax.Array:
    """Learning rate of a step; `total` is data, so that trainings of any length share a program."""
    warm = recipe.warmup * total
    rising = (step + 1) / jnp.maximum(warm, 1.0)
    progress = jnp.clip((step - warm) / jnp.maximum(total - warm, 1.0), 0, 1)
    return recipe.learning_rate * jnp.minimum(rising if recipe.warmup else 1.0, SCHEDULES[recipe.schedule](progress))


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


__all__ = [
    "CLASSIFICATION",
    "DeviceSplit",
    "Precision",
    "Program",
    "Recipe",
    "Task",
    "TrainState",
    "data_mesh",
    "make_program",
]
