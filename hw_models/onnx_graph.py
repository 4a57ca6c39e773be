"""A resolved layer list as an ONNX graph: what phones and servers run, and what ONNX Runtime measures.

Written node by node from the layers, so the graph holds what the network holds and nothing of the framework. Inside it
is NCHW, as ONNX operators want it; a batch norm that alone reads a convolution is folded into it, any other stays a
node.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas.errors import BadInput
from nas.layers import Layer
from nas.network import BATCH_NORM_EPSILON

OPSET = 17  # HardSwish came with 14
OPSET_GELU = 20
IR_VERSION = {OPSET: 8, OPSET_GELU: 9}  # the oldest that hold them: older runtimes refuse newer files

PLAIN = {"relu": "Relu", "hard_swish": "HardSwish", "sigmoid": "Sigmoid", "tanh": "Tanh"}


def require_onnx() -> Any:
    """The module ``onnx``.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise BadInput("ONNX: the package 'onnx' is not installed; pip install 'nas-jax[onnx]'") from None
    return onnx


def to_onnx(
    layers: Sequence[Layer],
    weights: Mapping[str, Mapping[str, Any]],
    stats: Mapping[str, Mapping[str, Any]],
    *,
    layout: str = "NHWC",
    batch: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """The network in inference as ``onnx.ModelProto``, checked; outputs equal the Flax network's to 1e-4.

    Several ``input`` layers give as many graph inputs, named by their layers; a network's single one is ``images``.
    The output is ``output``, float32[N, *output shape]; an image output is NCHW.

    Args:
        layers: of the network, the output last.
        weights: arrays under layer names, as `nas.network.Network.weights` gives them.
        stats: batch-norm statistics, likewise.
        layout: of image inputs, ``NHWC`` (as everywhere in this toolkit; one transposition comes first) or ``NCHW``.
        batch: images a call; None leaves it open. A runtime may fold what is constant at a known batch, such as a
            convolution of zeros.
        mean: per channel, subtracted from the input, with `std`.
        std: per channel, divided by.
        metadata: kept in the file, JSON values.

    Raises:
        BadInput: ``onnx`` is not installed, or the network reads a text.
        ValueError: an operation that is not of `nas.layers.OPS`.
    """
    if any(layer.op in ("state", "attention", "attend") for layer in layers):
        raise BadInput("ONNX: networks that read a text are not exported; space.build gives the Flax network")
    onnx = require_onnx()
    graph = _Graph(onnx, batch, layout)
    folded = _foldable(layers)
    single = sum(layer.op == "input" for layer in layers) == 1
    values: list[str] = []
    for at, layer in enumerate(layers):
        ins = [values[i] for i in layer.inputs]
        if layer.op == "input":
            value = graph.input("images" if single else layer.name, layer.output_shape)
            if mean is not None and std is not None:
                value = graph.normalise(value, mean, std)
            values.append(value)
        elif at in folded.values():  # its convolution has it already
            values.append(ins[0])
        else:
            norm = layers[folded[at]] if at in folded else None
            arrays = {name: np.asarray(a, np.float32) for name, a in _arrays(layer, norm, weights, stats).items()}
            values.append(graph.add(layer, ins, arrays))
    graph.node("Identity", [values[-1]], out="output")
    return graph.finish(layers[-1].output_shape, metadata or {}, _opset(layers))


def _opset(layers):
    gelu = any(layer.op == "activation" and layer.attributes["kind"] == "gelu" for layer in layers)
    return OPSET_GELU if gelu else OPSET


def _foldable(layers) -> dict[int, int]:
    """Convolution -> batch norm that alone reads it, by index."""
    readers: dict[int, list[int]] = {}
    for at, layer in enumerate(layers):
        for i in layer.inputs:
            readers.setdefault(i, []).append(at)
    pairs = ((at, readers.get(at, [])) for at, layer in enumerate(layers) if layer.op == "conv")
    return {at: own[0] for at, own in pairs if len(own) == 1 and layers[own[0]].op == "batch_norm"}


def _arrays(layer, norm, weights, stats) -> dict[str, np.ndarray]:
    """The arrays of a layer; of a convolution with its batch norm multiplied in."""
    own = {
        n: np.asarray(a, np.float64) for n, a in {**weights.get(layer.name, {}), **stats.get(layer.name, {})}.items()
    }
    if layer.op == "batch_norm":
        ones = np.ones(layer.output_shape[-1])
        return {"scale": ones, "bias": 0 * ones} | own
    if norm is None:
        return own
    moved = _arrays(norm, None, weights, stats)
    factor = moved["scale"] / np.sqrt(moved["var"] + BATCH_NORM_EPSILON)
    bias = (own.get("bias", 0.0) - moved["mean"]) * factor + moved["bias"]
    return {"kernel": own["kernel"] * factor, "bias": bias}


class _Graph:
    """Nodes and constants under construction; values are names."""

    def __init__(self, onnx, batch, layout):
        self.onnx, self.batch, self.layout = onnx, batch, layout
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.inputs: list[Any] = []

    # ---- parts -------------------------------------------------------------------------------------------------
    def node(self, op: str, ins: Sequence[str], *, out: str | None = None, **attributes) -> str:
        out = out or f"{op}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, list(ins), [out], name=out, **attributes))
        return out

    def constant(self, value: np.ndarray, name: str | None = None) -> str:
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _info(self, name, shape):
        sizes = ["N" if self.batch is None else self.batch, *shape]
        return self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, sizes)

    def input(self, name, shape) -> str:
        last = self.layout == "NHWC" and len(shape) == 3
        self.inputs.append(self._info(name, shape if last else _first(shape)))
        return self.node("Transpose", [name], perm=[0, 3, 1, 2]) if last else name

    def normalise(self, x, mean, std) -> str:
        shift, scale = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (mean, std))
        return self.node("Div", [self.node("Sub", [x, self.constant(shift)]), self.constant(scale)])

    def zeros(self, shape) -> str:
        # as many as the input has images
        images = self.node("Shape", [self.inputs[0].name], start=0, end=1)
        size = self.node("Concat", [images, self.constant(np.asarray(_first(shape), np.int64))], axis=0)
        return self.node("Expand", [self.constant(np.zeros((1,) * (len(shape) + 1), np.float32)), size])

    def activation(self, kind, x) -> str:
        if kind in PLAIN:
            return self.node(PLAIN[kind], [x])
        match kind:
            case "identity":
                return x
            case "relu6":
                return self.node("Clip", [x, *(self.constant(np.asarray(v, np.float32)) for v in (0, 6))])
            case "hard_sigmoid":
                return self.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5)
            case "swish":
                return self.node("Mul", [x, self.node("Sigmoid", [x])])
            case "gelu":  # as jax.nn.gelu
                return self.node("Gelu", [x], approximate="tanh")
        raise ValueError(f"activation '{kind}' has no ONNX form")

    def conv(self, layer, x, arrays) -> str:
        a = layer.attributes
        pads = [a["dilation"] * (k - 1) // 2 for k in a["kernel"]] * 2
        sizes = dict(
            kernel_shape=list(a["kernel"]),
            strides=list(a["stride"]),
            pads=pads,
            dilations=[a["dilation"]] * 2,
            group=a["groups"],
        )
        return self.node("Conv", [x, *self._weights(layer, arrays, (3, 2, 0, 1))], **sizes)

    def _weights(self, layer, arrays, order) -> list[str]:
        names = [self.constant(arrays["kernel"].transpose(order), f"{layer.name}.kernel")]
        return names + ([self.constant(arrays["bias"], f"{layer.name}.bias")] if "bias" in arrays else [])

    def linear(self, layer, x, arrays) -> str:
        if len(layer.output_shape) == 1:
            return self.node("Gemm", [x, *self._weights(layer, arrays, (0, 1))])
        kernel = {**arrays, "kernel": arrays["kernel"][None, None]}  # on every position
        return self.node("Conv", [x, *self._weights(layer, kernel, (3, 2, 0, 1))])

    def pool(self, layer, x, op, **more) -> str:
        window, stride = layer.attributes["window"], layer.attributes["stride"]
        pads = [(window - 1) // 2] * 4
        return self.node(op, [x], kernel_shape=[window] * 2, strides=[stride] * 2, pads=pads, **more)

    def reshape(self, x, shape) -> str:
        return self.node("Reshape", [x, self.constant(np.asarray((0, *shape), np.int64))])  # 0: as many images

    # ---- layers ------------------------------------------------------------------------------------------------
    def add(self, layer: Layer, ins: list[str], arrays: Mapping[str, np.ndarray]) -> str:
        match layer.op:
            case "conv":
                return self.conv(layer, ins[0], arrays)
            case "linear":
                return self.linear(layer, ins[0], arrays)
            case "batch_norm":
                parts = [self.constant(arrays[n], f"{layer.name}.{n}") for n in ("scale", "bias", "mean", "var")]
                return self.node("BatchNormalization", [ins[0], *parts], epsilon=BATCH_NORM_EPSILON)
            case "activation":
                return self.activation(layer.attributes["kind"], ins[0])
            case "avg_pool":
                return self.pool(layer, ins[0], "AveragePool", count_include_pad=0)
            case "max_pool":
                return self.pool(layer, ins[0], "MaxPool")
            case "global_avg_pool":
                return self.node("Flatten", [self.node("GlobalAveragePool", ins)])
            case "add":
                total = ins[0]
                for term in ins[1:]:  # in pairs: Add is what runtimes fuse, Sum is not
                    total = self.node("Add", [total, term])
                return total
            case "multiply":
                if layer.input_shapes[0] == layer.input_shapes[1]:
                    return self.node("Mul", ins)
                gate = self.node("Unsqueeze", [ins[1], self.constant(np.asarray([2, 3], np.int64))])
                return self.node("Mul", [ins[0], gate])
            case "channel_shuffle":
                groups, (height, width, channels) = layer.attributes["groups"], layer.output_shape
                x = self.reshape(ins[0], (groups, channels // groups, height, width))
                x = self.node("Transpose", [x], perm=[0, 2, 1, 3, 4])
                return self.reshape(x, (channels, height, width))
            case "resize":
                # a little more than the ratio, because the size is its product with the old one, rounded down
                ratios = np.asarray(layer.output_shape[:2]) / np.asarray(layer.input_shapes[0][:2]) * (1 + 1e-6)
                scales = self.constant(np.asarray([1, 1, *ratios], np.float32))
                return self.node("Resize", [ins[0], "", scales], mode="linear")
            case "zeros":
                return self.zeros(layer.output_shape)
            case "concat":
                return self.node("Concat", ins, axis=1)
            case "offset":
                ends = ([1, 1], list(layer.input_shapes[0][:2]), [2, 3])
                return self.node("Slice", [ins[0], *(self.constant(np.asarray(v, np.int64)) for v in ends)])
        raise ValueError(f"layer '{layer.name}': operation '{layer.op}' has no ONNX form")

    def finish(self, shape, metadata, opset) -> Any:
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes, "network", self.inputs, [self._info("output", _first(shape))], list(self.constants.values())
        )
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION[opset], producer_name="nas")
        helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
        self.onnx.checker.check_model(model)
        return model


def _first(shape: Sequence[int]) -> tuple[int, ...]:
    """(H, W, C) as (C, H, W)."""
    return (shape[-1], *shape[:-1])
