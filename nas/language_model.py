"""A trained recurrent network as people take it away: scores of the next token, and texts that go on."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nas.data import Data, on_device
from nas.errors import BadInput
from nas.network import Network
from nas.streams import along_split, with_perplexity
from nas.text import LEVELS, decode, encode
from nas.train import CLASSIFICATION


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A trained recurrent network: call it with a text.

    Attributes:
        network: Flax module; it takes tokens int32[B, T], and `nas.network.Network.go_on` carries its state.
        classes: the vocabulary, in the order of the outputs; the first stands for all that is not in it.
        level: ``characters`` or ``words``.
        config: the architecture config as a dictionary.
        metrics: measured after training.
    """

    network: Network
    classes: tuple[str, ...]
    level: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def sequence(self) -> int:
        """Tokens of the sequences that it was trained on."""
        return self.config["macro"]["input"][0]

    def logits(self, text: str) -> np.ndarray:
        """float32[T, vocabulary]: after each token of a text, scores of the next one. The state starts at zero."""
        tokens = encode(text, self.classes, self.level)
        if not len(tokens):
            raise BadInput("text: it is empty; give at least one token")
        return np.asarray(nnx.jit(lambda network, x: network(x))(self.network, jnp.asarray(tokens[None]))[0])

    def __call__(self, text: str) -> np.ndarray:
        """Probabilities float32[vocabulary] of the token after a text."""
        return np.asarray(jax.nn.softmax(jnp.asarray(self.logits(text)[-1])))

    def write(self, start: str, tokens: int = 200, *, seed: int = 0) -> str:
        """A text that goes on from `start`, each token drawn by its probability; never the unknown one."""
        given = encode(start, self.classes, self.level)
        if not len(given):
            raise BadInput("text: the start is empty; give at least one token")

        def step(network, carry, key):
            token, state = carry
            out, state = network.go_on(token[None, None], state)
            token = jax.random.categorical(key, out[0, 0].at[0].set(-jnp.inf)).astype(jnp.int32)
            return (token, state), token

        @nnx.jit
        def run(network, given, keys):
            state = network.go_on(given[None, :-1])[1] if len(given) > 1 else None
            state = jnp.zeros((1, self.config["macro"]["width"])) if state is None else state
            return jax.lax.scan(functools.partial(step, network), (given[-1], state), keys)[1]

        found = run(self.network, jnp.asarray(given), jax.random.split(jax.random.key(seed), tokens))
        return start + ("" if self.level == "characters" else " ") + decode(found, self.classes, self.level)


def language_model(network: Network, about: Mapping[str, Any], config: Mapping[str, Any]) -> LanguageModel:
    """The model of a network and of what ``model.json`` and ``architecture.json`` say.

    Raises:
        ValueError: a vocabulary that does not fit the network.
    """
    classes = tuple(about["classes"])
    known = about["level"] in LEVELS and config["layers"][-1]["output_shape"][-1] == len(classes)
    if not known or not all(isinstance(name, str) for name in classes):
        raise ValueError("its vocabulary does not fit the network")
    return LanguageModel(network, classes, about["level"], config, about["metrics"])


def evaluate_text(model: LanguageModel, data: Data, split: str) -> dict[str, float]:
    """Perplexity, loss and accuracy of the next token on one split, the state carried over it in a few streams.

    Raises:
        BadInput: a text numbered by another vocabulary.
    """
    if data.classes != model.classes:
        raise BadInput(f"data: '{data.name}' is numbered by another vocabulary; load it with classes=model.classes")
    width = model.network.layers[-1].input_shapes[0][-1]

    @nnx.jit
    def measure(network, part):
        start = lambda size: jnp.zeros((size, width))  # noqa: E731
        return with_perplexity(along_split(part, network.go_on, start, CLASSIFICATION.metrics))

    part = getattr(data, split)
    found = measure(model.network, on_device(part, (), ()))
    return {name: float(value) for name, value in found.items()} | {"tokens": int(part.labels.size)}
