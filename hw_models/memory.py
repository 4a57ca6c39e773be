"""How much memory training and inference of a network take, from its layers alone, without compiling anything.

Weights, gradients, optimiser and statistics are counted exactly. What the compiler adds to them in a training step was
modelled on XLA's own analysis (``compiled.memory_analysis()``) for CPUs: every value of the forward pass is there at
once, and so are most of the unfolded inputs from which `nas.kernels` computes the gradients of kernels, because XLA
orders a step for parallel work and not for little memory. ``python -m experiments.bench_memory`` holds it against XLA:
two networks of AmoebaNet's space, not among those the constants were found on, came within 7 %; NATS-Bench's sizes come
out 20 to 50 % too high, since the wide layers of a chain leave XLA less to do at once.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from nas.kernels import CHUNK_ELEMENTS
from nas.layers import Layer, counts
from nas.train import PRECISIONS, Recipe

# bytes in XLA's analysis for each byte counted here; least squares of relative errors over eleven networks of
# NAS-Bench-201 and DARTS (16x16 images, batch 32, jax 0.10.2, CPU), all within 14 %
VALUES, DENSE, DEPTHWISE = 0.95, 0.75, 0.9
MOMENTS = {"sgd": 1, "adamw": 2}  # arrays of the optimiser for each weight


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step, or of inference, by what they are for.

    Attributes:
        parameters: weights and batch-norm statistics.
        optimizer: moments.
        gradients: of all weights.
        activations: values of the forward pass.
        workspace: what gradients of kernels are computed from.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations: int
    workspace: int

    @property
    def total(self) -> int:
        """Their sum; the images themselves are not in it."""
        return self.parameters + self.optimizer + self.gradients + self.activations + self.workspace


def training_memory(layers: Sequence[Layer], recipe: Recipe) -> Memory:
    """Memory of a step of a training of this network alone, as `nas.model.train_model` runs it on a CPU.

    Args:
        layers: of the network.
        recipe: its batch, optimiser and precision are read. Weights, moments and gradients are float32 always.
    """
    layers = tuple(layers)
    size = jnp.dtype(PRECISIONS[recipe.precision].compute).itemsize
    weights, statistics = 4 * counts(layers).params, 8 * sum(x.output_shape[-1] for x in layers if x.op == "batch_norm")
    dense = sum(_unfolded(x, recipe.batch) for x in layers if x.op == "conv" and x.attributes["groups"] == 1)
    grouped = sum(_unfolded(x, recipe.batch) for x in layers if x.op == "conv" and x.attributes["groups"] > 1)
    return Memory(
        parameters=weights + statistics,
        optimizer=MOMENTS[recipe.optimizer] * weights,
        gradients=weights,
        activations=int(VALUES * size * recipe.batch * sum(math.prod(x.output_shape) for x in _values(layers))),
        # a depthwise gradient sums products in float32, whatever the precision
        workspace=int(DENSE * size * dense + DEPTHWISE * 4 * grouped),
    )


def inference_memory(layers: Sequence[Layer], *, batch: int = 1, bytes_per_value: int = 4) -> Memory:
    """Weights, statistics and the peak of activations (`nas.layers.peak_activation`), layers run in order."""
    layers = tuple(layers)
    found = counts(layers, batch=batch, bytes_per_value=bytes_per_value)
    statistics = 2 * sum(x.output_shape[-1] for x in layers if x.op == "batch_norm")
    return Memory(bytes_per_value * (found.params + statistics), 0, 0, found.memory_bytes, 0)


def _values(layers: Sequence[Layer]) -> list[Layer]:
    """The layers whose results are arrays of their own: the same activation of the same value is computed once."""
    place: dict[object, int] = {}
    same: list[int] = []
    for at, layer in enumerate(layers):
        key: object = at
        if layer.op == "activation":
            key = json.dumps([layer.attributes["kind"], [same[i] for i in layer.inputs]])
        same.append(place.setdefault(key, at))
    return [layer for at, layer in enumerate(layers) if same[at] == at]


def _unfolded(layer: Layer, batch: int) -> int:
    """Values of the views of a convolution's input that are there at once, see `nas.kernels.CHUNK_ELEMENTS`."""
    taps = math.prod(layer.attributes["kernel"])
    inputs, outputs = math.prod(layer.input_shapes[0]), math.prod(layer.output_shape)
    images = max(1, min(batch, CHUNK_ELEMENTS // max(inputs, outputs)))
    if taps == 1 and layer.attributes["groups"] == 1:
        return 0  # a matrix product of the input as it is
    channels = layer.input_shapes[0][-1] if layer.attributes["groups"] == 1 else layer.output_shape[-1]
    return taps * images * math.prod(layer.output_shape[:-1]) * channels
