"""A resolved layer list as a Flax network: what `build`, `extract` and a trained model are made of."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nas import kernels
from nas.attention import attend, causal_attention, placed
from nas.layers import Layer
from nas.recurrent import loop_of, run_tokens

Weights = dict[str, dict[str, jax.Array]]  # layer name -> {"kernel", "bias", "scale"}
Stats = dict[str, dict[str, jax.Array]]  # layer name -> {"mean", "var"}

# variance of a kernel times its fan-in. He et al. 2015; NAS-Bench-201 and DARTS leave PyTorch's default, which has a
# sixth of this variance. Batch norm hides the size, but a step turns a kernel by the rate over its squared size: a
# published rate turns ours a sixth as far
KERNEL_GAIN = 2.0
# the head starts smaller, so that the first loss is near the entropy of the classes
LINEAR_GAIN = 1.0
BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5
LAYER_NORM_EPSILON = 1e-5


class Network(nnx.Module):
    """A network built from layers: a small real Flax module, with weights of this architecture alone.

    Call it with float[B, H, W, C]; it gives what the last layer gives, logits float[B, classes] for a classifier.
    ``network.train()`` and ``network.eval()`` switch batch norm as in Flax. A language model takes tokens int32[B, T]
    and gives float[B, T, vocabulary]; `go_on` also takes and gives its hidden state.

    Args:
        layers: resolved.
        rngs: draws the arrays; without it they are shapes alone until `load` sets them.
    """

    def __init__(self, layers: tuple[Layer, ...], *, rngs: nnx.Rngs | None = None):
        self.layers = tuple(layers)
        trained = [layer for layer in self.layers if trains(layer)]
        # Flax would draw layer by layer, and compile each draw: seconds for a network of fifty layers
        self.modules = nnx.eval_shape(lambda: nnx.Dict({_key(layer.name): _module(layer) for layer in trained}))
        if rngs is not None:
            self.load(*init_layers(self.layers, rngs.params()))

    def __call__(self, x: jax.Array) -> jax.Array:
        """float[B, *input shape] -> float[B, *output shape]."""
        return run_layers(self.layers, x, self._run)

    def go_on(self, x: jax.Array, state: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Tokens int32[B, T] after a state float[B, features] (None: zeros) to (scores, the state after them)."""
        return run_tokens(self.layers, x, self._run, state)

    def _run(self, layer, ins):
        if layer.op == "decode":
            table: Any = self.modules[_key(layer.attributes["table"])]
            return self.modules[_key(layer.name)](ins[0] @ table.kernel[...].T)
        if layer.op == "unembed":
            shared: Any = self.modules[_key(layer.attributes["table"])]
            return unembedded(shared.kernel[...], ins[0])
        return self.modules[_key(layer.name)](ins[0]) if trains(layer) else _fixed(layer, ins)

    def weights(self) -> tuple[Weights, Stats]:
        """The arrays under layer names: trained weights, and batch-norm statistics."""
        weights: Weights = {}
        stats: Stats = {}
        for layer in self.layers:
            if trains(layer):
                module = self.modules[_key(layer.name)]
                for group, names in ((weights, ("kernel", "bias", "scale")), (stats, ("mean", "var"))):
                    found = {n: getattr(module, n).get_value() for n in names if getattr(module, n, None) is not None}
                    if found:
                        group[layer.name] = found
        return weights, stats

    def load(self, weights: Mapping, stats: Mapping) -> "Network":
        """Sets every array from dictionaries as `weights` gives them, and returns the network."""
        for layer in self.layers:
            if trains(layer):
                module = self.modules[_key(layer.name)]
                for name, value in {**weights.get(layer.name, {}), **stats.get(layer.name, {})}.items():
                    getattr(module, name).set_value(jnp.asarray(value))
        return self


def run_layers(layers: tuple[Layer, ...], x: jax.Array, run) -> jax.Array:
    """Runs the list in order; `run(layer, values)` computes one layer."""
    if loop_of(layers) is not None:
        return run_tokens(layers, x, run)[0]
    values: list = []
    for layer in layers:
        ins = [values[i] for i in layer.inputs]
        if layer.op == "input":
            values.append(x)
        elif layer.op == "zeros":
            values.append(jnp.zeros((x.shape[0], *layer.output_shape), x.dtype))
        else:
            values.append(run(layer, ins))
    return values[-1]


def trains(layer: Layer) -> bool:
    """Whether the layer holds weights or statistics."""
    return layer.op in ("conv", "linear", "batch_norm", "embedding", "decode", "layer_norm")


