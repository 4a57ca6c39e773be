"""Training a found architecture, and the trained model that people take away."""

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from nas.config import Architecture, layers_from_json
from nas.data import Data, on_device
from nas.errors import BadInput
from nas.evaluate import CandidateFailed, fit_macro, own_program, train_network, use_compilation_cache
from nas.files import read_json, write_atomic, write_json
from nas.language_model import LanguageModel, evaluate_text, language_model
from nas.network import Network, split_names
from nas.objective import accuracy as of_accuracy
from nas.recipe import Recipe, check_recipe

SCHEMA = "nas.model/1"


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network: call it with images.

    Attributes:
        network: Flax module in evaluation mode.
        classes: names, in the order of the outputs.
        mean: per channel, of images on the scale [0, 1] (uint8) or as given (float).
        std: likewise.
        config: the architecture config as a dictionary.
        metrics: measured after training.
    """

    network: Network
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(H, W, C) of one image."""
        return tuple(self.config["macro"]["input"])

    def logits(self, images) -> np.ndarray:
        """uint8 or float [N, H, W, C] (or [N, H, W] of one channel) to float32[N, classes]."""
        images = np.asarray(images)
        if images.ndim == 3 and self.input_shape[-1] == 1:
            images = images[..., None]
        if images.shape[1:] != self.input_shape or images.dtype.kind not in "uf":
            raise BadInput(
                f"images: {images.dtype}{list(images.shape)}; this model takes [N, {self.input_shape}] uint8 or float"
            )
        return np.concatenate([np.asarray(self._batch(b)) for b in _chunks(images, 256)])

    def _batch(self, images):
        # a short last batch would compile again
        short = 256 - len(images)
        padded = np.pad(images, [(0, short), (0, 0), (0, 0), (0, 0)]) if short else images
        return self._compiled(padded)[: len(images)]

    @functools.cached_property
    def _compiled(self):
        graph, state = nnx.split(self.network)
        mean, std = jnp.asarray(self.mean), jnp.asarray(self.std)

        @jax.jit
        def run(images):
            x = images.astype(jnp.float32) / (255.0 if images.dtype == np.uint8 else 1.0)
            return nnx.merge(graph, state)((x - mean) / std)

        return run

    def __call__(self, images) -> np.ndarray:
        """Probabilities float32[N, classes]."""
        return np.asarray(jax.nn.softmax(jnp.asarray(self.logits(images)), -1))

    def predict(self, images) -> list[str]:
        """Class names."""
        return [self.classes[i] for i in self.logits(images).argmax(-1)]


def _chunks(array, size):
    return [array[at : at + size] for at in range(0, max(len(array), 1), size)]


def train_model(
    architecture: Architecture,
    data: Data,
    recipe: Recipe,
    *,
    seed: int = 0,
    progress: Callable[[int, Mapping[str, float]], None] = lambda epoch, metrics: None,
) -> tuple[Model | LanguageModel, list[dict[str, float]]]:
    """Trains one architecture from scratch; (model, figures of each epoch).

    The epoch with the best validation accuracy is kept (the first of equals), and only then the test split is looked
    at, once. Of a text it is the epoch with the lowest perplexity; the state is carried over consecutive sequences, in
    training as in every figure.

    Args:
        architecture: its `macro` says the size; input and classes are replaced by those of the data.
        data: three splits.
        recipe: how to train.
        seed: of weights, augmentation and batch order.
        progress: called with (epoch, metrics) after each epoch.

    Raises:
        BadInput: the training diverges.
    """
    use_compilation_cache()
    check_recipe(recipe, data.input_shape)
    macro = fit_macro(architecture.macro, data)
    architecture = replace(architecture, macro=macro, recipe=recipe)
    program = own_program(architecture.space, architecture.row, macro, recipe)
    train, validation, test = (
        on_device(getattr(data, s), data.mean, data.std) for s in ("train", "validation", "test")
    )
    count = len(data.train.labels)
    objective = of_accuracy(metric=metric_of(data))
    best: tuple[float, int, Any, Mapping] = (-math.inf, 0, None, {})

    def keep(state, epoch, metrics):
        nonlocal best
        score = float(objective(metrics)[0][0])
        if score > best[0]:
            best = score, epoch, jax.device_get((state.weights, state.stats)), metrics

    history = []
    try:
        for metrics in train_network(
            program,
            architecture.row,
            (train, validation),
            count=count,
            batch=min(recipe.batch, count),
            epochs=recipe.epochs,
            key=jax.random.key(seed),
            order_seed=seed,
            report_at=range(1, recipe.epochs + 1),
            keep=keep,
        ):
            history.append(dict(metrics))
            progress(len(history), metrics)
    except CandidateFailed as error:
        raise BadInput(
            f"training: {error}; lower the learning rate (--set learning_rate={recipe.learning_rate / 4:g})"
        ) from None
    _, epoch, (weights, stats), validated = best
    tested = {n: float(v) for n, v in program.evaluate(weights, stats, architecture.row, test).items()}
    measured = ("accuracy", "perplexity") if data.is_text else ("accuracy",)
    found = {f"validation_{name}": validated[name] for name in measured}
    found |= {f"test_{name}": tested[name] for name in (*measured, "loss")}
    found |= {
        "epoch": epoch,
        "epochs": recipe.epochs,
        "seed": seed,
        "data": data.name,
        "data_fingerprint": data.fingerprint,
    } | ({"parts": data.note} if data.is_text else {})
    network = Network(architecture.layers).load(weights, stats)
    network.eval()
    config = replace(architecture, metrics=found).to_dict()
    if data.is_text:
        return LanguageModel(network, data.classes, data.level, config, found), history
    return Model(network, data.classes, data.mean, data.std, config, found), history


