"""A supernet: one program that computes every architecture of a space, chosen by data."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas.builder import LayerBuilder, Zeros
from nas.errors import BadInput
from nas.layers import Layer, Shape
from nas.network import apply_layers, init_layers, run_layer, trains
from nas.switch import switch

if TYPE_CHECKING:
    from nas.space import Macro, SearchSpace


# operations whose output has the channels of their (first) input
PASSING = ("activation", "batch_norm", "offset", "global_avg_pool", "avg_pool", "max_pool", "multiply")


class Supernet(NamedTuple):
    """Pure functions; the weights of all choices live side by side in one pytree.

    Attributes:
        init: ``(key, row=None) -> (weights, stats)``; stats are the batch-norm statistics. With a row, the kernels are
            drawn for that architecture's fan-in where the space's widths are elastic.
        apply: ``(weights, stats, x, choice, *, carry=None, train, key=None) -> (out, stats, carry)``. `x` is
            float[B, H, W, C], `choice` a row int32[L] (or gates, for a relaxed space), `out` float[B, classes].
            `carry` is the state of a recurrent network, float[B, features], before and after; None is zeros before
            the first token, and nothing elsewhere. There x is int32[B, T], and out float[B, T, classes]. Choosing
            another row compiles nothing.
        extract: ``(weights, stats, row) -> (weights, stats)`` of that row's own network, under its layer names, as
            `nas.network.Network.load` takes them.
        layers: every layer of every branch, under the name its arrays have. A supernet written by hand may leave it
            empty; `nas.proxies.naswot` then has nothing to look at.
        training: ``(weights, stats, x, choice, *, key, progress float32) -> (outs, stats)``, the pass that is trained
            where that is another than `apply`: its output, and those of auxiliary heads. `progress` goes from 0 to 1.
        start: ``(B) -> carry`` before the first sequence of a text, of a network that is trained and measured on
            consecutive sequences with its state carried on. None: each example stands alone.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[Any, Any, Any]]
    extract: Callable[..., tuple[dict, dict]]
    layers: tuple[Layer, ...] = ()
    training: Callable[..., tuple[tuple[Any, ...], Any]] | None = None
    start: Callable[[int], Any] | None = None


def choice_supernet(space: "SearchSpace", macro: "Macro") -> Supernet:
    """The supernet of any space written with ``net.choice``: every branch has weights, `switch` runs the chosen one.

    A candidate costs what its own operations cost. Elastic widths (``net.width``) are masked: the largest width is
    computed and the rest set to zero, so a narrow candidate costs as much as the widest.
    """
    collected = _collect(space, macro, None)

    def init(key, row=None):
        found = _collect(space, macro, row)
        layers = found.finish_all()
        weights, stats = init_layers(layers, key)
        for layer in layers:
            active = found.active.get(layer.inputs[0]) if layer.inputs else None
            kernel = weights.get(layer.name, {}).get("kernel")
            if active is not None and kernel is not None and layer.attributes.get("groups", 1) == 1:
                weights[layer.name]["kernel"] = kernel * jnp.sqrt(layer.input_shapes[0][-1] / active)
        return weights, stats

    def apply(weights, stats, x, choice, *, carry=None, train, key=None):
        net = _Run(space.decisions, choice, weights, stats, x, train)
        out = space.network(net, macro)
        return net.solid(out).array, {**stats, **net.moved}, carry

    def extract(weights, stats, row):
        layers = space.layers(row, macro)
        own_weights: dict = {}
        own_stats: dict = {}
        for layer in layers:
            if trains(layer):
                cut = {n: _cut(layers, layer, n, a, collected) for n, a in weights.get(layer.name, {}).items()}
                own_weights |= {layer.name: cut} if cut else {}
                kept = {n: a[: layer.output_shape[-1]] for n, a in stats.get(layer.name, {}).items()}
                own_stats |= {layer.name: kept} if kept else {}
        return own_weights, own_stats

    return Supernet(init, apply, extract, tuple(collected.finish_all()))