class Table(nnx.Module):
    """A row for each token."""

    def __init__(self, vocabulary: int, features: int):
        self.kernel = nnx.Param(jnp.zeros((vocabulary, features)))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int32[...] -> float[..., features]."""
        return self.kernel[...][tokens]


class Bias(nnx.Module):
    """A number added to each score."""

    def __init__(self, features: int):
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: jax.Array) -> jax.Array:
        """float[..., features] -> the same."""
        return x + self.bias[...]


def _key(name: str) -> str:
    return name.replace(".", "/")  # nnx paths join by dots


def _module(layer: Layer) -> nnx.Module:
    """Shapes alone: `init_layers` draws what is in them."""
    a, rngs = layer.attributes, nnx.Rngs(0)
    if layer.op == "embedding":
        return Table(a["vocabulary"], a["features"])
    if layer.op == "decode":
        return Bias(a["features"])
    channels = layer.input_shapes[0][-1]
    if layer.op == "layer_norm":
        return nnx.LayerNorm(channels, epsilon=LAYER_NORM_EPSILON, rngs=rngs)
    if layer.op == "linear":
        return nnx.Linear(channels, a["features"], use_bias=a["bias"], rngs=rngs)
    if layer.op == "batch_norm":
        return nnx.BatchNorm(
            channels,
            momentum=BATCH_NORM_MOMENTUM,
            epsilon=BATCH_NORM_EPSILON,
            use_scale=a["affine"],
            use_bias=a["affine"],
            rngs=rngs,
        )
    padding = [(a["dilation"] * (k - 1) // 2,) * 2 for k in a["kernel"]]
    return nnx.Conv(
        channels,
        a["features"],
        a["kernel"],
        strides=a["stride"],
        padding=padding,
        kernel_dilation=a["dilation"],
        feature_group_count=a["groups"],
        use_bias=a["bias"],
        # XLA's own depthwise convolution is 20-100 times slower than it should be on a CPU
        conv_general_dilated=_depthwise if a["groups"] > 1 else jax.lax.conv_general_dilated,
        rngs=rngs,
    )


def _depthwise(x, kernel, strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, **_):
    return kernels.conv2d(x, kernel, stride=tuple(strides), dilation=rhs_dilation[0], groups=feature_group_count)


def activation(kind: str, x: jax.Array) -> jax.Array:
    """One of `nas.layers.ACTIVATIONS`, element-wise."""
    return x if kind == "identity" else getattr(jax.nn, kind)(x)


def _fixed(layer: Layer, ins: list[jax.Array]) -> jax.Array:
    a = layer.attributes
    match layer.op:
        case "activation":
            return activation(a["kind"], ins[0])
        case "avg_pool":
            return kernels.avg_pool(ins[0], a["window"], stride=a["stride"])
        case "max_pool":
            return kernels.max_pool(ins[0], a["window"], stride=a["stride"])
        case "global_avg_pool":
            return ins[0].mean((1, 2))
        case "add":
            return sum(ins[1:], ins[0])
        case "multiply":
            if ins[0].shape == ins[1].shape:
                return ins[0] * ins[1]
            return ins[0] * ins[1].reshape(ins[1].shape[0], *(1,) * (ins[0].ndim - 2), -1)
        case "attention":
            return causal_attention(ins[0], a["heads"])
        case "span":
            tokens = ins[0][:, a["start"] : a["stop"]]
            return tokens if a["channels"] is None else tokens[..., : a["channels"]]
        case "placed":
            return placed(ins[0])
        case "attend":
            return attend(ins[0], ins[1], a["heads"], causal=a["causal"])
        case "join":
            return jnp.concatenate(ins, 1)
        case "resize":
            return jax.image.resize(ins[0], (len(ins[0]), *a["size"], ins[0].shape[-1]), "linear", antialias=False)
        case "channel_shuffle":
            shape = ins[0].shape
            groups = ins[0].reshape(*shape[:-1], a["groups"], -1)
            return groups.swapaxes(-1, -2).reshape(shape)
        case "concat":
            return jnp.concatenate(ins, -1)
        case "offset":
            return ins[0][:, 1:, 1:]
        case "highway":
            c, h = jnp.split(ins[1], 2, -1)
            return ins[0] + jax.nn.sigmoid(c) * (activation(a["kind"], h) - ins[0])
        case "mean":
            return sum(ins[1:], ins[0]) / len(ins)
    raise ValueError(f"layer '{layer.name}': no operation '{layer.op}'")


# ---- the same list as pure functions -----------------------------------------------------------------------------
def init_layers(layers: Sequence[Layer], key: jax.Array) -> tuple[Weights, Stats]:
    """Newly drawn arrays of every layer that holds any, under layer names: normal ones cut at two deviations.

    One draw is cut into all kernels: hundreds of draws would compile for minutes. Outside of a compiled program numpy
    cuts, as XLA would compile each cut.
    """
    trained = [layer for layer in layers if trains(layer)]
    kernelless = ("batch_norm", "layer_norm", "decode")
    shapes = {layer.name: _kernel_shape(layer) for layer in trained if layer.op not in kernelless}
    sizes = [math.prod(shape) for shape in shapes.values()]
    # the barrier keeps XLA from computing the draw anew inside every kernel
    flat = jax.lax.optimization_barrier(jax.random.truncated_normal(key, -2, 2, (sum(sizes),)))
    xp: Any = jnp if isinstance(flat, jax.core.Tracer) else np
    drawn = dict(zip(shapes, xp.split(xp.asarray(flat), np.cumsum(sizes)[:-1]), strict=True)) if shapes else {}
    weights: Weights = {}
    stats: Stats = {}
    for layer in trained:
        a, width = layer.attributes, layer.output_shape[-1]
        # each array has memory of its own, as training reuses it
        zeros, ones = (functools.partial(make, width, np.float32) for make in (xp.zeros, xp.ones))
        if layer.op == "batch_norm":
            stats[layer.name] = {"mean": zeros(), "var": ones()}
        if layer.op == "layer_norm" or (layer.op == "batch_norm" and a["affine"]):
            weights[layer.name] = {"scale": ones(), "bias": zeros()}
        elif layer.op == "decode":
            weights[layer.name] = {"bias": zeros()}
        elif layer.name in drawn:
            shape, gain = shapes[layer.name], KERNEL_GAIN if layer.op == "conv" else LINEAR_GAIN
            # a table's rows are what a matrix multiplies at the other end of the network
            fan_in = width if layer.op == "embedding" else math.prod(shape[:-1])
            # 0.8796 is the standard deviation of a normal cut at two
            kernel = drawn[layer.name].reshape(shape) * np.float32(math.sqrt(gain / fan_in) / 0.87962566)
            weights[layer.name] = {"kernel": kernel} | ({"bias": zeros()} if a.get("bias") else {})
    return jax.tree.map(jnp.asarray, (weights, stats))


def _kernel_shape(layer: Layer) -> tuple[int, ...]:
    a, channels = layer.attributes, layer.input_shapes[0][-1]
    if layer.op == "embedding":
        return a["vocabulary"], a["features"]
    return (*a["kernel"], channels // a["groups"], a["features"]) if layer.op == "conv" else (channels, a["features"])


def apply_layers(layers: tuple[Layer, ...], weights: Mapping, stats: Mapping, x: jax.Array, *, train: bool):
    """(out, moved stats) of a resolved network as a pure function, with the kernels that are fast in loops."""
    moved = dict(stats)

    def run(layer, ins):
        out, new = run_layer(layer, own_weights(layer, weights), stats.get(layer.name), ins, train)
        if new is not None:
            moved[layer.name] = new
        return out

    return run_layers(layers, x, run), moved


def own_weights(layer: Layer, weights: Mapping) -> Mapping:
    """The arrays of a layer; those of a decoder with the table that it shares."""
    own = weights.get(layer.name, {})
    shares = layer.op in ("decode", "unembed")
    return {**own, "table": weights[layer.attributes["table"]]["kernel"]} if shares else own


def run_layer(layer: Layer, weights: Mapping, stats: Any, ins: list[jax.Array], train: bool):
    """(output, moved stats or None) of any one layer.

    Two entries that no training has let `nas.proxies` look inside: statistics of an activation, which become how alike
    it sees each pair of images, and ``gate`` float[B, ..., C] beside a kernel, which its output is multiplied by.
    """
    if layer.op == "unembed":
        return unembedded(weights["table"], ins[0]), None
    if not trains(layer):
        return _fixed(layer, ins), None if stats is None else {"alike": alike(ins[0])}
    a, x = layer.attributes, ins[0]
    if layer.op == "batch_norm":
        out, (mean, var) = kernels.batch_norm(
            x,
            weights.get("scale"),
            weights.get("bias"),
            stats["mean"],
            stats["var"],
            train=train,
            momentum=BATCH_NORM_MOMENTUM,
            epsilon=BATCH_NORM_EPSILON,
        )
        return out, {"mean": mean, "var": var}
    if layer.op == "layer_norm":
        return jax.nn.standardize(x, epsilon=LAYER_NORM_EPSILON) * weights["scale"] + weights["bias"], None
    if layer.op == "conv":
        out = kernels.conv2d(x, weights["kernel"], stride=a["stride"], dilation=a["dilation"], groups=a["groups"])
    elif layer.op == "embedding":
        return weights["kernel"][x], None
    elif layer.op == "decode":
        out = x @ weights["table"].T
    else:
        out = x @ weights["kernel"]
    out = out + weights["bias"] if "bias" in weights else out
    return out * weights["gate"] if "gate" in weights else out, None


def unembedded(table: jax.Array, x: jax.Array) -> jax.Array:
    """float[..., C] to scores [..., vocabulary], by the first C channels of a table [vocabulary, at least C]."""
    return x @ table[:, : x.shape[-1]].T


def alike(x: jax.Array) -> jax.Array:
    """float[B, ...] -> float32[B, B]: how many values lie on the same side of zero in both images.

    A value of exactly zero is on no side, so channels that are masked and nodes that nothing reaches are not counted.
    """
    x = x.reshape(x.shape[0], -1)
    above, below = (x > 0).astype(jnp.float32), (x < 0).astype(jnp.float32)
    return above @ above.T + below @ below.T


def split_names(arrays: Mapping[str, Any]) -> tuple[Weights, Stats]:
    """``{"layer/name": array}`` to (weights, stats) by layer."""
    weights: Weights = {}
    stats: Stats = {}
    for path, array in arrays.items():
        layer, _, name = path.rpartition("/")
        (stats if name in ("mean", "var") else weights).setdefault(layer, {})[name] = array
    return weights, stats
