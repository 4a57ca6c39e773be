"""How much memory training and inference of a network take, from its layers alone, without compiling anything.

Weights, gradients, optimiser and statistics are counted exactly. What the compiler adds to them in a training step was
modelled on XLA's own analysis (``compiled.memory_analysis()``) for CPUs. Every value of the forward pass is there at
once. `nas.kernels` computes the gradients of kernels from views of their inputs, and how many are there depends on how
it does so: what is computed in one piece can be prepared while the forward pass runs, and XLA, which orders a step for
parallel work and not for little memory, does so for most of it; what is computed chunk by chunk, because the images are
large, is prepared inside a loop and gone after it. ``python -m experiments.bench_memory`` holds it against XLA.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from nas.kernels import CHUNK_ELEMENTS, DEPTHWISE_CHUNK_ELEMENTS
from nas.layers import Layer, counts
from nas.recipe import PRECISIONS, Recipe

# bytes in XLA's analysis for each byte counted here; non-negative least squares of relative errors over 33 networks of
# NATS-Bench's sizes, NAS-Bench-201, NAS-Bench-Macro and DARTS (16x16 images, batch 32, jax 0.10.2), all within 12 %.
# 54 others, also of NASNet, AmoebaNet and MnasNet and at batches of 64 to 128, came within 15 %
VALUES, DENSE, DEPTHWISE, LOOP = 0.95, 0.71, 0.58, 2.9
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
    grouped = [_padded(x, recipe.batch) for x in layers if x.op == "conv" and x.attributes["groups"] > 1]
    whole, largest = sum(n for n, loops in grouped if not loops), max((n for n, loops in grouped if loops), default=0)
    return Memory(
        parameters=weights + statistics,
        optimizer=MOMENTS[recipe.optimizer] * weights,
        gradients=weights,
        activations=int(VALUES * size * recipe.batch * sum(math.prod(x.output_shape) for x in _values(layers))),
        # a depthwise gradient sums products in float32, whatever the precision
        workspace=int(DENSE * size * dense + 4 * (DEPTHWISE * whole + LOOP * largest)),
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
    """Values of the views of a dense convolution's input, where they are there at once (`nas.kernels.conv2d`)."""
    taps = math.prod(layer.attributes["kernel"])
    if taps == 1 or _images(layer, batch, CHUNK_ELEMENTS) < batch:
        return 0  # a matrix product of the input as it is, or a loop over chunks of images
    return taps * batch * math.prod(layer.output_shape[:-1]) * layer.input_shapes[0][-1]


def _padded(layer: Layer, batch: int) -> tuple[int, bool]:
    """Values of a grouped convolution's padded input that are there at once, and whether in a loop over chunks."""
    a, (height, width, channels) = layer.attributes, layer.input_shapes[0]
    images = _images(layer, batch, DEPTHWISE_CHUNK_ELEMENTS)
    rows, columns = (n + a["dilation"] * (k - 1) for n, k in zip((height, width), a["kernel"], strict=True))
    return images * rows * columns * channels, images < batch


def _images(layer: Layer, batch: int, elements: int) -> int:
    """Of a chunk."""
    return max(1, min(batch, elements // max(math.prod(layer.input_shapes[0]), math.prod(layer.output_shape))))