def network_supernet(layers: tuple[Layer, ...]) -> Supernet:
    """One resolved network in the supernet's form, its `choice` ignored: what is trained alone."""

    def apply(weights, stats, x, choice=None, *, carry=None, train, key=None):
        out, stats = apply_layers(layers, weights, stats, x, train=train)
        return out, stats, carry

    return Supernet(
        lambda key, row=None: init_layers(layers, key), apply, lambda weights, stats, row=None: (weights, stats), layers
    )


class Elastic(int):
    """A channel count: the largest as a number for shapes, and the active count as data."""

    active: Any

    def __new__(cls, largest: int, active: Any) -> "Elastic":
        """An int with `active` attached."""
        value = super().__new__(cls, largest)
        value.active = active
        return value


class Value(NamedTuple):
    """What a running supernet passes on: an array [B, ...], and how many channels are active (None: all)."""

    array: jax.Array
    active: Any = None


class _Collect(LayerBuilder):
    """Walks every branch, to find all layers that hold weights."""

    def __init__(self, input_shape, decisions, row):
        super().__init__(input_shape, decisions, [0] * len(decisions))
        self.row = None if row is None else dict(zip(self._decisions, row, strict=True))
        self.active: dict[int, Any] = {}  # handle -> active channels, where not all are

    def _choose(self, decision, cases):
        options = self._decisions[decision].options
        covered = [o for given, _, _ in cases for o in given]
        if missing := [o for o in options if o not in covered]:
            raise BadInput(f"network: choice '{decision}' has no branch for option {missing[0]!r}")
        results = []
        for _, label, branch in cases:
            with self.scope(f"{decision}.{label}"):
                results.append(branch())
        return self._alike(results, f"choice '{decision}'")

    def when(self, predicate, branch, otherwise, *, name):
        if isinstance(predicate, bool):
            return super().when(predicate, branch, otherwise, name=name)
        return self._alike([super().when(True, branch, otherwise, name=name), otherwise], f"'{name}'")

    def _alike(self, results, what):
        shapes = {self.shape(r) for r in results}
        if len(shapes) > 1:
            shown = " and ".join(map(str, sorted(shapes)))
            raise BadInput(f"network: the branches of {what} give different shapes: {shown}")
        return next((r for r in results if not isinstance(r, Zeros)), results[0])

    def _pick(self, decision, values, start):
        return values[0]

    def chosen(self, decision, option):
        return np.bool_(True) if self.row is None else _chosen(self._decisions[decision], self.row[decision], option)

    def width(self, decision, of=int):
        counts = [of(option) for option in self._decisions[decision].options]
        return Elastic(max(counts), None if self.row is None else jnp.asarray(counts)[self.row[decision]])

    def concat(self, xs, *, keep=None, name="concat"):
        handle = super().concat(xs, name=name)
        if keep is not None and self.row is not None:
            widths = [self.active.get(x, self.shape(x)[-1]) for x in xs]
            self.active[handle] = sum(w * k for w, k in zip(widths, keep, strict=True))
        return handle

    def _add(self, op, inputs, shape, name, attributes):
        handle = super()._add(op, inputs, shape, name, attributes)
        active = getattr(attributes["features"], "active", None) if "features" in attributes else None
        if "features" not in attributes and inputs:
            active = self.active.get(self._layers[handle].inputs[0])
        if active is not None:
            self.active[handle] = active
        return handle

    def finish_all(self) -> list[Layer]:
        return self._layers


def _collect(space, macro, row) -> _Collect:
    net = _Collect(macro.input, space.decisions, row)
    space.network(net, macro)
    return net