def save_model(model: Model | LanguageModel, folder: str | os.PathLike, history: Sequence[Mapping] = ()) -> None:
    """Writes ``architecture.json``, ``weights.safetensors``, ``model.json`` and ``history.json``, each atomically."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights, stats = model.network.weights()
    arrays = {
        f"{layer}/{name}": np.asarray(a) for g in (weights, stats) for layer, d in g.items() for name, a in d.items()
    }
    write_json(folder / "architecture.json", model.config)
    write_atomic(folder / "weights.safetensors", save(arrays))
    write_json(folder / "history.json", {"epochs": list(history)})
    about: dict[str, Any] = {"schema": SCHEMA, "classes": model.classes, "metrics": model.metrics}
    about |= {"mean": model.mean, "std": model.std} if isinstance(model, Model) else {"level": model.level}
    write_json(folder / "model.json", about)


def load_model(folder: str | os.PathLike) -> Model | LanguageModel:
    """Reads a trained model; it needs neither the search space nor any file outside the folder.

    Raises:
        BadInput: no such model, or files that are broken or do not belong together.
    """
    folder = Path(folder)
    about = read_json(folder / "model.json", "trained model (nas train writes one)")
    config = read_json(folder / "architecture.json", "architecture config")
    if about.get("schema") != SCHEMA:
        raise BadInput(f"{folder}/model.json: schema is {about.get('schema')!r}; this version reads {SCHEMA}")
    try:
        arrays = load_file(folder / "weights.safetensors")
        layers = layers_from_json(config["layers"])
        network = Network(layers)
        expected = {f"{n}/{k}": a.shape for g in network.weights() for n, d in g.items() for k, a in d.items()}
        if expected != {n: a.shape for n, a in arrays.items()}:
            raise BadInput(f"{folder}/weights.safetensors: weights do not fit the architecture beside them")
        network.load(*split_names(arrays))
        network.eval()
        if "level" in about:
            return language_model(network, about, config)
        classes, mean, std = (tuple(about[n]) for n in ("classes", "mean", "std"))
        return Model(network, classes, mean, std, config, about["metrics"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{folder}: not a trained model: {str(error).splitlines()[0] or type(error).__name__}") from None


def metric_of(data: Data) -> str:
    """What is better the larger it is, for images, and the smaller it is, for a text."""
    return "perplexity" if data.is_text else "accuracy"


def evaluate_model(model: Model | LanguageModel, data: Data, split: str = "test") -> dict[str, float]:
    """Accuracy and mean cross-entropy on one split of a data set.

    Of a text also the perplexity; the state is carried over the text, in `nas.streams.STREAMS` streams.

    Raises:
        BadInput: other image shape or classes than the model was trained on.
    """
    if data.is_text != isinstance(model, LanguageModel):
        what = "a language model" if isinstance(model, LanguageModel) else "a classifier of images"
        raise BadInput(f"data: '{data.name}' is {'a text' if data.is_text else 'images'}, and the model is {what}")
    if isinstance(model, LanguageModel):
        return evaluate_text(model, data, split)
    if data.input_shape != model.input_shape or data.classes != model.classes:
        raise BadInput(
            f"data: '{data.name}' has {data.input_shape} images of {data.num_classes} classes; the model takes "
            f"{model.input_shape} images of {len(model.classes)} classes ({', '.join(model.classes[:3])}, ...)"
        )
    part = getattr(data, split)
    logits = model.logits(part.images)
    shifted = logits - logits.max(-1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(logits)), part.labels]
    return {
        "accuracy": float((logits.argmax(-1) == part.labels).mean()),
        "loss": float(losses.mean()),
        "images": len(logits),
    }
