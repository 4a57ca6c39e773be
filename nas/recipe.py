"""How a network is trained, as data: a recipe, its optimiser and its learning rate."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from nas.augment import augment, check_sizes
from nas.errors import BadInput, suggest


@dataclass(frozen=True)
class Precision:
    """dtypes of the stored weights, of the computation, and of what the network gives out."""

    param: str = "float32"
    compute: str = "float32"
    output: str = "float32"


PRECISIONS = {"float32": Precision(), "bfloat16": Precision(compute="bfloat16")}


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