class _Run(LayerBuilder):
    """Computes on arrays; the row is data."""

    def __init__(self, decisions: Sequence, row: Any, weights: Mapping, stats: Mapping, x: jax.Array, train: bool):
        self._decisions = {d.name: d for d in decisions}
        # as floats, because a branch inside a loop may close over differentiable arrays only (jax.closure_convert)
        self._row = {d.name: jnp.float32(row[i]) for i, d in enumerate(decisions)}
        self._path, self._in_block = [], True
        self.weights, self.stats, self.train = weights, stats, train
        self.moved: dict[str, Any] = {}
        self.input = Value(x)

    def shape(self, x: Any) -> Shape:
        return x.shape if isinstance(x, Zeros) else x.array.shape[1:]

    def solid(self, x: Any) -> Value:
        batch, dtype = self.input.array.shape[0], self.input.array.dtype
        return Value(jnp.zeros((batch, *x.shape), dtype)) if isinstance(x, Zeros) else x

    def chosen(self, decision, option):
        return _chosen(self._decisions[decision], self._row[decision], option)

    def width(self, decision, of=int):
        counts = [of(option) for option in self._decisions[decision].options]
        # as floats, as in __init__: a branch may close over the count
        return Elastic(max(counts), jnp.asarray(counts, jnp.float32)[jnp.int32(self._row[decision])])

    def _choose(self, decision, cases):
        index = jnp.asarray(self._case_of(decision, cases), jnp.int32)[jnp.int32(self._row[decision])]
        return self._switch(index, decision, [(label, branch) for _, label, branch in cases])

    def _case_of(self, decision, cases):
        """For each option of the decision, which case has it."""
        options = self._decisions[decision].options
        return [next(k for k, (given, _, _) in enumerate(cases) if option in given) for option in options]

    def when(self, predicate, branch, otherwise, *, name):
        if isinstance(predicate, bool):
            return super().when(predicate, branch, otherwise, name=name)
        return self._switch(jnp.int32(predicate), name, [("", lambda: otherwise), ("", branch)])

    def _switch(self, index, scope, cases):
        """Runs one of ``(label, branch)`` by `index`; layers are named under ``scope.label``."""
        prefix = ".".join([*self._path, scope, ""])
        below = {name: s for name, s in self.stats.items() if name.startswith(prefix)}
        outer, elastic = self.moved, []

        def case(label, branch):
            def go():
                self.moved = dict(below)
                with self.scope(f"{scope}.{label}" if label else scope):
                    value = self.solid(branch())
                elastic.append(value.active is not None)
                # a float, because a count that leaves a branch as an integer has no gradient to give back
                active = jnp.float32(value.array.shape[-1] if value.active is None else value.active)
                return value.array, active, self.moved

            return jax.closure_convert(go)

        converted = [case(label, branch) for label, branch in cases]
        # one list of what any branch closes over, each array once
        consts = list({id(c): c for _, cs in converted for c in cs}.values())
        place = {id(c): i for i, c in enumerate(consts)}
        taken = [[place[id(c)] for c in cs] for _, cs in converted]
        runs = [lambda *all, f=f, at=at: f(*(all[i] for i in at)) for (f, _), at in zip(converted, taken, strict=True)]
        array, active, moved = switch(index, runs, *consts)
        self.moved = {**outer, **moved}
        return Value(array, jax.lax.stop_gradient(active) if any(elastic) else None)

    def nodes(self, edges, body, inputs, *, stride=1):
        """All edges in one loop: `body` is compiled once and runs on the weights of each edge in turn."""
        names = [name for of_node in edges.values() for name in of_node]
        model = names[-1]  # may read every value there is, so it has the layers of all edges
        arrays = jnp.stack([self.solid(x).array for x in inputs])
        n = len(inputs)

        def edge(read, stack):
            if stride == 1:
                return body(model, _at(stack, read), 1)
            outer, inner = _at(arrays, jnp.minimum(read, n - 1)), _at(stack, jnp.maximum(read - n, 0))
            cases = [("input", lambda: body(model, outer, stride)), ("node", lambda: body(model, inner, 1))]
            return self._switch(jnp.int32(read >= n), f"{model}_input", cases)

        def step(stack, own):
            target, row, weights, stats = own
            with self._standing_in(row, weights, stats):
                value = self.solid(edge(jnp.int32(row[f"{model}_input"]), stack)).array
                return stack.at[target].add(value), self.moved

        first = n if stride == 1 else 0
        shape = arrays.shape[1:]
        if stride > 1:
            with self._standing_in({}, self.weights, self.stats), self.scope(f"{model}_input.input"):
                shape = jax.eval_shape(lambda: self.solid(body(model, Value(arrays[0]), stride)).array).shape
        stack = jnp.zeros((first + len(edges), *shape), arrays.dtype)
        stack = stack.at[:n].set(arrays) if stride == 1 else stack
        target = jnp.asarray([first + k for k, of_node in enumerate(edges.values()) for _ in of_node])
        row = {
            d: jnp.stack([self._row[e + d.removeprefix(model)] for e in names])
            for d in self._row
            if d.startswith(f"{model}_")
        }
        weights, stats = self._stacked(model, names, self.weights), self._stacked(model, names, self.stats)
        stack, moved = jax.lax.scan(step, stack, (target, row, weights, stats))
        for i, edge_name in enumerate(names):
            for layer, arrays in moved.items():
                if (own := _renamed(layer, model, edge_name)) in self.stats:
                    self.moved[own] = jax.tree.map(lambda a, i=i: a[i], arrays)
        return [Value(stack[first + k]) for k in range(len(edges))]

    def _stacked(self, model, edges, tree):
        """The model edge's entries, those of all edges stacked in front; what an edge lacks is zero and never read."""
        start = ".".join([*self._path, f"{model}_"])
        own = {name: entry for name, entry in tree.items() if name.startswith(start)}
        none = jax.tree.map(jnp.zeros_like, own)
        each = [{name: tree.get(_renamed(name, model, e), none[name]) for name in own} for e in edges]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    @contextlib.contextmanager
    def _standing_in(self, row, weights, stats):
        """Other choices, weights and statistics for a while; what moves inside stays inside."""
        outside = self._row, self.weights, self.stats, self.moved
        self._row, self.weights, self.stats, self.moved = {**self._row, **row}, weights, stats, {}
        try:
            yield
        finally:
            self._row, self.weights, self.stats, self.moved = outside

    def concat(self, xs, *, keep=None, name="concat"):
        parts = [self.solid(x).array for x in xs]
        if keep is not None:
            parts = [jnp.where(k, p, 0) for p, k in zip(parts, keep, strict=True)]
        return Value(jnp.concatenate(parts, -1))

    def _add(self, op, inputs, shape, name, attributes):
        ins = [self.solid(x) for x in inputs]
        if op == "channel_shuffle" and ins[0].active is not None:
            raise BadInput(f"network: '{name}' cannot shuffle channels whose number is a decision")
        shapes = tuple(self.shape(x) for x in ins)
        path = ".".join([*self._path, name])
        layer = Layer(path, op, attributes, tuple(range(len(ins))), shapes, tuple(shape))
        own_weights, own_stats = self._arrays(layer)
        out, moved = run_layer(layer, own_weights, own_stats, [x.array for x in ins], self.train)
        if moved is not None:
            self.moved[path] = self._whole(layer, jax.lax.stop_gradient(moved))
        active = getattr(attributes["features"], "active", None) if "features" in attributes else ins[0].active
        if active is not None and op in ("conv", "linear", "batch_norm"):
            out = jnp.where(jnp.arange(out.shape[-1]) < active, out, 0)
        return Value(out, active)

    def _arrays(self, layer):
        """(weights, stats or None) of a layer."""
        return self.weights.get(layer.name, {}), self.stats.get(layer.name)

    def _whole(self, layer, moved):
        """What the statistics of a layer become."""
        return moved


def _at(stack, index):
    return Value(jax.lax.dynamic_index_in_dim(stack, index, keepdims=False))


def _renamed(name, edge, other):
    return name.replace(f"{edge}_", f"{other}_")


def _chosen(decision, index, option):
    return index == decision.options.index(option)


def _cut(layers, layer, name, array, collected):
    """The part of a supernet's array that a row's own layer has: active channels, and the kept parts of a concat."""
    if name != "kernel":
        return array[: layer.output_shape[-1]]
    array = array[..., : layer.output_shape[-1]]
    if layer.attributes.get("groups", 1) > 1:
        return array
    source = layer.inputs[0]
    while layers[source].op in PASSING:
        source = layers[source].inputs[0]
    attributes = layers[source].attributes
    if layers[source].op == "concat" and not all(attributes["kept"]):
        ends = np.cumsum(attributes["widths"])
        parts = zip(ends - attributes["widths"], ends, attributes["kept"], strict=True)
        rows = np.concatenate([np.arange(a, b) for a, b, kept in parts if kept])
        return array[..., rows, :]
    return array[..., : layer.input_shapes[0][-1], :]
