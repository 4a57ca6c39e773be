"""Writing a network once for all its uses: as a layer list for one row, as one program for every row.

A space is a function ``network(net, macro)`` that calls the methods of `net` as a forward pass would. `LayerBuilder`,
here, records the layers of one row; `nas.supernet` runs the same function on arrays with the row as data.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nas.errors import BadInput
from nas.layers import Layer, Shape


class Zeros(NamedTuple):
    """The value of an operation that gives nothing: no layer, dropped by `add`."""

    shape: Shape


class LayerBuilder:
    """Records the layers of one architecture, inferring shapes.

    Values are handles; pass them on, ask `shape` of them, and do nothing else with them::

        def network(net, macro):
            with net.block("stem"):
                x = net.batch_norm(net.conv(net.input, macro.width, 3))
            for i in range(3):
                with net.scope(f"layer_{i}"):
                    x = net.choice(f"layer_{i}", {"skip": lambda x=x: x, "conv": lambda x=x: conv_block(net, x)})
            return net.linear(net.global_avg_pool(x), macro.classes)
    """

    def __init__(self, input_shape: Shape, decisions: Sequence, row: Sequence[int]):
        self._layers = [Layer("input", "input", {}, (), (), tuple(input_shape))]
        self._decisions = {d.name: d for d in decisions}
        self._row = {d.name: int(i) for d, i in zip(decisions, row, strict=True)}
        self._path: list[str] = []
        self._in_block = False
        self.input: Any = 0

    # ---- choices -------------------------------------------------------------------------------------------------
    def choice(self, decision: str, branches: Mapping[Any, Callable[..., Any]], on: Any = None) -> Any:
        """The value of the branch that the row chooses.

        Args:
            decision: its name.
            branches: option -> function without arguments; a tuple of options shares one branch. All branches give
                the same shape. Layers inside are named under ``decision.option`` (or ``decision.option_option``).
            on: where given, the one value that branches work on, handed to each as its argument. They give as many
                channels as it has: a supernet with partial channels hands them a part of it.
        """
        return self._choose(decision, list(labelled(branches, on)))

    def _choose(self, decision, cases):
        option = self._decisions[decision].options[self._row[decision]]
        label, branch = next((label, b) for options, label, b in cases if option in options)
        with self.scope(f"{decision}.{label}" if label else decision):
            return branch()

    def when(self, predicate: Any, branch: Callable[[], Any], otherwise: Any, *, name: str) -> Any:
        """The value of `branch` where `predicate` holds, else the value `otherwise`, of the same shape.

        A Python bool is decided once for all rows; what `chosen` gives, row by row. Layers inside are named under
        `name`.
        """
        if not predicate:
            return otherwise
        with self.scope(name):
            return branch()

    def nodes(
        self,
        edges: Mapping[str, Sequence[str]],
        body: Callable[[str, Any, int], Any],
        inputs: Sequence[Any],
        *,
        stride: int = 1,
    ) -> list[Any]:
        """The nodes of a cell, in order: each the sum over its edges of ``body(edge, x, stride)``.

        The decision ``<edge>_input`` chooses x by position, among `inputs` and then the nodes before this one. The
        shared program compiles `body` once for all edges, so every edge has the same layers in it, all of them inside
        choices on decisions that are called after the edge (``<edge>_...``).

        Args:
            edges: node name -> names of its edges.
            body: what an edge computes; called with stride 1 where x is a node.
            inputs: values of one shape.
            stride: of an edge that reads an input. At 1, nodes have the shape of the inputs.
        """
        found: list[Any] = []
        for node, names in edges.items():
            terms = [self._edge(name, body, inputs, found, stride) for name in names]
            found.append(self.add(terms, name=node))
        return found

    def _edge(self, edge, body, inputs, nodes, stride):
        decision, n = f"{edge}_input", len(inputs)
        options = range(n + len(nodes))
        if stride == 1:
            return body(edge, self._pick(decision, [*inputs, *nodes], 0), 1)
        cases = [(options[:n], "input", lambda: body(edge, self._pick(decision, inputs, 0), stride))]
        if nodes:
            cases.append((options[n:], "node", lambda: body(edge, self._pick(decision, nodes, n), 1)))
        return self._choose(decision, cases)

    def _pick(self, decision, values, start):
        return values[self._decisions[decision].options[self._row[decision]] - start]

    def chosen(self, decision: str, option: Any) -> Any:
        """Whether the row takes this option: a bool array without dimensions, for ``&``, ``|`` and ``~``."""
        return np.bool_(self._decisions[decision].options[self._row[decision]] == option)

    def width(self, decision: str, of: Callable[[Any], int] = int) -> Any:
        """A channel count that a decision chooses, to be passed on as `features`: `of` its option.

        Counts that follow from one decision, such as a layer's channels and six times as many, are each a call.
        """
        return of(self._decisions[decision].options[self._row[decision]])

    # ---- names ---------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Layers added inside are named under `name`."""
        self._path.append(name)
        try:
            yield
        finally:
            self._path.pop()

    @contextlib.contextmanager
    def block(self, kind: str | Callable[[Sequence[Layer]], str], name: str = "") -> Iterator[None]:
        """A scope whose layers are measured together; `kind` and the shapes at its ends make its block key.

        A block inside a block is a plain scope.

        Args:
            kind: equal for equal blocks only; ``-name:value`` in it are attributes, see `nas.layers.parse_block`. A
                function, of the block's layers, where choices are taken inside.
            name: of the scope; default `kind`, or ``block`` where that is a function.
        """
        with self.scope(name or ("block" if callable(kind) else kind)):
            if self._in_block:
                yield
                return
            first, self._in_block = len(self._layers), True
            try:
                yield
            finally:
                self._in_block = False
            if len(self._layers) > first:
                self._seal(first, kind, ".".join(self._path))

    def _seal(self, first, kind, place):
        own = self._layers[first:]
        outside = dict.fromkeys(i for layer in own for i in layer.inputs if i < first)
        ins = "+".join(_dims(self._layers[i].output_shape) for i in outside) or "none"
        kind = kind(own) if callable(kind) else kind
        key = f"{kind}-input:{ins}-output:{_dims(own[-1].output_shape)}"
        self._layers[first:] = [
            Layer(x.name, x.op, x.attributes, x.inputs, x.input_shapes, x.output_shape, place, key) for x in own
        ]

    # ---- operations ----------------------------------------------------------------------------------------------
    def shape(self, x: Any) -> Shape:
        """(H, W, C) or (C,) of a value, without the batch."""
        return x.shape if isinstance(x, Zeros) else self._layers[x].output_shape

    def conv(
        self,
        x: Any,
        features: Any,
        kernel: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        name: str = "conv",
    ) -> Any:
        """2-D convolution, kernel HWIO, padding ``dilation * (k - 1) // 2`` on each side (PyTorch's ``k // 2``)."""
        kernel, stride = pair(kernel), pair(stride)
        sizes = zip(self.shape(x)[:2], kernel, stride, strict=True)
        out = [(n + 2 * (dilation * (k - 1) // 2) - dilation * (k - 1) - 1) // s + 1 for n, k, s in sizes]
        attributes = dict(features=features, kernel=kernel, stride=stride, dilation=dilation, groups=groups, bias=bias)
        return self._add("conv", (x,), (*out, features), name, attributes)

    def batch_norm(self, x: Any, *, affine: bool = True, name: str = "batch_norm") -> Any:
        """Batch normalisation over all but the channels, epsilon 1e-5, momentum 0.9 (PyTorch's 0.1)."""
        return self._add("batch_norm", (x,), self.shape(x), name, dict(affine=affine))

    def activation(self, x: Any, kind: str = "relu", *, name: str | None = None) -> Any:
        """Element-wise; `kind` is one of `nas.layers.ACTIVATIONS`."""
        return self._add("activation", (x,), self.shape(x), name or kind, dict(kind=kind))

    def avg_pool(self, x: Any, window: int = 3, *, stride: int = 1, name: str = "avg_pool") -> Any:
        """Mean over a window; padding is not counted. Odd windows are padded to keep the size, even ones not."""
        return self._add("avg_pool", (x,), self._pooled(x, window, stride), name, dict(window=window, stride=stride))

    def max_pool(self, x: Any, window: int = 3, *, stride: int = 1, name: str = "max_pool") -> Any:
        """Maximum over a window, padded as `avg_pool`."""
        return self._add("max_pool", (x,), self._pooled(x, window, stride), name, dict(window=window, stride=stride))

    def _pooled(self, x, window, stride):
        h, w, c = self.shape(x)
        pad = (window - 1) // 2
        return ((h + 2 * pad - window) // stride + 1, (w + 2 * pad - window) // stride + 1, c)

    def global_avg_pool(self, x: Any, *, name: str = "global_avg_pool") -> Any:
        """Mean over height and width: (H, W, C) to (C,)."""
        return self._add("global_avg_pool", (x,), self.shape(x)[-1:], name, {})

    def linear(self, x: Any, features: int, *, bias: bool = True, name: str = "linear") -> Any:
        """Dense layer on the last axis."""
        shape = (*self.shape(x)[:-1], features)
        return self._add("linear", (x,), shape, name, dict(features=features, bias=bias))

    def resize(self, x: Any, size: int | tuple[int, int], *, name: str = "resize") -> Any:
        """(H, W, C) brought to another size; nothing where it has that size already."""
        size = pair(size)
        if self.shape(x)[:2] == size:
            return x
        return self._add("resize", (x,), (*size, self.shape(x)[-1]), name, dict(size=size))

    def zeros(self, shape: Shape) -> Any:
        """Nothing, of a shape: the value of the operation ``none``."""
        return Zeros(tuple(shape))

    def add(self, xs: Sequence[Any], *, name: str = "add") -> Any:
        """Sum of at least one value; zeros drop out, and a single value is passed on without a layer."""
        terms = [x for x in xs if not isinstance(x, Zeros)]
        if len(terms) < 2:
            return terms[0] if terms else xs[0]
        self._same_size(terms, name)
        return self._add("add", terms, self.shape(terms[0]), name, {})

    def multiply(self, x: Any, gate: Any, *, name: str = "multiply") -> Any:
        """Product with `gate`: entry by entry, or each channel of x (H, W, C) by its entry of a gate (C,).

        The latter is the end of squeeze-and-excitation.
        """
        if self.shape(gate) not in (self.shape(x), self.shape(x)[-1:]):
            raise BadInput(f"network: '{name}' takes a gate of shape {self.shape(x)[-1:]}, not {self.shape(gate)}")
        return self._add("multiply", (x, gate), self.shape(x), name, {})

    def channel_shuffle(self, x: Any, groups: int, *, name: str = "channel_shuffle") -> Any:
        """Channels dealt out over `groups` in turn, so that the next grouped convolution sees all of them.

        Zhang et al., "ShuffleNet", CVPR 2018. Not for widths that are a decision.
        """
        if self.shape(x)[-1] % groups:
            raise BadInput(f"network: '{name}' cannot deal {self.shape(x)[-1]} channels out over {groups} groups")
        return self._add("channel_shuffle", (x,), self.shape(x), name, dict(groups=groups))

    def concat(self, xs: Sequence[Any], *, keep: Sequence[Any] | None = None, name: str = "concat") -> Any:
        """Concatenation along channels, of those parts for which `keep` holds (at least one)."""
        kept = [bool(k) for k in keep] if keep is not None else [True] * len(xs)
        parts = [x for x, k in zip(xs, kept, strict=True) if k]
        self._same_size(parts, name)
        widths = [self.shape(x)[-1] for x in xs]
        shape = (*self.shape(parts[0])[:-1], sum(self.shape(x)[-1] for x in parts))
        return self._add("concat", parts, shape, name, dict(kept=kept, widths=widths))

    def _same_size(self, xs, name):
        sizes = {self.shape(x)[:-1] for x in xs}
        if len(sizes) > 1:
            where, size = ".".join([*self._path, name]), _dims(self._layers[0].output_shape)
            shown = " and ".join(map(_dims, sorted(sizes)))
            raise BadInput(f"macro: input {size} does not halve evenly; {shown} meet at '{where}'")

    def offset(self, x: Any, *, name: str = "offset") -> Any:
        """Drops the first row and column."""
        h, w, c = self.shape(x)
        return self._add("offset", (x,), (h - 1, w - 1, c), name, {})

    # ---- of recurrent networks -----------------------------------------------------------------------------------
    def embedding(self, x: Any, vocabulary: int, features: int, *, name: str = "embedding") -> Any:
        """(T,) tokens, each below `vocabulary`, to (T, features)."""
        attributes = dict(vocabulary=vocabulary, features=features)
        return self._add("embedding", (x,), (*self.shape(x), features), name, attributes)

    def state(self, shape: Shape, of: str, *, name: str = "state") -> Any:
        """(T, features): at each token what the layer called `of` gave at the token before, and zeros at the first.

        What is added from here to that layer runs token after token; see `nas.recurrent`.
        """
        return self._add("state", (), shape, name, dict(of=of))

    def highway(self, s: Any, gated: Any, kind: str, *, name: str = "highway") -> Any:
        """``s + sigmoid(c) * (kind(h) - s)``, where `gated` is c and h side by side, twice as wide as s."""
        return self._add("highway", (s, gated), self.shape(s), name, dict(kind=kind))

    def mean(self, xs: Sequence[Any], *, name: str = "mean") -> Any:
        """Mean of values of one shape."""
        return self._add("mean", xs, self.shape(xs[0]), name, {})

    def decode(self, x: Any, vocabulary: int, *, table: str = "embedding", name: str = "decode") -> Any:
        """(T, features) to scores (T, vocabulary) by the rows of the embedding's own table, and a bias of each token.

        Press and Wolf, "Using the Output Embedding to Improve Language Models", EACL 2017.
        """
        shape = (*self.shape(x)[:-1], vocabulary)
        return self._add("decode", (x,), shape, name, dict(features=vocabulary, table=table))

    # ---- of transformers -----------------------------------------------------------------------------------------
    def layer_norm(self, x: Any, *, name: str = "layer_norm") -> Any:
        """Normalisation over channels, epsilon 1e-5 (PyTorch's), with a scale and a bias."""
        return self._add("layer_norm", (x,), self.shape(x), name, {})

    def attention(self, qkv: Any, heads: int, *, name: str = "attention") -> Any:
        """Queries, keys and values side by side, (T, 3 C), to (T, C): see `nas.attention.causal_attention`."""
        if len(self.shape(qkv)) != 2:
            raise BadInput(f"network: '{name}' takes tokens in a sequence, (T, channels), not {self.shape(qkv)}")
        tokens, channels = self.shape(qkv)
        if channels % (3 * heads):
            raise BadInput(f"network: '{name}' cannot deal {channels} channels out over {heads} heads")
        return self._add("attention", (qkv,), (tokens, channels // 3), name, dict(heads=heads))

    def span(self, x: Any, start: int, stop: int, *, channels: int | None = None, name: str = "span") -> Any:
        """Tokens `start` to `stop` of a sequence (T,) or (T, C), and the first `channels` of each, default all."""
        tokens, *rest = self.shape(x)
        fits = 0 <= start < stop <= tokens and len(rest) < 2
        if not fits or (channels is not None and not (rest and 0 < channels <= rest[0])):
            what = f"tokens {start} to {stop}" + (f" and {channels} channels" if channels is not None else "")
            raise BadInput(f"network: '{name}' cannot take {what} of {self.shape(x)}")
        shape = (stop - start, *([channels or rest[-1]] if rest else []))
        return self._add("span", (x,), shape, name, dict(start=start, stop=stop, channels=channels))

    def placed(self, x: Any, *, name: str = "placed") -> Any:
        """Embeddings (T, C), C even, with the places of their tokens: see `nas.attention.placed`."""
        return self._add("placed", (x,), self.shape(x), name, {})

    def attend(self, q: Any, kv: Any, heads: int, *, causal: bool = False, name: str = "attend") -> Any:
        """Queries (T, C) over keys and values side by side, (S, 2 C), to (T, C): see `nas.attention.attend`."""
        (tokens, channels), (others, both) = self.shape(q), self.shape(kv)
        if channels % heads or both != 2 * channels or (causal and tokens != others):
            shapes = f"queries {self.shape(q)} over {self.shape(kv)}"
            raise BadInput(f"network: '{name}' cannot attend from {shapes} with {heads} heads")
        return self._add("attend", (q, kv), (tokens, channels), name, dict(heads=heads, causal=causal))

    def join(self, xs: Sequence[Any], *, name: str = "join") -> Any:
        """Sequences (T, C) of as many channels, one after the other; a single one is passed on without a layer."""
        if len(xs) < 2:
            return xs[0]
        widths = {self.shape(x)[1:] for x in xs}
        if len(widths) > 1:
            raise BadInput(f"network: '{name}' cannot join values of {[self.shape(x) for x in xs]}")
        return self._add("join", xs, (sum(self.shape(x)[0] for x in xs), *widths.pop()), name, {})

    def unembed(self, x: Any, vocabulary: int, *, table: str, name: str = "unembed") -> Any:
        """(T, C) to scores (T, vocabulary) by the first C channels of an embedding's table, as `decode`; no bias."""
        shape = (*self.shape(x)[:-1], vocabulary)
        return self._add("unembed", (x,), shape, name, dict(features=vocabulary, table=table))

    def _add(self, op, inputs, shape, name, attributes) -> int:
        handles = tuple(self._solid(x) for x in inputs)
        path = ".".join([*self._path, name])
        if min(shape) < 1:
            size = _dims(self._layers[0].output_shape)
            raise BadInput(f"macro: input {size} is too small for this network; nothing is left at '{path}'")
        shapes = tuple(self.shape(x) for x in handles)
        self._layers.append(Layer(path, op, attributes, handles, shapes, tuple(shape)))
        return len(self._layers) - 1

    def _solid(self, x):
        return self._add("zeros", (), x.shape, f"zeros_{len(self._layers)}", {}) if isinstance(x, Zeros) else x

    def finish(self, out: Any) -> tuple[Layer, ...]:
        """The layers, `out` last.

        Raises:
            BadInput: two layers have the same name, or the network's output is not its last layer.
        """
        names = [layer.name for layer in self._layers]
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise BadInput(f"network: the name '{twice}' is used twice; wrap one in net.scope(...) or give name=...")
        if out != len(self._layers) - 1:
            raise BadInput("network: it must return the value of the layer it adds last")
        return tuple(self._layers)


def labelled(branches: Mapping[Any, Callable], on: Any = None) -> Iterator[tuple[tuple, str, Callable]]:
    """(options, label, branch without arguments) of each branch; the label is what its layers are named under."""
    for key, branch in branches.items():
        options = key if isinstance(key, tuple) else (key,)
        yield options, "_".join(map(str, options)), branch if on is None else functools.partial(branch, on)


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """One number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _dims(shape: Shape) -> str:
    return "x".join(map(str, shape))
