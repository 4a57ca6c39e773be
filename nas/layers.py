"""The resolved layer list of one network: what counts, building, measuring, drawing and export all read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Shape = tuple[int, ...]  # of one example: (height, width, channels), (features,), or (tokens, features) of a sequence

ACTIVATIONS = ("relu", "relu6", "hard_swish", "hard_sigmoid", "swish", "gelu", "sigmoid", "tanh", "identity")


@dataclass(frozen=True, slots=True)
class Layer:
    """One primitive operation of a resolved network.

    Attributes:
        name: unique path, such as ``cells.3.edge_0_1.conv``; weights are kept under it.
        op: one of `OPS`.
        attributes: what the operation needs beyond shapes, JSON values.
        inputs: indices of earlier layers.
        input_shapes: their output shapes, without the batch.
        output_shape: without the batch.
        scope: the block this layer belongs to, such as ``cells.3.edge_0_1``; empty outside of blocks.
        block: the block key, what a latency table lists: kind, input and output shapes of the block.
    """

    name: str
    op: str
    attributes: Mapping[str, Any]
    inputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    scope: str = ""
    block: str = ""


OPS = (
    "input",
    "conv",  # features, kernel (h, w), stride, dilation, groups, bias; padding dilation * (k - 1) // 2 on each side
    "batch_norm",  # affine
    "activation",  # kind
    "avg_pool",  # window, stride; padding window // 2 (0 for an even window), padding not counted in the mean
    "max_pool",  # window, stride, as avg_pool
    "global_avg_pool",
    "linear",  # features, bias
    "add",
    "multiply",  # the first input by the second, a value of its shape, or a gate (channels,) of each channel
    "channel_shuffle",  # groups: channel i of group g goes to place i * groups + g (ShuffleNet)
    "resize",  # size (h, w): bilinear between pixel centres, without antialiasing
    "zeros",  # no inputs
    "concat",  # along channels; kept: for each possible part whether it is there, widths: of each possible part
    "offset",  # drops the first row and column: the second half of a factorised reduction
    # of recurrent networks, see nas.recurrent
    "embedding",  # vocabulary, features: a row of a table for each token
    "state",  # no inputs; of: name of the layer whose value at the token before it is, zeros at the first token
    "highway",  # kind; inputs s (features) and [c, h] (twice as many): s + sigmoid(c) * (kind(h) - s)
    "mean",
    "decode",  # features, table: a score for each token, by the table of that embedding, and a bias
    # of transformers, see nas.attention
    "layer_norm",  # over channels; scale and bias
    "attention",  # heads; input: queries, keys and values side by side; causal, with rotary positions
    # of transformers that read one sequence and write another
    "span",  # start, stop, channels: some tokens of a sequence, and the first channels of each
    "placed",  # times the root of the channels, plus sinusoids of the place
    "attend",  # heads, causal; inputs: queries, and keys and values side by side, of another sequence or the same
    "join",  # sequences one after the other
    "unembed",  # features, table: a score for each token, by the first channels of that embedding's table; no bias
)


class BlockKey(NamedTuple):
    """A block key taken apart: what a table of block latencies is looked up by.

    Attributes:
        kind: such as ``mbconv_k5_e6`` or ``stem``.
        attributes: the ``-name:value`` pairs after it, whole numbers where they are such.
        inputs: shapes of the block's inputs.
        output: its output shape.
    """

    kind: str
    attributes: dict[str, int | str]
    inputs: tuple[Shape, ...]
    output: Shape


def parse_block(key: str) -> BlockKey:
    """``mbconv_k5_e6-kernel:5-stride:2-input:56x56x24-output:28x28x40``, a `Layer.block`, in its parts."""
    head, _, ends = key.rpartition("-input:")
    ins, _, out = ends.rpartition("-output:")
    kind, *pairs = head.split("-")
    attributes = {name: int(v) if v.isdigit() else v for name, _, v in (pair.partition(":") for pair in pairs)}
    shapes = [] if ins == "none" else [tuple(map(int, shape.split("x"))) for shape in ins.split("+")]
    return BlockKey(kind, attributes, tuple(shapes), tuple(map(int, out.split("x"))))


# ---- counts ------------------------------------------------------------------------------------------------------
def layer_params(layer: Layer) -> int:
    """Trainable numbers of one layer (batch-norm statistics are not trained and not counted)."""
    a = layer.attributes
    match layer.op:
        case "conv":
            kernel = a["kernel"][0] * a["kernel"][1] * (layer.input_shapes[0][-1] // a["groups"]) * a["features"]
            return kernel + (a["features"] if a["bias"] else 0)
        case "linear":
            return layer.input_shapes[0][-1] * a["features"] + (a["features"] if a["bias"] else 0)
        case "batch_norm":
            return 2 * layer.output_shape[-1] if a["affine"] else 0
        case "layer_norm":
            return 2 * layer.output_shape[-1]
        case "embedding":
            return a["vocabulary"] * a["features"]
        case "decode":
            return a["features"]
    return 0


def layer_macs(layer: Layer) -> int:
    """Multiply-accumulates of one layer for one example: convolutions and dense layers only, as papers count.

    An example of a text is a sequence, all its tokens together; the products between tokens inside an attention are
    not counted.
    """
    a = layer.attributes
    match layer.op:
        case "conv":
            per_output = a["kernel"][0] * a["kernel"][1] * (layer.input_shapes[0][-1] // a["groups"])
            return math.prod(layer.output_shape) * per_output
        case "linear" | "decode" | "unembed":
            return math.prod(layer.output_shape) * layer.input_shapes[0][-1]
    return 0


class Counts(NamedTuple):
    """Closed-form properties of one network.

    Attributes:
        params: trainable numbers.
        macs: multiply-accumulates for one example (FLOPs, as many papers use the word).
        memory_bytes: peak activation memory of inference, see `peak_activation`.
    """

    params: int
    macs: int
    memory_bytes: int


def counts(layers: tuple[Layer, ...], *, batch: int = 1, bytes_per_value: int = 4) -> Counts:
    """Parameters, multiply-accumulates and peak activation memory of a resolved network."""
    return Counts(
        sum(map(layer_params, layers)),
        sum(map(layer_macs, layers)),
        peak_activation(layers) * batch * bytes_per_value,
    )


def peak_activation(layers: tuple[Layer, ...]) -> int:
    """Largest number of activation values alive at once in inference, one example, layers run in order.

    A value lives from the layer that makes it to its last reader. Batch norm and activations overwrite their input
    when nobody reads it later (as every inference runtime does); other layers hold input and output together. The
    weights are not included.
    """
    last = {i: at for at, layer in enumerate(layers) for i in layer.inputs}
    last[len(layers) - 1] = len(layers)
    alive: dict[int, int] = {}
    peak = 0
    for at, layer in enumerate(layers):
        in_place = layer.op in ("batch_norm", "activation") and last.get(layer.inputs[0]) == at
        if in_place:
            alive.pop(layer.inputs[0])
        alive[at] = math.prod(layer.output_shape)
        peak = max(peak, sum(alive.values()))
        for i in (*layer.inputs, at):
            if last.get(i, -1) <= at:
                alive.pop(i, None)
    return peak
