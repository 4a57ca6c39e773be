"""Training a found architecture, and the trained model that people take away."""

import functools
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
from nas.network import Network, split_names
from nas.train import Recipe

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
    def input_shape(self) -> tuple[int, int, int]:
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
) -> tuple[Model, list[dict[str, float]]]:
    """Trains one architecture from scratch; (model, figures of each epoch).

    The epoch with the best validation accuracy is kept (the first of equals), and only then the test split is looked
    at, once.

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
    macro = fit_macro(architecture.macro, data)
    architecture = replace(architecture, macro=macro, recipe=recipe)
    program = own_program(architecture.space, architecture.row, macro, recipe)
    train, validation, test = (
        on_device(getattr(data, s), data.mean, data.std) for s in ("train", "validation", "test")
    )
    count = len(data.train.labels)
    best: tuple[float, int, Any] = (-1.0, 0, None)

    def keep(state, epoch, metrics):
        nonlocal best
        if metrics["accuracy"] > best[0]:
            best = metrics["accuracy"], epoch, jax.device_get((state.weights, state.stats))

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
    accuracy, epoch, (weights, stats) = best
    tested = {n: float(v) for n, v in program.evaluate(weights, stats, architecture.row, test).items()}
    found = {
        "validation_accuracy": accuracy,
        "test_accuracy": tested["accuracy"],
        "test_loss": tested["loss"],
        "epoch": epoch,
        "epochs": recipe.epochs,
        "seed": seed,
        "data": data.name,
        "data_fingerprint": data.fingerprint,
    }
    network = Network(architecture.layers).load(weights, stats)
    network.eval()
    config = replace(architecture, metrics=found).to_dict()
    return Model(network, data.classes, data.mean, data.std, config, found), history


def save_model(model: Model, folder: str | os.PathLike, history: Sequence[Mapping] = ()) -> None:
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
    about = {"schema": SCHEMA, "classes": model.classes, "mean": model.mean, "std": model.std, "metrics": model.metrics}
    write_json(folder / "model.json", about)


def load_model(folder: str | os.PathLike) -> Model:
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
        classes, mean, std = (tuple(about[n]) for n in ("classes", "mean", "std"))
        return Model(network, classes, mean, std, config, about["metrics"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{folder}: not a trained model: {str(error).splitlines()[0] or type(error).__name__}") from None


def evaluate_model(model: Model, data: Data, split: str = "test") -> dict[str, float]:
    """Accuracy and mean cross-entropy on one split of a data set.

    Raises:
        BadInput: other image shape or classes than the model was trained on.
    """
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
